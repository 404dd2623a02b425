//! Email addresses.
//!
//! The type states its limits as constants, publishes them in the API's document and enforces them, so the three cannot differ.

use std::{borrow::Cow, fmt};

use banyan_core::Fault;
use serde::{Deserialize, Serialize};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{ObjectBuilder, Schema, Type},
    },
};

/// An email address: the dot-atom form of RFC 5322 followed by a host name, which is what mail providers issue. Stored as the user wrote it;
/// addresses that differ only in case belong to the same user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EmailAddress(String);

impl EmailAddress {
    pub const PATTERN: &'static str = r"^[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*@[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$";
    /// RFC 5321: a path has at most 256 characters, two of them the angle brackets.
    pub const MAX_LENGTH: usize = 254;
    /// RFC 5321, section 4.5.3.1.1. The one rule that the pattern cannot express.
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

    /// The form by which a user is looked up.
    pub fn lower(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

impl fmt::Display for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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
    fn addresses_that_differ_only_in_case_are_looked_up_alike() {
        assert_eq!(
            EmailAddress::parse("Ada@Example.COM").unwrap().lower(),
            EmailAddress::parse("ada@example.com").unwrap().lower()
        );
        assert_eq!(
            EmailAddress::parse("Ada@Example.COM").unwrap().as_str(),
            "Ada@Example.COM"
        );
    }
}
