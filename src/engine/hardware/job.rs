//! A job and the block of memory it lives in.
//!
//! libqpl lays a job out inside a block that the caller provides: descriptor,
//! completion record and tables, tied together by absolute pointers. The device
//! writes into the block while the job runs. From that follow the rules which
//! [`Job`] keeps for everybody else:
//!
//! * The block is pages of its own, mapped and resident before the first
//!   submission, locked where the limits allow it. A device that met a missing
//!   page here could not even report it.
//! * It never moves and is never freed under a running job. A job that is
//!   dropped while it runs leaves its block mapped for ever: a leak is the
//!   price of a device that does not answer.
//! * A block whose set-up failed is dropped. libqpl has marked it for its
//!   software path by then, in a block too small for that.
//! * The end of a job is asked for until it is seen once, and not again.
//!
//! Setting up a job in fresh memory costs some 75 µs, in warm memory 2 to 4 µs;
//! so jobs are kept and reused.

use std::{io, marker::PhantomData, mem::ManuallyDrop, ptr::NonNull, sync::Arc};

use super::{Device, Outcome, Request, Status};

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

/// Resident memory of its own, aligned to a page.
#[derive(Debug)]
struct Block {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a block is plain memory that its owner alone uses.
unsafe impl Send for Block {}

impl Block {
    fn new(len: usize) -> io::Result<Self> {
        // SAFETY: a fresh anonymous mapping at an address of the kernel's
        // choice replaces nothing.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // MAP_POPULATE made it resident; the lock keeps it so under memory
        // pressure. Where RLIMIT_MEMLOCK forbids that, most hosts don't swap.
        // SAFETY: the range was just mapped.
        let _ = unsafe { libc::mlock(start, len) };
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mmap gave null"))?;
        Ok(Self { start, len })
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: `new` mapped this range, and `Job` drops its block only when
        // no device writes it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
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
