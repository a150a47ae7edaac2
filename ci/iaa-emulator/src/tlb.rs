//! Counts the TLB flushes of this process, each of which the kernel passes on to its devices.
//!
//! When an address space is bound to an IOMMU, every flush of its translations on the CPUs is followed by an invalidation
//! of the device's (whether or not the device ever used these pages), so the number of the one is the number of the
//! other. The kernel's tracepoint `tlb:tlb_flush` tells of each; counted are those with the reason "local shootdown" and
//! "local mm shootdown", which is one for each flush that a thread of this process begins. Reading the tracepoint's
//! number needs tracefs, which is mounted here without a place in the file tree; that takes CAP_SYS_ADMIN, and without it
//! there is no count.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `struct perf_event_attr` of the kernel, its fifth published size.
#[repr(C)]
#[derive(Default)]
struct EventAttributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    config1: u64,
    config2: u64,
    branch_sample_type: u64,
    sample_regs_user: u64,
    sample_stack_user: u32,
    clock_id: i32,
    sample_regs_interrupt: u64,
    aux_watermark: u32,
    sample_max_stack: u16,
    reserved: u16,
}

const KIND_TRACEPOINT: u32 = 2;
const FLAG_INHERIT: u64 = 1 << 1;
const FLAG_INHERIT_THREAD: u64 = 1 << 35;
const FLAG_REMOVE_ON_EXEC: u64 = 1 << 36;
const OPEN_CLOEXEC: libc::c_ulong = 8;
const IOCTL_SET_FILTER: libc::c_ulong = 0x4008_2406;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;

/// A running count: one event for each thread that there was at the start, inherited by the threads they begin.
pub struct TlbFlushes(Vec<File>);

impl TlbFlushes {
    /// Starts counting, when that is permitted.
    pub fn start() -> io::Result<Self> {
        let id = tracepoint_number()?;
        let mut events = Vec::new();
        for task in std::fs::read_dir("/proc/self/task")? {
            if let Some(thread) = task?.file_name().to_str().and_then(|name| name.parse().ok()) {
                events.push(open_event(id, thread)?);
            }
        }
        Ok(TlbFlushes(events))
    }

    /// The flushes so far.
    pub fn count(&self) -> u64 {
        let read = |mut event: &File| {
            let mut value = [0; 8];
            event.read_exact(&mut value).map_or(0, |()| u64::from_ne_bytes(value))
        };
        self.0.iter().map(read).sum()
    }
}

fn checked(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the result of a system call that gives a new descriptor, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}

fn tracepoint_number() -> io::Result<u64> {
    // SAFETY: system calls with NUL-terminated constants and descriptors that are open; none keeps a pointer. They make a
    // file system context, create it, and mount it nowhere.
    let mount = unsafe {
        let context = checked(libc::syscall(libc::SYS_fsopen, c"tracefs".as_ptr(), 1))?;
        let created = libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            FSCONFIG_CMD_CREATE,
            std::ptr::null::<u8>(),
            std::ptr::null::<u8>(),
            0,
        );
        if created < 0 {
            return Err(io::Error::last_os_error());
        }
        checked(libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1, 0))?
    };
    let path = c"events/tlb/tlb_flush/id";
    // SAFETY: the directory is open and the path is NUL-terminated.
    let file =
        unsafe { libc::openat(mount.as_raw_fd(), path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    let mut text = String::new();
    File::from(checked(file.into())?).read_to_string(&mut text)?;
    text.trim().parse().map_err(io::Error::other)
}

fn open_event(tracepoint: u64, thread: i32) -> io::Result<File> {
    let attributes = EventAttributes {
        kind: KIND_TRACEPOINT,
        size: size_of::<EventAttributes>() as u32,
        config: tracepoint,
        flags: FLAG_INHERIT | FLAG_INHERIT_THREAD | FLAG_REMOVE_ON_EXEC,
        ..Default::default()
    };
    // SAFETY: the attributes are a live structure whose size field tells its length; the call only reads it.
    let event = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            thread,
            -1,
            -1,
            OPEN_CLOEXEC,
        )
    };
    let event = checked(event)?;
    let filter = c"reason == 2 || reason == 3";
    // SAFETY: an open event and a NUL-terminated string, which the kernel copies.
    if unsafe { libc::ioctl(event.as_raw_fd(), IOCTL_SET_FILTER, filter.as_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(event.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unmapping_used_pages_is_counted() {
        let flushes = match TlbFlushes::start() {
            Ok(flushes) => flushes,
            Err(error) => return eprintln!("skipped: TLB flushes cannot be counted here: {error}"),
        };
        let before = flushes.count();
        let rounds = 50;
        // In a thread, so that the inheritance of the count is tested too.
        let worker = std::thread::spawn(move || {
            for _ in 0..rounds {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
                // SAFETY: maps and unmaps a fresh range that nothing else knows of.
                unsafe {
                    let at = libc::mmap(
                        std::ptr::null_mut(),
                        8192,
                        libc::PROT_READ | libc::PROT_WRITE,
                        flags,
                        -1,
                        0,
                    );
                    assert_ne!(at, libc::MAP_FAILED);
                    libc::munmap(at, 8192);
                }
            }
        });
        worker.join().unwrap();
        let seen = flushes.count() - before;
        // Other tests run beside this one, so there may be more.
        assert!(seen >= rounds, "{seen} flushes for {rounds} unmappings");
    }
}
