//! The rules of reservations: what an order may hold, and what can become of it.
//!
//! ```text
//! held -> released             the order did not come about
//!      -> committed            the units left the house
//!           -> restocked       they came back
//! ```

use std::collections::BTreeMap;

use banyan_core::Fault;
use inventory_contract::StockLine;
use shared_kernel::Sku;

use crate::stock::Movement;

/// An order has no more lines than this.
const MAX_LINES: usize = 100;

/// What an order wants: units by sku, each sku once. The order of the skus is the order in which the items are locked, so that two orders that
/// want the same products cannot wait for each other in a circle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lines(BTreeMap<Sku, i64>);

impl Lines {
    /// Reads the lines of a command; repeated skus become one line.
    ///
    /// # Errors
    /// `invalid_lines`: none, more than 100, or one of nothing; `invalid_sku`.
    pub fn parse(lines: &[StockLine]) -> Result<Self, Fault> {
        if lines.is_empty() || lines.len() > MAX_LINES {
            return Err(Fault::invalid(
                "invalid_lines",
                format!("A reservation has 1 to {MAX_LINES} lines."),
            ));
        }
        let mut merged = BTreeMap::new();
        for (index, line) in lines.iter().enumerate() {
            let sku = Sku::parse(&line.sku).map_err(|fault| fault.at(format!("/lines/{index}/sku"), "is no sku"))?;
            if line.quantity == 0 {
                let fault = Fault::invalid("invalid_lines", "A line reserves at least one unit.");
                return Err(fault.at(format!("/lines/{index}/quantity"), "must be 1 or more"));
            }
            *merged.entry(sku).or_default() += i64::from(line.quantity);
        }
        Ok(Lines(merged))
    }

    /// From rows, whose order does not matter.
    pub fn of_rows(rows: impl IntoIterator<Item = (Sku, i64)>) -> Self {
        Lines(rows.into_iter().collect())
    }

    /// In the order in which items are locked.
    pub fn iter(&self) -> impl Iterator<Item = (&Sku, i64)> {
        self.0.iter().map(|(sku, quantity)| (sku, *quantity))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Held,
    Released,
    Committed,
    Restocked,
}

/// A step a reservation takes: its next state, and what that does to the stock of each line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub from: State,
    pub to: State,
    pub movement: Movement,
}

/// Each question answers with the step to take, `None` if there is nothing left to do, or a refusal.
impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            State::Held => "held",
            State::Released => "released",
            State::Committed => "committed",
            State::Restocked => "restocked",
        }
    }

    pub fn find(name: &str) -> Option<Self> {
        [State::Held, State::Released, State::Committed, State::Restocked]
            .into_iter()
            .find(|state| state.as_str() == name)
    }

    fn step(self, to: State, movement: Movement) -> Option<Step> {
        Some(Step {
            from: self,
            to,
            movement,
        })
    }

    /// # Errors
    /// `reservation_committed`: what has left the house comes back by restocking, not by taking a promise back.
    pub fn release(self) -> Result<Option<Step>, Fault> {
        match self {
            State::Held => Ok(self.step(State::Released, Movement::Released)),
            State::Released => Ok(None),
            State::Committed | State::Restocked => Err(Fault::conflict(
                "reservation_committed",
                "The reserved units have left the house already.",
            )),
        }
    }

    /// # Errors
    /// `reservation_released`: the units may have been promised to somebody else since.
    pub fn commit(self) -> Result<Option<Step>, Fault> {
        match self {
            State::Held => Ok(self.step(State::Committed, Movement::Committed)),
            State::Committed | State::Restocked => Ok(None),
            State::Released => Err(Fault::conflict(
                "reservation_released",
                "The reservation has been released.",
            )),
        }
    }

    /// # Errors
    /// `reservation_not_committed`: nothing has left the house that could come back.
    pub fn restock(self) -> Result<Option<Step>, Fault> {
        match self {
            State::Committed => Ok(self.step(State::Restocked, Movement::Restocked)),
            State::Restocked => Ok(None),
            State::Held | State::Released => Err(Fault::conflict(
                "reservation_not_committed",
                "The reserved units have not left the house.",
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
    fn a_reservation_of_nothing_is_refused() {
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
    fn what_was_released_cannot_leave_the_house() {
        assert_eq!(State::Released.commit().unwrap_err().code, "reservation_released");
        assert_eq!(State::Released.restock().unwrap_err().code, "reservation_not_committed");
    }

    #[test]
    fn what_has_left_the_house_cannot_be_released() {
        for state in [State::Committed, State::Restocked] {
            assert_eq!(state.release().unwrap_err().code, "reservation_committed");
        }
    }

    #[test]
    fn only_what_has_left_the_house_comes_back() {
        assert_eq!(State::Held.restock().unwrap_err().code, "reservation_not_committed");
        assert_eq!(
            State::Committed.restock().unwrap().map(|step| step.movement),
            Some(Movement::Restocked)
        );
    }

    #[test]
    fn asked_twice_nothing_moves_the_second_time() {
        for (ask, movement) in [
            (
                State::release as fn(State) -> Result<Option<Step>, Fault>,
                Movement::Released,
            ),
            (State::commit, Movement::Committed),
        ] {
            let step = ask(State::Held).unwrap().unwrap();
            assert_eq!((step.from, step.movement), (State::Held, movement));
            assert_eq!(ask(step.to), Ok(None));
        }
        assert_eq!(State::Restocked.restock(), Ok(None));
    }
}
