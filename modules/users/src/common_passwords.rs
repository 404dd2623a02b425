//! The passwords that everybody tries first: `data/common-passwords.txt`, see the README beside it.

use std::sync::LazyLock;

/// In alphabetical order.
static COMMON: LazyLock<Vec<&str>> = LazyLock::new(|| include_str!("../data/common-passwords.txt").lines().collect());

/// Whether the password is one of the 10,000 most common ones, whatever its case.
pub fn contains(password: &str) -> bool {
    let lower = password.to_lowercase();
    COMMON.binary_search(&lower.as_str()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::password::Password;

    #[test]
    fn the_list_has_ten_thousand_passwords_in_order_that_are_long_enough_to_be_chosen() {
        assert_eq!(COMMON.len(), 10_000);
        assert!(COMMON.is_sorted());
        for password in COMMON.iter() {
            assert!(
                password.len() >= Password::MIN_LENGTH && password.to_lowercase() == *password,
                "{password}"
            );
            assert!(contains(password) && contains(&password.to_uppercase()), "{password}");
        }
    }
}
