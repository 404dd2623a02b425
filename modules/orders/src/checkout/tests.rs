//! The steps of a checkout one by one, and then every way it can go.

use std::{collections::HashSet, time::Duration};

use banyan_core::{Call, Timestamp};
use banyan_durable::Progress;
use strum::VariantArray;
use uuid::Uuid;

use super::{
    event_of_undo,
    steps::{Checkout, Next, Situation, Step, StepOutcome},
};
use crate::{
    event::{CancelReason, Line, OrderEvent},
    order::tests::placement,
    stream::EventStream,
};

fn checkout(attempted: &[Step]) -> Checkout {
    let placement = placement();
    Checkout {
        order_id: Uuid::from_u128(9),
        user_id: placement.user_id,
        lines: placement
            .items
            .iter()
            .map(|item| Line {
                sku: item.sku.clone(),
                quantity: item.quantity,
            })
            .collect(),
        total: placement.total,
        address: placement.shipping_address,
        payment_method: placement.payment_method,
        attempted: attempted.to_vec(),
        reason: None,
        refusals: 0,
    }
}

fn at(step: Option<Step>) -> Situation {
    Situation {
        step,
        compensating: false,
        cancel: None,
        deadline_passed: false,
    }
}

/// A checkout with this step under way.
fn under_way(step: Step) -> (Checkout, Situation) {
    let attempted: Vec<Step> = Step::VARIANTS
        .iter()
        .copied()
        .filter(|earlier| *earlier <= step)
        .collect();
    (checkout(&attempted), at(Some(step)))
}

const BEFORE_PIVOT: [Step; 3] = [Step::ReserveStock, Step::AuthorisePayment, Step::ScheduleShipment];
const FROM_PIVOT: [Step; 3] = [Step::CapturePayment, Step::CommitStock, Step::ReadyShipment];

#[test]
fn a_successful_checkout_does_every_step_in_order() {
    let mut checkout = checkout(&[]);
    let mut step = None;
    for &expected in Step::VARIANTS {
        assert_eq!(checkout.next(&at(step), StepOutcome::Done), Next::Do(expected));
        step = Some(expected);
    }
    assert_eq!(checkout.next(&at(step), StepOutcome::Done), Next::Complete);
}

#[test]
fn a_cancel_or_the_deadline_ends_it_before_anything_is_sent() {
    let cancelled = Situation {
        cancel: Some(CancelReason::Customer),
        ..at(None)
    };
    assert_eq!(checkout(&[]).next(&cancelled, StepOutcome::Done), Next::Compensated);
    let expired = Situation {
        deadline_passed: true,
        ..at(None)
    };
    assert_eq!(checkout(&[]).next(&expired, StepOutcome::Done), Next::Compensated);
}

#[test]
fn before_the_pivot_a_cancel_undoes_also_the_step_whose_outcome_is_unknown() {
    for step in BEFORE_PIVOT {
        for outcome in [
            StepOutcome::Nudge,
            StepOutcome::Done,
            StepOutcome::InProgress(Duration::ZERO),
        ] {
            let (mut checkout, situation) = under_way(step);
            let situation = Situation {
                cancel: Some(CancelReason::Customer),
                ..situation
            };
            assert_eq!(
                checkout.next(&situation, outcome.clone()),
                Next::Undo(step),
                "{step:?} {outcome:?}"
            );
            assert_eq!(checkout.reason, Some(CancelReason::Customer));
        }
    }
}

#[test]
fn before_the_pivot_the_deadline_and_an_operator_undo_it_too() {
    for step in BEFORE_PIVOT {
        let (mut checkout, situation) = under_way(step);
        let late = Situation {
            deadline_passed: true,
            ..situation
        };
        assert_eq!(checkout.next(&late, StepOutcome::Nudge), Next::Undo(step));
        assert_eq!(checkout.reason, Some(CancelReason::Expired));
        let (mut checkout, situation) = under_way(step);
        assert_eq!(checkout.next(&situation, StepOutcome::Compensate), Next::Undo(step));
        assert_eq!(checkout.reason, Some(CancelReason::Operator));
    }
}

#[test]
fn the_deadline_is_judged_when_the_capture_is_decided() {
    let (mut checkout, situation) = under_way(Step::ScheduleShipment);
    let late = Situation {
        deadline_passed: true,
        ..situation
    };
    assert_eq!(
        checkout.next(&late, StepOutcome::Done),
        Next::Undo(Step::ScheduleShipment)
    );
}

#[test]
fn from_the_pivot_on_neither_cancel_nor_deadline_nor_operator_compensates_it() {
    for step in FROM_PIVOT {
        let (fresh, situation) = under_way(step);
        let situation = Situation {
            cancel: Some(CancelReason::Customer),
            deadline_passed: true,
            ..situation
        };
        for outcome in [StepOutcome::Nudge, StepOutcome::Compensate] {
            assert_eq!(fresh.clone().next(&situation, outcome), Next::Continue, "{step:?}");
        }
        let again = fresh
            .clone()
            .next(&situation, StepOutcome::InProgress(Duration::from_secs(1)));
        assert_eq!(again, Next::Repeat(Duration::from_secs(1)), "{step:?}");
        assert!(
            matches!(
                fresh.clone().next(&situation, StepOutcome::Done),
                Next::Do(_) | Next::Complete
            ),
            "{step:?}"
        );
    }
}

#[test]
fn a_definite_refusal_undoes_the_steps_before_it_and_not_itself() {
    for (step, reason, undone) in [
        (Step::ReserveStock, CancelReason::OutOfStock, Next::Compensated),
        (
            Step::AuthorisePayment,
            CancelReason::PaymentDeclined,
            Next::Undo(Step::ReserveStock),
        ),
        (
            Step::CapturePayment,
            CancelReason::PaymentDeclined,
            Next::Undo(Step::ScheduleShipment),
        ),
    ] {
        let (mut checkout, situation) = under_way(step);
        assert_eq!(
            checkout.next(&situation, StepOutcome::Refused(reason)),
            undone,
            "{step:?}"
        );
        assert_eq!(checkout.reason, Some(reason));
    }
}

#[test]
fn a_final_fault_is_undone_before_the_pivot_and_parks_the_saga_after_it() {
    for step in BEFORE_PIVOT {
        let (mut checkout, situation) = under_way(step);
        assert_eq!(
            checkout.next(&situation, StepOutcome::Fault("no".to_owned())),
            Next::Undo(step)
        );
    }
    for step in FROM_PIVOT {
        let (mut checkout, situation) = under_way(step);
        assert!(
            matches!(
                checkout.next(&situation, StepOutcome::Fault("no".to_owned())),
                Next::Park(_)
            ),
            "{step:?}"
        );
    }
}

#[test]
fn undoing_goes_backwards_and_cannot_be_stopped() {
    let (mut checkout, _) = under_way(Step::ScheduleShipment);
    let undoing = |step| Situation {
        step: Some(step),
        compensating: true,
        cancel: Some(CancelReason::Customer),
        deadline_passed: true,
    };
    assert_eq!(
        checkout.next(&undoing(Step::ScheduleShipment), StepOutcome::Nudge),
        Next::Continue
    );
    assert_eq!(
        checkout.next(&undoing(Step::ScheduleShipment), StepOutcome::Done),
        Next::Undo(Step::AuthorisePayment)
    );
    let wait = Duration::from_millis(5);
    assert_eq!(
        checkout.next(&undoing(Step::AuthorisePayment), StepOutcome::InProgress(wait)),
        Next::Repeat(wait)
    );
    assert_eq!(
        checkout.next(&undoing(Step::AuthorisePayment), StepOutcome::Done),
        Next::Undo(Step::ReserveStock)
    );
    for refusals in 1..3 {
        let refused = checkout.next(&undoing(Step::ReserveStock), StepOutcome::Fault("no".to_owned()));
        assert!(matches!(refused, Next::ParkRefused(Step::ReserveStock, _)));
        assert_eq!(checkout.refusals, refusals, "each repeat has an id of its own");
    }
    assert!(matches!(
        checkout.next(&undoing(Step::ReserveStock), StepOutcome::Broken("what?".to_owned())),
        Next::Park(_)
    ));
    assert_eq!(checkout.refusals, 2, "an unknown outcome is not a refusal");
    assert_eq!(
        checkout.next(&undoing(Step::ReserveStock), StepOutcome::Done),
        Next::Compensated
    );
}

/// What the other modules hold for the order: a model of them, with tombstones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct World {
    done: Vec<Step>,
    tombstones: Vec<Step>,
    /// Sent and not yet arrived: may arrive at any later time.
    in_flight: Vec<Step>,
}

impl World {
    fn arrive(&mut self, step: Step) {
        if !self.tombstones.contains(&step) && !self.done.contains(&step) {
            self.done.push(step);
        }
    }

    fn undo(&mut self, step: Step) {
        assert!(
            !self.done.contains(&Step::CapturePayment),
            "something was undone under a captured payment"
        );
        self.done.retain(|done| *done != step);
        if !self.tombstones.contains(&step) {
            self.tombstones.push(step);
        }
    }
}

/// Everything that distinguishes one state of a checkout from another.
#[derive(Clone)]
struct Run {
    checkout: Checkout,
    situation: Situation,
    world: World,
}

impl Run {
    fn key(&self) -> String {
        let Checkout {
            attempted,
            reason,
            refusals,
            ..
        } = &self.checkout;
        format!(
            "{attempted:?} {reason:?} {refusals} {:?} {:?}",
            self.situation, self.world
        )
    }
}

/// Explores every interleaving of responses, lost responses, late arrivals, refusals, cancels and deadlines.
#[derive(Default)]
struct Explorer {
    seen: HashSet<String>,
    ahead: Vec<Happening>,
    ends: usize,
    confirmed: usize,
}

impl Explorer {
    fn explore(&mut self, start: Happening) {
        self.ahead.push(start);
        while let Some(Happening { run, outcome }) = self.ahead.pop() {
            self.take(run, outcome);
        }
    }

    fn take(&mut self, mut run: Run, outcome: StepOutcome) {
        match run.checkout.next(&run.situation, outcome) {
            Next::Do(step) => {
                run.situation.step = Some(step);
                self.await_response(run);
            }
            Next::Undo(step) => {
                run.situation = Situation {
                    step: Some(step),
                    compensating: true,
                    ..run.situation
                };
                self.await_response(run);
            }
            Next::Repeat(_) | Next::Continue => self.await_response(run),
            Next::Complete => {
                assert_eq!(
                    run.world.done.iter().copied().collect::<HashSet<_>>(),
                    HashSet::from_iter(Step::VARIANTS.iter().copied()),
                    "confirmed with all of it"
                );
                (self.ends, self.confirmed) = (self.ends + 1, self.confirmed + 1);
            }
            Next::Compensated => {
                let in_flight = run.world.in_flight.clone();
                in_flight.into_iter().for_each(|step| run.world.arrive(step));
                assert_eq!(run.world.done, [], "cancelled with something left: {:?}", run.checkout);
                assert!(run.checkout.reason.is_some());
                self.ends += 1;
            }
            // An operator retries it: the undo is sent under a new id.
            Next::ParkRefused(step, _) => {
                assert_eq!(run.situation.step, Some(step));
                self.await_response(run);
            }
            Next::Park(why) => panic!("parked although no response was invalid: {why}"),
        }
    }

    /// The command of the current step is under way: everything that can happen now is explored.
    fn await_response(&mut self, run: Run) {
        if !self.seen.insert(run.key()) {
            return;
        }
        let Some(step) = run.situation.step else {
            panic!("a command without a step")
        };
        self.ahead.extend(happenings(&run, step));
    }
}

fn happenings(run: &Run, step: Step) -> Vec<Happening> {
    let mut all = Vec::new();
    let mut arrived = run.clone();
    if run.situation.compensating {
        arrived.world.undo(step);
    } else {
        arrived.world.arrive(step);
    }
    all.push(Happening {
        run: arrived.clone(),
        outcome: StepOutcome::Done,
    });
    // It took effect, and the response was lost or is not final.
    all.push(Happening {
        run: arrived.clone(),
        outcome: StepOutcome::InProgress(Duration::ZERO),
    });
    // It has not arrived, and may still arrive, long after it was undone.
    let mut in_flight = run.clone();
    if !run.situation.compensating && !in_flight.world.in_flight.contains(&step) {
        in_flight.world.in_flight.push(step);
    }
    for base in [&arrived, &in_flight] {
        let mut cancelled = base.clone();
        cancelled.situation.cancel = Some(CancelReason::Customer);
        let mut late = base.clone();
        late.situation.deadline_passed = true;
        all.push(Happening {
            run: cancelled,
            outcome: StepOutcome::Nudge,
        });
        all.push(Happening {
            run: late,
            outcome: StepOutcome::Nudge,
        });
        all.push(Happening {
            run: base.clone(),
            outcome: StepOutcome::Compensate,
        });
    }
    // A cancel is stored between two decisions, and the next decision finds it.
    let mut cancelled = arrived;
    cancelled.situation.cancel = Some(CancelReason::Operator);
    all.push(Happening {
        run: cancelled,
        outcome: StepOutcome::Done,
    });
    if run.situation.compensating && run.checkout.refusals < 2 {
        all.push(Happening {
            run: run.clone(),
            outcome: StepOutcome::Fault("not now".to_owned()),
        });
    }
    let can_be_refused = matches!(step, Step::ReserveStock | Step::AuthorisePayment | Step::CapturePayment);
    if can_be_refused && !run.situation.compensating && !run.world.done.contains(&step) {
        let mut refused = run.clone();
        // A refusal is stored under the command's id: late copies of it do nothing.
        refused.world.in_flight.retain(|in_flight| *in_flight != step);
        all.push(Happening {
            run: refused,
            outcome: StepOutcome::Refused(CancelReason::PaymentDeclined),
        });
    }
    all
}

/// What happens next in this state.
struct Happening {
    run: Run,
    outcome: StepOutcome,
}

#[test]
fn every_interleaving_ends_with_everything_done_or_everything_undone() {
    let mut explorer = Explorer::default();
    let run = Run {
        checkout: checkout(&[]),
        situation: at(None),
        world: World::default(),
    };
    explorer.explore(Happening {
        run,
        outcome: StepOutcome::Done,
    });
    assert!(
        explorer.seen.len() > 100,
        "only {} states were seen",
        explorer.seen.len()
    );
    assert!(explorer.confirmed > 0 && explorer.ends > explorer.confirmed);
}

/// The decline may be known from the payment's event, before the checkout got its response.
#[test]
fn the_undo_of_an_authorisation_voids_no_payment_that_was_declined() {
    let payment_id = Uuid::from_u128(2);
    let voided = |known: OrderEvent| {
        let placed = OrderEvent::Placed(Box::new(placement()));
        let mut stream = EventStream::begin(Uuid::from_u128(9), placed, Timestamp::from_ms(7)).unwrap();
        stream.record(known);
        let saga = Progress {
            id: Uuid::from_u128(1),
            business_key: "9".to_owned(),
            state: checkout(&[Step::AuthorisePayment]),
            step: Step::AuthorisePayment.into_str().to_owned(),
            compensating: true,
            deadline_passed: false,
            signal: None,
            call: Call::by_module("orders"),
        };
        event_of_undo(&saga, Some(Step::AuthorisePayment), &StepOutcome::Done, &stream)
    };
    let code = "card_declined".to_owned();
    assert_eq!(voided(OrderEvent::PaymentDeclined { payment_id, code }), None);
    assert_eq!(
        voided(OrderEvent::PaymentAuthorised { payment_id }),
        Some(OrderEvent::PaymentVoided { payment_id })
    );
}
