//! The devices of this process: made when libqpl first asks for them, and there until the process ends.
//!
//! A child made by fork shares the parent's descriptors but not its memory; it has no devices until its own libqpl asks,
//! and what it submits to the parent's queues is refused, as the kernel refuses it.

use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::counters::{self, COUNTERS};
use crate::descriptor::Descriptor;
use crate::engine;
use crate::hook;
use crate::inject;
use crate::memory::Memory;
use crate::queue::Queue;
use crate::settings::{Report, Settings, Transport};
use crate::tlb::TlbFlushes;
use crate::trap;

/// One device.
pub struct Device {
    /// Its name, such as `iax1`.
    pub name: CString,
    /// Its NUMA node, -1 for none.
    pub node: i32,
    /// Its place among the devices.
    pub index: usize,
    /// Its queues.
    pub queues: Vec<Queue>,
}

/// All devices, and what they share.
pub struct Machine {
    /// The process that they belong to.
    pub pid: i32,
    /// Settings as they were when the devices were made.
    pub settings: Settings,
    /// The devices.
    pub devices: Vec<Device>,
    /// The process's memory.
    pub memory: Memory,
    /// Where engines send jobs that are to be done late.
    pub late: Sender<(Instant, Descriptor)>,
    late_jobs: Mutex<Option<Receiver<(Instant, Descriptor)>>>,
    flushes: Option<TlbFlushes>,
    flushes_before: AtomicU64,
    processor_before: AtomicU64,
    /// The clocks of the device's threads.
    clocks: Mutex<Vec<libc::clockid_t>>,
}

static CURRENT: AtomicPtr<Machine> = AtomicPtr::new(ptr::null_mut());
/// Settings given before the devices exist, and changed ones afterwards.
static SETTINGS: Mutex<Option<Settings>> = Mutex::new(None);
/// What a page request costs, in microseconds.
pub static FAULT_US: AtomicU64 = AtomicU64::new(0);
static SAID: AtomicBool = AtomicBool::new(false);

/// The devices, if this process has any. Only an atomic load and a system call, for use in a signal handler.
pub fn current() -> Option<&'static Machine> {
    let machine = CURRENT.load(Acquire);
    // SAFETY: the pointer is null or comes from a leaked box, which lives and is shared for as long as the process.
    let machine = unsafe { machine.as_ref() }?;
    // SAFETY: a call without arguments that cannot fail.
    (machine.pid == unsafe { libc::getpid() }).then_some(machine)
}

/// The queue whose node this open descriptor is, of this process's devices or, in a child, of its parent's.
pub fn queue_of_node(fd: i32) -> Option<(&'static Machine, &'static Queue)> {
    // SAFETY: as in `current`, but a child may look at its copy too.
    let machine = unsafe { CURRENT.load(Acquire).as_ref() }?;
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: room for one stat structure; a descriptor that is not open is an error.
    if unsafe { libc::fstat(fd, stat.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: the call succeeded and has filled it.
    let stat = unsafe { stat.assume_init() };
    machine
        .devices
        .iter()
        .flat_map(|device| &device.queues)
        .find(|queue| queue.is_node(&stat))
        .map(|q| (machine, q))
}

fn settings() -> Result<Settings, String> {
    let mut settings = SETTINGS.lock().unwrap_or_else(PoisonError::into_inner);
    if settings.is_none() {
        *settings = Some(Settings::from_environment()?);
    }
    settings.clone().ok_or_else(String::new)
}

/// Changes settings: all of them before the devices exist, later those of the draws.
pub fn configure(text: &str) -> Result<(), String> {
    let mut new = settings()?;
    let running = current().is_some();
    new.apply(text, running)?;
    if running {
        put_in_force(&new);
    }
    *SETTINGS.lock().unwrap_or_else(PoisonError::into_inner) = Some(new);
    Ok(())
}

fn put_in_force(settings: &Settings) {
    FAULT_US.store(settings.fault_us, Relaxed);
    inject::set(settings.injection.clone(), settings.seed);
}

/// The devices of this process, made now if need be.
pub fn start() -> Result<&'static Machine, String> {
    static STARTING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(machine) = current() {
        if machine.settings.transport == Transport::Write {
            hook::install();
        }
        return Ok(machine);
    }
    let settings = settings()?;
    COUNTERS.reset();
    put_in_force(&settings);
    let machine = Box::leak(Box::new(
        make(settings).map_err(|error| format!("cannot make the devices: {error}"))?,
    ));
    CURRENT.store(machine, Release);
    match machine.settings.transport {
        Transport::Write => {
            if !hook::install() {
                say_once(
                    "cannot tell where libqpl writes: full queues will block, and busy cannot be injected",
                );
            }
        }
        Transport::Enqcmd => {
            trap::install().map_err(|error| format!("cannot catch ENQCMD: {error}"))?
        }
    }
    for device in &machine.devices {
        for number in 0..machine.settings.engines {
            engine::start(machine, device, number)
                .map_err(|error| format!("cannot start an engine: {error}"))?;
        }
    }
    if let Some(jobs) = machine.late_jobs.lock().unwrap_or_else(PoisonError::into_inner).take() {
        engine::start_late(machine, jobs)
            .map_err(|error| format!("cannot start an engine: {error}"))?;
    }
    machine.note_flushes();
    Ok(machine)
}

fn make(settings: Settings) -> io::Result<Machine> {
    let mut devices = Vec::new();
    let mut number = 0;
    for index in 0..settings.devices {
        // As on a real machine, where the even numbers go to the data streaming accelerators.
        let name = 2 * index + 1;
        let mut queues = Vec::new();
        for id in 0..settings.queues {
            let mappable = settings.transport == Transport::Enqcmd;
            let mut queue = Queue::new(
                number,
                id as i32,
                format!("wq{name}.{id}"),
                settings.queue_size,
                mappable,
            )?;
            if !settings.accessible {
                queue.path = CString::new(format!("/dev/iax/absent/wq{name}.{id}"))?;
            }
            queues.push(queue);
            number += 1;
        }
        let node = settings.numa_nodes[index % settings.numa_nodes.len()];
        devices.push(Device { name: CString::new(format!("iax{name}"))?, node, index, queues });
    }
    let (late, late_jobs) = channel();
    Ok(Machine {
        late,
        late_jobs: Mutex::new(Some(late_jobs)),
        clocks: Mutex::new(Vec::new()),
        processor_before: AtomicU64::new(0),
        pid: std::process::id() as i32,
        devices,
        memory: Memory::open()?,
        flushes: TlbFlushes::start().ok(),
        flushes_before: AtomicU64::new(0),
        settings,
    })
}

impl Machine {
    /// The queue of this number.
    pub fn queue(&self, number: u64) -> Option<&Queue> {
        self.devices.iter().flat_map(|device| &device.queues).find(|queue| queue.number == number)
    }

    /// Lets the count of TLB flushes begin now.
    fn note_flushes(&self) {
        self.flushes_before.store(self.flushes.as_ref().map_or(0, TlbFlushes::count), Relaxed);
    }

    /// Notes that the thread that calls is one of the device's.
    pub fn note_thread(&self) {
        let mut clock = 0;
        // SAFETY: this thread's own handle, and room for a clock's number.
        if unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &mut clock) } == 0 {
            self.clocks.lock().unwrap_or_else(PoisonError::into_inner).push(clock);
        }
    }

    /// Processor time of the device's threads, in microseconds.
    fn processor_time(&self) -> u64 {
        let clocks = self.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        let time = |&clock: &libc::clockid_t| {
            let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: room for a time; the clock is that of a thread that never ends.
            unsafe { libc::clock_gettime(clock, &mut time) };
            time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000
        };
        clocks.iter().map(time).sum()
    }

    /// The counters as JSON.
    pub fn report(&self) -> serde_json::Value {
        let before = self.flushes_before.load(Relaxed);
        let flushes = self.flushes.as_ref().map(|flushes| flushes.count().saturating_sub(before));
        let mut report = COUNTERS.report(flushes, 1);
        let processor = self.processor_time().saturating_sub(self.processor_before.load(Relaxed));
        report["device_cpu_us"] = processor.into();
        report
    }

    /// Sets the counters to zero.
    pub fn reset(&self) {
        COUNTERS.reset();
        self.memory.forget();
        self.processor_before.store(self.processor_time(), Relaxed);
        self.note_flushes();
    }

    /// The descriptors that engines wait on, those of one device's queues.
    pub fn waits(device: &Device) -> Vec<libc::pollfd> {
        let wait = |queue: &Queue| libc::pollfd {
            fd: queue.take.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        device.queues.iter().map(wait).collect()
    }
}

/// Tells a mistake of set-up once, on standard error.
pub fn say_once(text: &str) {
    if !SAID.swap(true, Relaxed) {
        eprintln!("iaa-emulator: {text}");
    }
}

/// Writes the report of a process that ends. With `IAA_EMULATOR_CHECK` in the environment it is a process that was only
/// started to check the settings: when they are wrong it fails, and otherwise its report is all zeros.
pub fn report_at_exit() {
    let check = std::env::var_os("IAA_EMULATOR_CHECK").is_some();
    let report = match current() {
        Some(machine) => machine.report(),
        None if check => COUNTERS.report(None, 0),
        None => return,
    };
    let place = match settings() {
        Ok(settings) => settings.report,
        Err(error) => {
            eprintln!("iaa-emulator: {error}");
            // SAFETY: ends the process, which is ending anyhow, with a status that tells.
            unsafe { libc::_exit(2) }
        }
    };
    match place {
        Report::Stderr if check => {}
        Report::Nowhere => {}
        Report::Stderr => eprintln!("{report}"),
        Report::File(path) => {
            if let Err(error) = counters::add_to_file(&path, &report) {
                eprintln!("iaa-emulator: cannot write the report to {path}: {error}\n{report}");
            }
        }
    }
}
