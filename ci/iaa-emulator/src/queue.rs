//! A work queue: a kernel pipe in packet mode, whose slots are the queue's entries.
//!
//! A pipe does what a queue needs with no lock of ours: a submission of 64 bytes is atomic, it may come from any thread
//! and from a signal handler, it is refused at once when the slots are full, and an idle engine sleeps in the kernel. In
//! packet mode each submission takes one slot whatever its size. The kernel rounds the number of slots up to a power of
//! two.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering::Relaxed;

use crate::counters::COUNTERS;
use crate::descriptor::{NOOP, SIZE};
use crate::inject;

const PAGE: usize = 4096;
/// Marks a page as a portal; the number of its queue follows.
pub const PORTAL_MAGIC: u64 = 0x6d65_2d61_6169_7470;

/// Why a submission was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declined {
    /// The queue is full, or was made to say so.
    Busy,
    /// The kernel would refuse it with this error number.
    Errno(i32),
}

/// One work queue of a device.
pub struct Queue {
    /// Its number, over all devices.
    pub number: u64,
    /// Its number in its device.
    pub id: i32,
    /// Its name, such as `wq1.0`.
    pub name: CString,
    /// Where libqpl finds its node.
    pub path: CString,
    /// The end that submissions are written to.
    submit: OwnedFd,
    /// The end that engines read from.
    pub take: OwnedFd,
    /// The pipe's inode, by which a descriptor that libqpl opened is known.
    inode: (u64, u64),
    /// The page that libqpl maps, when it is to.
    portal: Option<OwnedFd>,
}

impl Queue {
    /// Makes a queue of at least `size` entries.
    pub fn new(
        number: u64,
        id: i32,
        name: String,
        size: usize,
        mappable: bool,
    ) -> io::Result<Self> {
        let mut ends = [0; 2];
        // SAFETY: `ends` is room for the two descriptors that the call stores.
        if unsafe {
            libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_DIRECT)
        } < 0
        {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: both were made just above and are owned by nobody else.
        let (take, submit) =
            unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
        // SAFETY: an open pipe; the argument is a number of bytes.
        if unsafe {
            libc::fcntl(submit.as_raw_fd(), libc::F_SETPIPE_SZ, (size * PAGE) as libc::c_int)
        } < 0
        {
            return Err(io::Error::last_os_error());
        }
        let portal = if mappable { Some(portal(number)?) } else { None };
        let meta = File::from(submit.try_clone()?).metadata()?;
        let node = portal.as_ref().unwrap_or(&submit).as_raw_fd();
        Ok(Queue {
            number,
            id,
            name: CString::new(name)?,
            path: CString::new(format!("/proc/self/fd/{node}"))?,
            submit,
            take,
            inode: (meta.dev(), meta.ino()),
            portal,
        })
    }

    /// Whether an open descriptor is this queue's node.
    pub fn is_node(&self, stat: &libc::stat) -> bool {
        self.portal.is_none() && self.inode == (stat.st_dev, stat.st_ino)
    }

    /// Takes a descriptor or declines it. Uses nothing that a signal handler may not.
    pub fn submit(&self, descriptor: &[u8; SIZE]) -> Result<(), Declined> {
        if descriptor[7] != NOOP && inject::decline() {
            COUNTERS.busy.fetch_add(1, Relaxed);
            return Err(Declined::Busy);
        }
        // SAFETY: an open descriptor and 64 readable bytes.
        let written =
            unsafe { libc::write(self.submit.as_raw_fd(), descriptor.as_ptr().cast(), SIZE) };
        if written == SIZE as isize {
            return Ok(());
        }
        COUNTERS.busy.fetch_add(1, Relaxed);
        COUNTERS.busy_queue_full.fetch_add(1, Relaxed);
        Err(Declined::Busy)
    }

    /// The oldest descriptor, if there is one.
    pub fn take(&self) -> Option<[u8; SIZE]> {
        let mut descriptor = [0; SIZE];
        // SAFETY: an open descriptor and room for 64 bytes.
        let read =
            unsafe { libc::read(self.take.as_raw_fd(), descriptor.as_mut_ptr().cast(), SIZE) };
        (read == SIZE as isize).then_some(descriptor)
    }
}

fn portal(number: u64) -> io::Result<OwnedFd> {
    // SAFETY: a NUL-terminated name.
    let fd = unsafe { libc::memfd_create(c"iaa-emulator-portal".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: made just above, owned by nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let file = File::from(fd.try_clone()?);
    file.set_len(PAGE as u64)?;
    let mut label = [0; 16];
    label[..8].copy_from_slice(&PORTAL_MAGIC.to_ne_bytes());
    label[8..].copy_from_slice(&number.to_ne_bytes());
    std::os::unix::fs::FileExt::write_all_at(&file, &label, 0)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_holds_its_size_and_no_more() {
        let queue = Queue::new(0, 0, "wq1.0".into(), 8, false).unwrap();
        for n in 0..8 {
            assert_eq!(queue.submit(&[n; SIZE]), Ok(()));
        }
        assert_eq!(queue.submit(&[9; SIZE]), Err(Declined::Busy));
        assert_eq!(queue.take(), Some([0; SIZE]));
        assert_eq!(queue.submit(&[8; SIZE]), Ok(()));
        assert_eq!(queue.submit(&[9; SIZE]), Err(Declined::Busy));
        for n in 1..9 {
            assert_eq!(queue.take(), Some([n; SIZE]));
        }
        assert_eq!(queue.take(), None);
    }
}
