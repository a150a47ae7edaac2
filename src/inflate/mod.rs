//! Page decoders: one raw DEFLATE block in, exactly one 4 KiB page out.
//!
//! A stream decoder has to stop anywhere and go on later, keep a 32 KiB window
//! and watch both ends of its buffers at every symbol. Here every block is its
//! own page and 128 of them are at hand at once. So the window is the page,
//! the input is padded instead of watched ([`INPUT_PADDING`]), and pages are
//! decoded into scratch memory of the decoder's own and then copied: guest
//! memory is only ever stored to, never read, and nothing is stored behind a
//! page's end.
//!
//! A page is good when its final block ends in the last byte of its input and
//! exactly 4096 bytes came out. Everything else is an [`InflateError`].
//!
//! The files, from the ground up:
//!
//! * `bits`, `out`: the raw pointers of the scalar decoder, and nothing else.
//! * `codes`: Huffman codes as tables.
//! * `scalar`: any block, one page at a time.
//! * `lanes`, `avx2`, `avx512`: many fixed-Huffman pages side by side.
//! * `reference`: libdeflate behind the same interface.

mod avx2;
mod avx512;
mod bits;
mod codes;
mod error;
mod lanes;
mod out;
mod reference;
mod scalar;

pub use error::InflateError;

use lanes::Scratch;
use reference::Libdeflate;
use scalar::Scalar;

/// Bytes of one page.
pub const PAGE: usize = 4096;

/// Bytes that must be readable (and initialised, with any content) behind the
/// end of the payload given to [`Decoder::decode_pages`].
///
/// The decoders compare their position with the end of the input at block
/// boundaries only. In between no symbol takes more than 15 bits for each byte
/// it puts out, so a damaged block runs at most 7,680 bytes past its end before
/// its page is full, plus one block header and one load.
pub const INPUT_PADDING: usize = 16 * 1024;

/// One page of work.
#[derive(Debug)]
pub struct Job {
    /// Where the page's block begins in the payload.
    pub start: u32,
    /// Bytes of the block.
    pub len: u32,
    /// Where the page goes: 4096 writable bytes of any alignment.
    pub dst: *mut u8,
    /// What came of it; on an error the content of `dst` is unspecified.
    pub result: Result<(), InflateError>,
}

/// The ways to decode a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// Sixteen fixed-Huffman pages side by side with AVX-512, VBMI2 and GFNI;
    /// other pages as [`Kind::Bmi2`] does.
    Avx512,
    /// Twelve fixed-Huffman pages side by side with AVX2; other pages as
    /// [`Kind::Bmi2`] does.
    Avx2,
    /// One page at a time, compiled for CPUs with BMI2.
    Bmi2,
    /// One page at a time, for any CPU.
    Portable,
    /// libdeflate, as reference and fallback.
    Libdeflate,
}

impl Kind {
    /// Every kind, the fastest first, whether this CPU has it or not.
    pub const ALL: &[Kind] =
        &[Kind::Avx512, Kind::Avx2, Kind::Bmi2, Kind::Portable, Kind::Libdeflate];

    /// The name used in reports and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Avx512 => "avx512",
            Kind::Avx2 => "avx2",
            Kind::Bmi2 => "bmi2",
            Kind::Portable => "portable",
            Kind::Libdeflate => "libdeflate",
        }
    }

    /// True when this CPU can run it.
    pub fn is_available(self) -> bool {
        match self {
            Kind::Avx512 => scalar::bmi2_available() && avx512::available(),
            Kind::Avx2 | Kind::Bmi2 => scalar::bmi2_available(),
            Kind::Portable | Kind::Libdeflate => true,
        }
    }
}

/// A page decoder with its tables and scratch pages: one per thread, reused.
#[derive(Debug)]
pub struct Decoder {
    kind: Kind,
    engine: Engine,
    /// Padded copy of the input of [`Decoder::decode_page`].
    padded: Vec<u8>,
}

#[derive(Debug)]
enum Engine {
    Own { scalar: Box<Scalar>, scratch: Scratch, order: Vec<u32> },
    Reference(Libdeflate),
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// The fastest decoder this CPU runs.
    pub fn new() -> Self {
        let kind = *Kind::ALL.iter().find(|kind| kind.is_available()).unwrap_or(&Kind::Portable);
        Self::own(kind)
    }

    /// The decoder of one kind, or `None` where the CPU lacks what it needs.
    pub fn with_kind(kind: Kind) -> Option<Self> {
        if !kind.is_available() {
            return None;
        }
        if kind == Kind::Libdeflate {
            let engine = Engine::Reference(Libdeflate::new()?);
            return Some(Self { kind, engine, padded: Vec::new() });
        }
        Some(Self::own(kind))
    }

    fn own(kind: Kind) -> Self {
        let lanes = match kind {
            Kind::Avx512 => avx512::LANES,
            Kind::Avx2 => avx2::LANES,
            _ => 1,
        };
        let engine = Engine::Own {
            scalar: Scalar::new(),
            scratch: Scratch::new(lanes),
            order: Vec::with_capacity(128),
        };
        Self { kind, engine, padded: Vec::new() }
    }

    /// Which kind this is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Decodes one block into one page. The input is copied, to have its
    /// padding.
    pub fn decode_page(&mut self, input: &[u8], out: &mut [u8; PAGE]) -> Result<(), InflateError> {
        let Ok(len) = u32::try_from(input.len()) else {
            // No page takes 4 GiB.
            return Err(InflateError::TrailingBytes);
        };
        let mut padded = std::mem::take(&mut self.padded);
        padded.clear();
        padded.extend_from_slice(input);
        padded.resize(input.len() + INPUT_PADDING, 0);
        let dst = out.as_mut_ptr();
        let mut jobs = [Job { start: 0, len, dst, result: Ok(()) }];
        // SAFETY: the payload has its padding, the job is all of it, and `out`
        // is borrowed for writing.
        unsafe { self.decode_pages(padded.as_ptr(), input.len(), &mut jobs) };
        self.padded = padded;
        jobs[0].result
    }

    /// Decodes a packet's pages; every job's `result` is set.
    ///
    /// # Safety
    ///
    /// * `payload` to `payload + payload_len + INPUT_PADDING` is readable and
    ///   not written meanwhile.
    /// * Every job has `start + len <= payload_len`.
    /// * Every `dst` is writable for 4096 bytes that overlap neither the
    ///   payload nor memory that is a Rust reference elsewhere. Others may read
    ///   and write it meanwhile; it is only stored to.
    pub unsafe fn decode_pages(
        &mut self,
        payload: *const u8,
        payload_len: usize,
        jobs: &mut [Job],
    ) {
        debug_assert!(jobs.iter().all(|job| job.start as usize + job.len as usize <= payload_len));
        match &mut self.engine {
            Engine::Reference(libdeflate) => {
                for job in jobs {
                    // SAFETY: the job lies in the payload, which is readable
                    // and not written while we are here.
                    let input = unsafe {
                        std::slice::from_raw_parts(
                            payload.add(job.start as usize),
                            job.len as usize,
                        )
                    };
                    job.result = libdeflate.decode(input).map(|page| {
                        // SAFETY: the page is ours, `dst` is the caller's.
                        unsafe { lanes::deliver(page.as_ptr(), job.dst) }
                    });
                }
            }
            Engine::Own { scalar, scratch, order } => {
                // SAFETY: passed on by our caller; `own` was given an
                // available kind, and the scratch pages it needs.
                unsafe { own_pages(self.kind, scalar, scratch, order, payload, jobs) }
            }
        }
    }
}

/// Decodes pages by our own decoders: what is one fixed block side by side
/// where the CPU can and there are enough of them, everything else one by one.
///
/// # Safety
///
/// As [`Decoder::decode_pages`]; `kind` is available and not
/// [`Kind::Libdeflate`], and `scratch` has the lanes it needs.
unsafe fn own_pages(
    kind: Kind,
    scalar: &mut Scalar,
    scratch: &mut Scratch,
    order: &mut Vec<u32>,
    payload: *const u8,
    jobs: &mut [Job],
) {
    order.clear();
    let worth_it = match kind {
        Kind::Avx512 => avx512::WORTH_IT,
        Kind::Avx2 => avx2::WORTH_IT,
        _ => usize::MAX,
    };
    if jobs.len() >= worth_it {
        for (number, job) in jobs.iter().enumerate() {
            // SAFETY: the first byte of a block of at least one.
            let first = (job.len > 0).then(|| unsafe { *payload.add(job.start as usize) });
            if first.is_some_and(lanes::is_final_fixed) {
                order.push(number as u32);
            }
        }
        if order.len() < worth_it {
            order.clear();
        }
    }

    let mut side_by_side = order.iter().copied().peekable();
    for (number, job) in jobs.iter_mut().enumerate() {
        if side_by_side.next_if_eq(&(number as u32)).is_some() {
            continue;
        }
        let len = job.len as usize;
        // SAFETY: the job lies in the payload, which has its padding; all kinds
        // but the portable one need BMI2.
        job.result = unsafe {
            let start = payload.add(job.start as usize);
            match kind {
                Kind::Portable => scalar.decode_portable(start, len, scratch),
                _ => scalar.decode_bmi2(start, len, scratch),
            }
        };
        if job.result.is_ok() {
            // SAFETY: lane 0's page is full, `dst` is the caller's.
            unsafe { lanes::deliver(scratch.page(0), job.dst) };
        }
    }

    if !order.is_empty() {
        // SAFETY: passed on by our caller; `order` holds numbers of jobs that
        // have at least one byte.
        unsafe {
            match kind {
                Kind::Avx512 => avx512::decode(scratch, payload, jobs, order),
                _ => avx2::decode(scratch, payload, jobs, order),
            }
        }
    }
}
