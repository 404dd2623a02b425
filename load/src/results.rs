//! What a run yields. The field names are those of the JSON that `--json` writes; docs/explanation/performance.md describes them.

use serde::Serialize;

/// One stage of one run. What a figure stands for that the binary or the system does not tell is `null`.
#[derive(Clone, Debug, Serialize)]
pub struct StageResult {
    /// `orders-8`.
    pub name: String,
    pub kind: String,
    pub customers: usize,
    /// Orders or requests within the stage.
    pub done: usize,
    /// Requests that the shop refused for want of capacity, and that were repeated.
    pub refused: u64,
    pub seconds: f64,
    pub per_second: f64,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    /// CPU time of the shop's process per order or request, with the work behind it.
    pub cpu_ms: Option<f64>,
    /// CPU time of PostgreSQL's processes that serve the shop, per order or request.
    pub postgres_cpu_ms: Option<f64>,
    /// Statements per order or request, without `begin` and `commit`, by the shop's own counter.
    pub statements: Option<f64>,
    pub transactions: Option<f64>,
}

/// Resident memory of the shop's process in MiB.
#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    /// After the start, before the first customer.
    pub idle_mib: f64,
    /// The highest of the run.
    pub peak_mib: f64,
    /// After the last stage.
    pub after_mib: f64,
}

/// What the machine can do at best where the shop does a stage.
#[derive(Clone, Debug, Serialize)]
pub struct Yardstick {
    pub name: String,
    /// The stage it stands beside.
    pub stage: String,
    pub per_second: f64,
    /// The shop's rate as a share of this one.
    pub share: f64,
}

/// One binary, once.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// `first`, or `second` for the one in `--versus`.
    pub side: &'static str,
    pub round: u32,
    pub stages: Vec<StageResult>,
    /// The orders in the shop once those of `--stored` were added.
    pub orders_stored: Option<i64>,
    pub memory: Option<Memory>,
    pub yardsticks: Vec<Yardstick>,
}

/// One divided by the other, of the medians over the rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Ratio {
    pub stage: String,
    pub per_second: Option<f64>,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub cpu_ms: Option<f64>,
    pub postgres_cpu_ms: Option<f64>,
}

/// The machine, and how busy it was.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub cores: usize,
    /// The averages of 1, 5 and 15 minutes, before and after.
    pub load_average_before: Option<String>,
    pub load_average_after: Option<String>,
    /// `fdatasync` calls in a second, one after the other, in the directory where the shop's data is.
    pub syncs_per_second: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `sqlite`, `postgres`, or `running` for a shop that was there.
    pub database: &'static str,
    /// The paths of the binaries, or the URL.
    pub first: String,
    pub second: Option<String>,
    pub machine: Machine,
    pub runs: Vec<Run>,
    pub ratios: Vec<Ratio>,
    /// With the orders of `--stored` divided by without, of the first binary.
    pub stored_ratios: Vec<Ratio>,
    /// What was left out, and why.
    pub notes: Vec<String>,
}
