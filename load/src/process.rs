//! What the kernel says about a process: its CPU time and its resident memory. On systems without /proc there are no figures.

use std::fs;

/// Clock ticks in a second: what the kernel counts CPU time in for user space, on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// The CPU time of all threads of a process so far, user and system, in milliseconds.
pub fn cpu_ms(pid: u32) -> Option<f64> {
    cpu_ms_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn cpu_ms_in(stat: &str) -> Option<f64> {
    // The name, in parentheses, may contain anything; `utime` and `stime` are the 12th and 13th fields behind it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks * 1000.0 / TICKS_PER_SECOND)
}

/// Resident memory of a process in MiB: now, and at most so far.
pub fn memory_mib(pid: u32) -> Option<(f64, f64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some((field_mib(&status, "VmRSS:")?, field_mib(&status, "VmHWM:")?))
}

fn field_mib(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}

/// The load averages of the last 1, 5 and 15 minutes, as the kernel prints them.
pub fn load_average() -> Option<String> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    Some(text.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_the_name() {
        let stat = "42 (a (odd) name) S 1 42 42 0 -1 4194560 900 0 0 0 250 50 7 8 20 0 9 0";
        assert_eq!(cpu_ms_in(stat), Some(3000.0));
        assert_eq!(cpu_ms_in("42 (x) S 1"), None);
    }

    #[test]
    fn memory_is_in_mib() {
        assert_eq!(field_mib("VmHWM:\t  2048 kB\nVmRSS:\t 1024 kB\n", "VmRSS:"), Some(1.0));
        assert_eq!(field_mib("VmHWM:\t  2048 kB\n", "VmRSS:"), None);
    }
}
