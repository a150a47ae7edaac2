//! What the tests of the receiver share: migrations made by hand, ways to
//! deliver them, and a watchdog.

#![allow(dead_code, reason = "each test program uses a part of this")]

pub mod channel;
pub mod deliver;
pub mod main_stream;
pub mod migration;
pub mod pages;
pub mod recordings;

use std::{any::Any, panic, sync::mpsc, thread, time::Duration};

/// No test of one migration takes this long; it keeps a broken receiver from
/// hanging the tests.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Runs `work` on a thread of its own and fails if it does not come back.
pub fn watched<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, done) = mpsc::channel();
    let worker = thread::spawn(move || {
        // Nobody waits any more when the deadline has passed.
        drop(send.send(panic::catch_unwind(panic::AssertUnwindSafe(work))));
    });
    match done.recv_timeout(DEADLINE) {
        Ok(Ok(value)) => {
            worker.join().expect("a watched thread catches its panics");
            value
        }
        Ok(Err(panicked)) => resume(panicked),
        Err(_) => panic!("still not over after {} seconds", DEADLINE.as_secs()),
    }
}

fn resume(panicked: Box<dyn Any + Send>) -> ! {
    panic::resume_unwind(panicked)
}
