//! The map and the write guards under every order that loom can find.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test --release --test ram_loom`. Two
//! threads and a handful of atomic operations each: small enough to be explored
//! completely, hence no preemption bound.

#![cfg(loom)]

use loom::{cell::UnsafeCell, sync::Arc, thread};
use multifd_qpl::ram::{ReceivedMap, WriteGuards};

/// Marks in one word by two threads are all kept.
#[test]
fn mark_against_mark() {
    loom::model(|| {
        let map = Arc::new(ReceivedMap::new(0, 64).unwrap());
        let other = Arc::clone(&map);
        let thread = thread::spawn(move || {
            other.mark_zero(&[0, 1], |_, _| ()).unwrap();
            other.mark_written(0, 0b100);
            other.mark_received(0, 0b100);
        });
        map.mark_zero(&[1, 3], |_, _| ()).unwrap();
        map.mark_written(0, 0b1_0000);
        thread.join().unwrap();
        assert_eq!((map.received(0), map.written(0)), (0b1111, 0b1_0100));
    });
}

/// One page of guest memory: loom complains of unordered access.
struct Page {
    map: ReceivedMap,
    guards: WriteGuards,
    byte: UnsafeCell<u8>,
}

// SAFETY: that access to `byte` is ordered is what the models check.
unsafe impl Sync for Page {}
// SAFETY: as for Sync.
unsafe impl Send for Page {}

impl Page {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            map: ReceivedMap::new(0, 1).unwrap(),
            guards: WriteGuards::new(1),
            byte: UnsafeCell::new(0),
        })
    }

    fn guarded(&self, work: impl FnOnce()) {
        while self.guards.try_acquire(0, 1) != 1 {
            thread::yield_now();
        }
        work();
        self.guards.release(0, 1);
    }

    /// As a landing does it.
    fn data(&self, value: u8) {
        self.guarded(|| {
            self.map.mark_written(0, 1);
            // SAFETY: the guard is held.
            self.byte.with_mut(|byte| unsafe { *byte = value });
            self.map.mark_received(0, 1);
        });
    }

    /// As `zero_pages` does it.
    fn zero(&self) {
        let mut written = 0;
        self.map.mark_zero(&[0], |_, mask| written = mask).unwrap();
        if written != 0 {
            self.guarded(|| {
                if self.map.written(0) != 0 {
                    // SAFETY: the guard is held.
                    self.byte.with_mut(|byte| unsafe { *byte = 0 });
                    self.map.mark_cleared(0, 1);
                }
                self.map.mark_received(0, 1);
            });
        }
    }

    fn read(&self) -> u8 {
        // SAFETY: called when the page is quiet.
        self.byte.with(|byte| unsafe { *byte })
    }
}

/// Two copies of one page: either is left, never stored at the same time.
#[test]
fn data_against_data() {
    loom::model(|| {
        let page = Page::new();
        let other = Arc::clone(&page);
        let thread = thread::spawn(move || other.data(1));
        page.data(2);
        thread.join().unwrap();
        assert!(matches!(page.read(), 1 | 2));
        assert_eq!((page.map.received(0), page.map.written(0)), (1, 1));
    });
}

/// Zero and data for one page at one time: either is left, and a page without
/// the *written* bit is zero.
#[test]
fn zero_against_data() {
    loom::model(|| {
        let page = Page::new();
        let other = Arc::clone(&page);
        let thread = thread::spawn(move || other.data(1));
        page.zero();
        thread.join().unwrap();
        assert_eq!(page.map.received(0), 1);
        assert_eq!(page.map.written(0) != 0, page.read() != 0);
    });
}

/// Two threads that clear one page do it once.
#[test]
fn zero_against_zero() {
    loom::model(|| {
        let page = Page::new();
        page.data(1);
        let other = Arc::clone(&page);
        let thread = thread::spawn(move || other.zero());
        page.zero();
        thread.join().unwrap();
        assert_eq!((page.map.received(0), page.map.written(0), page.read()), (1, 0, 0));
    });
}

/// Whoever sees *received* without holding a guard sees *written* and the bytes.
#[test]
fn received_publishes_the_bytes() {
    loom::model(|| {
        let page = Page::new();
        let other = Arc::clone(&page);
        let thread = thread::spawn(move || other.data(1));
        if page.map.is_received(0) {
            assert_eq!((page.map.written(0), page.read()), (1, 1));
        }
        thread.join().unwrap();
    });
}
