//! Who is asking.

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
            Role::Customer => "customer",
            Role::Staff => "staff",
            Role::Ops => "ops",
        }
    }

    /// `None` for a role this build does not know, which then grants nothing.
    pub fn find(name: &str) -> Option<Role> {
        [Role::Customer, Role::Staff, Role::Ops]
            .into_iter()
            .find(|role| role.as_str() == name)
    }
}

/// The party a call acts for. It comes from a verified token at the edge, or from a module acting on its own;
/// never from a header a client wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// Nobody has said who they are.
    #[default]
    Anonymous,
    /// A logged-in user.
    User { id: Uuid, roles: Vec<Role> },
    /// A module doing its own work: a saga, a reaction, a reconciler.
    Module { name: String },
}

impl Actor {
    pub fn module(name: &str) -> Self {
        Actor::Module { name: name.to_owned() }
    }

    pub fn has_role(&self, role: Role) -> bool {
        matches!(self, Actor::User { roles, .. } if roles.contains(&role))
    }

    pub fn user_id(&self) -> Option<Uuid> {
        match self {
            Actor::User { id, .. } => Some(*id),
            _ => None,
        }
    }

    /// May this actor see what belongs to `owner`? Owners, staff and the modules themselves may.
    pub fn may_see(&self, owner: Uuid) -> bool {
        match self {
            Actor::Anonymous => false,
            Actor::User { id, .. } => *id == owner || self.has_role(Role::Staff),
            Actor::Module { .. } => true,
        }
    }

    /// A stable name for audit rows, idempotency scopes and logs: `user:<id>`, `module:<name>` or `anonymous`.
    pub fn label(&self) -> String {
        match self {
            Actor::Anonymous => "anonymous".to_owned(),
            Actor::User { id, .. } => format!("user:{id}"),
            Actor::Module { name } => format!("module:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_customer_sees_only_their_own_and_staff_sees_all() {
        let (me, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let customer = Actor::User {
            id: me,
            roles: vec![Role::Customer],
        };
        assert!(customer.may_see(me) && !customer.may_see(other));
        assert!(
            Actor::User {
                id: me,
                roles: vec![Role::Staff]
            }
            .may_see(other)
        );
        assert!(
            !Actor::User {
                id: me,
                roles: vec![Role::Ops]
            }
            .may_see(other)
        );
        assert!(!Actor::Anonymous.may_see(me));
    }
}
