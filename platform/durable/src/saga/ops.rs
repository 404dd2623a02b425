//! What operators see of sagas, and what they may do to one.
//!
//! Every action raises the saga's lease token: what a runner does with it at that moment is void, and taken up again from the stored command.

use banyan_core::{Actor, Fault, Page, PageRequest, Timestamp};
use sea_orm::{ConnectionTrait, Statement, Value};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    TOPIC,
    definition::Definitions,
    store::{self, Row, SagaState},
};
use crate::{Db, Tx, audit, fault::fault, ops::before};

/// A module's sagas, for operators.
#[derive(Clone)]
pub struct SagaOps {
    db: Db,
    definitions: Definitions,
}

/// Which sagas to list; nothing said means all.
#[derive(Clone, Debug, Default)]
pub struct SagaFilter {
    pub state: Option<SagaState>,
    pub kind: Option<String>,
    /// What it is about.
    pub business_key: Option<String>,
}

/// One saga, in short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SagaView {
    pub id: Uuid,
    pub kind: String,
    /// The version of the definition it was born with and finishes under.
    pub definition_version: i64,
    /// What it is about; unique per kind.
    pub business_key: String,
    pub state: SagaState,
    /// The step under way, or the last one; empty before the first.
    pub step: String,
    /// How often the present command was sent without an answer that led on.
    pub attempts: i64,
    /// Bugs met since the last decision.
    pub failures: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parked_reason: Option<String>,
    /// The state a parked saga goes back to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parked_state: Option<SagaState>,
    /// A signal it has not heard yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// An operator wants it undone, and it has not been told yet.
    pub compensate_asked: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_at: Option<Timestamp>,
    /// When it is driven next; of no meaning unless it is running or compensating.
    pub next_run_at: Timestamp,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// One saga with everything known about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SagaDetails {
    #[serde(flatten)]
    pub saga: SagaView,
    /// What it has learned so far, without what is personal; null if this process does not know its definition.
    pub payload: serde_json::Value,
    /// The command under way: its name and the ids in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_id: Option<Uuid>,
    /// The runner that drives it at this moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_owner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The last 500 entries, oldest first.
    pub log: Vec<SagaLogEntry>,
}

/// Something that happened to a saga.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SagaLogEntry {
    /// 1 for the first, then gapless.
    pub seq: i64,
    pub at: Timestamp,
    /// `started`, `begun`, `news`, `refused`, `signal`, `deadline_passed`, `unknown`, `failed`; then `do`, `undo`, `repeat`, `continue`,
    /// `completed`, `compensated`, `parked`; of operators `retried`, `compensation_asked`, `abandoned`, and `compensate` once it was told.
    pub entry: String,
    pub step: String,
    pub detail: String,
}

impl SagaOps {
    pub(super) fn new(db: Db, definitions: Definitions) -> Self {
        SagaOps { db, definitions }
    }

    /// The newest first.
    ///
    /// # Errors
    /// `invalid_cursor` (malformed); as any query.
    pub async fn list(&self, filter: &SagaFilter, page: &PageRequest) -> Result<Page<SagaView>, Fault> {
        // Ids grow with time.
        let mut values: Vec<Value> = vec![
            i64::try_from(page.fetch_limit()).unwrap_or(i64::MAX).into(),
            before(page)?.into(),
        ];
        let mut terms = vec!["id < $2".to_owned()];
        if let Some(state) = filter.state {
            values.push(state.as_str().into());
            terms.push(format!("state = ${}", values.len()));
        }
        if let Some(kind) = &filter.kind {
            values.push(kind.as_str().into());
            terms.push(format!("kind = ${}", values.len()));
        }
        if let Some(business_key) = &filter.business_key {
            values.push(business_key.as_str().into());
            terms.push(format!("business_key = ${}", values.len()));
        }
        let sql = format!(
            "select {} from saga where {} order by id desc limit $1",
            store::COLUMNS,
            terms.join(" and ")
        );
        let rows = self.query(sql, values).await?;
        let views = rows
            .iter()
            .map(|row| Row::read(row).map(SagaView::from))
            .collect::<Result<Vec<_>, Fault>>()?;
        Ok(page.page(views, |last| last.id))
    }

    /// # Errors
    /// `not_found`; as any query.
    pub async fn show(&self, id: Uuid) -> Result<SagaDetails, Fault> {
        let sql = format!("select {} from saga where id = $1", store::COLUMNS);
        let rows = self.query(sql, vec![id.into()]).await?;
        let row = Row::read(rows.first().ok_or_else(|| Fault::not_found("saga"))?)?;
        let sql = "select seq, at, entry, step, detail from saga_log where saga_id = $1 order by seq desc limit 500"
            .to_owned();
        let mut log = self
            .query(sql, vec![id.into()])
            .await?
            .iter()
            .map(read_entry)
            .collect::<Result<Vec<_>, Fault>>()?;
        log.reverse();
        Ok(SagaDetails {
            payload: self
                .definitions
                .find(&row.kind, row.version)
                .map(|definition| definition.shown(&row.payload))
                .unwrap_or_default(),
            command: row.command.as_deref().map(shown_command),
            command_id: row.command_id,
            lease_owner: row.lease_owner.clone().filter(|_| row.lease_until.as_ms() > 0),
            traceparent: row.traceparent.clone(),
            log,
            saga: row.into(),
        })
    }

    /// Lets a parked saga go on where it stopped, or a waiting one go on now.
    ///
    /// # Errors
    /// `not_found`; `saga_finished` (conflict); `reason_required` (invalid).
    pub async fn retry(&self, actor: &Actor, id: Uuid, reason: &str, comment: Option<&str>) -> Result<SagaView, Fault> {
        self.act(
            actor,
            id,
            Action {
                name: "saga.retry",
                entry: "retried",
                change: retry,
            },
            reason,
            comment,
        )
        .await
    }

    /// Wants a saga undone that still goes forward. Its definition is told when it runs next, and may answer that it is too late: the log shows.
    ///
    /// # Errors
    /// `not_found`; `saga_finished`, `saga_compensating` (conflict); `reason_required` (invalid).
    pub async fn compensate(
        &self,
        actor: &Actor,
        id: Uuid,
        reason: &str,
        comment: Option<&str>,
    ) -> Result<SagaView, Fault> {
        self.act(
            actor,
            id,
            Action {
                name: "saga.compensate",
                entry: "compensation_asked",
                change: compensate,
            },
            reason,
            comment,
        )
        .await
    }

    /// Ends a parked saga as it stands; its definition records what that means for the module's own state. Whatever it left behind in other modules
    /// is the operator's to put right.
    ///
    /// # Errors
    /// `not_found`; `saga_finished`, `saga_not_parked`, `saga_unknown` (conflict); `reason_required` (invalid); as its definition says.
    pub async fn abandon(
        &self,
        actor: &Actor,
        id: Uuid,
        reason: &str,
        comment: Option<&str>,
    ) -> Result<SagaView, Fault> {
        self.act(
            actor,
            id,
            Action {
                name: "saga.abandon",
                entry: "abandoned",
                change: abandon,
            },
            reason,
            comment,
        )
        .await
    }

    async fn act(
        &self,
        actor: &Actor,
        id: Uuid,
        action: Action,
        reason: &str,
        comment: Option<&str>,
    ) -> Result<SagaView, Fault> {
        if reason.trim().is_empty() {
            return Err(Fault::invalid("reason_required", "Say why.").at("/reason", "must not be empty"));
        }
        let definitions = self.definitions.clone();
        let context = (
            actor.clone(),
            reason.to_owned(),
            comment.map(str::to_owned),
            definitions,
        );
        self.db
            .write(context, move |tx, (actor, reason, comment, definitions)| async move {
                act(&tx, &actor, id, &definitions, action, &reason, comment.as_deref()).await
            })
            .await
    }

    async fn query(&self, sql: String, values: Vec<Value>) -> Result<Vec<sea_orm::QueryResult>, Fault> {
        let statement = Statement::from_sql_and_values(self.db.backend(), sql, values);
        self.db.read().query_all_raw(statement).await.map_err(fault)
    }
}

/// What an operator does to a saga.
#[derive(Clone, Copy)]
struct Action {
    name: &'static str,
    entry: &'static str,
    /// Changes the row, or says why its state does not allow it.
    change: fn(&mut Row) -> Result<(), Fault>,
}

async fn act(
    tx: &Tx,
    actor: &Actor,
    id: Uuid,
    definitions: &Definitions,
    action: Action,
    reason: &str,
    comment: Option<&str>,
) -> Result<SagaView, Fault> {
    let mut row = store::load_locked(tx, id)
        .await?
        .ok_or_else(|| Fault::not_found("saga"))?;
    if row.state.is_finished() {
        return Err(Fault::conflict(
            "saga_finished",
            format!("The saga is {} already.", row.state.as_str()),
        ));
    }
    (action.change)(&mut row)?;
    if row.state == SagaState::Abandoned {
        let definition = definitions.find(&row.kind, row.version).ok_or_else(|| {
            let what = format!(
                "Version {} of {} is not known to this process, which cannot say what giving it up means.",
                row.version, row.kind
            );
            Fault::conflict("saga_unknown", what)
        })?;
        definition.abandon(tx, &row).await?;
    }
    let token = row.lease_token;
    row.lease_token += 1;
    // A command may be on its way. Whoever goes on learns so from the holder's name, which stays.
    row.lease_until = Timestamp::default();
    row.next_run_at = tx.database_now().await?;
    store::save(tx, &row, token).await?;
    store::log(tx, id, action.entry, &row.step, &format!("{}: {reason}", actor.label())).await?;
    audit(tx, actor, action.name, &format!("saga/{id}"), reason, comment).await?;
    tx.wake(TOPIC);
    tx.wake(row.business_key.as_str());
    row.updated_at = tx.clock().now();
    Ok(row.into())
}

fn retry(row: &mut Row) -> Result<(), Fault> {
    unpark(row);
    row.failures = 0;
    Ok(())
}

fn compensate(row: &mut Row) -> Result<(), Fault> {
    if row.state == SagaState::Compensating || row.parked_state == Some(SagaState::Compensating) {
        return Err(Fault::conflict(
            "saga_compensating",
            "The saga is being undone already; retry it if it is parked.",
        ));
    }
    unpark(row);
    row.failures = 0;
    row.compensate_asked = true;
    Ok(())
}

fn abandon(row: &mut Row) -> Result<(), Fault> {
    if row.state != SagaState::Parked {
        return Err(Fault::conflict(
            "saga_not_parked",
            "Only a parked saga can be abandoned.",
        ));
    }
    row.state = SagaState::Abandoned;
    Ok(())
}

fn unpark(row: &mut Row) {
    if let Some(state) = row.parked_state.take() {
        row.state = state;
        row.parked_reason = None;
    }
}

fn read_entry(row: &sea_orm::QueryResult) -> Result<SagaLogEntry, Fault> {
    Ok(SagaLogEntry {
        seq: row.try_get("", "seq").map_err(fault)?,
        at: Timestamp::from_ms(row.try_get("", "at").map_err(fault)?),
        entry: row.try_get("", "entry").map_err(fault)?,
        step: row.try_get("", "step").map_err(fault)?,
        detail: row.try_get("", "detail").map_err(fault)?,
    })
}

/// A stored command as an operator reads it: what is asked, and about which things. What else is in it may be personal.
fn shown_command(text: &str) -> serde_json::Value {
    serde_json::from_str(text).map_or_else(|_| "unreadable".into(), |command| ids_in(command).unwrap_or_default())
}

/// Names and ids: objects, and the strings in them that are ids.
fn ids_in(value: serde_json::Value) -> Option<serde_json::Value> {
    use serde_json::Value;
    match value {
        Value::Object(fields) => Some(Value::Object(
            fields
                .into_iter()
                .filter_map(|(name, value)| Some((name, ids_in(value)?)))
                .collect(),
        )),
        Value::String(text) => Uuid::parse_str(&text).is_ok().then_some(Value::String(text)),
        _ => None,
    }
}

impl From<Row> for SagaView {
    fn from(row: Row) -> Self {
        SagaView {
            id: row.id,
            kind: row.kind,
            definition_version: row.version,
            business_key: row.business_key,
            state: row.state,
            step: row.step,
            attempts: row.attempts,
            failures: row.failures,
            last_error: row.last_error,
            parked_reason: row.parked_reason,
            parked_state: row.parked_state,
            signal: row.signal,
            compensate_asked: row.compensate_asked,
            deadline_at: row.deadline_at,
            next_run_at: row.next_run_at,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::shown_command;

    #[test]
    fn of_a_command_its_name_and_its_ids_are_shown_and_nothing_personal() {
        let id = "0193a5b8-0000-7000-8000-0000deadbeef";
        let command = format!(
            r#"{{"schedule_shipment": {{"command_id": "{id}", "address": {{"name": "Ada", "city": "London"}}, "lines": [{{"sku": "fig"}}], "total": 7}}}}"#
        );
        let shown = serde_json::json!({"schedule_shipment": {"command_id": id, "address": {}}});
        assert_eq!(shown_command(&command), shown);
        assert_eq!(shown_command("Ada lives in London"), "unreadable");
    }
}
