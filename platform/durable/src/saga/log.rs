//! A saga's log: what happened to it, for operators. It only grows.
//!
//! The newest entries are lines of JSON in the saga's own row, so that a decision and its entries are one write. A log that has become long moves to the
//! table `saga_log`, because each write of a row writes all of it.

use banyan_core::{Fault, Timestamp};
use sea_orm::{FromQueryResult, Value};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::store::Row;
use crate::{
    Db, Tx,
    query::{self, StoredTime},
};

/// The length at which the entries in the row move to the table, in characters. A saga that nothing disturbs has a twentieth of it.
const MAX_IN_ROW: i64 = 32 * 1_024;
/// The number of entries that are shown, the newest.
const SHOWN: usize = 500;
/// The number of entries inserted by one statement.
const CHUNK: usize = 200;

/// Something that happened to a saga.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SagaLogEntry {
    /// 1 for the first, then gapless.
    pub seq: i64,
    pub at: Timestamp,
    /// `started`, `begun`, `news`, `refused`, `signal`, `deadline_passed`, `unknown`, `failed`; then `do`, `undo`, `repeat`, `continue`,
    /// `completed`, `compensated`, `parked`; of operators `retried`, `compensation_asked`, `abandoned`, `leftover_undone`, and `compensate`
    /// once it was told.
    pub entry: String,
    pub step: String,
    pub detail: String,
}

/// An entry in the row. The names are short because they are repeated in every line.
#[derive(Serialize, Deserialize)]
struct Line {
    at: i64,
    entry: String,
    step: String,
    detail: String,
}

/// Entries to be added, as lines.
#[derive(Default)]
pub(super) struct Entries(String);

impl Entries {
    pub fn add(&mut self, at: Timestamp, entry: &str, step: &str, detail: &str) -> Result<(), Fault> {
        const DETAIL_CHARS: usize = 2_000;
        let line = Line {
            at: at.as_ms(),
            entry: entry.to_owned(),
            step: step.to_owned(),
            detail: detail.chars().take(DETAIL_CHARS).collect(),
        };
        let line =
            serde_json::to_string(&line).map_err(|error| Fault::internal("unwritable_saga", error.to_string()))?;
        self.0.push_str(&line);
        self.0.push('\n');
        Ok(())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn lines_of(log: &str) -> Result<Vec<Line>, Fault> {
    log.lines()
        .map(|line| {
            serde_json::from_str(line).map_err(|error| Fault::internal("unreadable_saga", format!("its log: {error}")))
        })
        .collect()
}

#[derive(FromQueryResult)]
struct LogRow {
    seq: i64,
    at: StoredTime,
    entry: String,
    step: String,
    detail: String,
}

/// The newest entries, oldest first.
pub(super) async fn read(db: &Db, id: Uuid) -> Result<Vec<SagaLogEntry>, Fault> {
    // The row first: entries that move to the table between the two reads are then read twice rather than not at all.
    let in_row: Option<String> = query::scalar(db.read(), "select log from saga where id = $1", [id.into()]).await?;
    let in_row = lines_of(&in_row.unwrap_or_default())?;
    let sql = "select seq, at, entry, step, detail from saga_log where saga_id = $1 order by seq desc limit $2";
    let moved: Vec<LogRow> = query::all(db.read(), sql, [id.into(), query::limit(SHOWN)]).await?;
    let last = moved.first().map_or(0, |row| row.seq);
    let moved = moved.into_iter().rev().map(|row| SagaLogEntry {
        seq: row.seq,
        at: row.at.into(),
        entry: row.entry,
        step: row.step,
        detail: row.detail,
    });
    let in_row = (last + 1..).zip(in_row).map(|(seq, line)| SagaLogEntry {
        seq,
        at: Timestamp::from_ms(line.at),
        entry: line.entry,
        step: line.step,
        detail: line.detail,
    });
    let mut entries: Vec<SagaLogEntry> = moved.chain(in_row).collect();
    let surplus = entries.len().saturating_sub(SHOWN);
    Ok(entries.split_off(surplus))
}

/// Moves the entries in the row to the table if they have become long. The caller then saves the row, which fails if somebody else has added entries
/// meanwhile.
pub(super) async fn make_room(tx: &Tx, row: &mut Row) -> Result<(), Fault> {
    if row.log_length <= MAX_IN_ROW {
        return Ok(());
    }
    let id = row.id;
    row.log_length = 0;
    let in_row: Option<String> = query::scalar(tx.conn(), "select log from saga where id = $1", [id.into()]).await?;
    let last: Option<i64> = query::scalar(
        tx.conn(),
        "select coalesce(max(seq), 0) as last from saga_log where saga_id = $1",
        [id.into()],
    )
    .await?;
    let lines = lines_of(&in_row.unwrap_or_default())?;
    let mut seq = last.unwrap_or(0);
    for chunk in lines.chunks(CHUNK) {
        let mut values: Vec<Value> = Vec::new();
        let mut rows: Vec<String> = Vec::new();
        for line in chunk {
            seq += 1;
            rows.push(format!("({})", query::placeholders(values.len() + 1, 6)));
            values.extend([
                id.into(),
                seq.into(),
                line.at.into(),
                line.entry.as_str().into(),
                line.step.as_str().into(),
                line.detail.as_str().into(),
            ]);
        }
        let sql = format!(
            "insert into saga_log (saga_id, seq, at, entry, step, detail) values {}",
            rows.join(", ")
        );
        tx.execute(&sql, values).await?;
    }
    tx.execute("update saga set log = '' where id = $1", [id.into()])
        .await
        .map(drop)
}
