//! A migration that breaks off: exit code 1, one clear sentence, and nothing that looks received.

use crate::command::{self, report};
use crate::qemu::{Machine, Migration, Qemu, Version};
use crate::receiving::{listen_address, receive_arguments};
use crate::wait_for;
use serde_json::json;
use tempfile::TempDir;

/// Starts an endless migration, breaks it off with `end` in the middle, and looks at what is left.
fn broken_off(version: Version, migration: &Migration, end: impl FnOnce(Qemu)) {
    let Some(qemu) = version.require() else { return };
    let machine = Machine::pc(&qemu);
    let directory = TempDir::new().expect("a temporary directory");
    let mut source = Qemu::source(&machine);
    let mut receiver = command::start(&format!(
        "receive --listen {} {}",
        listen_address("tcp", directory.path()),
        receive_arguments(migration, directory.path()),
    ));
    let address = receiver.address();
    source.migrate_endlessly(migration, &address);
    end(source);

    let ended = receiver.wait();
    assert_eq!(ended.code, Some(1), "exit code; standard error: {}", ended.stderr);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    let report = report(&directory.path().join("report.json"));
    let error = report["error"].as_str().unwrap_or_else(|| panic!("no error in {report}"));
    assert!(!error.is_empty(), "{report}");
    let manifest = directory.path().join("ram").join("manifest.json");
    assert!(!manifest.exists(), "a broken migration left a manifest");
}

/// Cancels, and demands that the source and its guest are none the worse for it.
fn cancel(mut source: Qemu) {
    source.execute("migrate_cancel", json!({}));
    source.expect_migration("cancelled");
    assert_eq!(source.run_state(), "running");
    let before = source.console_bytes();
    wait_for("the guest's sign of life", || (source.console_bytes() > before).then_some(()));
}

#[test]
fn a_cancelled_migration_with_a_return_path() {
    broken_off(Version::V10_0, &Migration::new("zstd", 2, true), cancel);
}

#[test]
fn a_cancelled_migration_without_a_return_path() {
    broken_off(Version::V10_0, &Migration::new("none", 2, false), cancel);
}

#[test]
fn a_cancelled_migration_of_7_2() {
    broken_off(Version::V7_2, &Migration::new("zlib", 2, true), cancel);
}

#[test]
fn a_killed_source() {
    broken_off(Version::V10_0, &Migration::new("zlib", 2, true), Qemu::kill);
}

#[test]
fn a_killed_source_of_7_2() {
    broken_off(Version::V7_2, &Migration::new("none", 4, false), Qemu::kill);
}

/// Starts a receiver with more arguments than usual; it must refuse the migration at once, tell
/// the source, and leave the guest runnable. Returns the error.
fn refused(migration: &Migration, told: &Migration, more: &str) -> Option<String> {
    let machine = Machine::pc(&Version::V10_0.require()?);
    let directory = TempDir::new().expect("a temporary directory");
    let mut source = Qemu::source(&machine);
    let mut receiver = command::start(&format!(
        "receive {more} --listen {} {}",
        listen_address("unix", directory.path()),
        receive_arguments(told, directory.path()),
    ));
    let address = receiver.address();
    source.migrate_stopped(migration, &address);
    let ended = receiver.wait();
    assert_eq!(ended.code, Some(1), "exit code; standard error: {}", ended.stderr);
    source.expect_migration("failed");
    source.execute("cont", json!({}));
    assert_eq!(source.run_state(), "running");
    let report = report(&directory.path().join("report.json"));
    assert!(!directory.path().join("ram").join("manifest.json").exists());
    let error = report["error"].as_str().unwrap_or_else(|| panic!("no error in {report}"));
    Some(error.to_owned())
}

#[test]
fn a_method_that_was_not_expected() {
    let told = Migration::new("zstd", 2, true);
    let Some(error) = refused(&Migration { method: "zlib", ..told }, &told, "") else { return };
    assert!(error.contains("zlib") && error.contains("zstd"), "{error}");
}

#[test]
fn more_channels_than_expected() {
    let told = Migration::new("none", 2, true);
    let Some(error) = refused(&Migration { channels: 4, ..told }, &told, "") else { return };
    assert!(error.contains("channel"), "{error}");
}

#[test]
fn more_ram_than_allowed() {
    let migration = Migration::new("none", 2, true);
    let Some(error) = refused(&migration, &migration, "--max-ram 8M") else { return };
    assert!(!error.is_empty());
}
