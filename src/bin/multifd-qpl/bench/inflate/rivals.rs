//! The other decoders, each behind the same call, and the compressors that
//! make the pages. Libraries that the build does not bring along are opened at
//! run time and left out where they are not installed.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;

use libloading::Library;
use libz_rs_sys as z;

use super::corpus::PAGE;

/// A decoder in the race: raw DEFLATE block in, one page out.
pub struct Rival {
    /// Library and version.
    pub name: String,
    /// Decodes a block into 4096 bytes; false when it fails.
    pub decode: Box<dyn FnMut(&[u8], &mut [u8]) -> bool>,
}

/// Every rival present on this machine.
pub fn all() -> Vec<Rival> {
    let mut found = vec![libdeflate(), zlib_rs()];
    found.extend(zlib("QPL_RACE_ZLIB", "libz.so.1", "zlib", "zlibVersion", ""));
    found.extend(zlib("ZLIB_NG_LIBRARY", "libz-ng.so.2", "zlib-ng", "zlibng_version", "zng_"));
    found.extend(isal());
    found.extend(Qpl::open().map(|mut qpl| Rival {
        name: format!("libqpl {}", qpl.version),
        decode: Box::new(move |block, page| {
            qpl.run(0, 0x3, block, page).is_some_and(|made| made == PAGE)
        }),
    }));
    found
}

fn libdeflate() -> Rival {
    // SAFETY: takes no argument; null is never dereferenced by us, and the
    // process has far worse troubles when 64 KiB cannot be had.
    let handle = unsafe { libdeflate_sys::libdeflate_alloc_decompressor() };
    assert!(!handle.is_null(), "memory for a decompressor");
    Rival {
        name: "libdeflate".into(),
        decode: Box::new(move |block, page| {
            // SAFETY: the handle is never freed, both slices are valid for
            // their lengths, and a null result pointer asks for a full page.
            let result = unsafe {
                libdeflate_sys::libdeflate_deflate_decompress(
                    handle,
                    block.as_ptr().cast(),
                    block.len(),
                    page.as_mut_ptr().cast(),
                    page.len(),
                    ptr::null_mut(),
                )
            };
            result == libdeflate_sys::libdeflate_result_LIBDEFLATE_SUCCESS
        }),
    }
}

type InflateInit = unsafe extern "C" fn(*mut z::z_stream, c_int, *const c_char, c_int) -> c_int;
type Inflate = unsafe extern "C" fn(*mut z::z_stream, c_int) -> c_int;
type InflateReset = unsafe extern "C" fn(*mut z::z_stream) -> c_int;

fn zlib_rs() -> Rival {
    // SAFETY: returns a pointer to a static string.
    let version = unsafe { CStr::from_ptr(z::zlibVersion()) }.to_string_lossy();
    zlib_like(
        format!("zlib-rs ({version})"),
        z::inflateInit2_,
        z::inflate,
        z::inflateReset,
        z::zlibVersion(),
        None,
    )
}

/// A library with zlib's interface, opened by name. zlib-ng's own interface has
/// the same stream structure on this architecture but for the width of two
/// counters, which `avail_in` and `total_in` leave alone.
fn zlib(env: &str, file: &str, label: &str, version: &str, prefix: &str) -> Option<Rival> {
    let library = open(env, file)?;
    let symbol = |name: &str| format!("{prefix}{name}\0");
    // SAFETY: the symbols have these types in zlib.h and zlib-ng.h; the
    // library goes into the rival and outlives them.
    unsafe {
        let version: unsafe extern "C" fn() -> *const c_char =
            *library.get(format!("{version}\0").as_bytes()).ok()?;
        let init2: InflateInit = match prefix {
            // zlib-ng has no version in its init call; see below.
            "zng_" => zng_init2,
            _ => *library.get(symbol("inflateInit2_").as_bytes()).ok()?,
        };
        if prefix == "zng_" {
            ZNG_INIT2.get_or_init(|| library.get(b"zng_inflateInit2\0").map(|s| *s).ok());
        }
        let inflate: Inflate = *library.get(symbol("inflate").as_bytes()).ok()?;
        let reset: InflateReset = *library.get(symbol("inflateReset").as_bytes()).ok()?;
        let name = format!("{label} {}", CStr::from_ptr(version()).to_string_lossy());
        Some(zlib_like(name, init2, inflate, reset, version(), Some(library)))
    }
}

type ZngInit2 = unsafe extern "C" fn(*mut z::z_stream, c_int) -> c_int;
static ZNG_INIT2: std::sync::OnceLock<Option<ZngInit2>> = std::sync::OnceLock::new();

/// zlib-ng's init call in zlib's shape.
///
/// # Safety
///
/// As inflateInit2.
unsafe extern "C" fn zng_init2(
    stream: *mut z::z_stream,
    bits: c_int,
    _: *const c_char,
    _: c_int,
) -> c_int {
    match ZNG_INIT2.get() {
        // SAFETY: passed on by our caller.
        Some(Some(init)) => unsafe { init(stream, bits) },
        _ => z::Z_STREAM_ERROR,
    }
}

fn zlib_like(
    name: String,
    init2: InflateInit,
    inflate: Inflate,
    reset: InflateReset,
    version: *const c_char,
    library: Option<Library>,
) -> Rival {
    let mut stream: Box<z::z_stream> = Box::new(
        // SAFETY: an all-zero stream is what the interface asks for: null
        // pointers, no allocator, no counters.
        unsafe { MaybeUninit::zeroed().assume_init() },
    );
    let size = size_of::<z::z_stream>() as c_int;
    // SAFETY: the stream is zeroed and stays where it is (boxed).
    let ready = unsafe { init2(&mut *stream, -15, version, size) } == z::Z_OK;
    Rival {
        name,
        decode: Box::new(move |block, page| {
            let _keep = &library;
            stream.next_in = block.as_ptr().cast_mut();
            stream.avail_in = block.len() as u32;
            stream.next_out = page.as_mut_ptr();
            stream.avail_out = page.len() as u32;
            // SAFETY: the stream is initialised when `ready`, and points at
            // the two slices for the time of the call.
            ready
                && unsafe {
                    reset(&mut *stream) == z::Z_OK
                        && inflate(&mut *stream, z::Z_FINISH) == z::Z_STREAM_END
                }
                && stream.avail_out == 0
        }),
    }
}

/// The first fields of ISA-L's `struct inflate_state`; the rest is opaque.
#[repr(C)]
struct IsalState {
    next_out: *mut u8,
    avail_out: u32,
    total_out: u32,
    next_in: *const u8,
    read_in: u64,
    avail_in: u32,
    rest: [u64; 16 * 1024],
}

fn isal() -> Option<Rival> {
    let library = open("ISAL_LIBRARY", "libisal.so.2")?;
    // SAFETY: types as in igzip_lib.h; the library goes into the rival.
    let (init, run) = unsafe {
        let init: unsafe extern "C" fn(*mut IsalState) = *library.get(b"isal_inflate_init\0").ok()?;
        let run: unsafe extern "C" fn(*mut IsalState) -> c_int =
            *library.get(b"isal_inflate_stateless\0").ok()?;
        (init, run)
    };
    // SAFETY: integers and null pointers.
    let mut state: Box<IsalState> = unsafe { Box::new_zeroed().assume_init() };
    // SAFETY: the state is larger than the library's (about 86 KiB).
    unsafe { init(&mut *state) };
    Some(Rival {
        name: "ISA-L".into(),
        decode: Box::new(move |block, page| {
            let _keep = &library;
            state.next_in = block.as_ptr();
            state.avail_in = block.len() as u32;
            state.next_out = page.as_mut_ptr();
            state.avail_out = page.len() as u32;
            // SAFETY: the state is initialised and points at the two slices;
            // the call resets the rest itself.
            unsafe { run(&mut *state) == 0 && state.avail_out == 0 }
        }),
    })
}

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
fn open(env: &str, file: &str) -> Option<Library> {
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
        if z::deflateInit2_(&mut stream, level, z::Z_DEFLATED, bits, 8, how, version, size) != z::Z_OK
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
