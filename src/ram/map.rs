//! The received map: two bits for every page of a RAMBlock.
//!
//! *received* is QEMU's bit with QEMU's meaning: the page has arrived, as data
//! or as zero. *written* is ours: this page of memory may differ from zero. The
//! two together say what a zero page needs without ever reading memory:
//!
//! | written | a zero page arrives | data arrives |
//! |---|---|---|
//! | no | mark *received*, touch nothing | set *written*, store, set *received* |
//! | yes | clear, drop *written*, set *received* | store, set *received* |
//!
//! *written* is set before anything may write the page and *received* after the
//! bytes are in, so whoever sees *received* sees *written* and the bytes.
//!
//! Both bits of 64 pages lie side by side in one pair of words. A packet of 128
//! neighbouring pages therefore costs two or three pairs, and one cache line.
//! The words are zero memory that the kernel provides when first touched, in
//! huge pages for large VMs: 4 MiB and two page faults for 64 GiB.

use std::ops::Range;

use super::primitive::{AtomicU64, Ordering};
use crate::wire::PAGE_SIZE;

/// Pages that one word holds a bit for.
pub(super) const WORD_PAGES: u32 = 64;

/// Why a map operation was refused.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum MapError {
    /// A page, or the last page of a range, lies outside the block.
    #[error("page {page:#x} lies outside a RAMBlock of {pages:#x} pages")]
    OutOfBounds {
        /// Index of the page asked for.
        page: u64,
        /// Pages in the block.
        pages: u32,
    },
    /// A host address lies below the block.
    #[error("host address {address:#x} lies below its RAMBlock, which starts at {start:#x}")]
    BelowBlock {
        /// The address asked for.
        address: usize,
        /// First address of the block.
        start: usize,
    },
}

/// The words of 64 neighbouring pages.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Pair {
    received: AtomicU64,
    written: AtomicU64,
}

/// Two bits a page: *received* and *written*. Shared by all threads.
#[derive(Debug)]
pub struct ReceivedMap {
    start: usize,
    pages: u32,
    words: storage::Words,
}

impl ReceivedMap {
    /// An empty map for `pages` pages of memory that starts at host address
    /// `start`.
    pub fn new(start: usize, pages: u32) -> std::io::Result<Self> {
        Ok(Self { start, pages, words: storage::Words::new(pages.div_ceil(WORD_PAGES))? })
    }

    /// Pages in the block.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    // QEMU's operations, with QEMU's meaning, and bounds.

    /// Whether the page at a host address has arrived.
    pub fn test(&self, host: usize) -> Result<bool, MapError> {
        self.test_byte_offset(self.offset_of(host)?)
    }

    /// Whether the page at a byte offset in the block has arrived.
    pub fn test_byte_offset(&self, offset: u64) -> Result<bool, MapError> {
        self.page_at(offset).map(|page| self.is_received(page))
    }

    /// Marks the page at a host address received.
    pub fn set(&self, host: usize) -> Result<(), MapError> {
        self.set_offset(self.offset_of(host)?)
    }

    /// Marks the page at a byte offset in the block received.
    pub fn set_offset(&self, offset: u64) -> Result<(), MapError> {
        let page = self.page_at(offset)?;
        self.mark_received(page / WORD_PAGES, bit(page));
        Ok(())
    }

    /// Marks `pages` pages from a host address on received.
    pub fn set_range(&self, host: usize, pages: u64) -> Result<(), MapError> {
        for (word, mask) in self.words_of_range(self.offset_of(host)?, pages)? {
            self.mark_received(word, mask);
        }
        Ok(())
    }

    /// Forgets that `pages` pages from a byte offset on have arrived. *written*
    /// stays: forgetting a page does not make its memory zero.
    pub fn discard_range(&self, offset: u64, pages: u64) -> Result<(), MapError> {
        for (word, mask) in self.words_of_range(offset, pages)? {
            self.pair(word).received.fetch_and(!mask, Ordering::Release);
        }
        Ok(())
    }

    /// The received bitmap as QEMU sends it: page `i` is bit `i % 64` of word
    /// `i / 64`, the words are little-endian on the wire, bits past the last
    /// page are zero, and eight times their number is QEMU's size field.
    pub fn received_words(&self) -> impl ExactSizeIterator<Item = u64> + '_ {
        self.words.iter().map(|pair| pair.received.load(Ordering::Acquire))
    }

    // Single pages and sums.

    /// Whether a page has arrived; a page outside the block never has.
    pub fn is_received(&self, page: u32) -> bool {
        page < self.pages && self.received(page / WORD_PAGES) & bit(page) != 0
    }

    /// Whether a page of memory may differ from zero; a page outside the block
    /// never does.
    pub fn is_written(&self, page: u32) -> bool {
        page < self.pages && self.written(page / WORD_PAGES) & bit(page) != 0
    }

    /// Pages that have arrived.
    pub fn received_count(&self) -> u64 {
        self.received_words().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Pages that may differ from zero.
    pub fn written_count(&self) -> u64 {
        let word = |pair: &Pair| pair.written.load(Ordering::Acquire);
        self.words.iter().map(|pair| u64::from(word(pair).count_ones())).sum()
    }

    /// Runs of pages that may differ from zero, in order. All other pages read
    /// as zero and need not be touched to know it.
    pub fn written_runs(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        let mut next = 0;
        std::iter::from_fn(move || {
            let first = self.find_written(next, true)?;
            next = self.find_written(first, false).unwrap_or(self.pages);
            Some(first..next)
        })
    }

    // Batches.

    /// Marks zero pages that no memory was written for as received, and hands
    /// the others to `written` as a word and a mask: these hold old data and
    /// have to be cleared before they are received.
    ///
    /// The pages may come in any order; the more neighbours follow each other,
    /// the fewer words are touched. Nothing is marked when a page lies outside
    /// the block.
    pub fn mark_zero(
        &self,
        pages: &[u32],
        mut written: impl FnMut(u32, u64),
    ) -> Result<(), MapError> {
        self.check(pages)?;
        for_each_word(pages, |word, mask| {
            let pair = self.pair(word);
            // Who finds *written* set by a write still on its way goes through
            // the write guard; see `zero_pages`.
            let dirty = pair.written.load(Ordering::Acquire) & mask;
            let clean = mask & !dirty;
            // Most words are marked once: look before taking the cache line
            // for writing in later rounds.
            if pair.received.load(Ordering::Relaxed) & clean != clean {
                pair.received.fetch_or(clean, Ordering::Release);
            }
            if dirty != 0 {
                written(word, dirty);
            }
        });
        Ok(())
    }

    /// Sets *received*. Release: the bytes stored before are seen by whoever
    /// sees the bit.
    pub fn mark_received(&self, word: u32, mask: u64) {
        self.pair(word).received.fetch_or(mask, Ordering::Release);
    }

    /// Sets *written*. Called before the first byte is stored. Relaxed is
    /// enough: other writers are kept apart by the write guard, and readers
    /// come through *received*, which is released later.
    pub fn mark_written(&self, word: u32, mask: u64) {
        let written = &self.pair(word).written;
        if written.load(Ordering::Relaxed) & mask != mask {
            written.fetch_or(mask, Ordering::Relaxed);
        }
    }

    /// Drops *written* of pages that are zero again. Release: the zero bytes
    /// are seen by whoever sees the bit gone. The caller holds their guard.
    pub fn mark_cleared(&self, word: u32, mask: u64) {
        self.pair(word).written.fetch_and(!mask, Ordering::Release);
    }

    /// The *received* bits of 64 pages; none for a word outside the block.
    pub fn received(&self, word: u32) -> u64 {
        self.words.get(word as usize).map_or(0, |pair| pair.received.load(Ordering::Acquire))
    }

    /// The *written* bits of 64 pages; none for a word outside the block.
    pub fn written(&self, word: u32) -> u64 {
        self.words.get(word as usize).map_or(0, |pair| pair.written.load(Ordering::Acquire))
    }

    /// Sets *written* of every page: memory that holds nobody knows what.
    pub(super) fn mark_all_written(&self) {
        for word in 0..self.pages.div_ceil(WORD_PAGES) {
            let left = self.pages - word * WORD_PAGES;
            let mask = if left < WORD_PAGES { (1 << left) - 1 } else { !0 };
            self.mark_written(word, mask);
        }
    }

    /// Refuses a batch with a page outside the block.
    pub(super) fn check(&self, pages: &[u32]) -> Result<(), MapError> {
        match pages.iter().max() {
            Some(&page) if page >= self.pages => Err(self.out_of_bounds(page.into())),
            _ => Ok(()),
        }
    }

    fn pair(&self, word: u32) -> &Pair {
        &self.words[word as usize]
    }

    fn out_of_bounds(&self, page: u64) -> MapError {
        MapError::OutOfBounds { page, pages: self.pages }
    }

    fn offset_of(&self, host: usize) -> Result<u64, MapError> {
        match host.checked_sub(self.start) {
            Some(offset) => Ok(offset as u64),
            None => Err(MapError::BelowBlock { address: host, start: self.start }),
        }
    }

    fn page_at(&self, offset: u64) -> Result<u32, MapError> {
        let page = offset / PAGE_SIZE as u64;
        match u32::try_from(page) {
            Ok(index) if index < self.pages => Ok(index),
            _ => Err(self.out_of_bounds(page)),
        }
    }

    /// The words of `pages` pages from a byte offset on, each with its mask.
    fn words_of_range(
        &self,
        offset: u64,
        pages: u64,
    ) -> Result<impl Iterator<Item = (u32, u64)> + use<>, MapError> {
        let first = offset / PAGE_SIZE as u64;
        let end = first.saturating_add(pages);
        if end > u64::from(self.pages) {
            return Err(self.out_of_bounds(end - 1));
        }
        // Both fit: they are at most `self.pages`.
        Ok(words_of(first as u32..end as u32))
    }

    /// First page from `from` on whose *written* bit is `value`.
    fn find_written(&self, from: u32, value: bool) -> Option<u32> {
        let flip = if value { 0 } else { !0 };
        let mut word = from / WORD_PAGES;
        let mut bits = (self.written(word) ^ flip) & (!0 << (from % WORD_PAGES));
        while bits == 0 {
            word += 1;
            if word as usize >= self.words.len() {
                return None;
            }
            bits = self.written(word) ^ flip;
        }
        Some(word * WORD_PAGES + bits.trailing_zeros()).filter(|&page| page < self.pages)
    }
}

/// The bit of a page in its word.
pub(super) fn bit(page: u32) -> u64 {
    1 << (page % WORD_PAGES)
}

/// The words of a range of pages, each with the mask of its pages.
pub(super) fn words_of(pages: Range<u32>) -> impl Iterator<Item = (u32, u64)> {
    let mut next = pages.start;
    std::iter::from_fn(move || {
        if next >= pages.end {
            return None;
        }
        let word = next / WORD_PAGES;
        let count = (WORD_PAGES - next % WORD_PAGES).min(pages.end - next);
        let mask = (!0 >> (WORD_PAGES - count)) << (next % WORD_PAGES);
        next += count;
        Some((word, mask))
    })
}

/// Calls `word` with each word and the mask of the pages that follow each
/// other in it. A word comes again when its pages do not lie together.
#[inline]
fn for_each_word(pages: &[u32], mut word: impl FnMut(u32, u64)) {
    let Some(&first) = pages.first() else { return };
    let mut current = first / WORD_PAGES;
    let mut mask = 0;
    for &page in pages {
        if page / WORD_PAGES != current {
            word(current, mask);
            current = page / WORD_PAGES;
            mask = 0;
        }
        mask |= bit(page);
    }
    word(current, mask);
}

#[cfg(not(loom))]
mod storage {
    //! The words in memory of their own.

    use std::{io, ops::Deref, slice};

    use super::Pair;
    use crate::{
        ram::mapping::{HUGE_PAGE, Mapping, populate},
        wire::PAGE_SIZE,
    };

    /// From this size on the words are backed by huge pages: 64 faults would
    /// be the price of small ones. It is the map of a 4 GiB VM.
    const HUGE_FROM: usize = 256 << 10;

    #[derive(Debug)]
    pub(super) struct Words {
        mapping: Mapping,
        len: usize,
    }

    impl Words {
        pub(super) fn new(len: u32) -> io::Result<Self> {
            let len = len as usize;
            let bytes = len * size_of::<Pair>();
            let mapping = if bytes < HUGE_FROM {
                Mapping::new(bytes, 0, None)?
            } else {
                let mapping = Mapping::new(bytes.next_multiple_of(HUGE_PAGE), HUGE_PAGE, None)?;
                mapping.advise_huge(true);
                mapping
            };
            // Words are read before they are written. Reading absent memory
            // maps the kernel's page of zeros there, and the write after it
            // costs a copy and a TLB flush, which a bound device is told of.
            // Kernels that cannot populate do without.
            // SAFETY: the pages lie in the mapping made above.
            let _ =
                unsafe { populate(mapping.start().as_ptr(), bytes.next_multiple_of(PAGE_SIZE)) };
            Ok(Self { mapping, len })
        }
    }

    impl Deref for Words {
        type Target = [Pair];

        #[inline]
        fn deref(&self) -> &[Pair] {
            // SAFETY: the mapping is at least `len` pairs long, page-aligned,
            // lives as long as `self` and is used as pairs of atomics only;
            // fresh memory is all zero bits, which is a valid Pair.
            unsafe { slice::from_raw_parts(self.mapping.start().as_ptr().cast(), self.len) }
        }
    }
}

#[cfg(loom)]
mod storage {
    //! The words where loom can watch them.

    use std::{io, ops::Deref};

    use super::{AtomicU64, Pair};

    #[derive(Debug)]
    pub(super) struct Words(Vec<Pair>);

    impl Words {
        pub(super) fn new(len: u32) -> io::Result<Self> {
            let pair = || Pair { received: AtomicU64::new(0), written: AtomicU64::new(0) };
            Ok(Self((0..len).map(|_| pair()).collect()))
        }
    }

    impl Deref for Words {
        type Target = [Pair];

        fn deref(&self) -> &[Pair] {
            &self.0
        }
    }
}
