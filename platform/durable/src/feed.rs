//! The event feed: it returns events to subscribers that missed them. The broker transports events; the outbox keeps them.

use async_trait::async_trait;
use banyan_core::{Call, Fault};
use banyan_event_feed_contract::{
    ConfirmHandled, Confirmed, EventFeed, Events, ListEvents, ListSubjects, Subject, Subjects,
};
use sea_orm::{FromQueryResult, Value};
use uuid::Uuid;

use crate::{Db, query, subscribers};

/// The maximum number of items in a page.
pub(crate) const PAGE: u32 = 1_000;

/// The subjects that changed after a place in the order of changes. It reads as many rows as it returns, by the index on the change.
const CHANGED_SUBJECTS: &str = "select subject, last_version, changed_at,
         case when last_event_version = last_version then last_event_id end as last_event_id from subject
     where (changed_at, subject) > ($1, $2) order by changed_at, subject limit $3";

/// As subscribers of earlier versions ask: by name. Each page reads all subjects that changed.
const CHANGED_BY_NAME: &str = "with changed as materialized (select * from subject where changed_at >= $1)
     select subject, last_version, changed_at,
         case when last_event_version = last_version then last_event_id end as last_event_id from changed where subject > $2 order by subject limit $3";

#[derive(FromQueryResult)]
struct ChangedSubject {
    subject: String,
    last_version: i64,
    changed_at: i64,
    last_event_id: Option<Uuid>,
}

/// What the outbox keeps of a subject.
#[derive(FromQueryResult)]
struct Extent {
    last_version: i64,
    first_kept: Option<i64>,
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

    async fn named(&self, subjects: Vec<String>) -> Result<Subjects, Fault> {
        if subjects.len() > PAGE as usize {
            return Err(Fault::malformed(
                "invalid_parameter",
                "At most 1000 subjects can be named.",
            ));
        }
        let sql = format!(
            "select subject, last_version, changed_at,
                 case when last_event_version = last_version then last_event_id end as last_event_id from subject where subject in ({})",
            query::placeholders(1, subjects.len())
        );
        let rows: Vec<ChangedSubject> = query::all(self.db.read(), &sql, subjects.into_iter().map(Value::from)).await?;
        Ok(Subjects {
            items: rows.into_iter().map(Subject::from).collect(),
            now_ms: 0,
            named: true,
        })
    }
}

impl From<ChangedSubject> for Subject {
    fn from(row: ChangedSubject) -> Self {
        Subject {
            subject: row.subject,
            last_version: row.last_version,
            changed_ms: row.changed_at,
            last_event_id: row.last_event_id.map(|id| id.to_string()).unwrap_or_default(),
        }
    }
}

#[async_trait]
impl EventFeed for Feed {
    async fn list_subjects(&self, _: &Call, request: ListSubjects) -> Result<Subjects, Fault> {
        self.check(&request.module)?;
        if !request.subjects.is_empty() {
            return self.named(request.subjects).await;
        }
        let (sql, now_ms) = if request.by_change {
            // Read before the page: what is committed after it belongs to a later one.
            (
                CHANGED_SUBJECTS,
                subscribers::now_ms(self.db.read(), self.db.clock().now().as_ms()).await?,
            )
        } else {
            (CHANGED_BY_NAME, 0)
        };
        let after = [
            request.since_ms.into(),
            request.after_subject.into(),
            limit(request.limit),
        ];
        let rows: Vec<ChangedSubject> = query::all(self.db.read(), sql, after).await?;
        let mut items: Vec<Subject> = rows.into_iter().map(Subject::from).collect();
        if !request.by_change {
            items.iter_mut().for_each(|item| item.changed_ms = 0);
        }
        Ok(Subjects {
            items,
            now_ms,
            named: false,
        })
    }

    async fn list_events(&self, _: &Call, request: ListEvents) -> Result<Events, Fault> {
        self.check(&request.module)?;
        // The oldest version is read first. If the outbox is pruned in between, the subscriber sees a gap in the events and calls again; the other way
        // round it would take events that it did not get for deleted.
        let sql = "select last_version, (select min(version) from outbox where outbox.subject = subject.subject) as first_kept
             from subject where subject = $1";
        let extent: Option<Extent> = query::one(self.db.read(), sql, [request.subject.as_str().into()]).await?;
        let before_subscription = subscribers::began_later(&self.db, &request.subscriber, &request.subject).await?;
        let sql = "select body from outbox where subject = $1 and version >= $2 order by version limit $3";
        let from = [
            request.subject.into(),
            request.from_version.into(),
            limit(request.limit),
        ];
        Ok(Events {
            items: query::scalars(self.db.read(), sql, from).await?,
            first_kept_version: extent.as_ref().and_then(|extent| extent.first_kept).unwrap_or(0),
            unknown: extent.is_none(),
            last_version: extent.map_or(0, |extent| extent.last_version),
            before_subscription,
        })
    }

    async fn confirm_handled(&self, _: &Call, request: ConfirmHandled) -> Result<Confirmed, Fault> {
        self.check(&request.module)?;
        subscribers::confirm(&self.db, request).await
    }
}

fn limit(requested: u32) -> Value {
    i64::from(if requested == 0 { PAGE } else { requested.min(PAGE) }).into()
}

#[cfg(test)]
mod tests {
    use sea_orm::{ConnectionTrait, Database, DbBackend, Statement};

    use super::{CHANGED_BY_NAME, CHANGED_SUBJECTS};
    use crate::plan::steps;

    /// A page costs what it returns, wherever it is: no step may read the subjects before it, or sort those after it.
    #[tokio::test]
    async fn a_page_of_changes_is_read_from_its_place_in_the_index_on_the_change() {
        let steps = steps(CHANGED_SUBJECTS, [1_i64.into(), "book/1".into(), 10_i64.into()]).await;
        assert_eq!(
            steps,
            ["SEARCH subject USING INDEX subject_changed ((changed_at,subject)>(?,?))"]
        );
    }

    #[tokio::test]
    async fn on_postgresql_a_page_of_changes_is_read_from_its_place_too() {
        let home = banyan_durable_testing::PostgresHome::new().await;
        let connection = Database::connect(home.url()).await.unwrap();
        for tables in crate::migrate::MACHINERY {
            connection.execute_unprepared(tables.up).await.unwrap();
        }
        let very_many = "insert into subject (subject, last_version, changed_at) select 'order/' || n, 1, n from generate_series(1, 50000) n;
             analyze subject";
        connection.execute_unprepared(very_many).await.unwrap();
        let middle = CHANGED_SUBJECTS
            .replace("$1", "25000")
            .replace("$2", "'order/25000'")
            .replace("$3", "1000");
        let explain = Statement::from_string(
            DbBackend::Postgres,
            format!("explain (analyze, costs off, timing off) {middle}"),
        );
        let rows = connection.query_all_raw(explain).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.try_get("", "QUERY PLAN").unwrap()).collect();
        assert!(
            plan[1].contains("Index Scan using subject_changed") && plan[1].contains("rows=1000 "),
            "{plan:#?}"
        );
        assert!(plan.iter().all(|step| !step.contains("Removed by")), "{plan:#?}");
        connection.close().await.unwrap();
        home.remove().await;
    }

    #[tokio::test]
    async fn earlier_subscribers_are_served_without_reading_the_subjects_that_did_not_change() {
        let steps = steps(CHANGED_BY_NAME, [1_i64.into(), "book/1".into(), 10_i64.into()]).await;
        assert!(
            steps
                .iter()
                .any(|step| step.contains("SEARCH subject USING INDEX subject_changed (changed_at>?)")),
            "{steps:#?}"
        );
        assert!(steps.iter().all(|step| !step.starts_with("SCAN subject")), "{steps:#?}");
    }
}
