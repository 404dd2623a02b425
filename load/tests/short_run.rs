//! The driver as it is used, for a few orders: its report has exactly what the page promises, and nothing stays behind.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;
use sqlx::{Connection, PgConnection};

const PAGE: &str = "docs/explanation/performance.md";

fn driver(arguments: &[&str]) -> Command {
    let mut driver = Command::new(env!("CARGO_BIN_EXE_load"));
    driver.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    driver
}

/// What a driver says that cannot measure.
fn refusal(arguments: &[&str]) -> String {
    let output = driver(arguments).output().expect("the driver runs");
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The shop that was built beside this test.
fn shop() -> PathBuf {
    let shop = Path::new(env!("CARGO_BIN_EXE_load")).with_file_name("banyan");
    assert!(
        shop.exists(),
        "{} is not built: run cargo build -p banyan first",
        shop.display()
    );
    shop
}

/// A short run of that shop: the driver's process id and its report.
fn measure(arguments: &[&str]) -> (u32, Value) {
    let directory = tempfile::tempdir().expect("a directory");
    let json = directory.path().join("report.json");
    let (shop, json_path) = (text(&shop()), text(&json));
    let bounds = ["--seconds", "1", "--orders", "4", "--yardstick-seconds", "1"];
    let fixed = ["--binary", &shop, "--json", &json_path];
    let driver = driver(&[&fixed[..], &bounds, arguments].concat())
        .spawn()
        .expect("the driver runs");
    let process = driver.id();
    let output = driver.wait_with_output().expect("the driver ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("stage") && table.contains("orders-2"), "{table}");
    let report = fs::read(json).expect("the report");
    (process, serde_json::from_slice(&report).expect("JSON"))
}

fn text(path: &Path) -> String {
    path.to_str().expect("a path of text").to_owned()
}

/// The paths of all values, with `[]` for the elements of a list.
fn paths(value: &Value, path: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                paths(value, &format!("{path}{dot}{name}"), into);
            }
        }
        Value::Array(values) if values.iter().any(Value::is_object) => {
            for value in values {
                paths(value, &format!("{path}[]"), into);
            }
        }
        _ => {
            into.insert(path.to_owned());
        }
    }
}

/// The fields in the page's table.
fn promised() -> BTreeSet<String> {
    let root: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join(PAGE)).expect(PAGE);
    let table = page
        .split("\n### The report as JSON")
        .nth(1)
        .expect("the table of the fields");
    let table = table.split("\n## ").next().unwrap_or_default();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.flat_map(|row| row.split(" |").next().unwrap_or_default().split('`').step_by(2))
        .map(str::to_owned)
        .collect()
}

/// Orders that a run stores by SQL.
const STORED: &str = "60";

/// The copies are there, none was left out, and the shop takes orders with them.
fn expect_stored(run: &Value) {
    let placed = orders(run) + 2;
    let stored = run["orders_stored"].as_u64().expect("a number");
    assert!(
        stored >= 60 && stored < 60 + placed && stored.is_multiple_of(placed),
        "{run}"
    );
    let stages = run["stages"].as_array().expect("stages").iter();
    let again = stages.filter(|stage| stage["name"] == "orders-2 with 60 stored");
    assert_eq!(again.count(), 1, "{run}");
}

/// The orders of the first stage.
fn orders(run: &Value) -> u64 {
    run["stages"][0]["done"].as_u64().expect("a number")
}

#[test]
fn the_report_has_exactly_the_fields_that_the_page_promises() {
    let versus = text(&shop());
    let stages = "orders-2,product-2,list-1";
    let (_, report) = measure(&["--stages", stages, "--versus", &versus, "--stored", STORED]);
    let mut found = BTreeSet::new();
    paths(&report, "", &mut found);
    assert_eq!(found, promised(), "left: the report; right: {PAGE}");

    let runs = report["runs"].as_array().expect("runs");
    let sides: Vec<&str> = runs.iter().filter_map(|run| run["side"].as_str()).collect();
    assert_eq!(sides, ["first", "second"]);
    for run in runs {
        let stages = run["stages"].as_array().expect("stages");
        assert!((1..=4).contains(&orders(run)), "--orders limits a stage: {run}");
        for stage in stages {
            assert!(stage["per_second"].as_f64() > Some(0.0), "{stage}");
            assert!(stage["p50_ms"].as_f64() <= stage["p99_ms"].as_f64(), "{stage}");
        }
        assert!(stages[0]["statements"].as_f64() > Some(10.0), "{stages:?}");
        let names = run["yardsticks"].as_array().expect("yardsticks").iter();
        let names: Vec<&str> = names.filter_map(|yardstick| yardstick["name"].as_str()).collect();
        assert_eq!(names, ["bare actix endpoint", "bare actix endpoint", "SQLite loop"]);
        expect_stored(run);
    }
}

#[test]
fn a_run_on_postgresql_leaves_no_database_behind() {
    let server = std::env::var("BANYAN_TEST_POSTGRES")
        .expect("BANYAN_TEST_POSTGRES is not set: run scripts/test.sh, which starts a private PostgreSQL");
    let (process, report) = measure(&["--stages", "orders-2", "--postgres", &server, "--stored", STORED]);
    assert_eq!(report["database"], "postgres");
    let run = &report["runs"][0];
    assert!((1..=4).contains(&orders(run)), "{run}");
    expect_stored(run);
    let has_pgbench = run["yardsticks"][0]["name"] == "pgbench";
    assert!(
        has_pgbench || report["notes"].to_string().contains("pgbench is not installed"),
        "{report}"
    );
    assert_eq!(left_behind(&server, process), 0);
}

/// The databases of that driver, and the logins of the shops in them, which are still there.
fn left_behind(server: &str, process: u32) -> i64 {
    let query = "select (select count(*) from pg_database where starts_with(datname, $1)) + (select count(*) from pg_roles where starts_with(rolname, $1))";
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut admin = PgConnection::connect(server).await.expect("a connection");
        let count = sqlx::query_scalar(query).bind(format!("banyan_load_{process}_"));
        count.fetch_one(&mut admin).await.expect("a count")
    })
}

#[test]
fn what_cannot_be_measured_is_said_with_its_remedy() {
    assert!(refusal(&["--binary", "/no/such/banyan"]).contains("cargo build --release -p banyan"));
    assert!(refusal(&["--url", "http://192.0.2.1:8080"]).contains("not on this machine"));
    assert!(refusal(&["--url", "http://127.0.0.1:9"]).contains("banyan serve"));
    let no_server = refusal(&[
        "--binary",
        &text(&shop()),
        "--postgres",
        "postgres://postgres@127.0.0.1:9/postgres",
    ]);
    assert!(no_server.contains("scripts/lib/postgres.sh"), "{no_server}");
}
