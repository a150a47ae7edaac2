//! Memory mappings: the one place where this room asks the kernel for memory
//! and gives it back.
//!
//! Every mapping lies between two inaccessible guard pages, so that a store
//! past either end stops the process instead of reaching a neighbour.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    ptr::NonNull,
};

use crate::wire::PAGE_SIZE;

/// Bytes of a transparent huge page on x86-64.
pub(super) const HUGE_PAGE: usize = 2 << 20;

/// Readable and writable memory that this value owns.
#[derive(Debug)]
pub(super) struct Mapping {
    reserved: NonNull<u8>,
    reserved_len: usize,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a Mapping is an address range and no more; whoever uses the addresses
// answers for how they are shared.
unsafe impl Send for Mapping {}
// SAFETY: as for Send; no method reads or writes the memory itself.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes at a multiple of `align`: fresh zero memory, or `file`
    /// from its start and shared. `len` is rounded up to whole pages, and
    /// nothing is reserved: only pages that are touched take memory.
    pub(super) fn new(len: usize, align: usize, file: Option<BorrowedFd<'_>>) -> io::Result<Self> {
        let too_long = || io::Error::from_raw_os_error(libc::ENOMEM);
        let align = align.max(PAGE_SIZE);
        let len = len.max(1).checked_next_multiple_of(PAGE_SIZE).ok_or_else(too_long)?;
        let reserved_len = len
            .checked_add(align)
            .and_then(|n| n.checked_add(2 * PAGE_SIZE))
            .ok_or_else(too_long)?;
        // SAFETY: a fresh inaccessible mapping at an address of the kernel's
        // choice replaces nothing.
        let reserved = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                reserved_len,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if reserved == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let Some(reserved) = NonNull::new(reserved.cast::<u8>()) else {
            return Err(io::Error::other("mmap returned the null address"));
        };
        let behind_guard = reserved.as_ptr().addr() + PAGE_SIZE;
        let offset = behind_guard.next_multiple_of(align) - reserved.as_ptr().addr();
        // SAFETY: `offset <= PAGE_SIZE + align - 1`, so `offset + len` stays a
        // guard page short of the reserved range's end.
        let start = unsafe { reserved.add(offset) };
        // From here on dropping the value unmaps the reservation.
        let mapping = Self { reserved, reserved_len, start, len };
        let (flags, fd) = match file {
            Some(file) => (libc::MAP_SHARED, file.as_raw_fd()),
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
        };
        // SAFETY: MAP_FIXED replaces a part of the reservation made above,
        // which nobody else knows of.
        let mapped = unsafe {
            libc::mmap(
                start.as_ptr().cast(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                flags | libc::MAP_NORESERVE | libc::MAP_FIXED,
                fd,
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(mapping)
    }

    /// First byte.
    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Bytes between the guard pages.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Asks for huge pages, or for none, in the whole mapping. Only advice:
    /// kernels without transparent huge pages refuse it, and that is no harm.
    pub(super) fn advise_huge(&self, huge: bool) {
        let advice = if huge { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
        // SAFETY: the range is this mapping, and the advice changes no content.
        unsafe { libc::madvise(self.start.as_ptr().cast(), self.len, advice) };
    }

    /// Makes the whole mapping resident, by the kernel where it can and else by
    /// a store to each page. Only for memory that nobody uses yet.
    pub(super) fn make_resident(&self) -> io::Result<()> {
        // SAFETY: the range is this mapping.
        match unsafe { populate(self.start.as_ptr(), self.len) } {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                for offset in (0..self.len).step_by(PAGE_SIZE) {
                    // SAFETY: the offset lies in the mapping, and nobody else
                    // uses the memory yet.
                    unsafe { self.start.add(offset).write_volatile(0) };
                }
                Ok(())
            }
            other => other,
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` with this length, and whoever
        // holds addresses in it holds the owner of this value too.
        unsafe { libc::munmap(self.reserved.as_ptr().cast(), self.reserved_len) };
    }
}

/// MADV_POPULATE_WRITE: maps the pages of a range as if each had been written,
/// without changing a byte. EINVAL before Linux 5.14.
///
/// # Safety
///
/// The range is mapped, writable and page-aligned.
pub(super) unsafe fn populate(start: *mut u8, len: usize) -> io::Result<()> {
    loop {
        // SAFETY: the caller answers for the range; content stays as it is.
        if unsafe { libc::madvise(start.cast(), len, libc::MADV_POPULATE_WRITE) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        // EAGAIN and EINTR only say that the kernel was disturbed.
        if !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) {
            return Err(error);
        }
    }
}

/// Counts the resident pages of a range with mincore, a bounded piece at a
/// time.
pub(super) fn resident_pages(start: *mut u8, pages: usize) -> io::Result<u64> {
    const CHUNK: usize = 1 << 15;
    let mut flags = vec![0u8; CHUNK.min(pages)];
    let mut resident = 0;
    let mut done = 0;
    while done < pages {
        let count = CHUNK.min(pages - done);
        let address = start.wrapping_add(done * PAGE_SIZE);
        // SAFETY: mincore only reports; an unmapped address is an error, not a
        // fault, and `flags` has a byte for each of the `count` pages.
        if unsafe { libc::mincore(address.cast(), count * PAGE_SIZE, flags.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        resident += flags[..count].iter().map(|flag| u64::from(flag & 1)).sum::<u64>();
        done += count;
    }
    Ok(resident)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_writable_and_guarded() {
        let mapping = Mapping::new(3 * PAGE_SIZE - 5, HUGE_PAGE, None).unwrap();
        assert_eq!(mapping.len(), 3 * PAGE_SIZE);
        assert_eq!(mapping.start().as_ptr().addr() % HUGE_PAGE, 0);
        mapping.make_resident().unwrap();
        assert_eq!(resident_pages(mapping.start().as_ptr(), 3).unwrap(), 3);
        // Both neighbours are mapped and inaccessible: populating them fails.
        for guard in [
            mapping.start().as_ptr().wrapping_sub(PAGE_SIZE),
            mapping.start().as_ptr().wrapping_add(3 * PAGE_SIZE),
        ] {
            // SAFETY: the guard page is mapped; that it is not writable is
            // what the kernel is asked to find out.
            let error = unsafe { populate(guard, PAGE_SIZE) }.unwrap_err();
            assert!(matches!(error.raw_os_error(), Some(libc::EFAULT | libc::EINVAL)), "{error}");
        }
    }

    #[test]
    fn refuses_lengths_that_overflow() {
        assert!(Mapping::new(usize::MAX - 100, PAGE_SIZE, None).is_err());
        assert!(Mapping::new(usize::MAX / 2, PAGE_SIZE, None).is_err());
    }
}
