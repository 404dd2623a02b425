//! Committed texts that a test compares with what the code generates today.

use std::fs;

use libtest_mimic::Failed;

/// Compares `actual` with the committed file; `BANYAN_UPDATE_SNAPSHOTS=1` writes it instead.
pub fn compare(path: &str, actual: &str) -> Result<(), Failed> {
    let file = crate::architecture::root().join(path);
    if std::env::var_os("BANYAN_UPDATE_SNAPSHOTS").is_some() {
        fs::write(&file, actual)?;
        return Ok(());
    }
    let committed = fs::read_to_string(&file).unwrap_or_default();
    if committed == actual {
        return Ok(());
    }
    let differing = committed
        .lines()
        .zip(actual.lines())
        .position(|(a, b)| a != b)
        .unwrap_or_else(|| committed.lines().count().min(actual.lines().count()));
    Err(format!(
        "{path} differs from line {} on:\n  committed: {:?}\n  now:       {:?}\nIf the change is intended, run the test with BANYAN_UPDATE_SNAPSHOTS=1 and review the difference.",
        differing + 1,
        committed.lines().nth(differing),
        actual.lines().nth(differing),
    )
    .into())
}
