//! Which 2 MiB regions of a block get a huge page.
//!
//! A huge page costs one fault for 512 pages of data, and 2 MiB of memory for
//! one. So a region gets one only when a packet shows it to be dense: a packet
//! holds pages in the order of a scan through memory, hence every page between
//! its first and its last that it does not name is zero, clean or on another
//! channel. A region once filled with small pages keeps them.

use std::{
    ops::Range,
    sync::atomic::{AtomicU8, Ordering},
};

use crate::ram::mapping::HUGE_PAGE;
use crate::wire::PAGE_SIZE;

/// Pages of one region.
pub(super) const REGION_PAGES: u32 = (HUGE_PAGE / PAGE_SIZE) as u32;

/// Fewest pages that a packet must have in and around a region to judge it.
const FEWEST_PAGES: u32 = 64;

const UNKNOWN: u8 = 0;
const SMALL: u8 = 1;
const LARGE: u8 = 2;
/// Another thread is changing the mapping right now.
const DECIDING: u8 = 3;

/// What was decided for each region of a block.
#[derive(Debug)]
pub(in crate::ram) struct Regions(Box<[AtomicU8]>);

impl Regions {
    /// Nothing is decided for a block of `pages` pages. The last region, when
    /// it is not whole, has no room for a huge page.
    pub(super) fn new(pages: u32) -> Self {
        let regions = (0..pages.div_ceil(REGION_PAGES)).map(|region| {
            let whole = (region + 1).checked_mul(REGION_PAGES).is_some_and(|end| end <= pages);
            AtomicU8::new(if whole { UNKNOWN } else { SMALL })
        });
        Self(regions.collect())
    }

    /// Decides the regions that a packet's sorted pages are the first to touch,
    /// and calls `make_large` for the pages of each that is to be a huge page.
    /// From then on the regions of these pages do not change.
    pub(super) fn decide(&self, sorted: &[u32], mut make_large: impl FnMut(Range<u32>) -> bool) {
        let mut at = 0;
        while let Some(&page) = sorted.get(at) {
            let region = page / REGION_PAGES;
            let start = region * REGION_PAGES;
            let Some(state) = self.0.get(region as usize) else { break };
            let end = at + sorted[at..].partition_point(|&p| p / REGION_PAGES == region);
            loop {
                match state.load(Ordering::Acquire) {
                    UNKNOWN => {}
                    DECIDING => {
                        // For as long as two system calls.
                        std::thread::yield_now();
                        continue;
                    }
                    _ => break,
                }
                let taken =
                    state.compare_exchange(UNKNOWN, DECIDING, Ordering::Acquire, Ordering::Relaxed);
                if taken.is_ok() {
                    let large = is_dense(sorted, start) && make_large(start..start + REGION_PAGES);
                    state.store(if large { LARGE } else { SMALL }, Ordering::Release);
                    break;
                }
            }
            at = end;
        }
    }

    /// Whether the region of a page is a huge page.
    pub(super) fn is_large(&self, page: u32) -> bool {
        let region = self.0.get((page / REGION_PAGES) as usize);
        region.is_some_and(|state| state.load(Ordering::Acquire) == LARGE)
    }
}

/// Whether seven in eight of the pages that the packet tells about in and next
/// to a region are data.
fn is_dense(sorted: &[u32], start: u32) -> bool {
    // A packet that ends soon after entering a region tells as much by the
    // pages it holds just before it.
    let from = start.saturating_sub(FEWEST_PAGES);
    let to = start.saturating_add(REGION_PAGES).saturating_add(FEWEST_PAGES);
    let low = sorted.partition_point(|&page| page < from);
    let high = sorted.partition_point(|&page| page < to);
    let near = &sorted[low..high];
    match (near.first(), near.last()) {
        (Some(first), Some(last)) => {
            let count = near.len() as u32;
            count >= FEWEST_PAGES && 8 * u64::from(count) > 7 * u64::from(last - first)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [u32; 0] = [];

    fn large(pages: impl IntoIterator<Item = u32>) -> Vec<u32> {
        let pages: Vec<u32> = pages.into_iter().collect();
        let regions = Regions::new(16 * REGION_PAGES + 5);
        let mut made = Vec::new();
        regions.decide(&pages, |range| {
            made.push(range.start / REGION_PAGES);
            true
        });
        made
    }

    #[test]
    fn dense_regions_are_large_and_scattered_ones_are_not() {
        assert_eq!(large(512..640), [1]);
        assert_eq!(large((512..768).step_by(2)), NONE);
        assert_eq!(large((0..1024).step_by(8)), NONE);
        assert_eq!(large(900..932), NONE, "too few pages to tell");
        assert_eq!(large(1000..1128), [1, 2], "a run across two regions makes both");
        assert_eq!(large(16 * REGION_PAGES..16 * REGION_PAGES + 5), NONE, "no room at the end");
        assert_eq!(large([u32::MAX]), NONE, "outside the block");
    }

    #[test]
    fn a_decision_stays() {
        let regions = Regions::new(2 * REGION_PAGES);
        regions.decide(&[0], |_| true);
        let dense: Vec<u32> = (1..129).collect();
        regions.decide(&dense, |_| true);
        assert!(!regions.is_large(1));
        let next: Vec<u32> = (512..640).collect();
        regions.decide(&next, |_| false);
        assert!(!regions.is_large(512), "the kernel refused");
        regions.decide(&next, |_| true);
        assert!(!regions.is_large(512));
    }
}
