//! A small DEFLATE compressor for one page: fixed Huffman codes and greedy
//! matching, which is what qpl sources send.
//!
//! Every page is a stream of its own with one final block. Distances stay
//! inside the page by nature.

use crate::wire::PAGE_SIZE;

const HASH_BITS: u32 = 12;
const MIN_MATCH: usize = 4;
const MAX_MATCH: usize = 258;
/// No position in a page.
const NOWHERE: u16 = u16::MAX;

/// Bits to be written, least significant first.
#[derive(Clone, Copy)]
struct Bits {
    value: u32,
    count: u32,
}

/// Codes of the literals and of the end of the block.
const LITERALS: [Bits; 257] = {
    let mut codes = [Bits { value: 0, count: 0 }; 257];
    let mut symbol = 0;
    while symbol < codes.len() {
        codes[symbol] = symbol_code(symbol as u32);
        symbol += 1;
    }
    codes
};

/// Codes of match lengths, extra bits included.
const LENGTHS: [Bits; MAX_MATCH + 1] = {
    let mut codes = [Bits { value: 0, count: 0 }; MAX_MATCH + 1];
    let mut length = 3;
    while length < MAX_MATCH {
        let over = length as u32 - 3;
        // Up to 10 every length has its symbol; then four symbols share each
        // number of extra bits.
        let extra = if over < 8 { 0 } else { over.ilog2() - 2 };
        let symbol = symbol_code(257 + (extra * 4) + (over >> extra));
        let rest = over & ((1 << extra) - 1);
        codes[length] =
            Bits { value: symbol.value | rest << symbol.count, count: symbol.count + extra };
        length += 1;
    }
    codes[MAX_MATCH] = symbol_code(285);
    codes
};

/// The fixed code of a literal or length symbol. Huffman codes are sent from
/// their top bit on.
const fn symbol_code(symbol: u32) -> Bits {
    let (code, count) = match symbol {
        0..144 => (0x30 + symbol, 8),
        144..256 => (0x190 + symbol - 144, 9),
        256..280 => (symbol - 256, 7),
        _ => (0xc0 + symbol - 280, 8),
    };
    Bits { value: code.reverse_bits() >> (32 - count), count }
}

/// The code of a distance, extra bits included.
fn distance_code(distance: usize) -> Bits {
    let over = distance as u32 - 1;
    let extra = if over < 4 { 0 } else { over.ilog2() - 1 };
    let symbol = extra * 2 + (over >> extra);
    let rest = over & ((1 << extra) - 1);
    Bits { value: symbol.reverse_bits() >> 27 | rest << 5, count: 5 + extra }
}

/// Compresses page after page.
#[derive(Debug)]
pub(super) struct PageDeflate {
    /// Where four bytes of some hash were seen last.
    heads: Box<[u16; 1 << HASH_BITS]>,
}

impl PageDeflate {
    pub(super) fn new() -> Self {
        Self { heads: Box::new([NOWHERE; 1 << HASH_BITS]) }
    }

    /// Appends the compressed page to `out` and returns its length. A page that
    /// doesn't get smaller than a page is appended as it is.
    pub(super) fn compress(&mut self, page: &[u8; PAGE_SIZE], out: &mut Vec<u8>) -> usize {
        let start = out.len();
        self.heads.fill(NOWHERE);
        let mut writer = BitWriter { out, bits: 0, count: 0 };
        // Final block, fixed codes.
        writer.put(Bits { value: 0b011, count: 3 });
        let mut at = 0;
        while at < PAGE_SIZE {
            match self.find(page, at) {
                Some((distance, length)) => {
                    writer.put(LENGTHS[length]);
                    writer.put(distance_code(distance));
                    // One position inside the match is enough to find the next.
                    if length > MIN_MATCH {
                        self.insert(page, at + length - 2);
                    }
                    at += length;
                }
                None => {
                    writer.put(LITERALS[usize::from(page[at])]);
                    at += 1;
                }
            }
            if writer.out.len() - start >= PAGE_SIZE {
                break;
            }
        }
        writer.put(LITERALS[256]);
        writer.finish();
        if out.len() - start >= PAGE_SIZE {
            out.truncate(start);
            out.extend_from_slice(page);
        }
        out.len() - start
    }

    /// Looks for an earlier copy of what is at `at`, and notes the place.
    fn find(&mut self, page: &[u8; PAGE_SIZE], at: usize) -> Option<(usize, usize)> {
        let candidate = self.insert(page, at)?;
        if candidate >= at {
            return None;
        }
        let most = (PAGE_SIZE - at).min(MAX_MATCH);
        let length = common(&page[candidate..], &page[at..at + most]);
        (length >= MIN_MATCH).then_some((at - candidate, length))
    }

    /// Notes that the four bytes at `at` are there, and returns where bytes of
    /// their hash were before; `None` at the end of the page, and the place
    /// `NOWHERE` if they weren't seen.
    fn insert(&mut self, page: &[u8; PAGE_SIZE], at: usize) -> Option<usize> {
        let four = page.get(at..)?.first_chunk::<MIN_MATCH>()?;
        let hash = u32::from_le_bytes(*four).wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS);
        let head = &mut self.heads[hash as usize];
        Some(usize::from(std::mem::replace(head, at as u16)))
    }
}

/// How many bytes the two have in common at their fronts, of the shorter `b`.
fn common(a: &[u8], b: &[u8]) -> usize {
    let (a8, b8) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
    for (index, (x, y)) in a8.iter().zip(b8).enumerate() {
        let differ = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
        if differ != 0 {
            return index * 8 + differ.trailing_zeros() as usize / 8;
        }
    }
    let done = b8.len() * 8;
    done + a[done..].iter().zip(&b[done..]).take_while(|(x, y)| x == y).count()
}

struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    bits: u64,
    count: u32,
}

impl BitWriter<'_> {
    /// At most 15 bits at a time, so 64 always have room.
    #[inline]
    fn put(&mut self, bits: Bits) {
        self.bits |= u64::from(bits.value) << self.count;
        self.count += bits.count;
        if self.count >= 32 {
            self.out.extend_from_slice(&(self.bits as u32).to_le_bytes());
            self.bits >>= 32;
            self.count -= 32;
        }
    }

    fn finish(self) {
        let bytes = self.count.div_ceil(8) as usize;
        self.out.extend_from_slice(&self.bits.to_le_bytes()[..bytes]);
    }
}

#[cfg(test)]
mod tests {
    use libdeflater::Decompressor;
    use proptest::prelude::*;

    use super::*;
    use crate::recording::generate::content::{Kind, Page};

    fn there_and_back(page: &[u8; PAGE_SIZE]) -> usize {
        let mut out = vec![0xee; 3];
        let len = PageDeflate::new().compress(page, &mut out);
        assert_eq!(len, out.len() - 3);
        assert!((1..=PAGE_SIZE).contains(&len));
        let mut back = [0; PAGE_SIZE];
        if len == PAGE_SIZE {
            back.copy_from_slice(&out[3..]);
        } else {
            let count = Decompressor::new().deflate_decompress(&out[3..], &mut back).unwrap();
            assert_eq!(count, PAGE_SIZE);
        }
        assert_eq!(&back, page);
        len
    }

    #[test]
    fn content_compresses_as_its_kind_does() {
        let mut page = Page::new();
        let mut average = |kind| -> usize {
            let lengths = (0..500).map(|seed| {
                page.fill(kind, seed);
                there_and_back(page.bytes())
            });
            lengths.sum::<usize>() / 500
        };
        let [text, files, random] = [Kind::Text, Kind::Files, Kind::Random].map(&mut average);
        assert!((2000..2700).contains(&text), "text: {text}");
        assert!((1900..2700).contains(&files), "files: {files}");
        assert_eq!(random, PAGE_SIZE);
    }

    #[test]
    fn every_match_length_and_distance_is_coded_right() {
        for distance in 1..300 {
            let mut page = [0; PAGE_SIZE];
            for (at, byte) in page.iter_mut().enumerate() {
                *byte = (at % distance) as u8 ^ ((at % distance) >> 8) as u8;
            }
            there_and_back(&page);
        }
        for length in 4..300 {
            for distance in [300, 511, 512, 513, 1024, 2049, 3500] {
                let mut random = 7u32;
                let mut page = [0; PAGE_SIZE].map(|_: u8| {
                    random = random.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
                    (random >> 24) as u8 & 0x0f
                });
                page.copy_within(..length, distance);
                there_and_back(&page);
            }
        }
    }

    proptest! {
        #[test]
        fn any_page_comes_back(
            piece in proptest::collection::vec(any::<u8>(), 1..4096),
            mask: u8,
        ) {
            let mut page = [0; PAGE_SIZE];
            for (at, byte) in page.iter_mut().enumerate() {
                *byte = piece[at % piece.len()] & mask;
            }
            there_and_back(&page);
        }
    }
}
