//! The command that measures, and what it measures: memory and page faults of a
//! receiver in a process of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_multifd-qpl");
const PAGE: f64 = 4096.0;

/// Runs the program; standard output, if it succeeds.
fn run(args: &[&str]) -> String {
    let done = Command::new(PROGRAM).args(args).output().unwrap();
    let complaint = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{args:?}: {complaint}");
    String::from_utf8(done.stdout).unwrap()
}

/// Generates a recording and receives it, with nothing but defaults.
fn generate_and_receive(dir: &Path, generate: &[&str]) -> Value {
    let path = dir.join("recording").display().to_string();
    run(&[&["generate", &path], generate].concat());
    serde_json::from_str(&run(&["replay", &path, "--json", "--trace", "--engine", "software"]))
        .unwrap()
}

fn number(report: &Value, key: &str) -> f64 {
    match report[key].as_f64() {
        Some(number) => number,
        None => panic!("no {key} in {report:#}"),
    }
}

fn resident(report: &Value) -> f64 {
    let blocks = report["blocks"].as_array().unwrap();
    blocks.iter().map(|block| number(block, "resident_bytes")).sum()
}

/// Whether pages can be placed on this host; without that there are page faults
/// and the yardsticks for them do not apply.
fn places(report: &Value) -> bool {
    let places = report["placement"]["policy"] == "place";
    if !places {
        eprintln!("skipped in part: {}", report["placement"]["reason"]);
    }
    places
}

#[test]
fn measures_a_recording_and_writes_every_output() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    for (recording, method) in [("one", "none"), ("two", "qpl")] {
        let sizes = ["--ram", "64M", "--used", "8M", "--method", method];
        run(&[&["generate", &at(recording)], &sizes[..]].concat());
    }
    let (json, markdown, svg, html) = (at("r.json"), at("r.md"), at("r.svg"), at("r.html"));
    let printed = run(&[
        "bench",
        "--recording",
        &at("one"),
        "--recording",
        &at("two"),
        "--runs",
        "2",
        "--contenders",
        "default,fault,read-check,one-bit",
        "--engines",
        "software",
        "--json",
        &json,
        "--markdown",
        &markdown,
        "--svg",
        &svg,
        "--html",
        &html,
    ]);
    let results: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!(results["runs"], 2);
    for key in ["cpu", "kernel", "huge_pages", "version"] {
        assert!(results["host"][key].is_string(), "{key}");
    }
    let groups = results["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 2);
    for (group, method) in groups.iter().zip(["none", "qpl"]) {
        assert_eq!(group["method"], method);
        let rows = group["rows"].as_array().unwrap();
        assert_eq!(rows.len(), 4);
        for row in rows {
            assert_eq!(row["samples"].as_array().unwrap().len(), 2);
            let median = &row["median"];
            assert!(number(median, "wall_ms") > 0.0);
            assert!(number(median, "minor_faults") > 0.0);
            assert!(number(median, "process_faults") > number(median, "minor_faults"));
            // The data, and a small block of firmware.
            assert!(number(median, "data_pages") >= 2048.0);
            assert!(number(median, "zero_pages") >= 14336.0);
        }
        let resident = |name: &str| {
            let row = rows.iter().find(|row| row["contender"]["name"] == name).unwrap();
            number(&row["median"], "resident_bytes")
        };
        // Reading a zero page makes it resident; the map leaves it alone.
        assert!(resident("read-check") >= 64.0 * 1048576.0);
        assert!(resident("default") <= 9.0 * 1048576.0);
    }
    assert_eq!(printed, fs::read_to_string(&markdown).unwrap());
    assert!(printed.contains("read-check") && printed.contains("### Yardsticks"));
    let plots = fs::read_to_string(&svg).unwrap();
    assert!(plots.starts_with("<svg") && plots.ends_with("</svg>\n"));
    assert!(fs::read_to_string(&html).unwrap().contains(plots.trim()));
}

#[test]
fn generated_recordings_are_measured_and_removed() {
    let temporary = tempfile::tempdir().unwrap();
    let done = Command::new(PROGRAM)
        .args(["bench", "--size", "256M", "--runs", "1", "--cases", "scattered,empty"])
        .args(["--methods", "none", "--contenders", "default,one-bit", "--engines", "software"])
        .env("TMPDIR", temporary.path())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(text.contains("user CPU time per zero page"), "{text}");
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[test]
fn wrong_words_are_usage_errors() {
    for args in [
        &["bench", "--size", "large"][..],
        &["bench", "--runs", "0"],
        &["bench", "--size", "1M"],
        &["generate", "somewhere", "--ram", "1M", "--used", "1M", "--method", "qatzip"],
        &["generate", "somewhere", "--ram", "1M", "--used", "1M", "--channels", "0"],
    ] {
        let done = Command::new(PROGRAM).args(args).output().unwrap();
        assert_eq!(done.status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn a_recording_that_is_none_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let done = Command::new(PROGRAM).arg("bench").arg("--recording").arg(dir.path()).output();
    let done = done.unwrap();
    assert_eq!(done.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&done.stderr).contains("main.bin"));
}

#[test]
fn first_seen_zero_pages_take_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    let report =
        generate_and_receive(dir.path(), &["--ram", "2G", "--used", "0", "--method", "none"]);
    assert!(number(&report["pages"], "zero_untouched") >= 524_288.0);
    assert_eq!(number(&report["pages"], "zero_cleared"), 0.0);
    // Nothing but the firmware, which is data.
    assert!(resident(&report) <= number(&report["pages"], "normal") * PAGE);
    assert!(number(&report, "rss_growth_bytes") < 16.0 * 1048576.0, "{report:#}");
}

#[test]
fn a_dense_vm_takes_few_faults_and_little_more_memory_than_its_data() {
    for method in ["none", "qpl"] {
        let dir = tempfile::tempdir().unwrap();
        let report = generate_and_receive(
            dir.path(),
            &["--ram", "192M", "--used", "192M", "--method", method],
        );
        let data = number(&report["pages"], "normal") * PAGE;
        assert!(resident(&report) <= 1.05 * data, "{report:#}");
        assert!(number(&report, "rss_growth_bytes") <= 1.05 * data, "{report:#}");
        if places(&report) {
            assert!(number(&report, "minor_faults") <= 0.02 * data / PAGE, "{report:#}");
        }
    }
}

#[test]
fn a_scattered_vm_takes_few_faults_and_no_memory_between_its_data() {
    for method in ["none", "qpl"] {
        let dir = tempfile::tempdir().unwrap();
        let report = generate_and_receive(
            dir.path(),
            &["--ram", "1G", "--used", "128M", "--pattern", "scattered", "--method", method],
        );
        let data = number(&report["pages"], "normal") * PAGE;
        assert!(resident(&report) <= 1.1 * data, "{report:#}");
        assert!(number(&report, "rss_growth_bytes") <= 1.1 * data, "{report:#}");
        if places(&report) {
            assert!(number(&report, "minor_faults") <= 0.02 * data / PAGE, "{report:#}");
        }
    }
}

#[test]
fn the_report_says_why_flushes_are_not_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recording").display().to_string();
    run(&["generate", &path, "--ram", "1M", "--used", "1M", "--method", "none"]);
    let report: Value = serde_json::from_str(&run(&["replay", &path, "--json"])).unwrap();
    assert!(report["tlb_flushes"].is_null());
    assert_eq!(report["not_measured"], "not asked for");
    let report: Value =
        serde_json::from_str(&run(&["replay", &path, "--json", "--trace"])).unwrap();
    // Counted, or a reason.
    assert_ne!(report["tlb_flushes"].is_null(), report["not_measured"].is_null());
}

/// A memory cgroup of our own; `None` where that cannot be had.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(limit: u64) -> Option<Self> {
        let name = format!("multifd-qpl-test-{}", std::process::id());
        for (root, file) in
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
        {
            let dir = Path::new(root).join(&name);
            if fs::create_dir(&dir).is_ok() {
                // Dropped, and so removed, if the limit cannot be set.
                let cgroup = Self(dir);
                if fs::write(cgroup.0.join(file), limit.to_string()).is_ok() {
                    return Some(cgroup);
                }
            }
        }
        None
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Its processes have ended; a leftover would be empty.
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_guest_that_does_not_fit_its_memory_cgroup_is_never_reported_received() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recording").display().to_string();
    run(&["generate", &path, "--ram", "256M", "--used", "256M", "--method", "qpl"]);
    let Some(cgroup) = Cgroup::new(96 << 20) else {
        eprintln!("skipped: no memory cgroup can be made here");
        return;
    };
    for placement in ["place", "populate", "fault"] {
        let script = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", cgroup.0.display(),);
        let report = dir.path().join("report.json");
        let done = Command::new("sh")
            .args(["-c", &script, "sh", PROGRAM, "replay", &path, "--placement", placement])
            .arg("--report")
            .arg(&report)
            .output()
            .unwrap();
        // Killed by the kernel, or an error of ours; received in no case.
        assert_ne!(done.status.code(), Some(0), "{placement}");
        if done.status.code().is_some() {
            assert_eq!(done.status.code(), Some(1), "{placement}");
            assert!(!done.stderr.is_empty(), "{placement}: no word about it");
        }
        if let Ok(text) = fs::read_to_string(&report) {
            assert!(!text.contains("\"received\""), "{placement}: {text}");
        }
        let _ = fs::remove_file(&report);
    }
}
