//! Very many rows in every table of a module, made by the database from the few that real orders left there.

use std::time::Duration;

use banyan_durable::Connection;
use load::copies::{self, Column, Copies, Database, Table};
use sea_orm::{ConnectionTrait, FromQueryResult, Statement};
use uuid::Uuid;

use crate::data::{execute, rows};

/// The copies of a row that one statement makes at most: what it holds in memory, and in the journal of the file, has an end.
const PART: usize = 5_000;

/// The time between a copy and the next.
const APART: Duration = Duration::from_secs(1);

/// The tables of one module, as PostgreSQL describes them, with the number of rows of the pattern.
pub struct Tables {
    tables: Vec<(Table, i64)>,
    heavy: Uuid,
}

#[derive(FromQueryResult)]
struct Described {
    table: String,
    name: String,
    kind: String,
    is_key: bool,
}

impl Tables {
    pub async fn of(postgres: &Connection, owner: &str, heavy: Uuid) -> Tables {
        let described: Vec<Described> = rows(postgres, &copies::columns(Database::Postgres, owner)).await;
        let columns = described.into_iter().map(|described| {
            let (name, kind, is_key) = (described.name, described.kind, described.is_key);
            (described.table, Column { name, kind, is_key })
        });
        let mut tables = Vec::new();
        for table in Table::all(columns) {
            let count = format!("select count(*) as number from {}", table.name);
            tables.push((table, number(postgres, &count).await));
        }
        Tables { tables, heavy }
    }

    /// Puts the rows of PostgreSQL in place of those in the file, and remembers them in both as the pattern of copies.
    pub async fn copy_to(&self, postgres: &Connection, file: &Connection) {
        // Nothing here has to survive anything.
        run(
            postgres,
            "set session_replication_role = replica; set synchronous_commit = off",
        )
        .await;
        run(
            file,
            "pragma foreign_keys = off; pragma synchronous = off; pragma cache_size = -500000",
        )
        .await;
        for (table, _) in &self.tables {
            let name = &table.name;
            run(postgres, &table.pattern()).await;
            let literals: Vec<String> = table.columns.iter().map(literal).collect();
            let literals = format!(
                "select '(' || {} || ')' as name from {name}",
                literals.join(" || ', ' || ")
            );
            let literals = crate::data::names(postgres, &literals).await;
            run(file, &format!("delete from {name}")).await;
            for part in literals.chunks(200) {
                run(
                    file,
                    &format!("insert into {name} ({}) values {}", table.names(), part.join(", ")),
                )
                .await;
            }
            run(file, &table.pattern()).await;
        }
    }

    /// Copies of the pattern with the numbers `first` to `last`, shared among the rows of the pattern.
    pub async fn fill(&self, postgres: &Connection, file: &Connection, first: u32, last: u32) {
        for (table, pattern_rows) in self.tables.iter().filter(|(_, rows)| *rows > 0) {
            let share = |number: u32| (i64::from(number) + pattern_rows - 1) / pattern_rows;
            let numbers: Vec<i64> = (share(first)..=share(last)).collect();
            for part in numbers.chunks(PART) {
                let (Some(first), Some(last)) = (part.first(), part.last()) else {
                    continue;
                };
                let copies = Copies {
                    first: *first,
                    last: *last,
                    apart: APART,
                    heavy: Some(self.heavy),
                };
                run(postgres, &table.copies(Database::Postgres, copies)).await;
                run(file, &table.copies(Database::Sqlite, copies)).await;
            }
        }
        run(postgres, "analyze").await;
        // The file is not analysed, as that of a shop never is.
    }
}

/// The value of a column of PostgreSQL as a literal of SQLite.
fn literal(column: &Column) -> String {
    let name = &column.name;
    let literal = match column.kind.as_str() {
        "uuid" => format!("'x''' || replace({name}::text, '-', '') || ''''"),
        "boolean" => format!("case when {name} then '1' else '0' end"),
        "bigint" => format!("{name}::text"),
        _ => format!("'''' || replace({name}::text, '''', '''''') || ''''"),
    };
    format!("coalesce({literal}, 'null')")
}

async fn run(connection: &Connection, sql: &str) {
    if let Err(error) = execute(connection, sql).await {
        panic!("{sql}: {error}");
    }
}

async fn number(connection: &Connection, sql: &str) -> i64 {
    let statement = Statement::from_string(connection.get_database_backend(), sql);
    let row = connection
        .query_one_raw(statement)
        .await
        .expect("a count")
        .expect("a row");
    row.try_get("", "number").expect("a number")
}
