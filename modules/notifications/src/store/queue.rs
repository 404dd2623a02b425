//! The queue of mails: what is due, the claim by which several instances share it, and the outcomes. Each is one statement, however many mails there are.

use std::time::Duration;

use banyan_core::{Fault, Timestamp};
use banyan_durable::{Tx, fault};
use sea_orm::{ConnectionTrait, DbBackend, FromQueryResult, Statement, Value};
use uuid::Uuid;

use super::parse;
use crate::notification::{Attempted, DueMail, Next, Status};

/// The mails at the head of the queue.
pub struct Due {
    /// At most the limit, the oldest first.
    pub mails: Vec<DueMail>,
    /// The time until the next one is due, if it is known.
    pub next: Option<Duration>,
}

#[derive(FromQueryResult)]
struct QueuedRow {
    id: Uuid,
    user_id: Uuid,
    kind: String,
    subject: String,
    body: String,
    attempts: i64,
    refusals: i64,
    lease_token: i64,
    traceparent: Option<String>,
    created_at: i64,
    account_mail: Option<Uuid>,
    wait_ms: i64,
}

/// The mails that are due now by the database's clock, at most `limit`. A mail that would wait longer than `longest_wait`, the longest wait that is ever
/// set, is due: the clock has been set back since.
pub async fn list_due(conn: &impl ConnectionTrait, limit: u64, longest_wait: Duration) -> Result<Due, Fault> {
    let backend = conn.get_database_backend();
    // The head of the queue, and its other end for mails from before the clock was set back. One more than the limit tells when the next is due.
    let sql = format!(
        "select id, user_id, coalesce(account_kind, kind) as kind, subject, body, attempts, refusals, lease_token, traceparent, created_at, account_mail,
                next_attempt_at - {} as wait_ms from
             (select * from notification where status = 'queued' order by next_attempt_at, id limit $1) as head
         union select id, user_id, coalesce(account_kind, kind) as kind, subject, body, attempts, refusals, lease_token, traceparent, created_at, account_mail,
                next_attempt_at - {} as wait_ms from
             (select * from notification where status = 'queued' order by next_attempt_at desc, id desc limit $1) as tail",
        now_ms(backend),
        now_ms(backend)
    );
    let head = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
    let statement = Statement::from_sql_and_values(backend, sql, [head.into()]);
    let mut rows = QueuedRow::find_by_statement(statement).all(conn).await.map_err(fault)?;
    rows.sort_unstable_by_key(|row| (row.wait_ms, row.id));
    let (mut mails, mut next) = (Vec::new(), None);
    for row in rows {
        let wait = u64::try_from(row.wait_ms).map_or(Duration::ZERO, Duration::from_millis);
        if wait.is_zero() || wait > longest_wait {
            mails.push(due_of(row)?);
        } else {
            next.get_or_insert(wait);
        }
    }
    mails.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(Due { mails, next })
}

/// Claims these mails for this instance: no other claims them before `lease` has passed. Returns those that no other instance has claimed since they
/// were listed.
pub async fn claim(tx: &Tx, due: Vec<DueMail>, lease: Duration) -> Result<Vec<DueMail>, Fault> {
    let (backend, mut values) = (tx.conn().get_database_backend(), vec![ms(lease).into()]);
    let rows = rows(&mut values, due.iter().map(|mail| [mail.id.into(), mail.token.into()]));
    let (locked, join) = match backend {
        DbBackend::Postgres => (
            ", locked as (select notification.id from notification join due on notification.id = due.id and notification.lease_token = due.token
                  where notification.status = 'queued' order by notification.id for update of notification skip locked)",
            "join locked on locked.id = due.id",
        ),
        _ => ("", ""),
    };
    let sql = format!(
        "with due (id, token) as (values {rows}) {locked}
         update notification set next_attempt_at = {} + $1, lease_token = notification.lease_token + 1, attempts = notification.attempts + 1
         from due {join} where notification.id = due.id and notification.lease_token = due.token and notification.status = 'queued'
         returning notification.id",
        now_ms(backend)
    );
    let claimed = ids(tx, sql, values).await?;
    let due = due.into_iter().filter(|mail| claimed.contains(&mail.id));
    Ok(due.map(DueMail::claimed).collect())
}

/// Stores the outcomes of attempts; returns the mails whose outcome counts. Another instance may have claimed the others since.
pub async fn record(tx: &Tx, attempted: &[Attempted], now: Timestamp) -> Result<Vec<Uuid>, Fault> {
    let (backend, mut values) = (tx.conn().get_database_backend(), Vec::new());
    let rows = rows(
        &mut values,
        attempted.iter().map(|attempted| outcome_of(attempted, now)),
    );
    // In the order of the ids, so that instances that record the same mails cannot deadlock.
    let (locked, join) = match backend {
        DbBackend::Postgres => (
            ", locked as (select id from notification where id in (select id from outcome) order by id for no key update)",
            "join locked on locked.id = outcome.id",
        ),
        _ => ("", ""),
    };
    let sql = format!(
        "with outcome (id, token, status, attempts, refusals, recipient, sent_at, error, wait_ms) as (values {rows}) {locked}
         update notification set status = outcome.status, attempts = outcome.attempts, refusals = outcome.refusals, recipient = outcome.recipient,
             sent_at = outcome.sent_at, last_error = coalesce(outcome.error, notification.last_error),
             next_attempt_at = case when outcome.wait_ms is null then notification.next_attempt_at else {} + outcome.wait_ms end
         from outcome {join} where notification.id = outcome.id and notification.lease_token = outcome.token and notification.status = 'queued'
         returning notification.id",
        now_ms(backend)
    );
    ids(tx, sql, values).await
}

/// The values of an outcome. The number of refusals changes only with a retry: nothing asks for it afterwards.
fn outcome_of(attempted: &Attempted, now: Timestamp) -> [Value; 9] {
    let mail = &attempted.mail;
    let (status, refusals, recipient, sent_at, error, wait) = match &attempted.next {
        Next::Sent { to } => (
            Status::Sent,
            mail.refusals,
            Some(to.clone()),
            Some(now.as_ms()),
            None,
            None,
        ),
        Next::Captured { to } => (Status::Captured, mail.refusals, Some(to.clone()), None, None, None),
        Next::Failed { error } => (
            Status::Failed,
            mail.refusals,
            None,
            None,
            Some(error.detail.clone()),
            None,
        ),
        Next::Retry { after, refusals, error } => {
            let error = Some(error.detail.clone());
            (Status::Queued, *refusals, None, None, error, Some(ms(*after)))
        }
    };
    [
        mail.id.into(),
        mail.token.into(),
        status.into_str().into(),
        i64::from(mail.attempts).into(),
        i64::from(refusals).into(),
        recipient.into(),
        sent_at.into(),
        error.into(),
        wait.into(),
    ]
}

/// The condition is that of the index `notification_ended`, so that both databases use it.
const ENDED: &str =
    "select id from notification where status <> 'queued' and created_at < $1 order by created_at limit $2";

/// Deletes mails that were made before this time and are no longer queued, at most `limit`; returns their number.
pub async fn delete_ended(tx: &Tx, before: Timestamp, limit: u64) -> Result<u64, Fault> {
    let sql = format!("delete from notification where id in ({ENDED}) returning id");
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let deleted = ids(tx, sql, vec![before.as_ms().into(), limit.into()]).await?;
    Ok(u64::try_from(deleted.len()).unwrap_or(u64::MAX))
}

async fn ids(tx: &Tx, sql: String, values: Vec<Value>) -> Result<Vec<Uuid>, Fault> {
    #[derive(FromQueryResult)]
    struct Changed {
        id: Uuid,
    }
    let statement = Statement::from_sql_and_values(tx.conn().get_database_backend(), sql, values);
    let rows = Changed::find_by_statement(statement).all(tx.conn()).await;
    Ok(rows.map_err(fault)?.into_iter().map(|row| row.id).collect())
}

/// Adds the values of rows to a statement; returns their placeholders: `($2, $3), ($4, $5)`.
fn rows<const N: usize>(values: &mut Vec<Value>, rows: impl Iterator<Item = [Value; N]>) -> String {
    let rows = rows.map(|row| {
        let first = values.len() + 1;
        values.extend(row);
        let names: Vec<String> = (first..first + N).map(|number| format!("${number}")).collect();
        format!("({})", names.join(", "))
    });
    rows.collect::<Vec<_>>().join(", ")
}

/// The database's clock, in milliseconds since the Unix epoch.
fn now_ms(backend: DbBackend) -> &'static str {
    match backend {
        DbBackend::Sqlite => "cast(unixepoch('now', 'subsec') * 1000 as integer)",
        _ => "cast(extract(epoch from statement_timestamp()) * 1000 as bigint)",
    }
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn due_of(row: QueuedRow) -> Result<DueMail, Fault> {
    Ok(DueMail {
        id: row.id,
        user_id: row.user_id,
        kind: parse(&row.kind)?,
        subject: row.subject,
        body: row.body,
        account_mail: row.account_mail,
        attempts: u32::try_from(row.attempts).unwrap_or(u32::MAX).saturating_add(1),
        refusals: u32::try_from(row.refusals).unwrap_or(u32::MAX),
        token: row.lease_token,
        created_at: Timestamp::from_ms(row.created_at),
        traceparent: row.traceparent,
    })
}
