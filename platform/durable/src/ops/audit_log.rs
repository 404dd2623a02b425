//! Who of the operators did what, and why, to be read.

use banyan_core::{Fault, Page, PageRequest, Timestamp};
use sea_orm::QueryResult;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Ops, before};
use crate::fault::fault;

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
        let limit = i64::try_from(page.fetch_limit()).unwrap_or(i64::MAX);
        let sql =
            "select id, at, actor, action, target, reason, comment from audit where id < $1 order by id desc limit $2";
        let rows = self.all(sql, [before(page)?.into(), limit.into()]).await?;
        let entries = rows.iter().map(AuditEntry::read).collect::<Result<Vec<_>, Fault>>()?;
        Ok(page.page(entries, |entry| entry.id))
    }
}

impl AuditEntry {
    fn read(row: &QueryResult) -> Result<Self, Fault> {
        Ok(AuditEntry {
            id: row.try_get("", "id").map_err(fault)?,
            at: row.try_get("", "at").map(Timestamp::from_ms).map_err(fault)?,
            actor: row.try_get("", "actor").map_err(fault)?,
            action: row.try_get("", "action").map_err(fault)?,
            target: row.try_get("", "target").map_err(fault)?,
            reason: row.try_get("", "reason").map_err(fault)?,
            comment: row.try_get("", "comment").map_err(fault)?,
        })
    }
}
