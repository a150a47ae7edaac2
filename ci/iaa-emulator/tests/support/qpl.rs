//! The few functions of libqpl that the tests call, bound at run time.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{function, open};

pub const HARDWARE: u32 = 1;
pub const SOFTWARE: u32 = 2;

pub const DECOMPRESS: u32 = 0;
pub const COMPRESS: u32 = 1;

pub const WHOLE: u32 = 3;
pub const DYNAMIC: u32 = 0x2000;
pub const OMIT_VERIFY: u32 = 0x4000;

pub const BEING_PROCESSED: u32 = 1;

/// `struct qpl_job`, of which only the start is looked at.
#[repr(C)]
#[derive(Debug)]
pub struct RawJob {
    pub next_in: *const u8,
    pub available_in: u32,
    pub total_in: u32,
    pub next_out: *mut u8,
    pub available_out: u32,
    pub total_out: u32,
    pub op: u32,
    pub flags: u32,
    pub crc: u32,
    pub xor_checksum: u32,
    pub last_bit_offset: u32,
    pub level: u32,
    between: [u8; 132],
    pub numa_id: i32,
    end: [u8; 48],
}

const _: () = assert!(size_of::<RawJob>() == 240 && std::mem::offset_of!(RawJob, numa_id) == 188);

/// The loaded library.
pub struct Qpl {
    get_job_size: unsafe extern "C" fn(u32, *mut u32) -> u32,
    init_job: unsafe extern "C" fn(u32, *mut RawJob) -> u32,
    submit_job: unsafe extern "C" fn(*mut RawJob) -> u32,
    check_job: unsafe extern "C" fn(*mut RawJob) -> u32,
    execute_job: unsafe extern "C" fn(*mut RawJob) -> u32,
}

impl Qpl {
    pub fn load(path: &Path) -> Self {
        let library = open(path);
        // SAFETY: the types are those of libqpl's header; they have been the same in all its releases.
        unsafe {
            Qpl {
                get_job_size: function(library, c"qpl_get_job_size"),
                init_job: function(library, c"qpl_init_job"),
                submit_job: function(library, c"qpl_submit_job"),
                check_job: function(library, c"qpl_check_job"),
                execute_job: function(library, c"qpl_execute_job"),
            }
        }
    }

    /// A job ready for use, or the status of its start.
    pub fn job(self: &Arc<Self>, path: u32) -> Result<Job, u32> {
        let mut size = 0;
        // SAFETY: room for the size.
        let status = unsafe { (self.get_job_size)(path, &mut size) };
        assert_eq!(status, 0);
        let layout = Layout::from_size_align(size as usize, 64).expect("a size that libqpl gives");
        // SAFETY: the size is not zero.
        let raw = unsafe { alloc_zeroed(layout) }.cast::<RawJob>();
        assert!(!raw.is_null());
        let job = Job { qpl: Arc::clone(self), raw, layout, busy: false };
        // SAFETY: as much room as the library has asked for.
        match unsafe { (self.init_job)(path, raw) } {
            0 => Ok(job),
            status => Err(status),
        }
    }
}

/// A job of libqpl. One that is dropped while a device has it is leaked, since the device may still write to it.
pub struct Job {
    qpl: Arc<Qpl>,
    raw: *mut RawJob,
    layout: Layout,
    busy: bool,
}

// SAFETY: nothing in a job is bound to a thread.
unsafe impl Send for Job {}

impl Job {
    pub fn raw(&mut self) -> &mut RawJob {
        // SAFETY: the block is owned by this value and begins with the structure.
        unsafe { &mut *self.raw }
    }

    pub fn set(
        &mut self,
        op: u32,
        flags: u32,
        input: (*const u8, usize),
        output: (*mut u8, usize),
    ) {
        let raw = self.raw();
        raw.op = op;
        raw.flags = flags;
        raw.level = 1;
        raw.next_in = input.0;
        raw.available_in = input.1 as u32;
        raw.next_out = output.0;
        raw.available_out = output.1 as u32;
    }

    /// Hands the job to a device.
    pub fn submit(&mut self) -> u32 {
        // SAFETY: an initialised job; the tests keep its buffers until it is done.
        let status = unsafe { (self.qpl.submit_job)(self.raw) };
        self.busy = status == 0;
        status
    }

    pub fn check(&mut self) -> u32 {
        // SAFETY: a submitted job.
        let status = unsafe { (self.qpl.check_job)(self.raw) };
        self.busy = status == BEING_PROCESSED;
        status
    }

    /// Checks until the job is done or the time is over.
    pub fn wait(&mut self, patience: Duration) -> u32 {
        let begun = Instant::now();
        loop {
            match self.check() {
                BEING_PROCESSED if begun.elapsed() < patience => std::thread::yield_now(),
                status => return status,
            }
        }
    }

    /// Submits and waits, or gives the status of a submission that failed.
    pub fn run(&mut self) -> u32 {
        match self.submit() {
            0 => self.wait(Duration::from_secs(30)),
            status => status,
        }
    }

    /// The synchronous way.
    pub fn execute(&mut self) -> u32 {
        // SAFETY: an initialised job with buffers that live through the call.
        unsafe { (self.qpl.execute_job)(self.raw) }
    }

    /// Decompresses into `output`: status and bytes of output.
    pub fn decompress(&mut self, input: &[u8], output: &mut [u8]) -> (u32, usize) {
        self.set(
            DECOMPRESS,
            WHOLE,
            (input.as_ptr(), input.len()),
            (output.as_mut_ptr(), output.len()),
        );
        let status = self.run();
        (status, self.raw().total_out as usize)
    }

    /// Compresses: status and output.
    pub fn compress(&mut self, flags: u32, input: &[u8]) -> (u32, Vec<u8>) {
        let mut output = vec![0; input.len() * 2 + 64];
        self.set(
            COMPRESS,
            WHOLE | flags,
            (input.as_ptr(), input.len()),
            (output.as_mut_ptr(), output.len()),
        );
        let status = self.run();
        output.truncate(self.raw().total_out as usize);
        (status, output)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.busy {
            // SAFETY: allocated with this layout, and no device has it.
            unsafe { dealloc(self.raw.cast(), self.layout) };
        }
    }
}
