//! The outbox: an event is stored in the transaction that made it true.

use banyan_core::{Call, Envelope, Event, Fault};
use sea_orm::FromQueryResult;
use serde::Serialize;
use serde_json::value::to_raw_value;
use uuid::Uuid;

use crate::{Tx, query};

/// Woken when there is an event for the relay.
pub(crate) const TOPIC: &str = "outbox";

/// Counts the subject up. The row lock taken here orders the writers of a subject, so that versions are gapless in commit order.
///
/// The time of the change never goes back, whatever the clock does: it is after every change that was committed before. Subscribers read the changes in
/// this order, and one that was dated back would be left out.
const NEXT_PLACE: &str = "insert into subject (subject, last_version, changed_at, last_event_id)
     values ($1, 1, (select case when max(changed_at) >= $2 then max(changed_at) + 1 else $2 end from subject), $3)
     on conflict (subject) do update set last_version = subject.last_version + 1, previous_event_id = subject.last_event_id,
         last_event_id = excluded.last_event_id,
         changed_at = case when excluded.changed_at > subject.changed_at then excluded.changed_at else subject.changed_at + 1 end
     returning last_version, changed_at, previous_event_id";

/// The place of an event among those of its subject and of its module.
#[derive(FromQueryResult)]
struct Place {
    last_version: i64,
    changed_at: i64,
    previous_event_id: Option<Uuid>,
}

/// Puts `event` into the outbox and returns its version: 1 for a subject's first event, then gapless.
///
/// # Errors
/// As any query; the caller's transaction then fails with it.
pub async fn append<E: Event + Serialize>(tx: &Tx, call: &Call, subject: &str, event: &E) -> Result<i64, Fault> {
    let now = tx.clock().now();
    let id = tx.ids().new_id();
    let place: Option<Place> =
        query::one(tx.conn(), NEXT_PLACE, [subject.into(), now.as_ms().into(), id.into()]).await?;
    let Place {
        last_version: version,
        changed_at,
        previous_event_id,
    } = place.ok_or_else(|| Fault::internal("database_error", "no version was returned"))?;
    let data =
        to_raw_value(event).map_err(|error| Fault::internal("unwritable_event", format!("{}: {error}", E::TYPE)))?;
    let traceparent = call.trace.as_ref().map(ToString::to_string);
    let envelope = Envelope {
        specversion: "1.0".to_owned(),
        id,
        source: tx.module().to_owned(),
        kind: E::TYPE.to_owned(),
        subject: subject.to_owned(),
        time: now,
        datacontenttype: "application/json".to_owned(),
        version,
        previousid: previous_event_id,
        traceparent: traceparent.clone(),
        data,
    };
    let body =
        serde_json::to_string(&envelope).map_err(|error| Fault::internal("unwritable_event", error.to_string()))?;
    tx.execute(
        "insert into outbox (id, kind, subject, version, body, traceparent, state, attempts, next_attempt_at, created_at)
         values ($1, $2, $3, $4, $5, $6, 'pending', 0, $7, $8)",
        [
            envelope.id.into(), E::TYPE.into(), subject.into(), version.into(), body.into(), traceparent.into(), now.as_ms().into(),
            changed_at.into(),
        ],
    )
    .await?;
    tx.wake(TOPIC);
    tx.wake(subject);
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::NEXT_PLACE;
    use crate::plan::steps;

    /// It runs for every event, and a module has very many subjects.
    #[tokio::test]
    async fn the_time_of_the_last_change_is_found_by_its_index() {
        let steps = steps(NEXT_PLACE, ["order/1".into(), 1_i64.into(), uuid::Uuid::nil().into()]).await;
        assert!(
            steps
                .iter()
                .any(|step| step == "SEARCH subject USING COVERING INDEX subject_changed"),
            "{steps:#?}"
        );
    }
}
