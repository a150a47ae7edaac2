//! The other decoders, each behind the same call. Libraries that the build does
//! not bring along are opened at run time and left out where they are not
//! installed; an environment variable names one that lies elsewhere.

use std::ffi::{CStr, c_char, c_int};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

use libloading::Library;
use libz_rs_sys as z;

use super::coders::{Qpl, open};
use super::corpus::PAGE;

/// A decoder in the race: raw DEFLATE block in, one page out.
pub struct Rival {
    /// Library and version.
    pub name: String,
    /// How it decodes.
    pub decode: Decode,
}

/// Decodes a block into a page of 4096 bytes; false when it fails.
pub type Decode = Box<dyn FnMut(&[u8], &mut [u8]) -> bool>;

/// Every rival present on this machine.
pub fn all() -> Vec<Rival> {
    let mut found = vec![libdeflate(), zlib_rs()];
    found.extend(zlib("ZLIB_LIBRARY", "libz.so.1", "zlib", "zlibVersion", ""));
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

/// A library with zlib's interface, opened by name. zlib-ng's own interface
/// (`prefix`) has the same stream structure on this architecture.
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
static ZNG_INIT2: OnceLock<Option<ZngInit2>> = OnceLock::new();

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
        let init: unsafe extern "C" fn(*mut IsalState) =
            *library.get(b"isal_inflate_init\0").ok()?;
        let run: unsafe extern "C" fn(*mut IsalState) -> c_int =
            *library.get(b"isal_inflate_stateless\0").ok()?;
        (init, run)
    };
    let mut state = Box::new(IsalState {
        next_out: ptr::null_mut(),
        avail_out: 0,
        total_out: 0,
        next_in: ptr::null(),
        read_in: 0,
        avail_in: 0,
        rest: [0; 16 * 1024],
    });
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
