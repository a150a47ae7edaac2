//! What the host is, for tables that can be compared.

use std::fs;

use serde::Serialize;

/// The host.
#[derive(Debug, Clone, Serialize)]
pub struct Host {
    /// Model of the CPU.
    pub cpu: String,
    /// CPUs that may be used.
    pub cpus: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// Kernel release.
    pub kernel: String,
    /// Setting of transparent huge pages.
    pub huge_pages: String,
    /// Version of this program.
    pub version: &'static str,
    /// Load average of the last minute at the start.
    pub load_before: f64,
    /// The same at the end.
    pub load_after: f64,
}

impl Host {
    /// This one.
    pub fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(": ")).map_or("unknown", |(_, value)| value)
        };
        let setting = read("/sys/kernel/mm/transparent_hugepage/enabled");
        let chosen = setting.split(['[', ']']).nth(1).unwrap_or("unknown");
        Self {
            cpu: format!("{} (family {})", field("model name"), field("cpu family")),
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory: meminfo("MemTotal:"),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            huge_pages: chosen.to_owned(),
            version: env!("CARGO_PKG_VERSION"),
            load_before: load(),
            load_after: 0.0,
        }
    }

    /// Notes the load at the end.
    pub fn settle(&mut self) {
        self.load_after = load();
    }
}

fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

fn meminfo(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Half of the memory that is available, in whole GiB: the other half is for
/// the recording in the page cache.
pub fn half_of_memory() -> u64 {
    ((meminfo("MemAvailable:") / 2) >> 30).max(1) << 30
}
