//! Measurement: what a migration costs the process, in counters of the kernel.
//!
//! | counter | from | always there |
//! |---|---|---|
//! | CPU time, minor and major faults | `getrusage` | yes |
//! | resident memory | `/proc/self/status` | yes |
//! | TLB flushes | tracepoint `tlb:tlb_flush` | where perf events are allowed |
//! | faults from user and kernel mode | tracepoints `exceptions:page_fault_*` | where perf events are allowed |
//!
//! TLB flushes matter to a device: since Linux 6.6 each flush of a process is
//! passed on to the devices bound to its memory, so their number bounds the
//! IOTLB flushes. Page faults from kernel mode are those of system calls that
//! store into absent pages, such as `read`; `UFFDIO_COPY` causes none.
//!
//! A [`Meter`] counts its own thread and the threads that are started after it
//! by counted ones: it is opened before all others. Opening a tracepoint takes
//! a few milliseconds, hence the tracepoints are optional.

mod tracepoint;
mod usage;

pub use tracepoint::Tracepoint;
pub use usage::{Resident, Usage};

/// Counts from its start on.
#[derive(Debug)]
pub struct Meter {
    usage: Usage,
    resident: Resident,
    traced: Result<Traced, String>,
}

#[derive(Debug)]
struct Traced {
    flushes: Tracepoint,
    user: Tracepoint,
    kernel: Tracepoint,
}

/// What was counted. The keys are stable.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Measured {
    /// Seconds of user CPU time of the whole process.
    pub cpu_user_seconds: f64,
    /// Seconds of system CPU time of the whole process.
    pub cpu_system_seconds: f64,
    /// Page faults of the whole process that took no I/O.
    pub minor_faults: u64,
    /// Page faults of the whole process that waited for I/O.
    pub major_faults: u64,
    /// Most memory the process ever had resident, in bytes.
    pub peak_rss_bytes: u64,
    /// How far resident memory went over what it was at the start, in bytes.
    pub rss_growth_bytes: u64,
    /// TLB flushes that the process's threads started.
    pub tlb_flushes: Option<u64>,
    /// Page faults from user mode, those that populate nothing included.
    pub page_faults_user: Option<u64>,
    /// Page faults from kernel mode.
    pub page_faults_kernel: Option<u64>,
    /// Why the counters above are not there.
    pub not_measured: Option<String>,
}

impl Meter {
    /// Starts to count; the tracepoints only if `traced`.
    pub fn start(traced: bool) -> Self {
        let traced = if traced {
            Traced::open().map_err(|error| error.to_string())
        } else {
            Err("not asked for".to_owned())
        };
        // Last, so that opening the tracepoints is not part of it.
        Self { traced, resident: Resident::now(), usage: Usage::now() }
    }

    /// What was counted until now.
    pub fn read(&self) -> Measured {
        let now = Usage::now();
        let resident = Resident::now();
        let traced = self.traced.as_ref();
        let count = |which: fn(&Traced) -> &Tracepoint| traced.ok().and_then(|t| which(t).count());
        Measured {
            cpu_user_seconds: now.user.saturating_sub(self.usage.user).as_secs_f64(),
            cpu_system_seconds: now.system.saturating_sub(self.usage.system).as_secs_f64(),
            minor_faults: now.minor_faults.saturating_sub(self.usage.minor_faults),
            major_faults: now.major_faults.saturating_sub(self.usage.major_faults),
            peak_rss_bytes: resident.peak,
            rss_growth_bytes: resident.growth_since(&self.resident),
            tlb_flushes: count(|traced| &traced.flushes),
            page_faults_user: count(|traced| &traced.user),
            page_faults_kernel: count(|traced| &traced.kernel),
            not_measured: traced.err().cloned(),
        }
    }
}

impl Traced {
    fn open() -> std::io::Result<Self> {
        // Of the reasons in arch/x86/mm/tlb.c these two are flushes that the
        // thread itself started; the others are task switches, and what other
        // CPUs do about the same flush.
        let started_here = c"reason == 2 || reason == 3";
        Ok(Self {
            flushes: Tracepoint::open("tlb", "tlb_flush", Some(started_here))?,
            user: Tracepoint::open("exceptions", "page_fault_user", None)?,
            kernel: Tracepoint::open("exceptions", "page_fault_kernel", None)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Maps, touches and unmaps `rounds` single pages.
    fn touch(rounds: usize) {
        for _ in 0..rounds {
            let page = memmap2::MmapMut::map_anon(4096);
            let Ok(mut page) = page else { panic!("no memory for one page") };
            page[0] = 1;
            std::hint::black_box(&page);
        }
    }

    #[test]
    fn counts_the_faults_and_flushes_of_threads_started_later() {
        let meter = Meter::start(true);
        let worker = thread::spawn(|| touch(500));
        assert!(worker.join().is_ok());
        let measured = meter.read();
        assert!(measured.minor_faults >= 500, "{measured:?}");
        match &measured.not_measured {
            // Not permitted here; then the report says so.
            Some(reason) => assert!(!reason.is_empty() && measured.tlb_flushes.is_none()),
            None => {
                assert!(measured.page_faults_user.is_some_and(|faults| faults >= 500));
                assert!(measured.tlb_flushes.is_some_and(|flushes| flushes >= 500));
            }
        }
    }

    #[test]
    fn without_tracepoints_it_says_so() {
        let measured = Meter::start(false).read();
        assert_eq!(measured.tlb_flushes, None);
        assert_eq!(measured.not_measured.as_deref(), Some("not asked for"));
    }

    #[test]
    fn growth_counts_from_the_start() {
        let meter = Meter::start(false);
        let memory = vec![1_u8; 256 << 20];
        let growth = meter.read().rss_growth_bytes;
        drop(std::hint::black_box(memory));
        // Other tests of this process take and free memory at the same time,
        // but none of them as much.
        assert!(growth >= 128 << 20, "{growth}");
    }
}
