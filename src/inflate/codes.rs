//! Huffman codes as look-up tables: how they are built from code lengths, and
//! the fixed ones of DEFLATE.
//!
//! A page has some 1,500 symbols, so building a table takes a good part of the
//! time of a dynamic block. Therefore a table covers codes up to a few bits
//! only, and is made by doubling: a table for one more bit is two copies of
//! the last one, with the codes of that length put in. What is longer is found
//! by the canonical order of the codes instead, which a page needs a few times
//! if at all.

use super::InflateError;
use super::lanes::{DISTANCES, LENGTHS};

/// Table bits of the literal and length code.
pub(super) const LITLEN_BITS: u32 = 11;
/// Table bits of the distance code.
pub(super) const DISTANCE_BITS: u32 = 8;
/// Table bits of the code for code lengths, which are all it can have.
pub(super) const PRE_BITS: u32 = 7;
/// Longest code of DEFLATE.
const MAX_BITS: usize = 15;

/// What a symbol does, in 32 bits.
///
/// * bits 0 to 5: bits to take from the input, code and extra bits together
/// * bits 8 to 13: bits of the code alone
/// * bits 14 and 15: what it is, below; none set for a length or distance
/// * bits 16 to 31: the literal, or the base of a length or distance
///
/// The two shift counts have bits to themselves up to where a shift of a 64-bit
/// number stops looking, so that they need not be masked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry(pub(super) u32);

impl Entry {
    /// A literal.
    pub(super) const LITERAL: u32 = 1 << 15;
    /// Neither literal nor length nor distance; see the next three.
    pub(super) const SPECIAL: u32 = 1 << 14;
    /// The end of the block (special).
    const END: u32 = Self::SPECIAL | 1 << 16;
    /// The code is not in the table (special).
    const LONG: u32 = Self::SPECIAL | 1 << 17;

    /// What the table holds where no code of its length is.
    const NOT_HERE: Entry = Entry(Self::LONG);
    /// A symbol that DEFLATE has codes but no use for (special).
    const UNUSED: Entry = Entry(Self::SPECIAL);

    /// Adds the length of the symbol's code.
    const fn with_code(self, len: u32) -> Self {
        Entry(self.0 + len * 0x0101)
    }

    /// The extra bits among `bits`, the input as it was before the symbol.
    #[inline(always)]
    pub(super) fn extra(self, bits: u64) -> u32 {
        let mask = (1u64 << (self.0 & 63)) - 1;
        ((bits & mask) >> ((self.0 >> 8) & 63)) as u32
    }

    /// The literal or base.
    #[inline(always)]
    pub(super) fn value(self) -> u32 {
        self.0 >> 16
    }

    #[inline(always)]
    pub(super) fn is_literal(self) -> bool {
        self.0 & Self::LITERAL != 0
    }

    #[inline(always)]
    pub(super) fn is_special(self) -> bool {
        self.0 & Self::SPECIAL != 0
    }

    pub(super) fn is_end(self) -> bool {
        self.0 & Self::END == Self::END
    }

    pub(super) fn is_long(self) -> bool {
        self.0 & Self::LONG == Self::LONG
    }
}

/// Symbols of the literal and length code.
pub(super) const LITLEN_SYMBOLS: usize = 288;
/// Symbols of the distance code.
pub(super) const DISTANCE_SYMBOLS: usize = 32;
/// Symbols of the code for code lengths.
pub(super) const PRE_SYMBOLS: usize = 19;

/// The literal and length symbols without their codes.
static LITLEN: [Entry; LITLEN_SYMBOLS] = {
    let mut entries = [Entry::UNUSED; LITLEN_SYMBOLS];
    let mut symbol = 0;
    while symbol < 286 {
        entries[symbol] = match symbol {
            0..256 => Entry(Entry::LITERAL | (symbol as u32) << 16),
            256 => Entry(Entry::END),
            _ => {
                let (base, extra) = LENGTHS[symbol - 257];
                Entry((base as u32) << 16 | extra as u32)
            }
        };
        symbol += 1;
    }
    entries
};

/// The distance symbols without their codes.
static DISTANCE: [Entry; DISTANCE_SYMBOLS] = {
    let mut entries = [Entry::UNUSED; DISTANCE_SYMBOLS];
    let mut symbol = 0;
    while symbol < 30 {
        let (base, extra) = DISTANCES[symbol];
        entries[symbol] = Entry((base as u32) << 16 | extra as u32);
        symbol += 1;
    }
    entries
};

/// The symbols of the code for code lengths, as plain values.
static PRE: [Entry; PRE_SYMBOLS] = {
    let mut entries = [Entry::UNUSED; PRE_SYMBOLS];
    let mut symbol = 0;
    while symbol < PRE_SYMBOLS {
        entries[symbol] = Entry((symbol as u32) << 16);
        symbol += 1;
    }
    entries
};

/// One Huffman code: a table of `SIZE` entries for codes up to a number of
/// bits, and the canonical order for longer ones.
#[derive(Debug, Clone)]
pub(super) struct Code<const SIZE: usize, const SYMBOLS: usize> {
    pub(super) table: [Entry; SIZE],
    /// How many codes have each length.
    count: [u16; MAX_BITS + 1],
    /// The symbols in the order of their codes.
    sorted: [u16; SYMBOLS],
}

/// How complete a code has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holes {
    /// Every bit pattern has a meaning.
    None,
    /// A single code of one bit may stand alone, or none at all.
    Single,
}

impl<const SIZE: usize, const SYMBOLS: usize> Code<SIZE, SYMBOLS> {
    const BITS: usize = SIZE.trailing_zeros() as usize;

    const fn empty() -> Self {
        Self { table: [Entry::NOT_HERE; SIZE], count: [0; MAX_BITS + 1], sorted: [0; SYMBOLS] }
    }

    /// Builds the code from the lengths of its symbols' codes.
    fn build(
        &mut self,
        lengths: &[u8],
        entries: &[Entry; SYMBOLS],
        holes: Holes,
    ) -> Result<(), InflateError> {
        let mut count = [0u16; MAX_BITS + 1];
        for &len in lengths {
            count[usize::from(len & 15)] += 1;
        }
        let used = lengths.len() as u16 - count[0];
        let single = used == 0 || (used == 1 && count[1] == 1);
        count[0] = 0;

        // The codes of each length take their share of all bit patterns.
        let mut left = 1i32;
        let mut next = [0u16; MAX_BITS + 1];
        let mut sum = 0;
        for len in 1..=MAX_BITS {
            left = left * 2 - i32::from(count[len]);
            if left < 0 {
                return Err(InflateError::InvalidHeader);
            }
            next[len] = sum;
            sum += count[len];
        }
        if left > 0 && (holes == Holes::None || !single) {
            return Err(InflateError::InvalidHeader);
        }
        self.count = count;

        for (symbol, &len) in lengths.iter().enumerate() {
            if len != 0 {
                let place = &mut next[usize::from(len & 15)];
                self.sorted[usize::from(*place)] = symbol as u16;
                *place += 1;
            }
        }

        self.table[0] = Entry::NOT_HERE;
        let mut symbols = self.sorted.iter();
        // The next code, its first bit lowest, as the input has them.
        let mut code = 0usize;
        for (len, &count) in count.iter().enumerate().take(Self::BITS + 1).skip(1) {
            let half = 1 << (len - 1);
            let (low, high) = self.table.split_at_mut(half);
            high[..half].copy_from_slice(low);
            let last = (1usize << len) - 1;
            for &symbol in symbols.by_ref().take(usize::from(count)) {
                self.table[code & last] = entries[usize::from(symbol)].with_code(len as u32);
                // One more, counted from the other end: clear the ones at the
                // top and set the zero below them.
                let zeros = !code & last;
                code = match zeros.checked_ilog2() {
                    Some(bit) => code & ((1 << bit) - 1) | 1 << bit,
                    None => 0,
                };
            }
        }
        Ok(())
    }

    /// Finds a code that is longer than the table has, or none.
    #[cold]
    fn long(&self, bits: u64, entries: &[Entry; SYMBOLS]) -> Option<Entry> {
        let code = (bits as u16).reverse_bits() as usize >> 1;
        let (mut first, mut index) = (0usize, 0usize);
        for len in 1..=MAX_BITS {
            let prefix = code >> (MAX_BITS - len);
            let count = usize::from(self.count[len]);
            if prefix < first + count {
                let symbol = usize::from(self.sorted[index + prefix - first]);
                return Some(entries[symbol].with_code(len as u32));
            }
            index += count;
            first = (first + count) << 1;
        }
        None
    }
}

/// The two codes of a block.
#[derive(Debug, Clone)]
pub(super) struct BlockCodes {
    pub(super) litlen: Code<{ 1 << LITLEN_BITS }, LITLEN_SYMBOLS>,
    pub(super) distance: Code<{ 1 << DISTANCE_BITS }, DISTANCE_SYMBOLS>,
}

impl BlockCodes {
    pub(super) const fn empty() -> Self {
        Self { litlen: Code::empty(), distance: Code::empty() }
    }

    /// The codes of fixed blocks.
    pub(super) fn fixed() -> Self {
        let mut codes = Self::empty();
        let mut lengths = [8; LITLEN_SYMBOLS];
        lengths[144..256].fill(9);
        lengths[256..280].fill(7);
        // Both are complete, which is all that building them may refuse.
        let built = codes.build(&lengths, &[5; DISTANCE_SYMBOLS]);
        debug_assert_eq!(built, Ok(()));
        codes
    }

    /// Builds both from the lengths a dynamic block gives.
    pub(super) fn build(&mut self, litlen: &[u8], distance: &[u8]) -> Result<(), InflateError> {
        if litlen.get(256).is_none_or(|&len| len == 0) {
            // Such a block could never end.
            return Err(InflateError::InvalidHeader);
        }
        self.litlen.build(litlen, &LITLEN, Holes::Single)?;
        self.distance.build(distance, &DISTANCE, Holes::Single)
    }

    /// A literal or length that the table does not have.
    pub(super) fn long_litlen(&self, bits: u64) -> Option<Entry> {
        self.litlen.long(bits, &LITLEN)
    }

    /// A distance that the table does not have.
    pub(super) fn long_distance(&self, bits: u64) -> Option<Entry> {
        self.distance.long(bits, &DISTANCE)
    }
}

/// The code that a dynamic block's code lengths are written in.
pub(super) type PreCode = Code<{ 1 << PRE_BITS }, PRE_SYMBOLS>;

impl PreCode {
    pub(super) const fn new() -> Self {
        Self::empty()
    }

    pub(super) fn rebuild(&mut self, lengths: &[u8; PRE_SYMBOLS]) -> Result<(), InflateError> {
        self.build(lengths, &PRE, Holes::None)
    }
}
