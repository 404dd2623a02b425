//! The index of the texts that a search matches. It changes in the transaction that changes a product.
//!
//! `product_search` has the grams of each product. Each database has its own index of them: PostgreSQL an inverted one (GIN), SQLite a table of FTS5, which
//! triggers fill.

use std::collections::BTreeSet;

use banyan_core::Fault;
use banyan_durable::fault;
use sea_orm::{ActiveValue::Set, ConnectionTrait, DbBackend, EntityTrait, Statement, sea_query::OnConflict};

use crate::search::{self, Word};

mod product_search {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "product_search")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub sku: String,
        pub grams: String,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// The number of products up to which the index says all that may match. With more a page of the newest is faster.
pub const FEW: usize = 500;

/// Stores the grams of products, given by sku and [text](search::text), in the order of the skus, so that two transactions cannot deadlock.
pub async fn store(
    conn: &impl ConnectionTrait,
    texts: impl IntoIterator<Item = (String, String)>,
) -> Result<(), Fault> {
    use product_search::Column;
    let mut rows: Vec<(String, String)> = texts.into_iter().collect();
    if rows.is_empty() {
        return Ok(());
    }
    rows.sort_unstable();
    let rows = rows.into_iter().map(|(sku, text)| product_search::ActiveModel {
        sku: Set(sku),
        grams: Set(search::grams(&text)),
    });
    let replace = OnConflict::column(Column::Sku).update_column(Column::Grams).to_owned();
    product_search::Entity::insert_many(rows)
        .on_conflict(replace)
        .exec_without_returning(conn)
        .await
        .map_err(fault)?;
    Ok(())
}

/// The skus of all products whose grams are those of the words, whatever else they are; some may not match. `None` if there are more than [`FEW`].
pub async fn find_few(conn: &impl ConnectionTrait, words: &BTreeSet<Word>) -> Result<Option<Vec<String>>, Fault> {
    let grams: BTreeSet<String> = words.iter().flat_map(Word::grams).collect();
    let backend = conn.get_database_backend();
    let (sql, grams) = match backend {
        DbBackend::Sqlite => {
            let quoted: Vec<String> = grams.iter().map(|gram| format!("\"{gram}\"")).collect();
            (OF_SQLITE, quoted.join(" "))
        }
        _ => (OF_POSTGRES, Vec::from_iter(grams).join(" ")),
    };
    let most = i64::try_from(FEW + 1).unwrap_or(i64::MAX);
    let statement = Statement::from_sql_and_values(backend, sql, [grams.into(), most.into()]);
    let rows = conn.query_all_raw(statement).await.map_err(fault)?;
    let skus = rows.iter().map(|row| row.try_get_by_index(0));
    let skus = skus.collect::<Result<Vec<String>, _>>().map_err(fault)?;
    Ok((skus.len() <= FEW).then_some(skus))
}

pub const OF_SQLITE: &str = "select sku from product_search
    where number in (select rowid from product_gram where product_gram match $1 limit $2)";
const OF_POSTGRES: &str = "select sku from skus_with_grams($1, $2) as sku";
