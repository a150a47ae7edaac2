//! Zero pages: left alone where memory is zero already, cleared where it holds
//! old data.
//!
//! Which of the two is a matter of the map alone; memory is not read. The other
//! modes are how receivers did it before there was a map of two bits, kept for
//! comparison.

use std::ops::Range;

use super::{
    Placement, PlacementError, Way,
    report::Tally,
    run::{give_back, populate_run, pwrite_zero},
};
use crate::{
    ram::{
        Initial, RamBlock,
        map::{WORD_PAGES, bit},
    },
    wire::PAGE_SIZE,
};

/// Words whose guards are held at one time while pages are cleared.
const CLEAR_WORDS: usize = 64;

/// How zero pages are dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ZeroMode {
    /// By the map: pages never written are marked, written ones cleared.
    #[default]
    Map,
    /// Each page is read, and cleared if it is not zero, as receivers did
    /// before they had a map.
    ReadCheck,
    /// By one bit: pages received before are cleared, others marked.
    OneBit,
}

/// What became of zero pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ZeroCounts {
    /// Pages not stored to.
    pub untouched: u32,
    /// Pages cleared.
    pub cleared: u32,
}

/// Makes pages zero and marks them received. They may come in any order and
/// number.
pub fn zero_pages(
    placement: &Placement,
    block: &RamBlock,
    pages: &[u32],
    mode: ZeroMode,
) -> Result<ZeroCounts, PlacementError> {
    let mut tally = Tally::default();
    let done = match mode {
        ZeroMode::Map => by_map(placement, block, pages, &mut tally),
        _ if placement.way_of(block).is_registered() => {
            Err(PlacementError::ModeTouchesAbsent { block: block.name().to_owned() })
        }
        ZeroMode::ReadCheck => one_by_one(placement, block, pages, &mut tally, |page| {
            // SAFETY: `one_by_one` holds the guard of a page of the block.
            unsafe { !is_zero(block.page(page)) }
        }),
        ZeroMode::OneBit => {
            one_by_one(placement, block, pages, &mut tally, |page| block.map().is_received(page))
        }
    };
    placement.counters.add(&tally);
    done?;
    Ok(ZeroCounts { untouched: tally.zero_untouched, cleared: tally.zero_cleared })
}

fn by_map(
    placement: &Placement,
    block: &RamBlock,
    pages: &[u32],
    tally: &mut Tally,
) -> Result<(), PlacementError> {
    // Stays without memory of its own for first-seen zero pages.
    let mut written: Vec<(u32, u64)> = Vec::new();
    let mut count = 0;
    block
        .map()
        .mark_zero(pages, |word, mask| {
            written.push((word, mask));
            count += mask.count_ones();
        })
        .map_err(|source| out_of_bounds(block, source))?;
    tally.zero_untouched += pages.len() as u32 - count;
    if written.is_empty() {
        return Ok(());
    }
    written.sort_unstable();
    written.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 |= next.1;
        }
        same
    });
    let span = block.guards().span();
    let near = |first: &(u32, u64), next: &(u32, u64)| next.0 - first.0 < span;
    let mut rest = &written[..];
    while let Some(first) = rest.first() {
        let most = &rest[..rest.len().min(CLEAR_WORDS)];
        let (part, behind) = rest.split_at(most.partition_point(|next| near(first, next)));
        guarded(block, part, tally, |tally| clear(placement, block, part, tally))?;
        rest = behind;
    }
    Ok(())
}

/// Runs `work` with the guards of `words` held, then marks them received.
fn guarded(
    block: &RamBlock,
    words: &[(u32, u64)],
    tally: &mut Tally,
    work: impl FnOnce(&mut Tally) -> Result<(), PlacementError>,
) -> Result<(), PlacementError> {
    let waits = block
        .guards()
        .acquire_all(words.iter().copied())
        .map_err(|_| PlacementError::Stuck { block: block.name().to_owned() })?;
    tally.write_conflicts += u32::from(waits > 0);
    let done = work(tally);
    for &(word, mask) in words {
        if done.is_ok() {
            block.map().mark_received(word, mask);
        }
        block.guards().release(word, mask);
    }
    done
}

/// Clears written pages; their guards are held.
fn clear(
    placement: &Placement,
    block: &RamBlock,
    words: &[(u32, u64)],
    tally: &mut Tally,
) -> Result<(), PlacementError> {
    let map = block.map();
    // Another thread may have cleared some since they were looked at.
    let still = |&(word, mask): &(u32, u64)| (word, mask & map.written(word));
    for run in runs(words.iter().map(still)) {
        tally.zero_cleared += run.len() as u32;
        clear_run(placement, block, run.clone(), tally)?;
        for (word, mask) in crate::ram::map::words_of(run) {
            map.mark_cleared(word, mask);
        }
    }
    Ok(())
}

fn clear_run(
    placement: &Placement,
    block: &RamBlock,
    run: Range<u32>,
    tally: &mut Tally,
) -> Result<(), PlacementError> {
    let way = placement.way_of(block);
    let threshold = placement.give_back.load(std::sync::atomic::Ordering::Relaxed);
    // Part of a huge page cannot be given back without splitting it.
    let is_huge = || {
        let regions = block.regions.get();
        regions.is_some_and(|regions| run.clone().any(|page| regions.is_large(page)))
    };
    let may_give = threshold != 0 && run.len() >= threshold as usize && !is_huge();
    if may_give && give_back(block, run.clone()) {
        tally.given_back += run.len() as u32;
        return Ok(());
    }
    if way == Way::Pwrite {
        return pwrite_zero(block, run);
    }
    if block.callers_memory() == Some(Initial::Unknown) && placement.can_populate {
        populate_run(block, run.clone())?;
    }
    // SAFETY: the run's pages lie in the block, as the map found them there,
    // and their guards are held.
    unsafe { block.store_zero(run) };
    Ok(())
}

/// Runs of neighbouring pages in sorted words.
fn runs(words: impl Iterator<Item = (u32, u64)>) -> impl Iterator<Item = Range<u32>> {
    let mut words = words;
    let mut now = (0, 0u64);
    // First run of the words left, within one word.
    let mut piece = move || {
        while now.1 == 0 {
            now = words.next()?;
        }
        let first = now.1.trailing_zeros();
        let len = (!(now.1 >> first)).trailing_zeros();
        now.1 &= !((!0 >> (WORD_PAGES - len)) << first);
        let start = now.0 * WORD_PAGES + first;
        Some(start..start + len)
    };
    let mut ahead: Option<Range<u32>> = piece();
    std::iter::from_fn(move || {
        let mut run = ahead.take()?;
        loop {
            match piece() {
                Some(next) if next.start == run.end => run.end = next.end,
                next => {
                    ahead = next;
                    return Some(run);
                }
            }
        }
    })
}

/// The ways of before: each page by itself.
fn one_by_one(
    placement: &Placement,
    block: &RamBlock,
    pages: &[u32],
    tally: &mut Tally,
    must_clear: impl Fn(u32) -> bool,
) -> Result<(), PlacementError> {
    block.map().check(pages).map_err(|source| out_of_bounds(block, source))?;
    for &page in pages {
        let word = [(page / WORD_PAGES, bit(page))];
        guarded(block, &word, tally, |tally| {
            if !must_clear(page) {
                tally.zero_untouched += 1;
                return Ok(());
            }
            tally.zero_cleared += 1;
            if placement.way_of(block) == Way::Pwrite {
                return pwrite_zero(block, page..page + 1);
            }
            // SAFETY: the page was checked and its guard is held.
            unsafe { block.store_zero(page..page + 1) };
            Ok(())
        })?;
    }
    Ok(())
}

/// Whether a page reads as zero.
///
/// # Safety
///
/// A page of a block, whose guard is held.
unsafe fn is_zero(page: *const u8) -> bool {
    const STEP: usize = 64;
    (0..PAGE_SIZE / STEP).all(|step| {
        // SAFETY: 64 bytes inside the page, aligned like it; any bytes make
        // an array of numbers.
        let part = unsafe { page.add(step * STEP).cast::<[u64; STEP / 8]>().read() };
        part.into_iter().fold(0, |all, number| all | number) == 0
    })
}

fn out_of_bounds(block: &RamBlock, source: crate::ram::MapError) -> PlacementError {
    PlacementError::OutOfBounds { block: block.name().to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_join_across_words() {
        let found: Vec<_> =
            runs([(0, 0b0110 | 1 << 63), (1, 0b1), (2, 0), (3, !0), (4, !0)].into_iter()).collect();
        assert_eq!(found, [1..3, 63..65, 192..320]);
        assert_eq!(runs(std::iter::empty()).count(), 0);
    }
}
