//! The roles of the shop's users, and whose data an actor may see.

use banyan_core::{Actor, RequiredRole};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What a user may do, beyond what is their own.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
    strum::AsRefStr,
    strum::IntoStaticStr,
    strum::EnumString,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", const_into_str)]
pub enum Role {
    /// Buys: sees and changes their own things alone.
    Customer,
    /// The back office: sees every customer's orders, keeps catalog and stock.
    Staff,
    /// Runs the machinery: operations API and console.
    Ops,
}

impl From<Role> for String {
    fn from(role: Role) -> String {
        role.into_str().to_owned()
    }
}

/// For handlers: the role [`Role::Customer`].
#[derive(Clone, Copy, Debug)]
pub struct Customer;

impl RequiredRole for Customer {
    const NAME: &'static str = Role::Customer.into_str();
}

/// For handlers: the role [`Role::Staff`].
#[derive(Clone, Copy, Debug)]
pub struct Staff;

impl RequiredRole for Staff {
    const NAME: &'static str = Role::Staff.into_str();
}

/// Whether an actor may see a user's data.
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
    use banyan_core::OPERATOR;

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
    fn a_role_has_the_same_name_in_rust_in_json_and_in_a_token() {
        for role in [Role::Customer, Role::Staff, Role::Ops] {
            assert_eq!(role.into_str().parse(), Ok(role));
            assert_eq!(serde_json::to_value(role).unwrap(), role.into_str());
        }
        assert_eq!(Role::Ops.into_str(), OPERATOR);
        assert!("king".parse::<Role>().is_err());
    }
}
