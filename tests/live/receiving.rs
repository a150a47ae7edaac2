//! A source migrates live into `multifd-qpl receive`; the RAM received is the source's.

use crate::command::{self, report};
use crate::qemu::{Machine, Migration, Qemu, Version};
use crate::ram::ReceivedRam;
use serde_json::Value;
use std::path::Path;
use tempfile::TempDir;

/// A `--listen` address: tcp with a port of the system's choice, or a socket in `directory`.
pub fn listen_address(kind: &str, directory: &Path) -> String {
    match kind {
        "tcp" => "tcp:127.0.0.1:0".to_owned(),
        _ => format!("unix:{}", directory.join("socket").display()),
    }
}

/// What `receive` is told about a migration, without the address.
pub fn receive_arguments(migration: &Migration, directory: &Path) -> String {
    format!(
        "--channels {} --method {} --ram-dir {ram} --report {report}",
        migration.channels,
        migration.method,
        ram = directory.join("ram").display(),
        report = directory.join("report.json").display(),
    )
}

/// Migrates a running guest in several rounds and compares. Returns the report.
pub fn receive_live(machine: &Machine, migration: &Migration, transport: &str) -> Value {
    let directory = TempDir::new().expect("a temporary directory");
    let mut source = Qemu::source(machine);
    let mut receiver = command::start(&format!(
        "receive --listen {} {}",
        listen_address(transport, directory.path()),
        receive_arguments(migration, directory.path()),
    ));
    let address = receiver.address();
    source.migrate(migration, &address);
    receiver.expect_success();
    source.expect_migration("completed");
    assert_eq!(source.run_state(), "postmigrate");

    let received = ReceivedRam::open(&directory.path().join("ram"));
    received.assert_equals(&mut source);
    if migration.zero_pages != Some("none") {
        received.assert_untouched_zeros(machine.ram_bytes());
    }

    let report = report(&directory.path().join("report.json"));
    assert_eq!(report["error"], Value::Null, "{report}");
    assert_eq!(report["method"], migration.method, "{report}");
    assert_eq!(report["channels"], migration.channels, "{report}");
    assert!(report["rounds"].as_u64() > Some(1), "{report}");
    assert!(report["pages"]["normal"].as_u64() > Some(0), "{report}");
    report
}

fn receive_from_10_0(kind: &'static str, migration: &Migration, transport: &str) -> Option<Value> {
    let qemu = Version::V10_0.require()?;
    let machine = Machine { kind, ..Machine::pc(&qemu) };
    Some(receive_live(&machine, migration, transport))
}

#[test]
fn none_over_tcp_with_a_return_path() {
    receive_from_10_0("pc", &Migration::new("none", 2, true), "tcp");
}

#[test]
fn none_over_unix_on_one_channel() {
    receive_from_10_0("pc", &Migration::new("none", 1, false), "unix");
}

#[test]
fn zlib_over_tcp_on_four_channels() {
    receive_from_10_0("pc", &Migration::new("zlib", 4, false), "tcp");
}

#[test]
fn zlib_over_unix_with_a_return_path() {
    receive_from_10_0("pc", &Migration::new("zlib", 2, true), "unix");
}

#[test]
fn zstd_over_tcp_on_one_channel() {
    receive_from_10_0("pc", &Migration::new("zstd", 1, true), "tcp");
}

#[test]
fn zstd_over_unix_on_four_channels() {
    receive_from_10_0("pc", &Migration::new("zstd", 4, false), "unix");
}

#[test]
fn a_machine_type_with_a_mark_after_each_section() {
    receive_from_10_0("pc-i440fx-7.2", &Migration::new("zstd", 2, true), "unix");
    receive_from_10_0("pc-q35-8.0", &Migration::new("none", 2, false), "tcp");
}

#[test]
fn zero_pages_on_the_main_stream() {
    let legacy = Migration { zero_pages: Some("legacy"), ..Migration::new("zlib", 2, true) };
    if let Some(report) = receive_from_10_0("pc", &legacy, "unix") {
        assert!(report["pages"]["legacy_zero"].as_u64() > Some(0), "{report}");
    }
}

#[test]
fn zero_pages_in_the_packets() {
    let multifd = Migration { zero_pages: Some("multifd"), ..Migration::new("none", 2, true) };
    if let Some(report) = receive_from_10_0("pc-i440fx-7.2", &multifd, "unix") {
        assert_eq!(report["pages"]["legacy_zero"], 0, "{report}");
        assert!(report["pages"]["zero"].as_u64() > Some(0), "{report}");
    }
}

#[test]
fn zero_pages_sent_as_data() {
    let none = Migration { zero_pages: Some("none"), ..Migration::new("zstd", 2, false) };
    if let Some(report) = receive_from_10_0("pc", &none, "unix") {
        assert_eq!(report["pages"]["legacy_zero"], 0, "{report}");
        assert_eq!(report["pages"]["zero"], 0, "{report}");
    }
}

/// The source waits for an acknowledgement before it stops the guest.
#[test]
fn a_source_that_wants_the_switchover_acknowledged() {
    let migration =
        Migration { capabilities: &["switchover-ack"], ..Migration::new("zstd", 2, true) };
    receive_from_10_0("pc", &migration, "tcp");
}

/// The source's UUID stands in the stream's configuration as well.
#[test]
fn a_source_that_sends_its_uuid() {
    let migration =
        Migration { capabilities: &["validate-uuid"], ..Migration::new("none", 2, false) };
    receive_from_10_0("pc", &migration, "unix");
}

/// A 7.2 source whose guest stands still has nothing to lose: its own RAM is exact.
#[test]
fn a_stopped_guest_of_7_2() {
    let Some(qemu) = Version::V7_2.require() else { return };
    let machine = Machine::pc(&qemu);
    for (migration, transport) in [
        (Migration::new("none", 2, true), "tcp"),
        (Migration::new("zlib", 1, false), "unix"),
        (Migration::new("zstd", 4, true), "unix"),
    ] {
        let directory = TempDir::new().expect("a temporary directory");
        let mut source = Qemu::source(&machine);
        let mut receiver = command::start(&format!(
            "receive --listen {} {}",
            listen_address(transport, directory.path()),
            receive_arguments(&migration, directory.path()),
        ));
        let address = receiver.address();
        source.migrate_stopped(&migration, &address);
        receiver.expect_success();
        source.expect_migration("completed");
        let received = ReceivedRam::open(&directory.path().join("ram"));
        received.assert_equals(&mut source);
        received.assert_untouched_zeros(machine.ram_bytes());
    }
}
