//! Who is an operator, as the database knows it. Pure rules; no I/O.
//!
//! An access token carries the roles its user had when it was made, and lives for minutes. So a power over somebody else's account is checked
//! against the stored roles, in the transaction that exercises it. Nobody takes the role from themselves, so whoever was admitted is left as an
//! operator.

use banyan_core::{Actor, Fault, FaultKind};
use shared_kernel::Role;
use uuid::Uuid;

/// The users with the role `ops` at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operators(Vec<Uuid>);

impl Operators {
    pub fn new(ids: Vec<Uuid>) -> Self {
        Operators(ids)
    }

    /// # Errors
    /// `insufficient_role`, as for a token without the role.
    pub fn admit(&self, actor: &Actor) -> Result<(), Fault> {
        match actor.user_id() {
            Some(id) if self.0.contains(&id) => Ok(()),
            _ => Err(Fault::new(
                FaultKind::Forbidden,
                "insufficient_role",
                format!("This needs the role {}.", Role::Ops.into_str()),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADA: Uuid = Uuid::from_u128(1);
    const BOB: Uuid = Uuid::from_u128(2);

    #[test]
    fn a_role_in_the_token_that_is_not_stored_admits_nobody() {
        let operators = Operators::new(vec![ADA]);
        assert_eq!(operators.admit(&Actor::user(ADA, [Role::Ops])), Ok(()));
        for actor in [Actor::user(BOB, [Role::Ops]), Actor::Anonymous, Actor::module("users")] {
            assert_eq!(
                operators.admit(&actor).unwrap_err().code,
                "insufficient_role",
                "{actor:?}"
            );
        }
    }
}
