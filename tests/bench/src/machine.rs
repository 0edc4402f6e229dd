//! Where it ran: figures without their machine say nothing.

use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// Cores, memory, kernel, file system of the data, and what else was running.
pub fn describe(data: &Path) -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        text.lines()
            .find(|line| line.starts_with(name))
            .and_then(|line| line.split(':').nth(1))
            .unwrap_or("")
            .trim()
            .to_owned()
    };
    let cpu = read("/proc/cpuinfo");
    let memory_kib: u64 =
        field(&read("/proc/meminfo"), "MemTotal").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    json!({
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "cpu": field(&cpu, "model name"),
        "memory_gib": memory_kib / (1 << 20),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "file_system": file_system(data),
        "load_1_min_at_start": load(),
    })
}

/// The system's load of the last minute.
pub fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

/// The type of the longest mount point that the folder lies under.
fn file_system(folder: &Path) -> String {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let under = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (point, kind) = (words.next()?, words.next()?);
        folder.starts_with(point).then(|| (point.len(), kind.to_owned()))
    });
    under.max_by_key(|(length, _)| *length).map_or_else(String::new, |(_, kind)| kind)
}

/// The computing time of a process so far, all its threads together.
pub fn cpu_of(pid: u32) -> Duration {
    // utime and stime are the 14th and 15th, counted behind the name, which may hold anything; in hundredths.
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = text.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Resident memory of a process in bytes, and how much of it is its own and not a file's.
pub fn resident_bytes(pid: u32) -> (u64, u64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    (kib("VmRSS:").unwrap_or(0) * 1024, kib("RssAnon:").unwrap_or(0) * 1024)
}
