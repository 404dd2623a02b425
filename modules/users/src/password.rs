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

use crate::{common_passwords, email::EmailAddress};

/// A password a user chooses. Its length is restricted, and what anybody would try first is refused (OWASP ASVS 5, 6.2: at least 8 characters, long
/// ones allowed, no rules of composition). It is used exactly as it was sent, never trimmed and never logged.
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
        if !(Self::MIN_LENGTH..=Self::MAX_LENGTH).contains(&text.chars().count()) {
            return Err(invalid("must have 8 to 128 characters", "/password"));
        }
        Ok(Password(SecretString::from(text)))
    }

    /// Refuses what anybody would try first: one of the 10,000 most common passwords, the user's email address or the part of it before the `@`, and
    /// the name of the shop, which is the host of `issuer` or a part of it. `pointer` is the place of the password in the body.
    ///
    /// # Errors
    /// `invalid_password`.
    pub fn check_for(&self, email: &EmailAddress, issuer: &str, pointer: &str) -> Result<(), Fault> {
        if common_passwords::contains(self.0.expose_secret()) {
            return Err(invalid("must not be one of the 10,000 most common passwords", pointer));
        }
        let password = self.0.expose_secret().to_lowercase();
        let address = email.lower();
        let local = address.split('@').next().unwrap_or_default();
        if password == address || password == local {
            return Err(invalid("must not be the email address or a part of it", pointer));
        }
        let host = host_of(issuer).to_lowercase();
        if password == host || host.split('.').any(|label| label == password) {
            return Err(invalid("must not be the name of the shop", pointer));
        }
        Ok(())
    }

    pub fn secret(&self) -> &SecretString {
        &self.0
    }
}

fn invalid(rule: &'static str, pointer: &str) -> Fault {
    Fault::invalid("invalid_password", format!("A password {rule}.")).at(pointer, rule)
}

/// The host of a URL without its port.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', ':', '?', '#']).next().unwrap_or_default()
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
    fn a_password_that_anybody_would_try_first_is_refused_with_the_rule() {
        let email = EmailAddress::parse("Ada.Lovelace@example.com").unwrap();
        let rule = |text: &str| {
            let checked = Password::parse(text)
                .and_then(|password| password.check_for(&email, "https://figs-and-more.example:8443/", "/password"));
            checked.err().map(|fault| fault.detail).unwrap_or_default()
        };
        for common in ["password", "Password1", "12345678", "IloveYou"] {
            assert!(
                rule(common).contains("10,000 most common"),
                "{common}: {}",
                rule(common)
            );
        }
        for own in ["ada.lovelace@EXAMPLE.com", "ADA.Lovelace"] {
            assert!(rule(own).contains("email address"), "{own}: {}", rule(own));
        }
        for shop in ["figs-and-more.example", "Figs-and-more"] {
            assert!(rule(shop).contains("name of the shop"), "{shop}: {}", rule(shop));
        }
        for good in ["ada.lovelace1", "figs-and-more!", "correct horse", "iloveyou-figs"] {
            assert_eq!(rule(good), "", "{good}");
        }
    }

    #[test]
    fn a_password_is_not_shown_by_its_debug_format() {
        assert!(!format!("{:?}", Password::parse("correct horse").unwrap()).contains("horse"));
    }
}
