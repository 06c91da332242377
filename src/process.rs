//! What the kernel knows of a process: CPU time and resident memory (`proc(5)`).

use anyhow::{Context, Result};

/// A reading of one process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User plus system time since the process began, in seconds.
    pub cpu_seconds: f64,
    /// Resident set, in bytes.
    pub rss_bytes: u64,
    /// What the process has had written to disks since it began, in bytes; 0 for a process of another user.
    pub written_bytes: u64,
}

/// Reads `/proc/<pid>`.
///
/// # Errors
/// If there is no such process.
pub fn usage(pid: u32) -> Result<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    // The second field is the name, in parentheses, and may hold spaces.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rss_kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok())
        .unwrap_or(0);
    let written_bytes = std::fs::read_to_string(format!("/proc/{pid}/io"))
        .ok()
        .and_then(|io| io.lines().find_map(|line| line.strip_prefix("write_bytes:"))?.trim().parse().ok());
    // utime and stime are fields 14 and 15 of the whole line, 12 and 13 after the name; USER_HZ is 100 on Linux.
    Ok(Usage {
        cpu_seconds: (ticks(11) + ticks(12)) / 100.0,
        rss_bytes: rss_kib * 1024,
        written_bytes: written_bytes.unwrap_or(0),
    })
}

/// Largest resident set that this process ever had, in bytes; 0 where the kernel does not tell.
pub fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_its_own_process() {
        let usage = super::usage(std::process::id()).unwrap();
        assert!(usage.rss_bytes > 1 << 20, "{usage:?}");
        assert!(super::usage(u32::MAX).is_err());
    }
}
