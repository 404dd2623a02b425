//! Passwords in plain text, as their users choose them.
//!
//! The type states its limits as constants, publishes them in the API's document and enforces them, so the three cannot differ.

use std::borrow::Cow;

use banyan_core::Fault;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        KnownFormat, RefOr, SchemaFormat,
        schema::{ObjectBuilder, Schema, Type},
    },
};

/// A password a user chooses. Only its length is restricted (OWASP ASVS 5, 6.2: at least 8 characters, long ones allowed, no rules of
/// composition). It is used exactly as it was sent, never trimmed and never logged.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Password(SecretString);

impl Password {
    pub const MIN_LENGTH: usize = 8;
    /// Long enough for any passphrase, short enough that hashing one stays cheap.
    pub const MAX_LENGTH: usize = 128;

    /// # Errors
    /// `invalid_password`.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        if (Self::MIN_LENGTH..=Self::MAX_LENGTH).contains(&text.chars().count()) {
            return Ok(Password(SecretString::from(text)));
        }
        let rule = "must have 8 to 128 characters";
        Err(Fault::invalid("invalid_password", format!("A password {rule}.")).at("/password", rule))
    }

    pub fn secret(&self) -> &SecretString {
        &self.0
    }
}

impl TryFrom<String> for Password {
    type Error = Fault;

    fn try_from(text: String) -> Result<Self, Fault> {
        let text = SecretString::from(text);
        Password::parse(text.expose_secret())
    }
}

impl PartialSchema for Password {
    fn schema() -> RefOr<Schema> {
        let schema = ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Password)));
        schema
            .min_length(Some(Self::MIN_LENGTH))
            .max_length(Some(Self::MAX_LENGTH))
            .examples(["correct horse battery staple"])
            .into()
    }
}

impl ToSchema for Password {
    fn name() -> Cow<'static, str> {
        "Password".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passwords_length_is_counted_in_characters() {
        for good in ["12345678", "        ", &"ü".repeat(8), &"ü".repeat(128)] {
            assert!(Password::parse(good).is_ok(), "{good:?}");
        }
        for bad in ["", "1234567", &"ü".repeat(7), &"ü".repeat(129)] {
            assert!(Password::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_password_is_not_shown_by_its_debug_format() {
        assert!(!format!("{:?}", Password::parse("correct horse").unwrap()).contains("horse"));
    }
}
