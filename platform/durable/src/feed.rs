//! The event feed: it returns events to subscribers that missed them. The broker transports events; the outbox keeps them.

use async_trait::async_trait;
use banyan_core::{Call, Fault};
use banyan_event_feed_contract::{EventFeed, Events, ListEvents, ListSubjects, Subject, Subjects};
use sea_orm::{FromQueryResult, Value};

use crate::{Db, query};

/// The maximum number of items in a page.
pub(crate) const PAGE: u32 = 1_000;

/// The subjects that changed, found by the time of their change and only then sorted: there are very many subjects, and few change in a day. Left to
/// itself, SQLite would read all of them for the sake of the order.
const CHANGED_SUBJECTS: &str =
    "with changed as materialized (select subject, last_version from subject where changed_at >= $1)
     select subject, last_version from changed where subject > $2 order by subject limit $3";

#[derive(FromQueryResult)]
struct ChangedSubject {
    subject: String,
    last_version: i64,
}

/// A module's own events, read from its tables.
pub(crate) struct Feed {
    db: Db,
}

impl Feed {
    pub fn new(db: Db) -> Self {
        Feed { db }
    }

    /// A process may serve several modules. A request for another module is a mistake in the configuration; an empty response to it would mean that no
    /// event was missed.
    fn check(&self, module: &str) -> Result<(), Fault> {
        if module == self.db.module() {
            Ok(())
        } else {
            Err(Fault::not_found("module"))
        }
    }
}

#[async_trait]
impl EventFeed for Feed {
    async fn list_subjects(&self, _: &Call, request: ListSubjects) -> Result<Subjects, Fault> {
        self.check(&request.module)?;
        let changed = [
            request.since_ms.into(),
            request.after_subject.into(),
            limit(request.limit),
        ];
        let rows: Vec<ChangedSubject> = query::all(self.db.read(), CHANGED_SUBJECTS, changed).await?;
        let items = rows
            .into_iter()
            .map(|ChangedSubject { subject, last_version }| Subject { subject, last_version });
        Ok(Subjects { items: items.collect() })
    }

    async fn list_events(&self, _: &Call, request: ListEvents) -> Result<Events, Fault> {
        self.check(&request.module)?;
        // The oldest version is read first. If the outbox is pruned in between, the subscriber sees a gap in the events and calls again; the other way
        // round it would take events that it did not get for deleted.
        let sql = "select min(version) from outbox where subject = $1";
        let first_kept: Option<Option<i64>> =
            query::scalar(self.db.read(), sql, [request.subject.as_str().into()]).await?;
        let sql = "select body from outbox where subject = $1 and version >= $2 order by version limit $3";
        let from = [
            request.subject.into(),
            request.from_version.into(),
            limit(request.limit),
        ];
        Ok(Events {
            items: query::scalars(self.db.read(), sql, from).await?,
            first_kept_version: first_kept.flatten().unwrap_or(0),
        })
    }
}

fn limit(requested: u32) -> Value {
    i64::from(if requested == 0 { PAGE } else { requested.min(PAGE) }).into()
}

#[cfg(test)]
mod tests {
    use super::CHANGED_SUBJECTS;
    use crate::plan::steps;

    #[tokio::test]
    async fn changed_subjects_are_found_by_the_index_on_their_change() {
        let steps = steps(CHANGED_SUBJECTS, [1_i64.into(), "order/1".into(), 10_i64.into()]).await;
        assert!(
            steps
                .iter()
                .any(|step| step.contains("SEARCH subject USING INDEX subject_changed (changed_at>?)")),
            "{steps:#?}"
        );
        assert!(steps.iter().all(|step| !step.starts_with("SCAN subject")), "{steps:#?}");
    }
}
