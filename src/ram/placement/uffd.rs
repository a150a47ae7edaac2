//! userfaultfd, as far as placement needs it: register a range, copy pages into
//! it, unregister it.
//!
//! A page that UFFDIO_COPY puts into an absent place needs no page fault and is
//! not cleared first. Nobody listens for faults on the descriptor: no page of
//! ours is touched before it is placed.
//!
//! The structures and numbers are those of `linux/userfaultfd.h`, which are
//! fixed for ever.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

const UFFD_API: u64 = 0xaa;
const UFFD_USER_MODE_ONLY: libc::c_int = 1;
const MODE_MISSING: u64 = 1;
/// Bits of the operations that private and shared memory of small pages knows;
/// huge page files know only the first.
const CAN_COPY: u64 = 1 << 3;
const CAN_ZERO: u64 = 1 << 4;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Range {
    start: u64,
    len: u64,
}

#[repr(C)]
struct Register {
    range: Range,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct Copy {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copy: i64,
}

/// `_IOC` of `asm-generic/ioctl.h` for type 0xaa.
const fn ioctl_number(direction: u64, number: u64, size: usize) -> libc::Ioctl {
    (direction << 30 | (size as u64) << 16 | UFFD_API << 8 | number) as libc::Ioctl
}

const UFFDIO_API: libc::Ioctl = ioctl_number(3, 0x3f, size_of::<Api>());
const UFFDIO_REGISTER: libc::Ioctl = ioctl_number(3, 0x00, size_of::<Register>());
const UFFDIO_UNREGISTER: libc::Ioctl = ioctl_number(2, 0x01, size_of::<Range>());
const UFFDIO_COPY: libc::Ioctl = ioctl_number(3, 0x03, size_of::<Copy>());
const USERFAULTFD_IOC_NEW: libc::Ioctl = ioctl_number(0, 0x00, 0);

/// Copies pages into absent places; the seam at which tests put a kernel that
/// refuses.
pub(super) trait CopyPages {
    /// Copies `len` bytes. Returns how many were copied, and the error that
    /// ended the copy early.
    ///
    /// # Safety
    ///
    /// `dst` is a page-aligned part of a RAMBlock whose guards are held; `len`
    /// bytes are readable at `src`.
    unsafe fn copy(&self, dst: *mut u8, src: *const u8, len: usize) -> (usize, Option<io::Error>);
}

/// An open userfaultfd. Closing it unregisters every range.
#[derive(Debug)]
pub(super) struct Uffd(OwnedFd);

impl Uffd {
    /// Opens one, in the least privileged way that the host allows.
    pub(super) fn open() -> io::Result<Self> {
        // For faults of user code alone, which any user may have since Linux
        // 5.11. We want no faults at all, so it is as good as the full one.
        let uffd = Self::call(UFFD_USER_MODE_ONLY)
            .or_else(|_| Self::call(0))
            .or_else(|refused| Self::from_device().map_err(|_| refused))?;
        let mut api = Api { api: UFFD_API, features: 0, ioctls: 0 };
        // SAFETY: UFFDIO_API reads and writes one `Api`.
        if unsafe { libc::ioctl(uffd.0.as_raw_fd(), UFFDIO_API, &raw mut api) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(uffd)
    }

    fn call(flags: libc::c_int) -> io::Result<Self> {
        let flags = flags | libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: userfaultfd takes one integer and touches no memory.
        Self::from_answer(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) })
    }

    fn from_device() -> io::Result<Self> {
        let device = File::options().read(true).write(true).open("/dev/userfaultfd")?;
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: USERFAULTFD_IOC_NEW takes its flags by value.
        let fd = unsafe { libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW, flags) };
        Self::from_answer(fd.into())
    }

    fn from_answer(fd: libc::c_long) -> io::Result<Self> {
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that the kernel just opened for us.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) }))
    }

    /// Registers a range: its absent pages can be placed, and whoever touches
    /// one waits until it is. Fails for memory that single small pages cannot
    /// be placed in.
    pub(super) fn register(&self, start: *mut u8, len: usize) -> io::Result<()> {
        let range = Range { start: start.addr() as u64, len: len as u64 };
        let mut register = Register { range, mode: MODE_MISSING, ioctls: 0 };
        // SAFETY: UFFDIO_REGISTER reads and writes one `Register`; the range
        // in it is checked by the kernel and keeps its content.
        if unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_REGISTER, &raw mut register) } != 0 {
            return Err(io::Error::last_os_error());
        }
        if register.ioctls & (CAN_COPY | CAN_ZERO) != CAN_COPY | CAN_ZERO {
            self.unregister(start, len);
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        Ok(())
    }

    /// Unregisters a range: absent pages read as zero again, and whoever waits
    /// for one is woken. Fails where that would split the mapping once too
    /// often, and then nothing has changed.
    pub(super) fn unregister(&self, start: *mut u8, len: usize) -> bool {
        let mut range = Range { start: start.addr() as u64, len: len as u64 };
        // SAFETY: UFFDIO_UNREGISTER reads one `Range`.
        unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_UNREGISTER, &raw mut range) == 0 }
    }
}

impl CopyPages for Uffd {
    unsafe fn copy(&self, dst: *mut u8, src: *const u8, len: usize) -> (usize, Option<io::Error>) {
        let (dst, src) = (dst.addr() as u64, src.addr() as u64);
        let mut copy = Copy { dst, src, len: len as u64, mode: 0, copy: 0 };
        // SAFETY: UFFDIO_COPY reads and writes one `Copy`, reads `len` bytes at
        // `src`, which the caller answers for, and fills absent pages of a
        // registered range only.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_COPY, &raw mut copy) };
        if result == 0 {
            return (len, None);
        }
        let error = io::Error::last_os_error();
        // `copy` is a count after a copy in part, an error number or 0 else.
        (usize::try_from(copy.copy).unwrap_or(0).min(len), Some(error))
    }
}
