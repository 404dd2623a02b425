//! The one transaction of a step: what was learned, what was decided, and the next command's bytes.

use std::time::Duration;

use shared_kernel::{Fault, Timestamp};
use uuid::Uuid;

use super::{
    Decision, Input, TOPIC, command_id,
    definition::{Answer, Decided, Definition},
    store::{self, Row, SagaState},
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
        Claim { id: row.id, token: row.lease_token, command_id: row.command_id }
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

/// What a saga must be told before its command is sent (again).
pub(super) fn waiting_input(row: &Row, now: Timestamp) -> Option<Input<Answer>> {
    if row.compensate_asked {
        return Some(Input::Compensate);
    }
    if row.command.is_none() {
        return Some(Input::Started);
    }
    if row.attempts == 0 {
        return None;
    }
    if let Some(signal) = &row.signal {
        return Some(Input::Signal(signal.clone()));
    }
    (row.deadline_passed(now) && !row.deadline_told).then_some(Input::DeadlinePassed)
}

/// Tells the definition what was brought and stores what it decides. `None`: the claim is void, and nothing was written.
///
/// # Errors
/// The definition's fault, or the database's; nothing is stored then.
pub(super) async fn advance(tx: &Tx, claim: Claim, definition: &dyn Definition, brought: Brought) -> Result<Option<Row>, Fault> {
    let Some(mut row) = load_claimed(tx, claim).await? else { return Ok(None) };
    let now = tx.database_now().await?;
    let input = match brought {
        Brought::Answer(answer) => Input::News(answer),
        Brought::Refusal(fault) => Input::Refused(fault),
        Brought::Nothing => match waiting_input(&row, now) {
            Some(input) => input,
            None => return Ok(Some(row)),
        },
    };
    let heard = Heard::of(&input);
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
    let Some(mut row) = load_claimed(tx, claim).await? else { return Ok(None) };
    let now = tx.database_now().await?;
    let wait = backoff(tx.settings(), row.attempts, fault.retry_after);
    row.attempts += 1;
    row.last_error = Some(fault.to_string());
    row.next_run_at = before_deadline(&row, now, now.plus(wait));
    if origin == Origin::Send && row.signal.is_some() {
        // What waits to be heard need not wait for the command's next turn.
        row.next_run_at = now;
    }
    if !fault.is_transient() {
        row.failures += 1;
    }
    let entry = if fault.is_transient() { "unknown" } else { "failed" };
    // Retries have no limit, the log has: an entry for each doubling tells as much.
    if !fault.is_transient() || (row.attempts as u64).is_power_of_two() {
        store::log(tx, row.id, entry, &row.step, &format!("attempt {}: {fault}", row.attempts)).await?;
    }
    if row.failures >= tx.settings().max_failures {
        let reason = format!("failed {} times; {fault}", row.failures);
        park(&mut row, reason);
        store::log(tx, row.id, "parked", &row.step, row.parked_reason.as_deref().unwrap_or_default()).await?;
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

/// An input, as far as storing goes.
struct Heard {
    entry: &'static str,
    detail: String,
}

impl Heard {
    fn of(input: &Input<Answer>) -> Heard {
        let (entry, detail) = match input {
            Input::Started => ("begun", String::new()),
            Input::News(answer) => ("news", answer.text.clone()),
            Input::Refused(fault) => ("refused", fault.to_string()),
            Input::Signal(signal) => ("signal", signal.clone()),
            Input::DeadlinePassed => ("deadline_passed", String::new()),
            Input::Compensate => ("compensate", String::new()),
        };
        Heard { entry, detail }
    }

    /// Whether the command under way was answered.
    fn is_answer(&self) -> bool {
        matches!(self.entry, "news" | "refused")
    }
}

/// Entry, step and detail of a line in the log.
type Entry = (&'static str, String, String);

/// Makes a decision part of the row. Every decision has seen the signal.
fn apply(row: &mut Row, heard: &Heard, decided: Decided, now: Timestamp, settings: &Settings) -> Result<Vec<Entry>, Fault> {
    let (answered_step, attempts_before) = (row.step.clone(), row.attempts);
    row.payload = decided.payload;
    row.signal = None;
    row.compensate_asked &= heard.entry != "compensate";
    row.deadline_told |= heard.entry == "deadline_passed";
    row.failures = 0;
    row.last_error = None;
    row.next_run_at = now;
    let decision = match decided.decision {
        Decision::Do { step, command } => {
            if row.state == SagaState::Compensating {
                return Err(wrong("forward_while_compensating", row, "it must not go forward once it compensates"));
            }
            set_command(row, step, command, false)?;
            "do"
        }
        Decision::Undo { step, command } => {
            row.state = SagaState::Compensating;
            set_command(row, step, command, true)?;
            "undo"
        }
        Decision::Repeat { after } => {
            row.attempts = row.attempts.max(i64::from(row.command.is_some()));
            row.next_run_at = before_deadline(row, now, now.plus(after));
            "repeat"
        }
        Decision::Continue if row.command.is_none() => {
            return Err(wrong("nothing_to_continue", row, "no command is under way"));
        }
        Decision::Continue => {
            if heard.is_answer() {
                row.next_run_at = now.plus(backoff(settings, row.attempts, None));
                row.attempts += 1;
            }
            "continue"
        }
        Decision::Complete => {
            if row.state == SagaState::Compensating {
                return Err(wrong("completed_while_compensating", row, "what compensates ends compensated"));
            }
            finish(row, SagaState::Completed);
            "completed"
        }
        Decision::Compensated => {
            finish(row, SagaState::Compensated);
            "compensated"
        }
        Decision::Park { reason } => {
            park(row, reason);
            "parked"
        }
    };
    if decision == "repeat" && attempts_before > 0 {
        // Waiting for another module may take long; its log need not.
        return Ok(Vec::new());
    }
    let detail = match decision {
        "do" | "undo" => row.command.clone().unwrap_or_default(),
        "parked" => row.parked_reason.clone().unwrap_or_default(),
        _ => String::new(),
    };
    Ok(vec![(heard.entry, answered_step, heard.detail.clone()), (decision, row.step.clone(), detail)])
}

fn set_command(row: &mut Row, step: &'static str, command: String, undo: bool) -> Result<(), Fault> {
    let id = command_id(row.id, step, undo);
    if row.command_id == Some(id) {
        return Err(wrong("step_decided_twice", row, "a command under way is repeated or continued, not decided again"));
    }
    step.clone_into(&mut row.step);
    row.command = Some(command);
    row.command_id = Some(id);
    row.attempts = 0;
    Ok(())
}

fn finish(row: &mut Row, state: SagaState) {
    row.state = state;
    row.command = None;
    row.command_id = None;
    row.attempts = 0;
}

/// Stops the saga until an operator acts. Its command stays, so that it can be asked again.
fn park(row: &mut Row, reason: String) {
    row.parked_state = Some(row.state);
    row.parked_reason = Some(reason);
    row.state = SagaState::Parked;
    row.attempts = row.attempts.max(i64::from(row.command.is_some()));
}

/// What goes on at once stays with its runner; what waits or has ended is nobody's.
fn hold_or_release(row: &mut Row, now: Timestamp, settings: &Settings) {
    if row.state.is_active() && row.next_run_at <= now {
        row.lease_until = now.plus(Duration::from_millis(settings.lease_ms));
    } else {
        row.release();
    }
}

/// A deadline not told yet is told when it passes, not when the next turn happens to come.
fn before_deadline(row: &Row, now: Timestamp, next: Timestamp) -> Timestamp {
    match row.deadline_at {
        Some(deadline) if !row.deadline_told && deadline > now => next.min(deadline),
        _ => next,
    }
}

fn wrong(code: &str, row: &Row, what: &str) -> Fault {
    Fault::internal(code, format!("saga {} at step {:?}: {what}", row.kind, row.step))
}

/// The wait after `attempts` earlier ones: doubling, with full jitter so that many waiting for one do not come back together, and not before the
/// one who answered said.
fn backoff(settings: &Settings, attempts: i64, retry_after: Option<Duration>) -> Duration {
    let doublings = u32::try_from(attempts).unwrap_or(u32::MAX).min(32);
    let ceiling_ms = settings.saga_retry_ms.saturating_mul(1_u64 << doublings).min(settings.saga_retry_cap_ms);
    let jittered = Duration::from_millis(rand::random_range(0..=ceiling_ms));
    jittered.max(retry_after.unwrap_or_default())
}
