//! The saga's row and its log, as SQL.

use std::time::Duration;

use banyan_core::{Call, Fault, Timestamp};
use sea_orm::{ConnectionTrait, DbBackend, QueryResult, Statement, Value};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Db, Tx, fault::fault};

/// Where a saga stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SagaState {
    /// Going forward.
    Running,
    /// Undoing what was done.
    Compensating,
    /// Waiting for a person.
    Parked,
    /// Ended: all is done.
    Completed,
    /// Ended: all is undone.
    Compensated,
    /// Ended by an operator, as it stood.
    Abandoned,
}

impl SagaState {
    pub const ALL: [SagaState; 6] = [
        SagaState::Running,
        SagaState::Compensating,
        SagaState::Parked,
        SagaState::Completed,
        SagaState::Compensated,
        SagaState::Abandoned,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            SagaState::Running => "running",
            SagaState::Compensating => "compensating",
            SagaState::Parked => "parked",
            SagaState::Completed => "completed",
            SagaState::Compensated => "compensated",
            SagaState::Abandoned => "abandoned",
        }
    }

    /// `None` for a word that is not a state.
    pub fn find(name: &str) -> Option<SagaState> {
        SagaState::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// Whether a runner drives it.
    pub fn is_active(self) -> bool {
        matches!(self, SagaState::Running | SagaState::Compensating)
    }

    pub fn is_finished(self) -> bool {
        matches!(
            self,
            SagaState::Completed | SagaState::Compensated | SagaState::Abandoned
        )
    }
}

/// A saga as stored.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub id: Uuid,
    pub kind: String,
    pub version: i64,
    pub business_key: String,
    pub state: SagaState,
    pub step: String,
    pub payload: String,
    pub command: Option<String>,
    pub command_id: Option<Uuid>,
    /// Also set while no lease runs: then its holder left the present command's outcome open.
    pub lease_owner: Option<String>,
    pub lease_token: i64,
    pub lease_until: Timestamp,
    pub next_run_at: Timestamp,
    /// How often the present command was sent without an answer that led on. Above zero: it may have taken effect.
    pub attempts: i64,
    /// Bugs met since the last decision.
    pub failures: i64,
    pub deadline_at: Option<Timestamp>,
    pub deadline_told: bool,
    pub signal: Option<String>,
    pub compensate_asked: bool,
    pub parked_reason: Option<String>,
    pub parked_state: Option<SagaState>,
    pub last_error: Option<String>,
    pub traceparent: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// The database's clock when the row was claimed or advanced; the epoch for a row that was only looked at.
    pub seen_at: Timestamp,
}

pub(super) const COLUMNS: &str = "id, kind, definition_version, business_key, state, step, payload, command, command_id, lease_owner, \
     lease_token, lease_until, next_run_at, attempts, failures, deadline_at, deadline_told, signal, compensate_asked, parked_reason, \
     parked_state, last_error, traceparent, created_at, updated_at";

impl Row {
    pub fn read(row: &QueryResult) -> Result<Row, Fault> {
        let text = |column: &str| row.try_get::<String>("", column).map_err(fault);
        let optional = |column: &str| row.try_get::<Option<String>>("", column).map_err(fault);
        let number = |column: &str| row.try_get::<i64>("", column).map_err(fault);
        let flag = |column: &str| row.try_get::<bool>("", column).map_err(fault);
        let moment = |column: &str| number(column).map(Timestamp::from_ms);
        Ok(Row {
            id: row.try_get("", "id").map_err(fault)?,
            kind: text("kind")?,
            version: number("definition_version")?,
            business_key: text("business_key")?,
            state: state(&text("state")?)?,
            step: text("step")?,
            payload: text("payload")?,
            command: optional("command")?,
            command_id: row.try_get("", "command_id").map_err(fault)?,
            lease_owner: optional("lease_owner")?,
            lease_token: number("lease_token")?,
            lease_until: moment("lease_until")?,
            next_run_at: moment("next_run_at")?,
            attempts: number("attempts")?,
            failures: number("failures")?,
            deadline_at: row
                .try_get::<Option<i64>>("", "deadline_at")
                .map_err(fault)?
                .map(Timestamp::from_ms),
            deadline_told: flag("deadline_told")?,
            signal: optional("signal")?,
            compensate_asked: flag("compensate_asked")?,
            parked_reason: optional("parked_reason")?,
            parked_state: optional("parked_state")?.map(|name| state(&name)).transpose()?,
            last_error: optional("last_error")?,
            traceparent: optional("traceparent")?,
            created_at: moment("created_at")?,
            updated_at: moment("updated_at")?,
            seen_at: Timestamp::default(),
        })
    }

    pub fn deadline_passed(&self, now: Timestamp) -> bool {
        self.deadline_at.is_some_and(|deadline| deadline <= now)
    }

    /// Gives the lease up, knowing how the last command ended or that none was sent.
    pub fn release(&mut self) {
        self.lease_owner = None;
        self.lease_until = Timestamp::default();
    }
}

fn state(name: &str) -> Result<SagaState, Fault> {
    SagaState::find(name).ok_or_else(|| Fault::internal("unreadable_saga", format!("{name} is no state of a saga")))
}

/// The database's clock inside a statement. On PostgreSQL the statement's own moment, so that indexes on moments are used.
fn now(backend: DbBackend) -> &'static str {
    match backend {
        DbBackend::Sqlite => "cast(unixepoch('now', 'subsec') * 1000 as integer)",
        _ => "cast(extract(epoch from statement_timestamp()) * 1000 as bigint)",
    }
}

/// A saga to be.
pub(super) struct New<'a> {
    pub id: Uuid,
    pub kind: &'a str,
    pub version: i64,
    pub business_key: &'a str,
    pub payload: &'a str,
    pub deadline: Option<Duration>,
    pub call: &'a Call,
}

/// False if there is one for this kind and key.
pub(super) async fn insert(tx: &Tx, new: New<'_>) -> Result<bool, Fault> {
    let (now, at) = (tx.database_now().await?, tx.clock().now());
    let inserted = tx
        .execute(
            "insert into saga (id, kind, definition_version, business_key, state, step, payload, lease_token, lease_until, next_run_at,
                 attempts, failures, deadline_at, deadline_told, compensate_asked, traceparent, created_at, updated_at)
             values ($1, $2, $3, $4, 'running', '', $5, 0, 0, $6, 0, 0, $7, $8, $8, $9, $10, $10)
             on conflict (kind, business_key) do nothing",
            [
                new.id.into(),
                new.kind.into(),
                new.version.into(),
                new.business_key.into(),
                new.payload.into(),
                now.as_ms().into(),
                new.deadline.map(|deadline| now.plus(deadline).as_ms()).into(),
                false.into(),
                new.call.trace.as_ref().map(ToString::to_string).into(),
                at.as_ms().into(),
            ],
        )
        .await?;
    if inserted == 1 {
        log(tx, new.id, "started", "", "").await?;
    }
    Ok(inserted == 1)
}

/// False if there is no unfinished saga of this kind and key. It is due at once; if it is parked it hears the signal once it goes on.
pub(super) async fn signal(tx: &Tx, kind: &str, business_key: &str, signal: &str) -> Result<bool, Fault> {
    let now = tx.database_now().await?;
    let told = tx
        .execute(
            "update saga set signal = $3, next_run_at = $4, updated_at = $5
             where kind = $1 and business_key = $2 and state in ('running', 'compensating', 'parked')",
            [
                kind.into(),
                business_key.into(),
                signal.into(),
                now.as_ms().into(),
                tx.clock().now().as_ms().into(),
            ],
        )
        .await?;
    Ok(told > 0)
}

/// Adds an entry to the saga's log. The caller holds the saga's row, which orders the entries.
pub(super) async fn log(tx: &Tx, id: Uuid, entry: &str, step: &str, detail: &str) -> Result<(), Fault> {
    const DETAIL_CHARS: usize = 2_000;
    let detail: String = detail.chars().take(DETAIL_CHARS).collect();
    tx.execute(
        "insert into saga_log (saga_id, seq, at, entry, step, detail)
         select $1, coalesce(max(seq), 0) + 1, $2, $3, $4, $5 from saga_log where saga_id = $1",
        [
            id.into(),
            tx.clock().now().as_ms().into(),
            entry.into(),
            step.into(),
            detail.into(),
        ],
    )
    .await?;
    Ok(())
}

/// Loads a saga and keeps everybody else from changing it until the transaction ends.
pub(super) async fn load_locked(tx: &Tx, id: Uuid) -> Result<Option<Row>, Fault> {
    let lock = if tx.conn().get_database_backend() == DbBackend::Sqlite {
        ""
    } else {
        "for update"
    };
    let row = tx
        .query_one(&format!("select {COLUMNS} from saga where id = $1 {lock}"), [id.into()])
        .await?;
    row.as_ref().map(Row::read).transpose()
}

/// Stores what may change in a row that was loaded under `token`.
pub(super) async fn save(tx: &Tx, row: &Row, token: i64) -> Result<(), Fault> {
    let saved = tx
        .execute(
            "update saga set state = $3, step = $4, payload = $5, command = $6, command_id = $7, lease_owner = $8, lease_token = $9,
                 lease_until = $10, next_run_at = $11, attempts = $12, failures = $13, deadline_told = $14, signal = $15,
                 compensate_asked = $16, parked_reason = $17, parked_state = $18, last_error = $19, updated_at = $20
             where id = $1 and lease_token = $2",
            [
                row.id.into(),
                token.into(),
                row.state.as_str().into(),
                row.step.as_str().into(),
                row.payload.as_str().into(),
                row.command.clone().into(),
                row.command_id.into(),
                row.lease_owner.clone().into(),
                row.lease_token.into(),
                row.lease_until.as_ms().into(),
                row.next_run_at.as_ms().into(),
                row.attempts.into(),
                row.failures.into(),
                row.deadline_told.into(),
                row.signal.clone().into(),
                row.compensate_asked.into(),
                row.parked_reason.clone().into(),
                row.parked_state.map(|state| state.as_str().to_owned()).into(),
                row.last_error.clone().into(),
                tx.clock().now().as_ms().into(),
            ],
        )
        .await?;
    if saved == 1 {
        Ok(())
    } else {
        Err(crate::lost_race("a saga's lease went to somebody else"))
    }
}

/// Claims up to `limit` due sagas of the known kinds and versions, raising their lease tokens. A claim that finds the last holder's name finds
/// a command whose outcome that holder never learned, and marks it as sent.
pub(super) async fn claim(
    tx: &Tx,
    known: &[(&'static str, i64)],
    owner: &str,
    limit: usize,
) -> Result<Vec<Row>, Fault> {
    let backend = tx.conn().get_database_backend();
    let skip = if backend == DbBackend::Sqlite {
        ""
    } else {
        "for update skip locked"
    };
    let mut values: Vec<Value> = vec![
        owner.into(),
        ms(tx.settings().lease_ms).into(),
        i64::try_from(limit).unwrap_or(i64::MAX).into(),
    ];
    let known = among(known, &mut values);
    let now = now(backend);
    let sql = format!(
        "with due as (
             select id from saga where state in ('running', 'compensating') and next_run_at <= {now} and lease_until <= {now} and ({known})
             order by next_run_at limit $3 {skip})
         update saga set lease_token = lease_token + 1, lease_until = {now} + $2, lease_owner = $1,
             attempts = case when lease_owner is not null and command is not null and attempts = 0 then 1 else attempts end
         where id in (select id from due) returning {COLUMNS}, {now} as seen_at"
    );
    let rows = tx
        .conn()
        .query_all_raw(Statement::from_sql_and_values(backend, sql, values))
        .await
        .map_err(fault)?;
    rows.iter()
        .map(|row| {
            let seen_at = row.try_get("", "seen_at").map(Timestamp::from_ms).map_err(fault)?;
            Ok(Row {
                seen_at,
                ..Row::read(row)?
            })
        })
        .collect()
}

/// In how many milliseconds the next saga that nobody drives is due; zero or less if one is now; `None` if there is none. A lease that runs
/// out is found by polling.
pub(super) async fn due_in(db: &Db, known: &[(&'static str, i64)]) -> Result<Option<i64>, Fault> {
    let now = now(db.backend());
    let mut values = Vec::new();
    let known = among(known, &mut values);
    let sql = format!(
        "select next_run_at - {now} as wait_ms from saga
         where state in ('running', 'compensating') and lease_until <= {now} and ({known}) order by next_run_at limit 1"
    );
    let row = db
        .read()
        .query_one_raw(Statement::from_sql_and_values(db.backend(), sql, values))
        .await
        .map_err(fault)?;
    row.map(|row| row.try_get("", "wait_ms").map_err(fault)).transpose()
}

/// `(kind, version)` is one of `known`; its parameters come after those in `values`.
fn among(known: &[(&'static str, i64)], values: &mut Vec<Value>) -> String {
    let mut terms = Vec::new();
    for (kind, version) in known {
        values.extend([Value::from(*kind), Value::from(*version)]);
        terms.push(format!(
            "(kind = ${} and definition_version = ${})",
            values.len() - 1,
            values.len()
        ));
    }
    terms.join(" or ")
}

/// Prolongs a lease. False: it is somebody else's by now, or was given back: a renewal that comes late must not take it again.
pub(super) async fn renew(tx: &Tx, id: Uuid, token: i64) -> Result<bool, Fault> {
    let now = now(tx.conn().get_database_backend());
    let sql =
        format!("update saga set lease_until = {now} + $3 where id = $1 and lease_token = $2 and lease_until > 0");
    Ok(tx
        .execute(&sql, [id.into(), token.into(), ms(tx.settings().lease_ms).into()])
        .await?
        == 1)
}

/// Ends a lease early. `in_doubt`: a command is on its way whose outcome nobody here will learn.
pub(super) async fn give_back(tx: &Tx, id: Uuid, token: i64, in_doubt: bool) -> Result<(), Fault> {
    let owner = if in_doubt { "lease_owner" } else { "null" };
    let sql = format!("update saga set lease_until = 0, lease_owner = {owner} where id = $1 and lease_token = $2");
    tx.execute(&sql, [id.into(), token.into()]).await.map(drop)
}

/// Ends all leases, keeping the holders' names as the sign of commands in doubt. Only for a database that one process alone has open.
pub(super) async fn end_all_leases(tx: &Tx) -> Result<u64, Fault> {
    tx.execute("update saga set lease_until = 0 where lease_until > 0", [])
        .await
}

/// Whether there are at least `count` running or compensating ones of this kind.
pub(super) async fn at_least_under_way(db: &Db, kind: &str, count: u64) -> Result<bool, Fault> {
    let Some(before) = count.checked_sub(1) else {
        return Ok(true);
    };
    let sql = "select 1 from saga where state in ('running', 'compensating') and kind = $1 limit 1 offset $2";
    let values = [Value::from(kind), ms(before).into()];
    let row = db
        .read()
        .query_one_raw(Statement::from_sql_and_values(db.backend(), sql, values))
        .await
        .map_err(fault)?;
    Ok(row.is_some())
}

/// How many unfinished sagas there are, by kind, version and state.
pub(super) async fn count_unfinished(db: &Db) -> Result<Vec<(String, i64, SagaState, i64)>, Fault> {
    let sql = "select kind, definition_version, state, count(*) as sagas from saga where state in ('running', 'compensating', 'parked')
               group by kind, definition_version, state";
    let rows = db
        .read()
        .query_all_raw(Statement::from_string(db.backend(), sql))
        .await
        .map_err(fault)?;
    rows.iter()
        .map(|row| {
            let name: String = row.try_get("", "state").map_err(fault)?;
            let number = |column: &str| row.try_get::<i64>("", column).map_err(fault);
            Ok((
                row.try_get("", "kind").map_err(fault)?,
                number("definition_version")?,
                state(&name)?,
                number("sagas")?,
            ))
        })
        .collect()
}

pub(super) fn ms(setting: u64) -> i64 {
    i64::try_from(setting).unwrap_or(i64::MAX)
}
