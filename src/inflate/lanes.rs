//! What the vector decoders share: the code of fixed blocks as vector tables,
//! the scratch pages, and the bookkeeping of pages that travel side by side.
//!
//! The fixed Huffman code needs no table to be read: reverse the eight bits of
//! a byte and the value alone tells a literal (0x30..0xc0) from a length
//! (below 0x30, or 0xc0..0xc8) and from the first eight bits of a nine-bit
//! literal (the rest). So one vector instruction looks at eight codes of each
//! of several pages. Every page has a *lane*: a bit position in its input and
//! an address in its scratch page. One step takes up to seven eight-bit
//! literals and then one symbol of any kind from every lane, without a branch.
//!
//! What a step cannot finish is an *event*: the end of the block, a match
//! longer than one vector, or damage. A lane whose page is done gets the next.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use super::out::OUT_SLACK;
use super::{InflateError, Job, PAGE};

/// Length of the symbol that ends a block, as the tables give it: longer than
/// anything real, so that the test for a long match finds it too.
pub(super) const END_OF_BLOCK: u16 = 0x7000;
/// Length given to the symbols 286 and 287, which mean nothing.
pub(super) const INVALID: u16 = 0x6000;
/// Distance given to the codes 30 and 31: further back than any real one.
pub(super) const TOO_FAR: u16 = 0x8001;

/// Base length and number of extra bits of the symbols 257 to 285.
pub(super) const LENGTHS: [(u16, u8); 29] = {
    let mut table = [(0, 0); 29];
    let (mut i, mut base) = (0, 3);
    while i < 28 {
        let extra = if i < 8 { 0 } else { (i / 4 - 1) as u8 };
        table[i] = (base, extra);
        base += 1 << extra;
        i += 1;
    }
    table[28] = (258, 0);
    table
};

/// Base distance and number of extra bits of the codes 0 to 29.
pub(super) const DISTANCES: [(u16, u8); 30] = {
    let mut table = [(0, 0); 30];
    let (mut i, mut base) = (0, 1u32);
    while i < 30 {
        let extra = if i < 4 { 0 } else { (i / 2 - 1) as u8 };
        table[i] = (base as u16, extra);
        base += 1 << extra;
        i += 1;
    }
    table
};

/// 32 entries of 16 bits: what one vector permutation looks up.
#[repr(align(64))]
pub(super) struct Table(pub(super) [u16; 32]);

/// The length symbols by their index: 0..24 have seven-bit codes (256..280),
/// 24..32 have eight-bit codes (280..288).
pub(super) struct LengthTables {
    /// Base length, [`END_OF_BLOCK`] or [`INVALID`].
    pub(super) base: Table,
    /// Mask of the extra bits.
    pub(super) mask: Table,
    /// Bits of code and extra bits together.
    pub(super) bits: Table,
}

pub(super) static LENGTH: LengthTables = {
    let mut tables =
        LengthTables { base: Table([0; 32]), mask: Table([0; 32]), bits: Table([0; 32]) };
    let mut i = 0;
    while i < 32 {
        let (base, extra) = match i {
            0 => (END_OF_BLOCK, 0),
            30.. => (INVALID, 0),
            _ => LENGTHS[i - 1],
        };
        tables.base.0[i] = base;
        tables.mask.0[i] = (1 << extra) - 1;
        tables.bits.0[i] = extra as u16 + if i < 24 { 7 } else { 8 };
        i += 1;
    }
    tables
};

/// The distance codes by their five bits as they lie in the input, that is
/// last bit first.
pub(super) struct DistanceTables {
    /// Base distance, or [`TOO_FAR`].
    pub(super) base: Table,
    /// Mask of the extra bits.
    pub(super) mask: Table,
    /// Bits of code and extra bits together.
    pub(super) bits: Table,
}

pub(super) static DISTANCE: DistanceTables = {
    let mut tables =
        DistanceTables { base: Table([0; 32]), mask: Table([0; 32]), bits: Table([0; 32]) };
    let mut i = 0;
    while i < 32 {
        let code = (i as u8).reverse_bits() as usize >> 3;
        let (base, extra) = if code < 30 { DISTANCES[code] } else { (TOO_FAR, 0) };
        tables.base.0[i] = base;
        tables.mask.0[i] = (1 << extra) - 1;
        tables.bits.0[i] = extra as u16 + 5;
        i += 1;
    }
    tables
};

/// Most bytes one vector copy moves.
pub(super) const COPY: usize = 64;

/// Row `d` says which of `COPY` bytes, read from `d` bytes back, belongs at
/// each place of a match with distance `d`: its bytes repeat every `d`.
#[repr(align(64))]
pub(super) struct Patterns(pub(super) [[u8; COPY]; COPY + 1]);

pub(super) static PATTERNS: Patterns = {
    let mut rows = [[0; COPY]; COPY + 1];
    let mut distance = 1;
    while distance <= COPY {
        let mut i = 0;
        while i < COPY {
            rows[distance][i] = (i % distance) as u8;
            i += 1;
        }
        distance += 1;
    }
    Patterns(rows)
};

/// Bytes that may be read before a scratch page: a distance is checked after
/// its match was loaded, and the largest is 32768 + 8191.
const BEFORE: usize = 40 * 1024;
/// Bytes that may be written behind a scratch page: literals of one step, one
/// copy, and what a long match overshoots.
const BEHIND: usize = if OUT_SLACK > 8 + 2 * COPY { OUT_SLACK } else { 8 + 2 * COPY };
/// From one scratch page to the next. Not 4096, so that lanes at the same
/// offset do not compete for one set of the first-level cache.
const STRIDE: usize = 4096 + 5 * 64;
const _: () = assert!(BEHIND <= STRIDE - PAGE);

/// The scratch pages of the lanes in one allocation.
#[derive(Debug)]
pub(super) struct Scratch {
    memory: NonNull<u8>,
    lanes: usize,
}

// SAFETY: a heap block with one owner.
unsafe impl Send for Scratch {}

impl Scratch {
    fn layout(lanes: usize) -> Layout {
        // Lanes are a small constant and the sum far from overflow.
        Layout::from_size_align(BEFORE + lanes * STRIDE, 4096).expect("a small layout")
    }

    /// Scratch pages for `lanes` lanes, zeroed.
    pub(super) fn new(lanes: usize) -> Self {
        let layout = Self::layout(lanes);
        // SAFETY: the layout has a size of at least BEFORE bytes.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(memory) = NonNull::new(memory) else { handle_alloc_error(layout) };
        Self { memory, lanes }
    }

    /// The scratch page of a lane; see `BEFORE` and `BEHIND` for what lies
    /// around it.
    pub(super) fn page(&self, lane: usize) -> *mut u8 {
        assert!(lane < self.lanes);
        // SAFETY: inside the allocation, as the lane exists.
        unsafe { self.memory.as_ptr().add(BEFORE + lane * STRIDE) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.memory.as_ptr(), Self::layout(self.lanes)) }
    }
}

/// True for a block that the lanes take: final, with fixed codes.
pub(super) fn is_final_fixed(first: u8) -> bool {
    first & 7 == 0b011
}

/// A symbol that ended a lane's run, as the step computed it.
pub(super) struct Event {
    /// Bit position behind the symbol.
    pub(super) bit: u64,
    /// Bit position behind it if it is the end of the block.
    pub(super) block_end: u64,
    /// Address behind the symbol's output.
    pub(super) out: u64,
    /// Length the tables gave.
    pub(super) len: u64,
    /// The address the match copies from.
    pub(super) src: u64,
}

impl Event {
    /// Tells why the lane stopped: `None` when it did not (a long match).
    fn verdict(&self, page: u64, end: u64) -> Option<Result<(), InflateError>> {
        let full = page + PAGE as u64;
        let at = if self.len == u64::from(END_OF_BLOCK) { self.block_end } else { self.bit };
        let used = at.div_ceil(8);
        if at > end * 8 {
            // Whatever was read behind the end means nothing.
            return Some(Err(InflateError::InputTruncated));
        }
        if self.len == u64::from(END_OF_BLOCK) {
            let made = self.out - self.len - page;
            return Some(if made < PAGE as u64 {
                Err(InflateError::OutputShort)
            } else if made > PAGE as u64 {
                Err(InflateError::OutputLong)
            } else if used < end {
                Err(InflateError::TrailingBytes)
            } else {
                Ok(())
            });
        }
        if self.len == u64::from(INVALID) {
            return Some(Err(InflateError::InvalidCode));
        }
        if self.src < page {
            if self.out - self.len - self.src == u64::from(TOO_FAR) {
                return Some(Err(InflateError::InvalidCode));
            }
            return Some(Err(InflateError::DistanceBeforeStart));
        }
        if self.out > full {
            return Some(Err(InflateError::OutputLong));
        }
        None
    }
}

/// Hands jobs to lanes and takes their pages back.
pub(super) struct Feed<'a> {
    payload: *const u8,
    jobs: &'a mut [Job],
    waiting: std::slice::Iter<'a, u32>,
    busy: usize,
}

/// A job as a lane needs it.
pub(super) struct Next {
    /// Its number.
    pub(super) job: u32,
    /// Bit position of its first symbol.
    pub(super) bit: u64,
}

impl<'a> Feed<'a> {
    /// The jobs whose numbers are in `order`.
    ///
    /// # Safety
    ///
    /// As [`super::Decoder::decode_pages`]; every number is below `jobs.len()`
    /// and every such job has at least one byte.
    pub(super) unsafe fn new(payload: *const u8, jobs: &'a mut [Job], order: &'a [u32]) -> Self {
        Self { payload, jobs, waiting: order.iter(), busy: order.len() }
    }

    /// A bit position that is safe to read at, for a lane without a job.
    pub(super) fn parked(&self) -> u64 {
        self.payload as u64 * 8
    }

    /// True while pages are not done.
    pub(super) fn is_busy(&self) -> bool {
        self.busy > 0
    }

    /// The next job, if any is left. Its block header is three bits.
    pub(super) fn next(&mut self) -> Option<Next> {
        let &job = self.waiting.next()?;
        let start = self.payload as u64 + u64::from(self.jobs[job as usize].start);
        Some(Next { job, bit: start * 8 + 3 })
    }

    /// Judges an event of the lane that has `job` and the scratch page `page`.
    /// `None`: a match in order but too long for a step; the lane goes on when
    /// it is copied. Otherwise the job is done, and its page delivered if it is
    /// good.
    ///
    /// # Safety
    ///
    /// `page` is the address of the lane's scratch page.
    pub(super) unsafe fn settle(&mut self, job: u32, page: u64, event: &Event) -> Option<()> {
        let job = &mut self.jobs[job as usize];
        let end = self.payload as u64 + u64::from(job.start) + u64::from(job.len);
        job.result = event.verdict(page, end)?;
        if job.result.is_ok() {
            // SAFETY: the scratch page is full, `dst` is that of a job, which
            // `new`'s caller vouches for.
            unsafe { deliver(page as *const u8, job.dst) };
        }
        self.busy -= 1;
        Some(())
    }
}

/// Copies a finished page out.
///
/// # Safety
///
/// `page` is readable and `dst` writable for 4096 bytes, and they do not
/// overlap.
pub(super) unsafe fn deliver(page: *const u8, dst: *mut u8) {
    // SAFETY: the caller's.
    unsafe { std::ptr::copy_nonoverlapping(page, dst, PAGE) }
}
