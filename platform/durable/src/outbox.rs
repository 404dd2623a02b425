//! The outbox: an event is stored in the transaction that made it true.

use banyan_core::{Call, Envelope, Event, Fault};
use serde::Serialize;
use serde_json::value::to_raw_value;

use crate::{Tx, query};

/// Woken when there is an event for the relay.
pub(crate) const TOPIC: &str = "outbox";

/// Puts `event` into the outbox and returns its version: 1 for a subject's first event, then gapless.
///
/// # Errors
/// As any query; the caller's transaction then fails with it.
pub async fn append<E: Event + Serialize>(tx: &Tx, call: &Call, subject: &str, event: &E) -> Result<i64, Fault> {
    let now = tx.clock().now();
    // The row lock taken here orders the writers of a subject, so that versions are gapless in commit order.
    let version: Option<i64> = query::scalar(
            tx.conn(),
            "insert into subject (subject, last_version, changed_at) values ($1, 1, $2)
             on conflict (subject) do update set last_version = subject.last_version + 1, changed_at = excluded.changed_at
             returning last_version",
            [subject.into(), now.as_ms().into()],
        )
        .await?;
    let version = version.ok_or_else(|| Fault::internal("database_error", "no version was returned"))?;
    let data =
        to_raw_value(event).map_err(|error| Fault::internal("unwritable_event", format!("{}: {error}", E::TYPE)))?;
    let traceparent = call.trace.as_ref().map(ToString::to_string);
    let envelope = Envelope {
        specversion: "1.0".to_owned(),
        id: tx.ids().new_id(),
        source: tx.module().to_owned(),
        kind: E::TYPE.to_owned(),
        subject: subject.to_owned(),
        time: now,
        datacontenttype: "application/json".to_owned(),
        version,
        traceparent: traceparent.clone(),
        data,
    };
    let body =
        serde_json::to_string(&envelope).map_err(|error| Fault::internal("unwritable_event", error.to_string()))?;
    tx.execute(
        "insert into outbox (id, kind, subject, version, body, traceparent, state, attempts, next_attempt_at, created_at)
         values ($1, $2, $3, $4, $5, $6, 'pending', 0, $7, $7)",
        [envelope.id.into(), E::TYPE.into(), subject.into(), version.into(), body.into(), traceparent.into(), now.as_ms().into()],
    )
    .await?;
    tx.wake(TOPIC);
    tx.wake(subject);
    Ok(version)
}
