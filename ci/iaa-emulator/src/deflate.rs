//! Encodes with the code table that the client put beside the descriptor.
//!
//! Like the device, this emits no block header of its own: the client hands over the bits to begin with (the header)
//! and a code for every symbol, and gets tokens encoded with them. Only literals are emitted, so the result is valid
//! DEFLATE of a poor ratio. The other half is the histogram from which a client builds a dynamic code.

/// Symbols of the literal/length code that a table holds.
pub const LITERAL_CODES: usize = 286;
const END_OF_BLOCK: usize = 256;

/// What follows the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing.
    Nothing,
    /// An end-of-block symbol.
    EndOfBlock,
    /// An end-of-block symbol and an empty stored block, the last one of the stream or not.
    EndOfBlockAndStored {
        /// Whether the stored block is marked as the last.
        last: bool,
    },
}

/// How often a literals-only encoder needs each symbol: 288 counts for literals and lengths, 32 for distances.
pub fn histogram(input: &[u8]) -> [u32; 320] {
    let mut counts = [0u32; 320];
    for &byte in input {
        counts[usize::from(byte)] += 1;
    }
    counts[END_OF_BLOCK] = 1;
    counts
}

/// Why the input could not be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Error {
    /// The output is longer than its limit.
    DestinationShort = 25,
    /// A symbol that is needed has no code.
    InvalidCode = 30,
}

/// The encoded bytes, at most `limit`. `codes` has the code in bits 14..0 in natural order
/// and its length from bit 15 up. `start` are `start_bits` bits to begin with. Also gives the bits used of the last byte,
/// 0 meaning all eight.
pub fn encode(
    input: &[u8],
    codes: &[u32; LITERAL_CODES],
    start: &[u8],
    start_bits: usize,
    tail: Tail,
    limit: usize,
) -> Result<(Vec<u8>, u8), Error> {
    let mut writer =
        Writer { output: Vec::with_capacity(limit.min(2 * input.len() + 512)), held: 0, count: 0 };
    for bit in (0..start_bits).step_by(8) {
        let width = (start_bits - bit).min(8) as u32;
        let byte = start.get(bit / 8).copied().unwrap_or(0);
        writer.put(u64::from(byte) & ((1 << width) - 1), width);
    }
    for &byte in input {
        writer.code(codes[usize::from(byte)])?;
        if writer.output.len() > limit {
            return Err(Error::DestinationShort);
        }
    }
    if tail != Tail::Nothing {
        writer.code(codes[END_OF_BLOCK])?;
    }
    if let Tail::EndOfBlockAndStored { last } = tail {
        writer.put(u64::from(last), 3);
        writer.align();
        writer.put(0xffff_0000, 32);
    }
    let last_bits = (writer.count % 8) as u8;
    writer.align();
    if writer.output.len() > limit {
        return Err(Error::DestinationShort);
    }
    Ok((writer.output, last_bits))
}

struct Writer {
    output: Vec<u8>,
    held: u64,
    count: u32,
}

impl Writer {
    fn code(&mut self, entry: u32) -> Result<(), Error> {
        let length = entry >> 15;
        if !(1..=15).contains(&length) {
            return Err(Error::InvalidCode);
        }
        let code = entry & 0x7fff;
        self.put(u64::from(code.reverse_bits() >> (32 - length)), length);
        Ok(())
    }

    fn put(&mut self, bits: u64, width: u32) {
        self.held |= bits << self.count;
        self.count += width;
        while self.count >= 8 {
            self.output.push(self.held as u8);
            self.held >>= 8;
            self.count -= 8;
        }
    }

    fn align(&mut self) {
        if self.count > 0 {
            self.output.push(self.held as u8);
            self.held = 0;
            self.count = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inflate::{End, inflate};

    /// The fixed code of DEFLATE in the layout of a table.
    fn fixed() -> [u32; LITERAL_CODES] {
        std::array::from_fn(|symbol| {
            let symbol = symbol as u32;
            match symbol {
                0..=143 => (0x30 + symbol) | (8 << 15),
                144..=255 => (0x190 + symbol - 144) | (9 << 15),
                256..=279 => (symbol - 256) | (7 << 15),
                _ => (0xc0 + symbol - 280) | (8 << 15),
            }
        })
    }

    fn decoded(encoded: &[u8], limit: usize) -> (End, Vec<u8>) {
        let mut output = Vec::new();
        (inflate(encoded, limit, &mut output).end, output)
    }

    #[test]
    fn what_is_encoded_decodes_to_itself() {
        let page: Vec<u8> = (0..4096u32).map(|n| ((n * n) >> 3) as u8).collect();
        let (encoded, _) = encode(&page, &fixed(), &[0b011], 3, Tail::EndOfBlock, 8192).unwrap();
        assert_eq!(decoded(&encoded, 4096), (End::Final, page));
    }

    #[test]
    fn the_final_stored_block_ends_the_stream() {
        let tail = Tail::EndOfBlockAndStored { last: true };
        let (encoded, _) = encode(b"ab", &fixed(), &[0b010], 3, tail, 64).unwrap();
        assert_eq!(decoded(&encoded, 64), (End::Final, b"ab".to_vec()));
        let tail = Tail::EndOfBlockAndStored { last: false };
        let (encoded, _) = encode(b"ab", &fixed(), &[0b010], 3, tail, 64).unwrap();
        assert_eq!(decoded(&encoded, 64), (End::OutOfInput, b"ab".to_vec()));
    }

    #[test]
    fn one_byte_too_few_is_told() {
        let (encoded, _) = encode(b"hello", &fixed(), &[0b011], 3, Tail::EndOfBlock, 64).unwrap();
        let exact = encode(b"hello", &fixed(), &[0b011], 3, Tail::EndOfBlock, encoded.len());
        assert_eq!(exact.unwrap().0, encoded);
        let short = encode(b"hello", &fixed(), &[0b011], 3, Tail::EndOfBlock, encoded.len() - 1);
        assert_eq!(short, Err(Error::DestinationShort));
        let mut codes = fixed();
        codes[usize::from(b'l')] = 0;
        let invalid = encode(b"hello", &codes, &[0b011], 3, Tail::EndOfBlock, 64);
        assert_eq!(invalid, Err(Error::InvalidCode));
    }

    #[test]
    fn the_histogram_counts_every_byte_and_one_end() {
        let counts = histogram(b"aab");
        assert_eq!((counts[97], counts[98], counts[256]), (2, 1, 1));
        assert_eq!(counts.iter().sum::<u32>(), 4);
    }
}
