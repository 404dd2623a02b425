//! Stock levels, and how each kind of movement changes them. Pure rules; no I/O.

use shared_kernel::Sku;

/// The stock level of one product.
///
/// Invariant: `0 <= reserved <= on_hand`. A movement that would break it is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StockItem {
    pub sku: Sku,
    /// Units in the warehouse.
    pub on_hand: i64,
    /// Of these, reserved for orders.
    pub reserved: i64,
    /// Incremented by every movement.
    pub version: i64,
}

impl StockItem {
    /// Units that can still be reserved.
    pub fn available(&self) -> i64 {
        self.on_hand - self.reserved
    }
}

/// Why a level changed, as written to the ledger and to events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub enum Movement {
    /// Units arrived: a delivery, or more units counted than booked.
    Received,
    /// Units were reserved for an order.
    Reserved,
    /// A reservation was released.
    Released,
    /// Reserved units left the warehouse.
    Committed,
    /// Committed units were returned to stock.
    Restocked,
    /// Units were lost, broken or stolen.
    WrittenOff,
}

/// The change of a level by a movement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effect {
    pub on_hand: i64,
    pub reserved: i64,
}

impl Movement {
    /// The effect of moving `quantity` units. The quantity is positive; its direction follows from the kind.
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

    /// The movement for a counted difference, with a positive quantity: more units than booked were received, fewer were written off.
    pub fn from_difference(difference: i64) -> (Movement, i64) {
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

    /// A pseudo-random walk through movements; those that would break the invariant are skipped.
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
        assert_eq!(Movement::from_difference(5), (Movement::Received, 5));
        assert_eq!(Movement::from_difference(-5), (Movement::WrittenOff, 5));
    }

    #[test]
    fn reserved_units_are_not_available() {
        let item = StockItem {
            sku: Sku::parse("rare-fig").unwrap(),
            on_hand: 3,
            reserved: 2,
            version: 4,
        };
        assert_eq!(item.available(), 1);
    }
}
