//! The ledger's rows: written once, never changed.

use banyan_core::Fault;
use banyan_durable::{Db, Tx, fault, insert_and};
use sea_orm::{ActiveValue::Set, EntityTrait, FromQueryResult, QueryTrait, Statement};
use uuid::Uuid;

use super::LedgerTransaction;
use crate::provider::Totals;

mod ledger_transaction {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "ledger_transaction")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub payment_id: Uuid,
        pub command_id: Uuid,
        pub kind: String,
        pub created_at: i64,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

mod ledger_entry {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "ledger_entry")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub transaction_id: Uuid,
        #[sea_orm(primary_key, auto_increment = false)]
        pub account: String,
        pub amount: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub currency: String,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// Appends what a command moved.
pub async fn append(tx: &Tx, payment_id: Uuid, command_id: Uuid, transaction: &LedgerTransaction) -> Result<(), Fault> {
    let id = tx.ids().new_id();
    let row = ledger_transaction::ActiveModel {
        id: Set(id),
        payment_id: Set(payment_id),
        command_id: Set(command_id),
        kind: Set(transaction.movement().into_str().to_owned()),
        created_at: Set(tx.clock().now().as_ms()),
    };
    let entries = transaction.entries().iter().map(|entry| ledger_entry::ActiveModel {
        transaction_id: Set(id),
        account: Set(entry.account.into_str().to_owned()),
        amount: Set(entry.amount.amount),
        currency: Set(entry.amount.currency.clone()),
    });
    let row = ledger_transaction::Entity::insert(row).into_query();
    let entries = ledger_entry::Entity::insert_many(entries).into_query();
    insert_and(tx.conn(), row, entries).await.map(drop).map_err(fault)
}

/// The totals of the ledger, per currency.
pub async fn totals(db: &Db) -> Result<Vec<Totals>, Fault> {
    let sql = "select currency,
                   cast(coalesce(sum(case when account = 'authorised' then amount end), 0) as bigint) as authorised,
                   cast(coalesce(-sum(case when account = 'sales' then amount end), 0) as bigint) as captured,
                   cast(coalesce(sum(case when account = 'refunds' then amount end), 0) as bigint) as refunded
               from ledger_entry group by currency order by currency";
    read_totals(db, sql).await
}

/// The totals of the payments' own rows, per currency.
pub async fn totals_of_payments(db: &Db) -> Result<Vec<Totals>, Fault> {
    let sql = "select currency,
                   cast(coalesce(sum(case when status in ('authorised', 'capturing', 'voiding') then authorised_amount end), 0) as bigint) as authorised,
                   cast(sum(captured_amount) as bigint) as captured,
                   cast(sum(refunded_amount) as bigint) as refunded
               from payment where provider_authorisation is not null group by currency order by currency";
    read_totals(db, sql).await
}

/// The number of ledger transactions whose entries do not sum to zero: always 0, unless there is a bug.
pub async fn count_unbalanced(db: &Db) -> Result<i64, Fault> {
    let sql = "select count(*) as unbalanced from
                   (select transaction_id from ledger_entry group by transaction_id, currency having sum(amount) <> 0) as wrong";
    #[derive(FromQueryResult)]
    struct Count {
        unbalanced: i64,
    }
    let count = Count::find_by_statement(Statement::from_string(db.backend(), sql)).one(db.read());
    Ok(count.await.map_err(fault)?.map_or(0, |count| count.unbalanced))
}

pub(crate) async fn read_totals(db: &Db, sql: &str) -> Result<Vec<Totals>, Fault> {
    let rows = TotalsRow::find_by_statement(Statement::from_string(db.backend(), sql)).all(db.read());
    Ok(rows.await.map_err(fault)?.into_iter().map(Totals::from).collect())
}

#[derive(FromQueryResult)]
struct TotalsRow {
    currency: String,
    authorised: i64,
    captured: i64,
    refunded: i64,
}

impl From<TotalsRow> for Totals {
    fn from(row: TotalsRow) -> Self {
        Totals {
            currency: row.currency,
            authorised: row.authorised,
            captured: row.captured,
            refunded: row.refunded,
        }
    }
}
