//! The sandbox provider's books: every request with its key, and every effect it had. An auditor may read them beside ours.

pub mod movements;

use banyan_core::Fault;
use banyan_durable::{Db, Storage, Tx, fault, lost_race};
use sea_orm::{ConnectionTrait, FromQueryResult, Statement, Value};
use shared_kernel::Money;
use uuid::Uuid;

use super::{Decline, Request, effect_id};
use crate::{
    commands::Kind,
    ledger,
    provider::{AuthorisationRequest, Response, Totals},
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
create index if not exists authorisation_by_time on authorisation (created_at, key);
create index if not exists capture_by_time on capture (created_at, key);
create index if not exists void_by_time on void (created_at, key);
create index if not exists refund_by_time on refund (created_at, key);
";

/// Creates the tables, and on PostgreSQL the schema, unless they exist.
pub async fn create_tables(storage: &Storage) -> Result<(), Fault> {
    let connection = banyan_durable::Connection::open(storage, "sandbox_provider").await?;
    let backend = connection.get_database_backend();
    let created = async {
        match storage {
            Storage::Sqlite { .. } => connection
                .execute_unprepared(&TABLES.replace(" uuid", " blob"))
                .await
                .map(drop),
            Storage::Postgres { schema, .. } => {
                // `if not exists` alone lets two processes that start at once collide; and a login that may not create schemas may find its own
                // created.
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
    let created = created.await.map_err(fault);
    connection.close().await;
    created
}

/// A response, and whether it is the first one to its key.
pub(super) struct Done {
    pub response: Response,
    pub first: bool,
}

/// What one request came to inside its transaction.
enum Attempt {
    Done(Done),
    /// A 503: nothing happened, except that the attempt was counted.
    Failed,
}

/// Carries out a request, unless its key was seen before; then the response is the same as then.
pub(super) async fn carry_out(books: &Db, key: Uuid, request: Request) -> Result<Done, Fault> {
    let attempt = books.write(request, move |tx, request| async move {
        // The record of the key is stored with the response that most requests get, and corrected for the others.
        let expected = request.expected_response(key);
        if !claim(&tx, key, &request, &expected).await? {
            return replay(&tx, key, &request.fingerprint()).await.map(Attempt::Done);
        }
        let response = match &request {
            Request::Authorise(wanted) => authorise(&tx, key, wanted, &expected).await?,
            Request::Capture { authorisation, amount } => match capture(&tx, key, authorisation, amount).await? {
                Some(response) => response,
                None => {
                    execute(&tx, "delete from request where key = $1", [key.into()]).await?;
                    return Ok(Attempt::Failed);
                }
            },
            Request::Void { authorisation } => void(&tx, key, authorisation).await?,
            Request::Refund { authorisation, amount } => refund(&tx, key, authorisation, amount).await?,
        };
        if response != expected {
            let correct = "update request set answer = $2 where key = $1";
            execute(&tx, correct, [key.into(), write(&response)?.into()]).await?;
        }
        Ok(Attempt::Done(Done { response, first: true }))
    });
    match attempt.await? {
        Attempt::Done(done) => Ok(done),
        Attempt::Failed => Err(Fault::unavailable("The sandbox provider responded with 503.")),
    }
}

/// Stores the record of a key; false if the key was seen before.
async fn claim(tx: &Tx, key: Uuid, request: &Request, response: &Response) -> Result<bool, Fault> {
    let sql = "insert into request (key, kind, fingerprint, answer, created_at) values ($1, $2, $3, $4, $5) on conflict (key) do nothing";
    let values = [
        key.into(),
        request.kind().into_str().into(),
        request.fingerprint().into(),
        write(response)?.into(),
        tx.clock().now().as_ms().into(),
    ];
    Ok(execute(tx, sql, values).await? == 1)
}

fn write(response: &Response) -> Result<String, Fault> {
    serde_json::to_string(response).map_err(|error| Fault::internal("unwritable_answer", error.to_string()))
}

pub async fn find_response(books: &Db, key: Uuid) -> Result<Option<Response>, Fault> {
    let statement = Statement::from_sql_and_values(
        books.backend(),
        "select fingerprint, answer from request where key = $1",
        [key.into()],
    );
    let row = RequestRow::find_by_statement(statement).one(books.read()).await;
    row.map_err(fault)?.map(|row| row.response()).transpose()
}

/// The same columns as those of our own totals, so that the two can be compared.
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
    let sql = "select fingerprint, answer from request where key = $1";
    let row = find_one::<RequestRow, 1>(tx, sql, [key.into()]).await?;
    let row = row.ok_or_else(|| lost_race("a request's row was deleted"))?;
    if row.fingerprint != fingerprint {
        return Err(Fault::invalid(
            "provider_key_reused",
            "The provider saw this key before, for a different request.",
        ));
    }
    Ok(Done {
        response: row.response()?,
        first: false,
    })
}

async fn authorise(tx: &Tx, key: Uuid, wanted: &AuthorisationRequest, expected: &Response) -> Result<Response, Fault> {
    if let Response::Accepted { id } = expected {
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
    }
    Ok(expected.clone())
}

/// `None`: it fails this time, with a 503.
async fn capture(tx: &Tx, key: Uuid, authorisation: &str, amount: &Money) -> Result<Option<Response>, Fault> {
    let Some(known) = end(tx, authorisation, "captured").await? else {
        return Ok(Some(why_not_open(tx, authorisation).await?.into()));
    };
    let open_again =
        "update authorisation set status = 'authorised', failed_captures = failed_captures + $2 where id = $1";
    if known.fails_this_time() {
        execute(tx, open_again, [authorisation.into(), 1_i64.into()]).await?;
        return Ok(None);
    }
    if let Err(decline) = known.may_capture(amount) {
        execute(tx, open_again, [authorisation.into(), 0_i64.into()]).await?;
        return Ok(Some(decline.into()));
    }
    let id = effect_id(Kind::Capture, key);
    let insert =
        "insert into capture (id, key, authorisation_id, amount, currency, created_at) values ($1, $2, $3, $4, $5, $6)";
    record(tx, insert, &id, key, authorisation, Some(amount)).await?;
    Ok(Some(Response::Accepted { id }))
}

async fn void(tx: &Tx, key: Uuid, authorisation: &str) -> Result<Response, Fault> {
    if end(tx, authorisation, "voided").await?.is_none() {
        return Ok(why_not_open(tx, authorisation).await?.into());
    }
    let id = effect_id(Kind::Void, key);
    let insert = "insert into void (id, key, authorisation_id, created_at) values ($1, $2, $3, $4)";
    record(tx, insert, &id, key, authorisation, None).await?;
    Ok(Response::Accepted { id })
}

async fn refund(tx: &Tx, key: Uuid, authorisation: &str, amount: &Money) -> Result<Response, Fault> {
    // On PostgreSQL the lock orders the refunds of one authorisation, so that together they stay within what was captured.
    let lock = "update authorisation set status = status where id = $1 and status = 'captured'";
    if execute(tx, lock, [authorisation.into()]).await? == 0 {
        return Ok(Decline("not_captured", "Only what was captured can be refunded.").into());
    }
    let remaining = find_one::<Remaining, 1>(
        tx,
        "select c.currency as currency, cast(c.amount - coalesce((select sum(r.amount) from refund r where r.authorisation_id = $1), 0) as bigint) as left_over
         from capture c where c.authorisation_id = $1",
        [authorisation.into()],
    )
    .await?
    .ok_or_else(|| Fault::internal("books_broken", "captured without a capture"))?;
    if amount.currency != remaining.currency || amount.amount > remaining.left_over {
        return Ok(Decline("exceeds_captured", "No more than what was captured can be refunded.").into());
    }
    let id = effect_id(Kind::Refund, key);
    let insert =
        "insert into refund (id, key, authorisation_id, amount, currency, created_at) values ($1, $2, $3, $4, $5, $6)";
    record(tx, insert, &id, key, authorisation, Some(amount)).await?;
    Ok(Response::Accepted { id })
}

/// What was captured of an authorisation and not refunded.
#[derive(FromQueryResult)]
struct Remaining {
    currency: String,
    left_over: i64,
}

const UNKNOWN: Decline = Decline("unknown_authorisation", "There is no such authorisation.");

/// An authorisation in the books.
#[derive(FromQueryResult)]
struct Authorisation {
    amount: i64,
    currency: String,
    payment_method: String,
    failed_captures: i64,
}

impl Authorisation {
    /// This card's first capture fails.
    fn fails_this_time(&self) -> bool {
        self.payment_method == "pm_card_capture_fails_once" && self.failed_captures == 0
    }

    fn may_capture(&self, amount: &Money) -> Result<(), Decline> {
        if self.payment_method == "pm_card_capture_declined" {
            return Err(Decline("capture_declined", "The issuer refused the capture."));
        }
        if amount.currency != self.currency || amount.amount > self.amount {
            return Err(Decline(
                "exceeds_authorised",
                "No more than what was authorised can be captured.",
            ));
        }
        Ok(())
    }
}

/// Ends an authorisation that is still open, and returns it; `None` if it is not open.
async fn end(tx: &Tx, id: &str, status: &str) -> Result<Option<Authorisation>, Fault> {
    let sql = "update authorisation set status = $2 where id = $1 and status = 'authorised'
               returning amount, currency, payment_method, failed_captures";
    find_one(tx, sql, [id.into(), status.into()]).await
}

async fn why_not_open(tx: &Tx, id: &str) -> Result<Decline, Fault> {
    let sql = "select amount, currency, payment_method, failed_captures from authorisation where id = $1";
    let known = find_one::<Authorisation, 1>(tx, sql, [id.into()]).await?;
    Ok(known.map_or(UNKNOWN, |_| {
        Decline("not_authorised", "This authorisation was captured or voided before.")
    }))
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

/// A request that was carried out.
#[derive(FromQueryResult)]
struct RequestRow {
    fingerprint: String,
    answer: String,
}

impl RequestRow {
    fn response(&self) -> Result<Response, Fault> {
        serde_json::from_str(&self.answer).map_err(|error| Fault::internal("unreadable_answer", error.to_string()))
    }
}

async fn execute<const N: usize>(tx: &Tx, sql: &str, values: [Value; N]) -> Result<u64, Fault> {
    let statement = Statement::from_sql_and_values(tx.conn().get_database_backend(), sql, values);
    Ok(tx.conn().execute_raw(statement).await.map_err(fault)?.rows_affected())
}

async fn find_one<R: FromQueryResult, const N: usize>(
    tx: &Tx,
    sql: &str,
    values: [Value; N],
) -> Result<Option<R>, Fault> {
    let statement = Statement::from_sql_and_values(tx.conn().get_database_backend(), sql, values);
    R::find_by_statement(statement).one(tx.conn()).await.map_err(fault)
}

/// The number of effects of each kind; a test compares them with its commands.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromQueryResult)]
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
    let effects = Effects::find_by_statement(Statement::from_string(books.backend(), sql)).one(books.read());
    let effects = effects.await.map_err(fault)?;
    effects.ok_or_else(|| Fault::internal("database_error", "no row"))
}
