//! A whole measurement: the binaries in turn, round by round, each on new data.

use std::path::Path;

use anyhow::ensure;

use crate::{
    customers::Seed,
    home::Postgres,
    options::Options,
    process,
    progress::Progress,
    results::{Machine, Memory, Ratio, Report, Run, StageResult},
    shop::Shop,
    stages::{self, Kind, Limits},
    statistics::ratio,
    yardsticks,
};

const FIRST: &str = "first";
const SECOND: &str = "second";

/// A binary with its variables.
struct Side<'a> {
    name: &'static str,
    binary: &'a Path,
    variables: Vec<(String, String)>,
}

/// Measures what the options say.
pub async fn run(options: &Options, postgres: Option<&Postgres>) -> anyhow::Result<Report> {
    ensure!(!options.stages.is_empty(), "--stages names no stage");
    let mut sides = vec![Side {
        name: FIRST,
        binary: &options.binary,
        variables: options.env.clone(),
    }];
    if let Some(binary) = &options.versus {
        sides.push(Side {
            name: SECOND,
            binary,
            variables: options.env.iter().chain(&options.versus_env).cloned().collect(),
        });
    }
    let load_average_before = process::load_average();
    let syncs_per_second = yardsticks::disk::syncs_per_second()?;
    let (mut runs, mut notes) = (Vec::new(), Vec::new());
    let with_stored = options.stored.map_or(0, |_| options.stages.len() + 1);
    let steps_per_run = options.stages.len() + 1 + usize::from(options.yardstick_seconds > 0) + with_stored;
    let mut progress = Progress::new(sides.len() * options.rounds as usize * steps_per_run);
    for round in 1..=options.rounds {
        for side in &sides {
            runs.push(run_once(options, postgres, side, round, &mut progress, &mut notes).await?);
        }
    }
    progress.end();
    notes.sort();
    notes.dedup();
    Ok(Report {
        database: match (&options.url, postgres) {
            (Some(_), _) => "running",
            (None, Some(_)) => "postgres",
            (None, None) => "sqlite",
        },
        first: options
            .url
            .clone()
            .unwrap_or_else(|| options.binary.display().to_string()),
        second: options.versus.as_ref().map(|path| path.display().to_string()),
        machine: Machine {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            load_average_before,
            load_average_after: process::load_average(),
            syncs_per_second,
        },
        ratios: if sides.len() == 2 { ratios(&runs) } else { Vec::new() },
        stored_ratios: options.stored.map_or_else(Vec::new, |orders| {
            let stages = options.stages.iter().map(|stage| stage.name());
            let of = |name: String| between(&runs, (FIRST, &name_with_stored(&name, orders)), (FIRST, &name));
            stages.map(of).collect()
        }),
        runs,
        notes,
    })
}

async fn run_once(
    options: &Options,
    postgres: Option<&Postgres>,
    side: &Side<'_>,
    round: u32,
    progress: &mut Progress,
    notes: &mut Vec<String>,
) -> anyhow::Result<Run> {
    let label = format!("round {round}, {}", side.name);
    progress.step(&format!("{label}: start, products, customers"));
    let mut shop = match &options.url {
        Some(url) => Shop::attach(url, options.pid).await?,
        None => Shop::start(side.binary, postgres, &side.variables).await?,
    };
    shop.settle().await;
    let idle = shop.pid.and_then(process::memory_mib);
    let orders = options.stages.iter().filter(|stage| stage.kind == Kind::Orders);
    let seed = Seed::create(&shop, orders.map(|stage| stage.customers).max().unwrap_or_default()).await?;
    let limits = Limits {
        duration: options.duration(),
        orders: options.orders,
    };
    let mut results = Vec::new();
    for stage in &options.stages {
        progress.step(&format!("{label}: {}", stage.name()));
        results.push(stages::measure(&shop, &seed, *stage, limits).await?);
    }
    let mut orders_stored = None;
    if let Some(orders) = options.stored {
        progress.step(&format!("{label}: {orders} orders by SQL"));
        let stored = *orders_stored.insert(shop.store(orders).await?);
        shop.settle().await;
        for stage in &options.stages {
            progress.step(&format!("{label}: {} with {stored} orders stored", stage.name()));
            let mut result = stages::measure(&shop, &seed, *stage, limits).await?;
            result.name = name_with_stored(&result.name, orders);
            results.push(result);
        }
    }
    let memory = idle.zip(shop.pid.and_then(process::memory_mib));
    let mut yardsticks = Vec::new();
    if options.yardstick_seconds > 0 {
        progress.step(&format!("{label}: yardsticks"));
        yardsticks = yardsticks::measure(options, postgres, &shop, &seed, &results, notes).await?;
    }
    Ok(Run {
        side: side.name,
        round,
        stages: results,
        orders_stored,
        memory: memory.map(|((idle_mib, _), (after_mib, peak_mib))| Memory {
            idle_mib,
            peak_mib,
            after_mib,
        }),
        yardsticks,
    })
}

/// A figure of a stage over the rounds of a side.
pub fn figures(runs: &[Run], side: &str, stage: &str, figure: impl Fn(&StageResult) -> Option<f64>) -> Vec<f64> {
    let runs = runs.iter().filter(|run| run.side == side);
    runs.flat_map(|run| run.stages.iter().filter(|result| result.name == stage))
        .filter_map(figure)
        .collect()
}

/// The name of a stage that is measured once more with that many orders stored.
fn name_with_stored(stage: &str, orders: u32) -> String {
    format!("{stage} with {orders} stored")
}

fn ratios(runs: &[Run]) -> Vec<Ratio> {
    let Some(run) = runs.first() else {
        return Vec::new();
    };
    let of = |stage: &StageResult| between(runs, (FIRST, &stage.name), (SECOND, &stage.name));
    run.stages.iter().map(of).collect()
}

/// The ratios of the medians of two stages, each with its side.
fn between(runs: &[Run], first: (&str, &str), second: (&str, &str)) -> Ratio {
    let ratio_of = |figure: fn(&StageResult) -> Option<f64>| {
        ratio(
            &figures(runs, first.0, first.1, figure),
            &figures(runs, second.0, second.1, figure),
        )
    };
    Ratio {
        stage: first.1.to_owned(),
        per_second: ratio_of(|result| Some(result.per_second)),
        p50_ms: ratio_of(|result| result.p50_ms),
        p99_ms: ratio_of(|result| result.p99_ms),
        cpu_ms: ratio_of(|result| result.cpu_ms),
        postgres_cpu_ms: ratio_of(|result| result.postgres_cpu_ms),
    }
}
