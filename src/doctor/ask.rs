//! Asks libqpl and libaccel-config, in a process of its own.
//!
//! libqpl looks for devices once in a process and keeps what it found, waits
//! without limit for a queue that does not answer its first descriptor, and
//! executes instructions that not every CPU has. So a child asks, tells what
//! it knows after each step, and may hang or die; the parent reads the last
//! thing it told.

use std::ffi::c_void;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use libdeflater::{CompressionLvl, Compressor};
use libloading::Library;

use super::job::{PAGE, Qpl, cause, file_of};
use super::probes::{Ending, LibraryProbe, SymbolsFound};

/// Marks the child's own lines: libraries may print as well.
const MARK: &str = "doctor-library: ";
/// How long the child may take: far longer than any device.
const LIMIT: Duration = Duration::from_secs(10);
/// How long the page may take.
const PAGE_LIMIT: Duration = Duration::from_secs(2);

/// What libqpl takes from libaccel-config, each with `accfg_` before it.
const MANDATORY: [&str; 20] = [
    "new",
    "unref",
    "device_get_first",
    "device_get_next",
    "device_get_devname",
    "device_get_state",
    "device_get_version",
    "device_get_gen_cap",
    "device_get_numa_node",
    "device_get_max_transfer_size",
    "wq_get_first",
    "wq_get_next",
    "wq_get_state",
    "wq_get_mode",
    "wq_get_user_dev_path",
    "wq_get_priority",
    "wq_get_block_on_fault",
    "wq_get_max_transfer_size",
    "wq_get_id",
    "wq_get_devname",
];
/// What came with release 4.0.
const NEWER: [&str; 2] = ["device_get_iaa_cap", "wq_get_op_config"];

/// Runs `command`, which must call [`tell_about_library`], and gathers what it
/// tells.
pub fn ask_library(command: &mut Command) -> LibraryProbe {
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return not_run(error.to_string()),
    };
    let reader = child.stdout.take().map(|stdout| {
        std::thread::spawn(move || {
            let lines = BufReader::new(stdout).split(b'\n').map_while(Result::ok);
            let told = lines.filter_map(|line| {
                let line = String::from_utf8(line).ok()?;
                let (_, json) = line.split_once(MARK)?;
                serde_json::from_str::<LibraryProbe>(json).ok()
            });
            told.last()
        })
    });
    let deadline = Instant::now() + LIMIT;
    let ending = loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                break match (status.signal(), status.success()) {
                    (Some(signal), _) => Ending::Signal(signal),
                    (None, true) => Ending::Finished,
                    (None, false) => Ending::NotRun(status.to_string()),
                };
            }
            Ok(None) if Instant::now() > deadline => {
                // Fails only if it has just ended, which is as good.
                let _ = child.kill();
                let _ = child.wait();
                break Ending::TimedOut(LIMIT.as_secs());
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => break Ending::NotRun(error.to_string()),
        }
    };
    let told = reader.and_then(|reader| reader.join().ok().flatten());
    LibraryProbe { ending, ..told.unwrap_or_default() }
}

fn not_run(why: String) -> LibraryProbe {
    LibraryProbe { ending: Ending::NotRun(why), ..LibraryProbe::default() }
}

/// Loads the libraries, sends one page through the device, and prints after
/// each step what is known; for the process that [`ask_library`] runs.
pub fn tell_about_library() {
    let mut probe = LibraryProbe::default();
    let accel_config = load_accel_config();
    probe.accel_config = Some(match &accel_config {
        Ok((found, _library)) => Ok(found.clone()),
        Err(why) => Err(why.clone()),
    });
    tell(&probe);
    let qpl = Qpl::load();
    probe.qpl = Some(match &qpl {
        Ok(qpl) => Ok(qpl.found.clone()),
        Err(why) => Err(why.clone()),
    });
    tell(&probe);
    let Ok(qpl) = qpl else { return };
    if qpl.found.numbers() < Some((1, 5)) {
        return;
    }
    let job = qpl.hardware_job();
    probe.init = Some(job.as_ref().err().copied().unwrap_or(0));
    tell(&probe);
    let Ok(job) = job else { return };
    let page = sample_page();
    let Some(block) = deflate(&page) else { return };
    probe.trip = Some(job.decompress(block, &page, PAGE_LIMIT));
    tell(&probe);
}

fn tell(probe: &LibraryProbe) {
    if let Ok(json) = serde_json::to_string(probe) {
        let mut stdout = std::io::stdout();
        // A parent that has gone wants to know nothing more.
        let _ = writeln!(stdout, "{MARK}{json}").and_then(|()| stdout.flush());
    }
}

/// Loads what libqpl will load, and keeps it loaded.
fn load_accel_config() -> Result<(SymbolsFound, Library), String> {
    // SAFETY: libaccel-config has no initialisers that could do harm.
    let library = unsafe { Library::new("libaccel-config.so.1") }.map_err(|e| cause(&e))?;
    let find = |name: &str| -> Option<*const c_void> {
        let symbol = format!("accfg_{name}\0");
        // SAFETY: the function is never called, only its address is taken.
        let function = unsafe { library.get::<unsafe extern "C" fn()>(symbol.as_bytes()) };
        function.ok().map(|function| *function as *const c_void)
    };
    let lacking = |names: &[&str]| -> Vec<String> {
        let names = names.iter().filter(|name| find(name).is_none());
        names.map(|name| format!("accfg_{name}")).collect()
    };
    let found = SymbolsFound {
        path: find("new").and_then(file_of).unwrap_or_default(),
        missing: lacking(&MANDATORY),
        missing_newer: lacking(&NEWER),
    };
    Ok((found, library))
}

/// A page with some of everything: runs, repeats, and bytes without order.
fn sample_page() -> [u8; PAGE] {
    let mut state = 0x2545_f491_u32;
    std::array::from_fn(|index| match index / 512 % 4 {
        0 => 0,
        1 => b"page by page "[index % 13],
        2 => (index / 8) as u8,
        _ => {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        }
    })
}

/// One raw DEFLATE block of the page; a page is no longer than the device's
/// window.
fn deflate(page: &[u8; PAGE]) -> Option<Vec<u8>> {
    let mut compressor = Compressor::new(CompressionLvl::default());
    let mut block = vec![0; compressor.deflate_compress_bound(PAGE)];
    let len = compressor.deflate_compress(page, &mut block).ok()?;
    block.truncate(len);
    Some(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> LibraryProbe {
        ask_library(Command::new("sh").args(["-c", text]))
    }

    #[test]
    fn the_last_thing_told_counts() {
        let (mut early, mut late) = (LibraryProbe::default(), LibraryProbe::default());
        early.qpl = Some(Err("early".into()));
        late.init = Some(503);
        let json = |probe| serde_json::to_string(&probe).unwrap();
        let told = script(&format!(
            "echo noise; printf 'no newline {MARK}%s\\n' '{}'; echo '{MARK}{}'; echo '{MARK}{{'",
            json(early),
            json(late.clone())
        ));
        assert_eq!(told, late);
    }

    #[test]
    fn a_child_that_dies_is_no_end() {
        assert_eq!(script("kill -ILL $$").ending, Ending::Signal(libc::SIGILL));
        assert!(matches!(script("exit 3").ending, Ending::NotRun(_)));
        let missing = ask_library(&mut Command::new("/nonexistent/command"));
        assert!(matches!(missing.ending, Ending::NotRun(_)));
    }

    #[test]
    fn the_sample_shrinks_and_comes_back() {
        let page = sample_page();
        let block = deflate(&page).unwrap();
        assert!(block.len() < PAGE);
        let mut back = [0; PAGE];
        let len = libdeflater::Decompressor::new().deflate_decompress(&block, &mut back).unwrap();
        assert_eq!((len, back), (PAGE, page));
    }
}
