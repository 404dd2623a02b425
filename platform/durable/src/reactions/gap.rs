//! What holds a lane back that is not an event: versions that nobody can deliver, and a source that went back. Both are rows of the `retry` table, at the
//! version after the lane, so that they hold back the subject as an event there would.

use banyan_core::Fault;
use sea_orm::{FromQueryResult, Value};
use serde_json::json;
use uuid::Uuid;

use super::{
    lane::Lane,
    retry::{RetryState, TOPIC},
};
use crate::{Tx, query, time};

/// The kind of a row for versions that the producer no longer keeps. The queue may still bring them; after `alert_after` it is a dead letter.
pub(crate) const MISSING: &str = "missing";
/// The kind of a row for a source that gave out versions again which this module has handled: a dead letter at once.
pub(crate) const WENT_BACK: &str = "went_back";

const WHAT_TO_DO: &str = "If the source can be brought back to what it was, do that and retry; else settle by hand what the lost events did here, and discard.";

/// Where, and why.
#[derive(Clone, Debug)]
pub(crate) struct Gap {
    pub source: String,
    pub subject: String,
    /// The version after the lane.
    pub version: i64,
    pub why: Why,
}

#[derive(Clone, Debug)]
pub(crate) enum Why {
    /// The versions from the gap's own up to this one are kept nowhere.
    Missing { until: i64 },
    /// The last event that was handled, and what the source has instead.
    WentBack { handled: Lane, found: Lane },
}

#[derive(FromQueryResult)]
struct Before {
    kind: String,
    state: RetryState,
    attempts: i64,
    created_at: i64,
}

impl Gap {
    pub fn missing(source: &str, subject: &str, from: i64, until: i64) -> Self {
        Gap {
            source: source.to_owned(),
            subject: subject.to_owned(),
            version: from,
            why: Why::Missing { until },
        }
    }

    /// `found`: the version of the source that contradicts `handled`, and its event; or the last version there is, if that is lower: 0 if it has none.
    pub fn went_back(source: &str, subject: &str, handled: Lane, found: Lane) -> Self {
        Gap {
            source: source.to_owned(),
            subject: subject.to_owned(),
            version: handled.version + 1,
            why: Why::WentBack { handled, found },
        }
    }

    fn kind(&self) -> &'static str {
        match self.why {
            Why::Missing { .. } => MISSING,
            Why::WentBack { .. } => WENT_BACK,
        }
    }

    /// Of missing versions the last one. Of a source that went back the version after which its events are certainly new.
    fn until(&self) -> i64 {
        match &self.why {
            Why::Missing { until } => *until,
            Why::WentBack { handled, found } => found.version.min(handled.version - 1),
        }
    }

    fn sentence(&self) -> String {
        match &self.why {
            Why::Missing { until } => format!(
                "The versions {} to {until} were not delivered, and the producer no longer keeps them.",
                self.version
            ),
            Why::WentBack { handled, found } if found.version == 0 => format!(
                "Version {} was event {} here; the source has no version of this subject any more: it lost what it had committed. {WHAT_TO_DO}",
                handled.version,
                text(handled.event_id)
            ),
            Why::WentBack { handled, found } => format!(
                "Version {} was event {} here; the source now ends with or continues from version {}, event {}: it lost what it had committed. {WHAT_TO_DO}",
                handled.version,
                text(handled.event_id),
                found.version,
                text(found.event_id)
            ),
        }
    }

    /// What an operator sees in place of an event.
    fn body(&self) -> String {
        match &self.why {
            Why::Missing { until } => json!({ "missing_from": self.version, "missing_until": until }),
            Why::WentBack { handled, found } => json!({
                "handled_version": handled.version, "handled_event": handled.event_id,
                "found_version": found.version, "found_event": found.event_id,
                "continues_after": self.until(),
            }),
        }
        .to_string()
    }

    /// Stores the gap, if the lane is still before it, and counts the attempt to fill it.
    pub async fn keep(&self, tx: &Tx) -> Result<(), Fault> {
        if super::reached(tx, &self.source, &self.subject).await?.version + 1 != self.version {
            return Ok(());
        }
        let sql =
            "select kind, state, attempts, created_at from retry where source = $1 and subject = $2 and version = $3";
        let key = [
            self.source.as_str().into(),
            self.subject.as_str().into(),
            self.version.into(),
        ];
        let before: Option<Before> = query::one(tx.conn(), sql, key).await?;
        let before = before.filter(|row| row.state != RetryState::Discarded);
        let same_kind = before.as_ref().is_some_and(|row| row.kind == self.kind());
        let is_event = before.as_ref().is_some_and(|row| !is_gap(&row.kind));
        // An event that is here need not be delivered. And what an operator has been told is not told again.
        if (is_event && self.kind() == MISSING)
            || (same_kind && before.as_ref().is_some_and(|row| row.state == RetryState::Dead))
        {
            return Ok(());
        }
        let before = before.filter(|_| same_kind);
        let now = tx.clock().now();
        let (attempts, created_at) = before.map_or((0, now.as_ms()), |row| (row.attempts, row.created_at));
        let patience = i64::try_from(tx.settings().limits.alert_after.as_millis()).unwrap_or(i64::MAX);
        let dead = matches!(self.why, Why::WentBack { .. }) || now.as_ms().saturating_sub(created_at) >= patience;
        self.tell(tx, dead, attempts == 0);
        let values: [Value; 11] = [
            tx.ids().new_id().into(),
            self.source.as_str().into(),
            self.subject.as_str().into(),
            self.version.into(),
            self.kind().into(),
            self.body().into(),
            if dead { RetryState::Dead } else { RetryState::Waiting }.into(),
            (attempts + 1).into(),
            time::ms_of(tx.settings().retry_delay(attempts)).into(),
            created_at.into(),
            self.sentence().into(),
        ];
        // What is there is an event of the history that the source lost, or an earlier gap.
        let sql = format!(
            "insert into retry (id, source, subject, version, kind, body, state, attempts, failures, next_attempt_at, created_at, last_error, until_version)
             values ($1, $2, $3, $4, $5, $6, $7, $8, 0, {} + $9, $10, $11, $12)
             on conflict (source, subject, version) do update set kind = excluded.kind, body = excluded.body, state = excluded.state,
                 attempts = excluded.attempts, failures = 0, next_attempt_at = excluded.next_attempt_at, created_at = excluded.created_at,
                 last_error = excluded.last_error, until_version = excluded.until_version",
            time::now(tx.backend())
        );
        tx.execute(&sql, values.into_iter().chain([self.until().into()]))
            .await?;
        tx.wake(TOPIC);
        Ok(())
    }

    fn tell(&self, tx: &Tx, dead: bool, first: bool) {
        let (module, source, subject, why) = (tx.module(), &self.source, &self.subject, self.sentence());
        if dead {
            tracing::error!(module, source, subject, %why, "the subject is held back until an operator replays or discards the dead letter");
            metrics::counter!("banyan_dead_letters_total", "module" => module.to_owned()).increment(1);
        } else if first {
            tracing::warn!(module, source, subject, %why, "waiting for the queue to bring them");
        }
    }
}

/// Whether a row of this kind is no event.
pub(crate) fn is_gap(kind: &str) -> bool {
    kind == MISSING || kind == WENT_BACK
}

fn text(id: Option<Uuid>) -> String {
    id.map_or_else(|| "unknown".to_owned(), |id| id.to_string())
}

/// An operator discards a gap: the lane goes on after it. Returns the version it is at then.
pub(crate) async fn pass(tx: &Tx, source: &str, subject: &str, kind: &str, until: i64) -> Result<(), Fault> {
    let lane = super::reached(tx, source, subject).await?;
    super::advance(tx, source, subject, lane.version, super::skipped_to(until)).await?;
    if kind == WENT_BACK {
        // The events after it are new. They were taken for duplicates, so they are fetched: a gap that the producer can fill.
        // Of a subject that the source did not know none is known to exist, but it may have begun since.
        let known = if until == 0 { 0 } else { lane.version };
        let events_after = Gap::missing(source, subject, until + 1, known);
        events_after.keep(tx).await?;
    }
    Ok(())
}
