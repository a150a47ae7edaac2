//! The software engine: page jobs on worker threads.
//!
//! A packet is cut into chunks of [`CHUNK`] pages and any free worker takes the
//! next one, whichever channel it came from, so that speed follows the cores
//! and not the number of channels. A worker decodes a chunk into staging that
//! stays in its core's cache, then places whole runs of pages at once.

use std::{
    fmt,
    num::NonZeroUsize,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{Engine, EngineError, EngineReport, PagePacket, PageQueue};
use crate::{
    inflate::{self, InflateError},
    ram::{InPlace, Landing, Placement, Staging},
    wire::{MAX_PACKET_PAGES, PAGE_SIZE},
};

/// Pages a worker takes at a time: 128 KiB of staging, which stays in a core's
/// L2 cache between the decoder that writes it and the copy that places it,
/// and few enough that one packet feeds four workers.
pub const CHUNK: usize = 32;

/// Decodes pages on one worker thread.
pub trait PageDecoder: Send {
    /// Decodes every job and stores its result.
    ///
    /// # Safety
    ///
    /// `payload_len + INPUT_PADDING` bytes at `payload` are readable, every
    /// job's block lies inside `payload_len`, and every job's `dst` is valid
    /// for writing one page and overlaps no other.
    unsafe fn decode(&mut self, payload: *const u8, payload_len: usize, jobs: &mut [inflate::Job]);
}

impl PageDecoder for inflate::Decoder {
    unsafe fn decode(&mut self, payload: *const u8, payload_len: usize, jobs: &mut [inflate::Job]) {
        // SAFETY: the caller's promises are the ones asked for.
        unsafe { self.decode_pages(payload, payload_len, jobs) }
    }
}

/// Makes the decoder of a worker thread.
pub type MakeDecoder = dyn Fn() -> Result<Box<dyn PageDecoder>, EngineError> + Send + Sync;

/// Worker threads that decode pages for every channel.
pub struct SoftwareEngine {
    chunks: Option<Sender<Chunk>>,
    workers: Vec<JoinHandle<()>>,
    placement: Arc<Placement>,
    counters: Arc<Counters>,
    name: &'static str,
    reason: String,
}

impl fmt::Debug for SoftwareEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoftwareEngine")
            .field("name", &self.name)
            .field("workers", &self.workers.len())
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Counters {
    pages: AtomicU64,
    raw: AtomicU64,
    in_flight: AtomicU64,
    most_in_flight: AtomicU64,
}

/// Some pages of one packet.
struct Chunk {
    packet: Arc<PagePacket>,
    jobs: Range<usize>,
    progress: Arc<Progress>,
}

impl SoftwareEngine {
    /// Starts `workers` threads with this crate's own decoder.
    pub fn new(
        workers: NonZeroUsize,
        placement: Arc<Placement>,
        reason: impl Into<String>,
    ) -> Result<Self, EngineError> {
        let make = || Ok(Box::new(inflate::Decoder::new()) as Box<dyn PageDecoder>);
        Self::with_decoder("software", workers, placement, reason, Arc::new(make))
    }

    /// Starts `workers` threads, each with a decoder from `make`.
    pub fn with_decoder(
        name: &'static str,
        workers: NonZeroUsize,
        placement: Arc<Placement>,
        reason: impl Into<String>,
        make: Arc<MakeDecoder>,
    ) -> Result<Self, EngineError> {
        // Two packets for each worker: enough that none waits for a channel
        // to be scheduled, little enough that payloads are still in cache.
        let (send, receive) = bounded(workers.get() * 2 * (128 / CHUNK));
        let counters = Arc::new(Counters::default());
        let mut engine = Self {
            chunks: Some(send),
            workers: Vec::with_capacity(workers.get()),
            placement: Arc::clone(&placement),
            counters,
            name,
            reason: reason.into(),
        };
        for index in 0..workers.get() {
            let worker = Worker {
                chunks: receive.clone(),
                decoder: make()?,
                placement: Arc::clone(&placement),
                staging: Some(Staging::new()?),
                counters: Arc::clone(&engine.counters),
            };
            let thread = std::thread::Builder::new()
                .name(format!("page-{index}"))
                .spawn(move || worker.run())
                .map_err(EngineError::Memory)?;
            engine.workers.push(thread);
        }
        Ok(engine)
    }
}

impl Engine for SoftwareEngine {
    fn open(&self) -> Result<Box<dyn PageQueue>, EngineError> {
        Ok(Box::new(SoftwareQueue {
            chunks: self.chunks.clone().ok_or(EngineError::Stopped)?,
            placement: Arc::clone(&self.placement),
            progress: Arc::new(Progress::default()),
            counters: Arc::clone(&self.counters),
        }))
    }

    fn report(&self) -> EngineReport {
        EngineReport {
            engine: self.name.to_owned(),
            reason: self.reason.clone(),
            pages: self.counters.pages.load(Ordering::Relaxed),
            raw: self.counters.raw.load(Ordering::Relaxed),
            most_in_flight: self.counters.most_in_flight.load(Ordering::Relaxed),
            ..EngineReport::default()
        }
    }
}

impl Drop for SoftwareEngine {
    fn drop(&mut self) {
        // Queues hold senders of their own; they are gone before their engine
        // in every orderly end, and the threads end with the last of them.
        self.chunks = None;
        for worker in self.workers.drain(..) {
            // A worker that panicked has already failed its queue.
            let _ = worker.join();
        }
    }
}

/// Chunks of one channel that are not finished yet.
#[derive(Default)]
struct Progress {
    state: Mutex<ProgressState>,
    idle: Condvar,
}

#[derive(Default)]
struct ProgressState {
    open: usize,
    error: Option<EngineError>,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, ProgressState> {
        // The state is a counter and an error; both are whole after any panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a chunk however the worker leaves it, also by a panic: a channel that
/// waits in `drain` must never wait for ever.
struct Open {
    progress: Arc<Progress>,
    outcome: Result<(), EngineError>,
}

impl Drop for Open {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, Ok(()));
        let mut state = self.progress.lock();
        state.open -= 1;
        if let (Err(error), None) = (outcome, &state.error) {
            state.error = Some(error);
        }
        if state.open == 0 || state.error.is_some() {
            self.progress.idle.notify_all();
        }
    }
}

struct SoftwareQueue {
    chunks: Sender<Chunk>,
    placement: Arc<Placement>,
    progress: Arc<Progress>,
    counters: Arc<Counters>,
}

impl PageQueue for SoftwareQueue {
    fn submit(&mut self, packet: PagePacket) -> Result<(), EngineError> {
        let pages = packet.jobs.len();
        let mut indices = [0; MAX_PACKET_PAGES];
        for (index, job) in indices.iter_mut().zip(&packet.jobs) {
            *index = job.page;
        }
        self.placement.foresee(&packet.block, &indices[..pages.min(MAX_PACKET_PAGES)]);
        let packet = Arc::new(packet);
        {
            let mut state = self.progress.lock();
            if let Some(error) = state.error.take() {
                return Err(error);
            }
            state.open += pages.div_ceil(CHUNK);
        }
        let in_flight = self.counters.in_flight.fetch_add(pages as u64, Ordering::Relaxed);
        self.counters.most_in_flight.fetch_max(in_flight + pages as u64, Ordering::Relaxed);
        for start in (0..pages).step_by(CHUNK) {
            let chunk = Chunk {
                packet: Arc::clone(&packet),
                jobs: start..pages.min(start + CHUNK),
                progress: Arc::clone(&self.progress),
            };
            if self.chunks.send(chunk).is_err() {
                return Err(EngineError::Stopped);
            }
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), EngineError> {
        let mut state = self.progress.lock();
        while state.open > 0 && state.error.is_none() {
            state = self.progress.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.error.take().map_or(Ok(()), Err)
    }
}

struct Worker {
    chunks: Receiver<Chunk>,
    decoder: Box<dyn PageDecoder>,
    placement: Arc<Placement>,
    staging: Option<Staging>,
    counters: Arc<Counters>,
}

impl Worker {
    fn run(mut self) {
        let chunks = self.chunks.clone();
        for chunk in &chunks {
            let pages = chunk.jobs.len() as u64;
            let mut open =
                Open { progress: Arc::clone(&chunk.progress), outcome: Err(EngineError::Stopped) };
            // A decoder that panics costs the migration and not the worker:
            // chunks that are queued already must still find somebody.
            let work = AssertUnwindSafe(|| self.chunk(&chunk));
            open.outcome = catch_unwind(work).unwrap_or(Err(EngineError::Stopped));
            self.counters.in_flight.fetch_sub(pages, Ordering::Relaxed);
            // The payload goes back to its pool before the channel is told.
            drop(chunk);
            drop(open);
        }
    }

    fn chunk(&mut self, chunk: &Chunk) -> Result<(), EngineError> {
        let PagePacket { block, buffer, jobs } = &*chunk.packet;
        let jobs = &jobs[chunk.jobs.clone()];
        let mut pages = [0_u32; CHUNK];
        for (page, job) in pages.iter_mut().zip(jobs) {
            *page = job.page;
        }
        let staging = match self.staging.take() {
            Some(staging) => staging,
            None => Staging::new()?,
        };
        let landing = Landing::begin(
            &self.placement,
            block,
            &pages[..jobs.len()],
            staging,
            InPlace::Allowed,
        )?;

        let payload = buffer.payload();
        let mut compressed = Vec::with_capacity(CHUNK);
        let mut owners = [0_u8; CHUNK];
        for (index, job) in jobs.iter().enumerate() {
            let destination = landing.destination(index);
            if job.len as usize == PAGE_SIZE {
                let start = job.start as usize;
                let bytes = &payload[start..start + PAGE_SIZE];
                // SAFETY: `bytes` is one page long, and a landing's
                // destination is one page of writable memory that nobody else
                // uses before the commit; a payload is never guest memory.
                unsafe { destination.copy_from_nonoverlapping(bytes.as_ptr(), PAGE_SIZE) };
            } else {
                owners[compressed.len()] = index as u8;
                compressed.push(inflate::Job {
                    start: job.start,
                    len: job.len,
                    dst: destination,
                    result: Err(InflateError::OutputShort),
                });
            }
        }
        // SAFETY: a PacketBuffer has INPUT_PADDING readable bytes behind its
        // payload, a PagePacket's jobs lie inside it, and the destinations of
        // a landing are distinct writable pages until its commit.
        unsafe { self.decoder.decode(payload.as_ptr(), payload.len(), &mut compressed) };
        for (done, owner) in compressed.iter().zip(owners) {
            if let Err(reason) = done.result {
                return Err(EngineError::BadPage {
                    block: block.name().to_owned(),
                    page: jobs[usize::from(owner)].page,
                    reason: reason.to_string(),
                });
            }
        }
        self.staging = Some(landing.commit()?);
        let raw = (jobs.len() - compressed.len()) as u64;
        self.counters.pages.fetch_add(compressed.len() as u64, Ordering::Relaxed);
        self.counters.raw.fetch_add(raw, Ordering::Relaxed);
        Ok(())
    }
}
