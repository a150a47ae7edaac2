//! The output of one page: a scratch page with room behind it.

use super::PAGE;
use super::bits::Bits;

/// Bytes that [`Out`] may write behind a page: what one turn of the decoding
/// loop adds to a page that is already full, and what a copy overshoots.
pub(super) const OUT_SLACK: usize = 3 + 258 + COPY_SLACK;

/// Bytes that [`copy_match`] may write behind a match.
pub(super) const COPY_SLACK: usize = 32;

/// A scratch page being filled. Its methods do not look at the end; the
/// decoding loop does, once each turn.
#[derive(Debug)]
pub(super) struct Out {
    page: *mut u8,
    len: usize,
}

impl Out {
    /// Fills `page` from its start.
    ///
    /// # Safety
    ///
    /// `page` is readable and writable for `PAGE + OUT_SLACK` bytes while this
    /// lives, all of them initialised. While at most `PAGE` bytes are in, the
    /// caller adds at most three literals and one match before it looks at
    /// `len` again; past that, nothing.
    pub(super) unsafe fn new(page: *mut u8) -> Self {
        Self { page, len: 0 }
    }

    /// Bytes put out so far.
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds a byte.
    #[inline(always)]
    pub(super) fn literal(&mut self, byte: u32) {
        // SAFETY: inside page and slack, see `new`.
        unsafe { self.page.add(self.len).write(byte as u8) };
        self.len += 1;
    }

    /// Adds `len` bytes (3 to 258) from `distance` bytes back, which must be
    /// in the page.
    #[inline(always)]
    pub(super) fn copy(&mut self, distance: usize, len: usize) {
        debug_assert!(distance >= 1 && distance <= self.len);
        // SAFETY: the source begins in the page, and page and slack have room
        // for the match and what its copy overshoots.
        unsafe { copy_match(self.page.add(self.len), distance, len) };
        self.len += len;
    }

    /// Adds `len` bytes of the input as they are; the page must have room.
    #[inline(always)]
    pub(super) fn stored(&mut self, bits: &mut Bits, len: usize) {
        assert!(len <= PAGE - self.len);
        let src = bits.bytes(len);
        // SAFETY: `bytes` hands out `len` readable bytes of the input, which
        // is never scratch memory; the page has room for them.
        unsafe { std::ptr::copy_nonoverlapping(src, self.page.add(self.len), len) };
        self.len += len;
    }
}

/// Copies `len` bytes (at least 1) to `dst` from `distance` bytes before it,
/// where the two may overlap, as a match of DEFLATE does.
///
/// # Safety
///
/// From `distance` bytes before `dst` to `len + COPY_SLACK` behind it all is
/// readable, writable and initialised.
#[inline(always)]
pub(super) unsafe fn copy_match(mut dst: *mut u8, distance: usize, len: usize) {
    // SAFETY: each turn begins before `len` bytes are done and stores at most 32
    // bytes, so it ends in the slack; each load ends before the store it feeds
    // or, with distances under eight, in front of `dst + 8`.
    unsafe {
        let mut src = dst.sub(distance).cast_const();
        let end = dst.add(len);
        // Most matches are short. What comes before the first look at the length
        // is enough for them, and saves a branch nobody can foresee.
        if distance >= 16 {
            loop {
                let bytes = src.cast::<[u64; 2]>().read_unaligned();
                dst.cast::<[u64; 2]>().write_unaligned(bytes);
                let bytes = src.add(16).cast::<[u64; 2]>().read_unaligned();
                dst.add(16).cast::<[u64; 2]>().write_unaligned(bytes);
                src = src.add(32);
                dst = dst.add(32);
                if dst >= end {
                    return;
                }
            }
        }
        if distance >= 8 {
            loop {
                let bytes = src.cast::<u64>().read_unaligned();
                dst.cast::<u64>().write_unaligned(bytes);
                let bytes = src.add(8).cast::<u64>().read_unaligned();
                dst.add(8).cast::<u64>().write_unaligned(bytes);
                src = src.add(16);
                dst = dst.add(16);
                if dst >= end {
                    return;
                }
            }
        }
        if distance == 1 {
            let bytes = u64::from(src.read()) * 0x0101_0101_0101_0101;
            loop {
                dst.cast::<[u64; 2]>().write_unaligned([bytes; 2]);
                dst = dst.add(16);
                if dst >= end {
                    return;
                }
            }
        }
        // Eight bytes made of the pattern, then stores that each move on
        // by a multiple of the distance.
        let mut shift = 8 * distance as u32;
        let mut bytes = src.cast::<u64>().read_unaligned() & ((1 << shift) - 1);
        while shift < 64 {
            bytes |= bytes << shift;
            shift *= 2;
        }
        let step = usize::from([8u8, 8, 8, 6, 8, 5, 6, 7][distance]);
        loop {
            dst.cast::<u64>().write_unaligned(bytes);
            dst = dst.add(step);
            if dst >= end {
                return;
            }
        }
    }
}
