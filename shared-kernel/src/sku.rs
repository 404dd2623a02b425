//! What a customer orders: which product, and how many of it. Catalog, inventory and orders mean the same by both.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::openapi::{
    RefOr,
    schema::{ObjectBuilder, Schema, Type},
};

use banyan_core::Fault;

/// The name a product is addressed by, in URLs too: lower-case letters, digits and hyphens, at most 64 of them, no hyphen first.
///
/// One spelling only, so that `Fig-1` and `fig-1` cannot become two products.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sku(String);

impl Sku {
    pub const PATTERN: &'static str = "^[a-z0-9][a-z0-9-]{0,63}$";
    pub const MAX_LENGTH: usize = 64;

    /// # Errors
    /// `invalid_sku` (invalid) unless `text` keeps to [`PATTERN`](Self::PATTERN).
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let fits = text.len() <= Self::MAX_LENGTH
            && text.bytes().next().is_some_and(letter)
            && text.bytes().all(|byte| letter(byte) || byte == b'-');
        if fits {
            Ok(Sku(text.to_owned()))
        } else {
            Err(Fault::invalid(
                "invalid_sku",
                format!("A sku must match {}.", Self::PATTERN),
            ))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Sku {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        Sku::parse(text)
    }
}

impl TryFrom<String> for Sku {
    type Error = Fault;

    fn try_from(text: String) -> Result<Self, Fault> {
        Sku::parse(&text)
    }
}

impl From<Sku> for String {
    fn from(sku: Sku) -> String {
        sku.0
    }
}

impl fmt::Display for Sku {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl utoipa::PartialSchema for Sku {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some(Self::PATTERN))
            .min_length(Some(1))
            .max_length(Some(Self::MAX_LENGTH))
            .examples(["rare-fig"])
            .description(Some("Addresses a product."))
            .into()
    }
}

impl utoipa::ToSchema for Sku {}

/// How many of one product somebody orders: 1 to 999.
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

    /// Two lines of one product as one.
    ///
    /// # Errors
    /// `invalid_quantity` if both together are more than one line may hold.
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
    fn a_sku_has_one_spelling() {
        for good in ["a", "7", "rare-fig", "mug-", &"k".repeat(64)] {
            assert_eq!(Sku::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "-fig",
            "Fig",
            "rare fig",
            "rare_fig",
            "fig\n",
            "fïg",
            "fig/1",
            &"k".repeat(65),
        ] {
            assert_eq!(Sku::parse(bad).unwrap_err().code, "invalid_sku", "{bad:?}");
        }
    }

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
    fn what_breaks_the_rule_does_not_come_in_by_json_either() {
        assert_eq!(
            serde_json::from_str::<Sku>("\"rare-fig\"").unwrap(),
            Sku::parse("rare-fig").unwrap()
        );
        assert!(serde_json::from_str::<Sku>("\"Rare Fig\"").is_err());
        assert_eq!(
            serde_json::to_string(&Sku::parse("rare-fig").unwrap()).unwrap(),
            "\"rare-fig\""
        );
        assert_eq!(serde_json::from_str::<Quantity>("999").unwrap().get(), 999);
        for bad in ["0", "1000", "-1", "1.5", "\"1\""] {
            assert!(serde_json::from_str::<Quantity>(bad).is_err(), "{bad}");
        }
    }
}
