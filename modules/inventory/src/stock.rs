//! The rules of stock: what a level is, and how each kind of movement changes it.

use shared_kernel::Sku;

/// How many units of one product there are.
///
/// Invariant: `0 <= reserved <= on_hand`. No movement is made that would break it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StockItem {
    pub sku: Sku,
    /// In the house.
    pub on_hand: i64,
    /// Of these, promised to orders.
    pub reserved: i64,
    /// Rises with every movement.
    pub version: i64,
}

impl StockItem {
    /// What can still be promised.
    pub fn available(&self) -> i64 {
        self.on_hand - self.reserved
    }
}

/// Why a level changed. These words stand in the ledger and in events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Movement {
    /// Came into the house: a delivery, or units found when counting.
    Received,
    /// Promised to an order.
    Reserved,
    /// The promise was taken back.
    Released,
    /// Promised units left the house.
    Committed,
    /// Units that had left for an order came back.
    Restocked,
    /// Lost, broken, stolen.
    WrittenOff,
}

/// What a movement does to a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effect {
    pub on_hand: i64,
    pub reserved: i64,
}

impl Movement {
    pub fn as_str(self) -> &'static str {
        match self {
            Movement::Received => "received",
            Movement::Reserved => "reserved",
            Movement::Released => "released",
            Movement::Committed => "committed",
            Movement::Restocked => "restocked",
            Movement::WrittenOff => "written_off",
        }
    }

    /// The effect of moving `quantity` units, which is positive: the kind says which way they go.
    pub fn effect(self, quantity: i64) -> Effect {
        match self {
            Movement::Received | Movement::Restocked => Effect {
                on_hand: quantity,
                reserved: 0,
            },
            Movement::Reserved => Effect {
                on_hand: 0,
                reserved: quantity,
            },
            Movement::Released => Effect {
                on_hand: 0,
                reserved: -quantity,
            },
            Movement::Committed => Effect {
                on_hand: -quantity,
                reserved: -quantity,
            },
            Movement::WrittenOff => Effect {
                on_hand: -quantity,
                reserved: 0,
            },
        }
    }

    /// What a counted difference is: more than the books say was received, less was written off. With the units as a positive number.
    pub fn of_difference(difference: i64) -> (Movement, i64) {
        if difference < 0 {
            (Movement::WrittenOff, -difference)
        } else {
            (Movement::Received, difference)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Movement; 6] = [
        Movement::Received,
        Movement::Reserved,
        Movement::Released,
        Movement::Committed,
        Movement::Restocked,
        Movement::WrittenOff,
    ];

    fn valid(level: Effect) -> bool {
        0 <= level.reserved && level.reserved <= level.on_hand
    }

    /// A walk through movements in an order that only looks random; those that would break the invariant are left out.
    fn walk(steps: u64) -> (Effect, [i64; 6]) {
        let (mut level, mut sums, mut state) = (
            Effect {
                on_hand: 0,
                reserved: 0,
            },
            [0; 6],
            7_u64,
        );
        for _ in 0..steps {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let (kind, quantity) = ((state >> 33) as usize % 6, (state >> 40) as i64 % 9 + 1);
            let effect = ALL[kind].effect(quantity);
            let next = Effect {
                on_hand: level.on_hand + effect.on_hand,
                reserved: level.reserved + effect.reserved,
            };
            if valid(next) {
                level = next;
                sums[kind] += quantity;
            }
        }
        (level, sums)
    }

    #[test]
    fn the_level_follows_from_the_ledger() {
        let (level, [received, reserved, released, committed, restocked, written_off]) = walk(10_000);
        assert!(valid(level) && committed > 0 && written_off > 0 && restocked > 0);
        assert_eq!(received + restocked, level.on_hand + committed + written_off);
        assert_eq!(level.reserved, reserved - released - committed);
    }

    #[test]
    fn a_counted_difference_is_received_or_written_off() {
        assert_eq!(Movement::of_difference(5), (Movement::Received, 5));
        assert_eq!(Movement::of_difference(-5), (Movement::WrittenOff, 5));
    }

    #[test]
    fn what_is_promised_is_not_available() {
        let item = StockItem {
            sku: Sku::parse("rare-fig").unwrap(),
            on_hand: 3,
            reserved: 2,
            version: 4,
        };
        assert_eq!(item.available(), 1);
    }
}
