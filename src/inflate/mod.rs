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

mod avx512;
mod error;
mod lanes;
mod reference;

pub use error::InflateError;
use reference::Libdeflate;

/// Bytes of one page.
pub const PAGE: usize = 4096;

/// Bytes that must be readable (and initialised, with any content) behind the
/// end of the payload given to [`Decoder::decode_pages`].
///
/// The fast decoders compare their position with the end of the input at block
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
    /// Sixteen fixed-Huffman pages side by side with AVX-512, VBMI2 and GFNI.
    Avx512,
    /// libdeflate, as reference and fallback.
    Libdeflate,
}

impl Kind {
    /// Every kind, the fastest first, whether this CPU has it or not.
    pub const ALL: &[Kind] = &[Kind::Avx512, Kind::Libdeflate];

    /// The name used in reports and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Avx512 => "avx512",
            Kind::Libdeflate => "libdeflate",
        }
    }
}

/// A page decoder with its tables and scratch pages: one per thread, reused.
#[derive(Debug)]
pub struct Decoder {
    kind: Kind,
    libdeflate: Libdeflate,
    scratch: lanes::Scratch,
    order: Vec<u32>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// The fastest decoder this CPU runs.
    ///
    /// # Panics
    ///
    /// When there is no memory for it.
    pub fn new() -> Self {
        Kind::ALL
            .iter()
            .find_map(|&kind| Self::with_kind(kind))
            .expect("memory for at least one page decoder")
    }

    /// The decoder of one kind, or `None` where the CPU lacks what it needs.
    pub fn with_kind(kind: Kind) -> Option<Self> {
        if kind == Kind::Avx512 && !avx512::available() {
            return None;
        }
        let scratch = lanes::Scratch::new(avx512::LANES);
        Some(Self { kind, libdeflate: Libdeflate::new()?, scratch, order: Vec::new() })
    }

    /// Which kind this is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Decodes one block into one page.
    pub fn decode_page(&mut self, input: &[u8], out: &mut [u8; PAGE]) -> Result<(), InflateError> {
        out.copy_from_slice(self.libdeflate.decode(input)?);
        Ok(())
    }

    /// Decodes a packet's pages; every job's `result` is set.
    ///
    /// # Safety
    ///
    /// * `payload` to `payload + payload_len + INPUT_PADDING` is readable and
    ///   not written meanwhile.
    /// * Every job has `start + len <= payload_len`.
    /// * Every `dst` is writable for 4096 bytes that overlap neither the
    ///   payload nor memory that is a Rust reference. Others may read and write
    ///   it meanwhile; it is only stored to.
    pub unsafe fn decode_pages(
        &mut self,
        payload: *const u8,
        payload_len: usize,
        jobs: &mut [Job],
    ) {
        self.order.clear();
        for (number, job) in jobs.iter_mut().enumerate() {
            if self.kind == Kind::Avx512
                && job.len > 0
                && lanes::is_final_fixed(unsafe { *payload.add(job.start as usize) })
            {
                self.order.push(number as u32);
                continue;
            }
            debug_assert!(job.start as usize + job.len as usize <= payload_len);
            // SAFETY: the job lies in the payload, which is readable and not
            // written while we are here.
            let input = unsafe {
                std::slice::from_raw_parts(payload.add(job.start as usize), job.len as usize)
            };
            job.result = self.libdeflate.decode(input).map(|page| {
                // SAFETY: the page is ours, `dst` is writable for 4096 bytes
                // and no memory of ours.
                unsafe { std::ptr::copy_nonoverlapping(page.as_ptr(), job.dst, PAGE) }
            });
        }
        if !self.order.is_empty() {
            unsafe { avx512::decode(&mut self.scratch, payload, jobs, &self.order) };
        }
    }
}
