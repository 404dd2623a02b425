//! The log on standard error: standard output belongs to what a command prints.
//!
//! Lines are written by a thread of their own, many at a time, so that no request waits for whoever reads them. At most [`MAX_WAITING_LINES`] wait; what
//! does not fit is dropped and counted in the metric `banyan_log_lines_dropped_total`. An orderly end writes every line that waits. A process that is
//! killed loses those of its last [`PAUSE`].

use std::{
    io::{self, BufWriter, IsTerminal, Write, stderr},
    sync::OnceLock,
    thread,
    time::Duration,
};

use anyhow::Context;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::settings::{Log, LogFormat};

/// Some megabytes of lines.
const MAX_WAITING_LINES: usize = 8_192;
const BATCH_BYTES: usize = 64 * 1024;
/// The pause of the thread between batches. Meanwhile a request that logs does not have to wake it, which costs as much as writing the line.
const PAUSE: Duration = Duration::from_millis(10);

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Starts writing logs. Dropping the guard writes the lines that wait, and ends the log.
///
/// # Errors
/// A filter that cannot be read.
pub fn start(log: &Log) -> anyhow::Result<WorkerGuard> {
    let filter = EnvFilter::try_new(&log.filter).with_context(|| {
        format!(
            "log.filter = {:?}; write levels as in RUST_LOG, such as info,http=debug",
            log.filter
        )
    })?;
    let (writer, guard) = in_batches(stderr());
    let _ = DROPPED.set(writer.error_counter());
    // Colours only on terminals, not in files.
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(stderr().is_terminal());
    // A second start in one process (tests) keeps the first one's settings.
    let _ = match log.format {
        LogFormat::Text => logs.compact().try_init(),
        LogFormat::Json => logs.json().flatten_event(true).with_current_span(true).try_init(),
    };
    Ok(guard)
}

/// Brings the metric of dropped lines up to date.
pub fn count_dropped() {
    if let Some(dropped) = DROPPED.get() {
        metrics::counter!("banyan_log_lines_dropped_total").absolute(dropped.dropped_lines() as u64);
    }
}

fn in_batches(to: impl Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default()
        .thread_name("log")
        .buffered_lines_limit(MAX_WAITING_LINES)
        .lossy(true)
        .finish(Batches(BufWriter::with_capacity(BATCH_BYTES, to)))
}

struct Batches<W: Write>(BufWriter<W>);

impl<W: Write> Write for Batches<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write(line)
    }

    /// Called when no line waits.
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()?;
        thread::sleep(PAUSE);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, mpsc},
        time::Instant,
    };

    use parking_lot::Mutex;

    use super::*;

    /// What was written, once the gate is open.
    #[derive(Clone)]
    struct Gated {
        written: Arc<Mutex<Vec<u8>>>,
        open: Arc<Mutex<mpsc::Receiver<()>>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // An error: the sender is gone, and the gate stays open.
            let _ = self.open.lock().recv();
            self.written.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (Gated, mpsc::Sender<()>) {
        let (opener, open) = mpsc::channel();
        let gated = Gated {
            written: Arc::default(),
            open: Arc::new(Mutex::new(open)),
        };
        (gated, opener)
    }

    #[test]
    fn an_orderly_end_writes_every_line_in_order() {
        let (to, opener) = gated();
        drop(opener);
        let (mut log, guard) = in_batches(to.clone());
        let lines: Vec<String> = (0..1_000).map(|number| format!("line {number}\n")).collect();
        for line in &lines {
            log.write_all(line.as_bytes()).unwrap();
        }
        let dropped = log.error_counter();
        drop(guard);
        assert_eq!(String::from_utf8(to.written.lock().clone()).unwrap(), lines.concat());
        assert_eq!(dropped.dropped_lines(), 0);
    }

    #[test]
    fn lines_that_nobody_reads_neither_block_nor_grow_and_are_counted() {
        let (to, opener) = gated();
        let (mut log, guard) = in_batches(to.clone());
        let line = [b'x'; 100];
        let (begun, lines) = (Instant::now(), 3 * MAX_WAITING_LINES);
        for _ in 0..lines {
            log.write_all(&line).unwrap();
        }
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "logging waits for the reader"
        );
        let dropped = log.error_counter().dropped_lines();
        let kept_elsewhere = 2 * BATCH_BYTES / line.len();
        assert!(
            dropped >= lines - MAX_WAITING_LINES - kept_elsewhere,
            "{dropped} of {lines}"
        );
        drop(opener);
        drop(guard);
        assert_eq!(to.written.lock().len(), (lines - dropped) * line.len());
    }
}
