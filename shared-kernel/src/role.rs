//! What users of the shop may do, and whose things they may see.

use banyan_core::{Actor, OPERATOR, RequiredRole};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What a user may do, beyond what is their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Buys: sees and changes their own things alone.
    Customer,
    /// The back office: sees every customer's orders, keeps catalog and stock.
    Staff,
    /// Runs the machinery: operations API and console.
    Ops,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Customer => Customer::NAME,
            Role::Staff => Staff::NAME,
            Role::Ops => OPERATOR,
        }
    }

    /// `None` for a role this build does not know, which then grants nothing.
    pub fn find(name: &str) -> Option<Role> {
        [Role::Customer, Role::Staff, Role::Ops]
            .into_iter()
            .find(|role| role.as_str() == name)
    }
}

impl AsRef<str> for Role {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl From<Role> for String {
    fn from(role: Role) -> String {
        role.as_str().to_owned()
    }
}

/// For handlers: the role [`Role::Customer`].
#[derive(Clone, Copy, Debug)]
pub struct Customer;

impl RequiredRole for Customer {
    const NAME: &'static str = "customer";
}

/// For handlers: the role [`Role::Staff`].
#[derive(Clone, Copy, Debug)]
pub struct Staff;

impl RequiredRole for Staff {
    const NAME: &'static str = "staff";
}

/// Whose things an actor may see.
pub trait MaySee {
    /// May this actor see what belongs to `owner`? Owners, staff and the modules themselves may.
    fn may_see(&self, owner: Uuid) -> bool;
}

impl MaySee for Actor {
    fn may_see(&self, owner: Uuid) -> bool {
        match self {
            Actor::Anonymous => false,
            Actor::User { id, .. } => *id == owner || self.has_role(Role::Staff),
            Actor::Module { .. } => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_customer_sees_only_their_own_and_staff_sees_all() {
        let (me, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let customer = Actor::user(me, [Role::Customer]);
        assert!(customer.may_see(me) && !customer.may_see(other));
        assert!(Actor::user(me, [Role::Staff]).may_see(other));
        assert!(!Actor::user(me, [Role::Ops]).may_see(other));
        assert!(!Actor::Anonymous.may_see(me));
    }

    #[test]
    fn a_role_is_found_by_the_name_it_has_in_a_token() {
        for role in [Role::Customer, Role::Staff, Role::Ops] {
            assert_eq!(Role::find(role.as_str()), Some(role));
            assert_eq!(serde_json::to_value(role).unwrap(), role.as_str());
        }
    }
}
