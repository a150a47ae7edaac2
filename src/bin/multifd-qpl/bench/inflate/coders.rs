//! What makes the pages of a race: libqpl as QEMU uses it, or zlib where there
//! is no libqpl.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::MaybeUninit;

use libloading::Library;
use libz_rs_sys as z;

use super::corpus::PAGE;

/// libqpl's software path: one job, used again and again.
pub struct Qpl {
    job: Vec<u64>,
    execute: unsafe extern "C" fn(*mut c_void) -> c_int,
    /// The library's version.
    pub version: String,
    _library: Library,
}

impl Qpl {
    /// Opens the library, if there is one.
    pub fn open() -> Option<Self> {
        let library = open("QPL_LIBRARY", "libqpl.so.1")?;
        let mut bytes = 0u32;
        // SAFETY: names and types as in qpl.h; the job is as large as the
        // library asks for and is not moved once it is initialised (a Vec's
        // heap block stays where it is).
        unsafe {
            let size: unsafe extern "C" fn(c_int, *mut u32) -> c_int =
                *library.get(b"qpl_get_job_size\0").ok()?;
            let init: unsafe extern "C" fn(c_int, *mut c_void) -> c_int =
                *library.get(b"qpl_init_job\0").ok()?;
            let execute: unsafe extern "C" fn(*mut c_void) -> c_int =
                *library.get(b"qpl_execute_job\0").ok()?;
            let version: unsafe extern "C" fn() -> *const c_char =
                *library.get(b"qpl_get_library_version\0").ok()?;
            const SOFTWARE: c_int = 2;
            if size(SOFTWARE, &mut bytes) != 0 {
                return None;
            }
            let mut job = vec![0u64; bytes as usize / 8 + 1];
            if init(SOFTWARE, job.as_mut_ptr().cast()) != 0 {
                return None;
            }
            let version = CStr::from_ptr(version()).to_string_lossy().into_owned();
            Some(Self { job, execute, version, _library: library })
        }
    }

    /// Runs one operation (0 decompress, 1 compress) and returns the bytes made.
    pub fn run(&mut self, op: u32, flags: u32, input: &[u8], out: &mut [u8]) -> Option<usize> {
        let job = self.job.as_mut_ptr();
        // SAFETY: the fields' offsets are the same in every version from 1.0
        // to 1.9; all lie inside the job, and both slices are valid for the
        // call.
        unsafe {
            let word = |at: usize| job.cast::<u8>().add(at).cast::<u32>();
            job.cast::<*const u8>().write(input.as_ptr());
            word(8).write(input.len() as u32);
            job.add(2).cast::<*mut u8>().write(out.as_mut_ptr());
            word(24).write(out.len() as u32);
            word(32).write(op);
            word(36).write(flags);
            word(52).write(1);
            ((self.execute)(job.cast()) == 0).then(|| word(28).read() as usize)
        }
    }
}

/// Opens the library an environment variable names, or else the usual one.
pub fn open(env: &str, file: &str) -> Option<Library> {
    let name = std::env::var_os(env).unwrap_or_else(|| file.into());
    // SAFETY: the initialisers of compression libraries have no conditions.
    unsafe { Library::new(name) }.ok()
}

/// How the pages of a race are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coder {
    /// libqpl with fixed Huffman codes, as QEMU asks for.
    QplFixed,
    /// libqpl with dynamic Huffman codes.
    QplDynamic,
    /// zlib level 1, fixed codes, a window of 4 KiB.
    ZlibFixed,
    /// zlib level 6, codes of its choice, the usual window.
    ZlibDefault,
}

impl Coder {
    /// A short name.
    pub fn name(self) -> &'static str {
        match self {
            Coder::QplFixed => "qpl-fixed",
            Coder::QplDynamic => "qpl-dynamic",
            Coder::ZlibFixed => "zlib-fixed",
            Coder::ZlibDefault => "zlib",
        }
    }

    /// How a report says it.
    pub fn describe(self) -> &'static str {
        match self {
            Coder::QplFixed => "libqpl, fixed Huffman codes (as QEMU does)",
            Coder::QplDynamic => "libqpl, dynamic Huffman codes",
            Coder::ZlibFixed => "zlib-rs level 1, fixed Huffman codes, 4 KiB window",
            Coder::ZlibDefault => "zlib-rs level 6, raw deflate",
        }
    }
}

/// Compresses pages one by one.
pub struct Compressor {
    qpl: Option<Qpl>,
}

impl Compressor {
    /// With libqpl where it is.
    pub fn new() -> Self {
        Self { qpl: Qpl::open() }
    }

    /// What stands for QEMU's QPL method here.
    pub fn fixed(&self) -> Coder {
        if self.qpl.is_some() { Coder::QplFixed } else { Coder::ZlibFixed }
    }

    /// The coders this machine has.
    pub fn coders(&self) -> Vec<Coder> {
        let mut coders = vec![Coder::ZlibFixed, Coder::ZlibDefault];
        if self.qpl.is_some() {
            coders.splice(0..0, [Coder::QplFixed, Coder::QplDynamic]);
        }
        coders
    }

    /// The block of one page, or `None` when it does not shrink (a source
    /// sends such a page as it is).
    pub fn compress(&mut self, coder: Coder, page: &[u8]) -> Option<Vec<u8>> {
        let mut out = vec![0; PAGE - 1];
        let made = match coder {
            // FIRST | LAST | OMIT_VERIFY, and DYNAMIC_HUFFMAN.
            Coder::QplFixed => self.qpl.as_mut()?.run(1, 0x4003, page, &mut out)?,
            Coder::QplDynamic => self.qpl.as_mut()?.run(1, 0x6003, page, &mut out)?,
            Coder::ZlibFixed => deflate(page, &mut out, 1, -12, z::Z_FIXED)?,
            Coder::ZlibDefault => deflate(page, &mut out, 6, -15, z::Z_DEFAULT_STRATEGY)?,
        };
        out.truncate(made);
        Some(out)
    }
}

fn deflate(page: &[u8], out: &mut [u8], level: c_int, bits: c_int, how: c_int) -> Option<usize> {
    // SAFETY: an all-zero stream is what the interface asks for.
    let mut stream: z::z_stream = unsafe { MaybeUninit::zeroed().assume_init() };
    let size = size_of::<z::z_stream>() as c_int;
    // SAFETY: the stream points at the two slices and is ended before it goes.
    unsafe {
        let version = z::zlibVersion();
        if z::deflateInit2_(&mut stream, level, z::Z_DEFLATED, bits, 8, how, version, size)
            != z::Z_OK
        {
            return None;
        }
        stream.next_in = page.as_ptr().cast_mut();
        stream.avail_in = page.len() as u32;
        stream.next_out = out.as_mut_ptr();
        stream.avail_out = out.len() as u32;
        let result = z::deflate(&mut stream, z::Z_FINISH);
        z::deflateEnd(&mut stream);
        (result == z::Z_STREAM_END).then_some(out.len() - stream.avail_out as usize)
    }
}
