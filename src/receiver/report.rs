//! What a migration came to, as a value: the command prints it as JSON.

use std::{fs, io, time::Duration};

use serde::Serialize;

use crate::{engine::EngineReport, ram::PlacementReport};

/// A received, or failed, migration in figures. The keys are stable.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// `received` or `failed`.
    pub status: Status,
    /// Why it failed, in one sentence.
    pub error: Option<String>,
    /// Machine type of the source.
    pub machine: Option<String>,
    /// Compression method; `None` where not one data page came.
    pub method: Option<String>,
    /// Number of multifd channels.
    pub channels: usize,
    /// Seconds from the first connection to the verdict.
    pub wall_seconds: f64,
    /// Seconds of user CPU time of the whole process in that time.
    pub cpu_user_seconds: f64,
    /// Seconds of system CPU time of the whole process in that time.
    pub cpu_system_seconds: f64,
    /// Minor page faults of the whole process in that time.
    pub minor_faults: u64,
    /// Most memory the process ever had resident, in bytes.
    pub peak_rss_bytes: u64,
    /// Pages by kind.
    pub pages: Pages,
    /// Marks behind the one in the START section: how often the source went
    /// over its RAM, or, from sources up to 8.0, how many sections it sent.
    pub rounds: u64,
    /// Bytes received over all connections.
    pub bytes_received: u64,
    /// The RAMBlocks in the source's order.
    pub blocks: Vec<BlockReport>,
    /// What decoded the pages of method qpl.
    pub engine: EngineReport,
    /// How pages got into guest memory; not there if the receiver did not start.
    pub placement: Option<PlacementReport>,
    /// Device sections stored, and whether their description agrees with them.
    pub devices: DeviceReport,
}

/// How it ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Every byte is there.
    Received,
    /// Something is missing; nothing may be used.
    #[default]
    Failed,
}

/// Pages by kind.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Pages {
    /// Pages that came as data.
    pub normal: u64,
    /// Pages that came as zero in packets.
    pub zero: u64,
    /// Zero pages (in packets or records) that were left alone.
    pub zero_untouched: u64,
    /// Zero pages (in packets or records) that were cleared.
    pub zero_cleared: u64,
    /// Data pages that a qpl source stored uncompressed.
    pub raw: u64,
    /// Pages that came as zero in records on the main stream.
    pub legacy_zero: u64,
}

/// One RAMBlock.
#[derive(Debug, Clone, Default, Serialize)]
pub struct BlockReport {
    /// Name the source gave it.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// Bytes of it that take memory here.
    pub resident_bytes: u64,
    /// SHA-256 of its content, when asked for.
    pub sha256: Option<String>,
}

/// The opaque device state.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct DeviceReport {
    /// Sections found.
    pub sections: usize,
    /// Bytes, section headers and footers included.
    pub bytes: usize,
    /// The source's JSON description came and agrees with the sections.
    pub described: bool,
}

/// The process's use of the machine at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    user: Duration,
    system: Duration,
    minor_faults: u64,
}

impl Usage {
    /// Now.
    pub fn now() -> Self {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: getrusage fills the struct it is given, and cannot fail with
        // these arguments; all-zero is a valid rusage besides.
        let usage = unsafe {
            libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
            usage.assume_init()
        };
        let time = |value: libc::timeval| {
            Duration::new(value.tv_sec.max(0) as u64, value.tv_usec.max(0) as u32 * 1000)
        };
        Self {
            user: time(usage.ru_utime),
            system: time(usage.ru_stime),
            minor_faults: usage.ru_minflt.max(0) as u64,
        }
    }

    /// Writes what was used since into `report`.
    pub fn settle(&self, report: &mut Report) {
        let now = Self::now();
        report.cpu_user_seconds = now.user.saturating_sub(self.user).as_secs_f64();
        report.cpu_system_seconds = now.system.saturating_sub(self.system).as_secs_f64();
        report.minor_faults = now.minor_faults.saturating_sub(self.minor_faults);
        report.peak_rss_bytes = peak_rss().unwrap_or(0);
    }
}

/// The high-water mark of resident memory. Not `ru_maxrss`, which a child
/// process takes over from its parent.
fn peak_rss() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    Ok(status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
        .unwrap_or(0)
        * 1024)
}
