//! The pages of one packet as checked page indices.
//!
//! This is the hot path for zero pages: a packet that only says "these 128
//! pages are zero" costs nothing but this pass and the received map. So one
//! loop swaps bytes, collects misaligned bits, the largest offset and the
//! places where the order breaks; faults are looked for again, slowly, only
//! once it is known that there is one.

use zerocopy::big_endian::U64;

use super::packet::PacketError;
use super::{MAX_PACKET_PAGES, PAGE_SIZE};

/// Largest RAMBlock whose page indices fit the list: 16 TiB.
pub const MAX_BLOCK_LEN: u64 = (PAGE_SIZE as u64) << 32;

/// Page indices of one packet: first the pages with data, in payload order,
/// then the zero pages. Reused from packet to packet.
#[derive(Debug, Clone)]
pub struct PageList {
    pages: [u32; MAX_PACKET_PAGES],
    normal: usize,
    total: usize,
}

impl Default for PageList {
    fn default() -> Self {
        Self::new()
    }
}

impl PageList {
    /// A list without pages.
    pub const fn new() -> Self {
        Self { pages: [0; MAX_PACKET_PAGES], normal: 0, total: 0 }
    }

    /// Indices of the pages that come as data, in payload order.
    pub fn normal(&self) -> &[u32] {
        &self.pages[..self.normal]
    }

    /// Indices of the pages that are zero.
    pub fn zero(&self) -> &[u32] {
        &self.pages[self.normal..self.total]
    }

    /// Fills the list from byte offsets that somebody else has taken off the
    /// wire, with the same checks. On an error the list is empty.
    pub fn set(
        &mut self,
        normal: &[u64],
        zero: &[u64],
        used_length: u64,
    ) -> Result<(), PacketError> {
        let (room, total) = (MAX_PACKET_PAGES, normal.len() + zero.len());
        if total > room {
            *self = Self::new();
            let [room, normal, zero] = [room, normal.len(), zero.len()].map(|count| count as u64);
            return Err(PacketError::Counts { room, normal, zero });
        }
        let mut offsets = [U64::ZERO; MAX_PACKET_PAGES];
        for (to, &from) in offsets.iter_mut().zip(normal.iter().chain(zero)) {
            to.set(from);
        }
        self.fill(&offsets[..total], normal.len(), used_length)
    }

    /// Fills the list from byte offsets as they are on the wire. On an error
    /// the list is empty.
    pub(super) fn fill(
        &mut self,
        offsets: &[U64],
        normal: usize,
        used_length: u64,
    ) -> Result<(), PacketError> {
        self.normal = 0;
        self.total = 0;
        let total = offsets.len();
        debug_assert!(normal <= total && total <= MAX_PACKET_PAGES);
        if total == 0 {
            return Ok(());
        }

        let mut bits = 0u64;
        let mut largest = 0u64;
        let mut smallest = u64::MAX;
        let mut breaks = 0u32;
        // Seen from the last page, the first one counts as its successor: a
        // rotated ascending list then has one break too, see `repeats`.
        let mut before = offsets[total - 1].get();
        for (page, offset) in self.pages.iter_mut().zip(offsets) {
            let offset = offset.get();
            bits |= offset;
            largest = largest.max(offset);
            smallest = smallest.min(offset);
            breaks += u32::from(offset <= before);
            before = offset;
            *page = (offset / PAGE_SIZE as u64) as u32;
        }

        if !bits.is_multiple_of(PAGE_SIZE as u64) {
            let offset = offsets.iter().map(|o| o.get()).find(|o| !o.is_multiple_of(4096));
            return Err(PacketError::Misaligned { offset: offset.unwrap_or(bits) });
        }
        // Above 16 TiB the indices would have been cut off.
        let end = used_length.min(MAX_BLOCK_LEN);
        if largest.checked_add(PAGE_SIZE as u64).is_none_or(|page_end| page_end > end) {
            return Err(PacketError::OutOfBlock { offset: largest, used_length });
        }
        // One break makes a strictly ascending ring, in which nothing repeats.
        // That is how pages arrive when all of a packet have data, or all are
        // zero (the source's sorting leaves 1, 2, .. 127, 0).
        if breaks > 1 {
            let pages = &self.pages[..total];
            let span = (largest - smallest) / PAGE_SIZE as u64;
            if let Some(page) = repeated(pages, (smallest / PAGE_SIZE as u64) as u32, span) {
                return Err(PacketError::Repeated { offset: u64::from(page) * PAGE_SIZE as u64 });
            }
        }
        self.normal = normal;
        self.total = total;
        Ok(())
    }
}

/// A page that is in `pages` twice. All lie within `span` of `smallest`.
fn repeated(pages: &[u32], smallest: u32, span: u64) -> Option<u32> {
    const WINDOW: usize = 4096;
    if span < WINDOW as u64 {
        let mut seen = [0u64; WINDOW / 64];
        for &page in pages {
            let at = (page - smallest) as usize % WINDOW;
            let bit = 1 << (at % 64);
            if seen[at / 64] & bit != 0 {
                return Some(page);
            }
            seen[at / 64] |= bit;
        }
        return None;
    }
    let mut sorted = [0u32; MAX_PACKET_PAGES];
    let sorted = &mut sorted[..pages.len()];
    sorted.copy_from_slice(pages);
    sorted.sort_unstable();
    sorted.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fill(pages: &[u64], normal: usize, used_pages: u64) -> Result<PageList, PacketError> {
        let offsets: Vec<U64> = pages.iter().map(|p| U64::new(p * 4096)).collect();
        let mut list = PageList::new();
        list.fill(&offsets, normal, used_pages * 4096).map(|()| list)
    }

    #[test]
    fn splits_into_normal_and_zero() {
        let list = fill(&[5, 1, 9, 2], 3, 10).unwrap();
        assert_eq!(list.normal(), [5, 1, 9]);
        assert_eq!(list.zero(), [2]);
    }

    #[test]
    fn empty_and_single_lists_are_fine() {
        assert!(fill(&[], 0, 1).unwrap().normal().is_empty());
        assert_eq!(fill(&[0], 0, 1).unwrap().zero(), [0]);
    }

    #[test]
    fn the_last_page_is_in_and_the_next_is_out() {
        assert!(fill(&[9], 1, 10).is_ok());
        let error = fill(&[10], 1, 10).unwrap_err();
        assert_eq!(error, PacketError::OutOfBlock { offset: 40960, used_length: 40960 });
        assert!(fill(&[0], 1, 0).is_err());
    }

    #[test]
    fn offsets_near_the_top_of_u64_do_not_wrap() {
        let mut list = PageList::new();
        let offsets = [U64::new(!4095)];
        assert!(list.fill(&offsets, 1, u64::MAX).is_err());
        // Would be page 0 if the index were cut to 32 bits.
        assert!(list.fill(&[U64::new(1 << 44)], 1, u64::MAX).is_err());
        assert!(list.fill(&[U64::new((1 << 44) - 4096)], 1, u64::MAX).is_ok());
        assert_eq!(list.normal(), [u32::MAX]);
    }

    #[test]
    fn misaligned_offsets_are_named() {
        let mut list = PageList::new();
        let offsets = [U64::new(0), U64::new(4096 + 512)];
        let error = list.fill(&offsets, 2, 1 << 20).unwrap_err();
        assert_eq!(error, PacketError::Misaligned { offset: 4608 });
        assert!(list.normal().is_empty());
    }

    #[test]
    fn a_rotated_list_has_no_repeats() {
        let pages: Vec<u64> = (1..128).chain([0]).collect();
        assert_eq!(fill(&pages, 0, 128).unwrap().zero().len(), 128);
    }

    proptest! {
        /// Whatever the order and spread, the answer is that of a plain set.
        #[test]
        fn repeats_are_found_exactly(
            pages in proptest::collection::vec(0u64..40, 1..=128),
            stride in prop_oneof![Just(1u64), Just(37), Just(1000), Just(1 << 24)],
            normal in 0usize..=128,
        ) {
            let pages: Vec<u64> = pages.iter().map(|p| p * stride).collect();
            let normal = normal.min(pages.len());
            let distinct: std::collections::HashSet<_> = pages.iter().collect();
            let filled = fill(&pages, normal, 1 << 32);
            if distinct.len() == pages.len() {
                let list = filled.unwrap();
                let got: Vec<u64> =
                    list.normal().iter().chain(list.zero()).map(|&p| u64::from(p)).collect();
                prop_assert_eq!(got, pages);
            } else {
                let repeated = matches!(filled, Err(PacketError::Repeated { .. }));
                prop_assert!(repeated);
            }
        }

        #[test]
        fn distinct_pages_pass_in_any_order(
            pages in proptest::sample::subsequence((0u64..5000).collect::<Vec<_>>(), 1..=128)
                .prop_shuffle(),
        ) {
            prop_assert!(fill(&pages, 0, 5000).is_ok());
        }
    }
}
