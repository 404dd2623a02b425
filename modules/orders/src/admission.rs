//! Refuses new orders while more checkouts are unfinished than can be finished soon.

use std::time::{Duration, Instant};

use banyan_core::{Fault, FaultKind};
use banyan_durable::{Db, saga};
use parking_lot::Mutex;

use crate::checkout::CheckoutSaga;

/// The delay after which a client repeats an order that was refused.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// The time for which a look at the checkouts allows further orders. Other processes begin checkouts meanwhile.
const ROOM_FOR: Duration = Duration::from_secs(1);

/// Counts what is under way only after some orders: half of what was free at the last look is given away without another.
pub struct Admission {
    /// The maximum number of unfinished checkouts; 0 disables it.
    limit: u64,
    room: Mutex<Room>,
}

/// Orders that may be placed without a look, until then.
struct Room {
    orders: u64,
    until: Instant,
}

impl Room {
    fn take(&mut self, now: Instant) -> bool {
        let free = self.orders > 0 && now < self.until;
        if free {
            self.orders -= 1;
        }
        free
    }
}

impl Admission {
    pub fn new(limit: u64) -> Self {
        Admission {
            limit,
            room: Mutex::new(Room {
                orders: 0,
                until: Instant::now(),
            }),
        }
    }

    /// Asked before anything is stored; what was accepted is finished. Orders that are being placed at the same time are not counted yet, so the limit may
    /// be exceeded by as many.
    ///
    /// # Errors
    /// `too_many_open_orders` (503); as any query.
    pub async fn check(&self, db: &Db) -> Result<(), Fault> {
        if self.limit == 0 || self.room.lock().take(Instant::now()) {
            return Ok(());
        }
        let free = self.limit - saga::count_under_way::<CheckoutSaga>(db, self.limit).await?;
        if let Some(others) = free.checked_sub(1) {
            *self.room.lock() = Room {
                orders: others / 2,
                until: Instant::now() + ROOM_FOR,
            };
            return Ok(());
        }
        metrics::counter!("banyan_orders_shed_total").increment(1);
        let detail = "Too many orders are being processed; nothing was ordered.";
        Err(Fault::new(FaultKind::Unavailable, "too_many_open_orders", detail).retry_after(RETRY_AFTER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_ends_with_its_orders_and_with_its_time() {
        let now = Instant::now();
        let mut room = Room {
            orders: 2,
            until: now + ROOM_FOR,
        };
        assert!(room.take(now) && room.take(now));
        assert!(!room.take(now), "it is used up");
        room.orders = 1;
        assert!(!room.take(now + ROOM_FOR), "it is over");
    }
}
