//! A device that fails on request.
//!
//! Runs page jobs as an IAA would, in threads of its own and straight into the
//! destination, and goes wrong as often and in as many ways as it is told:
//!
//! | fate | word in [`Faults`] | what happens |
//! |---|---|---|
//! | busy | `busy=P` | `submit` returns 5 |
//! | refused | `refuse:N=P` | `submit` returns `N` |
//! | failed | `status:N=P` | half a page is written, then status `N` |
//! | unknown | `unknown=P` | some status from 600 up |
//! | fault | `fault=P` | status 304, a page fault that is not resolved |
//! | short | `short=P` | status 0, a byte is missing |
//! | flip | `flip=P` | a bit is wrong, the checksum is that of the right page |
//! | late | `late=P` | after `late-ms=N` rubbish is written, and nothing reported to be |
//! | never | `never=P` | no answer, until [`Simulator::release`] writes rubbish |
//!
//! `P` is the probability for each job. Further words: `delay-us=N` for each
//! job, `depth=N` places in the queue, `engines=N` threads, `seed=N`, and
//! `init=N`, the status of setting a job up.
//!
//! It also watches its user: [`Simulator::violations`] counts broken rules of
//! [`Device`], [`Simulator::live`] the blocks that were set up and not ended.

use std::{
    collections::HashMap,
    ptr::{self, NonNull},
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::{Device, Outcome, Request};
use crate::wire::PAGE_SIZE;

/// Bytes of a simulated job's block; more than one page, as the real ones.
const JOB_SIZE: usize = 3 * PAGE_SIZE;
/// What a late device writes.
const RUBBISH: u8 = 0xee;
/// Marks a block that was set up.
const READY: u32 = 0x1aa0_0b10;

/// How a job ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Fate {
    Good,
    Busy,
    Refused(u32),
    Failed(u32),
    Unknown,
    Short,
    Flip,
    Late,
    Never,
}

/// What goes wrong, and how often. Made from a text such as
/// `busy=0.1,status:304=0.01,delay-us=20`.
#[derive(Debug, Clone)]
pub struct Faults {
    fates: Vec<(Fate, f64)>,
    delay: Duration,
    late: Duration,
    depth: usize,
    engines: usize,
    seed: u64,
    init: u32,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            fates: Vec::new(),
            delay: Duration::ZERO,
            late: Duration::from_millis(50),
            depth: 128,
            engines: 1,
            seed: 1,
            init: 0,
        }
    }
}

/// A word that is not understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0:?} is no fault that the simulated device knows: write NAME=VALUE, for example busy=0.1"
)]
pub struct UnknownFault(String);

impl FromStr for Faults {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        let mut faults = Self::default();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            faults.add(word).ok_or_else(|| UnknownFault(word.to_owned()))?;
        }
        Ok(faults)
    }
}

impl Faults {
    fn add(&mut self, word: &str) -> Option<()> {
        let (name, value) = word.split_once('=')?;
        let number = || value.parse::<u64>().ok();
        let fate = match name {
            "delay-us" => {
                self.delay = Duration::from_micros(number()?);
                return Some(());
            }
            "late-ms" => {
                self.late = Duration::from_millis(number()?);
                return Some(());
            }
            "depth" => {
                self.depth = number()?.clamp(1, 1 << 16) as usize;
                return Some(());
            }
            "engines" => {
                self.engines = number()?.clamp(1, 64) as usize;
                return Some(());
            }
            "seed" => {
                self.seed = number()?;
                return Some(());
            }
            "init" => {
                self.init = value.parse().ok()?;
                return Some(());
            }
            "busy" => Fate::Busy,
            "fault" => Fate::Failed(304),
            "unknown" => Fate::Unknown,
            "short" => Fate::Short,
            "flip" => Fate::Flip,
            "late" => Fate::Late,
            "never" => Fate::Never,
            _ => match name.split_once(':')? {
                ("status", status) => Fate::Failed(status.parse().ok().filter(|&s| s > 1)?),
                ("refuse", status) => Fate::Refused(status.parse().ok().filter(|&s| s > 1)?),
                _ => return None,
            },
        };
        let probability: f64 = value.parse().ok()?;
        if !(0.0..=1.0).contains(&probability) {
            return None;
        }
        self.fates.push((fate, probability));
        Some(())
    }

    /// Draws the fate of job number `n`.
    fn draw(&self, n: u64) -> (Fate, u64) {
        let mut random = SplitMix(self.seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let fate = self
            .fates
            .iter()
            .find(|(_, probability)| random.unit() < *probability)
            .map_or(Fate::Good, |(fate, _)| *fate);
        (fate, random.next())
    }
}

/// The generator of Steele, Lea and Flood: small, and good enough for dice.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The start of a job's block.
#[repr(C)]
struct Record {
    ready: AtomicU32,
    /// As in a completion record: [`RUNNING`] or the status, stored last.
    status: AtomicU32,
    seen: AtomicU32,
    total_in: AtomicU32,
    total_out: AtomicU32,
    crc: AtomicU32,
}

/// Status of a record while its job runs.
const RUNNING: u32 = 1;

/// A descriptor on its way to an engine.
struct Descriptor {
    block: NonNull<u8>,
    request: Request,
    fate: Fate,
    dice: u64,
}

// SAFETY: the pointers are used only while the submitter keeps what they lead
// to, as the contract of `Device::submit` says.
unsafe impl Send for Descriptor {}

#[derive(Debug, Default)]
struct Shared {
    live: AtomicUsize,
    violations: AtomicUsize,
    submitted: AtomicU64,
    drawn: Mutex<HashMap<Fate, u64>>,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Simulator {
    faults: Faults,
    shared: Arc<Shared>,
    queue: Option<Sender<Descriptor>>,
    /// Jobs that are never done, unless released.
    never: Arc<Mutex<Vec<Descriptor>>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl std::fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Descriptor").field("fate", &self.fate).finish_non_exhaustive()
    }
}

impl Simulator {
    /// Starts a device with these faults.
    pub fn new(faults: Faults) -> Arc<Self> {
        let (queue, work) = bounded(faults.depth);
        let never = Arc::new(Mutex::new(Vec::new()));
        let (late, waiting) = crossbeam_channel::unbounded();
        let mut threads = vec![{
            let late_by = faults.late;
            thread::spawn(move || run_late(&waiting, late_by))
        }];
        threads.extend((0..faults.engines).map(|_| {
            let (work, late, never) =
                (Receiver::clone(&work), Sender::clone(&late), Arc::clone(&never));
            let delay = faults.delay;
            thread::spawn(move || run_engine(&work, &late, &never, delay))
        }));
        let shared = Arc::default();
        Arc::new(Self { faults, shared, queue: Some(queue), never, threads })
    }

    /// Blocks that were set up and not ended.
    pub fn live(&self) -> usize {
        self.shared.live.load(Ordering::SeqCst)
    }

    /// How often a rule of [`Device`] was broken.
    pub fn violations(&self) -> usize {
        self.shared.violations.load(Ordering::SeqCst)
    }

    /// Jobs that were submitted, refused ones included.
    pub fn submitted(&self) -> u64 {
        self.shared.submitted.load(Ordering::SeqCst)
    }

    /// How many jobs were given some fate other than good.
    pub fn spoiled(&self) -> u64 {
        let drawn = self.shared.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        drawn.iter().filter(|(fate, _)| **fate != Fate::Good).map(|(_, n)| n).sum()
    }

    /// Lets the jobs that were never done write rubbish now and end.
    /// Returns how many there were.
    pub fn release(&self) -> usize {
        let waiting =
            std::mem::take(&mut *self.never.lock().unwrap_or_else(PoisonError::into_inner));
        for descriptor in &waiting {
            finish_late(descriptor);
        }
        waiting.len()
    }

    /// The record at the start of a block.
    ///
    /// # Safety
    ///
    /// `block` leads to [`JOB_SIZE`] bytes that stay mapped while the reference
    /// is used.
    unsafe fn record<'a>(block: NonNull<u8>) -> &'a Record {
        // SAFETY: the caller answers for the memory; atomics may be shared.
        unsafe { block.cast().as_ref() }
    }

    fn expect(&self, kept: bool) {
        if !kept {
            self.shared.violations.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Device for Simulator {
    fn name(&self) -> String {
        "simulated device".to_owned()
    }

    fn job_size(&self) -> Result<usize, u32> {
        Ok(JOB_SIZE)
    }

    unsafe fn init(&self, block: NonNull<u8>) -> u32 {
        if self.faults.init != 0 {
            return self.faults.init;
        }
        // SAFETY: the caller gives a block of the size asked for.
        let record = unsafe { Self::record(block) };
        self.expect(record.ready.swap(READY, Ordering::SeqCst) != READY);
        record.status.store(0, Ordering::SeqCst);
        record.seen.store(1, Ordering::SeqCst);
        self.shared.live.fetch_add(1, Ordering::SeqCst);
        0
    }

    unsafe fn submit(&self, block: NonNull<u8>, request: &Request) -> u32 {
        let n = self.shared.submitted.fetch_add(1, Ordering::SeqCst);
        let (fate, dice) = self.faults.draw(n);
        *self
            .shared
            .drawn
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(fate)
            .or_default() += 1;
        // SAFETY: the caller gives a block that was set up.
        let record = unsafe { Self::record(block) };
        self.expect(record.ready.load(Ordering::SeqCst) == READY);
        self.expect(record.status.load(Ordering::SeqCst) != RUNNING);
        self.expect(record.seen.load(Ordering::SeqCst) == 1);
        match fate {
            Fate::Busy => return 5,
            Fate::Refused(status) => return status,
            _ => {}
        }
        record.seen.store(0, Ordering::SeqCst);
        record.status.store(RUNNING, Ordering::SeqCst);
        let descriptor = Descriptor { block, request: *request, fate, dice };
        let Some(queue) = &self.queue else { return 503 };
        match queue.try_send(descriptor) {
            Ok(()) => 0,
            Err(TrySendError::Full(_)) => {
                record.status.store(0, Ordering::SeqCst);
                record.seen.store(1, Ordering::SeqCst);
                5
            }
            Err(TrySendError::Disconnected(_)) => 503,
        }
    }

    unsafe fn check(&self, block: NonNull<u8>) -> u32 {
        // SAFETY: the caller gives a block that was set up.
        let record = unsafe { Self::record(block) };
        let status = record.status.load(Ordering::Acquire);
        if status != RUNNING {
            self.expect(record.seen.swap(1, Ordering::SeqCst) == 0);
        }
        status
    }

    unsafe fn outcome(&self, block: NonNull<u8>) -> Outcome {
        // SAFETY: the caller gives a block that was set up.
        let record = unsafe { Self::record(block) };
        self.expect(record.status.load(Ordering::SeqCst) == 0);
        Outcome {
            total_in: record.total_in.load(Ordering::Relaxed),
            total_out: record.total_out.load(Ordering::Relaxed),
            crc: record.crc.load(Ordering::Relaxed),
        }
    }

    unsafe fn fini(&self, block: NonNull<u8>) {
        // SAFETY: the caller gives a block that was set up.
        let record = unsafe { Self::record(block) };
        self.expect(record.ready.swap(0, Ordering::SeqCst) == READY);
        self.expect(record.status.load(Ordering::SeqCst) != RUNNING);
        self.shared.live.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One engine of the device: takes descriptors until the queue is closed.
fn run_engine(
    work: &Receiver<Descriptor>,
    late: &Sender<(Instant, Descriptor)>,
    never: &Mutex<Vec<Descriptor>>,
    delay: Duration,
) {
    let mut decoder = libdeflater::Decompressor::new();
    for descriptor in work {
        wait(delay);
        match descriptor.fate {
            Fate::Never => {
                never.lock().unwrap_or_else(PoisonError::into_inner).push(descriptor);
            }
            Fate::Late => {
                let _ = late.send((Instant::now(), descriptor));
            }
            _ => finish(&mut decoder, &descriptor),
        }
    }
}

/// Ends jobs that are late, each the same time after it came.
fn run_late(waiting: &Receiver<(Instant, Descriptor)>, late_by: Duration) {
    for (since, descriptor) in waiting {
        thread::sleep((since + late_by).saturating_duration_since(Instant::now()));
        finish_late(&descriptor);
    }
}

/// Sleeping is far too coarse for a device's microseconds.
fn wait(delay: Duration) {
    if delay >= Duration::from_millis(1) {
        thread::sleep(delay);
    } else if !delay.is_zero() {
        let end = Instant::now() + delay;
        while Instant::now() < end {
            thread::yield_now();
        }
    }
}

/// Decodes the page and spoils it as its fate says.
fn finish(decoder: &mut libdeflater::Decompressor, descriptor: &Descriptor) {
    let request = &descriptor.request;
    // SAFETY: the submitter keeps the source readable and unchanged until the
    // job is finished.
    let source = unsafe { std::slice::from_raw_parts(request.source, request.len as usize) };
    let mut page = [0u8; PAGE_SIZE];
    let (status, len) = match decoder.deflate_decompress(source, &mut page) {
        Ok(len) => (0, len),
        Err(libdeflater::DecompressionError::InsufficientSpace) => (2, PAGE_SIZE),
        Err(libdeflater::DecompressionError::BadData) => (213, 0),
    };
    let crc = libdeflater::crc32(&page[..len]);
    let (status, len) = match descriptor.fate {
        Fate::Failed(status) => (status, PAGE_SIZE / 2),
        Fate::Unknown => (600 + (descriptor.dice % 1000) as u32, PAGE_SIZE / 2),
        Fate::Short => (status, len.saturating_sub(1)),
        Fate::Flip => {
            let bit = descriptor.dice as usize % (8 * PAGE_SIZE);
            page[bit / 8] ^= 1 << (bit % 8);
            (status, len)
        }
        _ => (status, len),
    };
    // SAFETY: the submitter keeps the destination writable for a page until the
    // job is finished, and it overlaps nothing of ours.
    unsafe { ptr::copy_nonoverlapping(page.as_ptr(), request.destination, len) };
    complete(descriptor, status, len as u32, crc);
}

/// Writes rubbish over the destination, and reports no bytes: were this seen in
/// time after all, it would have to be taken for the page.
fn finish_late(descriptor: &Descriptor) {
    // SAFETY: the submitter keeps the destination writable until it has seen
    // the job finished, however late that is.
    unsafe { ptr::write_bytes(descriptor.request.destination, RUBBISH, PAGE_SIZE) };
    complete(descriptor, 0, 0, 0);
}

/// Fills the completion record, the status last.
fn complete(descriptor: &Descriptor, status: u32, total_out: u32, crc: u32) {
    // SAFETY: the submitter keeps the block until it has seen the job finished.
    let record = unsafe { Simulator::record(descriptor.block) };
    record.total_in.store(descriptor.request.len, Ordering::Relaxed);
    record.total_out.store(total_out, Ordering::Relaxed);
    record.crc.store(crc, Ordering::Relaxed);
    record.status.store(status, Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_and_strange_ones_named() {
        let faults: Faults = "busy=0.5, status:304=1,delay-us=20,depth=4".parse().unwrap();
        assert_eq!(faults.fates, [(Fate::Busy, 0.5), (Fate::Failed(304), 1.0)]);
        assert_eq!((faults.delay, faults.depth), (Duration::from_micros(20), 4));
        for word in ["busy", "busy=2", "status:0=1", "smoke=1", "delay-us=soon"] {
            assert_eq!(word.parse::<Faults>().unwrap_err(), UnknownFault(word.to_owned()));
        }
    }

    #[test]
    fn fates_are_as_frequent_as_asked_for() {
        let faults: Faults = "busy=0.1,never=0.1".parse().unwrap();
        let count = |wanted| (0..10_000).filter(|&n| faults.draw(n).0 == wanted).count();
        assert!((900..1100).contains(&count(Fate::Busy)), "{}", count(Fate::Busy));
        assert!((800..1000).contains(&count(Fate::Never)), "{}", count(Fate::Never));
    }
}
