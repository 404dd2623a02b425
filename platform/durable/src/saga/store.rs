//! The saga's row, as SQL.

use std::time::Duration;

use banyan_core::{Call, Fault, Timestamp};
use sea_orm::{ConnectionTrait, DbBackend, DeriveValueType, FromQueryResult, Value};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    command_id,
    log::{self, Entries},
};
use crate::{
    Db, Settings, Tx,
    query::{self, StoredTime},
    time,
};

/// Where a saga stands.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
    strum::Display,
    strum::EnumString,
    strum::IntoStaticStr,
    DeriveValueType,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", const_into_str)]
#[sea_orm(value_type = "String")]
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
    /// Whether runners claim it.
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
#[derive(Clone, Debug, FromQueryResult)]
pub(super) struct Row {
    pub id: Uuid,
    pub kind: String,
    #[sea_orm(from_alias = "definition_version")]
    pub version: i64,
    pub business_key: String,
    pub state: SagaState,
    pub step: String,
    pub payload: String,
    pub command: Option<String>,
    pub command_id: Option<Uuid>,
    /// Also set while there is no lease: then its last owner left the outcome of the current command open.
    pub lease_owner: Option<String>,
    pub lease_token: i64,
    pub lease_until: StoredTime,
    pub next_run_at: StoredTime,
    /// The number of times the current command was sent without a response that led on. Above zero: it may have taken effect.
    pub attempts: i64,
    /// The number of bugs since the last decision.
    pub failures: i64,
    pub deadline_at: Option<StoredTime>,
    /// The time from the start to the deadline.
    pub deadline_ms: Option<i64>,
    pub deadline_told: bool,
    pub signal: Option<String>,
    pub compensate_asked: bool,
    pub parked_reason: Option<String>,
    pub parked_state: Option<SagaState>,
    pub last_error: Option<String>,
    pub traceparent: Option<String>,
    pub created_at: StoredTime,
    pub updated_at: StoredTime,
    /// The length of the log in the row.
    pub log_length: i64,
    /// The database's clock when the row was claimed or locked; the epoch for a row that was only looked at.
    pub seen_at: StoredTime,
}

/// The time of a row that was only read.
pub(super) const UNSEEN: &str = "cast(0 as bigint) as seen_at";

pub(super) const COLUMNS: &str = "id, kind, definition_version, business_key, state, step, payload, command, command_id, lease_owner, \
     lease_token, lease_until, next_run_at, attempts, failures, deadline_at, deadline_ms, deadline_told, signal, compensate_asked, \
     parked_reason, parked_state, last_error, traceparent, created_at, updated_at, cast(length(log) as bigint) as log_length";

impl Row {
    /// What others may change while this instance holds the lease.
    pub fn seen(&self) -> Seen {
        Seen {
            lease_token: self.lease_token,
            signal: self.signal.clone(),
        }
    }

    pub fn deadline_passed(&self, now: Timestamp) -> bool {
        self.deadline_at.is_some_and(|deadline| deadline <= now.into())
    }

    /// Releases the lease; the outcome of the last command is known, or none was sent.
    pub fn release(&mut self) {
        self.lease_owner = None;
        self.lease_until = StoredTime::default();
    }
}

/// A row as it was read, as far as others may have changed it since: whoever claims the saga or adds to its log raises the token, and a signal is only
/// added.
pub(super) struct Seen {
    lease_token: i64,
    signal: Option<String>,
}

/// A saga to be inserted.
pub(super) struct New<'a> {
    pub id: Uuid,
    pub kind: &'a str,
    pub version: i64,
    pub business_key: &'a str,
    pub payload: &'a str,
    /// Its first step with the command, if that is decided already.
    pub first: Option<(&'static str, String)>,
    pub deadline: Option<Duration>,
    pub call: &'a Call,
    /// The runner that has a place for it: the saga is stored as claimed by it.
    pub owner: Option<&'a str>,
}

/// `None` if there is one for this kind and key.
pub(super) async fn insert(tx: &Tx, new: New<'_>) -> Result<Option<Row>, Fault> {
    let now = time::now(tx.conn().get_database_backend());
    let at = tx.clock().now();
    let mut entries = Entries::default();
    entries.add(at, "started", "", "")?;
    let (step, command) = new.first.map_or(("", None), |(step, command)| (step, Some(command)));
    let command_id = command.is_some().then(|| command_id(new.id, step, false));
    if let Some(command_id) = command_id {
        entries.add(at, "begun", "", "")?;
        entries.add(at, "do", step, &command_id.to_string())?;
    }
    let lease_until = match new.owner {
        Some(_) => format!("{now} + {}", ms(tx.settings().lease_ms)),
        None => "0".to_owned(),
    };
    let sql = format!(
        "insert into saga (id, kind, definition_version, business_key, state, step, payload, command, command_id, lease_token, lease_owner,
             lease_until, next_run_at, attempts, failures, deadline_at, deadline_ms, deadline_told, compensate_asked, traceparent, created_at,
             updated_at, log)
         values ($1, $2, $3, $4, 'running', $5, $6, $7, $8, $14, $15, {lease_until}, {now}, 0, 0, {now} + $9, $9, $10, $10, $11, $12, $12, $13)
         on conflict (kind, business_key) do nothing returning {COLUMNS}, {now} as seen_at"
    );
    query::one(
        tx.conn(),
        &sql,
        [
            new.id.into(),
            new.kind.into(),
            new.version.into(),
            new.business_key.into(),
            step.into(),
            new.payload.into(),
            command.into(),
            command_id.into(),
            new.deadline.map(time::ms_of).into(),
            false.into(),
            new.call.trace.as_ref().map(ToString::to_string).into(),
            at.as_ms().into(),
            entries.as_str().into(),
            i64::from(new.owner.is_some()).into(),
            new.owner.map(str::to_owned).into(),
        ],
    )
    .await
}

/// False if there is no unfinished saga of this kind and key. It is due at once; a parked one gets the signal when it goes on.
pub(super) async fn signal(tx: &Tx, kind: &str, business_key: &str, signal: &str) -> Result<bool, Fault> {
    let now = time::now(tx.conn().get_database_backend());
    let sql = format!(
        "update saga set signal = $3, next_run_at = {now}, updated_at = $4
         where kind = $1 and business_key = $2 and state in ('running', 'compensating', 'parked')"
    );
    let updated = tx
        .execute(
            &sql,
            [
                kind.into(),
                business_key.into(),
                signal.into(),
                tx.clock().now().as_ms().into(),
            ],
        )
        .await?;
    Ok(updated > 0)
}

/// Loads a saga, with the database's clock.
pub(super) async fn load(tx: &Tx, id: Uuid) -> Result<Option<Row>, Fault> {
    let now = time::now(tx.conn().get_database_backend());
    let sql = format!("select {COLUMNS}, {now} as seen_at from saga where id = $1");
    query::one(tx.conn(), &sql, [id.into()]).await
}

/// Stores what may change in a row, and adds to its log.
///
/// # Errors
/// A lost race if the row is no longer as it was `seen`.
pub(super) async fn save(tx: &Tx, row: &mut Row, seen: &Seen, entries: &Entries) -> Result<(), Fault> {
    log::make_room(tx, row).await?;
    let saved = tx
        .execute(
            "update saga set state = $3, step = $4, payload = $5, command = $6, command_id = $7, lease_owner = $8, lease_token = $9,
                 lease_until = $10, next_run_at = $11, attempts = $12, failures = $13, deadline_told = $14, signal = $15,
                 compensate_asked = $16, parked_reason = $17, parked_state = $18, last_error = $19, updated_at = $20,
                 deadline_at = $21, log = log || $22
             where id = $1 and lease_token = $2 and coalesce(signal, '') = $23",
            [
                row.id.into(),
                seen.lease_token.into(),
                row.state.into(),
                row.step.as_str().into(),
                row.payload.as_str().into(),
                row.command.clone().into(),
                row.command_id.into(),
                row.lease_owner.clone().into(),
                row.lease_token.into(),
                row.lease_until.into(),
                row.next_run_at.into(),
                row.attempts.into(),
                row.failures.into(),
                row.deadline_told.into(),
                row.signal.clone().into(),
                row.compensate_asked.into(),
                row.parked_reason.clone().into(),
                row.parked_state.into(),
                row.last_error.clone().into(),
                tx.clock().now().as_ms().into(),
                row.deadline_at.into(),
                entries.as_str().into(),
                seen.signal.as_deref().unwrap_or_default().into(),
            ],
        )
        .await?;
    if saved != 1 {
        return Err(crate::lost_race("a saga was claimed or got a signal meanwhile"));
    }
    row.log_length += i64::try_from(entries.as_str().chars().count()).unwrap_or(i64::MAX);
    Ok(())
}

/// Claims up to `limit` due sagas of the known kinds and versions and raises their lease tokens. If the last owner is still in the row, it never learned
/// the outcome of the command, which is then marked as sent.
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
    let mut values: Vec<Value> = vec![owner.into(), ms(tx.settings().lease_ms).into(), query::limit(limit)];
    let due = due(backend, tx.settings());
    let known = among(known, &mut values);
    let now = time::now(backend);
    let sql = format!(
        "with due as (
             select id from saga where state in ('running', 'compensating') and {due} and ({known})
             order by next_run_at limit $3 {skip})
         update saga set lease_token = lease_token + 1, lease_until = {now} + $2, lease_owner = $1,
             attempts = case when lease_owner is not null and command is not null and attempts = 0 then 1 else attempts end
         where id in (select id from due) returning {COLUMNS}, {now} as seen_at"
    );
    query::all(tx.conn(), &sql, values).await
}

/// Whether a saga is due and unclaimed, also if the clock was set back after these times were stored.
fn due(backend: DbBackend, settings: &Settings) -> String {
    let run = time::passed(backend, "next_run_at", settings.max_wait());
    format!("{run} and {}", unclaimed(backend, settings))
}

fn unclaimed(backend: DbBackend, settings: &Settings) -> String {
    time::passed(backend, "lease_until", time::longest_lease(settings))
}

/// The number of milliseconds until the next unclaimed saga is due; zero or less if one is due now; `None` without such a saga. Expired leases are found
/// by polling.
pub(super) async fn due_in(db: &Db, known: &[(&'static str, i64)]) -> Result<Option<i64>, Fault> {
    let now = time::now(db.backend());
    let unclaimed = unclaimed(db.backend(), db.settings());
    let mut values = Vec::new();
    let known = among(known, &mut values);
    let sql = format!(
        "select next_run_at - {now} as wait_ms from saga
         where state in ('running', 'compensating') and {unclaimed} and ({known}) order by next_run_at limit 1"
    );
    let wait_ms: Option<i64> = query::scalar(db.read(), &sql, values).await?;
    Ok(wait_ms.map(|wait_ms| {
        if wait_ms > time::ms_of(db.settings().max_wait()) {
            0
        } else {
            wait_ms
        }
    }))
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

/// Renews a lease. False: another instance has it by now, or it was released: a late renewal must not acquire it again.
pub(super) async fn renew(tx: &Tx, id: Uuid, token: i64) -> Result<bool, Fault> {
    let now = time::now(tx.conn().get_database_backend());
    let sql =
        format!("update saga set lease_until = {now} + $3 where id = $1 and lease_token = $2 and lease_until > 0");
    Ok(tx
        .execute(&sql, [id.into(), token.into(), ms(tx.settings().lease_ms).into()])
        .await?
        == 1)
}

/// Releases a lease. `in_doubt`: a command is under way whose outcome this process will not learn.
pub(super) async fn release(tx: &Tx, id: Uuid, token: i64, in_doubt: bool) -> Result<(), Fault> {
    let owner = if in_doubt { "lease_owner" } else { "null" };
    let sql = format!("update saga set lease_until = 0, lease_owner = {owner} where id = $1 and lease_token = $2");
    tx.execute(&sql, [id.into(), token.into()]).await.map(drop)
}

/// Ends all leases and keeps their owners as the sign of commands in doubt. Only for a database that is open in this process alone.
pub(super) async fn end_all_leases(tx: &Tx) -> Result<u64, Fault> {
    tx.execute(END_ALL_LEASES, []).await
}

/// Only an active saga has a lease, and the index on active sagas is used for this very condition. There are very many finished ones.
const END_ALL_LEASES: &str =
    "update saga set lease_until = 0 where state in ('running', 'compensating') and lease_until > 0";

/// The number of running sagas of this kind, up to `most`.
pub(super) async fn count_under_way(db: &Db, kind: &str, most: u64) -> Result<u64, Fault> {
    let sql =
        "select count(*) as sagas from (select id from saga where state = 'running' and kind = $1 limit $2) as running";
    let counted: Option<i64> = query::scalar(db.read(), sql, [kind.into(), ms(most).into()]).await?;
    Ok(counted.and_then(|counted| u64::try_from(counted).ok()).unwrap_or(0))
}

/// The number of unfinished sagas of one kind and version in one state.
#[derive(FromQueryResult)]
pub(super) struct SagaCount {
    pub kind: String,
    pub definition_version: i64,
    pub state: SagaState,
    pub sagas: i64,
}

pub(super) async fn count_unfinished(db: &Db) -> Result<Vec<SagaCount>, Fault> {
    let sql = "select kind, definition_version, state, count(*) as sagas from saga where state in ('running', 'compensating', 'parked')
               group by kind, definition_version, state";
    query::all(db.read(), sql, []).await
}

pub(super) fn ms(setting: u64) -> i64 {
    i64::try_from(setting).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::END_ALL_LEASES;
    use crate::plan::steps;

    /// No saga runs before the leases are ended, so this must not grow with the sagas that have ended.
    #[tokio::test]
    async fn leases_are_ended_without_reading_finished_sagas() {
        let steps = steps(END_ALL_LEASES, []).await;
        assert!(steps[0].contains("saga_"), "{steps:#?}");
        assert!(
            steps
                .iter()
                .all(|step| !step.starts_with("SCAN saga") || step.contains("saga_due")),
            "{steps:#?}"
        );
    }
}
