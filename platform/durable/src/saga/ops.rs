//! What operators can see of sagas, and do to one.
//!
//! Every action raises the saga's lease token: what a runner is doing with the saga becomes void, and is repeated from the stored command.

use banyan_core::{Actor, Cursor, Fault, Page, PageRequest, Timestamp};
use sea_orm::Value;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Leftovers, TOPIC,
    definition::Definitions,
    log::{self, Entries, SagaLogEntry},
    store::{self, COLUMNS, Row, SagaState, UNSEEN},
};
use crate::{
    Db, Tx, audit,
    ops::before,
    query::{self, StoredTime},
};

/// A module's sagas, for operators.
#[derive(Clone)]
pub struct SagaOps {
    pub(super) db: Db,
    pub(super) definitions: Definitions,
}

/// Which sagas to list; without a condition all.
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
    /// What it has learned so far, without what is personal; null if this process does not know its definition, and 30 days after its end.
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
    /// What it has left in other modules; of a parked or abandoned saga only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leftovers: Option<Leftovers>,
    /// The last 500 entries, oldest first.
    pub log: Vec<SagaLogEntry>,
}

/// The number of sagas that a page of one kind looks at.
const LOOKED_AT: i64 = 10_000;

/// Ids grow with time. The state is part of the text, so that the statement is planned for that state.
fn newest(filter: &SagaFilter, before: Uuid, limit: u64) -> (String, Vec<Value>) {
    let in_state = in_state(filter);
    let mut values: Vec<Value> = vec![query::limit(limit), before.into()];
    let from = match (&filter.business_key, &filter.kind) {
        (Some(business_key), kind) => {
            values.push(business_key.as_str().into());
            let of_kind = kind.as_ref().map(|kind| {
                values.push(kind.as_str().into());
                " and kind = $4"
            });
            // Few sagas share a key. Without statistics SQLite would rather go by an index on the state, so here the state is not a plain column.
            let in_state = in_state.replace("state =", "state || '' =");
            format!(
                "saga where business_key = $3 and id < $2{in_state}{}",
                of_kind.unwrap_or_default()
            )
        }
        (None, Some(kind)) => {
            values.extend([kind.as_str().into(), LOOKED_AT.into()]);
            format!(
                "(select * from saga where id < $2{in_state} order by id desc limit $4) as looked_at where kind = $3"
            )
        }
        (None, None) => format!("saga where id < $2{in_state}"),
    };
    let sql = format!("select {COLUMNS}, {UNSEEN} from {from} order by id desc limit $1");
    (sql, values)
}

/// The last of the sagas that a page of one kind looks at, if there are more.
fn last_looked_at(filter: &SagaFilter, before: Uuid) -> (String, Vec<Value>) {
    let in_state = in_state(filter);
    let sql = format!("select id from saga where id < $1{in_state} order by id desc limit 1 offset $2");
    (sql, vec![before.into(), (LOOKED_AT - 1).into()])
}

fn in_state(filter: &SagaFilter) -> String {
    let state = filter.state.map(|state| format!(" and state = '{state}'"));
    state.unwrap_or_default()
}

impl SagaOps {
    pub(super) fn new(db: Db, definitions: Definitions) -> Self {
        SagaOps { db, definitions }
    }

    /// The newest first. A page of one kind looks at no more than 10,000 sagas, so that a rare kind costs no more than a frequent one: it may have fewer
    /// items than its limit, and then its cursor continues.
    ///
    /// # Errors
    /// `invalid_cursor` (malformed); as any query.
    pub async fn list(&self, filter: &SagaFilter, page: &PageRequest) -> Result<Page<SagaView>, Fault> {
        let (sql, values) = newest(filter, before(page)?, page.fetch_limit());
        let rows: Vec<Row> = query::all(self.db.read(), &sql, values).await?;
        let mut listed = page.page(rows, |row| row.id).map(SagaView::from);
        if listed.next.is_none() && filter.kind.is_some() && filter.business_key.is_none() {
            let (sql, values) = last_looked_at(filter, before(page)?);
            let last: Option<Uuid> = query::scalar(self.db.read(), &sql, values).await?;
            listed.next = last.map(Cursor::from);
        }
        Ok(listed)
    }

    /// Without what it has left in other modules: [`SagaOps::leftovers`].
    ///
    /// # Errors
    /// `not_found`; as any query.
    pub async fn show(&self, id: Uuid) -> Result<SagaDetails, Fault> {
        let sql = format!("select {COLUMNS}, {UNSEEN} from saga where id = $1");
        let row: Option<Row> = query::one(self.db.read(), &sql, [id.into()]).await?;
        let row = row.ok_or_else(|| Fault::not_found("saga"))?;
        // A folded saga has no state any more.
        let definition = self.definitions.find(&row.kind, row.version);
        let definition = definition.filter(|_| !row.payload.is_empty());
        Ok(SagaDetails {
            payload: definition
                .map(|definition| definition.shown(&row.payload))
                .unwrap_or_default(),
            command: row.command.as_deref().map(shown_command),
            command_id: row.command_id,
            lease_owner: row
                .lease_owner
                .clone()
                .filter(|_| row.lease_until > StoredTime::default()),
            traceparent: row.traceparent.clone(),
            leftovers: None,
            log: log::read(&self.db, id).await?,
            saga: row.into(),
        })
    }

    /// Continues a parked saga where it stopped, or a waiting one now.
    ///
    /// # Errors
    /// `not_found`; `saga_finished` (conflict); `reason_required` (invalid).
    pub async fn retry(&self, actor: &Actor, id: Uuid, reason: &str, comment: Option<&str>) -> Result<SagaView, Fault> {
        self.act(
            actor,
            id,
            SagaAction {
                name: "saga.retry",
                entry: "retried",
                change: retry,
            },
            reason,
            comment,
        )
        .await
    }

    /// Requests the compensation of a saga that still goes forward. Its definition gets the request when it runs next and may decide that it is too late:
    /// see the log.
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
            SagaAction {
                name: "saga.compensate",
                entry: "compensation_asked",
                change: compensate,
            },
            reason,
            comment,
        )
        .await
    }

    /// Ends a parked saga as it is; its definition records what that means for the module's own state. What it has done in other modules
    /// remains, until an operator undoes it: [`SagaOps::undo_leftover`].
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
            SagaAction {
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
        action: SagaAction,
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
}

/// An action of an operator on a saga.
#[derive(Clone, Copy)]
struct SagaAction {
    name: &'static str,
    entry: &'static str,
    /// Changes the row, or returns why its state does not allow it.
    change: fn(&mut Row) -> Result<(), Fault>,
}

async fn act(
    tx: &Tx,
    actor: &Actor,
    id: Uuid,
    definitions: &Definitions,
    action: SagaAction,
    reason: &str,
    comment: Option<&str>,
) -> Result<SagaView, Fault> {
    let mut row = store::load(tx, id).await?.ok_or_else(|| Fault::not_found("saga"))?;
    if row.state.is_finished() {
        return Err(Fault::conflict(
            "saga_finished",
            format!("The saga is {} already.", row.state),
        ));
    }
    let seen = row.seen();
    (action.change)(&mut row)?;
    if row.state == SagaState::Abandoned {
        let definition = definitions.find(&row.kind, row.version).ok_or_else(|| {
            let what = format!(
                "Version {} of {} is not known to this process, which cannot say what abandoning it means.",
                row.version, row.kind
            );
            Fault::conflict("saga_unknown", what)
        })?;
        definition.abandon(tx, &row).await?;
    }
    row.lease_token += 1;
    // A command may be under way. The next runner knows it from the owner of the lease, which stays.
    row.lease_until = StoredTime::default();
    row.next_run_at = row.seen_at;
    let mut log = Entries::default();
    let detail = format!("{}: {reason}", actor.label());
    log.add(tx.clock().now(), action.entry, &row.step, &detail)?;
    store::save(tx, &mut row, &seen, &log).await?;
    audit(tx, actor, action.name, &format!("saga/{id}"), reason, comment).await?;
    tx.wake(TOPIC);
    tx.wake(row.business_key.as_str());
    row.updated_at = tx.clock().now().into();
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

/// A stored command as an operator may see it: its name and the ids in it. The rest may be personal data.
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
            deadline_at: row.deadline_at.map(Timestamp::from),
            next_run_at: row.next_run_at.into(),
            created_at: row.created_at.into(),
            updated_at: row.updated_at.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::shown_command;

    #[test]
    fn the_name_and_the_ids_of_a_command_are_shown_and_no_personal_data() {
        let id = "0193a5b8-0000-7000-8000-0000deadbeef";
        let command = format!(
            r#"{{"send_letter": {{"command_id": "{id}", "address": {{"name": "Ada", "city": "London"}}, "pages": [{{"text": "Hello"}}], "weight": 7}}}}"#
        );
        let shown = serde_json::json!({"send_letter": {"command_id": id, "address": {}}});
        assert_eq!(shown_command(&command), shown);
        assert_eq!(shown_command("Ada lives in London"), "unreadable");
    }
}
