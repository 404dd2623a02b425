//! The report for people: one table for each side, the ratios, the yardsticks.

use std::io::Write;

use crate::{
    results::{Memory, Ratio, Report, Run, StageResult, Yardstick},
    run::figures,
    statistics::median,
};

pub fn print(report: &Report) -> anyhow::Result<()> {
    std::io::stdout().write_all(render(report).as_bytes())?;
    Ok(())
}

fn render(report: &Report) -> String {
    let machine = &report.machine;
    let average = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
    let mut text = format!(
        "{}; {} cores, load average {} before and {} after, {:.0} fdatasync/s\n",
        report.database,
        machine.cores,
        average(&machine.load_average_before),
        average(&machine.load_average_after),
        machine.syncs_per_second
    );
    for (side, what) in [("first", Some(&report.first)), ("second", report.second.as_ref())] {
        if let Some(what) = what {
            text += &render_side(&report.runs, side, what);
        }
    }
    if !report.ratios.is_empty() {
        text += "\nfirst / second, medians of the rounds\n";
        text += &table(&RATIO_COLUMNS, report.ratios.iter().map(ratio_row));
    }
    if !report.stored_ratios.is_empty() {
        text += "\nwith the orders stored / before, medians of the rounds\n";
        text += &table(&RATIO_COLUMNS, report.stored_ratios.iter().map(ratio_row));
    }
    for note in &report.notes {
        text += &format!("\n{note}\n");
    }
    text
}

const COLUMNS: [&str; 9] = [
    "stage",
    "per s",
    "p50 ms",
    "p99 ms",
    "CPU ms",
    "PostgreSQL ms",
    "statements",
    "transactions",
    "refused",
];
const RATIO_COLUMNS: [&str; 6] = ["stage", "per s", "p50", "p99", "CPU", "PostgreSQL CPU"];
const YARDSTICK_COLUMNS: [&str; 4] = ["yardstick", "beside", "per s", "the shop's share"];

/// The medians of a side's rounds.
fn render_side(runs: &[Run], side: &str, what: &str) -> String {
    let own: Vec<&Run> = runs.iter().filter(|run| run.side == side).collect();
    let Some(run) = own.first() else {
        return String::new();
    };
    let mut text = format!("\n{side}: {what}, medians of {} rounds\n", own.len());
    text += &table(
        &COLUMNS,
        run.stages.iter().map(|stage| stage_row(runs, side, &stage.name)),
    );
    let memory = |figure: fn(&Memory) -> f64| {
        median(
            &own.iter()
                .filter_map(|run| run.memory.as_ref().map(figure))
                .collect::<Vec<_>>(),
        )
    };
    text += &format!(
        "resident MiB: {} idle, {} at most, {} after the last stage\n",
        number(memory(|memory| memory.idle_mib)),
        number(memory(|memory| memory.peak_mib)),
        number(memory(|memory| memory.after_mib))
    );
    if !run.yardsticks.is_empty() {
        text += &table(
            &YARDSTICK_COLUMNS,
            run.yardsticks.iter().map(|yardstick| yardstick_row(&own, yardstick)),
        );
    }
    text
}

fn stage_row(runs: &[Run], side: &str, stage: &str) -> Vec<String> {
    let middle = |figure: fn(&StageResult) -> Option<f64>| number(median(&figures(runs, side, stage, figure)));
    vec![
        stage.to_owned(),
        middle(|result| Some(result.per_second)),
        middle(|result| result.p50_ms),
        middle(|result| result.p99_ms),
        middle(|result| result.cpu_ms),
        middle(|result| result.postgres_cpu_ms),
        middle(|result| result.statements),
        middle(|result| result.transactions),
        middle(|result| Some(result.refused as f64)),
    ]
}

fn yardstick_row(runs: &[&Run], yardstick: &Yardstick) -> Vec<String> {
    let same = runs.iter().flat_map(|run| &run.yardsticks);
    let same: Vec<&Yardstick> = same
        .filter(|other| other.name == yardstick.name && other.stage == yardstick.stage)
        .collect();
    let middle = |figure: fn(&Yardstick) -> f64| {
        number(median(
            &same.iter().map(|yardstick| figure(yardstick)).collect::<Vec<_>>(),
        ))
    };
    vec![
        yardstick.name.clone(),
        yardstick.stage.clone(),
        middle(|yardstick| yardstick.per_second),
        middle(|yardstick| yardstick.share),
    ]
}

fn ratio_row(ratio: &Ratio) -> Vec<String> {
    let figures = [
        ratio.per_second,
        ratio.p50_ms,
        ratio.p99_ms,
        ratio.cpu_ms,
        ratio.postgres_cpu_ms,
    ];
    std::iter::once(ratio.stage.clone())
        .chain(figures.map(number))
        .collect()
}

/// About three digits, or `-` for what is not known.
fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value.abs() >= 100.0 || value == 0.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) if value.abs() >= 1.0 => format!("{value:.2}"),
        Some(value) => format!("{value:.3}"),
    }
}

/// Columns as wide as their widest cell; the first is left-aligned.
fn table(columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head = columns.iter().map(|&name| name.to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column == 0 {
                format!("{cell:<width$}")
            } else {
                format!("{cell:>width$}")
            }
        });
        cells.collect::<Vec<_>>().join("  ") + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_a_dash() {
        assert_eq!(number(None), "-");
        assert_eq!(number(Some(1234.56)), "1235");
        assert_eq!(number(Some(0.0)), "0");
        assert_eq!(number(Some(0.0456)), "0.046");
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [
            vec!["orders-8".to_owned(), "7".to_owned()],
            vec!["x".to_owned(), "123456".to_owned()],
        ];
        assert_eq!(
            table(&["a", "b"], rows.into_iter()),
            "a              b\norders-8       7\nx         123456\n"
        );
    }
}
