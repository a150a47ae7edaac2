//! What the guest's pages hold: made from a number, always the same for the
//! same number, and quick, because gigabytes of it are needed.

use std::sync::LazyLock;

use super::plan::mix;
use crate::wire::PAGE_SIZE;

/// Kinds of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// As a page cache holds it: text, code, tables, and compressed data.
    Files,
    /// Words and lines.
    Text,
    /// Nothing repeats.
    Random,
}

/// A page that is filled again and again.
#[derive(Debug)]
pub(super) struct Page {
    bytes: [u8; PAGE_SIZE],
}

impl Page {
    pub(super) fn new() -> Self {
        Self { bytes: [0; PAGE_SIZE] }
    }

    pub(super) fn bytes(&self) -> &[u8; PAGE_SIZE] {
        &self.bytes
    }

    /// Fills the page with the content that belongs to `seed`. It is never all
    /// zero.
    pub(super) fn fill(&mut self, kind: Kind, seed: u64) {
        let mut random = Random(seed);
        let sixteenths = random.next() % 16;
        match (kind, sixteenths) {
            (Kind::Text, _) | (Kind::Files, 0..6) => self.text(&mut random),
            (Kind::Files, 6..11) => self.code(&mut random),
            (Kind::Files, 11..14) => self.tables(&mut random),
            (Kind::Files | Kind::Random, _) => self.noise(&mut random),
        }
    }

    fn text(&mut self, random: &mut Random) {
        let mut at = 0;
        while at < PAGE_SIZE {
            let pick = random.next();
            // The third power makes early words frequent and late ones rare.
            let share = pick >> 48;
            let word = &WORDS[((share * share * share * WORDS.len() as u64) >> 48) as usize];
            at = self.put(at, word);
            let between: &[u8] = match pick % 32 {
                0 => b".\n",
                1..3 => b", ",
                3 => b" (",
                _ => b" ",
            };
            at = self.put(at, between);
        }
    }

    /// Short sequences out of a fixed set, some with an operand behind.
    fn code(&mut self, random: &mut Random) {
        let mut at = 0;
        while at < PAGE_SIZE {
            let pick = random.next();
            let share = pick >> 48;
            let sequence =
                &SEQUENCES[((share * share * share * SEQUENCES.len() as u64) >> 48) as usize];
            at = self.put(at, sequence);
            at = match pick % 8 {
                0 => self.put(at, &(pick as u32 >> 8 & 0xffff).to_le_bytes()),
                1..4 => self.put(at, &[(pick >> 8) as u8 & 0x78]),
                _ => at,
            };
        }
    }

    /// Records of 64 bytes: pointers, counters, flags, and much zero.
    fn tables(&mut self, random: &mut Random) {
        let base = 0xffff_8880_0000_0000 | (random.next() & 0xffff_f000);
        let mut count = random.next() & 0xffff;
        for record in self.bytes.as_chunks_mut::<64>().0 {
            let pick = random.next();
            count += pick & 3;
            record.fill(0);
            record[..8].copy_from_slice(&(base + (pick >> 16 & 0xffc0)).to_le_bytes());
            record[8..16].copy_from_slice(&(base + (pick >> 32 & 0xffc0)).to_le_bytes());
            record[16..24].copy_from_slice(&count.to_le_bytes());
            record[24] = pick as u8 & 7;
            record[40..44].copy_from_slice(&((pick >> 48) as u32).to_le_bytes());
        }
    }

    fn noise(&mut self, random: &mut Random) {
        for word in self.bytes.as_chunks_mut::<8>().0 {
            *word = random.next().to_le_bytes();
        }
    }

    /// Puts bytes at `at`, as far as there is room, and returns where they end.
    fn put(&mut self, at: usize, bytes: &[u8]) -> usize {
        let room = self.bytes.get_mut(at..).unwrap_or_default();
        let len = bytes.len().min(room.len());
        room[..len].copy_from_slice(&bytes[..len]);
        at + len
    }
}

/// SplitMix64: a step and a mix.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }
}

/// Invented words, and a phrase after every other word: real text repeats more
/// than words.
static WORDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    const ONSETS: [&str; 16] =
        ["", "b", "c", "d", "f", "l", "m", "n", "p", "r", "s", "t", "st", "tr", "th", "w"];
    const RIMES: [&str; 16] = [
        "a", "e", "i", "o", "u", "an", "en", "er", "ing", "ion", "at", "or", "es", "ed", "al", "y",
    ];
    let mut random = Random(0x776f_7264);
    let mut word = || {
        let mut pick = random.next();
        let mut word = String::new();
        for _ in 0..=(pick >> 62) {
            word += ONSETS[(pick & 15) as usize];
            word += RIMES[(pick >> 4 & 15) as usize];
            pick >>= 8;
        }
        word
    };
    let entry = |rank| match rank % 2 {
        0 => word().into_bytes(),
        _ => [word(), word(), word()].join(" ").into_bytes(),
    };
    (0..1000).map(entry).collect()
});

/// What code is made of here.
static SEQUENCES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    const STARTS: [&[u8]; 8] = [
        &[0x48, 0x8b],
        &[0x48, 0x89],
        &[0xe8],
        &[0x0f, 0x84],
        &[0x48, 0x83],
        &[0x41, 0x57],
        &[0x31, 0xc0],
        &[0x66, 0x0f],
    ];
    let mut random = Random(0x636f_6465);
    let sequence = |_| {
        let pick = random.next();
        let mut bytes = STARTS[(pick & 7) as usize].to_vec();
        let more = (pick >> 3 & 3) as usize;
        bytes.extend_from_slice(&(pick >> 32).to_le_bytes()[..more]);
        bytes
    };
    (0..250).map(sequence).collect()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_from_their_seeds_alone() {
        let mut one = Page::new();
        let mut two = Page::new();
        two.bytes.fill(0xff);
        for kind in [Kind::Files, Kind::Text, Kind::Random] {
            for seed in 0..200 {
                one.fill(kind, seed);
                two.fill(kind, seed);
                assert_eq!(one.bytes, two.bytes);
                assert!(one.bytes.iter().any(|&byte| byte != 0));
                two.fill(kind, seed + 1);
                assert_ne!(one.bytes, two.bytes);
            }
        }
    }
}
