//! What a search reads, in a catalog of many products: rows on PostgreSQL, steps of the virtual machine on SQLite.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use banyan_core::{PageRequest, SystemClock};
use banyan_durable::{Connection, Storage};
use banyan_durable_testing::{PostgresHome, SqliteHome, open, settings};
use sea_orm::{ConnectionTrait, Statement};

use super::search_index;
use crate::{
    SCHEMA,
    service::Service,
    store::{self, Filter},
};

const PRODUCTS: i64 = 6_000;

/// Every product has the word `common`. The oldest half has `early`, the newest `later`; five have `rarely`.
async fn filled(storage: &Storage) -> Connection {
    let db = open(SCHEMA, storage, settings()).await;
    let connection = Connection::open(storage, "catalog").await.expect("a connection");
    let fill = format!(
        "insert into product (sku, name, description, category, price_amount, currency, active, version, created_at, search_text)
         with recursive numbers (number) as (select 1 union all select number + 1 from numbers where number < {PRODUCTS})
         select 'p-' || number, 'Common ' || number, case when number <= {PRODUCTS} / 2 then 'early' else 'later' end
             || case when number % 1200 = 0 then ' rarely' else '' end, 'plants', 100, 'EUR', true, 1, number, '' from numbers"
    );
    connection.execute_unprepared(&fill).await.expect("products");
    let service = Service::new(db, Arc::new(SystemClock));
    service.index_left_out().await.expect("they are indexed");
    connection.execute_unprepared("analyze").await.expect("statistics");
    connection
}

fn searches() -> [(&'static str, usize, i64); 6] {
    // What is found, and the most rows read, each of the few products twice: in the index's table and in the products.
    [
        ("rarely", 5, 10),
        ("common rarely early", 2, 20),
        ("early later", 0, 10),
        ("nowhere", 0, 0),
        // The index tells that there are many, and the newest are looked at.
        ("common", 20, 501 + 2 * 21),
        ("c", 20, 501 + 2 * 21),
    ]
}

fn filter(query: &str) -> Filter {
    Filter {
        query: Some(query.to_owned()),
        ..Filter::default()
    }
}

/// The rows read of products and their index, by this session.
const READ: &str = "select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint
    from pg_stat_xact_user_tables where relname like 'product%'";

async fn number(connection: &Connection, sql: &str) -> i64 {
    let statement = Statement::from_string(connection.get_database_backend(), sql);
    let row = connection.query_one_raw(statement).await.expect(sql).expect("a row");
    row.try_get_by_index(0).expect("a number")
}

#[tokio::test]
async fn a_search_reads_what_it_finds_and_not_the_catalog() {
    let postgres = PostgresHome::new().await;
    let connection = filled(&postgres.storage("catalog").await).await;
    for (query, found, most) in searches() {
        // The server adds a session's counts to those of all from time to time, but not in a transaction.
        connection.execute_unprepared("begin").await.expect("a transaction");
        let before = number(&connection, READ).await;
        let list = store::list(&connection, &filter(query), &PageRequest::default())
            .await
            .expect("a page");
        let read = number(&connection, READ).await - before;
        connection.execute_unprepared("commit").await.expect("its end");
        assert_eq!(list.items.len(), found, "{query}");
        assert!(read <= most, "{query} reads {read} rows");
    }
    connection.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn sqlite_looks_at_no_product_but_those_of_the_index() {
    let sqlite = SqliteHome::new();
    let connection = filled(&sqlite.storage("catalog")).await;
    for (query, found, _) in searches() {
        let list = store::list(&connection, &filter(query), &PageRequest::default())
            .await
            .expect("a page");
        assert_eq!(list.items.len(), found, "{query}");
    }
    connection.close().await;
    let Storage::Sqlite { path } = sqlite.storage("catalog") else {
        panic!("it is a file");
    };
    let file = rusqlite::Connection::open(path).expect("the file opens");
    let steps = Arc::new(AtomicU64::new(0));
    let counted = steps.clone();
    let count = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        false
    };
    file.progress_handler(1, Some(count)).expect("a handler");
    let skus = ["p-1200", "p-2400", "p-3600", "p-4800", "p-6000"].map(str::to_owned);
    let index = search_index::OF_SQLITE
        .replace("$1", r#"'"rar" "rel"'"#)
        .replace("$2", "501");
    let products = store::statement_of_few(&filter("rarely"), &PageRequest::default(), skus.to_vec());
    for sql in [index, products] {
        let mut statement = file.prepare(&sql).expect("a statement");
        steps.store(0, Ordering::Relaxed);
        let rows = statement.query_map([], |_| Ok(())).expect("it runs");
        assert_eq!(rows.count(), 5, "{sql}");
        let steps = steps.load(Ordering::Relaxed);
        assert!(
            (50..PRODUCTS.unsigned_abs()).contains(&steps),
            "{sql} takes {steps} steps"
        );
    }
}
