//! The powers of operators over the accounts of others. Each is checked against the stored roles, in its own transaction.

use banyan_core::{Call, Fault};
use shared_kernel::Role;
use uuid::Uuid;

use super::{Service, role_names, subject};
use crate::{session::RevokedReason, store, user::User};

impl Service {
    /// Replaces the roles of a user and ends their sessions, so that the new roles take effect with the next log-in.
    ///
    /// # Errors
    /// `insufficient_role` if the caller is not an operator any more; `not_found`; `own_operations_role`.
    pub async fn change_roles(&self, call: &Call, id: Uuid, roles: Vec<Role>) -> Result<User, Fault> {
        let now = self.clock.now();
        self.db
            .write((call.clone(), roles), move |tx, (call, roles)| async move {
                store::lock_operators(tx.conn()).await?.admit(&call.actor)?;
                let user = store::find_user(tx.conn(), id)
                    .await?
                    .ok_or_else(|| Fault::not_found("user"))?;
                let Some(changed) = user.with_roles(&roles, &call.actor, now)? else {
                    return Ok(user);
                };
                store::update_user(tx.conn(), &changed).await?;
                store::revoke_sessions_of(tx.conn(), id, RevokedReason::RolesChanged, now).await?;
                let (before, after) = (role_names(&user.roles).join(","), role_names(&changed.roles).join(","));
                banyan_durable::audit(
                    &tx,
                    &call.actor,
                    "change_roles",
                    &subject(id),
                    &format!("{before} -> {after}"),
                    None,
                )
                .await?;
                Ok(changed)
            })
            .await
    }
}
