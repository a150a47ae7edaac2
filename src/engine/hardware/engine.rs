//! The engine itself: what all queues share, and the report.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use super::{
    Device, FEWEST_JOBS, Job, JobError, Options, parked::Parked, probe, queue::HardwareQueue,
};
use crate::{
    engine::{Engine, EngineError, EngineReport, PageQueue},
    ram::Placement,
};

/// Name of this engine on the command line and in reports.
pub const NAME: &str = "iaa";

/// Runs page jobs on a device.
#[derive(Debug)]
pub struct HardwareEngine {
    shared: Arc<Shared>,
}

impl HardwareEngine {
    /// Opens libqpl and tries one page on the device. The error is one line
    /// that says what is missing and what mends it.
    pub fn probe(placement: Arc<Placement>, options: Options) -> Result<Self, EngineError> {
        let (device, reason) = probe::find_device(options.numa)
            .map_err(|reason| EngineError::Unavailable { engine: NAME, reason })?;
        Ok(Self::with_device(device, placement, options, reason))
    }

    /// Uses a device that is known to work, or one that is known not to: a
    /// [`Simulator`](super::Simulator).
    pub fn with_device(
        device: Arc<dyn Device>,
        placement: Arc<Placement>,
        options: Options,
        reason: impl Into<String>,
    ) -> Self {
        // Giving memory back flushes the IOTLB of a device bound to the process.
        placement.set_give_back(0);
        let shared = Shared {
            device,
            placement,
            options,
            counters: Counters::default(),
            reason: Mutex::new(reason.into()),
            jobs: AtomicUsize::new(0),
            parked: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Jobs that missed their deadline, of queues that are closed, and are
    /// still not finished.
    pub fn parked(&self) -> usize {
        self.shared.sweep();
        self.shared.lock_parked().len()
    }
}

impl Engine for HardwareEngine {
    fn open(&self) -> Result<Box<dyn PageQueue>, EngineError> {
        Ok(Box::new(HardwareQueue::new(Arc::clone(&self.shared))))
    }

    fn report(&self) -> EngineReport {
        let counters = &self.shared.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        EngineReport {
            engine: NAME.to_owned(),
            reason: self.shared.lock_reason().clone(),
            pages: read(&counters.pages),
            raw: read(&counters.raw),
            fell_back: read(&counters.fell_back),
            busy: read(&counters.busy),
            retried: read(&counters.retried),
            faults: read(&counters.faults),
            timed_out: read(&counters.timed_out),
            mismatched: read(&counters.mismatched),
            most_in_flight: read(&counters.most_in_flight),
        }
    }
}

/// What a queue counted since it last told the engine.
#[derive(Debug, Default)]
pub struct Tally {
    pub pages: u64,
    pub raw: u64,
    pub fell_back: u64,
    pub busy: u64,
    pub retried: u64,
    pub faults: u64,
    pub timed_out: u64,
    pub mismatched: u64,
    pub most_in_flight: u64,
}

#[derive(Debug, Default)]
struct Counters {
    pages: AtomicU64,
    raw: AtomicU64,
    fell_back: AtomicU64,
    busy: AtomicU64,
    retried: AtomicU64,
    faults: AtomicU64,
    timed_out: AtomicU64,
    mismatched: AtomicU64,
    most_in_flight: AtomicU64,
}

/// What the queues of an engine share.
#[derive(Debug)]
pub struct Shared {
    pub device: Arc<dyn Device>,
    pub placement: Arc<Placement>,
    pub options: Options,
    counters: Counters,
    reason: Mutex<String>,
    /// Jobs that exist, parked ones included.
    jobs: AtomicUsize,
    /// Left behind by closed queues. What is not finished when the engine ends
    /// is leaked: see [`Parked`].
    parked: Mutex<Vec<Parked>>,
}

impl Shared {
    /// Sets a job up for a queue that has `own` of them, if it may have one
    /// more.
    pub fn make_job(&self, own: usize) -> Option<Result<Job, JobError>> {
        if own >= self.options.jobs.max(1) {
            return None;
        }
        if self.jobs.fetch_add(1, Ordering::Relaxed) >= self.options.total_jobs
            && own >= FEWEST_JOBS.min(self.options.jobs.max(1))
        {
            self.jobs_gone(1);
            return None;
        }
        Some(Job::new(&self.device).inspect_err(|_| self.jobs_gone(1)))
    }

    /// Takes note that a queue dropped jobs.
    pub fn jobs_gone(&self, jobs: usize) {
        self.jobs.fetch_sub(jobs, Ordering::Relaxed);
    }

    /// Takes over jobs that a closing queue can't wait for.
    pub fn take_parked(&self, parked: impl IntoIterator<Item = Parked>) {
        self.lock_parked().extend(parked);
    }

    /// Frees what has come to an end meanwhile.
    pub fn sweep(&self) {
        let mut parked = self.lock_parked();
        let mut ended = 0;
        for job in std::mem::take(&mut *parked) {
            match job.reclaim() {
                Ok(_) => ended += 1,
                Err(running) => parked.push(running),
            }
        }
        self.jobs_gone(ended);
    }

    /// Adds what a queue counted.
    pub fn add(&self, tally: &Tally) {
        let counters = &self.counters;
        for (counter, value) in [
            (&counters.pages, tally.pages),
            (&counters.raw, tally.raw),
            (&counters.fell_back, tally.fell_back),
            (&counters.busy, tally.busy),
            (&counters.retried, tally.retried),
            (&counters.faults, tally.faults),
            (&counters.timed_out, tally.timed_out),
            (&counters.mismatched, tally.mismatched),
        ] {
            if value > 0 {
                counter.fetch_add(value, Ordering::Relaxed);
            }
        }
        counters.most_in_flight.fetch_max(tally.most_in_flight, Ordering::Relaxed);
    }

    /// Adds to the reason in the report; of many the first and the last stay.
    pub fn say(&self, sentence: &str) {
        tracing::warn!("{sentence}");
        let mut reason = self.lock_reason();
        let first = reason.split("; ").next().unwrap_or_default().to_owned();
        *reason = format!("{first}; {sentence}");
    }

    fn lock_reason(&self) -> std::sync::MutexGuard<'_, String> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_parked(&self) -> std::sync::MutexGuard<'_, Vec<Parked>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
