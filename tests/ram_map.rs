//! The received map against a plain model, operation by operation.

#![cfg(not(loom))]

use std::collections::BTreeSet;

use multifd_qpl::ram::{MapError, ReceivedMap};
use proptest::prelude::*;

const START: usize = 0x7000_0000_0000;

#[derive(Debug, Clone)]
enum Op {
    Set(u32),
    SetOffset(u64),
    SetRange(u32, u64),
    Discard(u64, u64),
    Zero(Vec<u32>),
    Data(u32),
    Clear(u32),
}

fn op(pages: u32) -> impl Strategy<Value = Op> {
    // A little past the end, so that bounds are tried as well.
    let page = 0..pages + 3;
    let offset = (0..pages + 3, 0..4096u64).prop_map(|(page, byte)| u64::from(page) * 4096 + byte);
    prop_oneof![
        page.clone().prop_map(Op::Set),
        offset.clone().prop_map(Op::SetOffset),
        (page.clone(), 0..200u64).prop_map(|(page, count)| Op::SetRange(page, count)),
        (offset, 0..200u64).prop_map(|(offset, count)| Op::Discard(offset, count)),
        prop::collection::vec(page.clone(), 0..128).prop_map(Op::Zero),
        page.clone().prop_map(Op::Data),
        page.prop_map(Op::Clear),
    ]
}

/// What the map should hold.
struct Model {
    pages: u32,
    received: BTreeSet<u32>,
    written: BTreeSet<u32>,
}

impl Model {
    fn range(&self, first: u64, count: u64) -> Option<std::ops::Range<u32>> {
        (first + count <= self.pages.into()).then(|| first as u32..(first + count) as u32)
    }

    fn apply(&mut self, map: &ReceivedMap, op: Op) {
        match op {
            Op::Set(page) => {
                let done = map.set(START + page as usize * 4096 + 17);
                assert_eq!(done.is_ok(), page < self.pages);
                self.received.extend(self.range(page.into(), 1).into_iter().flatten());
            }
            Op::SetOffset(offset) => {
                let range = self.range(offset / 4096, 1);
                assert_eq!(map.set_offset(offset).is_ok(), range.is_some());
                self.received.extend(range.into_iter().flatten());
            }
            Op::SetRange(page, count) => {
                let range = self.range(page.into(), count);
                let done = map.set_range(START + page as usize * 4096, count);
                assert_eq!(done.is_ok(), range.is_some());
                self.received.extend(range.into_iter().flatten());
            }
            Op::Discard(offset, count) => {
                let range = self.range(offset / 4096, count);
                assert_eq!(map.discard_range(offset, count).is_ok(), range.is_some());
                for page in range.into_iter().flatten() {
                    self.received.remove(&page);
                }
            }
            Op::Zero(pages) => {
                let mut dirty = BTreeSet::new();
                let done = map.mark_zero(&pages, |word, mask| {
                    dirty.extend((0..64).filter(|bit| mask >> bit & 1 != 0).map(|b| word * 64 + b));
                });
                if pages.iter().any(|&page| page >= self.pages) {
                    assert!(matches!(done, Err(MapError::OutOfBounds { .. })));
                    assert!(dirty.is_empty());
                } else {
                    let (old, new): (BTreeSet<u32>, BTreeSet<u32>) =
                        pages.into_iter().partition(|page| self.written.contains(page));
                    assert_eq!(dirty, old);
                    self.received.extend(new);
                }
            }
            Op::Data(page) if page < self.pages => {
                map.mark_written(page / 64, 1 << (page % 64));
                map.mark_received(page / 64, 1 << (page % 64));
                self.written.insert(page);
                self.received.insert(page);
            }
            Op::Clear(page) if page < self.pages => {
                map.mark_cleared(page / 64, 1 << (page % 64));
                self.written.remove(&page);
            }
            Op::Data(_) | Op::Clear(_) => {}
        }
    }

    fn check(&self, map: &ReceivedMap) {
        for page in 0..self.pages + 3 {
            assert_eq!(map.is_received(page), self.received.contains(&page), "page {page}");
            assert_eq!(map.is_written(page), self.written.contains(&page), "page {page}");
            let offset = u64::from(page) * 4096 + 4095;
            let answers = (map.test_byte_offset(offset), map.test(START + offset as usize));
            if page < self.pages {
                let bit = self.received.contains(&page);
                assert_eq!(answers, (Ok(bit), Ok(bit)));
            } else {
                assert!(answers.0.is_err() && answers.1.is_err());
            }
        }
        assert_eq!(map.received_count(), self.received.len() as u64);
        assert_eq!(map.written_count(), self.written.len() as u64);
        let runs: Vec<u32> = map.written_runs().flatten().collect();
        assert!(runs.into_iter().eq(self.written.iter().copied()));
        // As QEMU sends it: whole words, nothing behind the last page.
        let words: Vec<u64> = map.received_words().collect();
        assert_eq!(words.len(), self.pages.div_ceil(64) as usize);
        let bits = |(i, word): (usize, &u64)| {
            let word = *word;
            (0..64).filter(move |bit| word >> bit & 1 != 0).map(move |bit| i as u32 * 64 + bit)
        };
        let sent: BTreeSet<u32> = words.iter().enumerate().flat_map(bits).collect();
        assert_eq!(sent, self.received);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn behaves_like_a_pair_of_sets(
        (pages, ops) in (1u32..300).prop_flat_map(|pages| {
            (Just(pages), prop::collection::vec(op(pages), 1..60))
        })
    ) {
        let map = ReceivedMap::new(START, pages).unwrap();
        let mut model = Model { pages, received: BTreeSet::new(), written: BTreeSet::new() };
        for op in ops {
            model.apply(&map, op);
        }
        model.check(&map);
    }
}

#[test]
fn bounds_hold_at_the_ends_of_numbers() {
    let map = ReceivedMap::new(START, 65).unwrap();
    assert!(matches!(map.test(START - 1), Err(MapError::BelowBlock { .. })));
    assert!(matches!(map.test(0), Err(MapError::BelowBlock { .. })));
    assert!(map.test(usize::MAX).is_err());
    assert!(map.test_byte_offset(u64::MAX).is_err());
    assert!(map.set_range(START, u64::MAX).is_err());
    assert!(map.set_range(usize::MAX, u64::MAX).is_err());
    assert!(map.discard_range(u64::MAX, u64::MAX).is_err());
    assert!(map.set_range(START + 64 * 4096, 1).is_ok());
    assert!(map.set_range(START + 65 * 4096, 0).is_ok());
    assert!(map.mark_zero(&[u32::MAX], |_, _| ()).is_err());
    assert_eq!((map.received(2), map.written(u32::MAX)), (0, 0));
    assert_eq!(map.received_count(), 1);
}

#[test]
fn a_map_of_64_gib_takes_two_faults() {
    fn faults() -> i64 {
        // SAFETY: an all-zero rusage is valid, and getrusage writes one.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: `usage` is one rusage.
        unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
        usage.ru_minflt
    }
    let map = ReceivedMap::new(START, 16 << 20).unwrap();
    let before = faults();
    for page in (0..16 << 20).step_by(64) {
        map.mark_received(page / 64, !0);
    }
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    if setting.is_ok_and(|setting| !setting.contains("[never]")) {
        assert!(faults() - before <= 16, "{} faults", faults() - before);
    }
    assert_eq!(map.received_count(), 16 << 20);
}
