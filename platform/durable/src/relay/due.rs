//! Which events are to be published next, read without looking at more of the outbox than a page.

use banyan_core::Fault;
use sea_orm::{DbBackend, FromQueryResult};
use uuid::Uuid;

use crate::{
    Db, Settings,
    query::{self, StoredTime},
    time,
};

/// The number of subjects a page looks at for each event that fits into the window: more than one, because some wait for a retry.
const LOOKED_AT: usize = 4;

/// An event in the outbox that is not confirmed yet: the oldest such event of its subject.
#[derive(FromQueryResult)]
pub(super) struct Pending {
    pub id: Uuid,
    pub subject: String,
    pub body: String,
    pub attempts: i64,
    pub created_at: StoredTime,
    /// 1 if other events of its subject follow it.
    pub has_next: i64,
}

/// A part of the walk over the subjects.
pub(super) struct Page {
    /// In the order of their subjects.
    pub events: Vec<Pending>,
    /// The subject after which the next page starts; `None` at the end of the walk.
    pub end: Option<String>,
}

#[derive(FromQueryResult)]
struct Head {
    #[sea_orm(nested)]
    event: Pending,
    number: i64,
    is_due: i64,
}

/// An event is due at once for the first time, and then after a delay by the database's clock: another instance may have failed to publish it. A wait that
/// is longer than any delay is the work of a clock that stepped back, and is over.
fn is_due(backend: DbBackend, settings: &Settings) -> String {
    let longest = settings.limits.retry_delays.iter().max().copied().unwrap_or_default();
    format!(
        "(attempts = 0 or {})",
        time::passed(backend, "next_attempt_at", longest)
    )
}

/// The subjects after `$2` are visited one by one, from each to the next greater one by index: a subject with very many events costs no more than one
/// with a single event. The last subject is returned in any case, because the next page starts after it.
fn page_sql(is_due: &str) -> String {
    format!(
        "with recursive head (number, subject) as (
             select cast(1 as bigint), (select min(subject) from outbox where state = 'pending' and subject > $2)
             union all
             select number + 1, (select min(outbox.subject) from outbox where state = 'pending' and outbox.subject > head.subject)
             from head where head.subject is not null and number < $3)
         select id, subject, body, attempts, created_at, has_next, number, is_due from (
             select event.id, event.subject, event.body, event.attempts, event.created_at, head.number,
                 cast(case when exists (select 1 from outbox later where later.state = 'pending' and later.subject = event.subject
                     and later.version > event.version) then 1 else 0 end as bigint) as has_next,
                 cast(case when {is_due} then 1 else 0 end as bigint) as is_due
             from head join outbox event on event.state = 'pending' and event.subject = head.subject and event.version =
                 (select min(first.version) from outbox first where first.state = 'pending' and first.subject = head.subject)) as heads
         where is_due = 1 or number = $3
         order by number limit $1"
    )
}

/// The newest pending events, without those that another event of their subject precedes.
fn newest_sql(is_due: &str) -> String {
    format!(
        "select id, subject, body, attempts, created_at, cast(1 as bigint) as has_next from (
             select id, subject, version, body, attempts, next_attempt_at, created_at from outbox
             where state = 'pending' order by id desc limit $1) as newest
         where {is_due}
         and not exists (select 1 from outbox earlier where earlier.state = 'pending' and earlier.subject = newest.subject
                         and earlier.version < newest.version)
         order by id desc"
    )
}

/// At most `limit` events that are due, each the oldest of its subject, from the subject after `after` on.
pub(super) async fn page(db: &Db, after: &str, limit: usize) -> Result<Page, Fault> {
    let looked_at = limit.saturating_mul(LOOKED_AT);
    let values = [query::limit(limit), after.into(), query::limit(looked_at)];
    let sql = page_sql(&is_due(db.backend(), db.settings()));
    let heads: Vec<Head> = query::all(db.read(), &sql, values).await?;
    let is_cut = |last: &&Head| heads.len() == limit || usize::try_from(last.number) == Ok(looked_at);
    let end = heads.last().filter(is_cut).map(|last| last.event.subject.clone());
    let events = heads
        .into_iter()
        .filter(|head| head.is_due == 1)
        .map(|head| head.event)
        .collect();
    Ok(Page { events, end })
}

/// Those of the newest `2 * window` events that are due and the oldest of their subjects, the newest first.
pub(super) async fn newest(db: &Db, window: usize) -> Result<Vec<Pending>, Fault> {
    let sql = newest_sql(&is_due(db.backend(), db.settings()));
    query::all(db.read(), &sql, [query::limit(window.saturating_mul(2))]).await
}

#[cfg(test)]
mod tests {
    use sea_orm::Value;

    use super::*;
    use crate::plan::steps;

    /// The outbox is largest when events pile up, and then the relay must be at its fastest.
    #[tokio::test]
    async fn pending_events_are_found_by_index_whatever_piled_up() {
        let is_due = is_due(DbBackend::Sqlite, &Settings::defaults());
        let number = Value::from(1_i64);
        for (sql, values) in [
            (
                page_sql(&is_due),
                vec![number.clone(), "order/1".into(), number.clone()],
            ),
            (newest_sql(&is_due), vec![number]),
        ] {
            let steps = steps(&sql, values).await;
            let read: Vec<&String> = steps
                .iter()
                .filter(|step| {
                    ["outbox", "event", "first", "earlier", "later"]
                        .iter()
                        .any(|table| step.contains(table))
                })
                .collect();
            assert!(!read.is_empty(), "{steps:#?}");
            for step in read {
                // The newest ones are the end of an index, read as far as the limit.
                let by_index = step.starts_with("SEARCH") || *step == "SCAN outbox USING INDEX outbox_pending_by_id";
                assert!(by_index && step.contains("INDEX"), "{steps:#?}");
            }
        }
    }
}
