//! Who is calling.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The role of whoever runs the machinery: the operations API asks for it. What other roles there are is each product's matter.
pub const OPERATOR: &str = "ops";

/// A role that a handler asks for by its type.
pub trait RequiredRole: 'static {
    /// As it stands in a token.
    const NAME: &'static str;
}

/// The party a call acts for. It comes from a verified token at the edge, or from a module acting on its own;
/// never from a header a client wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// Nobody has said who they are.
    #[default]
    Anonymous,
    /// A logged-in user, with the names of their roles. A role that nobody asks for grants nothing.
    User { id: Uuid, roles: Vec<String> },
    /// A module doing its own work: a saga, a reaction, a reconciler.
    Module { name: String },
}

impl Actor {
    pub fn user<R: Into<String>>(id: Uuid, roles: impl IntoIterator<Item = R>) -> Self {
        Actor::User {
            id,
            roles: roles.into_iter().map(Into::into).collect(),
        }
    }

    pub fn module(name: &str) -> Self {
        Actor::Module { name: name.to_owned() }
    }

    pub fn has_role(&self, role: impl AsRef<str>) -> bool {
        matches!(self, Actor::User { roles, .. } if roles.iter().any(|name| name == role.as_ref()))
    }

    pub fn user_id(&self) -> Option<Uuid> {
        match self {
            Actor::User { id, .. } => Some(*id),
            _ => None,
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
    fn only_a_user_has_roles_and_only_those_named() {
        let operator = Actor::user(Uuid::from_u128(1), [OPERATOR]);
        assert!(operator.has_role(OPERATOR) && !operator.has_role("staff"));
        assert!(!Actor::Anonymous.has_role(OPERATOR) && !Actor::module(OPERATOR).has_role(OPERATOR));
    }
}
