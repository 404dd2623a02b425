//! The steps of an assignment: which follows which, and when it compensates. Pure.
//!
//! reserve agent -> reserve deputy, if the ticket is critical -> ticket assigned. If the ticket is closed meanwhile, every step that was attempted is
//! undone, the last one first, whether its outcome is known or not.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ticket::Severity;

/// The steps in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, strum::EnumString, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(const_into_str, serialize_all = "snake_case")]
pub enum Step {
    ReserveAgent,
    ReserveDeputy,
}

/// What an assignment knows. Stored with the saga.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    pub ticket_id: Uuid,
    pub severity: Severity,
    /// The steps that were sent and are not undone.
    pub attempted: Vec<Step>,
    /// The agents whose capacity is reserved.
    pub agent_ids: Vec<Uuid>,
}

/// The situation in which a decision is made.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// The step under way.
    pub step: Option<Step>,
    pub compensating: bool,
    pub is_closed: bool,
}

/// What the saga learned. Its log contains this as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", content = "detail", rename_all = "snake_case")]
pub enum StepOutcome {
    Started,
    /// This agent has a place for the ticket.
    Reserved(Uuid),
    AllBusy,
    /// The step is undone; true if an agent got a place back.
    Released(bool),
    /// The saga is woken while it waits, because the ticket was closed.
    Nudge,
    /// An operator requests compensation.
    Compensate,
    /// A response that cannot be.
    Unexpected(String),
}

/// The next decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Do(Step),
    Undo(Step),
    /// The same command again, later.
    Repeat,
    Continue,
    /// All agents are found.
    Assign,
    Compensated,
    Park(String),
}

impl Assignment {
    pub fn new(ticket_id: Uuid, severity: Severity) -> Self {
        Assignment {
            ticket_id,
            severity,
            attempted: Vec::new(),
            agent_ids: Vec::new(),
        }
    }

    /// The next decision. Adds what it decides to attempt to `self`.
    pub fn next(&mut self, situation: Situation, outcome: StepOutcome) -> Next {
        match outcome {
            StepOutcome::Unexpected(what) => Next::Park(what),
            StepOutcome::Released(_) => {
                self.attempted.pop();
                self.undo_last()
            }
            _ if situation.compensating => Next::Continue,
            StepOutcome::Compensate => self.undo_last(),
            _ if situation.is_closed => self.undo_last(),
            StepOutcome::Started => self.attempt(Step::ReserveAgent),
            StepOutcome::Reserved(agent_id) => {
                self.agent_ids.push(agent_id);
                match (situation.step, self.severity) {
                    (Some(Step::ReserveAgent), Severity::Critical) => self.attempt(Step::ReserveDeputy),
                    _ => Next::Assign,
                }
            }
            StepOutcome::AllBusy => Next::Repeat,
            StepOutcome::Nudge => Next::Continue,
        }
    }

    fn attempt(&mut self, step: Step) -> Next {
        self.attempted.push(step);
        Next::Do(step)
    }

    fn undo_last(&self) -> Next {
        self.attempted
            .last()
            .map_or(Next::Compensated, |step| Next::Undo(*step))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADA: Uuid = Uuid::from_u128(7);
    const GRACE: Uuid = Uuid::from_u128(8);

    fn assignment(severity: Severity) -> Assignment {
        Assignment::new(Uuid::from_u128(1), severity)
    }

    fn at(step: Option<Step>) -> Situation {
        Situation {
            step,
            compensating: false,
            is_closed: false,
        }
    }

    fn closed(step: Step) -> Situation {
        Situation {
            is_closed: true,
            ..at(Some(step))
        }
    }

    fn compensating(step: Step) -> Situation {
        Situation {
            compensating: true,
            ..closed(step)
        }
    }

    /// A critical ticket whose agent is found, and which waits for a deputy.
    fn waiting_for_deputy() -> Assignment {
        let mut assignment = assignment(Severity::Critical);
        assignment.next(at(None), StepOutcome::Started);
        assignment.next(at(Some(Step::ReserveAgent)), StepOutcome::Reserved(ADA));
        assignment
    }

    #[test]
    fn a_normal_ticket_gets_one_agent() {
        let mut assignment = assignment(Severity::Normal);
        let next = assignment.next(at(None), StepOutcome::Started);
        assert_eq!(next, Next::Do(Step::ReserveAgent));
        let next = assignment.next(at(Some(Step::ReserveAgent)), StepOutcome::Reserved(ADA));
        assert_eq!((next, assignment.agent_ids), (Next::Assign, vec![ADA]));
    }

    #[test]
    fn a_critical_ticket_gets_an_agent_and_a_deputy() {
        let mut assignment = waiting_for_deputy();
        assert_eq!(assignment.attempted, [Step::ReserveAgent, Step::ReserveDeputy]);
        let next = assignment.next(at(Some(Step::ReserveDeputy)), StepOutcome::Reserved(GRACE));
        assert_eq!((next, assignment.agent_ids), (Next::Assign, vec![ADA, GRACE]));
    }

    #[test]
    fn while_all_agents_are_busy_the_command_is_repeated() {
        let mut assignment = waiting_for_deputy();
        let next = assignment.next(at(Some(Step::ReserveDeputy)), StepOutcome::AllBusy);
        assert_eq!(next, Next::Repeat);
    }

    #[test]
    fn a_ticket_that_is_closed_meanwhile_releases_everything_in_reverse_order() {
        for outcome in [StepOutcome::Nudge, StepOutcome::AllBusy, StepOutcome::Reserved(GRACE)] {
            let mut assignment = waiting_for_deputy();
            let next = assignment.next(closed(Step::ReserveDeputy), outcome);
            assert_eq!(next, Next::Undo(Step::ReserveDeputy));
            let next = assignment.next(compensating(Step::ReserveDeputy), StepOutcome::Released(false));
            assert_eq!(next, Next::Undo(Step::ReserveAgent));
            let next = assignment.next(compensating(Step::ReserveAgent), StepOutcome::Released(true));
            assert_eq!(next, Next::Compensated);
        }
    }

    #[test]
    fn a_ticket_that_is_closed_at_once_needs_no_undo() {
        let mut assignment = assignment(Severity::Normal);
        let situation = Situation {
            is_closed: true,
            ..at(None)
        };
        assert_eq!(assignment.next(situation, StepOutcome::Started), Next::Compensated);
    }

    #[test]
    fn an_operator_can_have_it_undone_and_a_second_request_changes_nothing() {
        let mut assignment = waiting_for_deputy();
        let next = assignment.next(at(Some(Step::ReserveDeputy)), StepOutcome::Compensate);
        assert_eq!(next, Next::Undo(Step::ReserveDeputy));
        let next = assignment.next(compensating(Step::ReserveDeputy), StepOutcome::Compensate);
        assert_eq!(next, Next::Continue);
    }

    #[test]
    fn an_unexpected_response_waits_for_an_operator() {
        let next = waiting_for_deputy().next(at(Some(Step::ReserveDeputy)), StepOutcome::Unexpected("x".to_owned()));
        assert_eq!(next, Next::Park("x".to_owned()));
    }
}
