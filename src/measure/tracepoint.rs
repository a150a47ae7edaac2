//! Counting a tracepoint of the kernel with `perf_event_open`.
//!
//! It takes root, or CAP_PERFMON together with a readable tracefs. A tracefs
//! that is not mounted is reached through a mount of our own that nobody sees,
//! where that is allowed; nothing on the host changes.

use std::{
    ffi::CStr,
    fs::{self, File},
    io::{self, Read},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// Where a tracefs is mounted by convention.
const MOUNTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

const KIND_TRACEPOINT: u32 = 2;
/// Threads started later are counted too.
const FLAG_INHERIT: u64 = 1 << 1;
/// Processes started later are not. Since Linux 5.13.
const FLAG_INHERIT_THREAD: u64 = 1 << 35;
/// PERF_FLAG_FD_CLOEXEC.
const OPEN_CLOEXEC: libc::c_ulong = 1 << 3;
/// PERF_EVENT_IOC_SET_FILTER: `_IOW('$', 6, char *)`.
const IOCTL_SET_FILTER: libc::c_ulong = 0x4008_2406;

/// `struct perf_event_attr` in its first published form of 64 bytes.
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
    breakpoint_kind: u32,
    config1: u64,
}

const _: () = assert!(size_of::<EventAttributes>() == 64);

/// A running count of one tracepoint.
#[derive(Debug)]
pub struct Tracepoint(File);

impl Tracepoint {
    /// Counts `system:name` in this thread, and in all threads that it and its
    /// descendants start from now on. `filter` is an expression over the
    /// tracepoint's fields.
    pub fn open(system: &str, name: &str, filter: Option<&CStr>) -> io::Result<Self> {
        let described = |error: io::Error| {
            let text = format!("the tracepoint {system}:{name} cannot be counted: {error}");
            io::Error::new(error.kind(), text)
        };
        let id = read_id(system, name).map_err(described)?;
        let attributes = EventAttributes {
            kind: KIND_TRACEPOINT,
            size: size_of::<EventAttributes>() as u32,
            config: id,
            flags: FLAG_INHERIT | FLAG_INHERIT_THREAD,
            ..EventAttributes::default()
        };
        // SAFETY: the attributes are a live structure whose size field tells
        // its length, and the call only reads it.
        let fd = unsafe {
            libc::syscall(libc::SYS_perf_event_open, &raw const attributes, 0, -1, -1, OPEN_CLOEXEC)
        };
        let event = Self(File::from(owned(fd).map_err(described)?));
        if let Some(filter) = filter {
            // SAFETY: an open event, and a terminated string that the kernel
            // copies.
            let set =
                unsafe { libc::ioctl(event.0.as_raw_fd(), IOCTL_SET_FILTER, filter.as_ptr()) };
            if set < 0 {
                return Err(described(io::Error::last_os_error()));
            }
        }
        Ok(event)
    }

    /// How often it was passed so far.
    pub fn count(&self) -> Option<u64> {
        let mut count = [0; 8];
        (&self.0).read_exact(&mut count).ok()?;
        Some(u64::from_ne_bytes(count))
    }
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just handed this descriptor out, to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// The number of a tracepoint, which is another one on each kernel.
fn read_id(system: &str, name: &str) -> io::Result<u64> {
    let path = format!("events/{system}/{name}/id");
    let mounted =
        MOUNTS.iter().find_map(|mount| fs::read_to_string(format!("{mount}/{path}")).ok());
    let text = match mounted {
        Some(text) => text,
        None => read_unmounted(&path)?,
    };
    text.trim().parse().map_err(io::Error::other)
}

/// Reads a file of a tracefs that is mounted for the moment, and nowhere.
fn read_unmounted(path: &str) -> io::Result<String> {
    /// FSCONFIG_CMD_CREATE.
    const CREATE: libc::c_uint = 6;
    const CLOEXEC: libc::c_uint = 1;
    // SAFETY: the name is a terminated string; the call makes a descriptor.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, c"tracefs".as_ptr(), CLOEXEC) })?;
    let nothing = std::ptr::null::<libc::c_char>();
    // SAFETY: this command takes no key, no value and no number.
    let created = unsafe {
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), CREATE, nothing, nothing, 0)
    };
    if created < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call makes a descriptor from an open one.
    let mount =
        owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), CLOEXEC, 0) })?;
    fs::read_to_string(format!("/proc/self/fd/{}/{path}", mount.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracepoint_that_does_not_exist_is_named() {
        let error = match Tracepoint::open("tlb", "no_such_thing", None) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("opened a tracepoint that is not there"),
        };
        assert!(error.contains("tlb:no_such_thing"), "{error}");
    }
}
