//! Very many rows in every table of a module, made by the database from the few that real orders left there.

use banyan_durable::Connection;
use sea_orm::{ConnectionTrait, FromQueryResult, Statement};
use uuid::Uuid;

use crate::data::{execute, rows};

/// Words of a fixed set: a copy has the same.
const FIXED: [&str; 8] = [
    "kind", "state", "status", "source", "account", "currency", "name", "category",
];

/// Tables with a row per module, subscription or task: they do not grow with what the shop stores.
const BOUNDED: [&str; 4] = ["compared", "horizon", "lease", "subscriber"];

/// The tables of one module, as PostgreSQL describes them.
pub struct Tables {
    tables: Vec<Table>,
    /// Half of the copies of what belongs to this user belong to this user, too.
    heavy: Uuid,
}

struct Table {
    name: String,
    columns: Vec<Column>,
    template_rows: i64,
}

#[derive(FromQueryResult)]
struct Column {
    table: String,
    name: String,
    kind: String,
    /// Part of a key of the table, or of a reference to one.
    is_key: bool,
}

impl Tables {
    pub async fn of(postgres: &Connection, owner: &str, heavy: Uuid) -> Tables {
        let columns: Vec<Column> = rows(
            postgres,
            &format!(
                "select c.table_name::text as table, c.column_name::text as name, c.data_type::text as kind,
                     exists (select 1 from pg_constraint k join pg_attribute a on a.attrelid = k.conrelid and a.attnum = any (k.conkey)
                             where k.conrelid = ('{owner}.' || quote_ident(c.table_name))::regclass and k.contype in ('p', 'u', 'f')
                             and a.attname = c.column_name) as is_key
                 from information_schema.columns c
                 where c.table_schema = '{owner}' and c.table_name <> 'seaql_migrations' order by c.table_name, c.ordinal_position"
            ),
        )
        .await;
        let mut tables: Vec<Table> = Vec::new();
        for column in columns.into_iter().filter(|column| !BOUNDED.contains(&&*column.table)) {
            match tables.last_mut() {
                Some(table) if table.name == column.table => table.columns.push(column),
                _ => tables.push(Table {
                    name: column.table.clone(),
                    columns: vec![column],
                    template_rows: 0,
                }),
            }
        }
        for table in &mut tables {
            table.template_rows = number(postgres, &format!("select count(*) as number from {}", table.name)).await;
        }
        Tables { tables, heavy }
    }

    /// Puts the rows of PostgreSQL in place of those in the file, and remembers them in both as the pattern of copies.
    pub async fn copy_to(&self, postgres: &Connection, file: &Connection) {
        run(
            postgres,
            "set session_replication_role = replica; create temporary table series (i int)",
        )
        .await;
        run(file, "pragma foreign_keys = off").await;
        for table in &self.tables {
            let name = &table.name;
            run(
                postgres,
                &format!("create temporary table template_{name} as select * from {name}"),
            )
            .await;
            let literals: Vec<String> = table.columns.iter().map(Column::literal).collect();
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
            run(file, &format!("create table template_{name} as select * from {name}")).await;
        }
    }

    /// Copies of the pattern with the numbers `first` to `last`, shared among the rows of the pattern.
    pub async fn fill(&self, postgres: &Connection, file: &Connection, first: u32, last: u32) {
        for table in self.tables.iter().filter(|table| table.template_rows > 0) {
            let share = |number: u32| (i64::from(number) + table.template_rows - 1) / table.template_rows;
            let (name, names) = (&table.name, table.names());
            for (connection, is_file) in [(postgres, false), (file, true)] {
                let copies: Vec<String> = table
                    .columns
                    .iter()
                    .map(|column| column.copy(is_file, self.heavy))
                    .collect();
                let copies = copies.join(", ");
                let series = format!(
                    "with recursive series(i) as (select {} union all select i + 1 from series where i < {})",
                    share(first),
                    share(last)
                );
                let sql = format!(
                    "{series} insert into {name} ({names}) select {copies} from series cross join template_{name} where true on conflict do nothing"
                );
                run(connection, &sql).await;
            }
        }
        run(postgres, "analyze").await;
        // The file is not analysed, as that of a shop never is.
    }
}

impl Table {
    fn names(&self) -> String {
        let names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
        names.join(", ")
    }
}

impl Column {
    /// The value as a literal of SQLite.
    fn literal(&self) -> String {
        let name = &self.name;
        let literal = match self.kind.as_str() {
            "uuid" => format!("'x''' || replace({name}::text, '-', '') || ''''"),
            "boolean" => format!("case when {name} then '1' else '0' end"),
            "bigint" => format!("{name}::text"),
            _ => format!("'''' || replace({name}::text, '''', '''''') || ''''"),
        };
        format!("coalesce({literal}, 'null')")
    }

    /// The value of copy number `i`. Copies of ids and of keys correspond in all tables; times go back by a second each.
    fn copy(&self, is_file: bool, heavy: Uuid) -> String {
        let name = &self.name;
        let id = if is_file {
            format!("unhex(substr(hex({name}), 1, 16) || printf('%08x', i) || substr(hex({name}), 25))")
        } else {
            let hex = format!("replace({name}::text, '-', '')");
            format!("(substr({hex}, 1, 16) || lpad(to_hex(i), 8, '0') || substr({hex}, 25))::uuid")
        };
        let heavy = if is_file {
            format!("x'{}'", heavy.simple())
        } else {
            format!("'{heavy}'::uuid")
        };
        match self.kind.as_str() {
            "uuid" if name == "user_id" => {
                format!("case when {name} = {heavy} and i % 2 = 0 then {name} else {id} end")
            }
            "uuid" => id,
            "text" if self.is_key && !FIXED.contains(&name.as_str()) => format!("{name} || '-' || i"),
            "bigint" if name == "at" || name.ends_with("_at") => {
                format!("case when {name} > 0 then {name} - cast(i as bigint) * 1000 else {name} end")
            }
            _ => name.clone(),
        }
    }
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
