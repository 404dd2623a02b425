//! One memory for what a module was asked to do, and the answer it gave.
//!
//! The row goes in first, then the work, in one transaction: of two that bring the same id at the same time one waits for the other and then
//! finds its answer. See RELIABILITY.md, Commands.

use std::{sync::Arc, time::Duration};

use banyan_core::Fault;
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use crate::{Db, Tx, fault::fault};

/// A request to act once: what sort, which one, and a fingerprint of its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    kind: &'static str,
    id: String,
    fingerprint: String,
    keep_for: Option<Duration>,
}

impl Command {
    /// `bytes` is everything that makes the request what it is; the same id with other bytes is refused.
    pub fn new(kind: &'static str, id: impl Into<String>, bytes: &[u8]) -> Self {
        let digest = Sha256::digest(bytes);
        let fingerprint = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Command {
            kind,
            id: id.into(),
            fingerprint,
            keep_for: None,
        }
    }

    /// How long it is remembered; for ever without this.
    pub fn keep_for(mut self, how_long: Duration) -> Self {
        self.keep_for = Some(how_long);
        self
    }
}

/// What the work came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<A> {
    /// It took effect.
    Done(A),
    /// It was refused for good: whatever it wrote is rolled back, and the answer is remembered.
    Refused(A),
}

/// What the module remembers of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Memory<A> {
    /// It was done just now.
    First(A),
    /// It was done before; this is the answer given then, and nothing was done now.
    Again(A),
    /// Its undo came first; nothing was done and nothing ever will be.
    Undone,
}

/// Does `work` unless this command was seen before, in one transaction with the memory of it. Each attempt gets its own clone of `context`, as in
/// [`Db::write`].
///
/// # Errors
/// The work's own fault, of which nothing is remembered; `command_reused` (invalid) if the id was used with other bytes.
pub async fn once<A, C, F, Fut>(db: &Db, command: Command, context: C, work: F) -> Result<Memory<A>, Fault>
where
    A: Serialize + DeserializeOwned + Send + 'static,
    C: Clone + Send + Sync + 'static,
    F: Fn(Tx, C) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Outcome<A>, Fault>> + Send + 'static,
{
    let attempt = (command.clone(), context, Arc::new(work));
    let attempt = db
        .write(attempt, |tx, (command, context, work)| async move {
            if !claim(&tx, &command, false).await? {
                return load(&tx, &command).await;
            }
            match work(tx.clone(), context).await? {
                Outcome::Done(answer) => {
                    store_text(&tx, &command, &write_answer(&answer)?).await?;
                    Ok(Memory::First(answer))
                }
                // Leaves the transaction as an error, so that everything the work wrote is rolled back with it.
                Outcome::Refused(answer) => Err(Fault::internal(REFUSAL, write_answer(&answer)?)),
            }
        })
        .await;
    match attempt {
        Err(fault) if fault.code == REFUSAL => {
            db.write((command, fault.detail), |tx, (command, answer)| async move {
                if !claim(&tx, &command, false).await? {
                    return load(&tx, &command).await;
                }
                store_text(&tx, &command, &answer).await?;
                Ok(Memory::First(read_answer(&answer)?))
            })
            .await
        }
        memory => memory,
    }
}

/// Undoes a command once. If the command it undoes was never seen, a tombstone takes its place in the same transaction, so that it does nothing
/// should it still come. The last argument of `work` says whether the command took part (has a row that is not a tombstone). `context` as in [`once`].
///
/// # Errors
/// As [`once`].
pub async fn undo_once<A, C, F, Fut>(
    db: &Db,
    undo: Command,
    undoes: (&'static str, String),
    context: C,
    work: F,
) -> Result<A, Fault>
where
    A: Serialize + DeserializeOwned + Send + 'static,
    C: Clone + Send + Sync + 'static,
    F: Fn(Tx, C, bool) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<A, Fault>> + Send + 'static,
{
    let context = (undoes, context, Arc::new(work));
    let memory = once(db, undo, context, |tx, ((kind, id), context, work)| async move {
        let tombstone = Command {
            kind,
            id,
            fingerprint: String::new(),
            keep_for: None,
        };
        let absent = claim(&tx, &tombstone, true).await?;
        let took_part = !absent && !is_tombstone(&tx, &tombstone).await?;
        Ok(Outcome::Done(work(tx, context, took_part).await?))
    });
    match memory.await? {
        Memory::First(answer) | Memory::Again(answer) => Ok(answer),
        Memory::Undone => Err(Fault::internal("undo_undone", "an undo cannot itself be undone")),
    }
}

/// Looks whether the command was seen, and does nothing.
///
/// # Errors
/// `command_reused` as [`once`].
pub async fn recall<A>(db: &Db, command: &Command) -> Result<Option<Memory<A>>, Fault>
where
    A: DeserializeOwned,
{
    use sea_orm::{ConnectionTrait, Statement};
    let statement =
        Statement::from_sql_and_values(db.backend(), SELECT, [command.kind.into(), command.id.as_str().into()]);
    let row = db.read().query_one_raw(statement).await.map_err(fault)?;
    row.map(|row| remembered(&row, command)).transpose()
}

/// Forgets some of what has expired; answers how many.
pub(crate) async fn prune(tx: &Tx, limit: i64) -> Result<u64, Fault> {
    tx.execute(
        "delete from inbox where (kind, id) in (select kind, id from inbox where expires_at < $1 order by expires_at limit $2)",
        [tx.clock().now().as_ms().into(), limit.into()],
    )
    .await
}

const REFUSAL: &str = "refusal_to_remember";
const SELECT: &str = "select fingerprint, tombstone, answer from inbox where kind = $1 and id = $2";

fn write_answer(answer: &impl Serialize) -> Result<String, Fault> {
    serde_json::to_string(answer).map_err(|error| Fault::internal("unwritable_answer", error.to_string()))
}

/// Puts the command's row in; false if there is one. On PostgreSQL this waits for a twin that is still at work.
async fn claim(tx: &Tx, command: &Command, tombstone: bool) -> Result<bool, Fault> {
    let now = tx.clock().now();
    let expires_at = command.keep_for.map(|how_long| now.plus(how_long).as_ms());
    let inserted = tx
        .execute(
            "insert into inbox (kind, id, fingerprint, tombstone, created_at, expires_at) values ($1, $2, $3, $4, $5, $6)
             on conflict (kind, id) do nothing",
            [
                command.kind.into(),
                command.id.as_str().into(),
                command.fingerprint.as_str().into(),
                tombstone.into(),
                now.as_ms().into(),
                expires_at.into(),
            ],
        )
        .await?;
    Ok(inserted == 1)
}

async fn load<A: DeserializeOwned>(tx: &Tx, command: &Command) -> Result<Memory<A>, Fault> {
    // The twin that held the row may have rolled back between our insert and this look: then the whole job runs again.
    let row = tx
        .query_one(SELECT, [command.kind.into(), command.id.as_str().into()])
        .await?;
    let row = row.ok_or_else(|| crate::lost_race("a command's row went away"))?;
    remembered(&row, command)
}

async fn is_tombstone(tx: &Tx, command: &Command) -> Result<bool, Fault> {
    let row = tx
        .query_one(SELECT, [command.kind.into(), command.id.as_str().into()])
        .await?;
    let row = row.ok_or_else(|| crate::lost_race("a command's row went away"))?;
    row.try_get("", "tombstone").map_err(fault)
}

fn remembered<A: DeserializeOwned>(row: &sea_orm::QueryResult, command: &Command) -> Result<Memory<A>, Fault> {
    if row.try_get("", "tombstone").map_err(fault)? {
        return Ok(Memory::Undone);
    }
    let fingerprint: String = row.try_get("", "fingerprint").map_err(fault)?;
    if fingerprint != command.fingerprint {
        return Err(Fault::invalid(
            "command_reused",
            "This id was used before, for a different request.",
        ));
    }
    let answer: Option<String> = row.try_get("", "answer").map_err(fault)?;
    let answer = answer.ok_or_else(|| Fault::internal("unreadable_answer", "a remembered command has no answer"))?;
    read_answer(&answer).map(Memory::Again)
}

fn read_answer<A: DeserializeOwned>(answer: &str) -> Result<A, Fault> {
    serde_json::from_str(answer).map_err(|error| Fault::internal("unreadable_answer", error.to_string()))
}

async fn store_text(tx: &Tx, command: &Command, answer: &str) -> Result<(), Fault> {
    tx.execute(
        "update inbox set answer = $3 where kind = $1 and id = $2",
        [command.kind.into(), command.id.as_str().into(), answer.into()],
    )
    .await?;
    Ok(())
}
