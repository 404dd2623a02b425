//! The audit log: which operator did what, and why.

use banyan_core::{Actor, Fault};

use crate::Tx;

/// Writes an audit row in the transaction of the action itself.
///
/// # Errors
/// As any query.
pub async fn audit(
    tx: &Tx,
    actor: &Actor,
    action: &str,
    target: &str,
    reason: &str,
    comment: Option<&str>,
) -> Result<(), Fault> {
    tx.execute(
        "insert into audit (id, at, actor, action, target, reason, comment) values ($1, $2, $3, $4, $5, $6, $7)",
        [
            tx.ids().new_id().into(),
            tx.clock().now().as_ms().into(),
            actor.label().into(),
            action.into(),
            target.into(),
            reason.into(),
            comment.map(str::to_owned).into(),
        ],
    )
    .await?;
    Ok(())
}

/// As [`audit`], for a command that modules and operators may both give: what a module does by itself is no operator's action and leaves no row.
///
/// # Errors
/// As any query.
pub async fn audit_operator(
    tx: &Tx,
    actor: &Actor,
    action: &str,
    target: &str,
    reason: Option<&str>,
    comment: Option<&str>,
) -> Result<(), Fault> {
    if matches!(actor, Actor::Module { .. }) {
        return Ok(());
    }
    audit(tx, actor, action, target, reason.unwrap_or_default(), comment).await
}
