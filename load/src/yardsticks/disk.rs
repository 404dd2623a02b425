//! How fast the disk makes a write durable, which no transaction can go below.

use std::{
    io::Write,
    time::{Duration, Instant},
};

const DURATION: Duration = Duration::from_secs(1);

/// `fdatasync` calls in a second, each after a write of 4 KiB, in the directory where the shops' data is.
pub fn syncs_per_second() -> anyhow::Result<f64> {
    let mut file = tempfile::tempfile()?;
    let (begun, mut count) = (Instant::now(), 0.0);
    while begun.elapsed() < DURATION {
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        count += 1.0;
    }
    Ok(count / begun.elapsed().as_secs_f64())
}
