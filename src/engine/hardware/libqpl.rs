//! Jobs of the real libqpl.
//!
//! The same code runs libqpl's hardware path and its software path; only the
//! number of the path differs. On the software path `submit` does the work
//! before it returns, which is how the cost of the layer above is measured.

use std::ptr::{self, NonNull};

use qpl_sys::{
    Library, QPL_FLAG_FIRST, QPL_FLAG_LAST, Version, qpl_job, qpl_op_decompress, qpl_path_hardware,
    qpl_path_software, qpl_path_t,
};

use super::{Device, Outcome, Request};
use crate::wire::PAGE_SIZE;

/// Which of libqpl's implementations runs the jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// An IAA device.
    Hardware,
    /// The CPU.
    Software,
}

/// Which devices may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Numa {
    /// All of them in turn. One socket's devices are seldom enough for a
    /// migration, and across sockets they are still quicker than a CPU.
    #[default]
    Any,
    /// Those of the node that the submitting thread runs on.
    ThreadNode,
}

impl Numa {
    /// libqpl's number for it; names and meanings changed with 1.6.
    fn number(self, version: Version) -> i32 {
        let since_1_6 = version >= Version { major: 1, minor: 6, patch: 0 };
        match self {
            Self::Any if since_1_6 => qpl_sys::QPL_DEVICE_NUMA_ID_ANY,
            Self::ThreadNode if since_1_6 => qpl_sys::QPL_DEVICE_NUMA_ID_CURRENT,
            // 1.5 knows one negative number: the thread's node.
            Self::Any | Self::ThreadNode => -1,
        }
    }
}

/// libqpl, opened.
#[derive(Debug)]
pub struct LibQpl {
    library: Library,
    path: qpl_path_t,
    numa: i32,
}

impl LibQpl {
    /// Jobs of this library on one path.
    pub fn new(library: Library, path: Path, numa: Numa) -> Self {
        let numa = numa.number(library.version);
        let path = match path {
            Path::Hardware => qpl_path_hardware,
            Path::Software => qpl_path_software,
        };
        Self { library, path, numa }
    }
}

impl Device for LibQpl {
    fn name(&self) -> String {
        format!("libqpl {}", self.library.version)
    }

    fn job_size(&self) -> Result<usize, u32> {
        let mut size = 0;
        // SAFETY: `size` is writable for the call.
        match unsafe { (self.library.get_job_size)(self.path, &mut size) } {
            0 => Ok((size as usize).max(size_of::<qpl_job>())),
            status => Err(status),
        }
    }

    unsafe fn init(&self, block: NonNull<u8>) -> u32 {
        let job: NonNull<qpl_job> = block.cast();
        // SAFETY: the block is as large as the library asked for, and aligned
        // for the structure at its start.
        let status = unsafe { (self.library.init_job)(self.path, job.as_ptr()) };
        if status == 0 {
            // SAFETY: `job` was just initialised and is used by nobody else.
            unsafe { (*job.as_ptr()).numa_id = self.numa };
        }
        status
    }

    #[inline]
    unsafe fn submit(&self, block: NonNull<u8>, request: &Request) -> u32 {
        let job: *mut qpl_job = block.cast().as_ptr();
        // SAFETY: the job is initialised and idle, so the fields are ours to
        // write. libqpl moves pointers and counters on, so all are set anew.
        unsafe {
            (*job).op = qpl_op_decompress;
            (*job).flags = QPL_FLAG_FIRST | QPL_FLAG_LAST;
            (*job).next_in_ptr = request.source.cast_mut();
            (*job).available_in = request.len;
            (*job).next_out_ptr = request.destination;
            (*job).available_out = PAGE_SIZE as u32;
            // With nothing more set the tables of an earlier use could count.
            (*job).huffman_table = ptr::null_mut();
            (*job).dictionary = ptr::null_mut();
        }
        // SAFETY: the caller answers for the buffers and for an idle job.
        unsafe { (self.library.submit_job)(job) }
    }

    #[inline]
    unsafe fn check(&self, block: NonNull<u8>) -> u32 {
        // SAFETY: the job was submitted and its end has not been seen, so this
        // is the one look that is allowed in all versions.
        unsafe { (self.library.check_job)(block.cast().as_ptr()) }
    }

    #[inline]
    unsafe fn outcome(&self, block: NonNull<u8>) -> Outcome {
        let job: *const qpl_job = block.cast().as_ptr();
        // SAFETY: the job is finished, so nothing writes its fields.
        unsafe {
            Outcome { total_in: (*job).total_in, total_out: (*job).total_out, crc: (*job).crc }
        }
    }

    unsafe fn fini(&self, block: NonNull<u8>) {
        // SAFETY: the job is initialised and idle. The status says nothing
        // that could be acted on.
        let _ = unsafe { (self.library.fini_job)(block.cast().as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numa_numbers_follow_the_version() {
        let version = |minor| Version { major: 1, minor, patch: 0 };
        assert_eq!(Numa::Any.number(version(9)), -3);
        assert_eq!(Numa::ThreadNode.number(version(6)), -2);
        assert_eq!(Numa::Any.number(version(5)), -1);
        assert_eq!(Numa::ThreadNode.number(version(5)), -1);
    }
}
