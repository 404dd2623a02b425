//! Who is calling.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The role of operators, which the operations API requires. All other roles are defined by the product.
pub const OPERATOR: &str = "ops";

/// A role that a handler requires by its type.
pub trait RequiredRole: 'static {
    /// The name in a token.
    const NAME: &'static str;
}

/// The party a call acts for. It comes from a verified token, or is a module acting on its own; it never comes from a header that a client sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// The client did not authenticate.
    #[default]
    Anonymous,
    /// An authenticated user, with the names of their roles. A role that no handler requires grants nothing.
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
