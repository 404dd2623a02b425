//! The sandbox provider's books: who was asked what under which key, and every effect it had. An auditor may read them beside ours.

use banyan_core::Fault;
use banyan_durable::{Db, Storage, Tx, fault, lost_race};
use sea_orm::{ConnectionTrait, DbBackend, QueryResult, Statement, Value};
use shared_kernel::Money;
use uuid::Uuid;

use super::{Decline, Request, authorisation_of};
use crate::{
    ledger,
    provider::{Answer, AuthorisationRequest, Totals},
};

/// Additive only: a provider's books outlive any version of this program.
const TABLES: &str = "
create table if not exists request (
    key uuid primary key,
    kind text not null,
    fingerprint text not null,
    answer text,
    created_at bigint not null
);
create table if not exists authorisation (
    id text primary key,
    key uuid not null unique,
    order_id uuid not null,
    amount bigint not null check (amount >= 0),
    currency text not null,
    payment_method text not null,
    status text not null check (status in ('authorised', 'captured', 'voided')),
    failed_captures bigint not null,
    created_at bigint not null
);
create index if not exists authorisation_by_order on authorisation (order_id);
create table if not exists capture (
    id text primary key,
    key uuid not null unique,
    authorisation_id text not null unique references authorisation (id),
    amount bigint not null check (amount >= 0),
    currency text not null,
    created_at bigint not null
);
create table if not exists void (
    id text primary key,
    key uuid not null unique,
    authorisation_id text not null unique references authorisation (id),
    created_at bigint not null
);
create table if not exists refund (
    id text primary key,
    key uuid not null unique,
    authorisation_id text not null references authorisation (id),
    amount bigint not null check (amount >= 0),
    currency text not null,
    created_at bigint not null
);
create index if not exists refund_by_authorisation on refund (authorisation_id);
";

/// Makes the tables, and on PostgreSQL the schema, unless they are there.
pub async fn create_tables(place: &Storage) -> Result<(), Fault> {
    let connection = banyan_durable::migration_connection(place, "sandbox_provider").await?;
    let backend = connection.get_database_backend();
    let made = async {
        match place {
            Storage::Sqlite { .. } => connection
                .execute_unprepared(&TABLES.replace(" uuid", " blob"))
                .await
                .map(drop),
            Storage::Postgres { schema, .. } => {
                // `if not exists` alone lets two starting at once collide; and a login without the right to make schemas may find its own made.
                let known = "select 1 from pg_namespace where nspname = $1";
                connection
                    .execute_unprepared("select pg_advisory_lock(hashtext('sandbox_provider'))")
                    .await?;
                if connection
                    .query_one_raw(Statement::from_sql_and_values(backend, known, [schema.as_str().into()]))
                    .await?
                    .is_none()
                {
                    connection
                        .execute_unprepared(&format!("create schema \"{schema}\""))
                        .await?;
                }
                connection.execute_unprepared(TABLES).await?;
                connection
                    .execute_unprepared("select pg_advisory_unlock(hashtext('sandbox_provider'))")
                    .await
                    .map(drop)
            }
        }
    };
    let made = made.await.map_err(fault);
    connection.close().await.map_err(fault)?;
    made
}

/// An answer, and whether it was given for the first time.
pub(super) struct Done {
    pub answer: Answer,
    pub first: bool,
}

/// What one request came to inside its transaction.
enum Tried {
    Done(Done),
    /// A 503: nothing happened but that it was counted.
    Failed,
}

/// Carries out a request unless its key was seen; then the answer is the one given then.
pub(super) async fn carry_out(books: &Db, key: Uuid, request: Request) -> Result<Done, Fault> {
    let tried = books.write(request, move |tx, request| async move {
            let (kind, fingerprint) = (request.kind().as_str(), request.fingerprint());
            let now = tx.clock().now().as_ms();
            let claim = "insert into request (key, kind, fingerprint, created_at) values ($1, $2, $3, $4) on conflict (key) do nothing";
            if execute(&tx, claim, [key.into(), kind.into(), fingerprint.as_str().into(), now.into()]).await? == 0 {
                return replay(&tx, key, &fingerprint).await.map(Tried::Done);
            }
            let answer = match request {
                Request::Authorise(wanted) => authorise(&tx, key, &wanted).await?,
                Request::Capture { authorisation, amount } => match capture(&tx, key, &authorisation, &amount).await? {
                    Some(answer) => answer,
                    None => {
                        execute(&tx, "delete from request where key = $1", [key.into()]).await?;
                        return Ok(Tried::Failed);
                    }
                },
                Request::Void { authorisation } => void(&tx, key, &authorisation).await?,
                Request::Refund { authorisation, amount } => refund(&tx, key, &authorisation, &amount).await?,
            };
            let json = serde_json::to_string(&answer);
            let json = json.map_err(|error| Fault::internal("unwritable_answer", error.to_string()))?;
            execute(&tx, "update request set answer = $2 where key = $1", [key.into(), json.into()]).await?;
            Ok(Tried::Done(Done { answer, first: true }))
        });
    match tried.await? {
        Tried::Done(done) => Ok(done),
        Tried::Failed => Err(Fault::unavailable("The sandbox provider answers 503.")),
    }
}

pub async fn find_answer(books: &Db, key: Uuid) -> Result<Option<Answer>, Fault> {
    let statement = Statement::from_sql_and_values(
        books.backend(),
        "select answer from request where key = $1",
        [key.into()],
    );
    let row = books.read().query_one_raw(statement).await.map_err(fault)?;
    row.map(|row| read_answer(&row)).transpose()
}

/// Ours and theirs are read by the same words, so that they can be compared.
pub async fn totals(books: &Db) -> Result<Vec<Totals>, Fault> {
    let sql = "select a.currency as currency,
                   cast(coalesce(sum(case when a.status = 'authorised' then a.amount end), 0) as bigint) as authorised,
                   cast(coalesce(sum(c.amount), 0) as bigint) as captured,
                   cast(coalesce(sum(r.amount), 0) as bigint) as refunded
               from authorisation a
               left join capture c on c.authorisation_id = a.id
               left join (select authorisation_id, sum(amount) as amount from refund group by authorisation_id) r on r.authorisation_id = a.id
               group by a.currency order by a.currency";
    ledger::store::read_totals(books, sql).await
}

async fn replay(tx: &Tx, key: Uuid, fingerprint: &str) -> Result<Done, Fault> {
    let row = query_one(
        tx,
        "select fingerprint, answer from request where key = $1",
        [key.into()],
    )
    .await?;
    let row = row.ok_or_else(|| lost_race("a request's row went away"))?;
    let known: String = row.try_get("", "fingerprint").map_err(fault)?;
    if known != fingerprint {
        return Err(Fault::invalid(
            "provider_key_reused",
            "The provider saw this key before, for a different request.",
        ));
    }
    Ok(Done {
        answer: read_answer(&row)?,
        first: false,
    })
}

async fn authorise(tx: &Tx, key: Uuid, wanted: &AuthorisationRequest) -> Result<Answer, Fault> {
    if let Err(decline) = authorisation_of(&wanted.method) {
        return Ok(decline.into());
    }
    let id = format!("auth_{}", key.simple());
    execute(
        tx,
        "insert into authorisation (id, key, order_id, amount, currency, payment_method, status, failed_captures, created_at)
         values ($1, $2, $3, $4, $5, $6, 'authorised', 0, $7)",
        [
            id.as_str().into(),
            key.into(),
            wanted.order_id.into(),
            wanted.amount.amount.into(),
            wanted.amount.currency.as_str().into(),
            wanted.method.as_str().into(),
            tx.clock().now().as_ms().into(),
        ],
    )
    .await?;
    Ok(Answer::Accepted { id })
}

/// `None`: it fails this time, with a 503.
async fn capture(tx: &Tx, key: Uuid, authorisation: &str, amount: &Money) -> Result<Option<Answer>, Fault> {
    let Some(known) = load(tx, authorisation).await? else {
        return Ok(Some(UNKNOWN.into()));
    };
    if known.method == "pm_card_capture_declined" {
        return Ok(Some(
            Decline("capture_declined", "The issuer refused the capture.").into(),
        ));
    }
    if known.method == "pm_card_capture_fails_once" && known.failed_captures == 0 {
        execute(
            tx,
            "update authorisation set failed_captures = 1 where id = $1",
            [authorisation.into()],
        )
        .await?;
        return Ok(None);
    }
    if amount.currency != known.currency || amount.amount > known.amount {
        return Ok(Some(
            Decline(
                "exceeds_authorised",
                "No more than what was authorised can be captured.",
            )
            .into(),
        ));
    }
    if !change_status(tx, authorisation, "captured").await? {
        return Ok(Some(
            Decline("not_authorised", "This authorisation was captured or voided before.").into(),
        ));
    }
    let id = format!("cap_{}", key.simple());
    let insert =
        "insert into capture (id, key, authorisation_id, amount, currency, created_at) values ($1, $2, $3, $4, $5, $6)";
    record(tx, insert, &id, key, authorisation, Some(amount)).await?;
    Ok(Some(Answer::Accepted { id }))
}

async fn void(tx: &Tx, key: Uuid, authorisation: &str) -> Result<Answer, Fault> {
    if load(tx, authorisation).await?.is_none() {
        return Ok(UNKNOWN.into());
    }
    if !change_status(tx, authorisation, "voided").await? {
        return Ok(Decline("not_authorised", "This authorisation was captured or voided before.").into());
    }
    let id = format!("void_{}", key.simple());
    let insert = "insert into void (id, key, authorisation_id, created_at) values ($1, $2, $3, $4)";
    record(tx, insert, &id, key, authorisation, None).await?;
    Ok(Answer::Accepted { id })
}

async fn refund(tx: &Tx, key: Uuid, authorisation: &str, amount: &Money) -> Result<Answer, Fault> {
    // On PostgreSQL the lock orders the refunds of one authorisation, so that together they stay within what was captured.
    let lock = "update authorisation set status = status where id = $1 and status = 'captured'";
    if execute(tx, lock, [authorisation.into()]).await? == 0 {
        return Ok(Decline("not_captured", "Only what was captured can be refunded.").into());
    }
    let left = query_one(
        tx,
        "select c.currency as currency, cast(c.amount - coalesce((select sum(r.amount) from refund r where r.authorisation_id = $1), 0) as bigint) as left_over
         from capture c where c.authorisation_id = $1",
        [authorisation.into()],
    )
    .await?
    .ok_or_else(|| Fault::internal("books_broken", "captured without a capture"))?;
    let currency: String = left.try_get("", "currency").map_err(fault)?;
    let left: i64 = left.try_get("", "left_over").map_err(fault)?;
    if amount.currency != currency || amount.amount > left {
        return Ok(Decline("exceeds_captured", "No more than what was captured can be refunded.").into());
    }
    let id = format!("re_{}", key.simple());
    let insert =
        "insert into refund (id, key, authorisation_id, amount, currency, created_at) values ($1, $2, $3, $4, $5, $6)";
    record(tx, insert, &id, key, authorisation, Some(amount)).await?;
    Ok(Answer::Accepted { id })
}

const UNKNOWN: Decline = Decline("unknown_authorisation", "There is no such authorisation.");

/// An authorisation as the books have it.
struct Authorisation {
    amount: i64,
    currency: String,
    method: String,
    failed_captures: i64,
}

async fn load(tx: &Tx, id: &str) -> Result<Option<Authorisation>, Fault> {
    let sql = "select amount, currency, payment_method, failed_captures from authorisation where id = $1";
    let Some(row) = query_one(tx, sql, [id.into()]).await? else {
        return Ok(None);
    };
    let read = || {
        Ok(Authorisation {
            amount: row.try_get("", "amount")?,
            currency: row.try_get("", "currency")?,
            method: row.try_get("", "payment_method")?,
            failed_captures: row.try_get("", "failed_captures")?,
        })
    };
    read().map(Some).map_err(fault)
}

/// Ends an authorisation that is still open; false if it is not.
async fn change_status(tx: &Tx, id: &str, status: &str) -> Result<bool, Fault> {
    let sql = "update authorisation set status = $2 where id = $1 and status = 'authorised'";
    Ok(execute(tx, sql, [id.into(), status.into()]).await? == 1)
}

async fn record(
    tx: &Tx,
    insert: &str,
    id: &str,
    key: Uuid,
    authorisation: &str,
    amount: Option<&Money>,
) -> Result<(), Fault> {
    let now = tx.clock().now().as_ms();
    let done = match amount {
        Some(Money { amount, currency }) => {
            execute(
                tx,
                insert,
                [
                    id.into(),
                    key.into(),
                    authorisation.into(),
                    (*amount).into(),
                    currency.as_str().into(),
                    now.into(),
                ],
            )
            .await
        }
        None => execute(tx, insert, [id.into(), key.into(), authorisation.into(), now.into()]).await,
    };
    done.map(drop)
}

fn read_answer(row: &QueryResult) -> Result<Answer, Fault> {
    let json: String = row.try_get("", "answer").map_err(fault)?;
    serde_json::from_str(&json).map_err(|error| Fault::internal("unreadable_answer", error.to_string()))
}

async fn execute<const N: usize>(tx: &Tx, sql: &str, values: [Value; N]) -> Result<u64, Fault> {
    let statement = Statement::from_sql_and_values(backend(tx), sql, values);
    Ok(tx.conn().execute_raw(statement).await.map_err(fault)?.rows_affected())
}

async fn query_one<const N: usize>(tx: &Tx, sql: &str, values: [Value; N]) -> Result<Option<QueryResult>, Fault> {
    tx.conn()
        .query_one_raw(Statement::from_sql_and_values(backend(tx), sql, values))
        .await
        .map_err(fault)
}

fn backend(tx: &Tx) -> DbBackend {
    tx.conn().get_database_backend()
}

/// How many effects of each kind the provider had; a test compares them with what it asked for.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    pub authorisations: i64,
    pub captures: i64,
    pub voids: i64,
    pub refunds: i64,
}

#[cfg(test)]
pub async fn count_effects(books: &Db) -> Result<Effects, Fault> {
    let sql =
        "select (select count(*) from authorisation) as authorisations, (select count(*) from capture) as captures,
                   (select count(*) from void) as voids, (select count(*) from refund) as refunds";
    let row = books
        .read()
        .query_one_raw(Statement::from_string(books.backend(), sql))
        .await
        .map_err(fault)?;
    let row = row.ok_or_else(|| Fault::internal("database_error", "no row"))?;
    let count = |name: &str| row.try_get("", name).map_err(fault);
    Ok(Effects {
        authorisations: count("authorisations")?,
        captures: count("captures")?,
        voids: count("voids")?,
        refunds: count("refunds")?,
    })
}
