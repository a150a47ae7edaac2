//! What the device side of the engine costs.
//!
//! ```text
//! cargo bench --bench engine                                      without libqpl
//! QPL_LIBRARY=... cargo bench --bench engine                      with its software path
//! ci/with-iaa-emulator --inject delay-us=20 -- cargo bench --bench engine   with a device
//! ```
//!
//! * **layer**: nanoseconds a page of the queue over the bare calls that it
//!   makes, once with a device that does nothing at all, once with libqpl's
//!   software path. Both sides place the pages; the difference is the layer.
//! * **waiting**: pages in flight, and the CPU time of the thread that waits.
//!
//! Each figure is the best of many rounds: the machine's other work only ever
//! adds to it.

use std::{
    ptr::NonNull,
    sync::Arc,
    time::{Duration, Instant},
};

use multifd_qpl::{
    engine::{
        BufferPool, Engine, PageJob, PagePacket, PageQueue,
        hardware::{
            Device, HardwareEngine, Job, LibQpl, Look, Numa, Options, Outcome, Path, Request,
            Simulator,
        },
    },
    ram::{InPlace, Landing, Placement, Policy, RamBlock, Staging},
    wire::PAGE_SIZE,
};
use zlib_rs::DeflateConfig;

const PAGES: usize = 128;
const ROUNDS: usize = 400;

/// Finishes every job at once and writes nothing.
#[derive(Debug)]
struct Nothing;

impl Device for Nothing {
    fn name(&self) -> String {
        "nothing".to_owned()
    }
    fn job_size(&self) -> Result<usize, u32> {
        Ok(PAGE_SIZE)
    }
    unsafe fn init(&self, _: NonNull<u8>) -> u32 {
        0
    }
    unsafe fn submit(&self, _: NonNull<u8>, _: &Request) -> u32 {
        0
    }
    unsafe fn check(&self, _: NonNull<u8>) -> u32 {
        0
    }
    unsafe fn outcome(&self, _: NonNull<u8>) -> Outcome {
        Outcome { total_in: 1, total_out: PAGE_SIZE as u32, crc: 0 }
    }
    unsafe fn fini(&self, _: NonNull<u8>) {}
}

/// One packet of compressed pages and where they go.
struct Bench {
    placement: Arc<Placement>,
    block: Arc<RamBlock>,
    pool: BufferPool,
    payload: Vec<u8>,
    jobs: Vec<PageJob>,
}

impl Bench {
    fn new() -> Self {
        let placement = Placement::new(Some(Policy::Populate)).expect("a placement");
        let block = RamBlock::anonymous("pc.ram", (PAGES * PAGE_SIZE) as u64).expect("a block");
        placement.attach(&block).expect("a fresh block");
        let (mut payload, mut jobs) = (Vec::new(), Vec::new());
        for page in 0..PAGES as u32 {
            let content: [u8; PAGE_SIZE] =
                std::array::from_fn(|i| if i % 97 < 7 { (i * 31) as u8 } else { page as u8 });
            let config = DeflateConfig { level: 1, window_bits: -12, ..DeflateConfig::default() };
            let mut block = [0; PAGE_SIZE];
            let (compressed, _) = zlib_rs::compress_slice(&mut block, &content, config);
            let start = payload.len() as u32;
            payload.extend_from_slice(compressed);
            jobs.push(PageJob { page, start, len: compressed.len() as u32 });
        }
        Self { placement, block: Arc::new(block), pool: BufferPool::new(4), payload, jobs }
    }

    fn packet(&mut self, queue: &mut dyn PageQueue) -> PagePacket {
        let mut buffer = queue.buffer(&mut self.pool).expect("a buffer");
        buffer.payload_mut(self.payload.len()).copy_from_slice(&self.payload);
        PagePacket { block: Arc::clone(&self.block), buffer, jobs: self.jobs.clone() }
    }

    /// Time of one packet through a queue.
    fn layer(&mut self, queue: &mut dyn PageQueue) -> Duration {
        let packet = self.packet(queue);
        let start = Instant::now();
        queue.submit(packet).expect("good pages");
        queue.drain().expect("good pages");
        start.elapsed()
    }

    /// Time of the same packet by the calls that a queue makes at the device.
    fn bare(
        &self,
        device: &dyn Device,
        block: NonNull<u8>,
        staging: &mut Option<Staging>,
    ) -> Duration {
        let start = Instant::now();
        let pages: [u32; PAGES] = std::array::from_fn(|i| self.jobs[i].page);
        let held = staging.take().map_or_else(Staging::new, Ok).expect("staging");
        let landing = Landing::begin(&self.placement, &self.block, &pages, held, InPlace::Never)
            .expect("a landing");
        for (i, job) in self.jobs.iter().enumerate() {
            let request = Request {
                source: self.payload[job.start as usize..].as_ptr(),
                len: job.len,
                destination: landing.destination(i),
            };
            // SAFETY: the job in `block` is set up and idle, source and
            // destination live until it is finished, which is below.
            let outcome = unsafe {
                assert_eq!(device.submit(block, &request), 0);
                while device.check(block) == 1 {}
                device.outcome(block)
            };
            assert_eq!(outcome.total_out as usize, PAGE_SIZE);
        }
        *staging = Some(landing.commit().expect("a commit"));
        start.elapsed()
    }
}

fn per_page(time: Duration) -> f64 {
    time.as_nanos() as f64 / PAGES as f64
}

fn layer(device: &Arc<dyn Device>) {
    let mut bench = Bench::new();
    let placement = Arc::clone(&bench.placement);
    let engine =
        HardwareEngine::with_device(Arc::clone(device), placement, Options::default(), "bench");
    let mut queue = engine.open().expect("a queue");
    let size = device.job_size().expect("a size");
    let mut memory = vec![0_u64; size.div_ceil(8) + 8];
    let align = memory.as_mut_ptr().align_offset(64);
    let block = NonNull::new(memory[align..].as_mut_ptr().cast::<u8>()).expect("not null");
    // SAFETY: the block has the size asked for, and is aligned to 64.
    assert_eq!(unsafe { device.init(block) }, 0);
    let mut staging = None;
    let (mut with, mut without) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        with = with.min(bench.layer(&mut *queue));
        without = without.min(bench.bare(&**device, block, &mut staging));
    }
    // SAFETY: the job is idle.
    unsafe { device.fini(block) };
    println!(
        "layer    {:<18} {:7.0} ns a page, bare calls {:7.0}, difference {:5.0}",
        device.name(),
        per_page(with),
        per_page(without),
        per_page(with) - per_page(without)
    );
}

/// CPU time of this thread.
fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable for the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Packets one after the other, as a channel sends them, with a drain after
/// every eighth.
fn waiting(name: &str, device: Arc<dyn Device>, rounds: usize) {
    let mut bench = Bench::new();
    let placement = Arc::clone(&bench.placement);
    let options = Options { deadline: Duration::from_secs(10), ..Options::default() };
    let engine = HardwareEngine::with_device(device, placement, options, "bench");
    let mut queue = engine.open().expect("a queue");
    bench.layer(&mut *queue);
    let before = engine.report();
    let (wall, cpu) = (Instant::now(), thread_time());
    for round in 1..=rounds {
        let packet = bench.packet(&mut *queue);
        queue.submit(packet).expect("good pages");
        if round % 8 == 0 {
            queue.drain().expect("good pages");
        }
    }
    queue.drain().expect("good pages");
    let (wall, cpu) = (wall.elapsed(), thread_time() - cpu);
    let report = engine.report();
    let pages = (rounds * PAGES) as f64;
    println!(
        "waiting  {name:<18} {:7.2} µs a page, CPU {:6.2} µs a page ({:3.0} %), {:4.1} % by the device, {} in flight at most",
        wall.as_secs_f64() * 1e6 / pages,
        cpu.as_secs_f64() * 1e6 / pages,
        100.0 * cpu.as_secs_f64() / wall.as_secs_f64(),
        100.0 * (report.pages - before.pages) as f64 / pages,
        report.most_in_flight,
    );
}

/// One job at a time on a device that answers after `delay`: what waiting adds,
/// and what it costs.
fn latency(delay: Duration) {
    let faults = format!("delay-us={}", delay.as_micros()).parse().expect("a fault");
    let device: Arc<dyn Device> = Simulator::new(faults);
    let bench = Bench::new();
    let mut job = Job::new(&device).expect("a job");
    let mut page = vec![0_u8; PAGE_SIZE];
    let mut pace = multifd_qpl::engine::hardware::Pace::default();
    let rounds = (200_000 / delay.as_micros().max(1)).clamp(20, 2000) as u32;
    let (start, cpu) = (Instant::now(), thread_time());
    for _ in 0..rounds {
        let request = Request {
            source: bench.payload.as_ptr(),
            len: bench.jobs[0].len,
            destination: page.as_mut_ptr(),
        };
        // SAFETY: both buffers live until the job is finished, below.
        unsafe { job.submit(&request) }.expect("an empty queue");
        while job.look() == Look::Running {
            pace.pause();
        }
        pace.end(1, 1);
    }
    let (wall, cpu) = (start.elapsed() / rounds, (thread_time() - cpu) / rounds);
    println!(
        "latency  {:<18} {:7.1} µs until seen, CPU {:5.1} µs ({:3.0} %)",
        format!("{} µs", delay.as_micros()),
        wall.as_secs_f64() * 1e6,
        cpu.as_secs_f64() * 1e6,
        100.0 * cpu.as_secs_f64() / wall.as_secs_f64()
    );
}

fn main() {
    layer(&(Arc::new(Nothing) as Arc<dyn Device>));
    let library = qpl_sys::Library::open();
    match &library {
        Ok(library) => {
            let device = LibQpl::new(library.clone(), Path::Software, Numa::Any);
            layer(&(Arc::new(device) as Arc<dyn Device>));
        }
        Err(error) => println!("layer    not over libqpl: {error}"),
    }
    for micros in [5, 20, 100, 1000, 20_000] {
        latency(Duration::from_micros(micros));
    }
    if let Ok(library) = library {
        let device: Arc<dyn Device> = Arc::new(LibQpl::new(library, Path::Hardware, Numa::Any));
        match Job::new(&device) {
            Ok(_) => waiting("libqpl, device", device, 64),
            Err(error) => println!("waiting  not on a device: {error}"),
        }
    }
}
