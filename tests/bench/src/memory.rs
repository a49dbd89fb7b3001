//! What a process has of the memory.

use std::fs;

/// A field of /proc/<pid>/status, KiB: `VmRSS:` is what it holds now, `VmHWM:` the most that it held.
pub(crate) fn kib(pid: u32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}
