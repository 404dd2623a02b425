//! Where secrets come from.

use std::fmt::Debug;

use rand::{TryRngCore, rngs::OsRng};

use crate::Fault;

/// The only source of secrets in a module: tokens, salts, keys. Ids come from [`Ids`](crate::Ids); they are unique and not secret.
pub trait Secrets: Send + Sync + Debug {
    /// 256 random bits.
    ///
    /// # Errors
    /// `internal` if the operating system has no randomness; nothing secret can then be made.
    fn new_secret(&self) -> Result<[u8; 32], Fault>;
}

/// The operating system's generator.
#[derive(Debug, Default, Clone, Copy)]
pub struct RandomSecrets;

impl Secrets for RandomSecrets {
    fn new_secret(&self) -> Result<[u8; 32], Fault> {
        let mut secret = [0; 32];
        OsRng
            .try_fill_bytes(&mut secret)
            .map_err(|error| Fault::internal("no_randomness", error.to_string()))?;
        Ok(secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_different() {
        assert_ne!(RandomSecrets.new_secret().unwrap(), RandomSecrets.new_secret().unwrap());
    }
}
