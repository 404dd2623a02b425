//! The powers of operators over the accounts of others. Each is checked against the stored roles; one that changes something, in its own
//! transaction, and leaves an audit row.

use banyan_core::{Actor, Call, Fault, Page, PageRequest};
use banyan_durable::Tx;
use banyan_http::{IfMatch, Reason};
use shared_kernel::Role;
use uuid::Uuid;

use super::{Service, role_names, subject};
use crate::{
    security,
    session::{OpenSession, RevokedReason},
    store,
    user::User,
};

impl Service {
    /// Replaces the roles of a user and ends their sessions, so that the new roles take effect with the next log-in.
    ///
    /// # Errors
    /// `insufficient_role` if the caller is not an operator any more; `not_found`; `precondition_failed`; `own_operations_role`.
    pub async fn change_roles(
        &self,
        call: &Call,
        (id, version): (Uuid, IfMatch),
        roles: Vec<Role>,
    ) -> Result<User, Fault> {
        let now = self.clock.now();
        let changing = self.db.write(
            (call.clone(), version, roles),
            move |tx, (call, version, roles)| async move {
                let user = admit(&tx, &call.actor, id).await?;
                version.check(&etag(&user))?;
                let Some(changed) = user.with_roles(&roles, &call.actor, now)? else {
                    return Ok((user, None));
                };
                store::update_user(tx.conn(), &changed).await?;
                store::revoke_sessions_of(tx.conn(), id, None, RevokedReason::RolesChanged, now).await?;
                let (before, after) = (role_names(&user.roles).join(","), role_names(&changed.roles).join(","));
                let change = format!("{before} -> {after}");
                banyan_durable::audit(&tx, &call.actor, "change_roles", &subject(id), &change, None).await?;
                Ok((changed, Some(change)))
            },
        );
        let (user, change) = changing.await?;
        if let Some(change) = change {
            security::event("roles_changed", id, &call.actor.label(), "", &change);
        }
        Ok(user)
    }

    /// Disables an account and ends its sessions: its user cannot log in until it is enabled.
    ///
    /// # Errors
    /// `insufficient_role` if the caller is not an operator any more; `not_found`; `precondition_failed`; `own_account`.
    pub async fn disable(&self, call: &Call, (id, version): (Uuid, IfMatch), why: Reason) -> Result<User, Fault> {
        let now = self.clock.now();
        let (user, reason) = self
            .db
            .write(
                (call.clone(), version, why),
                move |tx, (call, version, why)| async move {
                    let user = admit(&tx, &call.actor, id).await?;
                    version.check(&etag(&user))?;
                    let Some(changed) = user.disable(&call.actor, now)? else {
                        return Ok((user, None));
                    };
                    store::update_user(tx.conn(), &changed).await?;
                    store::revoke_sessions_of(tx.conn(), id, None, RevokedReason::AccountDisabled, now).await?;
                    store::expire_tokens(tx.conn(), id, now).await?;
                    audit(&tx, &call.actor, "disable_account", id, &why).await?;
                    Ok((changed, Some(why.reason)))
                },
            )
            .await?;
        if let Some(reason) = reason {
            security::event("account_disabled", id, &call.actor.label(), "", &reason);
        }
        Ok(user)
    }

    /// Enables a disabled account.
    ///
    /// # Errors
    /// `insufficient_role` if the caller is not an operator any more; `not_found`.
    pub async fn enable(&self, call: &Call, (id, version): (Uuid, IfMatch), why: Reason) -> Result<User, Fault> {
        let now = self.clock.now();
        let (user, reason) = self
            .db
            .write(
                (call.clone(), version, why),
                move |tx, (call, version, why)| async move {
                    let user = admit(&tx, &call.actor, id).await?;
                    version.check(&etag(&user))?;
                    let Some(changed) = user.enable(now) else {
                        return Ok((user, None));
                    };
                    store::update_user(tx.conn(), &changed).await?;
                    audit(&tx, &call.actor, "enable_account", id, &why).await?;
                    Ok((changed, Some(why.reason)))
                },
            )
            .await?;
        if let Some(reason) = reason {
            security::event("account_enabled", id, &call.actor.label(), "", &reason);
        }
        Ok(user)
    }

    /// The open sessions of any user.
    ///
    /// # Errors
    /// `insufficient_role` if the caller is not an operator any more; `not_found`.
    pub async fn list_sessions_of(
        &self,
        actor: &Actor,
        id: Uuid,
        page: &PageRequest,
    ) -> Result<Page<OpenSession>, Fault> {
        store::find_operators(self.db.read()).await?.admit(actor)?;
        if store::find_user(self.db.read(), id).await?.is_none() {
            return Err(Fault::not_found("user"));
        }
        self.list_sessions(id, None, page).await
    }

    /// Ends all sessions of any user.
    ///
    /// # Errors
    /// `insufficient_role` if the caller is not an operator any more; `not_found`.
    pub async fn end_sessions_of(&self, call: &Call, id: Uuid) -> Result<(), Fault> {
        let now = self.clock.now();
        self.db
            .write(call.clone(), move |tx, call| async move {
                admit(&tx, &call.actor, id).await?;
                store::revoke_sessions_of(tx.conn(), id, None, RevokedReason::EndedByOperator, now).await?;
                banyan_durable::audit(&tx, &call.actor, "end_sessions", &subject(id), "all", None).await
            })
            .await?;
        security::event("session_ended", id, &call.actor.label(), "", "ended_by_operator");
        Ok(())
    }

    /// Ends one session of any user.
    ///
    /// # Errors
    /// `insufficient_role` if the caller is not an operator any more; `not_found`.
    pub async fn end_session_of(&self, call: &Call, id: Uuid, session_id: Uuid) -> Result<(), Fault> {
        let now = self.clock.now();
        self.db
            .write(call.clone(), move |tx, call| async move {
                admit(&tx, &call.actor, id).await?;
                let reason = RevokedReason::EndedByOperator;
                if !store::revoke_session_of(tx.conn(), id, session_id, reason, now).await? {
                    return Err(Fault::not_found("session"));
                }
                let which = format!("session {session_id}");
                banyan_durable::audit(&tx, &call.actor, "end_sessions", &subject(id), &which, None).await
            })
            .await?;
        security::event("session_ended", id, &call.actor.label(), "", "ended_by_operator");
        Ok(())
    }
}

/// The `ETag` of a user, which `If-Match` names.
pub(crate) fn etag(user: &User) -> String {
    banyan_http::etag(user.etag_version())
}

/// The user whose account a power is exercised on, if the actor is an operator until the transaction ends.
async fn admit(tx: &Tx, actor: &Actor, id: Uuid) -> Result<User, Fault> {
    store::lock_operators(tx.conn()).await?.admit(actor)?;
    store::find_user(tx.conn(), id)
        .await?
        .ok_or_else(|| Fault::not_found("user"))
}

async fn audit(tx: &Tx, actor: &Actor, action: &str, id: Uuid, why: &Reason) -> Result<(), Fault> {
    banyan_durable::audit(tx, actor, action, &subject(id), &why.reason, why.comment.as_deref()).await
}
