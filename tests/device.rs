//! The command receives recordings through the real libqpl's hardware path, on
//! devices made of software that fail in every way they can.
//!
//! Needs what `ci/get-libqpl` makes (in `QPL_LIBRARY`) and the emulator (built
//! by `ci/with-iaa-emulator`). Without libqpl the tests say that they are
//! skipped; with `MULTIFD_QPL_REQUIRE_IAA=1` that is a failure.
//! `MULTIFD_QPL_STREAMS` names a directory with more recordings.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn has_libqpl() -> bool {
    let there = env::var_os("QPL_LIBRARY").is_some_and(|path| Path::new(&path).is_file());
    let required = env::var_os("MULTIFD_QPL_REQUIRE_IAA").is_some_and(|value| value == "1");
    assert!(there || !required, "QPL_LIBRARY names no library: run ci/get-libqpl");
    if !there {
        eprintln!("SKIPPED: QPL_LIBRARY names no library: run ci/get-libqpl");
    }
    there
}

/// Recordings with method qpl.
fn recordings() -> Vec<PathBuf> {
    let mut dirs = vec![root().join("tests/data")];
    dirs.extend(env::var_os("MULTIFD_QPL_STREAMS").map(PathBuf::from));
    let mut found: Vec<PathBuf> = dirs
        .iter()
        .flat_map(|dir| fs::read_dir(dir).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().contains("qpl"))
        .filter(|path| path.join("expected.json").is_file())
        .collect();
    found.sort();
    assert!(!found.is_empty());
    found
}

fn json(path: &Path) -> Value {
    let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

/// What a replay on emulated devices came to.
struct Replay {
    report: Value,
    devices: Value,
}

impl Replay {
    fn engine(&self, key: &str) -> u64 {
        self.report["engine"][key].as_u64().unwrap()
    }

    fn device(&self, key: &str) -> u64 {
        self.devices[key].as_u64().unwrap()
    }
}

fn replay(recording: &Path, inject: Option<&str>, more: &[&str]) -> Replay {
    let dir = tempfile::tempdir().unwrap();
    let (report, devices) = (dir.path().join("report.json"), dir.path().join("devices.json"));
    let mut command = Command::new(root().join("ci/with-iaa-emulator"));
    command.arg("--report").arg(&devices);
    if let Some(spec) = inject {
        command.args(["--inject", spec]);
    }
    let output = command
        .arg("--")
        .arg(env!("CARGO_BIN_EXE_multifd-qpl"))
        .arg("replay")
        .arg(recording)
        .args(["--sha256", "--placement", "place", "--report"])
        .arg(&report)
        .args(more)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{inject:?} {}: {said}", recording.display());
    let replay = Replay { report: json(&report), devices: json(&devices) };

    let expected = json(&recording.join("expected.json"));
    let blocks = replay.report["blocks"].as_array().unwrap();
    assert_eq!(blocks.len(), expected["blocks"].as_object().unwrap().len());
    for block in blocks {
        let name = block["name"].as_str().unwrap();
        assert_eq!(
            block["sha256"],
            expected["blocks"][name]["sha256"],
            "{inject:?} {} {name}",
            recording.display()
        );
    }
    replay
}

/// Every page by the device, and none of its accesses a page fault.
#[test]
fn the_device_does_every_page_without_a_fault() {
    if !has_libqpl() {
        return;
    }
    for recording in recordings() {
        for more in [&["--engine", "iaa"][..], &["--engine", "iaa", "--device-direct"]] {
            let replay = replay(&recording, None, more);
            let pages = replay.report["pages"]["normal"].as_u64().unwrap();
            let raw = replay.report["pages"]["raw"].as_u64().unwrap();
            assert_eq!(replay.report["engine"]["engine"], "iaa");
            // A job that the machine was too busy for in time is the only way
            // out here, and then the device finishes it later.
            let late = replay.engine("timed_out");
            assert_eq!(replay.engine("pages") + replay.engine("fell_back"), pages - raw);
            assert!(replay.engine("fell_back") <= late, "{:?}", replay.report["engine"]);
            assert!(replay.device("completed") >= pages - raw - late);
            assert_eq!(replay.device("io_page_faults"), 0, "{}", replay.devices);
        }
    }
}

/// One failure at a time, and all together, at 1 and 10 percent of all jobs.
#[test]
fn whatever_fails_the_ram_is_right() {
    if !has_libqpl() {
        return;
    }
    let kinds = [
        "busy",
        "fault-bof-off",
        "fault-bof-on",
        "status:0x03",
        "status:0x84",
        "status:0x0b",
        "status:0x13",
        "status:0x20",
        "error:17",
        "short",
        "never",
        "flip",
        "wrong-crc",
        "late",
    ];
    let mut specs = Vec::new();
    for rate in ["0.01", "0.1"] {
        specs.extend(kinds.iter().map(|kind| format!("{kind}={rate}")));
    }
    // Together the kinds come to one job in seven, and to most jobs.
    for rate in ["0.01", "0.06"] {
        specs.push(kinds.map(|kind| format!("{kind}={rate}")).join(","));
    }
    for recording in recordings() {
        for spec in &specs {
            let replay = replay(&recording, Some(spec), &["--engine", "auto", "--verify"]);
            // The pages that failed were made in software, not lost.
            if replay.report["engine"]["engine"] == "iaa" {
                let pages = replay.report["pages"]["normal"].as_u64().unwrap();
                let done = replay.engine("pages") + replay.engine("fell_back");
                assert_eq!(done, pages - replay.report["pages"]["raw"].as_u64().unwrap());
            }
            assert_eq!(replay.device("io_page_faults_resolved"), 0);
        }
    }
}

/// A device on which nothing works is found out by the probe.
#[test]
fn a_device_that_always_fails_is_not_used() {
    if !has_libqpl() {
        return;
    }
    let recording = &recordings()[0];
    for kind in ["busy", "status:0x84", "error:17", "short", "flip", "never"] {
        let spec = format!("{kind}=1");
        let replay = replay(recording, Some(&spec), &["--engine", "auto", "--verify"]);
        assert_eq!(replay.report["engine"]["engine"], "software", "{spec}");
        let reason = replay.report["engine"]["reason"].as_str().unwrap();
        assert!(!reason.is_empty() && !reason.contains('\n'), "{reason}");
    }
}

/// Three decoders, one content.
#[test]
fn the_software_engines_agree() {
    if !has_libqpl() {
        return;
    }
    for recording in recordings() {
        for engine in ["software", "qpl-software"] {
            let replay = replay(&recording, None, &["--engine", engine]);
            assert_eq!(replay.report["engine"]["engine"], engine);
            assert_eq!(replay.device("descriptors"), 0);
        }
    }
}
