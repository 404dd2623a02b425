//! The one transaction of a step: what was learned, what was decided, and the next command's bytes.

use banyan_core::{Fault, Timestamp};
use uuid::Uuid;

use super::{
    Input, TOPIC,
    definition::{Answer, Definition},
    rules::{Incoming, apply, backoff, before_deadline, park, waiting_input},
    store::{self, Row},
};
use crate::{Settings, Tx};

/// Under which claim, and for which command, somebody writes.
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

/// What a runner brings into the transaction.
#[derive(Clone)]
pub(super) enum Brought {
    Answer(Answer),
    Refusal(Fault),
    /// Nothing was sent: the saga is told what waits for it.
    Nothing,
}

/// Where a fault came from that stopped a saga for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The command's outcome is unknown.
    Send,
    /// The answer, if there was one, could not be taken; the command is sent again to get it again.
    Decide,
}

/// Tells the definition what was brought and stores what it decides. `None`: the claim is void, and nothing was written.
///
/// # Errors
/// The definition's fault, or the database's; nothing is stored then.
pub(super) async fn advance(
    tx: &Tx,
    claim: Claim,
    definition: &dyn Definition,
    brought: Brought,
) -> Result<Option<Row>, Fault> {
    let Some(mut row) = load_claimed(tx, claim).await? else {
        return Ok(None);
    };
    let now = tx.database_now().await?;
    let input = match brought {
        Brought::Answer(answer) => Input::News(answer),
        Brought::Refusal(fault) => Input::Refused(fault),
        Brought::Nothing => match waiting_input(&row, now) {
            Some(input) => input,
            None => return Ok(Some(row)),
        },
    };
    let heard = Incoming::of(&input);
    let decided = definition.decide(tx, &row, now, input).await?;
    let entries = apply(&mut row, &heard, decided, now, tx.settings())?;
    for (entry, step, detail) in entries {
        store::log(tx, row.id, entry, &step, &detail).await?;
    }
    hold_or_release(&mut row, now, tx.settings());
    row.seen_at = now;
    store::save(tx, &row, claim.token).await?;
    if !row.state.is_active() {
        tx.wake(TOPIC);
        tx.wake(row.business_key.as_str());
    }
    Ok(Some(row))
}

/// Stores that a saga could not go on: later again, or parked if it is a bug and was met too often. Gives the lease back.
pub(super) async fn put_off(tx: &Tx, claim: Claim, fault: &Fault, origin: Origin) -> Result<Option<Row>, Fault> {
    let Some(mut row) = load_claimed(tx, claim).await? else {
        return Ok(None);
    };
    let now = tx.database_now().await?;
    let wait = backoff(tx.settings(), row.attempts, fault.retry_after);
    row.attempts += 1;
    row.last_error = Some(fault.to_string());
    row.next_run_at = match origin {
        // What waits to be heard need not wait for the command's next turn.
        Origin::Send if waiting_input(&row, now).is_some() => now,
        // It was being heard, and that went wrong.
        Origin::Decide if row.deadline_passed(now) => now.plus(wait),
        _ => before_deadline(&row, now, now.plus(wait)),
    };
    if !fault.is_transient() {
        row.failures += 1;
    }
    let entry = if fault.is_transient() { "unknown" } else { "failed" };
    // Retries have no limit, the log has: an entry for each doubling tells as much.
    if !fault.is_transient() || (row.attempts as u64).is_power_of_two() {
        store::log(
            tx,
            row.id,
            entry,
            &row.step,
            &format!("attempt {}: {fault}", row.attempts),
        )
        .await?;
    }
    if row.failures >= tx.settings().limits.max_failures {
        let reason = format!("failed {} times; {fault}", row.failures);
        park(&mut row, reason);
        store::log(
            tx,
            row.id,
            "parked",
            &row.step,
            row.parked_reason.as_deref().unwrap_or_default(),
        )
        .await?;
        tx.wake(row.business_key.as_str());
    }
    row.release();
    store::save(tx, &row, claim.token).await?;
    Ok(Some(row))
}

/// The row, if the claim still holds and nothing has happened to the command since.
async fn load_claimed(tx: &Tx, claim: Claim) -> Result<Option<Row>, Fault> {
    let row = store::load_locked(tx, claim.id).await?;
    Ok(row.filter(|row| row.lease_token == claim.token && row.command_id == claim.command_id && row.state.is_active()))
}

/// What goes on at once stays with its runner; what waits or has ended is nobody's.
fn hold_or_release(row: &mut Row, now: Timestamp, settings: &Settings) {
    if row.state.is_active() && row.next_run_at <= now {
        row.lease_until = now.plus(settings.lease());
    } else {
        row.release();
    }
}
