//! The effect of a decision on a saga's row; no database, no clock.

use std::time::Duration;

use banyan_core::{Fault, Timestamp};
use uuid::Uuid;

use super::{
    Decision, Input, attempt_id, command_id,
    definition::{Decided, ErasedNews},
    store::{Row, SagaState},
};
use crate::Settings;

/// The input that a saga must get before its command is sent (again).
pub(super) fn waiting_input(row: &Row, now: Timestamp) -> Option<Input<ErasedNews>> {
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

/// An input as it is logged.
pub(super) struct InputRecord {
    entry: &'static str,
    detail: String,
}

impl InputRecord {
    pub fn of(input: &Input<ErasedNews>) -> InputRecord {
        let (entry, detail) = match input {
            Input::Started => ("begun", String::new()),
            Input::News(news) => ("news", news.text.clone()),
            Input::Refused(fault) => ("refused", fault.to_string()),
            Input::Signal(signal) => ("signal", signal.clone()),
            Input::DeadlinePassed => ("deadline_passed", String::new()),
            Input::Compensate => ("compensate", String::new()),
        };
        InputRecord { entry, detail }
    }

    /// Whether it is the response to the command under way.
    fn is_response(&self) -> bool {
        matches!(self.entry, "news" | "refused")
    }
}

/// Entry, step and detail of a line in the log.
type LogLine = (&'static str, String, String);

/// Applies a decision to the row. Every decision has got the signal.
pub(super) fn apply(
    row: &mut Row,
    input: &InputRecord,
    decided: Decided,
    now: Timestamp,
    settings: &Settings,
) -> Result<Vec<LogLine>, Fault> {
    let (step_before, attempts_before) = (row.step.clone(), row.attempts);
    row.payload = decided.payload;
    row.signal = None;
    row.compensate_asked &= input.entry != "compensate";
    row.deadline_told |= input.entry == "deadline_passed";
    row.failures = 0;
    row.last_error = None;
    row.next_run_at = now.into();
    let decision = match decided.decision {
        Decision::Do { step, command } => {
            if row.state == SagaState::Compensating {
                return Err(wrong(
                    "forward_while_compensating",
                    row,
                    "it must not go forward once it compensates",
                ));
            }
            set_command(row, step, command, command_id(row.id, step, false))?;
            "do"
        }
        Decision::Undo { step, command } => {
            row.state = SagaState::Compensating;
            set_command(row, step, command, command_id(row.id, step, true))?;
            "undo"
        }
        Decision::Repeat { after } => {
            row.attempts = row.attempts.max(i64::from(row.command.is_some()));
            row.next_run_at = before_deadline(row, now, now.plus(after.min(settings.max_wait()))).into();
            "repeat"
        }
        Decision::Continue if row.command.is_none() => {
            return Err(wrong("nothing_to_continue", row, "no command is under way"));
        }
        Decision::Continue => {
            if input.is_response() {
                row.next_run_at = now.plus(backoff(settings, row.attempts, None)).into();
                row.attempts += 1;
            }
            "continue"
        }
        Decision::Complete => {
            if row.state == SagaState::Compensating {
                return Err(wrong(
                    "completed_while_compensating",
                    row,
                    "what compensates ends compensated",
                ));
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
        Decision::ParkRefused {
            reason,
            attempt,
            command,
        } => {
            let (step, undo) = (row.step.clone(), row.state == SagaState::Compensating);
            park(row, reason);
            // Not sent yet, and so not in doubt.
            set_command(row, &step, command, attempt_id(row.id, &step, undo, attempt))?;
            "parked"
        }
    };
    if decision == "repeat" && attempts_before > 0 {
        // Waiting for another module may take long; the log need not show every repeat.
        return Ok(Vec::new());
    }
    let detail = match decision {
        // The log is shown to operators, who need not be allowed to see what is in the command.
        "do" | "undo" => row.command_id.map(|id| id.to_string()).unwrap_or_default(),
        "parked" => row.parked_reason.clone().unwrap_or_default(),
        _ => String::new(),
    };
    Ok(vec![
        (input.entry, step_before, input.detail.clone()),
        (decision, row.step.clone(), detail),
    ])
}

fn set_command(row: &mut Row, step: &str, command: String, id: Uuid) -> Result<(), Fault> {
    if row.command_id == Some(id) {
        return Err(wrong(
            "step_decided_twice",
            row,
            "a command under way is repeated or continued, not decided again",
        ));
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

/// Stops the saga until an operator acts. Its command stays, so that it can be sent again.
pub(super) fn park(row: &mut Row, reason: String) {
    row.parked_state = Some(row.state);
    row.parked_reason = Some(reason);
    row.state = SagaState::Parked;
    row.attempts = row.attempts.max(i64::from(row.command.is_some()));
}

/// A deadline farther away than the saga had at its start: the clock was set back. It gets its time anew, from now.
pub(super) fn keep_deadline_near(row: &mut Row, now: Timestamp) {
    if let (Some(deadline), Some(ms)) = (row.deadline_at, row.deadline_ms) {
        let latest = now.plus(Duration::from_millis(u64::try_from(ms).unwrap_or(0)));
        row.deadline_at = Some(deadline.min(latest.into()));
    }
}

/// A deadline that the saga has not got yet makes it due when the deadline passes, not only at the next attempt.
pub(super) fn before_deadline(row: &Row, now: Timestamp, next: Timestamp) -> Timestamp {
    match row.deadline_at {
        Some(deadline) if !row.deadline_told => next.min(Timestamp::from(deadline).max(now)),
        _ => next,
    }
}

fn wrong(code: &str, row: &Row, what: &str) -> Fault {
    Fault::internal(code, format!("saga {} at step {:?}: {what}", row.kind, row.step))
}

/// The delay before the next attempt after `attempts` earlier ones: it doubles, with full jitter, so that many sagas that wait for one module do not
/// call again together; and it is at least the `retry_after` of the response.
pub(super) fn backoff(settings: &Settings, attempts: i64, retry_after: Option<Duration>) -> Duration {
    let doublings = u32::try_from(attempts).unwrap_or(u32::MAX).min(32);
    let first_ms = u64::try_from(settings.limits.saga_first_retry.as_millis()).unwrap_or(u64::MAX);
    let ceiling_ms = first_ms
        .saturating_mul(1_u64 << doublings)
        .min(settings.saga_retry_cap_ms);
    let jittered = Duration::from_millis(rand::random_range(0..=ceiling_ms));
    jittered.max(retry_after.unwrap_or_default().min(settings.max_wait()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_ms(1_000_000);

    fn row(state: SagaState) -> Row {
        let id = Uuid::from_u128(1);
        Row {
            id,
            kind: "transfer".into(),
            version: 1,
            business_key: "transfer-1".into(),
            state,
            step: "reserve".into(),
            payload: "{}".into(),
            command: Some("old".into()),
            command_id: Some(command_id(id, "reserve", state == SagaState::Compensating)),
            lease_owner: Some("me".into()),
            lease_token: 3,
            lease_until: NOW.into(),
            next_run_at: NOW.into(),
            attempts: 4,
            failures: 2,
            deadline_at: None,
            deadline_ms: None,
            deadline_told: false,
            signal: Some("cancel".into()),
            compensate_asked: false,
            parked_reason: None,
            parked_state: None,
            last_error: Some("unavailable".into()),
            traceparent: None,
            created_at: NOW.into(),
            updated_at: NOW.into(),
            log_length: 0,
            seen_at: NOW.into(),
        }
    }

    fn decide(row: &mut Row, input: &Input<ErasedNews>, decision: Decision<String>) -> Result<Vec<LogLine>, Fault> {
        let decided = Decided {
            payload: "{\"new\":1}".into(),
            decision,
        };
        apply(row, &InputRecord::of(input), decided, NOW, &Settings::defaults())
    }

    fn go(step: &'static str) -> Decision<String> {
        Decision::Do {
            step,
            command: "new".into(),
        }
    }

    fn undo(step: &'static str) -> Decision<String> {
        Decision::Undo {
            step,
            command: "new".into(),
        }
    }

    fn refused() -> Input<ErasedNews> {
        Input::Refused(Fault::conflict("declined", "no"))
    }

    #[test]
    fn a_new_step_has_its_own_id_its_bytes_and_no_attempts() {
        let mut row = row(SagaState::Running);
        decide(&mut row, &refused(), go("authorise")).unwrap();
        assert_eq!((row.step.as_str(), row.command.as_deref()), ("authorise", Some("new")));
        assert_eq!(row.command_id, Some(command_id(row.id, "authorise", false)));
        assert_eq!(
            (row.attempts, row.failures, row.last_error, row.signal),
            (0, 0, None, None)
        );
        assert_eq!((row.payload.as_str(), row.next_run_at), ("{\"new\":1}", NOW.into()));
    }

    #[test]
    fn an_undo_compensates_and_its_id_is_not_that_of_its_do() {
        let mut row = row(SagaState::Running);
        decide(&mut row, &refused(), undo("reserve")).unwrap();
        assert_eq!(
            (row.state, row.command_id),
            (SagaState::Compensating, Some(command_id(row.id, "reserve", true)))
        );
        assert_ne!(row.command_id, Some(command_id(row.id, "reserve", false)));
    }

    #[test]
    fn a_compensating_saga_neither_goes_forward_nor_completes() {
        let forward = decide(&mut row(SagaState::Compensating), &refused(), go("authorise"));
        assert_eq!(forward.unwrap_err().code, "forward_while_compensating");
        let complete = decide(&mut row(SagaState::Compensating), &refused(), Decision::Complete);
        assert_eq!(complete.unwrap_err().code, "completed_while_compensating");
    }

    #[test]
    fn a_command_under_way_is_not_decided_again() {
        assert_eq!(
            decide(&mut row(SagaState::Running), &refused(), go("reserve"))
                .unwrap_err()
                .code,
            "step_decided_twice"
        );
        assert_eq!(
            decide(&mut row(SagaState::Compensating), &refused(), undo("reserve"))
                .unwrap_err()
                .code,
            "step_decided_twice"
        );
    }

    #[test]
    fn a_repeat_keeps_the_command_and_waits_but_not_past_a_pending_deadline() {
        for (deadline_in_ms, wait_ms) in [(None, 500), (Some(300), 300), (Some(-300), 0)] {
            let mut row = row(SagaState::Running);
            row.deadline_at = deadline_in_ms.map(|ms| Timestamp::from_ms(NOW.as_ms() + ms).into());
            row.attempts = 0;
            decide(
                &mut row,
                &refused(),
                Decision::Repeat {
                    after: Duration::from_millis(500),
                },
            )
            .unwrap();
            assert_eq!((row.command.as_deref(), row.attempts), (Some("old"), 1));
            assert_eq!(row.next_run_at, NOW.plus(Duration::from_millis(wait_ms)).into());
        }
    }

    #[test]
    fn a_saga_that_cannot_begin_yet_gets_its_first_input_again() {
        let mut row = row(SagaState::Running);
        (row.command, row.command_id, row.attempts, row.signal) = (None, None, 0, None);
        assert_eq!(
            decide(&mut row, &Input::Started, Decision::Continue).unwrap_err().code,
            "nothing_to_continue"
        );
        decide(
            &mut row,
            &Input::Started,
            Decision::Repeat {
                after: Duration::from_secs(1),
            },
        )
        .unwrap();
        assert!(matches!(waiting_input(&row, NOW), Some(Input::Started)));
    }

    #[test]
    fn an_operators_request_comes_first_then_a_signal_then_the_deadline_and_only_before_a_repeat() {
        let mut row = row(SagaState::Running);
        row.deadline_at = Some(NOW.into());
        row.compensate_asked = true;
        assert!(matches!(waiting_input(&row, NOW), Some(Input::Compensate)));
        row.compensate_asked = false;
        assert!(matches!(waiting_input(&row, NOW), Some(Input::Signal(_))));
        decide(&mut row, &Input::Signal("cancel".into()), Decision::Continue).unwrap();
        assert!(matches!(waiting_input(&row, NOW), Some(Input::DeadlinePassed)));
        assert!(
            waiting_input(&row, NOW.minus(Duration::from_millis(1))).is_none(),
            "not a millisecond before"
        );
        decide(&mut row, &Input::DeadlinePassed, Decision::Continue).unwrap();
        assert!(waiting_input(&row, NOW).is_none(), "it comes once");
        (row.attempts, row.signal, row.deadline_told) = (0, Some("cancel".into()), false);
        assert!(
            waiting_input(&row, NOW).is_none(),
            "the news of a first send will bring it"
        );
    }

    #[test]
    fn a_response_that_changes_nothing_does_not_cause_a_hot_loop() {
        let mut row = row(SagaState::Running);
        let mut later = false;
        for _ in 0..50 {
            decide(&mut row, &refused(), Decision::Continue).unwrap();
            later |= row.next_run_at > NOW.into();
        }
        assert!(later && row.attempts == 54);
    }

    #[test]
    fn delays_double_with_full_jitter_up_to_the_cap_and_respect_retry_after() {
        let settings = Settings::defaults();
        for (attempts, ceiling_ms) in [(0, 200), (1, 400), (4, 3_200), (7, 15_000), (1_000_000, 15_000)] {
            let delays: Vec<u128> = (0..400)
                .map(|_| backoff(&settings, attempts, None).as_millis())
                .collect();
            assert!(delays.iter().all(|delay| *delay <= ceiling_ms), "{attempts}");
            assert!(
                delays.iter().any(|delay| *delay > ceiling_ms / 2)
                    && delays.iter().any(|delay| *delay < ceiling_ms / 2),
                "{attempts}"
            );
        }
        assert!(backoff(&settings, 0, Some(Duration::from_secs(60))) >= Duration::from_secs(60));
    }

    #[test]
    fn no_response_makes_a_saga_wait_longer_than_the_longest_wait() {
        let settings = Settings::defaults();
        let hour = Duration::from_secs(3_600);
        assert_eq!(backoff(&settings, 0, Some(hour)), settings.max_wait());
        let mut row = row(SagaState::Running);
        decide(&mut row, &refused(), Decision::Repeat { after: hour }).unwrap();
        assert_eq!(row.next_run_at, NOW.plus(settings.max_wait()).into());
    }

    #[test]
    fn a_deadline_moved_away_by_a_clock_that_was_set_back_comes_nearer_again() {
        let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3_600));
        let mut row = row(SagaState::Running);
        row.deadline_ms = Some(60_000);
        for (deadline, kept) in [
            (NOW.plus(hour), NOW.plus(minute)),
            (NOW.plus(minute), NOW.plus(minute)),
            (NOW.minus(hour), NOW.minus(hour)),
        ] {
            row.deadline_at = Some(deadline.into());
            keep_deadline_near(&mut row, NOW);
            assert_eq!(row.deadline_at, Some(kept.into()));
        }
    }

    #[test]
    fn after_a_final_refusal_the_command_is_sent_under_a_new_id() {
        let mut row = row(SagaState::Compensating);
        let mut ids = vec![row.command_id];
        for attempt in 1..4 {
            let park = |attempt| Decision::ParkRefused {
                reason: "no".into(),
                attempt,
                command: "new".into(),
            };
            decide(&mut row, &refused(), park(attempt)).unwrap();
            assert_eq!(
                (row.state, row.parked_state),
                (SagaState::Parked, Some(SagaState::Compensating))
            );
            assert_eq!(
                (row.command.as_deref(), row.step.as_str(), row.attempts),
                (Some("new"), "reserve", 0)
            );
            assert_eq!(row.command_id, Some(attempt_id(row.id, "reserve", true, attempt)));
            assert!(!ids.contains(&row.command_id), "{attempt}");
            ids.push(row.command_id);
            row.state = SagaState::Compensating;
            let same = decide(&mut row, &refused(), park(attempt));
            assert_eq!(same.unwrap_err().code, "step_decided_twice", "its id is in use");
            row.state = SagaState::Compensating;
        }
        assert_eq!(
            attempt_id(row.id, "reserve", true, 0),
            command_id(row.id, "reserve", true)
        );
    }

    #[test]
    fn a_parked_saga_keeps_its_command_and_the_state_it_returns_to() {
        let mut row = row(SagaState::Compensating);
        decide(&mut row, &refused(), Decision::Park { reason: "odd".into() }).unwrap();
        assert_eq!(
            (row.state, row.parked_state),
            (SagaState::Parked, Some(SagaState::Compensating))
        );
        assert_eq!(
            (row.command.as_deref(), row.parked_reason.as_deref()),
            (Some("old"), Some("odd"))
        );
    }
}
