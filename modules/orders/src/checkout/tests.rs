//! The course of a checkout, step by step, and then every way it can go.

use std::{collections::HashSet, time::Duration};

use uuid::Uuid;

use super::course::{Checkout, Moment, News, Next, Step};
use crate::{
    event::{CancelReason, Line},
    order::tests::placement,
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

fn at(step: Option<Step>) -> Moment {
    Moment {
        step,
        compensating: false,
        cancel: None,
        deadline_passed: false,
    }
}

/// A checkout with this step under way.
fn under_way(step: Step) -> (Checkout, Moment) {
    let attempted: Vec<Step> = Step::ALL.into_iter().filter(|earlier| *earlier <= step).collect();
    (checkout(&attempted), at(Some(step)))
}

const BEFORE_PIVOT: [Step; 3] = [Step::ReserveStock, Step::AuthorisePayment, Step::ScheduleShipment];
const FROM_PIVOT: [Step; 3] = [Step::CapturePayment, Step::CommitStock, Step::ReadyShipment];

#[test]
fn when_all_goes_well_every_step_is_done_in_order() {
    let mut checkout = checkout(&[]);
    let mut step = None;
    for expected in Step::ALL {
        assert_eq!(checkout.next(&at(step), News::Done), Next::Do(expected));
        step = Some(expected);
    }
    assert_eq!(checkout.next(&at(step), News::Done), Next::Complete);
}

#[test]
fn a_cancel_or_the_deadline_stops_it_before_anything_is_sent() {
    let cancelled = Moment {
        cancel: Some(CancelReason::Customer),
        ..at(None)
    };
    assert_eq!(checkout(&[]).next(&cancelled, News::Done), Next::Compensated);
    let expired = Moment {
        deadline_passed: true,
        ..at(None)
    };
    assert_eq!(checkout(&[]).next(&expired, News::Done), Next::Compensated);
}

#[test]
fn before_the_pivot_a_cancel_undoes_also_the_step_whose_outcome_is_unknown() {
    for step in BEFORE_PIVOT {
        for news in [News::Nudge, News::Done, News::InProgress(Duration::ZERO)] {
            let (mut checkout, moment) = under_way(step);
            let moment = Moment {
                cancel: Some(CancelReason::Customer),
                ..moment
            };
            assert_eq!(
                checkout.next(&moment, news.clone()),
                Next::Undo(step),
                "{step:?} {news:?}"
            );
            assert_eq!(checkout.reason, Some(CancelReason::Customer));
        }
    }
}

#[test]
fn before_the_pivot_the_deadline_and_an_operator_undo_it_too() {
    for step in BEFORE_PIVOT {
        let (mut checkout, moment) = under_way(step);
        let late = Moment {
            deadline_passed: true,
            ..moment
        };
        assert_eq!(checkout.next(&late, News::Nudge), Next::Undo(step));
        assert_eq!(checkout.reason, Some(CancelReason::Expired));
        let (mut checkout, moment) = under_way(step);
        assert_eq!(checkout.next(&moment, News::Compensate), Next::Undo(step));
        assert_eq!(checkout.reason, Some(CancelReason::Operator));
    }
}

#[test]
fn the_deadline_is_judged_when_the_capture_is_decided() {
    let (mut checkout, moment) = under_way(Step::ScheduleShipment);
    let late = Moment {
        deadline_passed: true,
        ..moment
    };
    assert_eq!(checkout.next(&late, News::Done), Next::Undo(Step::ScheduleShipment));
}

#[test]
fn from_the_pivot_on_neither_cancel_nor_deadline_nor_operator_turns_it_back() {
    for step in FROM_PIVOT {
        let (fresh, moment) = under_way(step);
        let moment = Moment {
            cancel: Some(CancelReason::Customer),
            deadline_passed: true,
            ..moment
        };
        for news in [News::Nudge, News::Compensate] {
            assert_eq!(fresh.clone().next(&moment, news), Next::Continue, "{step:?}");
        }
        let again = fresh.clone().next(&moment, News::InProgress(Duration::from_secs(1)));
        assert_eq!(again, Next::Repeat(Duration::from_secs(1)), "{step:?}");
        assert!(
            matches!(fresh.clone().next(&moment, News::Done), Next::Do(_) | Next::Complete),
            "{step:?}"
        );
    }
}

#[test]
fn a_definite_refusal_undoes_what_came_before_it_and_not_itself() {
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
        let (mut checkout, moment) = under_way(step);
        assert_eq!(checkout.next(&moment, News::Refused(reason)), undone, "{step:?}");
        assert_eq!(checkout.reason, Some(reason));
    }
}

#[test]
fn a_fault_for_good_is_undone_before_the_pivot_and_shown_to_a_person_after_it() {
    for step in BEFORE_PIVOT {
        let (mut checkout, moment) = under_way(step);
        assert_eq!(checkout.next(&moment, News::Fault("no".to_owned())), Next::Undo(step));
    }
    for step in FROM_PIVOT {
        let (mut checkout, moment) = under_way(step);
        assert!(
            matches!(checkout.next(&moment, News::Fault("no".to_owned())), Next::Park(_)),
            "{step:?}"
        );
    }
}

#[test]
fn undoing_goes_backwards_and_is_not_stopped_by_anything() {
    let (mut checkout, _) = under_way(Step::ScheduleShipment);
    let undoing = |step| Moment {
        step: Some(step),
        compensating: true,
        cancel: Some(CancelReason::Customer),
        deadline_passed: true,
    };
    assert_eq!(
        checkout.next(&undoing(Step::ScheduleShipment), News::Nudge),
        Next::Continue
    );
    assert_eq!(
        checkout.next(&undoing(Step::ScheduleShipment), News::Done),
        Next::Undo(Step::AuthorisePayment)
    );
    let wait = Duration::from_millis(5);
    assert_eq!(
        checkout.next(&undoing(Step::AuthorisePayment), News::InProgress(wait)),
        Next::Repeat(wait)
    );
    assert_eq!(
        checkout.next(&undoing(Step::AuthorisePayment), News::Done),
        Next::Undo(Step::ReserveStock)
    );
    for refusals in 1..3 {
        let refused = checkout.next(&undoing(Step::ReserveStock), News::Fault("no".to_owned()));
        assert!(matches!(refused, Next::ParkRefused(Step::ReserveStock, _)));
        assert_eq!(checkout.refusals, refusals, "each is asked anew under an id of its own");
    }
    assert!(matches!(
        checkout.next(&undoing(Step::ReserveStock), News::Broken("what?".to_owned())),
        Next::Park(_)
    ));
    assert_eq!(checkout.refusals, 2, "what is unknown was not refused");
    assert_eq!(
        checkout.next(&undoing(Step::ReserveStock), News::Done),
        Next::Compensated
    );
}

/// What the other modules hold for the order: a model of their side, with tombstones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct World {
    done: Vec<Step>,
    tombstones: Vec<Step>,
    /// Sent and neither arrived nor lost for good: may still arrive, any time later.
    adrift: Vec<Step>,
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

/// Everything that distinguishes one moment of a checkout from another.
#[derive(Clone)]
struct Run {
    checkout: Checkout,
    moment: Moment,
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
        format!("{attempted:?} {reason:?} {refusals} {:?} {:?}", self.moment, self.world)
    }
}

/// Explores every interleaving of answers, lost answers, late arrivals, refusals, cancels and deadlines.
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
        while let Some(Happening { run, news }) = self.ahead.pop() {
            self.take(run, news);
        }
    }

    fn take(&mut self, mut run: Run, news: News) {
        match run.checkout.next(&run.moment, news) {
            Next::Do(step) => {
                run.moment.step = Some(step);
                self.await_answer(run);
            }
            Next::Undo(step) => {
                run.moment = Moment {
                    step: Some(step),
                    compensating: true,
                    ..run.moment
                };
                self.await_answer(run);
            }
            Next::Repeat(_) | Next::Continue => self.await_answer(run),
            Next::Complete => {
                assert_eq!(
                    run.world.done.iter().copied().collect::<HashSet<_>>(),
                    HashSet::from(Step::ALL),
                    "confirmed with all of it"
                );
                (self.ends, self.confirmed) = (self.ends + 1, self.confirmed + 1);
            }
            Next::Compensated => {
                let adrift = run.world.adrift.clone();
                adrift.into_iter().for_each(|step| run.world.arrive(step));
                assert_eq!(run.world.done, [], "cancelled with something left: {:?}", run.checkout);
                assert!(run.checkout.reason.is_some());
                self.ends += 1;
            }
            // An operator retries it: the undo is asked anew.
            Next::ParkRefused(step, _) => {
                assert_eq!(run.moment.step, Some(step));
                self.await_answer(run);
            }
            Next::Park(why) => panic!("parked although nothing is broken: {why}"),
        }
    }

    /// The command of the present step is on its way: whatever can happen now does.
    fn await_answer(&mut self, run: Run) {
        if !self.seen.insert(run.key()) {
            return;
        }
        let Some(step) = run.moment.step else {
            panic!("a command without a step")
        };
        self.ahead.extend(happenings(&run, step));
    }
}

fn happenings(run: &Run, step: Step) -> Vec<Happening> {
    let mut all = Vec::new();
    let mut arrived = run.clone();
    if run.moment.compensating {
        arrived.world.undo(step);
    } else {
        arrived.world.arrive(step);
    }
    all.push(Happening {
        run: arrived.clone(),
        news: News::Done,
    });
    // It took effect, and the answer was lost or is not final.
    all.push(Happening {
        run: arrived.clone(),
        news: News::InProgress(Duration::ZERO),
    });
    // It has not arrived, and may yet, long after it was undone.
    let mut adrift = run.clone();
    if !run.moment.compensating && !adrift.world.adrift.contains(&step) {
        adrift.world.adrift.push(step);
    }
    for base in [&arrived, &adrift] {
        let mut cancelled = base.clone();
        cancelled.moment.cancel = Some(CancelReason::Customer);
        let mut late = base.clone();
        late.moment.deadline_passed = true;
        all.push(Happening {
            run: cancelled,
            news: News::Nudge,
        });
        all.push(Happening {
            run: late,
            news: News::Nudge,
        });
        all.push(Happening {
            run: base.clone(),
            news: News::Compensate,
        });
    }
    // A cancel is stored between two decisions, and the next news finds it.
    let mut cancelled = arrived;
    cancelled.moment.cancel = Some(CancelReason::Operator);
    all.push(Happening {
        run: cancelled,
        news: News::Done,
    });
    if run.moment.compensating && run.checkout.refusals < 2 {
        all.push(Happening {
            run: run.clone(),
            news: News::Fault("not now".to_owned()),
        });
    }
    let can_be_refused = matches!(step, Step::ReserveStock | Step::AuthorisePayment | Step::CapturePayment);
    if can_be_refused && !run.moment.compensating && !run.world.done.contains(&step) {
        let mut refused = run.clone();
        // A refusal is remembered under the command's id: late copies of it do nothing.
        refused.world.adrift.retain(|adrift| *adrift != step);
        all.push(Happening {
            run: refused,
            news: News::Refused(CancelReason::PaymentDeclined),
        });
    }
    all
}
struct Happening {
    run: Run,
    news: News,
}

#[test]
fn however_it_goes_all_is_done_or_all_is_undone() {
    let mut explorer = Explorer::default();
    let run = Run {
        checkout: checkout(&[]),
        moment: at(None),
        world: World::default(),
    };
    explorer.explore(Happening { run, news: News::Done });
    assert!(
        explorer.seen.len() > 100,
        "only {} moments were seen",
        explorer.seen.len()
    );
    assert!(explorer.confirmed > 0 && explorer.ends > explorer.confirmed);
}
