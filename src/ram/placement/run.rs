//! One run of neighbouring pages and the system call that brings it into guest
//! memory, with every answer that the kernel may give.

use std::{io, ops::Range};

use super::{PlacementError, batch::Run, report::Tally, uffd::CopyPages};
use crate::{
    ram::{RamBlock, mapping::populate},
    wire::{MAX_PACKET_PAGES, PAGE_SIZE},
};

/// How often UFFDIO_COPY may be disturbed without placing a single page. Each
/// time another thread is changing the mapping; that ends soon.
const MOST_DISTURBANCES: u32 = 100_000;

fn refused(
    action: &'static str,
    block: &RamBlock,
    pages: Range<u32>,
    source: io::Error,
) -> PlacementError {
    let (block, count) = (block.name().to_owned(), pages.len() as u32);
    PlacementError::Refused { action, block, page: pages.start, pages: count, source }
}

/// Places a run of absent pages from `source`. Returns how many pages have
/// their bytes, and the error that ended it.
///
/// # Safety
///
/// The run lies in the block, whose guards for it are held; `source` is readable
/// for as many pages and no part of the block.
pub(super) unsafe fn place_run(
    uffd: &impl CopyPages,
    block: &RamBlock,
    run: Run,
    source: *const u8,
    tally: &mut Tally,
) -> (usize, Result<(), PlacementError>) {
    let mut done = 0;
    let mut disturbed = 0;
    while done < run.len {
        let rest = run.page + done as u32..run.pages().end;
        let (to, from) = (block.page(rest.start), source.wrapping_add(done * PAGE_SIZE));
        // SAFETY: the rest of the run, as the caller promises.
        let (copied, error) = unsafe { uffd.copy(to, from, rest.len() * PAGE_SIZE) };
        tally.uffd_copies += 1;
        let placed = (copied / PAGE_SIZE).min(rest.len());
        tally.placed += placed as u32;
        done += placed;
        let Some(error) = error else { continue };
        if placed > 0 {
            // A copy in part: the next call says what stopped it.
            disturbed = 0;
            continue;
        }
        let stored = match error.raw_os_error() {
            // Present after all: cleared but not given back, or put there by
            // the owner of the memory.
            Some(libc::EEXIST) => {
                let present = leading_resident(to, rest.len());
                tally.eexist += present as u32;
                tally.in_place += present as u32;
                present
            }
            // Detached meanwhile, hence plain memory: stores do.
            Some(libc::ENOENT) if block.way.get().is_none() => {
                tally.stored += rest.len() as u32;
                rest.len()
            }
            Some(libc::EAGAIN | libc::EINTR) if disturbed < MOST_DISTURBANCES => {
                disturbed += 1;
                tally.eagain += 1;
                std::thread::yield_now();
                continue;
            }
            _ => return (done, Err(refused("place", block, rest, error))),
        };
        // SAFETY: as for the copy; the pages are present, or nobody waits for
        // faults on them.
        unsafe { block.store(rest.start..rest.start + stored as u32, from) };
        done += stored;
    }
    (done, Ok(()))
}

/// How many pages from `start` on are resident; the first is, whatever mincore
/// says: it may be in swap.
fn leading_resident(start: *mut u8, pages: usize) -> usize {
    let mut flags = [0u8; MAX_PACKET_PAGES];
    let pages = pages.min(flags.len());
    // SAFETY: mincore only reports, and `flags` has a byte for each page.
    if unsafe { libc::mincore(start.cast(), pages * PAGE_SIZE, flags.as_mut_ptr()) } != 0 {
        return 1;
    }
    flags[..pages].iter().take_while(|&&flag| flag & 1 != 0).count().max(1)
}

/// Makes a run of pages present for writing.
pub(super) fn populate_run(block: &RamBlock, pages: Range<u32>) -> Result<(), PlacementError> {
    let len = pages.len() * PAGE_SIZE;
    // SAFETY: the pages of a batch lie in their block, which is mapped.
    match unsafe { populate(block.page(pages.start), len) } {
        // Memory of a kind that cannot be populated, such as a device's: it
        // takes stores all the same.
        Err(error) if error.raw_os_error() != Some(libc::EINVAL) => {
            Err(refused("populate", block, pages, error))
        }
        _ => Ok(()),
    }
}

/// Writes a run of pages to the block's memory file.
///
/// # Safety
///
/// `source` is readable for as many pages as the run has.
pub(super) unsafe fn pwrite_run(
    block: &RamBlock,
    pages: Range<u32>,
    source: *const u8,
) -> Result<(), PlacementError> {
    let len = pages.len() * PAGE_SIZE;
    let start = u64::from(pages.start) * PAGE_SIZE as u64;
    let write = |fd, done: usize| {
        let offset = (start + done as u64) as libc::off_t;
        // SAFETY: `len` bytes are readable at `source`, and `done <= len`.
        unsafe { libc::pwrite(fd, source.add(done).cast(), len - done, offset) }
    };
    write_whole(block, pages, len, write)
}

/// Writes zero bytes over a run of pages of the block's memory file.
pub(super) fn pwrite_zero(block: &RamBlock, pages: Range<u32>) -> Result<(), PlacementError> {
    static ZERO: [u8; PAGE_SIZE] = [0; PAGE_SIZE];
    const MOST: usize = 64;
    let len = pages.len() * PAGE_SIZE;
    let start = u64::from(pages.start) * PAGE_SIZE as u64;
    let page = libc::iovec { iov_base: ZERO.as_ptr().cast_mut().cast(), iov_len: PAGE_SIZE };
    let vectors = [page; MOST];
    let write = |fd, done: usize| {
        let count = (len - done).div_ceil(PAGE_SIZE).min(MOST) as libc::c_int;
        let offset = (start + done as u64) as libc::off_t;
        // After a write of less than whole pages the last vector would reach
        // past the run; then a single short write mends it.
        let part = (len - done) % PAGE_SIZE;
        if part != 0 {
            // SAFETY: `part` is less than the length of ZERO.
            return unsafe { libc::pwrite(fd, ZERO.as_ptr().cast(), part, offset) };
        }
        // SAFETY: `count` of the vectors, each of which is the page ZERO.
        unsafe { libc::pwritev(fd, vectors.as_ptr(), count, offset) }
    };
    write_whole(block, pages, len, write)
}

/// Calls `write` with how much is done until all is.
fn write_whole(
    block: &RamBlock,
    pages: Range<u32>,
    len: usize,
    write: impl Fn(libc::c_int, usize) -> isize,
) -> Result<(), PlacementError> {
    use std::os::fd::AsRawFd;
    let no_file = || io::Error::from_raw_os_error(libc::EBADF);
    let file =
        block.memory_file().ok_or_else(|| refused("write", block, pages.clone(), no_file()))?;
    let mut done = 0;
    while done < len {
        match write(file.as_raw_fd(), done) {
            0 => {
                let error = io::Error::from(io::ErrorKind::WriteZero);
                return Err(refused("write", block, pages, error));
            }
            count if count > 0 => done += count as usize,
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(refused("write", block, pages, error));
                }
            }
        }
    }
    Ok(())
}

/// Gives the memory of a run of pages back, so that they read as zero. Answers
/// false where that cannot be done.
pub(super) fn give_back(block: &RamBlock, pages: Range<u32>) -> bool {
    use std::os::fd::AsRawFd;
    let len = pages.len() * PAGE_SIZE;
    if let Some(file) = block.memory_file() {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let offset = u64::from(pages.start) as libc::off_t * PAGE_SIZE as libc::off_t;
        // SAFETY: the descriptor is the block's own file; its pages are what
        // the caller wants to be zero.
        return unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len as libc::off_t) } == 0;
    }
    // SAFETY: the pages lie in the block, whose private memory of our own reads
    // as zero after this, which is what the caller wants.
    block.is_anonymous()
        && unsafe { libc::madvise(block.page(pages.start).cast(), len, libc::MADV_DONTNEED) } == 0
}
