//! `record`, `replay` and `send`: a live migration stored, decoded here, and fed into a real QEMU.
//!
//! The destination QEMU is a judge of its own: it decodes the same bytes with its own code, and its
//! RAM must be the RAM that `replay` finds in them, to the last byte.

use crate::command::{self, report};
use crate::qemu::{Machine, Migration, Qemu, Version};
use crate::ram::ReceivedRam;
use crate::receiving::listen_address;
use serde_json::Value;
use std::path::Path;
use tempfile::TempDir;

/// Records the migration of a running guest in several rounds. Returns the source.
fn record(machine: &Machine, migration: &Migration, directory: &Path) -> Qemu {
    let mut source = Qemu::source(machine);
    let mut recorder = command::start(&format!(
        "record --listen {} --channels {} {}",
        listen_address("unix", directory),
        migration.channels,
        directory.join("recording").display(),
    ));
    let address = recorder.address();
    source.migrate(migration, &address);
    recorder.expect_success();
    source.expect_migration("completed");
    source
}

/// Replays with a number of workers; returns the RAM and the report.
fn replay(directory: &Path, workers: u32) -> (ReceivedRam, Value) {
    let ram = directory.join(format!("ram-{workers}"));
    let file = directory.join(format!("report-{workers}.json"));
    command::run(&format!(
        "replay {} --sha256 --workers {workers} --ram-dir {} --report {}",
        directory.join("recording").display(),
        ram.display(),
        file.display(),
    ));
    (ReceivedRam::open(&ram), report(&file))
}

/// The name and digest of each block.
fn digests(report: &Value) -> Vec<(&Value, &Value)> {
    let blocks = report["blocks"].as_array().expect("a list of blocks");
    blocks
        .iter()
        .map(|block| {
            assert!(block["sha256"].is_string(), "no digest in {block}");
            (&block["name"], &block["sha256"])
        })
        .collect()
}

/// Records, replays twice, sends to a QEMU that listens at a `transport` address, compares.
/// `source_ram` says whether the source's own RAM is exact, and compares with that as well.
pub fn record_and_send(
    machine: &Machine,
    migration: &Migration,
    transport: &str,
    source_ram: bool,
) {
    let directory = TempDir::new().expect("a temporary directory");
    let mut source = record(machine, migration, directory.path());
    let (received, report) = replay(directory.path(), 1);
    let (_, again) = replay(directory.path(), 8);
    assert!(report["rounds"].as_u64() > Some(1), "{report}");
    assert_eq!(digests(&report), digests(&again), "one worker and eight");
    if source_ram {
        received.assert_equals(&mut source);
    }
    drop(source);

    let mut destination = Qemu::destination(machine);
    let uri = match transport {
        "tcp" => "tcp:127.0.0.1:0".to_owned(),
        _ => format!("unix:{}", directory.path().join("destination").display()),
    };
    let address = destination.listen(migration, &uri);
    command::run(&format!("send {} --to {address}", directory.path().join("recording").display()));
    destination.expect_migration("completed");
    received.assert_equals(&mut destination);
}

#[test]
fn sent_to_10_0_over_tcp() {
    let Some(qemu) = Version::V10_0.require() else { return };
    record_and_send(&Machine::pc(&qemu), &Migration::new("zstd", 2, true), "tcp", true);
}

#[test]
fn sent_to_10_0_over_unix() {
    let Some(qemu) = Version::V10_0.require() else { return };
    record_and_send(&Machine::pc(&qemu), &Migration::new("none", 4, false), "unix", true);
}

#[test]
fn sent_to_10_0_with_a_mark_after_each_section() {
    let Some(qemu) = Version::V10_0.require() else { return };
    let machine = Machine { kind: "pc-q35-8.0", ..Machine::pc(&qemu) };
    record_and_send(&machine, &Migration::new("zlib", 2, true), "unix", true);
}

#[test]
fn none_of_7_2_sent_to_7_2() {
    let Some(qemu) = Version::V7_2.require() else { return };
    record_and_send(&Machine::pc(&qemu), &Migration::new("none", 2, true), "tcp", false);
}

#[test]
fn zlib_of_7_2_sent_to_7_2() {
    let Some(qemu) = Version::V7_2.require() else { return };
    record_and_send(&Machine::pc(&qemu), &Migration::new("zlib", 4, false), "unix", false);
}

#[test]
fn zstd_of_7_2_sent_to_7_2() {
    let Some(qemu) = Version::V7_2.require() else { return };
    record_and_send(&Machine::pc(&qemu), &Migration::new("zstd", 1, true), "unix", false);
}
