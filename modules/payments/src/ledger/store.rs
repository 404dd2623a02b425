//! The ledger's rows: written once, never changed.

use banyan_core::Fault;
use banyan_durable::{Db, Tx, fault};
use sea_orm::{ActiveValue::Set, ConnectionTrait, EntityTrait, Statement};
use uuid::Uuid;

use super::Transaction;
use crate::provider::Totals;

mod ledger_transaction {
    use sea_orm::entity::prelude::{
        ActiveModelBehavior, DeriveEntityModel, DerivePrimaryKey, DeriveRelation, EntityTrait, EnumIter,
        PrimaryKeyTrait, Uuid,
    };

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

    #[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

mod ledger_entry {
    use sea_orm::entity::prelude::{
        ActiveModelBehavior, DeriveEntityModel, DerivePrimaryKey, DeriveRelation, EntityTrait, EnumIter,
        PrimaryKeyTrait, Uuid,
    };

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

    #[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Appends what a command moved.
pub async fn append(tx: &Tx, payment_id: Uuid, command_id: Uuid, transaction: &Transaction) -> Result<(), Fault> {
    let id = tx.ids().new_id();
    let row = ledger_transaction::ActiveModel {
        id: Set(id),
        payment_id: Set(payment_id),
        command_id: Set(command_id),
        kind: Set(transaction.movement().as_str().to_owned()),
        created_at: Set(tx.clock().now().as_ms()),
    };
    ledger_transaction::Entity::insert(row)
        .exec_without_returning(tx.conn())
        .await
        .map_err(fault)?;
    let entries = transaction.entries().iter().map(|entry| ledger_entry::ActiveModel {
        transaction_id: Set(id),
        account: Set(entry.account.as_str().to_owned()),
        amount: Set(entry.amount.amount),
        currency: Set(entry.amount.currency.clone()),
    });
    ledger_entry::Entity::insert_many(entries)
        .exec_without_returning(tx.conn())
        .await
        .map_err(fault)?;
    Ok(())
}

/// What the ledger says, per currency.
pub async fn totals(db: &Db) -> Result<Vec<Totals>, Fault> {
    let sql = "select currency,
                   cast(coalesce(sum(case when account = 'authorised' then amount end), 0) as bigint) as authorised,
                   cast(coalesce(-sum(case when account = 'sales' then amount end), 0) as bigint) as captured,
                   cast(coalesce(sum(case when account = 'refunds' then amount end), 0) as bigint) as refunded
               from ledger_entry group by currency order by currency";
    read_totals(db, sql).await
}

/// What the payments' own rows say, per currency.
pub async fn totals_of_payments(db: &Db) -> Result<Vec<Totals>, Fault> {
    let sql = "select currency,
                   cast(coalesce(sum(case when status in ('authorised', 'capturing', 'voiding') then authorised_amount end), 0) as bigint) as authorised,
                   cast(sum(captured_amount) as bigint) as captured,
                   cast(sum(refunded_amount) as bigint) as refunded
               from payment where provider_authorisation is not null group by currency order by currency";
    read_totals(db, sql).await
}

/// Ledger transactions whose entries do not sum to zero, which must be none.
pub async fn count_unbalanced(db: &Db) -> Result<i64, Fault> {
    let sql = "select count(*) as unbalanced from
                   (select transaction_id from ledger_entry group by transaction_id, currency having sum(amount) <> 0) as wrong";
    let row = db
        .read()
        .query_one_raw(Statement::from_string(db.backend(), sql))
        .await
        .map_err(fault)?;
    row.map_or(Ok(0), |row| row.try_get("", "unbalanced")).map_err(fault)
}

pub(crate) async fn read_totals(db: &Db, sql: &str) -> Result<Vec<Totals>, Fault> {
    let rows = db
        .read()
        .query_all_raw(Statement::from_string(db.backend(), sql))
        .await
        .map_err(fault)?;
    let totals = rows.iter().map(|row| {
        Ok(Totals {
            currency: row.try_get("", "currency")?,
            authorised: row.try_get("", "authorised")?,
            captured: row.try_get("", "captured")?,
            refunded: row.try_get("", "refunded")?,
        })
    });
    totals.collect::<Result<Vec<_>, sea_orm::DbErr>>().map_err(fault)
}
