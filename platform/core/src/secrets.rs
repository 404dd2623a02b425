//! Where secrets come from, and how URLs with secrets are shown.

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

/// The URL of a database or broker without its password, as it may be shown in logs and messages.
pub fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    // A password may also stand in the query: `?password=`, `?sslpassword=`. Then the query is not shown.
    let rest = match rest.split_once('?') {
        Some((shown, query)) if query.to_lowercase().contains("password") => shown,
        _ => rest,
    };
    match rest.rsplit_once('@') {
        Some((login, host)) => format!("{scheme}://{}@{host}", login.split(':').next().unwrap_or_default()),
        None => format!("{scheme}://{rest}"),
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
