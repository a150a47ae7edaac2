//! A job and the block of memory it lives in.
//!
//! libqpl lays a job out inside a block that the caller provides: descriptor,
//! completion record and tables, tied together by absolute pointers. The device
//! writes into the block while the job runs. From that follow the rules which
//! [`Job`] keeps for everybody else:
//!
//! * The block is pages of its own, mapped and resident before the first
//!   submission, locked where the limits allow it. A device that met a missing
//!   page here could not even report it. Some ten blocks share one huge page
//!   where the host has them, which saves as many page faults as a block has
//!   pages, and a TLB flush for each block in the end.
//! * It never moves and is never freed under a running job. A job that is
//!   dropped while it runs leaves its block mapped for ever: a leak is the
//!   price of a device that does not answer.
//! * A block whose set-up failed is dropped. libqpl has marked it for its
//!   software path by then, in a block too small for that.
//! * The end of a job is asked for until it is seen once, and not again.
//!
//! Setting up a job in fresh memory costs some 75 µs, in warm memory 2 to 4 µs;
//! so jobs are kept and reused.

use std::{
    io,
    marker::PhantomData,
    mem::ManuallyDrop,
    ptr::NonNull,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use super::{Device, Outcome, Request, Status};
use crate::wire::PAGE_SIZE;

/// Why there is no job.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// No memory for its block.
    #[error("no memory for a job of the device: {0}")]
    Memory(#[source] io::Error),
    /// The device's library refused.
    #[error("{0}")]
    Refused(Status),
}

/// Bytes of an area: one transparent huge page on x86-64.
const AREA: usize = 2 << 20;

/// Resident memory for several blocks. Unmapped with the last of them.
#[derive(Debug)]
struct Area {
    mapped: NonNull<u8>,
    mapped_len: usize,
    /// Where the aligned part begins, and how long it is.
    offset: usize,
    len: usize,
}

// SAFETY: an area is an address range and no more; each part of it is used by
// the block that it was given to.
unsafe impl Send for Area {}
// SAFETY: as for Send; no method reads or writes the memory itself.
unsafe impl Sync for Area {}

impl Area {
    fn new(len: usize) -> io::Result<Self> {
        let len = len.checked_next_multiple_of(AREA).ok_or(io::ErrorKind::OutOfMemory)?;
        let mapped_len = len.checked_add(AREA).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's
        // choice replaces nothing.
        let mapped = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped_len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapped =
            NonNull::new(mapped.cast::<u8>()).ok_or_else(|| io::Error::other("mmap gave null"))?;
        let offset = mapped.as_ptr().addr().next_multiple_of(AREA) - mapped.as_ptr().addr();
        let area = Self { mapped, mapped_len, offset, len };
        let start = area.part(0);
        // Only advice: without huge pages the area is small ones.
        // SAFETY: the range lies in the mapping, and advice changes no content.
        unsafe { libc::madvise(start.cast(), len, libc::MADV_HUGEPAGE) };
        for page in (0..len).step_by(PAGE_SIZE) {
            // SAFETY: the page lies in the mapping, which nobody else knows of.
            unsafe { start.add(page).write_volatile(0) };
        }
        // It is resident now; the lock keeps it so under memory pressure. Where
        // RLIMIT_MEMLOCK forbids that, most hosts don't swap.
        // SAFETY: the range was just mapped.
        let _ = unsafe { libc::mlock(start.cast(), len) };
        Ok(area)
    }

    fn part(&self, offset: usize) -> *mut u8 {
        self.mapped.as_ptr().wrapping_add(self.offset + offset)
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: `new` mapped this range, and `Job` drops its block only when
        // no device writes it any more.
        unsafe { libc::munmap(self.mapped.as_ptr().cast(), self.mapped_len) };
    }
}

/// Resident memory of its own, aligned to a page.
#[derive(Debug)]
struct Block {
    start: NonNull<u8>,
    /// Keeps the memory mapped.
    _area: Arc<Area>,
}

// SAFETY: a block is plain memory that its owner alone uses.
unsafe impl Send for Block {}

/// The newest area, and where its part begins that was never given out.
static NEWEST: Mutex<(Weak<Area>, usize)> = Mutex::new((Weak::new(), 0));

impl Block {
    fn new(len: usize) -> io::Result<Self> {
        let len = len.checked_next_multiple_of(PAGE_SIZE).ok_or(io::ErrorKind::OutOfMemory)?;
        // The two values are changed together below, where nothing panics.
        let mut newest = NEWEST.lock().unwrap_or_else(PoisonError::into_inner);
        let (area, offset) = match newest.0.upgrade() {
            Some(area) if area.len - newest.1 >= len => (area, newest.1),
            _ => (Arc::new(Area::new(len)?), 0),
        };
        *newest = (Arc::downgrade(&area), offset + len);
        let start =
            NonNull::new(area.part(offset)).ok_or_else(|| io::Error::other("mmap gave null"))?;
        Ok(Self { start, _area: area })
    }
}

/// What one look at a job shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The device is working.
    Running,
    /// Finished, and with which result. Never [`Status::Running`].
    Finished(Result<Outcome, Status>),
}

/// One job: set up once, then submitted again and again.
///
/// May go from thread to thread; two threads must not use it at once, which
/// `&mut self` in all methods and the missing `Sync` rule out.
#[derive(Debug)]
pub struct Job {
    device: Arc<dyn Device>,
    /// Dropped by hand: not at all while a job runs.
    block: ManuallyDrop<Block>,
    running: bool,
    not_sync: PhantomData<std::cell::Cell<()>>,
}

impl Job {
    /// Maps a block and sets a job up in it.
    pub fn new(device: &Arc<dyn Device>) -> Result<Self, JobError> {
        let size = device.job_size().map_err(|raw| JobError::Refused(Status::from_raw(raw)))?;
        let block = Block::new(size).map_err(JobError::Memory)?;
        // SAFETY: the block is fresh, page-aligned and of the size asked for.
        match Status::from_raw(unsafe { device.init(block.start) }) {
            Status::Done => Ok(Self {
                device: Arc::clone(device),
                block: ManuallyDrop::new(block),
                running: false,
                not_sync: PhantomData,
            }),
            refused => Err(JobError::Refused(refused)),
        }
    }

    /// Hands the job to the device.
    ///
    /// # Safety
    ///
    /// The source is readable, the destination writable for a page; they do not
    /// overlap and are resident. Both stay mapped until [`look`](Self::look)
    /// has returned [`Look::Finished`], or for ever where it never does, also
    /// when the job is dropped before. No Rust reference to the destination is
    /// alive until then.
    ///
    /// # Panics
    ///
    /// When the job is running.
    #[inline]
    pub unsafe fn submit(&mut self, request: &Request) -> Result<(), Status> {
        assert!(!self.running, "a job was submitted while it was running");
        // SAFETY: `new` set the job up in a block that has not moved, it is not
        // running, and the caller answers for the buffers.
        match Status::from_raw(unsafe { self.device.submit(self.block.start, request) }) {
            Status::Done => {
                self.running = true;
                Ok(())
            }
            refused => Err(refused),
        }
    }

    /// Looks once whether the job is finished.
    ///
    /// # Panics
    ///
    /// When no job is running.
    #[inline]
    pub fn look(&mut self) -> Look {
        assert!(self.running, "a job was looked at that is not running");
        // SAFETY: the job was submitted, and a look that shows its end clears
        // `running`, so there is no second one.
        match Status::from_raw(unsafe { self.device.check(self.block.start) }) {
            Status::Running => Look::Running,
            Status::Done => {
                self.running = false;
                // SAFETY: `check` has just returned 0.
                Look::Finished(Ok(unsafe { self.device.outcome(self.block.start) }))
            }
            failed => {
                self.running = false;
                Look::Finished(Err(failed))
            }
        }
    }

    /// Sets the job up anew, or drops it. libqpl handles one page fault in the
    /// life of a job and returns every later one; this begins a new life.
    ///
    /// # Panics
    ///
    /// When the job is running.
    pub fn renew(self) -> Option<Self> {
        assert!(!self.running, "a job was renewed while it was running");
        let mut job = ManuallyDrop::new(self);
        // SAFETY: the job is set up and idle.
        unsafe { job.device.fini(job.block.start) };
        // SAFETY: the block is of the size asked for, and idle.
        if unsafe { job.device.init(job.block.start) } == 0 {
            return Some(ManuallyDrop::into_inner(job));
        }
        // A block whose set-up failed is dropped, and not ended once more.
        // SAFETY: `job` is never dropped itself, and not used again.
        unsafe {
            ManuallyDrop::drop(&mut job.block);
            std::ptr::drop_in_place(&mut job.device);
        }
        None
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.running && self.look() == Look::Running {
            return;
        }
        // SAFETY: the job is set up and idle.
        unsafe { self.device.fini(self.block.start) };
        // SAFETY: dropped here and nowhere else.
        unsafe { ManuallyDrop::drop(&mut self.block) };
    }
}
