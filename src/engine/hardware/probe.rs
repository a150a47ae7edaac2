//! Is there a device that works? One page is the answer.
//!
//! Everything that can be wrong on a host (no library, no libaccel-config, no
//! work queue, no permission, a queue that refuses pages) shows when a page
//! goes through, and nothing else proves the opposite. libqpl looks for devices
//! once in the life of a process and remembers what it found, also when that
//! was nothing.
//!
//! The probe runs on a thread of its own: when a work queue takes descriptors
//! and never answers, libqpl spins in the set-up of its first job for ever, and
//! a receiver must not hang there.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use zlib_rs::{DeflateConfig, Strategy};

use super::{Device, Job, JobError, LibQpl, Look, Numa, Pace, Path, Request, Status};
use crate::wire::PAGE_SIZE;

/// How long the probe may take. Looking for devices takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long one page may take.
const PAGE_PATIENCE: Duration = Duration::from_millis(500);
/// Pages that are tried before the device counts as one that does not work.
const ATTEMPTS: u32 = 8;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(1);

/// Opens libqpl's hardware path and tries it. Returns the device and why it is
/// usable, or in one line why there is none.
pub fn find_device(numa: Numa) -> Result<(Arc<dyn Device>, String), String> {
    let library = qpl_sys::Library::open().map_err(|error| error.to_string())?;
    let device: Arc<dyn Device> = Arc::new(LibQpl::new(library, Path::Hardware, numa));
    let (tell, answer) = mpsc::channel();
    let probed = Arc::clone(&device);
    thread::Builder::new()
        .name("iaa-probe".to_owned())
        .spawn(move || {
            // Nobody listens any more after PATIENCE.
            let _ = tell.send(round_trip(&probed));
        })
        .map_err(|error| format!("the probe could not be started: {error}"))?;
    match answer.recv_timeout(PATIENCE) {
        Ok(Ok(())) => {}
        Ok(Err(reason)) => return Err(format!("{}: {reason}", device.name())),
        Err(_) => {
            return Err(format!(
                "{}: the device did not answer within {} s of the first descriptor; check it with `accel-config list` and reset it",
                device.name(),
                PATIENCE.as_secs()
            ));
        }
    }
    let reason = format!("{} decoded a page on the device", device.name());
    Ok((device, reason))
}

/// Sends a page through a device, again a few times if the device refuses: full
/// queues and a fault now and then are its daily life.
fn round_trip(device: &Arc<dyn Device>) -> Result<(), String> {
    let mut result = Ok(());
    for _ in 0..ATTEMPTS {
        let job = Job::new(device).map_err(|error| match error {
            JobError::Refused(status) => status.to_string(),
            JobError::Memory(_) => error.to_string(),
        })?;
        result = try_page(job);
        if result.is_ok() {
            break;
        }
        thread::sleep(PAUSE);
    }
    result
}

fn try_page(mut job: Job) -> Result<(), String> {
    let page = pattern();
    let block = compress(&page);
    // Leaked when the device does not answer, so on the heap.
    let source = Box::leak(block.into_boxed_slice());
    let destination = Box::leak(Box::new([0xff_u8; PAGE_SIZE]));
    let (source, len) = (&raw mut *source, source.len());
    let destination = &raw mut *destination;
    let request =
        Request { source: source.cast(), len: len as u32, destination: destination.cast() };
    // SAFETY: both buffers were just written, so they are resident; they are
    // freed only below, when the job is finished, and the references they were
    // made from are gone.
    unsafe { job.submit(&request) }.map_err(|status| status.to_string())?;
    let end = Instant::now() + PAGE_PATIENCE;
    let mut pace = Pace::default();
    let result = loop {
        match job.look() {
            Look::Finished(result) => break result,
            Look::Running if Instant::now() > end => {
                return Err("a page was submitted and never finished".to_owned());
            }
            Look::Running => pace.pause(),
        }
    };
    // SAFETY: both were leaked above, and the device is done with them.
    let (_, decoded) = unsafe { (Box::from_raw(source), Box::from_raw(destination)) };
    match result {
        Ok(outcome) if outcome.total_out as usize == PAGE_SIZE && *decoded == page => Ok(()),
        Ok(outcome) => Err(format!(
            "the device made a wrong page of {} bytes from a good block",
            outcome.total_out
        )),
        Err(status @ Status::BadData(_)) => {
            Err(format!("the device refused a good block: {status}"))
        }
        Err(status) => Err(status.to_string()),
    }
}

/// A page with repeats near and far, and bytes that do not repeat.
fn pattern() -> [u8; PAGE_SIZE] {
    let mut state = 1_u32;
    std::array::from_fn(|i| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if i % 64 < 16 { (state >> 24) as u8 } else { (i / 512) as u8 }
    })
}

/// With the fixed Huffman code, which every decoder takes.
fn compress(page: &[u8; PAGE_SIZE]) -> Vec<u8> {
    let config =
        DeflateConfig { window_bits: -12, strategy: Strategy::Fixed, ..DeflateConfig::default() };
    let mut block = vec![0; 2 * PAGE_SIZE];
    let (compressed, _) = zlib_rs::compress_slice(&mut block, page, config);
    let len = compressed.len();
    block.truncate(len);
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::hardware::Simulator;

    #[test]
    fn a_page_tells_good_devices_from_bad_ones() {
        for (faults, expected) in [
            ("", None),
            ("init=503", Some("no usable work queue")),
            ("init=501", Some("libaccel-config")),
            ("busy=1", Some("all work queues are full")),
            ("status:319=1", Some("max_transfer_size")),
            ("short=1", Some("wrong page of 4095 bytes")),
            ("flip=1", Some("wrong page of 4096 bytes")),
            ("busy=0.3,status:304=0.3", None),
            ("status:213=1", Some("refused a good block")),
        ] {
            let simulator = Simulator::new(faults.parse().unwrap());
            let device: Arc<dyn Device> = Arc::<Simulator>::clone(&simulator);
            match (round_trip(&device), expected) {
                (Ok(()), None) => {}
                (Err(said), Some(text)) => assert!(said.contains(text), "{faults}: {said}"),
                (result, _) => panic!("{faults}: {result:?}"),
            }
            drop(device);
            assert_eq!((simulator.live(), simulator.violations()), (0, 0), "{faults}");
        }
    }
}
