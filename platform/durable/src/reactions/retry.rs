//! The `retry` table: events that could not be handled when they came.
//!
//! Per subject only the oldest row that was not discarded matters; the others wait behind it. So a dead letter holds back its own subject, and
//! nothing else.

use banyan_core::{Envelope, Fault, Timestamp};
use sea_orm::{ConnectionTrait, QueryResult, Statement};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{Db, Tx, fault::fault};

/// Woken when there may be something for the retry runner.
pub(crate) const TOPIC: &str = "retry";
/// The code of the fault of a frame that is not an event, or whose data does not fit its type.
pub(crate) const UNDECODABLE: &str = "undecodable_event";

/// Where an event in the table stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// An earlier version must come first.
    Waiting,
    /// Its reaction failed and is tried again.
    Retrying,
    /// It failed too often and waits for a person.
    Dead,
    /// A person gave it up; the lane went past it.
    Discarded,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Retrying => "retrying",
            State::Dead => "dead",
            State::Discarded => "discarded",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [State::Waiting, State::Retrying, State::Dead, State::Discarded]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

/// What the table knows of an event and of the one after it.
pub(crate) struct Kept {
    pub this: Option<State>,
    pub next: Option<State>,
}

/// An event that is, or will be, due.
pub(crate) struct Due {
    pub id: Uuid,
    pub source: String,
    pub subject: String,
    pub version: i64,
    pub body: String,
    pub attempts: i64,
    pub next_attempt_at: Timestamp,
}

pub(crate) async fn states(tx: &Tx, source: &str, subject: &str, version: i64) -> Result<Kept, Fault> {
    let sql = "select version, state from retry where source = $1 and subject = $2 and version in ($3, $4)";
    let rows = tx
        .query_all(
            sql,
            [source.into(), subject.into(), version.into(), (version + 1).into()],
        )
        .await?;
    let mut kept = Kept { this: None, next: None };
    for row in rows {
        let state = State::parse(&row.try_get::<String>("", "state").map_err(fault)?);
        if row.try_get::<i64>("", "version").map_err(fault)? == version {
            kept.this = state
        } else {
            kept.next = state
        }
    }
    Ok(kept)
}

/// Keeps an event whose predecessor is missing.
pub(crate) async fn keep_waiting(tx: &Tx, envelope: &Envelope) -> Result<(), Fault> {
    let now = tx.clock().now().as_ms();
    let inserted = tx
        .execute(
            "insert into retry (id, source, subject, version, kind, body, state, attempts, failures, next_attempt_at, created_at)
             values ($1, $2, $3, $4, $5, $6, 'waiting', 0, 0, $7, $7) on conflict (source, subject, version) do nothing",
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

/// Keeps an event whose reaction failed, with one more try on its record. For want of another module or of the database it is tried for
/// ever; anything else counts, and too much of it makes the event a dead letter. What cannot be read will not become readable by waiting.
pub(crate) async fn keep_failed(tx: &Tx, envelope: &Envelope, why: &Fault) -> Result<(), Fault> {
    let sql = "select attempts, failures, state from retry where source = $1 and subject = $2 and version = $3";
    let key = [
        envelope.source.as_str().into(),
        envelope.subject.as_str().into(),
        envelope.version.into(),
    ];
    let row = tx.query_one(sql, key).await?;
    let number = |name: &str| {
        row.as_ref()
            .map_or(Ok(0), |row| row.try_get::<i64>("", name).map_err(fault))
    };
    let (attempts, failures) = (number("attempts")?, number("failures")?);
    let state: Option<String> = row
        .as_ref()
        .map(|row| row.try_get("", "state"))
        .transpose()
        .map_err(fault)?;
    if matches!(
        state.as_deref().and_then(State::parse),
        Some(State::Dead | State::Discarded)
    ) {
        return Ok(());
    }
    let failures = if why.is_transient() { failures } else { failures + 1 };
    let dead = failures >= tx.settings().limits.max_failures || why.code == UNDECODABLE;
    if dead {
        tracing::error!(
            module = tx.module(), source = envelope.source, kind = envelope.kind, subject = envelope.subject,
            version = envelope.version, %why, "an event is a dead letter now; it holds back its subject until somebody replays or discards it"
        );
        metrics::counter!("banyan_dead_letters_total", "module" => tx.module().to_owned()).increment(1);
    }
    let now = tx.clock().now();
    tx.execute(
        "insert into retry (id, source, subject, version, kind, body, state, attempts, failures, next_attempt_at, created_at, last_error)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
         on conflict (source, subject, version) do update set state = excluded.state, attempts = excluded.attempts,
             failures = excluded.failures, next_attempt_at = excluded.next_attempt_at, last_error = excluded.last_error",
        [
            tx.ids().new_id().into(),
            envelope.source.as_str().into(),
            envelope.subject.as_str().into(),
            envelope.version.into(),
            envelope.kind.as_str().into(),
            body(envelope)?.into(),
            if dead { State::Dead } else { State::Retrying }.as_str().into(),
            (attempts + 1).into(),
            failures.into(),
            now.plus(tx.settings().retry_delay(attempts)).as_ms().into(),
            now.as_ms().into(),
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

/// The event is handled: nothing of it is left to do. What a person discarded stays on record.
pub(crate) async fn forget(tx: &Tx, source: &str, subject: &str, version: i64) -> Result<(), Fault> {
    let sql = "delete from retry where source = $1 and subject = $2 and version = $3 and state <> 'discarded'";
    tx.execute(sql, [source.into(), subject.into(), version.into()])
        .await
        .map(drop)
}

/// Puts off an event that could not even be tried, because what comes before it cannot be had now.
pub(crate) async fn postpone(tx: &Tx, due: &Due, why: &Fault) -> Result<(), Fault> {
    let next_attempt_at = tx.clock().now().plus(tx.settings().retry_delay(due.attempts)).as_ms();
    tx.execute(
        "update retry set attempts = attempts + 1, next_attempt_at = $2, last_error = $3 where id = $1 and state in ('waiting', 'retrying')",
        [due.id.into(), next_attempt_at.into(), why.to_string().into()],
    )
    .await
    .map(drop)
}

/// The oldest rows of their subjects, those due first in front. A subject whose oldest row is dead has none.
pub(crate) async fn heads(db: &Db, limit: i64) -> Result<Vec<Due>, Fault> {
    let statement = Statement::from_sql_and_values(
        db.backend(),
        "select id, source, subject, version, body, attempts, next_attempt_at from retry
         where state in ('waiting', 'retrying')
         and not exists (select 1 from retry earlier where earlier.source = retry.source and earlier.subject = retry.subject
                         and earlier.version < retry.version and earlier.state <> 'discarded')
         order by next_attempt_at limit $1",
        [limit.into()],
    );
    let rows = db.read().query_all_raw(statement).await.map_err(fault)?;
    rows.iter().map(Due::read).collect()
}

/// Whether this very version is in the table already, so that it need not be fetched.
pub(crate) async fn holds(db: &Db, source: &str, subject: &str, version: i64) -> Result<bool, Fault> {
    let statement = Statement::from_sql_and_values(
        db.backend(),
        "select 1 as one from retry where source = $1 and subject = $2 and version = $3 and state <> 'discarded'",
        [source.into(), subject.into(), version.into()],
    );
    Ok(db.read().query_one_raw(statement).await.map_err(fault)?.is_some())
}

/// Whether anything of this subject is in the table: then the runner is at it, or a dead letter holds it back.
pub(crate) async fn holds_any(db: &Db, source: &str, subject: &str) -> Result<bool, Fault> {
    let statement = Statement::from_sql_and_values(
        db.backend(),
        "select 1 as one from retry where source = $1 and subject = $2 and state <> 'discarded' limit 1",
        [source.into(), subject.into()],
    );
    Ok(db.read().query_one_raw(statement).await.map_err(fault)?.is_some())
}

impl Due {
    fn read(row: &QueryResult) -> Result<Self, Fault> {
        Ok(Due {
            id: row.try_get("", "id").map_err(fault)?,
            source: row.try_get("", "source").map_err(fault)?,
            subject: row.try_get("", "subject").map_err(fault)?,
            version: row.try_get("", "version").map_err(fault)?,
            body: row.try_get("", "body").map_err(fault)?,
            attempts: row.try_get("", "attempts").map_err(fault)?,
            next_attempt_at: Timestamp::from_ms(row.try_get("", "next_attempt_at").map_err(fault)?),
        })
    }

    /// A frame that was no event when it came.
    pub fn is_frame(&self) -> bool {
        self.source.is_empty()
    }
}

/// The subject of a frame that is not an event: the same frame, the same subject.
pub(crate) fn frame_key(frame: &[u8]) -> String {
    let digest: String = Sha256::digest(frame).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("frame/{digest}")
}

/// A frame as text a database can keep. PostgreSQL takes no zero in a text.
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
