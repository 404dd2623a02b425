//! Idempotent commands: a command is carried out once, and its result is remembered.
//!
//! The command's row is inserted first, then the work is done, in one transaction: of two equal commands at the same time one waits for the other and
//! then finds its result. See RELIABILITY.md, Commands.

use std::{sync::Arc, time::Duration};

use banyan_core::Fault;
use sea_orm::{ConnectionTrait, FromQueryResult};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use crate::{Db, Tx, horizon, query};

/// A command to be carried out once: its kind, its id, and a fingerprint of its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    kind: &'static str,
    id: String,
    fingerprint: String,
    keep_for: Option<Duration>,
    /// As `keep_for`, for a command that took effect.
    keep_done_for: Option<Duration>,
    expected: Option<String>,
}

/// The time the row of a command is kept whose effect its aggregate remembers, too. Until then a repetition gets the very response of the first time.
const KEEP_DONE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

impl Command {
    /// `bytes` identifies the content of the command; the same id with other bytes is refused.
    pub fn new(kind: &'static str, id: impl Into<String>, bytes: &[u8]) -> Self {
        let digest = Sha256::digest(bytes);
        let fingerprint = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Command {
            kind,
            id: id.into(),
            fingerprint,
            keep_for: None,
            keep_done_for: None,
            expected: None,
        }
    }

    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The result that the command nearly always has. It is stored when the command begins, so that it need not be stored at the end; another result then
    /// replaces it.
    ///
    /// # Errors
    /// `unwritable_answer` (internal) if the result is not JSON.
    pub fn expecting(mut self, result: &impl Serialize) -> Result<Self, Fault> {
        self.expected = Some(write_result(result)?);
        Ok(self)
    }

    /// The time after which the command is forgotten. Without it the command is remembered for ever.
    pub fn keep_for(mut self, retention: Duration) -> Self {
        self.keep_for = Some(retention);
        self
    }

    /// The command changes an aggregate that is never deleted, and whose state tells a repetition that it was carried out: it then does nothing, also if the
    /// command is forgotten. So the command is forgotten 30 days after it took effect. A refusal, and a tombstone, which leave nothing in an aggregate, are
    /// remembered for ever.
    pub fn remembered_by_its_aggregate(mut self) -> Self {
        self.keep_done_for = Some(KEEP_DONE);
        self
    }
}

/// The outcome of the work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<R> {
    /// It took effect.
    Done(R),
    /// It was finally refused: whatever it wrote is rolled back, and the result is remembered.
    Refused(R),
}

/// What the module remembers of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Memory<R> {
    /// It was carried out just now.
    First(R),
    /// It was carried out before; this is the result of then, and nothing was done now.
    Again(R),
    /// Its undo came first: nothing was done, and nothing ever will be.
    Undone,
}

/// Does `work` unless this command was received before, in one transaction with its row in the inbox. Each attempt gets its own clone of `context`, as in
/// [`Db::write`].
///
/// # Errors
/// The work's own fault, which is not remembered; `command_reused` (invalid) if the id was used with other bytes.
pub async fn once<R, C, F, Fut>(db: &Db, command: Command, context: C, work: F) -> Result<Memory<R>, Fault>
where
    R: Serialize + DeserializeOwned + Send + 'static,
    C: Clone + Send + Sync + 'static,
    F: Fn(Tx, C) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Outcome<R>, Fault>> + Send + 'static,
{
    let attempt = (command.clone(), context, Arc::new(work));
    let attempt = db
        .write(attempt, |tx, (command, context, work)| async move {
            if !claim(&tx, &command, false).await? {
                return load(&tx, &command).await;
            }
            match work(tx.clone(), context).await? {
                Outcome::Done(result) => {
                    let written = write_result(&result)?;
                    if command.expected.as_ref() != Some(&written) {
                        store_result(&tx, &command, &written).await?;
                    }
                    Ok(Memory::First(result))
                }
                // Leaves the transaction as an error, so that everything the work wrote is rolled back with it.
                Outcome::Refused(result) => Err(Fault::internal(REFUSAL, write_result(&result)?)),
            }
        })
        .await;
    match attempt {
        Err(fault) if fault.code == REFUSAL => {
            let refused = Command {
                keep_done_for: None,
                expected: Some(fault.detail),
                ..command
            };
            db.write(refused, |tx, refused| async move {
                match (claim(&tx, &refused, false).await?, &refused.expected) {
                    (true, Some(result)) => Ok(Memory::First(read_result(result)?)),
                    _ => load(&tx, &refused).await,
                }
            })
            .await
        }
        memory => memory,
    }
}

/// Undoes a command once. If the command it undoes was never received, a tombstone is stored for it in the same transaction, so that it does nothing if
/// it still arrives. The last argument of `work` says whether the command took part (has a row that is not a tombstone). `context` as in [`once`].
///
/// # Errors
/// As [`once`].
pub async fn undo_once<R, C, F, Fut>(
    db: &Db,
    undo: Command,
    undoes: (&'static str, String),
    context: C,
    work: F,
) -> Result<R, Fault>
where
    R: Serialize + DeserializeOwned + Send + 'static,
    C: Clone + Send + Sync + 'static,
    F: Fn(Tx, C, bool) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, Fault>> + Send + 'static,
{
    let context = (undoes, context, Arc::new(work));
    let memory = once(db, undo, context, |tx, ((kind, id), context, work)| async move {
        let tombstone = Command {
            kind,
            id,
            fingerprint: String::new(),
            keep_for: None,
            keep_done_for: None,
            expected: None,
        };
        let absent = claim(&tx, &tombstone, true).await?;
        let took_part = !absent && !load_row(&tx, &tombstone).await?.tombstone;
        Ok(Outcome::Done(work(tx, context, took_part).await?))
    });
    match memory.await? {
        Memory::First(result) | Memory::Again(result) => Ok(result),
        Memory::Undone => Err(Fault::internal("undo_undone", "an undo cannot itself be undone")),
    }
}

/// Finds out whether the command was received, and does nothing.
///
/// # Errors
/// `command_reused` as [`once`].
pub async fn recall<R>(db: &Db, command: &Command) -> Result<Option<Memory<R>>, Fault>
where
    R: DeserializeOwned,
{
    let row = find(db.read(), command).await?;
    row.map(|row| row.recall(command)).transpose()
}

/// Deletes some of the expired commands; returns their number.
pub(crate) async fn prune(tx: &Tx, limit: i64) -> Result<u64, Fault> {
    let horizon = horizon::advance(tx).await?;
    tx.execute(
        "delete from inbox where (kind, id) in (select kind, id from inbox where expires_at < $1 order by expires_at limit $2)",
        [horizon.as_ms().into(), limit.into()],
    )
    .await
}

const REFUSAL: &str = "refusal_to_remember";

fn write_result(result: &impl Serialize) -> Result<String, Fault> {
    serde_json::to_string(result).map_err(|error| Fault::internal("unwritable_answer", error.to_string()))
}

/// Inserts the command's row, with the result it is expected to have; false if there is one already. On PostgreSQL this waits for an equal command that is still running.
async fn claim(tx: &Tx, command: &Command, tombstone: bool) -> Result<bool, Fault> {
    let now = tx.clock().now();
    let retention = command.keep_for.or(command.keep_done_for);
    let expires_at = retention.map(|retention| now.plus(retention).as_ms());
    let inserted = tx
        .execute(
            "insert into inbox (kind, id, fingerprint, tombstone, created_at, expires_at, answer) values ($1, $2, $3, $4, $5, $6, $7)
             on conflict (kind, id) do nothing",
            [
                command.kind.into(),
                command.id.as_str().into(),
                command.fingerprint.as_str().into(),
                tombstone.into(),
                now.as_ms().into(),
                expires_at.into(),
                command.expected.clone().into(),
            ],
        )
        .await?;
    Ok(inserted == 1)
}

async fn load<R: DeserializeOwned>(tx: &Tx, command: &Command) -> Result<Memory<R>, Fault> {
    load_row(tx, command).await?.recall(command)
}

/// A command in the inbox.
#[derive(FromQueryResult)]
struct InboxRow {
    fingerprint: String,
    tombstone: bool,
    answer: Option<String>,
}

async fn find(conn: &impl ConnectionTrait, command: &Command) -> Result<Option<InboxRow>, Fault> {
    let sql = "select fingerprint, tombstone, answer from inbox where kind = $1 and id = $2";
    query::one(conn, sql, [command.kind.into(), command.id.as_str().into()]).await
}

/// The transaction that had inserted the row may have rolled back since our insert found it: then the whole job runs again.
async fn load_row(tx: &Tx, command: &Command) -> Result<InboxRow, Fault> {
    let row = find(tx.conn(), command).await?;
    row.ok_or_else(|| crate::lost_race("a command's row was rolled back"))
}

impl InboxRow {
    fn recall<R: DeserializeOwned>(self, command: &Command) -> Result<Memory<R>, Fault> {
        if self.tombstone {
            return Ok(Memory::Undone);
        }
        if self.fingerprint != command.fingerprint {
            return Err(Fault::invalid(
                "command_reused",
                "This id was used before, for a different request.",
            ));
        }
        let result = self
            .answer
            .ok_or_else(|| Fault::internal("unreadable_answer", "a remembered command has no result"))?;
        read_result(&result).map(Memory::Again)
    }
}

fn read_result<R: DeserializeOwned>(result: &str) -> Result<R, Fault> {
    serde_json::from_str(result).map_err(|error| Fault::internal("unreadable_answer", error.to_string()))
}

async fn store_result(tx: &Tx, command: &Command, result: &str) -> Result<(), Fault> {
    tx.execute(
        "update inbox set answer = $3 where kind = $1 and id = $2",
        [command.kind.into(), command.id.as_str().into(), result.into()],
    )
    .await?;
    Ok(())
}
