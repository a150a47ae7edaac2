//! The jobs of one channel: submitted as pages come, looked at out of order,
//! committed in order.
//!
//! ```text
//! idle ──submit──> running ──look──> idle          the device did the page
//!   │                 │  └──fault──> set up anew   software does the page
//!   │                 └──deadline──> parked        software does the page
//!   └──busy, refused──> idle              │        software does the page
//!                                         └──look──> idle
//! ```
//!
//! A packet is *open* for as many pages as are not decoded yet. Pages only come
//! into guest memory with the commit of their packet, the oldest first.
//!
//! Nothing happens between calls: the channel's own thread looks for finished
//! jobs while it submits, waits for a buffer, or drains.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use super::{
    Job, JobError, Look, Outcome, Pace, Request, Status, Trouble,
    engine::{Shared, Tally},
    health::{Event, Health},
    parked::Parked,
};
use crate::{
    engine::{BufferPool, EngineError, PacketBuffer, PageJob, PagePacket, PageQueue},
    inflate::{self, InflateError},
    ram::{InPlace, Landing, Lost, RamBlock, Staging},
    wire::PAGE_SIZE,
};

/// A packet in flight.
#[derive(Debug)]
struct Flight {
    block: Arc<RamBlock>,
    buffer: Arc<PacketBuffer>,
    jobs: Vec<PageJob>,
    landing: Landing,
    /// Pages that are not decoded yet.
    open: usize,
    /// Whether a job of this packet was parked.
    parked: bool,
}

impl Flight {
    fn request(&self, index: usize) -> Request {
        let PageJob { start, len, .. } = self.jobs[index];
        // A checked packet's jobs lie inside its payload; a slice makes sure.
        let source = &self.buffer.payload()[start as usize..][..len as usize];
        Request { source: source.as_ptr(), len, destination: self.landing.destination(index) }
    }
}

/// A job in flight.
#[derive(Debug)]
struct Running {
    job: Job,
    packet: u64,
    index: usize,
    deadline: Instant,
    /// Whether the deadline was missed once, which only direct writes survive.
    overdue: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub struct HardwareQueue {
    shared: Arc<Shared>,
    decoder: inflate::Decoder,
    idle: Vec<Job>,
    running: Vec<Running>,
    parked: Vec<Parked>,
    flights: VecDeque<Flight>,
    /// Number of the oldest packet in flight.
    oldest: u64,
    stagings: Vec<Staging>,
    /// Buffers that were parked and not made up for in their pool.
    lost_buffers: usize,
    health: Health,
    pace: Pace,
    tally: Tally,
    /// The time, as of the last look at the clock.
    clock: Instant,
    failed: bool,
}

impl HardwareQueue {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            decoder: inflate::Decoder::new(),
            idle: Vec::new(),
            running: Vec::with_capacity(shared.options.jobs),
            parked: Vec::new(),
            flights: VecDeque::new(),
            oldest: 0,
            stagings: Vec::new(),
            lost_buffers: 0,
            health: Health::default(),
            pace: Pace::default(),
            tally: Tally::default(),
            clock: Instant::now(),
            failed: false,
            shared,
        }
    }

    /// Jobs of this queue, in whatever state.
    fn jobs(&self) -> usize {
        self.idle.len() + self.running.len() + self.parked.len()
    }

    /// Ends a call from outside: tells the engine what was counted. After an
    /// error there is no next packet.
    fn end<T>(&mut self, result: Result<T, EngineError>) -> Result<T, EngineError> {
        self.shared.add(&self.tally);
        self.tally = Tally::default();
        self.failed |= result.is_err();
        result
    }

    fn take_in(&mut self, packet: PagePacket) -> Result<(), EngineError> {
        let direct = self.shared.options.direct;
        let most = if direct { 1 } else { self.shared.options.packets.max(1) };
        self.clock = Instant::now();
        self.reclaim();
        while self.flights.len() >= most {
            self.wait()?;
        }
        let mut pages = [0; crate::wire::MAX_PACKET_PAGES];
        let PagePacket { block, buffer, jobs } = packet;
        for (page, job) in pages.iter_mut().zip(&jobs) {
            *page = job.page;
        }
        let staging = match self.stagings.pop() {
            Some(staging) => staging,
            None => Staging::new()?,
        };
        // With more than one landing begun at a time no pages may be locked.
        let in_place = if direct { InPlace::Allowed } else { InPlace::Never };
        let pages = pages.get(..jobs.len()).unwrap_or(&pages);
        let landing = Landing::begin(&self.shared.placement, &block, pages, staging, in_place)?;
        let (count, number) = (jobs.len(), self.oldest + self.flights.len() as u64);
        let buffer = Arc::new(buffer);
        self.flights.push_back(Flight { block, buffer, jobs, landing, open: count, parked: false });
        for index in 0..count {
            self.start(number, index)?;
        }
        if count == 0 {
            self.commit()?;
        }
        self.look_at_all()?;
        while direct && !self.flights.is_empty() {
            self.wait()?;
        }
        Ok(())
    }

    fn flight(&mut self, packet: u64) -> &mut Flight {
        &mut self.flights[(packet - self.oldest) as usize]
    }

    /// Sets one page going, on the device if it can be had.
    fn start(&mut self, packet: u64, index: usize) -> Result<(), EngineError> {
        let request = self.flight(packet).request(index);
        if request.len as usize == PAGE_SIZE {
            // SAFETY: the source is one page of payload; the destination of a
            // landing is one writable page, which is no payload.
            unsafe { request.destination.copy_from_nonoverlapping(request.source, PAGE_SIZE) };
            self.tally.raw += 1;
            return self.done(packet);
        }
        if !self.health.may_ask(Instant::now) {
            return self.redo(packet, index);
        }
        let Some(mut job) = self.free_job()? else {
            return self.redo(packet, index);
        };
        let mut again = false;
        loop {
            // SAFETY: the source lies in the packet's buffer and was just read
            // from the socket; the destination is staging or a present page of
            // guest memory, both resident. The flight keeps both until the page
            // is done, and what is given up while the job runs is parked with
            // it. Neither is a Rust reference: the payload is only read.
            match unsafe { job.submit(&request) } {
                Ok(()) => {
                    let deadline = self.clock + self.shared.options.deadline;
                    self.running.push(Running { job, packet, index, deadline, overdue: false });
                    let in_flight = self.running.len() as u64;
                    self.tally.most_in_flight = self.tally.most_in_flight.max(in_flight);
                    return Ok(());
                }
                Err(Status::Again) => {
                    self.tally.busy += 1;
                    // A queue that is full with our own jobs has room again
                    // once some of them are seen finished.
                    if !again && self.look_at_all()? > 0 {
                        again = true;
                        self.tally.retried += 1;
                        continue;
                    }
                }
                Err(status) => self.note(Event::Failure(Some(status))),
            }
            self.idle.push(job);
            return self.redo(packet, index);
        }
    }

    /// A job to submit: an idle one, a new one, or the next that is finished.
    /// None where all are parked or none can be had.
    fn free_job(&mut self) -> Result<Option<Job>, EngineError> {
        loop {
            if let Some(job) = self.idle.pop() {
                return Ok(Some(job));
            }
            match self.shared.make_job(self.jobs()) {
                Some(Ok(job)) => return Ok(Some(job)),
                Some(Err(JobError::Refused(status))) => {
                    self.note(Event::Failure(Some(status)));
                    return Ok(None);
                }
                // Jobs are a luxury: what there are of them will do.
                Some(Err(JobError::Memory(_))) | None => {}
            }
            if self.running.is_empty() && self.reclaim() == 0 {
                return Ok(None);
            }
            if self.idle.is_empty() {
                self.wait()?;
            }
        }
    }

    /// Looks at every running job once. Returns how many were finished.
    fn look_at_all(&mut self) -> Result<usize, EngineError> {
        let (mut at, mut finished) = (0, 0);
        while let Some(running) = self.running.get_mut(at) {
            match running.job.look() {
                Look::Running => at += 1,
                Look::Finished(result) => {
                    let running = self.running.swap_remove(at);
                    finished += 1;
                    self.finish(running, result)?;
                }
            }
        }
        Ok(finished)
    }

    /// Waits until some job is finished or overdue, if any is running.
    fn wait(&mut self) -> Result<(), EngineError> {
        let running = self.running.len();
        while !self.running.is_empty() {
            let mut ended = self.look_at_all()?;
            if ended == 0 {
                self.clock = Instant::now();
                ended = self.expire()?;
            }
            if ended > 0 {
                self.pace.end(ended, running);
                break;
            }
            self.pace.pause();
        }
        Ok(())
    }

    /// Judges what the device made of a page.
    fn finish(
        &mut self,
        running: Running,
        result: Result<Outcome, Status>,
    ) -> Result<(), EngineError> {
        let Running { mut job, packet, index, deadline, overdue } = running;
        match result {
            Ok(outcome) => {
                self.idle.push(job);
                if self.is_good(packet, index, outcome) {
                    self.note(Event::Success);
                    self.tally.pages += 1;
                    return self.done(packet);
                }
                self.note(Event::Failure(None));
            }
            // libqpl met a page fault, mended it, and found the queue full.
            Err(Status::Again) => {
                self.tally.busy += 1;
                let request = self.flight(packet).request(index);
                // SAFETY: the same buffers as the first time, still held by the
                // flight.
                if unsafe { job.submit(&request) }.is_ok() {
                    self.tally.retried += 1;
                    self.running.push(Running { job, packet, index, deadline, overdue });
                    return Ok(());
                }
                self.idle.push(job);
            }
            Err(status @ Status::RedoInSoftware(Trouble::Fault, _)) => {
                self.tally.faults += 1;
                match job.renew() {
                    Some(job) => self.idle.push(job),
                    None => self.shared.jobs_gone(1),
                }
                self.note(Event::Failure(Some(status)));
            }
            // The source's fault or a larger window, not the device's.
            Err(Status::BadData(_)) => self.idle.push(job),
            Err(status) => {
                self.idle.push(job);
                self.note(Event::Failure(Some(status)));
            }
        }
        self.redo(packet, index)
    }

    fn is_good(&mut self, packet: u64, index: usize, outcome: Outcome) -> bool {
        let request = self.flight(packet).request(index);
        let whole = outcome.total_out as usize == PAGE_SIZE
            && (1..=request.len).contains(&outcome.total_in);
        if !whole || !self.shared.options.verify {
            return whole;
        }
        let mut page = [0; PAGE_SIZE];
        // SAFETY: the destination is one readable page, which the device has
        // finished; it may be guest memory, so it is copied and not borrowed.
        unsafe { request.destination.copy_to_nonoverlapping(page.as_mut_ptr(), PAGE_SIZE) };
        let same = libdeflater::crc32(&page) == outcome.crc;
        self.tally.mismatched += u64::from(!same);
        same
    }

    /// Decodes a page in software, which has the last word.
    fn redo(&mut self, packet: u64, index: usize) -> Result<(), EngineError> {
        let flight = &self.flights[(packet - self.oldest) as usize];
        let PageJob { page, start, len } = flight.jobs[index];
        let payload = flight.buffer.payload();
        let mut jobs = [inflate::Job {
            start,
            len,
            dst: flight.landing.destination(index),
            result: Err(InflateError::OutputShort),
        }];
        // SAFETY: a PacketBuffer has INPUT_PADDING readable bytes behind its
        // payload, `request` has checked that the job lies inside it, and the
        // destination is a writable page that no job writes any more: one whose
        // job was parked has been restaged.
        unsafe { self.decoder.decode_pages(payload.as_ptr(), payload.len(), &mut jobs) };
        let [job] = jobs;
        job.result.map_err(|reason| EngineError::BadPage {
            block: flight.block.name().to_owned(),
            page,
            reason: reason.to_string(),
        })?;
        self.tally.fell_back += 1;
        self.done(packet)
    }

    /// Counts a page as decoded.
    fn done(&mut self, packet: u64) -> Result<(), EngineError> {
        self.flight(packet).open -= 1;
        if packet == self.oldest { self.commit() } else { Ok(()) }
    }

    /// Commits the packets that are complete, in order.
    fn commit(&mut self) -> Result<(), EngineError> {
        while self.flights.front().is_some_and(|flight| flight.open == 0) {
            let Some(flight) = self.flights.pop_front() else { break };
            let packet = self.oldest;
            self.oldest += 1;
            let (staging, lost) = flight.landing.commit_with_lost()?;
            self.stagings.push(staging);
            if let Some(lost) = lost {
                self.keep_for(packet, lost);
            }
        }
        Ok(())
    }

    /// Hands the lost memory of a packet to its parked jobs. Where there is none
    /// left, it may be used again.
    fn keep_for(&mut self, packet: u64, lost: Lost) {
        let lost = Arc::new(lost);
        for parked in self.parked.iter_mut().filter(|parked| parked.packet == packet) {
            parked.keep(&lost);
        }
    }

    /// Gives up on jobs that missed their deadline. Returns how many.
    fn expire(&mut self) -> Result<usize, EngineError> {
        let (mut at, mut expired) = (0, 0);
        while let Some(running) = self.running.get_mut(at) {
            if running.deadline > self.clock {
                at += 1;
                continue;
            }
            let (packet, index) = (running.packet, running.index);
            let flight = &mut self.flights[(packet - self.oldest) as usize];
            let staged = flight.landing.is_staged(index);
            self.tally.timed_out += u64::from(!running.overdue);
            if !staged && !running.overdue {
                running.overdue = true;
                running.deadline = self.clock + self.shared.options.direct_patience;
                self.note(Event::Timeout);
                continue;
            }
            let Running { job, .. } = self.running.swap_remove(at);
            self.parked.push(Parked::new(job, packet, &flight.buffer, &flight.block));
            self.lost_buffers += usize::from(!flight.parked);
            flight.parked = true;
            if !staged {
                return Err(EngineError::DeviceHoldsPage {
                    block: flight.block.name().to_owned(),
                    page: flight.jobs[index].page,
                });
            }
            flight.landing.restage(index)?;
            expired += 1;
            self.note(Event::Timeout);
            self.redo(packet, index)?;
        }
        Ok(expired)
    }

    /// Takes back parked jobs that came to an end after all.
    fn reclaim(&mut self) -> usize {
        let before = self.idle.len();
        for parked in std::mem::take(&mut self.parked) {
            match parked.reclaim() {
                Ok(job) => self.idle.push(job),
                Err(parked) => self.parked.push(parked),
            }
        }
        self.idle.len() - before
    }

    #[inline]
    fn note(&mut self, event: Event) {
        if let Some(sentence) = self.health.note(event, Instant::now) {
            self.shared.say(&sentence);
        }
    }
}

impl PageQueue for HardwareQueue {
    fn buffer(&mut self, pool: &mut BufferPool) -> Result<PacketBuffer, EngineError> {
        let mut take = || loop {
            for _ in 0..std::mem::take(&mut self.lost_buffers) {
                pool.replace_lost();
            }
            if let Some(buffer) = pool.try_take()? {
                return Ok(buffer);
            }
            if self.flights.is_empty() {
                // Others hold them all, and bring them back without our help.
                return pool.take();
            }
            self.wait()?;
        };
        let result = take();
        self.end(result)
    }

    fn submit(&mut self, packet: PagePacket) -> Result<(), EngineError> {
        if self.failed {
            return Err(EngineError::Stopped);
        }
        let result = self.take_in(packet);
        self.end(result)
    }

    fn drain(&mut self) -> Result<(), EngineError> {
        if self.failed {
            return Err(EngineError::Stopped);
        }
        let mut wait = || {
            while !self.flights.is_empty() {
                self.wait()?;
            }
            self.reclaim();
            Ok(())
        };
        let result = wait();
        self.end(result)
    }
}

impl Drop for HardwareQueue {
    /// Waits for running jobs as long as one may take, and leaves to the engine
    /// what is not finished then.
    fn drop(&mut self) {
        let all = self.jobs();
        let end = Instant::now() + self.shared.options.deadline;
        let mut pace = Pace::default();
        loop {
            self.running.retain_mut(|running| running.job.look() == Look::Running);
            if self.running.is_empty() || Instant::now() > end {
                break;
            }
            pace.pause();
        }
        for Running { job, packet, .. } in self.running.drain(..) {
            let flight = &self.flights[(packet - self.oldest) as usize];
            self.parked.push(Parked::new(job, packet, &flight.buffer, &flight.block));
        }
        self.reclaim();
        for (packet, flight) in (self.oldest..).zip(std::mem::take(&mut self.flights)) {
            self.keep_for(packet, flight.landing.abandon());
        }
        let parked = std::mem::take(&mut self.parked);
        self.shared.jobs_gone(all - parked.len());
        self.shared.take_parked(parked);
        self.shared.add(&self.tally);
    }
}
