//! The words a user is made of, read once at the door: email address, name, password.
//!
//! Each type states its limits as constants, shows them in the API's document and enforces them itself, so the three cannot differ.

use std::{borrow::Cow, fmt};

use banyan_core::Fault;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        KnownFormat, RefOr, SchemaFormat,
        schema::{ObjectBuilder, Schema, Type},
    },
};

/// A mail address as it is typed: the dot-atom form of RFC 5322 with a host name behind it, which is what mail providers give out. Kept as
/// written; two that differ in case only are the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EmailAddress(String);

impl EmailAddress {
    pub const PATTERN: &'static str = r"^[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*@[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$";
    /// RFC 5321: a path of 256 with its angle brackets.
    pub const MAX_LENGTH: usize = 254;
    /// RFC 5321, section 4.5.3.1.1. The one rule that the pattern cannot say.
    const MAX_LOCAL_LENGTH: usize = 64;

    /// # Errors
    /// `invalid_email`.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let invalid = || {
            Fault::invalid("invalid_email", "This is not an email address.").at("/email", "must be an email address")
        };
        let (local, host) = text.split_once('@').ok_or_else(invalid)?;
        let atom = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+/=?^_`{|}~-".contains(&b))
        };
        let label = |part: &str| {
            (1..=63).contains(&part.len())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !part.starts_with('-')
                && !part.ends_with('-')
        };
        let fits = text.len() <= Self::MAX_LENGTH && local.len() <= Self::MAX_LOCAL_LENGTH;
        if fits && local.split('.').all(atom) && host.split('.').all(label) {
            Ok(EmailAddress(text.to_owned()))
        } else {
            Err(invalid())
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What it is found by.
    pub fn lower(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

impl TryFrom<String> for EmailAddress {
    type Error = Fault;

    fn try_from(text: String) -> Result<Self, Fault> {
        EmailAddress::parse(&text)
    }
}

impl From<EmailAddress> for String {
    fn from(email: EmailAddress) -> String {
        email.0
    }
}

impl PartialSchema for EmailAddress {
    fn schema() -> RefOr<Schema> {
        let schema = ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some(Self::PATTERN))
            .max_length(Some(Self::MAX_LENGTH));
        schema.examples(["ada@example.com"]).into()
    }
}

impl ToSchema for EmailAddress {
    fn name() -> Cow<'static, str> {
        "EmailAddress".into()
    }
}

/// What a person is called: something visible, no control characters (it ends up in mail headers), no space around it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PersonName(String);

impl PersonName {
    pub const PATTERN: &'static str = r"^[^\x00-\x1F\x7F]*[^\x00-\x20\x7F][^\x00-\x1F\x7F]*$";
    pub const MAX_LENGTH: usize = 100;

    /// # Errors
    /// `invalid_name`.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let control = |c: char| c <= '\u{1f}' || c == '\u{7f}';
        let name = text.trim_matches(' ');
        if text.chars().count() <= Self::MAX_LENGTH && !name.is_empty() && !name.chars().any(control) {
            return Ok(PersonName(name.to_owned()));
        }
        let rule = "must have 1 to 100 characters, not all of them spaces, and no control characters";
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
            .pattern(Some(Self::PATTERN));
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

/// A password somebody chooses. Its length is all that is asked of it (OWASP ASVS 5, 6.2: at least 8 characters, long ones allowed, no rules
/// of composition). It is taken as it comes, never trimmed, never logged.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Password(SecretString);

impl Password {
    pub const MIN_LENGTH: usize = 8;
    /// Long enough for any passphrase, short enough that nobody keeps us busy with one.
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
            .into()
    }
}

impl ToSchema for Password {
    fn name() -> Cow<'static, str> {
        "Password".into()
    }
}

impl fmt::Display for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_email_address_has_a_dot_atom_and_a_host() {
        let local_64 = format!("{}@example.com", "a".repeat(64));
        for good in [
            "demo@banyan.example",
            "o'brien+news@a-b.co",
            "a@b",
            "A.B@C.D",
            local_64.as_str(),
        ] {
            assert!(EmailAddress::parse(good).is_ok(), "{good}");
        }
        let (local_65, long) = (
            format!("{}@example.com", "a".repeat(65)),
            format!("a@{}", "b.".repeat(126) + "bc"),
        );
        for bad in [
            "",
            "a",
            "@b",
            "a@",
            "a@@b",
            "a@b@c",
            ".a@b",
            "a.@b",
            "a..b@c",
            "a b@c",
            "a@-b",
            "a@b-",
            "a@b..c",
            "a@b.",
            "ä@b.de",
            "a@b\n",
            "\"a\"@b.de",
            "<a@b.de>",
            local_65.as_str(),
            long.as_str(),
        ] {
            assert!(EmailAddress::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn addresses_that_differ_in_case_are_found_by_the_same_word() {
        assert_eq!(
            EmailAddress::parse("Ada@Example.COM").unwrap().lower(),
            EmailAddress::parse("ada@example.com").unwrap().lower()
        );
        assert_eq!(
            EmailAddress::parse("Ada@Example.COM").unwrap().as_str(),
            "Ada@Example.COM"
        );
    }

    #[test]
    fn a_name_is_visible_and_has_no_control_characters() {
        assert_eq!(PersonName::parse("  Ada  Lovelace ").unwrap().as_str(), "Ada  Lovelace");
        assert!(PersonName::parse(&"ß".repeat(100)).is_ok());
        for bad in ["", "   ", "a\nb", "a\r\nBcc: x", "\u{7f}", &"ß".repeat(101)] {
            assert!(PersonName::parse(bad).is_err(), "{bad:?}");
        }
    }

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
    fn a_password_shows_itself_to_nobody() {
        assert!(!format!("{:?}", Password::parse("correct horse").unwrap()).contains("horse"));
    }
}
