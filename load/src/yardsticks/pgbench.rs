//! pgbench with a script of as many statements and transactions as an order.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use sqlx::raw_sql;
use tokio::process::Command;

use super::OrderCounts;
use crate::home::Postgres;

const TABLE: &str = "create table kept (id integer primary key, body text not null, version integer not null);
    insert into kept select id, repeat('b', 300), 1 from generate_series(1, 100000) as id;
    analyze kept";
const READ: &str = "select body, version from kept where id = :id";
const WRITE: &str = "update kept set version = version + 1 where id = :id";

/// Orders in a second by that many clients, if an order were only its statements, half of them reads, in its transactions. `None` without pgbench.
pub async fn orders_per_second(
    postgres: &Postgres,
    counts: OrderCounts,
    clients: usize,
    duration: Duration,
) -> anyhow::Result<Option<f64>> {
    let Some(pgbench) = find() else {
        return Ok(None);
    };
    let database = postgres.create_database().await?;
    raw_sql(TABLE)
        .execute(&mut postgres.connect_to(&database).await?)
        .await?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("order.sql");
    std::fs::write(&file, script(counts))?;
    let mut command = Command::new(pgbench);
    let (clients, seconds) = (clients.to_string(), duration.as_secs().to_string());
    command
        .args([
            "--no-vacuum",
            "--protocol=prepared",
            "--jobs=1",
            "--client",
            &clients,
            "--time",
            &seconds,
            "--file",
        ])
        .arg(&file)
        .arg(postgres.url_of(&database)?)
        .kill_on_drop(true);
    let output = command.output().await?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "pgbench fails: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    rate(&text)
        .with_context(|| format!("pgbench printed no rate: {text}"))
        .map(Some)
}

/// In the path, or the newest version where Debian puts it.
fn find() -> Option<PathBuf> {
    let in_path = std::env::var_os("PATH").into_iter();
    let in_path = in_path.flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .collect();
    versions.sort();
    in_path
        .chain(versions.into_iter().rev())
        .map(|directory| directory.join("pgbench"))
        .find(|program: &PathBuf| Path::is_file(program))
}

fn script(counts: OrderCounts) -> String {
    let (mut text, mut at) = (String::new(), 0);
    for statements in counts.split() {
        text += "begin;\n";
        for _ in 0..statements {
            let statement = if at % 2 == 0 { READ } else { WRITE };
            let _ = writeln!(text, "\\set id random(1, 100000)\n{statement};");
            at += 1;
        }
        text += "commit;\n";
    }
    text
}

fn rate(output: &str) -> Option<f64> {
    let line = output.lines().find_map(|line| line.strip_prefix("tps = "))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_has_as_many_statements_and_transactions_as_an_order() {
        let script = script(OrderCounts {
            statements: 11,
            transactions: 3,
        });
        assert_eq!(script.matches(READ).count() + script.matches(WRITE).count(), 11);
        assert_eq!(script.matches("begin;").count(), 3);
        assert_eq!(script.matches("commit;").count(), 3);
    }

    #[test]
    fn the_rate_is_read_from_the_output() {
        let output = "latency average = 3.1 ms\ntps = 321.5 (without initial connection time)\n";
        assert_eq!(rate(output), Some(321.5));
        assert_eq!(rate("nothing"), None);
    }
}
