//! The names of people.
//!
//! The type states its limits as constants, publishes them in the API's document and enforces them, so the three cannot differ.

use std::borrow::Cow;

use banyan_core::Fault;
use banyan_http::text::is_forbidden_in_line;
use serde::{Deserialize, Serialize};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{ObjectBuilder, Schema, SchemaFormat, Type},
    },
};

/// The name of a person: something visible, without control characters (it is used in mail headers) and without surrounding spaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PersonName(String);

impl PersonName {
    pub const MAX_LENGTH: usize = 100;

    /// # Errors
    /// `invalid_name`.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let name = text.trim();
        if text.chars().count() <= Self::MAX_LENGTH && !name.is_empty() && !text.contains(is_forbidden_in_line) {
            return Ok(PersonName(name.to_owned()));
        }
        let rule = "must have 1 to 100 characters on one line, not all of them spaces, and none that control or override the direction of text";
        Err(Fault::invalid("invalid_name", format!("A name {rule}.")).at("/name", rule))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for PersonName {
    type Error = Fault;

    fn try_from(text: String) -> Result<Self, Fault> {
        PersonName::parse(&text)
    }
}

impl From<PersonName> for String {
    fn from(name: PersonName) -> String {
        name.0
    }
}

impl PartialSchema for PersonName {
    fn schema() -> RefOr<Schema> {
        let schema = ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::Custom("line".to_owned())));
        schema
            .min_length(Some(1))
            .max_length(Some(Self::MAX_LENGTH))
            .examples(["Ada Lovelace"])
            .into()
    }
}

impl ToSchema for PersonName {
    fn name() -> Cow<'static, str> {
        "PersonName".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_visible_and_has_no_control_characters() {
        assert_eq!(PersonName::parse("  Ada  Lovelace ").unwrap().as_str(), "Ada  Lovelace");
        assert!(PersonName::parse(&"ß".repeat(100)).is_ok());
        for bad in [
            "",
            "   ",
            "a\nb",
            "a\r\nBcc: x",
            "\u{7f}",
            "\u{85}",
            "Ada\u{202e}",
            &"ß".repeat(101),
        ] {
            assert!(PersonName::parse(bad).is_err(), "{bad:?}");
        }
    }
}
