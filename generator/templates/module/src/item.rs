//! Items, and the rules about them. Pure; no I/O.

use banyan_core::{Fault, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// The maximum length of a name, in characters.
const MAX_NAME: usize = 200;

/// An item of {module}.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = {Module}Item)]
pub struct Item {
    pub id: Uuid,
    #[schema(min_length = 1, max_length = 200, example = "First item")]
    pub name: String,
    pub created_at: Timestamp,
}

/// An item to be added.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = New{Module}Item)]
pub struct NewItem {
    /// Unique among the items.
    #[schema(min_length = 1, max_length = 200, format = "line", example = "Another item")]
    pub name: String,
}

impl NewItem {
    pub fn named(name: impl Into<String>) -> Self {
        NewItem { name: name.into() }
    }

    /// # Errors
    /// `invalid_name`: the name is empty, blank at an end, or longer than 200 characters.
    pub fn into_item(self, id: Uuid, now: Timestamp) -> Result<Item, Fault> {
        let is_valid = !self.name.is_empty() && self.name.trim() == self.name && self.name.chars().count() <= MAX_NAME;
        if !is_valid {
            let rule = format!("must have 1 to {MAX_NAME} characters, without white space at either end");
            return Err(Fault::invalid("invalid_name", format!("The name {rule}.")).at("/name", rule));
        }
        Ok(Item {
            id,
            name: self.name,
            created_at: now,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Result<Item, Fault> {
        NewItem::named(name).into_item(Uuid::nil(), Timestamp::from_ms(1))
    }

    #[test]
    fn a_name_has_1_to_200_characters() {
        assert_eq!(named("A").unwrap().name, "A");
        assert!(named(&"ä".repeat(200)).is_ok());
        for wrong in ["", &"ä".repeat(201)] {
            assert_eq!(named(wrong).unwrap_err().code, "invalid_name");
        }
    }

    #[test]
    fn a_name_has_no_white_space_at_its_ends() {
        assert!(named("two words").is_ok());
        for wrong in [" ", " A", "A\n"] {
            assert_eq!(named(wrong).unwrap_err().code, "invalid_name");
        }
    }
}
