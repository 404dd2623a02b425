//! Up to when what has expired may be deleted.
//!
//! A clock may jump ahead and be set right later; what was deleted meanwhile stays deleted, and a request of yesterday would be carried out twice. So the
//! horizon follows the clock in small steps: hardly faster than time can have passed. After a long stop it is behind for a while, which keeps more than
//! need be.

use std::time::Duration;

use banyan_core::{Fault, Timestamp};
use sea_orm::FromQueryResult;

use crate::{
    Tx,
    query::{self, StoredTime},
};

/// The interval between steps, by the clock.
const EVERY: Duration = Duration::from_secs(600);
/// The longest step: a tenth more than the interval, so that the horizon comes near the clock again.
const STEP: Duration = Duration::from_secs(660);

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromQueryResult)]
struct Horizon {
    at: StoredTime,
    /// The clock at the last step.
    seen_at: StoredTime,
}

/// The horizon, after a step if it is time for one. The caller holds the lease of pruning: nobody else moves it.
pub(crate) async fn advance(tx: &Tx) -> Result<Timestamp, Fault> {
    let now = tx.clock().now();
    let stored: Option<Horizon> = query::one(tx.conn(), "select at, seen_at from horizon where id = 1", []).await?;
    let next = after(stored, now);
    if stored != Some(next) {
        tx.execute(
            "insert into horizon (id, at, seen_at) values (1, $1, $2)
             on conflict (id) do update set at = excluded.at, seen_at = excluded.seen_at",
            [next.at.into(), next.seen_at.into()],
        )
        .await?;
    }
    Ok(next.at.into())
}

fn after(stored: Option<Horizon>, now: Timestamp) -> Horizon {
    let Some(Horizon { at, seen_at }) = stored else {
        return Horizon {
            at: now.into(),
            seen_at: now.into(),
        };
    };
    let (at, seen_at) = (Timestamp::from(at), Timestamp::from(seen_at));
    if seen_at <= now && now < seen_at.plus(EVERY) {
        return Horizon {
            at: at.into(),
            seen_at: seen_at.into(),
        };
    }
    // A clock that was set back takes the horizon with it: what is not older than the clock says stays.
    let reached = if now < seen_at { at } else { at.plus(STEP) };
    Horizon {
        at: reached.min(now).into(),
        seen_at: now.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_ms(1_700_000_000_000);
    const DAY: Duration = Duration::from_secs(86_400);

    /// Steps at these times; returns how far the horizon is behind the last of them.
    fn behind(times: impl IntoIterator<Item = Timestamp>) -> Duration {
        let (mut horizon, mut now) = (None, START);
        for time in times {
            now = time;
            horizon = Some(after(horizon, now));
        }
        now.since(horizon.expect("a step").at.into())
    }

    fn every(interval: Duration, count: u32, from: Timestamp) -> Vec<Timestamp> {
        (0..count).map(|step| from.plus(interval * step)).collect()
    }

    #[test]
    fn it_follows_the_clock_and_does_not_follow_a_jump() {
        assert_eq!(behind(every(EVERY, 100, START)), Duration::ZERO);
        let jumped = every(EVERY, 100, START)
            .into_iter()
            .chain(every(EVERY, 144, START.plus(30 * DAY)));
        let lag = behind(jumped);
        assert!(lag > 28 * DAY && lag < 30 * DAY, "{lag:?}");
    }

    #[test]
    fn asked_often_it_moves_no_faster() {
        let often = every(Duration::from_millis(50), 20_000, START.plus(30 * DAY));
        let lag = behind([START].into_iter().chain(often));
        assert!(lag > 29 * DAY, "{lag:?}");
    }

    #[test]
    fn it_goes_back_with_the_clock_and_comes_near_again_after_a_stop() {
        let set_back = [START, START.minus(DAY)];
        assert_eq!(behind(set_back), Duration::ZERO);
        let stopped = [START].into_iter().chain(every(EVERY, 2_000, START.plus(DAY)));
        assert_eq!(behind(stopped), Duration::ZERO);
    }
}
