//! One page through libqpl's hardware path, with the few calls that takes.
//!
//! Everything that touches libqpl's memory is here. A job is a block of the
//! size that the library asks for, full of pointers into itself: it stays
//! where it is from the first call on, and is given up (leaked) when the
//! device may still write to it.

use std::alloc::{self, Layout};
use std::error::Error as _;
use std::ffi::{CStr, c_char, c_void};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use libloading::Library;

use super::probes::{QplFound, RoundTrip};

/// Size of the pages that go through.
pub(super) const PAGE: usize = 4096;

const HARDWARE: u32 = 1;
const OK: u32 = 0;
const RUNNING: u32 = 1;
const BUSY: u32 = 5;
const OP_DECOMPRESS: u32 = 0;
const FIRST_AND_LAST: u32 = 0x1 | 0x2;
/// Any NUMA node; known from release 1.6 on.
const ANY_NODE: i32 = -3;

/// Offsets in `qpl_job`, the same in releases 1.0 to 1.9.
const NEXT_IN: usize = 0;
const AVAILABLE_IN: usize = 8;
const NEXT_OUT: usize = 16;
const AVAILABLE_OUT: usize = 24;
const TOTAL_OUT: usize = 28;
const OP: usize = 32;
const FLAGS: usize = 36;
const NUMA_ID: usize = 188;
/// Bytes of `qpl_job` itself, the least a block can have.
const JOB: usize = 240;

type OnJob = unsafe extern "C" fn(*mut c_void) -> u32;

/// libqpl, loaded, with the calls that a job takes.
pub(super) struct Qpl {
    job_size: unsafe extern "C" fn(u32, *mut u32) -> u32,
    init: unsafe extern "C" fn(u32, *mut c_void) -> u32,
    submit: OnJob,
    check: OnJob,
    fini: OnJob,
    pub(super) found: QplFound,
    /// Keeps the functions above where they are.
    _library: Library,
}

/// What the loader itself said, without what was wrapped around it.
pub(super) fn cause(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// The file that a function of a loaded library comes from.
pub(super) fn file_of(function: *const c_void) -> Option<String> {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: dladdr only compares the address and fills the struct it is
    // given.
    let known = unsafe { libc::dladdr(function, info.as_mut_ptr()) };
    if known == 0 {
        return None;
    }
    // SAFETY: dladdr succeeded; zeroes were valid already.
    let name = unsafe { info.assume_init() }.dli_fname;
    if name.is_null() {
        return None;
    }
    // SAFETY: dladdr gives a string that lives as long as the library is
    // loaded, which the caller's function pointer shows it is.
    Some(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
}

impl Qpl {
    /// Loads the library that `$QPL_LIBRARY` names, or else libqpl by its
    /// usual names.
    pub(super) fn load() -> Result<Qpl, String> {
        let names = match std::env::var_os("QPL_LIBRARY") {
            Some(name) => vec![name],
            None => vec!["libqpl.so.1".into(), "libqpl.so".into()],
        };
        let mut first = None;
        for name in names {
            // SAFETY: libqpl's initialisers do nothing but set up its own
            // tables; whoever names another library vouches for it.
            match unsafe { Library::new(name) } {
                Ok(library) => return Qpl::bind(library).map_err(|error| cause(&error)),
                Err(error) => {
                    first.get_or_insert(cause(&error));
                }
            }
        }
        Err(first.unwrap_or_default())
    }

    fn bind(library: Library) -> Result<Qpl, libloading::Error> {
        // SAFETY: the type is that of the function in libqpl's headers, the
        // same in all releases 1.x.
        let version: unsafe extern "C" fn() -> *const c_char =
            unsafe { *library.get(b"qpl_get_library_version\0")? };
        // SAFETY: takes nothing, returns a string that is never freed or null.
        let text = unsafe { version() };
        let text = match NonNull::new(text.cast_mut()) {
            // SAFETY: see above.
            Some(text) => unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned(),
            None => String::new(),
        };
        let path = file_of(version as *const c_void).unwrap_or_default();
        // SAFETY: the field types are those of the functions in libqpl's
        // headers, the same in all releases 1.x.
        unsafe {
            Ok(Qpl {
                job_size: *library.get(b"qpl_get_job_size\0")?,
                init: *library.get(b"qpl_init_job\0")?,
                submit: *library.get(b"qpl_submit_job\0")?,
                check: *library.get(b"qpl_check_job\0")?,
                fini: *library.get(b"qpl_fini_job\0")?,
                found: QplFound { path, version: text },
                _library: library,
            })
        }
    }

    /// A hardware job, or the status that speaks against it.
    pub(super) fn hardware_job(&self) -> Result<Job<'_>, u32> {
        let mut size = 0;
        // SAFETY: the library writes one u32 to the address it is given.
        let status = unsafe { (self.job_size)(HARDWARE, &mut size) };
        if status != OK {
            return Err(status);
        }
        let size = usize::try_from(size).unwrap_or(0).max(JOB);
        let layout = Layout::from_size_align(size, 64).map_err(|_| 101_u32)?;
        // SAFETY: the size is not zero.
        let block = NonNull::new(unsafe { alloc::alloc_zeroed(layout) }).ok_or(101_u32)?;
        // SAFETY: the block has the size that the library asked for on this
        // path, is aligned for any field, and belongs to nobody else.
        let status = unsafe { (self.init)(HARDWARE, block.as_ptr().cast()) };
        if status != OK {
            // SAFETY: allocated above with this layout; a job that was never
            // submitted is known to no device.
            unsafe { alloc::dealloc(block.as_ptr(), layout) };
            return Err(status);
        }
        Ok(Job { qpl: self, block, layout })
    }
}

/// A job that is ready to be submitted.
pub(super) struct Job<'a> {
    qpl: &'a Qpl,
    block: NonNull<u8>,
    layout: Layout,
}

impl Job<'_> {
    fn set<T>(&mut self, offset: usize, value: T) {
        assert!(offset + size_of::<T>() <= JOB);
        // SAFETY: inside the block by the assertion; the block is aligned to
        // 64, and every offset above to the size of its field.
        unsafe { self.block.as_ptr().add(offset).cast::<T>().write(value) }
    }

    fn total_out(&self) -> u32 {
        // SAFETY: inside the block, aligned, and no job is running when the
        // result is looked at.
        unsafe { self.block.as_ptr().add(TOTAL_OUT).cast::<u32>().read() }
    }

    /// Decompresses `source`, which must give `page`, within `limit`.
    pub(super) fn decompress(
        mut self,
        source: Vec<u8>,
        page: &[u8; PAGE],
        limit: Duration,
    ) -> RoundTrip {
        // Written to, so resident: the device finds every page present.
        let mut output = vec![0x5a_u8; PAGE];
        let available_in = u32::try_from(source.len()).unwrap_or(0);
        let deadline = Instant::now() + limit;
        let mut busy = 0;
        let mut started;
        let mut status;
        loop {
            self.set(OP, OP_DECOMPRESS);
            self.set(FLAGS, FIRST_AND_LAST);
            self.set(NEXT_IN, source.as_ptr());
            self.set(AVAILABLE_IN, available_in);
            self.set(NEXT_OUT, output.as_mut_ptr());
            self.set(AVAILABLE_OUT, PAGE as u32);
            if self.qpl.found.numbers() >= Some((1, 6)) {
                self.set(NUMA_ID, ANY_NODE);
            }
            started = Instant::now();
            // SAFETY: the job is initialised, and its buffers live until it is
            // done: they are leaked below if it does not get done.
            status = unsafe { (self.qpl.submit)(self.block.as_ptr().cast()) };
            if status != BUSY || Instant::now() > deadline {
                break;
            }
            busy += 1;
            std::thread::sleep(Duration::from_micros(50));
        }
        if status == OK {
            loop {
                // SAFETY: the job was submitted, and is not looked at again
                // after any status but RUNNING.
                status = unsafe { (self.qpl.check)(self.block.as_ptr().cast()) };
                if status != RUNNING || Instant::now() > deadline {
                    break;
                }
                std::thread::yield_now();
            }
        }
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        if status == RUNNING {
            // The device may write to all three of them for ever.
            std::mem::forget((self, source, output));
            return RoundTrip { status, busy, micros, ..RoundTrip::default() };
        }
        let total = self.total_out();
        RoundTrip { status, output: total, equal: output[..] == page[..], busy, micros }
    }
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        // SAFETY: no job is running here, see `decompress`, so the library and
        // the device are done with the block, which was allocated with this
        // layout.
        unsafe {
            (self.qpl.fini)(self.block.as_ptr().cast());
            alloc::dealloc(self.block.as_ptr(), self.layout);
        }
    }
}
