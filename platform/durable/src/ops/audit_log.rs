//! The audit log, as operators read it.

use banyan_core::{Fault, Page, PageRequest, Timestamp};
use sea_orm::FromQueryResult;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Ops, before};
use crate::query::{self, StoredTime};

/// One operator action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditEntry {
    pub id: Uuid,
    pub at: Timestamp,
    /// `user:<id>` or `module:<name>`.
    pub actor: String,
    /// What was done, for example `dead_letter.discard`.
    pub action: String,
    /// To what, for example `dead_letter/<id>`.
    pub target: String,
    pub reason: String,
    pub comment: Option<String>,
}

impl Ops {
    /// The newest first.
    ///
    /// # Errors
    /// `invalid_cursor`; as any query.
    pub async fn list_audit(&self, page: &PageRequest) -> Result<Page<AuditEntry>, Fault> {
        let sql =
            "select id, at, actor, action, target, reason, comment from audit where id < $1 order by id desc limit $2";
        let values = [before(page)?.into(), query::limit(page.fetch_limit())];
        let rows: Vec<AuditRow> = query::all(self.db.read(), sql, values).await?;
        Ok(page.page(rows, |row| row.id).map(AuditEntry::from))
    }
}

#[derive(FromQueryResult)]
struct AuditRow {
    id: Uuid,
    at: StoredTime,
    actor: String,
    action: String,
    target: String,
    reason: String,
    comment: Option<String>,
}

impl From<AuditRow> for AuditEntry {
    fn from(row: AuditRow) -> Self {
        AuditEntry {
            id: row.id,
            at: row.at.into(),
            actor: row.actor,
            action: row.action,
            target: row.target,
            reason: row.reason,
            comment: row.comment,
        }
    }
}
