//! The sandbox provider's movements of money, as a provider lists them for those who compare their books with its own.

use banyan_core::{Fault, Timestamp};
use banyan_durable::{Db, fault};
use sea_orm::{FromQueryResult, Statement, Value};
use shared_kernel::Money;
use uuid::Uuid;

use crate::provider::{BookedMovement, Period, Position};

/// The tables of effects: the kind of movement, the table, and the one that has the amount.
const EFFECTS: [(&str, &str, &str); 4] = [
    ("authorisation", "authorisation m", "m"),
    ("capture", "capture m", "m"),
    ("void", "void m join authorisation a on a.id = m.authorisation_id", "a"),
    ("refund", "refund m", "m"),
];

/// The movements of all kinds for which this holds of their effect `m`.
fn movements(condition: &str) -> String {
    let of_kind = |(kind, table, amount): (&str, &str, &str)| {
        format!(
            "select * from (select m.key as reference, '{kind}' as kind, {amount}.amount as amount, {amount}.currency as currency,
                 m.created_at as booked_at from {table} where {condition}) as of_{kind}"
        )
    };
    EFFECTS.map(of_kind).join(" union all ")
}

/// A part of the index on the time, for each kind.
fn page() -> String {
    let of_kind = "(m.created_at, m.key) > ($1, $2) and m.created_at < $3 order by m.created_at, m.key limit $4";
    format!(
        "select * from ({}) as movements order by booked_at, reference limit $4",
        movements(of_kind)
    )
}

pub async fn list(
    books: &Db,
    period: Period,
    after: Option<Position>,
    limit: u64,
) -> Result<Vec<BookedMovement>, Fault> {
    // The last place before the period.
    let before = (Timestamp::from_ms(period.from.as_ms().saturating_sub(1)), Uuid::max());
    let (booked_at, reference) = after.unwrap_or(before);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let values = [
        booked_at.as_ms().into(),
        reference.into(),
        period.until.as_ms().into(),
        limit.into(),
    ];
    read(books, page(), values).await
}

pub async fn find(books: &Db, key: Uuid) -> Result<Option<BookedMovement>, Fault> {
    let found = read(books, movements("m.key = $1"), [key.into()]).await?;
    Ok(found.into_iter().next())
}

async fn read<const N: usize>(books: &Db, sql: String, values: [Value; N]) -> Result<Vec<BookedMovement>, Fault> {
    let statement = Statement::from_sql_and_values(books.backend(), sql, values);
    let rows = MovementRow::find_by_statement(statement).all(books.read()).await;
    rows.map_err(fault)?.into_iter().map(BookedMovement::try_from).collect()
}

#[derive(FromQueryResult)]
struct MovementRow {
    reference: Uuid,
    kind: String,
    amount: i64,
    currency: String,
    booked_at: i64,
}

impl TryFrom<MovementRow> for BookedMovement {
    type Error = Fault;

    fn try_from(row: MovementRow) -> Result<Self, Fault> {
        let unknown = |_| Fault::internal("unreadable_row", format!("kind is {:?}", row.kind));
        Ok(BookedMovement {
            reference: row.reference,
            kind: row.kind.parse().map_err(unknown)?,
            amount: Money {
                amount: row.amount,
                currency: row.currency,
            },
            booked_at: Timestamp::from_ms(row.booked_at),
        })
    }
}
