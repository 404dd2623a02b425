//! How far a run is: a bar on a terminal, a line for each step elsewhere.

use std::{
    io::{IsTerminal, Write},
    time::Instant,
};

const WIDTH: usize = 24;

pub struct Progress {
    total: usize,
    done: usize,
    begun: Instant,
    is_terminal: bool,
}

impl Progress {
    /// Of `total` steps.
    pub fn new(total: usize) -> Self {
        Progress {
            total,
            done: 0,
            begun: Instant::now(),
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Says which step begins.
    pub fn step(&mut self, what: &str) {
        let line = bar(self.done, self.total, self.begun.elapsed().as_secs(), what);
        self.done += 1;
        self.show(&line);
    }

    pub fn end(&mut self) {
        if self.is_terminal {
            self.show("");
        }
    }

    fn show(&self, line: &str) {
        let mut stderr = std::io::stderr();
        // Progress that cannot be shown is no reason to end.
        let _ = if self.is_terminal {
            // To the line's beginning, and clear it.
            write!(stderr, "\r\x1b[2K{line}").and_then(|()| stderr.flush())
        } else {
            writeln!(stderr, "{line}")
        };
    }
}

fn bar(done: usize, total: usize, seconds: u64, what: &str) -> String {
    let filled = (WIDTH * done.min(total)) / total.max(1);
    let (full, empty) = ("#".repeat(filled), ".".repeat(WIDTH - filled));
    format!("[{full}{empty}] {done}/{total} {seconds:>4} s  {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_full_at_the_end_and_never_too_long() {
        assert_eq!(bar(0, 4, 0, "x"), format!("[{}] 0/4    0 s  x", ".".repeat(WIDTH)));
        assert!(bar(4, 4, 9, "x").starts_with(&format!("[{}]", "#".repeat(WIDTH))));
        assert_eq!(bar(9, 4, 9, "x").find(']'), bar(1, 4, 9, "x").find(']'));
    }
}
