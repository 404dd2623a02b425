//! Runs statements again and measures what they read: rows on PostgreSQL, steps of the virtual machine on SQLite.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use banyan_durable::Connection;
use rusqlite::types::Value as Stored;
use sea_orm::{ConnectionTrait, DbBackend, Statement};
use serde_json::Value;
use uuid::Uuid;

use super::statements::Ran;

/// What a statement may read more in the second round, beside a third of what it read in the first: indexes get deeper, and pages of different rows differ.
const MORE_ROWS: u64 = 300;
const MORE_STEPS: u64 = 6_000;
/// The virtual machine counts in portions.
const PORTION: i32 = 50;

/// The statements of one module, and what each read in each round.
pub struct Replay {
    postgres: Arc<Connection>,
    sqlite: rusqlite::Connection,
    steps: Arc<AtomicU64>,
    statements: Vec<Measured>,
}

struct Measured {
    ran: Ran,
    types: Vec<String>,
    rows: Vec<u64>,
    steps: Vec<u64>,
    plan: String,
}

impl Replay {
    pub fn new(postgres: Arc<Connection>, directory: &Path, owner: &str, ran: &[&Ran]) -> Replay {
        let sqlite = rusqlite::Connection::open(crate::data::file(directory, owner)).expect("the file opens");
        sqlite.pragma_update(None, "foreign_keys", true).expect("a setting");
        let steps = Arc::new(AtomicU64::new(0));
        let counter = steps.clone();
        let count = move || {
            counter.fetch_add(PORTION.unsigned_abs().into(), Ordering::Relaxed);
            false
        };
        sqlite.progress_handler(PORTION, Some(count)).expect("a handler");
        let statements = ran.iter().map(|ran| Measured {
            ran: (*ran).clone(),
            types: Vec::new(),
            rows: Vec::new(),
            steps: Vec::new(),
            plan: String::new(),
        });
        Replay {
            postgres,
            sqlite,
            steps,
            statements: statements.collect(),
        }
    }

    /// Runs every statement once, and takes back what it changed.
    pub async fn run(&mut self) {
        for statement in &mut self.statements {
            if let Some(rows) = statement.on_postgres(&self.postgres).await {
                statement.rows.push(rows);
            }
            if let Some(steps) = statement.on_sqlite(&self.sqlite, &self.steps) {
                statement.steps.push(steps);
            }
        }
    }

    /// The statements that read more in the second round.
    pub fn grown(&self) -> Vec<String> {
        self.statements.iter().flat_map(Measured::grown).collect()
    }
}

impl Measured {
    fn grown(&self) -> Vec<String> {
        let mut grown = Vec::new();
        for (database, read, more) in [("postgres", &self.rows, MORE_ROWS), ("sqlite", &self.steps, MORE_STEPS)] {
            if let [first, second] = read[..]
                && second > first + first / 3 + more
            {
                let (owner, sql, values) = (&self.ran.owner, &self.ran.sql, &self.ran.values);
                grown.push(format!(
                    "{database} {owner}: {first} -> {second}: {sql}\n    {values:?}\n    {}",
                    self.plan
                ));
            }
        }
        grown
    }

    /// The number of rows that were visited; `None` if the statement fails, as an insert does whose row is there.
    async fn on_postgres(&mut self, postgres: &Connection) -> Option<u64> {
        postgres.execute_unprepared("begin").await.expect("a transaction");
        let read = async {
            postgres
                .execute_unprepared(&format!("prepare again as {}", self.ran.sql))
                .await
                .ok()?;
            let types = "select array_to_string(parameter_types, ',') as types from pg_prepared_statements where name = 'again'";
            let types = postgres
                .query_one_raw(Statement::from_string(DbBackend::Postgres, types))
                .await
                .ok()??;
            let types: String = types.try_get("", "types").ok()?;
            self.types = types.split(',').map(str::to_owned).collect();
            let explain = format!(
                "explain (analyze, buffers, format json) execute again{}",
                literals(&self.ran.values)
            );
            let plan = postgres
                .query_one_raw(Statement::from_string(DbBackend::Postgres, explain))
                .await
                .ok()??;
            let plan: Value = plan.try_get("", "QUERY PLAN").ok()?;
            Some(visited(&plan[0]["Plan"]))
        };
        let read = read.await;
        postgres.execute_unprepared("rollback").await.expect("nothing remains");
        // It is there unless it could not be prepared.
        let _ = postgres.execute_unprepared("deallocate again").await;
        read
    }

    fn on_sqlite(&mut self, sqlite: &rusqlite::Connection, steps: &AtomicU64) -> Option<u64> {
        let sql = in_sqlite(&self.ran.sql);
        let transaction = sqlite.unchecked_transaction().expect("a transaction");
        let before = steps.load(Ordering::Relaxed);
        let done = self.rows(&transaction, &sql, |_| Ok(()));
        let read = steps.load(Ordering::Relaxed) - before;
        let plan = self.rows(&transaction, &format!("explain query plan {sql}"), |row| {
            row.get::<_, String>(3)
        });
        self.plan = plan.unwrap_or_default().join("; ");
        transaction.rollback().expect("nothing remains");
        done.ok().map(|_| read)
    }

    fn rows<T>(
        &self,
        sqlite: &rusqlite::Connection,
        sql: &str,
        read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        let mut statement = sqlite.prepare(sql)?;
        self.bind(&mut statement)?;
        statement.raw_query().mapped(read).collect()
    }

    /// Binds the values in SQLite's types. A parameter is named after its number.
    fn bind(&self, statement: &mut rusqlite::Statement<'_>) -> rusqlite::Result<()> {
        for parameter in 1..=statement.parameter_count() {
            let name = statement.parameter_name(parameter).unwrap_or_default();
            let number = name.trim_start_matches('$').parse().unwrap_or(parameter) - 1;
            let kind = self.types.get(number).map_or("text", String::as_str);
            let value = match (kind, self.ran.values.get(number).cloned().flatten()) {
                (_, None) => Stored::Null,
                ("uuid", Some(value)) => {
                    Uuid::parse_str(&value).map_or(Stored::Null, |id| Stored::Blob(id.as_bytes().to_vec()))
                }
                ("bigint" | "integer", Some(value)) => value.parse().map_or(Stored::Null, Stored::Integer),
                ("boolean", Some(value)) => Stored::Integer(i64::from(value == "t")),
                (_, Some(value)) => Stored::Text(value),
            };
            statement.raw_bind_parameter(parameter, value)?;
        }
        Ok(())
    }
}

/// The rows that all scans of a plan returned or rejected.
fn visited(plan: &Value) -> u64 {
    let number = |name: &str| plan[name].as_f64().unwrap_or(0.0);
    let scans = [
        "Seq Scan",
        "Index Scan",
        "Index Only Scan",
        "Bitmap Heap Scan",
        "Bitmap Index Scan",
    ];
    let own = if plan["Node Type"].as_str().is_some_and(|node| scans.contains(&node)) {
        let rows = number("Actual Rows") + number("Rows Removed by Filter") + number("Rows Removed by Index Recheck");
        (rows * number("Actual Loops")) as u64
    } else {
        0
    };
    own + plan["Plans"].as_array().into_iter().flatten().map(visited).sum::<u64>()
}

fn literals(values: &[Option<String>]) -> String {
    if values.is_empty() {
        return String::new();
    }
    let literal = |value: &Option<String>| match value {
        Some(text) => format!("'{}'", text.replace('\'', "''")),
        None => "null".to_owned(),
    };
    let literals: Vec<String> = values.iter().map(literal).collect();
    format!("({})", literals.join(", "))
}

/// The few words in which the statements for the two databases differ.
fn in_sqlite(sql: &str) -> String {
    let now = "cast(unixepoch('now', 'subsec') * 1000 as integer)";
    sql.replace("for update skip locked", "")
        .replace("FOR UPDATE SKIP LOCKED", "")
        .replace("for update", "")
        .replace("cast(extract(epoch from statement_timestamp()) * 1000 as bigint)", now)
        .replace("cast(extract(epoch from clock_timestamp()) * 1000 as bigint)", now)
}
