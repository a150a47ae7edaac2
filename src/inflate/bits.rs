//! The input of one page, bit by bit.

use super::InflateError;

/// A bit reader that does not look at the end of its input while it reads:
/// [`Bits::new`]'s caller has room behind it.
#[derive(Debug)]
pub(super) struct Bits {
    /// Bits not taken yet, the next one lowest. Above `count` there may be
    /// bits of the bytes at `next` already; they are or-ed in once more.
    buffer: u64,
    /// How many of them count, in the low six bits; see [`Bits::skip`].
    count: u32,
    next: *const u8,
    end: *const u8,
}

impl Bits {
    /// Reads from `start`.
    ///
    /// # Safety
    ///
    /// `start` to `start + len + INPUT_PADDING` is readable and not written
    /// while the reader lives. Between two calls of [`Bits::past_end`] that
    /// answer false at most INPUT_PADDING - 16 bytes are taken.
    pub(super) unsafe fn new(start: *const u8, len: usize) -> Self {
        // SAFETY: inside the readable range.
        let end = unsafe { start.add(len) };
        Self { buffer: 0, count: 0, next: start, end }
    }

    /// Makes at least 56 bits available.
    #[inline(always)]
    pub(super) fn refill(&mut self) {
        // SAFETY: `next` is at most a load behind what was taken, which
        // `new`'s caller vouches for.
        let word = unsafe { self.next.cast::<u64>().read_unaligned() }.to_le();
        self.buffer |= word << (self.count & 63);
        // SAFETY: as above; moves on by at most seven bytes.
        self.next = unsafe { self.next.add(7 - (self.count >> 3 & 7) as usize) };
        self.count |= 56;
    }

    /// All bits at hand.
    #[inline(always)]
    pub(super) fn buffer(&self) -> u64 {
        self.buffer
    }

    /// The next `bits` bits, left in place.
    #[inline(always)]
    pub(super) fn peek(&self, bits: u32) -> usize {
        (self.buffer & ((1 << bits) - 1)) as usize
    }

    /// Takes bits away, which must be there; how many is in the low six bits of
    /// `bits`. What is above them may be anything: it changes the upper bits of
    /// `count` only, which nobody looks at, and masking costs an instruction.
    #[inline(always)]
    pub(super) fn skip(&mut self, bits: u32) {
        debug_assert!(bits & 0xc0 == 0 && bits & 63 <= self.count & 63);
        self.buffer >>= bits & 63;
        self.count = self.count.wrapping_sub(bits);
    }

    /// The next `bits` bits; they must be there.
    #[inline(always)]
    pub(super) fn take(&mut self, bits: u32) -> u32 {
        let value = self.peek(bits);
        self.skip(bits);
        value as u32
    }

    /// Goes on at the next whole byte.
    #[inline(always)]
    pub(super) fn align(&mut self) {
        self.skip(self.count & 7);
    }

    /// Address of the first byte no bit of which was taken.
    #[inline(always)]
    fn position(&self) -> *const u8 {
        self.next.wrapping_sub((self.count >> 3 & 7) as usize)
    }

    /// True when bits behind the end were taken.
    #[inline(always)]
    pub(super) fn past_end(&self) -> bool {
        self.position() > self.end
    }

    /// Whole bytes left in the input.
    #[inline(always)]
    pub(super) fn bytes_left(&self) -> usize {
        (self.end as usize).saturating_sub(self.position() as usize)
    }

    /// The error to report: what lies behind the end is no evidence of
    /// anything but a truncated input. (Inlined, as a call would force the
    /// reader out of its registers in the whole decoding loop.)
    #[inline(always)]
    pub(super) fn or_truncated(&self, error: InflateError) -> InflateError {
        if self.past_end() { InflateError::InputTruncated } else { error }
    }

    /// Hands out the next `len` bytes, which must be there, and goes on behind
    /// them. Only at a whole byte.
    #[inline(always)]
    pub(super) fn bytes(&mut self, len: usize) -> *const u8 {
        assert!(self.count & 7 == 0 && len <= self.bytes_left());
        let start = self.position();
        self.next = start.wrapping_add(len);
        self.buffer = 0;
        self.count = 0;
        start
    }
}
