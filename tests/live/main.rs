//! Live migrations out of, and recordings into, stock QEMUs.
//!
//! A QEMU of Debian runs `tests/guest/guest.S` under TCG. While that guest keeps rewriting its
//! RAM the QEMU migrates into the `multifd-qpl` command, and what the command received is compared
//! byte for byte with what a QEMU says the guest had. Two QEMUs are used, because their streams
//! differ in almost every respect: 7.2 (a mark at the end of each section, zero pages on the main
//! stream, repeated pages) and 10.0 (a mark for each round, zero pages in the packets).
//!
//! What a comparison is made with:
//! - a 10.0 source is paused after the migration, and `pmemsave` writes its RAM to a file;
//! - a 7.2 source under TCG can miss a few dirty pages, so its own RAM is no yardstick while the
//!   guest runs. Its stream is recorded, and a real 7.2 destination is fed with the recording: the
//!   RAM there must be the RAM that we decode. With a guest stopped before the migration its own
//!   RAM is exact, and is used.
//!
//! `ci/install-qemu` installs both QEMUs. A test whose QEMU is missing says so on standard error
//! and passes; with `MULTIFD_QPL_REQUIRE_QEMU=1` it fails.

mod command;
mod failing;
mod guest;
mod qemu;
mod qmp;
mod qpl;
mod ram;
mod receiving;
mod recording;
mod resuming;

use std::time::{Duration, Instant};

/// No wait in these tests takes longer. It only keeps a broken test from hanging.
const DEADLINE: Duration = Duration::from_secs(120);

/// Polls until there is an answer. Panics when there is none within [`DEADLINE`].
fn wait_for<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = poll() {
            return answer;
        }
        assert!(Instant::now() < end, "timed out waiting for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
