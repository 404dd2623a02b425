//! The `retry` table: events that could not be handled when they arrived.
//!
//! Only the oldest row of a subject that was not discarded is retried; the others wait for it. So a dead letter holds back its own subject, and
//! nothing else.

use banyan_core::{Envelope, Fault};
use sea_orm::{DeriveValueType, FromQueryResult};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::gap::is_gap;
use crate::{Db, Tx, query, time};

/// Woken when an event may be due for a retry.
pub(crate) const TOPIC: &str = "retry";
/// The code of the fault for a frame that is not an event, and for data that does not fit the event's type.
pub(crate) const UNDECODABLE: &str = "undecodable_event";

/// The state of an event in the table.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    strum::Display,
    strum::EnumIter,
    strum::EnumString,
    strum::IntoStaticStr,
    DeriveValueType,
)]
#[strum(serialize_all = "snake_case", const_into_str)]
#[sea_orm(value_type = "String")]
pub(crate) enum RetryState {
    /// An earlier version must come first.
    Waiting,
    /// Its reaction failed and is retried.
    Retrying,
    /// It failed too often and waits for an operator.
    Dead,
    /// An operator gave it up; the lane went past it.
    Discarded,
}

/// The rows of a version and of the next one of its subject, as far as they are in the table.
pub(crate) struct Kept {
    pub this: Option<KeptVersion>,
    pub next: Option<KeptVersion>,
}

#[derive(Clone, FromQueryResult)]
pub(crate) struct KeptVersion {
    version: i64,
    pub kind: String,
    pub state: RetryState,
}

/// The record of an event that failed before.
#[derive(FromQueryResult)]
struct Failures {
    kind: String,
    attempts: i64,
    failures: i64,
    state: RetryState,
}

/// A row that is, or will be, due.
#[derive(FromQueryResult)]
pub(crate) struct Due {
    pub id: Uuid,
    pub source: String,
    pub subject: String,
    pub version: i64,
    pub kind: String,
    pub body: String,
    pub attempts: i64,
    /// By the database's clock: another instance may have kept it.
    pub wait_ms: i64,
    pub until_version: Option<i64>,
}

pub(crate) async fn states(tx: &Tx, source: &str, subject: &str, version: i64) -> Result<Kept, Fault> {
    let sql = "select version, kind, state from retry where source = $1 and subject = $2 and version in ($3, $4)";
    let key = [source.into(), subject.into(), version.into(), (version + 1).into()];
    let rows: Vec<KeptVersion> = query::all(tx.conn(), sql, key).await?;
    let row_of = |version: i64| rows.iter().find(|row| row.version == version).cloned();
    Ok(Kept {
        this: row_of(version),
        next: row_of(version + 1),
    })
}

/// Keeps an event whose predecessor is missing. A gap that an operator discarded makes room for it.
pub(crate) async fn keep_waiting(tx: &Tx, envelope: &Envelope) -> Result<(), Fault> {
    let now = tx.clock().now().as_ms();
    let sql = format!(
        "insert into retry (id, source, subject, version, kind, body, state, attempts, failures, next_attempt_at, created_at)
         values ($1, $2, $3, $4, $5, $6, 'waiting', 0, 0, {}, $7)
         on conflict (source, subject, version) do update set kind = excluded.kind, body = excluded.body, state = excluded.state, attempts = 0,
             failures = 0, next_attempt_at = excluded.next_attempt_at, created_at = excluded.created_at, last_error = null, until_version = null
         where retry.state = 'discarded' and retry.until_version is not null",
        time::now(tx.backend())
    );
    let inserted = tx
        .execute(
            &sql,
            [
                tx.ids().new_id().into(),
                envelope.source.as_str().into(),
                envelope.subject.as_str().into(),
                envelope.version.into(),
                envelope.kind.as_str().into(),
                body(envelope)?.into(),
                now.into(),
            ],
        )
        .await?;
    if inserted == 1 {
        tx.wake(TOPIC);
    }
    Ok(())
}

/// Keeps an event whose reaction failed, and counts the attempt. While another module or the database is unavailable it is retried without limit; any
/// other failure counts, and too many make the event a dead letter. An event that cannot be decoded is a dead letter at once.
pub(crate) async fn keep_failed(tx: &Tx, envelope: &Envelope, why: &Fault) -> Result<(), Fault> {
    let sql = "select kind, attempts, failures, state from retry where source = $1 and subject = $2 and version = $3";
    let key = [
        envelope.source.as_str().into(),
        envelope.subject.as_str().into(),
        envelope.version.into(),
    ];
    let before: Option<Failures> = query::one(tx.conn(), sql, key).await?;
    // The event has come after all.
    let before = before.filter(|row| !is_gap(&row.kind));
    let (attempts, failures) = before.as_ref().map_or((0, 0), |row| (row.attempts, row.failures));
    if before.is_some_and(|row| matches!(row.state, RetryState::Dead | RetryState::Discarded)) {
        return Ok(());
    }
    let failures = if why.is_transient() { failures } else { failures + 1 };
    let dead = failures >= tx.settings().limits.max_failures || why.code == UNDECODABLE;
    if dead {
        tracing::error!(
            module = tx.module(), source = envelope.source, kind = envelope.kind, subject = envelope.subject,
            version = envelope.version, %why, "an event is a dead letter now; it holds back its subject until an operator replays or discards it"
        );
        metrics::counter!("banyan_dead_letters_total", "module" => tx.module().to_owned()).increment(1);
    }
    let sql = format!(
        "insert into retry (id, source, subject, version, kind, body, state, attempts, failures, next_attempt_at, created_at, last_error)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, {} + $10, $11, $12)
         on conflict (source, subject, version) do update set kind = excluded.kind, body = excluded.body, state = excluded.state,
             attempts = excluded.attempts, failures = excluded.failures, next_attempt_at = excluded.next_attempt_at,
             last_error = excluded.last_error, until_version = null",
        time::now(tx.backend())
    );
    tx.execute(
        &sql,
        [
            tx.ids().new_id().into(),
            envelope.source.as_str().into(),
            envelope.subject.as_str().into(),
            envelope.version.into(),
            envelope.kind.as_str().into(),
            body(envelope)?.into(),
            if dead { RetryState::Dead } else { RetryState::Retrying }.into(),
            (attempts + 1).into(),
            failures.into(),
            time::ms_of(tx.settings().retry_delay(attempts)).into(),
            tx.clock().now().as_ms().into(),
            why.to_string().into(),
        ],
    )
    .await?;
    tx.wake(TOPIC);
    Ok(())
}

/// Keeps a frame that is not an event, under a subject of its own, so that it holds back no other.
pub(crate) async fn keep_frame(tx: &Tx, key: &str, body: &str, why: &str) -> Result<(), Fault> {
    let kept = tx
        .execute(
            "insert into retry (id, source, subject, version, kind, body, state, attempts, failures, next_attempt_at, created_at, last_error)
             values ($1, '', $2, 0, '', $3, 'dead', 1, 1, $4, $4, $5)
             on conflict (source, subject, version) do update set state = 'dead', attempts = retry.attempts + 1,
                 last_error = excluded.last_error where retry.state <> 'discarded'",
            [tx.ids().new_id().into(), key.into(), body.into(), tx.clock().now().as_ms().into(), why.into()],
        )
        .await?;
    metrics::counter!("banyan_dead_letters_total", "module" => tx.module().to_owned()).increment(kept);
    Ok(())
}

/// Removes an event that was handled. One that an operator discarded stays on record.
pub(crate) async fn forget(tx: &Tx, source: &str, subject: &str, version: i64) -> Result<(), Fault> {
    let sql = "delete from retry where source = $1 and subject = $2 and version = $3 and state <> 'discarded'";
    tx.execute(sql, [source.into(), subject.into(), version.into()])
        .await
        .map(drop)
}

/// Postpones an event that could not be retried because the versions before it cannot be fetched now.
pub(crate) async fn postpone(tx: &Tx, due: &Due, why: &Fault) -> Result<(), Fault> {
    let delay_ms = time::ms_of(tx.settings().retry_delay(due.attempts));
    let sql = format!(
        "update retry set attempts = attempts + 1, next_attempt_at = {} + $2, last_error = $3
         where id = $1 and state in ('waiting', 'retrying')",
        time::now(tx.backend())
    );
    tx.execute(&sql, [due.id.into(), delay_ms.into(), why.to_string().into()])
        .await
        .map(drop)
}

/// The oldest rows of their subjects, those due first in front. A subject whose oldest row is dead has none.
pub(crate) async fn heads(db: &Db, limit: i64) -> Result<Vec<Due>, Fault> {
    let sql = format!(
        "select id, source, subject, version, kind, body, attempts, next_attempt_at - {} as wait_ms, until_version from retry
         where state in ('waiting', 'retrying')
         and not exists (select 1 from retry earlier where earlier.source = retry.source and earlier.subject = retry.subject
                         and earlier.version < retry.version and earlier.state <> 'discarded')
         order by next_attempt_at limit $1",
        time::now(db.backend())
    );
    query::all(db.read(), &sql, [limit.into()]).await
}

/// Whether this version is in the table already, so that it need not be fetched.
pub(crate) async fn holds(db: &Db, source: &str, subject: &str, version: i64) -> Result<bool, Fault> {
    let sql = "select version from retry where source = $1 and subject = $2 and version = $3 and state <> 'discarded'";
    let kept: Option<i64> = query::scalar(db.read(), sql, [source.into(), subject.into(), version.into()]).await?;
    Ok(kept.is_some())
}

/// The number of versions after `lane` that are in the table, as events or as a gap. None if the source went back: then an operator decides first.
pub(crate) async fn held_after(db: &Db, source: &str, subject: &str, lane: i64) -> Result<Option<i64>, Fault> {
    let sql = "select cast(count(*) as bigint) as went_back from retry
         where source = $1 and subject = $2 and state <> 'discarded' and kind = 'went_back'";
    let went_back: Option<i64> = query::scalar(db.read(), sql, [source.into(), subject.into()]).await?;
    if went_back.is_some_and(|rows| rows > 0) {
        return Ok(None);
    }
    let sql =
        "select cast(coalesce(sum(coalesce(until_version, version) - version + 1), 0) as bigint) as versions from retry
         where source = $1 and subject = $2 and state <> 'discarded' and version > $3";
    query::scalar(db.read(), sql, [source.into(), subject.into(), lane.into()])
        .await
        .map(|held| held.or(Some(0)))
}

impl Due {
    /// Whether it is a frame that could not be decoded when it arrived.
    pub fn is_frame(&self) -> bool {
        self.source.is_empty()
    }
}

/// The subject of a frame that is not an event, derived from its content.
pub(crate) fn frame_key(frame: &[u8]) -> String {
    let digest: String = Sha256::digest(frame).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("frame/{digest}")
}

/// A frame as text that a database can store. PostgreSQL stores no NUL in text.
pub(crate) fn frame_text(frame: &[u8]) -> String {
    match std::str::from_utf8(frame) {
        Ok(text) if !text.contains('\0') => text.to_owned(),
        _ => format!(
            "hex:{}",
            frame.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        ),
    }
}

fn body(envelope: &Envelope) -> Result<String, Fault> {
    serde_json::to_string(envelope).map_err(|error| Fault::internal("unwritable_event", error.to_string()))
}
