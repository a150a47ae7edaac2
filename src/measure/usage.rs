//! What `getrusage` and `/proc/self/status` tell.

use std::{fs, time::Duration};

/// The process's use of the machine up to one moment.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// CPU time in user mode.
    pub user: Duration,
    /// CPU time in the kernel.
    pub system: Duration,
    /// Page faults that took no I/O.
    pub minor_faults: u64,
    /// Page faults that waited for I/O.
    pub major_faults: u64,
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
            major_faults: usage.ru_majflt.max(0) as u64,
        }
    }
}

/// Resident memory of the process in bytes; 0 where `/proc` does not tell.
#[derive(Debug, Clone, Copy, Default)]
pub struct Resident {
    /// At this moment.
    pub now: u64,
    /// The most there ever was. Not `ru_maxrss`, which a child process takes
    /// over from its parent.
    pub peak: u64,
}

impl Resident {
    /// Now.
    pub fn now() -> Self {
        let Ok(status) = fs::read_to_string("/proc/self/status") else { return Self::default() };
        let bytes = |key: &str| {
            let rest = status.lines().find_map(|line| line.strip_prefix(key))?;
            Some(rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
        };
        Self { now: bytes("VmRSS:").unwrap_or(0), peak: bytes("VmHWM:").unwrap_or(0) }
    }

    /// Growth over an earlier moment: to the peak if that came later, else to
    /// what there is now.
    pub fn growth_since(&self, start: &Self) -> u64 {
        let most = if self.peak > start.peak { self.peak } else { self.now };
        most.saturating_sub(start.now)
    }
}
