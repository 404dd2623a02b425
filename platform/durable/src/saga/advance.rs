//! The transaction of a step: it stores the news, the decision, and the next command's bytes.

use banyan_core::{Fault, Timestamp};
use uuid::Uuid;

use super::{
    Input,
    definition::{Definition, ErasedNews},
    log::Entries,
    rules::{InputRecord, apply, backoff, before_deadline, keep_deadline_near, park, waiting_input},
    store::{self, Row},
};
use crate::{Settings, Tx};

/// The lease and the command under which a runner writes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub id: Uuid,
    pub token: i64,
    pub command_id: Option<Uuid>,
}

impl From<&Row> for Claim {
    fn from(row: &Row) -> Self {
        Claim {
            id: row.id,
            token: row.lease_token,
            command_id: row.command_id,
        }
    }
}

/// What a runner has for the saga's definition.
#[derive(Clone)]
pub(super) enum Obtained {
    News(ErasedNews),
    Refusal(Fault),
    /// Nothing was sent: the definition gets the input that waits for it.
    Nothing,
}

/// The origin of a fault because of which a saga could not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The command's outcome is unknown.
    Send,
    /// The news, if there was any, could not be processed; the command is sent again to get it again.
    Decide,
}

/// Passes what was obtained to the definition and stores its decision. `None`: the claim is void, and nothing was written. The row is as this instance
/// wrote or claimed it, with the time of now; if somebody has changed it since, it is loaded.
///
/// # Errors
/// The definition's fault, or the database's; nothing is stored then.
pub(super) async fn advance(
    tx: &Tx,
    row: Row,
    definition: &dyn Definition,
    obtained: Obtained,
) -> Result<Option<Row>, Fault> {
    let mut row = match tx.is_repeated() {
        false => row,
        true => match load_claimed(tx, Claim::from(&row)).await? {
            Some(row) => row,
            None => return Ok(None),
        },
    };
    let (now, seen) = (row.seen_at.into(), row.seen());
    keep_deadline_near(&mut row, now);
    let input = match obtained {
        Obtained::News(news) => Input::News(news),
        Obtained::Refusal(fault) => Input::Refused(fault),
        Obtained::Nothing => match waiting_input(&row, now) {
            Some(input) => input,
            None => return Ok(Some(row)),
        },
    };
    let logged = InputRecord::of(&input);
    let decided = definition.decide(tx, &row, now, input).await?;
    let entries = apply(&mut row, &logged, decided, now, tx.settings())?;
    let mut log = Entries::default();
    for (entry, step, detail) in entries {
        log.add(tx.clock().now(), entry, &step, &detail)?;
    }
    hold_or_release(&mut row, now, tx.settings());
    store::save(tx, &mut row, &seen, &log).await?;
    if !row.state.is_active() {
        tx.wake(row.business_key.as_str());
    }
    Ok(Some(row))
}

/// Stores that a saga could not go on: it is retried later, or parked if a bug stopped it too often. Releases the lease.
pub(super) async fn postpone(tx: &Tx, claim: Claim, fault: &Fault, origin: Origin) -> Result<Option<Row>, Fault> {
    let Some(mut row) = load_claimed(tx, claim).await? else {
        return Ok(None);
    };
    let (now, seen) = (row.seen_at.into(), row.seen());
    keep_deadline_near(&mut row, now);
    let delay = backoff(tx.settings(), row.attempts, fault.retry_after);
    row.attempts += 1;
    row.last_error = Some(fault.to_string());
    row.next_run_at = match origin {
        // An input that is waiting need not wait for the command's next attempt.
        Origin::Send if waiting_input(&row, now).is_some() => now.into(),
        // The deadline was being processed, and that failed.
        Origin::Decide if row.deadline_passed(now) => now.plus(delay).into(),
        _ => before_deadline(&row, now, now.plus(delay)).into(),
    };
    if !fault.is_transient() {
        row.failures += 1;
    }
    let mut log = Entries::default();
    let entry = if fault.is_transient() { "unknown" } else { "failed" };
    // Retries have no limit, but the log has: an entry for each doubling is enough.
    if !fault.is_transient() || (row.attempts as u64).is_power_of_two() {
        let detail = format!("attempt {}: {fault}", row.attempts);
        log.add(tx.clock().now(), entry, &row.step, &detail)?;
    }
    if row.failures >= tx.settings().limits.max_failures {
        let reason = format!("failed {} times; {fault}", row.failures);
        park(&mut row, reason);
        let reason = row.parked_reason.as_deref().unwrap_or_default();
        log.add(tx.clock().now(), "parked", &row.step, reason)?;
        tx.wake(row.business_key.as_str());
    }
    row.release();
    store::save(tx, &mut row, &seen, &log).await?;
    Ok(Some(row))
}

/// The row, if the claim is still valid and the command is unchanged.
async fn load_claimed(tx: &Tx, claim: Claim) -> Result<Option<Row>, Fault> {
    let row = store::load(tx, claim.id).await?;
    Ok(row.filter(|row| row.lease_token == claim.token && row.command_id == claim.command_id && row.state.is_active()))
}

/// A saga that goes on at once stays with its runner; the lease of one that waits or has ended is released.
fn hold_or_release(row: &mut Row, now: Timestamp, settings: &Settings) {
    if row.state.is_active() && row.next_run_at <= now.into() {
        row.lease_until = now.plus(settings.lease()).into();
    } else {
        row.release();
    }
}
