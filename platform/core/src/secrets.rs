//! Where secrets come from.

use std::fmt::Debug;

use rand::{TryRngCore, rngs::OsRng};

use crate::Fault;

/// The only way a module obtains something nobody can guess: a token, a salt, a key. Ids come from [`Ids`](crate::Ids), which are unique
/// and not secret.
pub trait Secrets: Send + Sync + Debug {
    /// 256 bits, never given before.
    ///
    /// # Errors
    /// `internal` if the operating system has no randomness to give; nothing secret can then be made.
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

/// A URL of a server one logs in to, a database or a broker, as it may be shown to people.
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
        Some((login, place)) => format!("{scheme}://{}@{place}", login.split(':').next().unwrap_or_default()),
        None => format!("{scheme}://{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_given_twice() {
        assert_ne!(RandomSecrets.new_secret().unwrap(), RandomSecrets.new_secret().unwrap());
    }
}
