//! The seam between the engine and whatever runs its jobs.
//!
//! [`Device`] is all that the engine knows of libqpl: five functions over a
//! block of memory. Behind it stand [`LibQpl`](super::LibQpl), and
//! [`Simulator`](super::Simulator), which fails in every way that a device can
//! and so lets each error path run where there is neither device nor library.
//!
//! Numbers stay libqpl's own at this seam, so that a simulated failure takes
//! the same way through [`Status`](super::Status) as a real one.

use std::ptr::NonNull;

/// Makes one page of one block.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// The raw DEFLATE block.
    pub source: *const u8,
    /// Bytes of the block.
    pub len: u32,
    /// Where 4096 bytes go.
    pub destination: *mut u8,
}

/// What a finished job left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes of the block that were used.
    pub total_in: u32,
    /// Bytes that came out.
    pub total_out: u32,
    /// CRC-32 of what came out.
    pub crc: u32,
}

/// Runs jobs, each in a block of memory of its own.
pub trait Device: Send + Sync + std::fmt::Debug {
    /// What this is, for the report: `libqpl 1.9.0`.
    fn name(&self) -> String;

    /// Bytes of a job's block.
    fn job_size(&self) -> Result<usize, u32>;

    /// Lays a job out in its block and returns the status.
    ///
    /// # Safety
    ///
    /// `block` points to [`job_size`](Self::job_size) writable bytes, aligned to
    /// 64, that nobody else uses and no device may still write.
    unsafe fn init(&self, block: NonNull<u8>) -> u32;

    /// Hands a job to the device and returns the status. With 0 the block, the
    /// source and the destination belong to the device until
    /// [`check`](Self::check) has returned something else than 1.
    ///
    /// # Safety
    ///
    /// * `init` returned 0 for `block`, which has not moved since, and no job
    ///   runs in it.
    /// * `source` is readable for `len` bytes, `destination` writable for 4096,
    ///   and they do not overlap. Both are resident, stay mapped until the job
    ///   is finished, and nothing that is a Rust reference is written.
    unsafe fn submit(&self, block: NonNull<u8>, request: &Request) -> u32;

    /// Looks once whether the job is finished: 1 while it runs, else its status,
    /// 0 for success. Never waits.
    ///
    /// # Safety
    ///
    /// A job was submitted in `block`, and no call since then has returned
    /// anything but 1.
    unsafe fn check(&self, block: NonNull<u8>) -> u32;

    /// What the job left behind.
    ///
    /// # Safety
    ///
    /// `check` returned 0 for `block`, and nothing was submitted since.
    unsafe fn outcome(&self, block: NonNull<u8>) -> Outcome;

    /// Ends the use of the block, which may then be freed.
    ///
    /// # Safety
    ///
    /// `init` returned 0 for `block`, and no job runs in it.
    unsafe fn fini(&self, block: NonNull<u8>);
}
