//! Pages of one packet in the order of memory, and walks over them: by word of
//! the received map, and by run of neighbours.

use std::ops::Range;

use super::PlacementError;
use crate::{
    ram::{
        RamBlock,
        map::{WORD_PAGES, bit},
    },
    wire::MAX_PACKET_PAGES,
};

/// A set of positions in a batch, one bit each.
pub(super) type Positions = u128;
const _: () = assert!(MAX_PACKET_PAGES <= Positions::BITS as usize);

/// The positions of a range.
pub(super) fn positions(range: Range<usize>) -> Positions {
    if range.is_empty() {
        return 0;
    }
    (!0 >> (Positions::BITS as usize - range.len())) << range.start
}

/// At most 128 distinct pages of one block, sorted.
#[derive(Debug)]
pub(super) struct Batch {
    len: usize,
    sorted: [u32; MAX_PACKET_PAGES],
    /// Position in `sorted` of each page as the packet numbers them.
    rank: [u8; MAX_PACKET_PAGES],
}

impl Batch {
    pub(super) fn new(block: &RamBlock, pages: &[u32]) -> Result<Self, PlacementError> {
        if pages.len() > MAX_PACKET_PAGES {
            return Err(PlacementError::TooManyPages { pages: pages.len() });
        }
        let name = || block.name().to_owned();
        block
            .map()
            .check(pages)
            .map_err(|source| PlacementError::OutOfBounds { block: name(), source })?;
        let mut batch = Self {
            len: pages.len(),
            sorted: [0; MAX_PACKET_PAGES],
            rank: std::array::from_fn(|i| i as u8),
        };
        batch.sorted[..pages.len()].copy_from_slice(pages);
        // Sources scan their dirty bitmap upwards, so nearly every packet comes
        // sorted.
        if !pages.is_sorted_by(|a, b| a < b) {
            batch.sort(pages);
            if let Some(pair) = batch.sorted().windows(2).find(|pair| pair[0] == pair[1]) {
                return Err(PlacementError::Duplicate { block: name(), page: pair[0] });
            }
        }
        Ok(batch)
    }

    fn sort(&mut self, pages: &[u32]) {
        let mut keys = [0u64; MAX_PACKET_PAGES];
        let keys = &mut keys[..pages.len()];
        for (i, (key, &page)) in keys.iter_mut().zip(pages).enumerate() {
            *key = u64::from(page) << 8 | i as u64;
        }
        keys.sort_unstable();
        for (position, key) in keys.iter().enumerate() {
            self.sorted[position] = (key >> 8) as u32;
            self.rank[(key & 0xff) as usize] = position as u8;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn sorted(&self) -> &[u32] {
        &self.sorted[..self.len]
    }

    /// Position of the packet's page `i`.
    ///
    /// # Panics
    ///
    /// If the packet has no page `i`.
    pub(super) fn rank(&self, i: usize) -> usize {
        self.rank[..self.len][i].into()
    }

    pub(super) fn all(&self) -> Positions {
        positions(0..self.len)
    }

    /// The words of the positions in `select`, in order.
    #[inline]
    pub(super) fn words(&self, select: Positions) -> Words<'_> {
        Words { batch: self, left: select }
    }

    /// Splits `select` off where words would be `span` or more apart: returns
    /// the positions before that.
    pub(super) fn within(&self, select: Positions, span: u32) -> Positions {
        let sorted = self.sorted();
        if select == 0 {
            return 0;
        }
        let first = sorted[select.trailing_zeros() as usize] / WORD_PAGES;
        let last = sorted[(Positions::BITS - 1 - select.leading_zeros()) as usize] / WORD_PAGES;
        if last - first < span {
            return select;
        }
        let near = |&page: &u32| (page / WORD_PAGES).saturating_sub(first) < span;
        select & positions(0..sorted.partition_point(near))
    }

    /// Runs of neighbouring pages among the positions in `select`.
    pub(super) fn runs(&self, mut select: Positions) -> impl Iterator<Item = Run> + '_ {
        std::iter::from_fn(move || {
            if select == 0 {
                return None;
            }
            let first = select.trailing_zeros() as usize;
            let selected = (!(select >> first)).trailing_zeros() as usize;
            let page = self.sorted[first];
            let mut len = 1;
            while len < selected && self.sorted[first + len] == page + len as u32 {
                len += 1;
            }
            select &= !positions(first..first + len);
            Some(Run { first, page, len })
        })
    }
}

/// Neighbouring pages at neighbouring positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// Position of the first page.
    pub first: usize,
    /// Index of the first page in the block.
    pub page: u32,
    /// Pages in the run.
    pub len: usize,
}

impl Run {
    pub(super) fn pages(&self) -> Range<u32> {
        self.page..self.page + self.len as u32
    }
}

/// See [`Batch::words`].
#[derive(Debug, Clone)]
pub(super) struct Words<'a> {
    batch: &'a Batch,
    left: Positions,
}

impl Words<'_> {
    /// Word, mask and positions.
    #[inline]
    pub(super) fn next_with_positions(&mut self) -> Option<(u32, u64, Positions)> {
        if self.left == 0 {
            return None;
        }
        let first = self.left.trailing_zeros() as usize;
        let word = self.batch.sorted[first] / WORD_PAGES;
        let mut mask = 0;
        let mut taken = 0;
        let mut at = first;
        while at < self.batch.len && self.batch.sorted[at] / WORD_PAGES == word {
            if self.left >> at & 1 != 0 {
                mask |= bit(self.batch.sorted[at]);
                taken |= 1 << at;
            }
            at += 1;
        }
        self.left &= !taken;
        Some((word, mask, taken))
    }
}

impl Iterator for Words<'_> {
    type Item = (u32, u64);

    #[inline]
    fn next(&mut self) -> Option<(u32, u64)> {
        self.next_with_positions().map(|(word, mask, _)| (word, mask))
    }
}

/// Those of `taken`'s positions, the pages of one word, whose page is in
/// `mask`.
#[inline]
pub(super) fn positions_in(batch: &Batch, taken: Positions, mask: u64) -> Positions {
    let mut left = taken;
    let mut found = 0;
    while left != 0 {
        let at = left.trailing_zeros();
        if mask & bit(batch.sorted[at as usize]) != 0 {
            found |= 1 << at;
        }
        left &= left - 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(pages: &[u32]) -> Result<Batch, PlacementError> {
        Batch::new(&RamBlock::anonymous("b", 1 << 32).unwrap(), pages)
    }

    #[test]
    fn sorts_and_remembers_the_packets_order() {
        let batch = batch(&[9, 3, 500, 4]).unwrap();
        assert_eq!(batch.sorted(), [3, 4, 9, 500]);
        assert_eq!([0, 1, 2, 3].map(|i| batch.rank(i)), [2, 0, 3, 1]);
        let runs: Vec<Run> = batch.runs(batch.all()).collect();
        assert_eq!(runs[0], Run { first: 0, page: 3, len: 2 });
        assert_eq!(runs.len(), 3);
        let words: Vec<(u32, u64)> = batch.words(batch.all()).collect();
        assert_eq!(words, [(0, 1 << 3 | 1 << 4 | 1 << 9), (7, 1 << 52)]);
        assert_eq!(batch.words(0b1010).collect::<Vec<_>>(), [(0, 1 << 4), (7, 1 << 52)]);
        assert_eq!(batch.runs(0b0010).collect::<Vec<_>>(), [Run { first: 1, page: 4, len: 1 }]);
    }

    #[test]
    fn refuses_what_no_packet_holds() {
        assert!(matches!(batch(&[5, 7, 5]), Err(PlacementError::Duplicate { page: 5, .. })));
        assert!(matches!(batch(&[5, 5]), Err(PlacementError::Duplicate { page: 5, .. })));
        assert!(matches!(batch(&[1 << 20]), Err(PlacementError::OutOfBounds { .. })));
        let many: Vec<u32> = (0..129).collect();
        assert!(matches!(batch(&many), Err(PlacementError::TooManyPages { pages: 129 })));
        assert_eq!(batch(&many[..128]).unwrap().all(), !0);
        assert_eq!(batch(&[]).unwrap().all(), 0);
    }

    #[test]
    fn splits_where_guards_would_meet_themselves() {
        let batch = batch(&[0, 64, 128, 64 * 8, 64 * 9]).unwrap();
        assert_eq!(batch.within(batch.all(), 10), batch.all());
        assert_eq!(batch.within(batch.all(), 8), 0b00111);
        assert_eq!(batch.within(0b11000, 8), 0b11000);
        assert_eq!(batch.within(0b11111, 1), 0b00001);
    }
}
