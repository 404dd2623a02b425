//! The number of units of one product in an order, shared by catalog, inventory and orders.

use std::fmt;

use banyan_core::Fault;
use serde::{Deserialize, Serialize};
use utoipa::openapi::{
    RefOr,
    schema::{ObjectBuilder, Schema, Type},
};

/// The number of units of one product in an order: 1 to 999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Quantity(u32);

impl Quantity {
    pub const MIN: u32 = 1;
    pub const MAX: u32 = 999;

    /// # Errors
    /// `invalid_quantity` (invalid) outside 1..=999.
    pub fn new(quantity: u32) -> Result<Self, Fault> {
        if (Self::MIN..=Self::MAX).contains(&quantity) {
            Ok(Quantity(quantity))
        } else {
            Err(Fault::invalid(
                "invalid_quantity",
                format!("A quantity must be {} to {}.", Self::MIN, Self::MAX),
            ))
        }
    }

    pub fn get(self) -> u32 {
        self.0
    }

    /// The sum, for merging two lines of the same product.
    ///
    /// # Errors
    /// `invalid_quantity` if the sum is more than one line may have.
    pub fn plus(self, other: Quantity) -> Result<Self, Fault> {
        Quantity::new(self.0 + other.0)
    }
}

impl TryFrom<u32> for Quantity {
    type Error = Fault;

    fn try_from(quantity: u32) -> Result<Self, Fault> {
        Quantity::new(quantity)
    }
}

impl From<Quantity> for u32 {
    fn from(quantity: Quantity) -> u32 {
        quantity.0
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl utoipa::PartialSchema for Quantity {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(Self::MIN))
            .maximum(Some(Self::MAX))
            .examples([2])
            .description(Some("How many."))
            .into()
    }
}

impl utoipa::ToSchema for Quantity {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_is_one_to_999() {
        assert_eq!(Quantity::new(0).unwrap_err().code, "invalid_quantity");
        assert_eq!(Quantity::new(1).unwrap().get(), 1);
        assert_eq!(Quantity::new(999).unwrap().get(), 999);
        assert!(Quantity::new(1000).is_err());
        assert_eq!(
            Quantity::new(998)
                .unwrap()
                .plus(Quantity::new(1).unwrap())
                .unwrap()
                .get(),
            999
        );
        assert!(Quantity::new(998).unwrap().plus(Quantity::new(2).unwrap()).is_err());
    }

    #[test]
    fn an_invalid_quantity_is_refused_by_json_too() {
        assert_eq!(serde_json::from_str::<Quantity>("999").unwrap().get(), 999);
        for bad in ["0", "1000", "-1", "1.5", "\"1\""] {
            assert!(serde_json::from_str::<Quantity>(bad).is_err(), "{bad}");
        }
    }
}
