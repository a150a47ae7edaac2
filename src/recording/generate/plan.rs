//! Which page is sent in which round, and what it is then.
//!
//! Nothing is stored per page. Whether a page changes in a round is decided by
//! a hash of seed, page and round; what it is in round r follows from going
//! through the rounds before. A page with data has a version, the round in
//! which it last changed, from which its content follows.

use super::{GenerateOptions, Pattern, content::Kind};
use crate::wire::PAGE_SIZE;

/// Firmware: a second RAMBlock, so that there is more than one.
const FIRMWARE: &str = "pc.bios";
const FIRMWARE_PAGES: u64 = 64;

/// Shares of the pages with data that change in a later round.
const DATA_TO_DATA: u64 = u64::MAX / 16;
const DATA_TO_ZERO: u64 = u64::MAX / 64;

/// A RAMBlock of the imagined VM.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) name: &'static str,
    pub(super) pages: u64,
    /// Pages with data in the first round.
    used: u64,
    scattered: bool,
    kind: Kind,
    /// Share of the zero pages that get data in a round, and of those that are
    /// sent again: about as many as go the other way.
    from_zero: u64,
}

/// What is sent of a page in one round. `None` stands for zero, a number for
/// data of that version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) before: Option<u32>,
    pub(super) now: Option<u32>,
}

/// The whole course of the migration.
#[derive(Debug)]
pub(super) struct Plan {
    seed: u64,
    rounds: u32,
    blocks: [Block; 2],
}

impl Plan {
    pub(super) fn new(options: &GenerateOptions) -> Self {
        let kind = match options.pattern {
            Pattern::Dense | Pattern::Scattered => Kind::Files,
            Pattern::Text => Kind::Text,
            Pattern::Random => Kind::Random,
        };
        let page = PAGE_SIZE as u64;
        let (pages, used) = (options.ram / page, options.used.div_ceil(page));
        let ram = Block {
            name: "pc.ram",
            pages,
            used,
            scattered: options.pattern == Pattern::Scattered,
            kind,
            from_zero: match pages - used {
                0 => 0,
                // A share of at most 1/64, also where there is little zero.
                zero => ((u128::from(used) << 64) / u128::from(zero) / 64)
                    .min(u128::from(DATA_TO_ZERO)) as u64,
            },
        };
        let firmware = Block {
            name: FIRMWARE,
            pages: FIRMWARE_PAGES,
            used: FIRMWARE_PAGES,
            scattered: false,
            kind: Kind::Files,
            from_zero: 0,
        };
        Self { seed: options.seed, rounds: options.rounds, blocks: [ram, firmware] }
    }

    pub(super) fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Content of the block's pages.
    pub(super) fn kind(&self, block: usize) -> Kind {
        self.blocks[block].kind
    }

    /// What is sent of a page in a round, counted from 0; `None` if nothing is.
    pub(super) fn sent(&self, block: usize, page: u32, round: u32) -> Option<Sent> {
        if round == 0 {
            return Some(Sent { before: None, now: self.first(block, page) });
        }
        let hash = self.hash(block, page, round);
        // Most pages don't change: no need to know what they are.
        let most = (2 * self.blocks[block].from_zero).max(DATA_TO_DATA + DATA_TO_ZERO);
        if hash >= most {
            return None;
        }
        let before = self.state(block, page, round - 1);
        let now = self.change(block, before, hash, round)?;
        Some(Sent { before, now })
    }

    /// What the page is in the end.
    pub(super) fn last(&self, block: usize, page: u32) -> Option<u32> {
        self.state(block, page, self.rounds - 1)
    }

    /// The number from which the content of a page in a version follows.
    pub(super) fn page_seed(&self, block: usize, page: u32, version: u32) -> u64 {
        !self.hash(block, page, version)
    }

    fn first(&self, block: usize, page: u32) -> Option<u32> {
        let Block { used, scattered, .. } = self.blocks[block];
        let page_number = u64::from(page);
        let has_data = if scattered {
            let eight = page_number / 8;
            eight < used && page_number % 8 == mix(self.seed ^ eight) % 8
        } else {
            page_number < used
        };
        has_data.then_some(0)
    }

    fn state(&self, block: usize, page: u32, round: u32) -> Option<u32> {
        (1..=round).fold(self.first(block, page), |state, round| {
            let hash = self.hash(block, page, round);
            self.change(block, state, hash, round).unwrap_or(state)
        })
    }

    /// What becomes of the page; `None` if it isn't sent.
    fn change(
        &self,
        block: usize,
        before: Option<u32>,
        hash: u64,
        round: u32,
    ) -> Option<Option<u32>> {
        let from_zero = self.blocks[block].from_zero;
        match before {
            Some(_) if hash < DATA_TO_ZERO => Some(None),
            Some(_) if hash < DATA_TO_ZERO + DATA_TO_DATA => Some(Some(round)),
            None if hash < from_zero => Some(Some(round)),
            None if hash < 2 * from_zero => Some(None),
            _ => None,
        }
    }

    fn hash(&self, block: usize, page: u32, round: u32) -> u64 {
        let place = (block as u64) << 63 | u64::from(round) << 32 | u64::from(page);
        mix(mix(self.seed).wrapping_add(place))
    }
}

/// Spreads every bit over all others (the finaliser of SplitMix64).
pub(super) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(pattern: Pattern, ram: u64, used: u64) -> Plan {
        Plan::new(&GenerateOptions { ram, used, pattern, rounds: 5, ..Default::default() })
    }

    #[test]
    fn as_much_is_used_as_was_asked_for() {
        for pattern in Pattern::ALL {
            let plan = plan(pattern, 64 << 20, 5 << 20);
            let used = (0..16384).filter(|&page| plan.first(0, page).is_some()).count();
            assert_eq!(used, 1280, "{pattern}");
        }
    }

    #[test]
    fn every_kind_of_change_happens_and_leads_on() {
        let plan = plan(Pattern::Dense, 64 << 20, 32 << 20);
        let mut seen = [false; 4];
        for page in 0..16384 {
            let mut state = plan.first(0, page);
            for round in 1..5 {
                if let Some(Sent { before, now }) = plan.sent(0, page, round) {
                    assert_eq!(before, state);
                    seen[usize::from(before.is_some()) * 2 + usize::from(now.is_some())] = true;
                    state = now;
                }
            }
            assert_eq!(state, plan.last(0, page));
        }
        assert_eq!(seen, [true; 4]);
    }

    #[test]
    fn changes_stay_small_beside_a_large_empty_guest() {
        let plan = plan(Pattern::Dense, 4 << 30, 4 << 20);
        let changed = (0..1 << 20).filter(|&page| plan.sent(0, page, 1).is_some()).count();
        assert!((50..250).contains(&changed), "{changed} of 1024 pages with data");
    }
}
