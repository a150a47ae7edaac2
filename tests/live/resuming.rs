//! `--resume-source`: a live snapshot, after which the guest runs on at the source.

use crate::command::{self, report};
use crate::qemu::{Machine, Migration, Qemu, Version};
use crate::ram::ReceivedRam;
use crate::receiving::{listen_address, receive_arguments};
use crate::wait_for;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Takes a snapshot of a guest that runs or stands still; returns the source.
fn snapshot(version: Version, running: bool) -> Option<(Qemu, ReceivedRam, TempDir)> {
    let machine = Machine::pc(&version.require()?);
    let migration = Migration::new("zstd", 2, true);
    let directory = TempDir::new().expect("a temporary directory");
    let mut source = Qemu::source(&machine);
    let mut receiver = command::start(&format!(
        "receive --resume-source --listen {} {}",
        listen_address("unix", directory.path()),
        receive_arguments(&migration, directory.path()),
    ));
    let address = receiver.address();
    if running {
        source.migrate(&migration, &address);
    } else {
        source.migrate_stopped(&migration, &address);
    }
    receiver.expect_success();
    source.expect_migration("failed");

    let report = report(&directory.path().join("report.json"));
    assert_eq!(report["error"], Value::Null, "{report}");
    let received = ReceivedRam::open(&directory.path().join("ram"));
    received.assert_untouched_zeros(machine.ram_bytes());
    Some((source, received, directory))
}

fn assert_runs_on(source: &mut Qemu) {
    wait_for("the source to run", || (source.run_state() == "running").then_some(()));
    let before = source.console_bytes();
    wait_for("the guest's sign of life", || (source.console_bytes() > before).then_some(()));
}

#[test]
fn the_guest_of_10_0_runs_on() {
    let Some((mut source, _, _directory)) = snapshot(Version::V10_0, true) else { return };
    assert_runs_on(&mut source);
}

#[test]
fn the_guest_of_7_2_runs_on() {
    let Some((mut source, _, _directory)) = snapshot(Version::V7_2, true) else { return };
    assert_runs_on(&mut source);
}

/// A guest that stood still shows that the snapshot is complete, and can be started afterwards.
#[test]
fn the_snapshot_is_complete() {
    let Some((mut source, received, _directory)) = snapshot(Version::V10_0, false) else { return };
    received.assert_equals(&mut source);
    source.execute("cont", json!({}));
    assert_runs_on(&mut source);
}

/// After a snapshot the source can migrate again, and then for good.
#[test]
fn the_source_migrates_again() {
    let Some((mut source, _, _directory)) = snapshot(Version::V10_0, true) else { return };
    assert_runs_on(&mut source);
    let migration = Migration::new("zstd", 2, true);
    let directory = TempDir::new().expect("a temporary directory");
    let mut receiver = command::start(&format!(
        "receive --listen {} {}",
        listen_address("tcp", directory.path()),
        receive_arguments(&migration, directory.path()),
    ));
    let address = receiver.address();
    source.migrate(&migration, &address);
    receiver.expect_success();
    source.expect_migration("completed");
    ReceivedRam::open(&directory.path().join("ram")).assert_equals(&mut source);
}
