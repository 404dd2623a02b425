//! The circuit breaker: when an unavailable module is no longer called, and how it is tried again. Pure: the time comes in.
//!
//! Closed: calls go through, and their outcomes are remembered for a window of time. Open: too many of them found the module unavailable, so
//! calls are rejected at once. Half-open: the pause is over and a few calls go through as probes; if they all succeed in a row it closes, if
//! one fails it opens again. (M. Nygard, Release It!, "Circuit Breaker".)

use std::time::{Duration, Instant};

use serde::Serialize;
use utoipa::ToSchema;

/// Parts of the window that are forgotten one after the other.
const SLOTS: u32 = 10;

/// When a breaker opens and closes.
#[derive(Clone, Copy, Debug)]
pub struct BreakerRules {
    /// The period over which outcomes count.
    pub window: Duration,
    /// It opens only when the window holds at least this number of outcomes,
    pub calls: u32,
    /// and at least this share of them found the module unavailable.
    pub failure_rate: f64,
    /// How long it stays open.
    pub open: Duration,
    /// Successes in a row that close it.
    pub probes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Calls go through.
    Closed,
    /// The module was found unavailable; calls are refused at once.
    Open,
    /// A few calls go through, to see whether it is back.
    HalfOpen,
}

/// What a call says about the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It responds, if only with a refusal.
    Available,
    /// It does not respond.
    Unavailable,
    /// The caller did not wait for it.
    Unknown,
}

/// Permission for one call, to be returned by [`Breaker::record`].
#[derive(Debug)]
pub struct BreakerPermit {
    phase: u64,
}

/// The breaker of one module.
#[derive(Debug)]
pub struct Breaker {
    rules: BreakerRules,
    state: State,
    /// Counts the states it has been in: the outcome of a call from an earlier state does not count in this one.
    phase: u64,
}

#[derive(Debug)]
enum State {
    Closed(Box<Window>),
    Open { until: Instant },
    HalfOpen { in_flight: u32, succeeded: u32 },
}

impl Breaker {
    pub fn new(rules: BreakerRules, now: Instant) -> Self {
        Breaker {
            rules,
            state: State::Closed(Window::new(rules.window, now).into()),
            phase: 0,
        }
    }

    /// # Errors
    /// It is open: how long to wait before the next call.
    pub fn try_acquire(&mut self, now: Instant) -> Result<BreakerPermit, Duration> {
        if let State::Open { until } = self.state
            && now >= until
        {
            self.enter(State::HalfOpen {
                in_flight: 0,
                succeeded: 0,
            });
        }
        match &mut self.state {
            State::Closed(_) => {}
            State::Open { until } => return Err(until.duration_since(now)),
            State::HalfOpen { in_flight, succeeded } => {
                if *in_flight + *succeeded >= self.rules.probes {
                    return Err(self.rules.open);
                }
                *in_flight += 1;
            }
        }
        Ok(BreakerPermit { phase: self.phase })
    }

    /// Whether a call would be rejected now, and for how long; admits none.
    pub fn rejects(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Closed(_) => None,
            State::Open { until } => Some(until.saturating_duration_since(now)).filter(|left| !left.is_zero()),
            State::HalfOpen { in_flight, succeeded } => {
                (in_flight + succeeded >= self.rules.probes).then_some(self.rules.open)
            }
        }
    }

    /// Records how a call ended.
    pub fn record(&mut self, permit: BreakerPermit, outcome: Outcome, now: Instant) {
        if permit.phase != self.phase {
            return;
        }
        let (mut opens, mut closes) = (false, false);
        match &mut self.state {
            State::Closed(window) => {
                window.count(outcome, now);
                if outcome == Outcome::Unavailable {
                    let (available, unavailable) = window.sum(now);
                    opens = available + unavailable >= self.rules.calls
                        && f64::from(unavailable) >= self.rules.failure_rate * f64::from(available + unavailable);
                }
            }
            State::HalfOpen { in_flight, succeeded } => {
                *in_flight -= 1;
                *succeeded += u32::from(outcome == Outcome::Available);
                opens = outcome == Outcome::Unavailable;
                closes = *succeeded >= self.rules.probes;
            }
            // Nothing is admitted while it is open, so no permit is of this phase.
            State::Open { .. } => {}
        }
        if opens {
            self.enter(State::Open {
                until: now + self.rules.open,
            });
        } else if closes {
            self.enter(State::Closed(Window::new(self.rules.window, now).into()));
        }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.phase += 1;
    }

    pub fn state(&self, now: Instant) -> BreakerState {
        match self.state {
            State::Closed(_) => BreakerState::Closed,
            State::Open { until } if now < until => BreakerState::Open,
            State::Open { .. } | State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// The share of the calls in the window that found the module unavailable; 0 without calls, 1 while it is not closed.
    pub fn failure_rate(&self, now: Instant) -> f64 {
        match &self.state {
            State::Closed(window) => match window.sum(now) {
                (_, 0) => 0.0,
                (available, unavailable) => f64::from(unavailable) / f64::from(available + unavailable),
            },
            State::Open { .. } | State::HalfOpen { .. } => 1.0,
        }
    }
}

/// The recent outcomes.
#[derive(Debug)]
struct Window {
    slot: Duration,
    begun: Instant,
    slots: [Slot; SLOTS as usize],
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Which slot since the window's beginning this is; an index is used again every `SLOTS`.
    number: u128,
    available: u32,
    unavailable: u32,
}

impl Window {
    fn new(length: Duration, now: Instant) -> Self {
        Window {
            slot: (length / SLOTS).max(Duration::from_millis(1)),
            begun: now,
            slots: [Slot::default(); SLOTS as usize],
        }
    }

    fn number(&self, now: Instant) -> u128 {
        now.saturating_duration_since(self.begun).as_nanos() / self.slot.as_nanos()
    }

    fn count(&mut self, outcome: Outcome, now: Instant) {
        let number = self.number(now);
        let index = usize::try_from(number % u128::from(SLOTS)).unwrap_or_default();
        let slot = &mut self.slots[index];
        if slot.number != number {
            *slot = Slot {
                number,
                ..Slot::default()
            };
        }
        match outcome {
            Outcome::Available => slot.available += 1,
            Outcome::Unavailable => slot.unavailable += 1,
            Outcome::Unknown => {}
        }
    }

    /// How many found the module available, and unavailable.
    fn sum(&self, now: Instant) -> (u32, u32) {
        let number = self.number(now);
        let recent = self
            .slots
            .iter()
            .filter(|slot| slot.number + u128::from(SLOTS) > number);
        recent.fold((0, 0), |(available, unavailable), slot| {
            (available + slot.available, unavailable + slot.unavailable)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> BreakerRules {
        BreakerRules {
            window: Duration::from_secs(10),
            calls: 4,
            failure_rate: 0.5,
            open: Duration::from_secs(2),
            probes: 2,
        }
    }

    /// A breaker and a clock that the test moves.
    struct Bench {
        breaker: Breaker,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let now = Instant::now();
            Bench {
                breaker: Breaker::new(rules(), now),
                now,
            }
        }

        fn pass_ms(&mut self, ms: u64) {
            self.now += Duration::from_millis(ms);
        }

        fn calls(&mut self, outcome: Outcome, times: u32) {
            for _ in 0..times {
                let permit = self.breaker.try_acquire(self.now).expect("admitted");
                self.breaker.record(permit, outcome, self.now);
            }
        }

        fn open() -> Self {
            let mut bench = Bench::new();
            bench.calls(Outcome::Unavailable, 4);
            assert_eq!(bench.state(), BreakerState::Open);
            bench
        }

        fn state(&self) -> BreakerState {
            self.breaker.state(self.now)
        }
    }

    #[test]
    fn it_opens_when_enough_calls_and_enough_of_them_found_the_module_unavailable() {
        let mut bench = Bench::new();
        bench.calls(Outcome::Unavailable, 3);
        assert_eq!(bench.state(), BreakerState::Closed, "three calls are too few");
        bench.calls(Outcome::Available, 4);
        assert_eq!(
            (bench.state(), bench.breaker.failure_rate(bench.now)),
            (BreakerState::Closed, 3.0 / 7.0)
        );
        bench.calls(Outcome::Unavailable, 1);
        assert_eq!(bench.state(), BreakerState::Open, "half of eight");
    }

    #[test]
    fn an_open_breaker_returns_the_remaining_delay() {
        let mut bench = Bench::open();
        bench.pass_ms(500);
        assert_eq!(
            bench.breaker.try_acquire(bench.now).unwrap_err(),
            Duration::from_millis(1_500)
        );
        assert_eq!(bench.breaker.rejects(bench.now), Some(Duration::from_millis(1_500)));
        bench.pass_ms(1_500);
        assert_eq!(
            (bench.state(), bench.breaker.rejects(bench.now)),
            (BreakerState::HalfOpen, None)
        );
    }

    #[test]
    fn outcomes_older_than_the_window_are_forgotten() {
        let mut bench = Bench::new();
        bench.calls(Outcome::Unavailable, 3);
        bench.pass_ms(10_000);
        bench.calls(Outcome::Unavailable, 3);
        assert_eq!(bench.state(), BreakerState::Closed);
        bench.pass_ms(5_000);
        bench.calls(Outcome::Unavailable, 1);
        assert_eq!(bench.state(), BreakerState::Open);
    }

    #[test]
    fn successes_of_the_probes_in_a_row_close_it() {
        let mut bench = Bench::open();
        bench.pass_ms(2_000);
        bench.calls(Outcome::Available, 1);
        assert_eq!(bench.state(), BreakerState::HalfOpen);
        bench.calls(Outcome::Available, 1);
        assert_eq!(
            (bench.state(), bench.breaker.failure_rate(bench.now)),
            (BreakerState::Closed, 0.0)
        );
    }

    #[test]
    fn one_failing_probe_opens_it_for_the_full_period_again() {
        let mut bench = Bench::open();
        bench.pass_ms(2_000);
        bench.calls(Outcome::Available, 1);
        bench.calls(Outcome::Unavailable, 1);
        bench.pass_ms(1_999);
        assert_eq!(bench.state(), BreakerState::Open);
        assert!(bench.breaker.try_acquire(bench.now).is_err());
    }

    #[test]
    fn no_more_probes_than_needed_are_in_flight_and_an_abandoned_one_frees_its_permit() {
        let mut bench = Bench::open();
        bench.pass_ms(2_000);
        let first = bench.breaker.try_acquire(bench.now).unwrap();
        let _second = bench.breaker.try_acquire(bench.now).unwrap();
        assert!(bench.breaker.try_acquire(bench.now).is_err() && bench.breaker.rejects(bench.now).is_some());
        bench.breaker.record(first, Outcome::Unknown, bench.now);
        assert!(bench.breaker.rejects(bench.now).is_none());
        assert!(bench.breaker.try_acquire(bench.now).is_ok());
    }

    #[test]
    fn the_outcome_of_a_call_from_an_earlier_state_does_not_count() {
        let mut bench = Bench::new();
        let early = bench.breaker.try_acquire(bench.now).unwrap();
        bench.calls(Outcome::Unavailable, 4);
        bench.pass_ms(2_000);
        bench.calls(Outcome::Available, 1);
        bench.breaker.record(early, Outcome::Unavailable, bench.now);
        assert_eq!(bench.state(), BreakerState::HalfOpen);
        bench.calls(Outcome::Available, 1);
        assert_eq!(bench.state(), BreakerState::Closed);
    }
}
