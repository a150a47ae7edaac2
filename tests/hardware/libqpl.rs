//! The real libqpl on its hardware path, with the software devices of
//! `ci/with-iaa-emulator`.
//!
//! libqpl looks for devices once in a process, so each set of faults is a
//! process of its own: [`emulated_devices`] starts this program again for each,
//! with the ignored tests. By hand, also on a real device:
//!
//! ```text
//! cargo test --test hardware libqpl -- --ignored
//! ci/with-iaa-emulator --inject never=0.01,flip=0.1 -- cargo test --test hardware libqpl -- --ignored
//! ```
//!
//! Without libqpl (`QPL_LIBRARY`) and the built devices (`IAA_EMULATOR_LIBRARY`)
//! these tests say that they were skipped. With `MULTIFD_QPL_REQUIRE_IAA=1` that
//! is a failure; with `MULTIFD_QPL_CLEAN_IAA=1` so is every page that the device
//! did not do.

use std::{env, num::NonZeroUsize, process::Command, sync::Arc, time::Duration};

use multifd_qpl::engine::{
    Engine, EngineError,
    hardware::{HardwareEngine, LibQpl, Numa, Options, Path},
    qpl_software_engine,
};

use qpl_sys::Library;

use crate::support::Guest;

fn is_set(variable: &str) -> bool {
    env::var_os(variable).is_some_and(|value| value == "1")
}

/// Unwraps an engine, or says that the test is skipped.
fn available<E>(engine: Result<E, EngineError>) -> Option<E> {
    match engine {
        Ok(engine) => Some(engine),
        Err(EngineError::Unavailable { engine, reason }) => {
            assert!(!reason.contains('\n'), "more than one line: {reason}");
            assert!(!is_set("MULTIFD_QPL_REQUIRE_IAA"), "engine {engine}: {reason}");
            eprintln!("SKIPPED: engine {engine} cannot run here: {reason}");
            None
        }
        Err(other) => panic!("{other}"),
    }
}

/// Long enough for a device made of software on a busy machine, where no job may
/// miss it.
fn options() -> Options {
    let deadline =
        Duration::from_millis(if is_set("MULTIFD_QPL_CLEAN_IAA") { 60_000 } else { 100 });
    Options { verify: true, deadline, direct_patience: deadline, ..Options::default() }
}

fn send(guest: &mut Guest, engine: &HardwareEngine) {
    let sent = guest.send_all(engine, 3, 128).unwrap();
    let report = engine.report();
    eprintln!("{report:?}");
    assert_eq!(report.pages + report.fell_back, sent.compressed);
    assert_eq!(report.raw, sent.raw);
    if is_set("MULTIFD_QPL_CLEAN_IAA") {
        assert_eq!(report.fell_back, 0, "{report:?}");
        assert_eq!((report.faults, report.mismatched, report.timed_out), (0, 0, 0));
    }
}

#[test]
#[ignore = "needs a device; emulated_devices runs it with emulated ones"]
fn pages_go_through_the_device() {
    for (numa, jobs) in [(Numa::Any, 64), (Numa::ThreadNode, 7)] {
        let mut guest = Guest::new(2000);
        let options = Options { numa, jobs, ..options() };
        let engine = HardwareEngine::probe(Arc::clone(&guest.placement), options);
        let Some(engine) = available(engine) else { return };
        send(&mut guest, &engine);
    }
}

/// Also with a device that would fail the probe.
#[test]
#[ignore = "needs a device; emulated_devices runs it with emulated ones"]
fn no_page_is_lost_whatever_the_device_does() {
    let Ok(library) = Library::open() else {
        eprintln!("SKIPPED: there is no libqpl");
        return;
    };
    let device = Arc::new(LibQpl::new(library, Path::Hardware, Numa::Any));
    let mut guest = Guest::new(2000);
    let placement = Arc::clone(&guest.placement);
    let engine = HardwareEngine::with_device(device, placement, options(), "no probe");
    send(&mut guest, &engine);
}

#[test]
#[ignore = "needs a device; emulated_devices runs it with emulated ones"]
fn pages_that_are_present_are_written_directly() {
    let mut guest = Guest::new(500);
    let options = Options { direct: true, ..options() };
    let engine = HardwareEngine::probe(Arc::clone(&guest.placement), options);
    let Some(engine) = available(engine) else { return };
    match guest.send_all(&engine, 3, 128) {
        Ok(sent) => {
            let report = engine.report();
            assert_eq!(report.pages + report.fell_back, sent.compressed);
        }
        // The one failure that direct writing cannot mend.
        Err(EngineError::DeviceHoldsPage { .. }) => {
            assert!(!is_set("MULTIFD_QPL_CLEAN_IAA") && engine.report().timed_out > 0);
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn pages_go_through_libqpls_software() {
    let mut guest = Guest::new(1000);
    let workers = NonZeroUsize::new(2).unwrap();
    let engine = qpl_software_engine(workers, Arc::clone(&guest.placement), "asked for");
    let Some(engine) = available(engine) else { return };
    let sent = guest.send_all(&engine, 2, 128).unwrap();
    let report = engine.report();
    assert_eq!((report.pages, report.raw), (sent.compressed, sent.raw));
    assert!(report.reason.starts_with("libqpl "), "{}", report.reason);
    guest.check();
}

#[test]
fn emulated_devices() {
    if env::var_os("QPL_LIBRARY").is_none() || env::var_os("IAA_EMULATOR_LIBRARY").is_none() {
        assert!(
            !is_set("MULTIFD_QPL_REQUIRE_IAA"),
            "QPL_LIBRARY and IAA_EMULATOR_LIBRARY have to name libqpl and the emulated devices"
        );
        eprintln!("SKIPPED: QPL_LIBRARY or IAA_EMULATOR_LIBRARY is not set");
        return;
    }
    for faults in [
        "",
        "busy=0.1",
        "fault-bof-off=0.1",
        "status:0x84=1",
        "never=0.01",
        "late=0.01,late-ms=400",
        "busy=0.02,status:0x84=0.02,short=0.02,never=0.02,flip=0.02,late=0.02",
    ] {
        let clean = if faults.is_empty() { "1" } else { "0" };
        // Where every job fails the probe finds no device, and rightly so.
        let required = if faults.ends_with("=1") { "0" } else { "1" };
        let status = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/ci/with-iaa-emulator"))
            .args(["--inject", if faults.is_empty() { "busy=0" } else { faults }, "--"])
            .arg(env::current_exe().unwrap())
            .args(["libqpl::", "--ignored", "--test-threads=1"])
            .env("MULTIFD_QPL_CLEAN_IAA", clean)
            .env("MULTIFD_QPL_REQUIRE_IAA", required)
            .status()
            .unwrap();
        assert!(status.success(), "with {faults:?}: {status}");
    }
}
