//! Reservations: what an order may reserve, and which transitions a reservation has. Pure rules; no I/O.
//!
//! ```text
//! held -> released             the order was not placed
//!      -> committed            the units left the warehouse
//!           -> restocked       the units were returned to stock
//! ```

use std::collections::BTreeMap;

use banyan_core::Fault;
use inventory_contract::StockLine;
use shared_kernel::Sku;

use crate::stock::Movement;

/// The maximum number of lines of an order.
const MAX_LINES: usize = 100;

/// The lines of an order: units by sku, each sku once. They are sorted by sku, and items are locked in this order, so that two orders with the
/// same products cannot deadlock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lines(BTreeMap<Sku, i64>);

impl Lines {
    /// Parses the lines of a command; lines with the same sku are merged.
    ///
    /// # Errors
    /// `invalid_lines` for no lines, more than 100, or a quantity of 0; `invalid_sku`.
    pub fn parse(lines: &[StockLine]) -> Result<Self, Fault> {
        if lines.is_empty() || lines.len() > MAX_LINES {
            return Err(Fault::invalid(
                "invalid_lines",
                format!("A reservation has 1 to {MAX_LINES} lines."),
            ));
        }
        let mut merged = BTreeMap::new();
        for (index, line) in lines.iter().enumerate() {
            let sku =
                Sku::parse(&line.sku).map_err(|fault| fault.at(format!("/lines/{index}/sku"), "is not a valid sku"))?;
            if line.quantity == 0 {
                let fault = Fault::invalid("invalid_lines", "A line reserves at least one unit.");
                return Err(fault.at(format!("/lines/{index}/quantity"), "must be 1 or more"));
            }
            *merged.entry(sku).or_default() += i64::from(line.quantity);
        }
        Ok(Lines(merged))
    }

    /// From rows in any order.
    pub fn from_rows(rows: impl IntoIterator<Item = (Sku, i64)>) -> Self {
        Lines(rows.into_iter().collect())
    }

    pub fn of(sku: &Sku, quantity: i64) -> Self {
        Lines(BTreeMap::from([(sku.clone(), quantity)]))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// In the order in which items are locked.
    pub fn iter(&self) -> impl Iterator<Item = (&Sku, i64)> {
        self.0.iter().map(|(sku, quantity)| (sku, *quantity))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub enum ReservationState {
    Held,
    Released,
    Committed,
    Restocked,
}

/// A transition of a reservation, and the movement of the stock of each line that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    pub from: ReservationState,
    pub to: ReservationState,
    pub movement: Movement,
}

/// Each method returns the transition to make, or `None` if it was made before.
impl ReservationState {
    fn to(self, to: ReservationState, movement: Movement) -> Option<Transition> {
        Some(Transition {
            from: self,
            to,
            movement,
        })
    }

    /// # Errors
    /// `reservation_committed`: units that have left the warehouse are restocked, not released.
    pub fn release(self) -> Result<Option<Transition>, Fault> {
        match self {
            ReservationState::Held => Ok(self.to(ReservationState::Released, Movement::Released)),
            ReservationState::Released => Ok(None),
            ReservationState::Committed | ReservationState::Restocked => Err(Fault::conflict(
                "reservation_committed",
                "The reserved units have left the warehouse already.",
            )),
        }
    }

    /// # Errors
    /// `reservation_released`: the units may be reserved for another order by now.
    pub fn commit(self) -> Result<Option<Transition>, Fault> {
        match self {
            ReservationState::Held => Ok(self.to(ReservationState::Committed, Movement::Committed)),
            ReservationState::Committed | ReservationState::Restocked => Ok(None),
            ReservationState::Released => Err(Fault::conflict(
                "reservation_released",
                "The reservation has been released.",
            )),
        }
    }

    /// # Errors
    /// `reservation_not_committed`: no units have left the warehouse.
    pub fn restock(self) -> Result<Option<Transition>, Fault> {
        match self {
            ReservationState::Committed => Ok(self.to(ReservationState::Restocked, Movement::Restocked)),
            ReservationState::Restocked => Ok(None),
            ReservationState::Held | ReservationState::Released => Err(Fault::conflict(
                "reservation_not_committed",
                "The reserved units have not left the warehouse.",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(sku: &str, quantity: u32) -> StockLine {
        StockLine {
            sku: sku.to_owned(),
            quantity,
        }
    }

    #[test]
    fn lines_are_in_sku_order_with_each_sku_once() {
        let lines = Lines::parse(&[line("tea-02", 1), line("book-01", 2), line("tea-02", 3)]).unwrap();
        let lines: Vec<_> = lines.iter().map(|(sku, quantity)| (sku.as_str(), quantity)).collect();
        assert_eq!(lines, [("book-01", 2), ("tea-02", 4)]);
    }

    #[test]
    fn a_reservation_needs_valid_lines() {
        assert_eq!(Lines::parse(&[]).unwrap_err().code, "invalid_lines");
        assert_eq!(
            Lines::parse(&vec![line("tea-01", 1); 101]).unwrap_err().code,
            "invalid_lines"
        );
        assert_eq!(
            Lines::parse(&[line("tea-01", 0)]).unwrap_err().errors[0].pointer,
            "/lines/0/quantity"
        );
        assert_eq!(Lines::parse(&[line("Tea", 1)]).unwrap_err().code, "invalid_sku");
    }

    #[test]
    fn a_released_reservation_cannot_be_committed_or_restocked() {
        assert_eq!(
            ReservationState::Released.commit().unwrap_err().code,
            "reservation_released"
        );
        assert_eq!(
            ReservationState::Released.restock().unwrap_err().code,
            "reservation_not_committed"
        );
    }

    #[test]
    fn a_committed_reservation_cannot_be_released() {
        for state in [ReservationState::Committed, ReservationState::Restocked] {
            assert_eq!(state.release().unwrap_err().code, "reservation_committed");
        }
    }

    #[test]
    fn only_a_committed_reservation_can_be_restocked() {
        assert_eq!(
            ReservationState::Held.restock().unwrap_err().code,
            "reservation_not_committed"
        );
        assert_eq!(
            ReservationState::Committed.restock().unwrap().map(|made| made.movement),
            Some(Movement::Restocked)
        );
    }

    #[test]
    fn a_repeated_transition_changes_nothing() {
        for (transition, movement) in [
            (
                ReservationState::release as fn(ReservationState) -> Result<Option<Transition>, Fault>,
                Movement::Released,
            ),
            (ReservationState::commit, Movement::Committed),
        ] {
            let first = transition(ReservationState::Held).unwrap().unwrap();
            assert_eq!((first.from, first.movement), (ReservationState::Held, movement));
            assert_eq!(transition(first.to), Ok(None));
        }
        assert_eq!(ReservationState::Restocked.restock(), Ok(None));
    }
}
