//! An engine: a thread that takes descriptors from its device's queues and carries them out one at a time.
//!
//! With `delay-us` every job occupies its engine for at least that long, counted from when the engine took it, and its
//! output and its completion record appear at the end of that time, not before. The last stretch of a wait
//! is spent yielding, since a sleep of the kernel cannot be trusted to some ten microseconds. The report tells what
//! processor time the engines have used, for a benchmark to subtract.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use crate::counters::COUNTERS;
use crate::descriptor::{BLOCK_ON_FAULT, DECOMPRESS, Descriptor, NOOP, RECORD_VALID, Record, SIZE};
use crate::inject::{self, Draw, Kind};
use crate::machine::{Device, FAULT_US, Machine};
use crate::memory::{Fault, PAGE, Use};
use crate::operation::{Outcome, fault_record, run};

/// What is not slept of a wait: about what waking up takes on a virtual machine.
const SPIN: Duration = Duration::from_micros(60);

/// Starts an engine of a device.
pub fn start(machine: &'static Machine, device: &'static Device, number: usize) -> io::Result<()> {
    let name = format!("{}/engine{}", device.name.to_string_lossy(), number);
    without_signals(|| thread::Builder::new().name(name).spawn(move || engine(machine, device)))?;
    Ok(())
}

/// Starts the thread that does late jobs, one after the other in the order in which they come.
pub fn start_late(
    machine: &'static Machine,
    jobs: Receiver<(Instant, Descriptor)>,
) -> io::Result<()> {
    let body = move || {
        machine.note_thread();
        for (when, descriptor) in jobs {
            thread::sleep(when.saturating_duration_since(Instant::now()));
            let outcome = run(&descriptor, &machine.memory, machine.settings.max_transfer_size);
            finish(machine, &descriptor, outcome, true);
        }
    };
    without_signals(|| thread::Builder::new().name("late jobs".into()).spawn(body))?;
    Ok(())
}

/// Runs `start` with every signal blocked, so that a thread begun in it never runs the program's handlers.
fn without_signals<T>(start: impl FnOnce() -> T) -> T {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    let mut old = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both are room for a signal set; the first call fills `all` before the second reads it.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), old.as_mut_ptr());
    }
    let result = start();
    // SAFETY: `old` was filled by the call above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, old.as_ptr(), std::ptr::null_mut()) };
    result
}

fn engine(machine: &'static Machine, device: &'static Device) {
    machine.note_thread();
    // SAFETY: sets this thread's timer slack to a nanosecond; the arguments are plain numbers.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong) };
    let mut waits = Machine::waits(device);
    if waits.is_empty() {
        return;
    }
    loop {
        // SAFETY: the array is as long as is stated and its descriptors stay open for ever.
        unsafe { libc::poll(waits.as_mut_ptr(), waits.len() as libc::nfds_t, -1) };
        for queue in &device.queues {
            while let Some(descriptor) = queue.take() {
                job(machine, &descriptor);
            }
        }
    }
}

fn job(machine: &Machine, bytes: &[u8; SIZE]) {
    let begun = Instant::now();
    let descriptor = Descriptor::parse(bytes);
    if descriptor.opcode == NOOP {
        COUNTERS.noops.fetch_add(1, Relaxed);
        let outcome = run(&descriptor, &machine.memory, machine.settings.max_transfer_size);
        finish(machine, &descriptor, outcome, false);
        return;
    }
    COUNTERS.descriptors.fetch_add(1, Relaxed);
    let injection = inject::current();
    let draw = inject::draw(&injection);
    match draw.kind {
        Some(Kind::Never) => Kind::Never.count(),
        Some(Kind::Late) => {
            Kind::Late.count();
            if machine.late.send((begun + injection.late, descriptor)).is_err() {
                COUNTERS.lost.fetch_add(1, Relaxed);
            }
        }
        _ => {
            let outcome = spoiled(machine, &descriptor, &draw);
            let requests =
                Duration::from_micros(FAULT_US.load(Relaxed).saturating_mul(outcome.resolved));
            wait_until(begun + injection.delay + requests);
            finish(machine, &descriptor, outcome, true);
        }
    }
}

/// Carries out a descriptor, with what is to go wrong.
fn spoiled(machine: &Machine, descriptor: &Descriptor, draw: &Draw) -> Outcome {
    let kind = match draw.kind {
        Some(Kind::FaultBofOff) => return injected_fault(descriptor, draw),
        Some(Kind::Status(status)) => {
            Kind::Status(status).count();
            // The client looks at the address of what calls itself a page fault.
            let write = status & 0x80 != 0 && descriptor.destination_size != 0;
            let fault_address = match status & 0x3f {
                0x03 | 0x04 if write => descriptor.destination,
                0x03 | 0x04 => descriptor.source,
                _ => 0,
            };
            return Record { fault_address, ..Record::status(status) }.into();
        }
        Some(Kind::Error(error)) => {
            Kind::Error(error).count();
            return Record::error(error).into();
        }
        Some(Kind::FaultBofOn) if !descriptor.block_on_fault() => {
            return injected_fault(descriptor, draw);
        }
        other => other,
    };
    let mut outcome = run(descriptor, &machine.memory, machine.settings.max_transfer_size);
    match kind {
        Some(Kind::Short) if !outcome.output.is_empty() && outcome.record.status == 1 => {
            Kind::Short.count();
            let length = draw.random % outcome.output.len();
            outcome.output.truncate(length);
            outcome.record.output_size = length as u32;
            if descriptor.opcode == DECOMPRESS {
                let castagnoli = descriptor.flags & crate::descriptor::CRC32C != 0;
                outcome.record.crc = crate::checksum::crc32(0, &outcome.output, castagnoli);
                outcome.record.xor = crate::checksum::xor16(0, &outcome.output);
            }
        }
        Some(Kind::Flip) if !outcome.output.is_empty() => {
            Kind::Flip.count();
            let bit = draw.random % (outcome.output.len() * 8);
            outcome.output[bit / 8] ^= 1 << (bit % 8);
        }
        Some(Kind::FaultBofOn) => {
            Kind::FaultBofOn.count();
            outcome.resolved += 1;
        }
        Some(Kind::WrongCrc) => {
            Kind::WrongCrc.count();
            outcome.record.crc ^= 1 << (draw.random % 32);
        }
        _ => {}
    }
    outcome
}

/// A fault that block on fault would have hidden, on the destination or the source.
fn injected_fault(descriptor: &Descriptor, draw: &Draw) -> Outcome {
    Kind::FaultBofOff.count();
    let write = descriptor.destination_size > 1 && draw.random & 1 == 1;
    let (start, size) = if write {
        (descriptor.destination, descriptor.destination_size)
    } else {
        (descriptor.source, descriptor.source_size)
    };
    // The start of the range, or of a later page in it.
    let pages = (start % PAGE + u64::from(size.max(1)) - 1) / PAGE + 1;
    let address = start.max(start - start % PAGE + (draw.random as u64 >> 8) % pages * PAGE);
    fault_record(Fault { address, write, refused: false }).into()
}

fn wait_until(deadline: Instant) {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        if left > SPIN { thread::sleep(left - SPIN) } else { thread::yield_now() }
    }
}

/// Stores the output, then the record.
fn finish(machine: &Machine, descriptor: &Descriptor, mut outcome: Outcome, counted: bool) {
    let block_on_fault = descriptor.flags & BLOCK_ON_FAULT != 0;
    if !outcome.output.is_empty() {
        let mut resolved = 0;
        let output = &outcome.output;
        match machine.memory.write(
            descriptor.destination,
            output,
            block_on_fault,
            Use::Destination,
            &mut resolved,
        ) {
            Ok(()) => {
                COUNTERS.bytes_out.fetch_add(output.len() as u64, Relaxed);
            }
            Err(fault) => outcome.record = fault_record(fault),
        }
        let requests = FAULT_US.load(Relaxed).saturating_mul(resolved);
        wait_until(Instant::now() + Duration::from_micros(requests));
    }
    let record = &outcome.record;
    if descriptor.flags & RECORD_VALID != 0 {
        // Counted first: a client that has seen its record finds it in the counters.
        if counted {
            COUNTERS.completed.fetch_add(1, Relaxed);
            COUNTERS.statuses[usize::from(record.status)].fetch_add(1, Relaxed);
            if record.error != 0 {
                COUNTERS.errors[usize::from(record.error)].fetch_add(1, Relaxed);
            }
        }
        if machine.memory.complete(descriptor.record, &record.to_bytes(), block_on_fault).is_ok() {
            return;
        }
        if counted {
            COUNTERS.completed.fetch_sub(1, Relaxed);
        }
    }
    COUNTERS.lost.fetch_add(1, Relaxed);
}
