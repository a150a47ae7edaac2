//! What all threads of one migration share: the first error, the stop signal,
//! the clock of the last byte heard, counters for the report.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{ReceiveError, epoch::Epochs};
use crate::wire::MethodId;

/// Shared state of one migration.
#[derive(Debug)]
pub struct Session {
    started: Instant,
    /// When the first connection came.
    first: OnceLock<Instant>,
    idle_limit: Duration,
    /// Milliseconds after `started` when a byte last arrived anywhere.
    last_heard: AtomicU64,
    stop: EventFd,
    failed: AtomicBool,
    finished: AtomicBool,
    error: Mutex<Option<ReceiveError>>,
    /// The epochs that keep channels and main stream in step.
    pub epochs: Epochs,
    /// The method of all data packets.
    pub method: OnceLock<MethodId>,
    /// What was received.
    pub counters: Counters,
}

/// What was received, counted as it comes in.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes over all connections.
    pub bytes: AtomicU64,
    /// Data pages in packets, and as records on the main stream.
    pub normal: AtomicU64,
    /// Zero pages in packets.
    pub zero: AtomicU64,
    /// Zero pages as records on the main stream.
    pub legacy_zero: AtomicU64,
    /// Zero pages that were left alone.
    pub zero_untouched: AtomicU64,
    /// Zero pages that were cleared.
    pub zero_cleared: AtomicU64,
    /// Packets of any kind.
    pub packets: AtomicU64,
    /// Bytes of all RAMBlocks, once they are known.
    pub ram_bytes: AtomicU64,
}

impl Counters {
    /// Adds to a counter. Nothing is ordered by it: it is read when the
    /// threads have ended, or for a progress bar.
    pub fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

impl Session {
    /// A session whose connections may all be quiet for `idle_limit`.
    pub fn new(idle_limit: Duration) -> io::Result<Self> {
        Ok(Self {
            started: Instant::now(),
            first: OnceLock::new(),
            idle_limit,
            last_heard: AtomicU64::new(0),
            stop: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            failed: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            error: Mutex::new(None),
            epochs: Epochs::default(),
            method: OnceLock::new(),
            counters: Counters::default(),
        })
    }

    /// A connection has come: waiting for a source to begin is not silence.
    pub fn connected(&self) {
        self.first.get_or_init(Instant::now);
        self.heard(0);
    }

    /// Time since the first connection.
    pub fn since_first(&self) -> Duration {
        self.first.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    /// Ends the migration with `error`, unless it has failed already: what
    /// follows a first error is its consequence.
    pub fn fail(&self, error: ReceiveError) {
        {
            let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
            if first.is_none() {
                *first = Some(error);
            }
        }
        self.failed.store(true, Ordering::Release);
        self.epochs.abort();
        self.raise();
    }

    /// Tells all readers that the main stream is complete: whatever is still
    /// waiting in a socket may be looked at, but nobody waits for more.
    pub fn finish(&self) {
        self.finished.store(true, Ordering::Release);
        self.epochs.finish();
        self.raise();
    }

    fn raise(&self) {
        // The counter of an eventfd cannot overflow from a handful of writes.
        let _ = self.stop.write(1);
    }

    /// Readable from the moment the session has failed or finished.
    pub fn stop_signal(&self) -> BorrowedFd<'_> {
        self.stop.as_fd()
    }

    /// Whether the main stream is complete.
    pub fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// Whether some thread has failed.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Fails when another thread has: the caller's own error is then of no
    /// interest.
    pub fn check(&self) -> io::Result<()> {
        if self.has_failed() {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the migration has failed",
            ));
        }
        Ok(())
    }

    /// Takes the first error out.
    pub fn take_error(&self) -> Option<ReceiveError> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Notes that bytes arrived.
    pub fn heard(&self, bytes: u64) {
        Counters::add(&self.counters.bytes, bytes);
        self.last_heard.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Fails when a connection has been silent too long: in the middle of an
    /// item for `waited`, or at rest while no other connection said a word
    /// either (a channel is quiet for as long as the source has nothing to
    /// send on it).
    pub fn check_quiet(&self, waited: Duration, inside: bool) -> io::Result<()> {
        let now = self.started.elapsed().as_millis() as u64;
        let quiet = now.saturating_sub(self.last_heard.load(Ordering::Relaxed));
        if (inside && waited >= self.idle_limit) || quiet >= self.idle_limit.as_millis() as u64 {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("nothing arrived for {} seconds", self.idle_limit.as_secs_f32()),
            ));
        }
        Ok(())
    }
}
