//! The identifier of a product, shared by catalog, inventory and orders.

use std::{fmt, str::FromStr};

use banyan_core::Fault;
use serde::{Deserialize, Serialize};
use utoipa::openapi::{
    RefOr,
    schema::{ObjectBuilder, Schema, Type},
};

/// The identifier of a product, in URLs too: lower-case letters, digits and hyphens, at most 64 of them, no hyphen first.
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
    fn an_invalid_sku_is_refused_by_json_too() {
        assert_eq!(
            serde_json::from_str::<Sku>("\"rare-fig\"").unwrap(),
            Sku::parse("rare-fig").unwrap()
        );
        assert!(serde_json::from_str::<Sku>("\"Rare Fig\"").is_err());
        assert_eq!(
            serde_json::to_string(&Sku::parse("rare-fig").unwrap()).unwrap(),
            "\"rare-fig\""
        );
    }
}
