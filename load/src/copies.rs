//! Very many rows in the tables of a shop, made by the database from the few that real orders left there.
//!
//! All is SQL text, for whoever has the connection: [`columns`] says what a table has, [`Table::pattern`] remembers the rows that are there, and
//! [`Table::copies`] adds copies of them.

use std::time::Duration;

use uuid::Uuid;

/// Words of a fixed set: a copy has the same.
const FIXED: [&str; 8] = [
    "kind", "state", "status", "source", "account", "currency", "name", "category",
];

/// Tables with a row per module, subscription, task or installation: they do not grow with what the shop stores.
const BOUNDED: [&str; 7] = [
    "compared",
    "horizon",
    "installation",
    "lease",
    "seaql_migrations",
    "signing_key",
    "subscriber",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    Postgres,
    Sqlite,
}

/// A query for the columns of all tables of a schema: `table`, `name`, `kind` and `is_key`, in the order of tables and columns.
pub fn columns(database: Database, schema: &str) -> String {
    match database {
        Database::Postgres => format!(
            "select c.table_name::text as \"table\", c.column_name::text as name, c.data_type::text as kind,
                 exists (select 1 from pg_constraint k join pg_attribute a on a.attrelid = k.conrelid and a.attnum = any (k.conkey)
                         where k.conrelid = ('{schema}.' || quote_ident(c.table_name))::regclass and k.contype in ('p', 'u', 'f')
                         and a.attname = c.column_name) as is_key
             from information_schema.columns c where c.table_schema = '{schema}' order by c.table_name, c.ordinal_position"
        ),
        Database::Sqlite => "select t.name as \"table\", c.name as name, case lower(c.type) when 'blob' then 'uuid' else lower(c.type) end as kind,
                 c.pk > 0
                 or exists (select 1 from pragma_foreign_key_list(t.name) f where f.\"from\" = c.name)
                 or exists (select 1 from pragma_index_list(t.name) i join pragma_index_info(i.name) k
                            where i.origin = 'u' and k.name = c.name) as is_key
             from sqlite_schema t join pragma_table_info(t.name) c
             where t.name in (select name from pragma_table_list where type = 'table') and t.name not like 'sqlite%' order by t.name, c.cid"
            .to_owned(),
    }
}

/// Statements after which subscribers have compared themselves with their producers, and confirmed it, up to now: as they do within minutes. Without them the
/// next start would compare every copy. A schema may lack one of the tables.
pub fn confirmed(now_ms: u64) -> [(&'static str, String); 2] {
    [("compared", "before_ms"), ("subscriber", "confirmed_before")]
        .map(|(table, column)| (table, format!("update {table} set {column} = {now_ms}")))
}

/// A table of which copies can be made.
#[derive(Clone, Debug)]
pub struct Table {
    pub name: String,
    pub columns: Vec<Column>,
}

#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    /// `uuid`, `text`, `bigint` or `boolean`, as the migrations write them.
    pub kind: String,
    /// Part of a key of the table, or of a reference to one.
    pub is_key: bool,
}

/// Which copies are made.
#[derive(Clone, Copy, Debug)]
pub struct Copies {
    /// Their numbers; the rows of the pattern are number 0.
    pub first: i64,
    pub last: i64,
    /// The time between a copy and the next, which happened earlier.
    pub apart: Duration,
    /// Half of the copies of what belongs to this user belong to this user, too.
    pub heavy: Option<Uuid>,
}

impl Table {
    /// The tables that grow, from the rows of [`columns`], each with the name of its table.
    pub fn all(columns: impl IntoIterator<Item = (String, Column)>) -> Vec<Table> {
        let mut tables: Vec<Table> = Vec::new();
        for (table, column) in columns {
            match tables.last_mut() {
                Some(last) if last.name == table => last.columns.push(column),
                _ => tables.push(Table {
                    name: table,
                    columns: vec![column],
                }),
            }
        }
        tables.retain(|table| !BOUNDED.contains(&&*table.name));
        tables
    }

    pub fn names(&self) -> String {
        let names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
        names.join(", ")
    }

    /// The statement that remembers the rows that are there, for as long as the connection is open.
    pub fn pattern(&self) -> String {
        let name = &self.name;
        format!("create temporary table template_{name} as select * from {name}")
    }

    /// The statement that adds copies of every row of the pattern.
    pub fn copies(&self, database: Database, copies: Copies) -> String {
        let (name, names) = (&self.name, self.names());
        let values: Vec<String> = self
            .columns
            .iter()
            .map(|column| column.copy(database, copies))
            .collect();
        format!(
            "with recursive series(i) as (select {} union all select i + 1 from series where i < {})
             insert into {name} ({names}) select {} from series cross join template_{name} where true on conflict do nothing",
            copies.first,
            copies.last,
            values.join(", ")
        )
    }
}

impl Column {
    /// The value of copy number `i`. Copies of ids and of keys correspond in all tables.
    fn copy(&self, database: Database, copies: Copies) -> String {
        let name = &self.name;
        let id = match database {
            Database::Sqlite => {
                let hex = format!("substr(hex({name}), 1, 16) || printf('%08x', i) || substr(hex({name}), 25)");
                format!("case when {name} is not null then unhex({hex}) end")
            }
            Database::Postgres => {
                let hex = format!("replace({name}::text, '-', '')");
                format!("(substr({hex}, 1, 16) || lpad(to_hex(i), 8, '0') || substr({hex}, 25))::uuid")
            }
        };
        match (self.kind.as_str(), copies.heavy) {
            ("uuid", Some(heavy)) if name == "user_id" => {
                let heavy = match database {
                    Database::Sqlite => format!("x'{}'", heavy.simple()),
                    Database::Postgres => format!("'{heavy}'::uuid"),
                };
                format!("case when {name} = {heavy} and i % 2 = 0 then {name} else {id} end")
            }
            ("uuid", _) => id,
            ("text", _) if self.is_key && !FIXED.contains(&name.as_str()) => format!("{name} || '-' || i"),
            ("bigint", _) if name == "at" || name.ends_with("_at") => format!(
                "case when {name} > 0 then {name} - cast(i as bigint) * {} else {name} end",
                copies.apart.as_millis()
            ),
            _ => name.clone(),
        }
    }
}
