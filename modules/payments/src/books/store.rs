//! What a comparison of the books reads in our own, and what it remembers.

use std::collections::{BTreeMap, HashMap, HashSet};

use banyan_core::{Fault, Timestamp};
use banyan_durable::{Db, Tx, fault};
use sea_orm::{ConnectionTrait, FromQueryResult, Statement, Value};
use uuid::Uuid;

use super::{Difference, Sums};
use crate::{
    ledger::Movement,
    provider::{Period, Position},
};

/// A movement as the ledger has it.
#[derive(Clone, Debug, FromQueryResult)]
pub struct LedgerMovement {
    pub reference: Uuid,
    pub payment_id: Uuid,
    kind: String,
    pub currency: Option<String>,
    pub amount: i64,
    /// The sum of the entries: 0, unless there is a bug.
    pub balance: i64,
    /// When the provider booked it, if it was found there.
    pub booked_at: Option<i64>,
}

impl LedgerMovement {
    pub fn kind(&self) -> Option<Movement> {
        self.kind.parse().ok()
    }
}

/// What the ledger has for these commands.
pub async fn ledger_movements(db: &Db, references: &[Uuid]) -> Result<HashMap<Uuid, LedgerMovement>, Fault> {
    if references.is_empty() {
        return Ok(HashMap::new());
    }
    let sql = format!(
        "select t.command_id as reference, t.payment_id, t.kind, t.booked_at, min(e.currency) as currency,
             cast(coalesce(sum(case
                 when t.kind = 'authorisation' and e.account = 'authorised' then e.amount
                 when t.kind = 'void' and e.account = 'authorised' then -e.amount
                 when t.kind = 'capture' and e.account = 'provider' then e.amount
                 when t.kind = 'refund' and e.account = 'refunds' then e.amount end), 0) as bigint) as amount,
             cast(coalesce(sum(e.amount), 0) as bigint) as balance
         from ledger_transaction t left join ledger_entry e on e.transaction_id = t.id
         where t.command_id in ({}) group by t.id, t.command_id, t.payment_id, t.kind, t.booked_at",
        placeholders(references.len())
    );
    let rows: Vec<LedgerMovement> = all(db, &sql, ids(references)).await?;
    Ok(rows.into_iter().map(|row| (row.reference, row)).collect())
}

/// Those of the commands whose outcome is not known yet.
pub async fn without_outcome(db: &Db, references: &[Uuid]) -> Result<HashSet<Uuid>, Fault> {
    if references.is_empty() {
        return Ok(HashSet::new());
    }
    let sql = format!(
        "select id as reference from money_command where id in ({}) and state in ('requested', 'started')",
        placeholders(references.len())
    );
    Ok(references_of(db, &sql, ids(references)).await?.into_iter().collect())
}

/// Those of the payments whose own row says something else than their ledger.
pub async fn payments_unlike_their_ledger(db: &Db, payments: &HashSet<Uuid>) -> Result<HashSet<Uuid>, Fault> {
    if payments.is_empty() {
        return Ok(HashSet::new());
    }
    let sql = format!(
        "select p.id as reference from payment p join ledger_transaction t on t.payment_id = p.id join ledger_entry e on e.transaction_id = t.id
         where p.id in ({}) group by p.id, p.status, p.authorised_amount, p.captured_amount, p.refunded_amount
         having coalesce(sum(case when e.account = 'authorised' then e.amount end), 0)
                 <> case when p.status in ('authorised', 'capturing', 'voiding') then p.authorised_amount else 0 end
             or coalesce(-sum(case when e.account = 'sales' then e.amount end), 0) <> p.captured_amount
             or coalesce(sum(case when e.account = 'refunds' then e.amount end), 0) <> p.refunded_amount",
        placeholders(payments.len())
    );
    let payments: Vec<Uuid> = payments.iter().copied().collect();
    Ok(references_of(db, &sql, ids(&payments)).await?.into_iter().collect())
}

/// The ledger's movements that were found at the provider between these places of its books; the second one included.
pub async fn found_between(db: &Db, after: Position, until: Position, limit: u64) -> Result<Vec<Uuid>, Fault> {
    let sql = "select command_id as reference from ledger_transaction
               where (booked_at, command_id) > ($1, $2) and (booked_at, command_id) <= ($3, $4) order by booked_at, command_id limit $5";
    let values = [after, until]
        .into_iter()
        .flat_map(|(at, id)| [at.as_ms().into(), id.into()]);
    references_of(db, sql, values.chain([rows(limit)])).await
}

/// The oldest movements that the ledger has since before `before`, and that were neither found at the provider nor told as a difference.
pub async fn unmatched(db: &Db, before: Timestamp, limit: u64) -> Result<Vec<Uuid>, Fault> {
    let sql = "select command_id as reference from ledger_transaction where booked_at is null and created_at < $1
               and not exists (select 1 from books_difference d where d.reference = ledger_transaction.command_id)
               order by created_at, command_id limit $2";
    references_of(db, sql, [before.as_ms().into(), rows(limit)]).await
}

/// The end of the last sealed period; `None` before the first.
pub async fn sealed_until(db: &Db) -> Result<Option<Timestamp>, Fault> {
    time(db, "select max(ends_at) as at from books_period").await
}

/// Seals a period. Another instance that sealed it first has it.
pub async fn seal(tx: &Tx, period: Period, sums: &str) -> Result<(), Fault> {
    let now = tx.clock().now().as_ms();
    let sql = "insert into books_period (starts_at, ends_at, sums, sealed_at, verified_at) values ($1, $2, $3, $4, $4) on conflict do nothing";
    let values = [
        period.from.as_ms().into(),
        period.until.as_ms().into(),
        sums.into(),
        now.into(),
    ];
    execute(tx, sql, values).await
}

/// A period that was compared.
pub struct Sealed {
    pub period: Period,
    pub sums: Sums,
}

/// The sealed period that was compared the longest time ago, if that was before `before`; or one that was compared after `now`, before the clock was set back.
pub async fn to_verify(db: &Db, before: Timestamp, now: Timestamp) -> Result<Option<Sealed>, Fault> {
    #[derive(FromQueryResult)]
    struct Row {
        starts_at: i64,
        ends_at: i64,
        sums: String,
    }
    let select = "select starts_at, ends_at, sums from books_period where verified_at";
    let long_ago = format!("{select} < $1 order by verified_at limit 1");
    let mut rows: Vec<Row> = all(db, &long_ago, [before.as_ms().into()]).await?;
    if rows.is_empty() {
        let ahead = format!("{select} > $1 order by verified_at desc limit 1");
        rows = all(db, &ahead, [now.as_ms().into()]).await?;
    }
    let sealed = rows.into_iter().next().map(|row| {
        let unreadable = |error: serde_json::Error| Fault::internal("unreadable_row", error.to_string());
        Ok(Sealed {
            period: Period {
                from: Timestamp::from_ms(row.starts_at),
                until: Timestamp::from_ms(row.ends_at),
            },
            sums: Sums::read(&row.sums).map_err(unreadable)?,
        })
    });
    sealed.transpose()
}

pub async fn verified(tx: &Tx, period: Period, sums: &str) -> Result<(), Fault> {
    let sql = "update books_period set sums = $2, verified_at = $3 where starts_at = $1";
    let now = tx.clock().now().as_ms();
    execute(tx, sql, [period.from.as_ms().into(), sums.into(), now.into()]).await
}

pub async fn count_differences(db: &Db) -> Result<u64, Fault> {
    #[derive(FromQueryResult)]
    struct Row {
        differences: i64,
    }
    let rows: Vec<Row> = all(db, "select count(*) as differences from books_difference", []).await?;
    Ok(rows.first().map_or(0, |row| row.differences.unsigned_abs()))
}

/// The differences that were looked at the longest time ago.
pub async fn differences_to_check(db: &Db, limit: u64) -> Result<Vec<Uuid>, Fault> {
    let sql = "select reference from books_difference order by checked_at, reference limit $1";
    references_of(db, sql, [rows(limit)]).await
}

/// Stores the differences; returns those that were not known. What they are about no longer counts as found at the provider.
pub async fn insert_differences(tx: &Tx, differences: Vec<Difference>) -> Result<Vec<Difference>, Fault> {
    let now = tx.clock().now().as_ms();
    let mut new = Vec::new();
    for difference in differences {
        let sql = "insert into books_difference (reference, description, found_at, checked_at) values ($1, $2, $3, $3) on conflict (reference) do nothing";
        let values = [
            difference.reference.into(),
            difference.description.as_str().into(),
            now.into(),
        ];
        if changed(tx, sql, values).await? == 1 {
            new.push(difference.clone());
        }
        let sql = "update books_difference set description = $2, checked_at = $3 where reference = $1";
        let values = [difference.reference.into(), difference.description.into(), now.into()];
        execute(tx, sql, values).await?;
        let sql = "update ledger_transaction set booked_at = null where command_id = $1 and booked_at is not null";
        execute(tx, sql, [difference.reference.into()]).await?;
    }
    Ok(new)
}

/// Forgets differences that there are no more.
pub async fn delete_differences(tx: &Tx, references: &[Uuid]) -> Result<(), Fault> {
    if references.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "delete from books_difference where reference in ({})",
        placeholders(references.len())
    );
    execute(tx, &sql, ids(references)).await
}

/// These movements were found at the provider, booked at these times.
pub async fn mark_found(tx: &Tx, found: &BTreeMap<Uuid, Timestamp>) -> Result<(), Fault> {
    if found.is_empty() {
        return Ok(());
    }
    let pairs: Vec<String> = (0..found.len())
        .map(|at| format!("(${}, ${})", 2 * at + 1, 2 * at + 2))
        .collect();
    let sql = format!(
        "with found (reference, booked_at) as (values {}) update ledger_transaction set booked_at = found.booked_at
         from found where ledger_transaction.command_id = found.reference",
        pairs.join(", ")
    );
    let values = found.iter().flat_map(|(id, at)| [(*id).into(), at.as_ms().into()]);
    execute(tx, &sql, values).await
}

/// When the books were last compared to the end.
pub async fn completed_at(db: &Db) -> Result<Option<Timestamp>, Fault> {
    time(db, "select max(completed_at) as at from books_comparison").await
}

pub async fn complete(tx: &Tx) -> Result<(), Fault> {
    let sql = "insert into books_comparison (id, completed_at) values (1, $1) on conflict (id) do update set completed_at = excluded.completed_at";
    execute(tx, sql, [tx.clock().now().as_ms().into()]).await
}

/// Says when comparing began, for one that has never come to its end, or only by a clock that was set back since.
pub async fn begin(tx: &Tx) -> Result<(), Fault> {
    let sql = "insert into books_comparison (id, completed_at) values (1, $1)
               on conflict (id) do update set completed_at = excluded.completed_at where books_comparison.completed_at > excluded.completed_at";
    execute(tx, sql, [tx.clock().now().as_ms().into()]).await
}

async fn time(db: &Db, sql: &str) -> Result<Option<Timestamp>, Fault> {
    #[derive(FromQueryResult)]
    struct Row {
        at: Option<i64>,
    }
    let rows: Vec<Row> = all(db, sql, []).await?;
    Ok(rows.first().and_then(|row| row.at).map(Timestamp::from_ms))
}

async fn references_of(db: &Db, sql: &str, values: impl IntoIterator<Item = Value>) -> Result<Vec<Uuid>, Fault> {
    #[derive(FromQueryResult)]
    struct Row {
        reference: Uuid,
    }
    let rows: Vec<Row> = all(db, sql, values).await?;
    Ok(rows.into_iter().map(|row| row.reference).collect())
}

async fn all<R: FromQueryResult>(db: &Db, sql: &str, values: impl IntoIterator<Item = Value>) -> Result<Vec<R>, Fault> {
    let statement = Statement::from_sql_and_values(db.backend(), sql, values);
    R::find_by_statement(statement).all(db.read()).await.map_err(fault)
}

async fn execute(tx: &Tx, sql: &str, values: impl IntoIterator<Item = Value>) -> Result<(), Fault> {
    changed(tx, sql, values).await.map(drop)
}

async fn changed(tx: &Tx, sql: &str, values: impl IntoIterator<Item = Value>) -> Result<u64, Fault> {
    let statement = Statement::from_sql_and_values(tx.conn().get_database_backend(), sql, values);
    Ok(tx.conn().execute_raw(statement).await.map_err(fault)?.rows_affected())
}

fn ids(references: &[Uuid]) -> impl Iterator<Item = Value> + '_ {
    references.iter().map(|id| (*id).into())
}

fn placeholders(count: usize) -> String {
    let names: Vec<String> = (1..=count).map(|number| format!("${number}")).collect();
    names.join(", ")
}

fn rows(limit: u64) -> Value {
    i64::try_from(limit).unwrap_or(i64::MAX).into()
}
