//! Decodes raw DEFLATE the way the device does, with the device's error codes.
//!
//! Written for exact answers rather than for speed: every malformed input ends in the numbered error that the device
//! reports for it, a distance of more than 4 KiB is an error although DEFLATE allows 32 KiB, and what came out before an
//! error is kept, since a device has by then written it. All input and output lives in ordinary memory; the guest's
//! memory is read before and written afterwards.

/// The device remembers this many bytes of output.
pub const WINDOW: usize = 4096;

/// Why a stream could not be decoded: the number in the second byte of the completion record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Error {
    /// A code-length code of the header is not in the table.
    UndefinedLengthCode = 2,
    /// The literal/length code lengths start with "repeat the previous".
    FirstLiteralLengthIsRepeat = 3,
    /// The distance code lengths start with "repeat the previous".
    FirstDistanceIsRepeat = 4,
    /// No code for a literal or length at all.
    NoLiteralCodes = 5,
    /// A repeat runs past the literal/length codes.
    WrongLiteralCount = 6,
    /// A repeat runs past the distance codes.
    WrongDistanceCount = 7,
    /// The lengths of the code-length code promise more codes than there are.
    BadLengthCodeLengths = 8,
    /// The same of the literal/length code.
    BadLiteralLengths = 9,
    /// The same of the distance code.
    BadDistanceLengths = 10,
    /// Bits that are no literal/length code, or symbol 286 or 287.
    BadLiteralCode = 11,
    /// Bits that are no distance code, or symbol 30 or 31.
    BadDistanceCode = 12,
    /// Block type 3.
    BadBlockType = 13,
    /// A stored block's length and its complement differ.
    BadStoredLength = 14,
    /// The input ended before the final block did.
    BadEndOfStream = 15,
    /// A distance beyond the window.
    BadDistance = 17,
    /// A distance that reaches before the first byte of output.
    BeforeStart = 18,
    /// More literal/length codes than DEFLATE has.
    TooManyLiteralCodes = 35,
    /// More distance codes than DEFLATE has.
    TooManyDistanceCodes = 36,
}

/// How decoding came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The end-of-block of the final block was read.
    Final,
    /// The input was used up first.
    OutOfInput,
    /// There is more output than the limit allows.
    Overflow,
    /// The stream is malformed.
    Malformed(Error),
}

/// What decoding gave.
#[derive(Debug)]
pub struct Inflated {
    /// How it ended.
    pub end: End,
    /// Input bytes that were needed, the last one perhaps in part.
    pub consumed: usize,
}

/// Decodes `input` to the end of its final block and appends to `output`, which is to be empty and never gets longer
/// than `limit`.
pub fn inflate(input: &[u8], limit: usize, output: &mut Vec<u8>) -> Inflated {
    let mut decoder = Decoder { bits: Bits::new(input), limit, output };
    let end = match decoder.blocks() {
        Ok(()) => End::Final,
        Err(end) => end,
    };
    Inflated { end, consumed: decoder.bits.consumed() }
}

/// The input, least significant bit first.
struct Bits<'a> {
    input: &'a [u8],
    next: usize,
    held: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    fn new(input: &'a [u8]) -> Self {
        Bits { input, next: 0, held: 0, count: 0 }
    }

    /// Holds at least 56 bits, or all there are.
    fn refill(&mut self) {
        if let Some(&next) = self.input[self.next..].first_chunk::<8>() {
            // Bits above `count` may be there already: they are the same ones, so setting them again changes nothing.
            self.held |= u64::from_le_bytes(next) << self.count;
            self.next += (63 - self.count as usize) / 8;
            self.count |= 56;
            return;
        }
        self.held &= (1 << self.count) - 1;
        while self.count <= 55 && self.next < self.input.len() {
            self.held |= u64::from(self.input[self.next]) << self.count;
            self.next += 1;
            self.count += 8;
        }
    }

    /// The next `n` bits, `n` at most 16.
    fn take(&mut self, n: u32) -> Result<u32, End> {
        if self.count < n {
            self.refill();
            if self.count < n {
                return Err(End::OutOfInput);
            }
        }
        let value = (self.held & ((1 << n) - 1)) as u32;
        self.drop(n);
        Ok(value)
    }

    fn drop(&mut self, n: u32) {
        self.held >>= n;
        self.count -= n;
    }

    fn align(&mut self) {
        self.drop(self.count % 8);
    }

    fn consumed(&self) -> usize {
        self.next - self.count as usize / 8
    }
}

const FAST_BITS: u32 = 10;
const MAX_BITS: usize = 15;

/// A prefix code: a table for the short codes, and the canonical counts for the long ones.
struct Code {
    /// For each value of the next `FAST_BITS` bits: symbol << 4 | length, 0 when the code is longer or absent.
    fast: [u16; 1 << FAST_BITS],
    count: [u16; MAX_BITS + 1],
    symbols: [u16; 288],
}

/// What the lengths of a code add up to. Codes that leave bits unused are taken, as the device and libqpl's software do:
/// only a stream that uses such bits is malformed.
#[derive(PartialEq, Eq)]
enum Kraft {
    Empty,
    Usable,
    Oversubscribed,
}

impl Code {
    fn new(lengths: &[u8]) -> (Self, Kraft) {
        let mut code =
            Code { fast: [0; 1 << FAST_BITS], count: [0; MAX_BITS + 1], symbols: [0; 288] };
        for &length in lengths {
            code.count[usize::from(length)] += 1;
        }
        let used = lengths.len() as u16 - code.count[0];
        code.count[0] = 0;
        let mut left = 1i32;
        for length in 1..=MAX_BITS {
            left = left * 2 - i32::from(code.count[length]);
            if left < 0 {
                return (code, Kraft::Oversubscribed);
            }
        }
        let mut offset = [0u16; MAX_BITS + 2];
        let mut first = [0u32; MAX_BITS + 2];
        for length in 1..=MAX_BITS {
            offset[length + 1] = offset[length] + code.count[length];
            first[length + 1] = (first[length] + u32::from(code.count[length])) << 1;
        }
        for (symbol, &length) in lengths.iter().enumerate().filter(|(_, length)| **length != 0) {
            let length = usize::from(length);
            code.symbols[usize::from(offset[length])] = symbol as u16;
            offset[length] += 1;
            let natural = first[length];
            first[length] += 1;
            if length as u32 <= FAST_BITS {
                let reversed = natural.reverse_bits() >> (32 - length);
                let entry = (symbol as u16) << 4 | length as u16;
                for index in (reversed as usize..1 << FAST_BITS).step_by(1 << length) {
                    code.fast[index] = entry;
                }
            }
        }
        (code, if used == 0 { Kraft::Empty } else { Kraft::Usable })
    }

    /// Reads one symbol; `bad` is the error for bits that are no code.
    fn read(&self, bits: &mut Bits, bad: Error) -> Result<usize, End> {
        if bits.count < MAX_BITS as u32 {
            bits.refill();
        }
        let entry = self.fast[(bits.held & ((1 << FAST_BITS) - 1)) as usize];
        let length = u32::from(entry & 15);
        if length != 0 && length <= bits.count {
            bits.drop(length);
            return Ok(usize::from(entry >> 4));
        }
        let (mut value, mut first, mut index) = (0u32, 0u32, 0u32);
        for length in 1..=MAX_BITS as u32 {
            if length > bits.count {
                return Err(End::OutOfInput);
            }
            value |= (bits.held >> (length - 1)) as u32 & 1;
            let count = u32::from(self.count[length as usize]);
            if value < first + count {
                bits.drop(length);
                return Ok(usize::from(self.symbols[(index + value - first) as usize]));
            }
            index += count;
            first = (first + count) << 1;
            value <<= 1;
        }
        Err(End::Malformed(bad))
    }
}

const LENGTH_BASE: [u16; 29] = [
    3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131,
    163, 195, 227, 258,
];
const LENGTH_EXTRA: [u8; 29] =
    [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const DISTANCE_BASE: [u16; 30] = [
    1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537,
    2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577,
];
const DISTANCE_EXTRA: [u8; 30] = [
    0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13,
    13,
];
const LENGTH_CODE_ORDER: [usize; 19] =
    [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

struct Decoder<'i, 'o> {
    bits: Bits<'i>,
    limit: usize,
    output: &'o mut Vec<u8>,
}

impl Decoder<'_, '_> {
    fn blocks(&mut self) -> Result<(), End> {
        loop {
            let last = self.bits.take(1)? == 1;
            match self.bits.take(2)? {
                0 => self.stored()?,
                1 => {
                    let (literals, distances) = fixed_codes();
                    self.tokens(&literals, &distances)?;
                }
                2 => {
                    let (literals, distances) = self.dynamic_codes()?;
                    self.tokens(&literals, &distances)?;
                }
                _ => return Err(End::Malformed(Error::BadBlockType)),
            }
            if last {
                return Ok(());
            }
        }
    }

    fn stored(&mut self) -> Result<(), End> {
        self.bits.align();
        let length = self.bits.take(16)?;
        if self.bits.take(16)? != length ^ 0xffff {
            return Err(End::Malformed(Error::BadStoredLength));
        }
        for _ in 0..length {
            let byte = self.bits.take(8)?;
            self.put(byte as u8)?;
        }
        Ok(())
    }

    fn put(&mut self, byte: u8) -> Result<(), End> {
        if self.output.len() == self.limit {
            return Err(End::Overflow);
        }
        self.output.push(byte);
        Ok(())
    }

    fn dynamic_codes(&mut self) -> Result<(Code, Code), End> {
        let literal_count = self.bits.take(5)? as usize + 257;
        let distance_count = self.bits.take(5)? as usize + 1;
        let length_codes = self.bits.take(4)? as usize + 4;
        if literal_count > 286 {
            return Err(End::Malformed(Error::TooManyLiteralCodes));
        }
        if distance_count > 30 {
            return Err(End::Malformed(Error::TooManyDistanceCodes));
        }
        let mut lengths = [0u8; 19];
        for &position in &LENGTH_CODE_ORDER[..length_codes] {
            lengths[position] = self.bits.take(3)? as u8;
        }
        let (code, kraft) = Code::new(&lengths);
        if kraft == Kraft::Oversubscribed {
            return Err(End::Malformed(Error::BadLengthCodeLengths));
        }
        let literals = self.code_lengths(
            &code,
            literal_count,
            Error::FirstLiteralLengthIsRepeat,
            Error::WrongLiteralCount,
        )?;
        let distances = self.code_lengths(
            &code,
            distance_count,
            Error::FirstDistanceIsRepeat,
            Error::WrongDistanceCount,
        )?;
        let (literals, kraft) = Code::new(&literals[..literal_count]);
        match kraft {
            Kraft::Usable => {}
            Kraft::Empty => return Err(End::Malformed(Error::NoLiteralCodes)),
            Kraft::Oversubscribed => return Err(End::Malformed(Error::BadLiteralLengths)),
        }
        let (distances, kraft) = Code::new(&distances[..distance_count]);
        if kraft == Kraft::Oversubscribed {
            return Err(End::Malformed(Error::BadDistanceLengths));
        }
        Ok((literals, distances))
    }

    /// Reads the lengths of one of the two codes. The device reads the two apart, so that a repeat must not cross from one
    /// to the other. DEFLATE allows it, and so does libqpl's software; streams of other compressors that are good by
    /// RFC 1951 have been seen to be refused by real devices with these two errors.
    fn code_lengths(
        &mut self,
        code: &Code,
        wanted: usize,
        first_is_repeat: Error,
        wrong_count: Error,
    ) -> Result<[u8; 288], End> {
        let mut lengths = [0u8; 288];
        let mut have = 0;
        while have < wanted {
            let (value, times) = match code.read(&mut self.bits, Error::UndefinedLengthCode)? {
                16 if have == 0 => return Err(End::Malformed(first_is_repeat)),
                16 => (lengths[have - 1], 3 + self.bits.take(2)? as usize),
                17 => (0, 3 + self.bits.take(3)? as usize),
                18 => (0, 11 + self.bits.take(7)? as usize),
                length => (length as u8, 1),
            };
            if have + times > wanted {
                return Err(End::Malformed(wrong_count));
            }
            lengths[have..have + times].fill(value);
            have += times;
        }
        Ok(lengths)
    }

    fn tokens(&mut self, literals: &Code, distances: &Code) -> Result<(), End> {
        loop {
            if self.bits.count < MAX_BITS as u32 {
                self.bits.refill();
            }
            let entry = literals.fast[(self.bits.held & ((1 << FAST_BITS) - 1)) as usize];
            let (length, symbol) = (u32::from(entry & 15), entry >> 4);
            if symbol < 256 && (1..=self.bits.count).contains(&length) {
                self.bits.drop(length);
                self.put(symbol as u8)?;
                continue;
            }
            let symbol = literals.read(&mut self.bits, Error::BadLiteralCode)?;
            match symbol {
                0..=255 => self.put(symbol as u8)?,
                256 => return Ok(()),
                257..=285 => {
                    let length = self.extended(&LENGTH_BASE, &LENGTH_EXTRA, symbol - 257)?;
                    let symbol = distances.read(&mut self.bits, Error::BadDistanceCode)?;
                    if symbol >= 30 {
                        return Err(End::Malformed(Error::BadDistanceCode));
                    }
                    let distance = self.extended(&DISTANCE_BASE, &DISTANCE_EXTRA, symbol)?;
                    self.copy(length, distance)?;
                }
                _ => return Err(End::Malformed(Error::BadLiteralCode)),
            }
        }
    }

    fn extended(&mut self, base: &[u16], extra: &[u8], index: usize) -> Result<usize, End> {
        Ok(usize::from(base[index]) + self.bits.take(u32::from(extra[index]))? as usize)
    }

    fn copy(&mut self, length: usize, distance: usize) -> Result<(), End> {
        let have = self.output.len();
        if distance > have {
            return Err(End::Malformed(Error::BeforeStart));
        }
        if distance > WINDOW {
            return Err(End::Malformed(Error::BadDistance));
        }
        let room = self.limit - have;
        let taken = length.min(room);
        if distance >= taken {
            self.output.extend_from_within(have - distance..have - distance + taken);
        } else {
            for at in have - distance..have - distance + taken {
                let byte = self.output[at];
                self.output.push(byte);
            }
        }
        if taken < length { Err(End::Overflow) } else { Ok(()) }
    }
}

fn fixed_codes() -> (Code, Code) {
    let mut lengths = [8u8; 288];
    lengths[144..256].fill(9);
    lengths[256..280].fill(7);
    (Code::new(&lengths).0, Code::new(&[5; 32]).0)
}

#[cfg(test)]
#[path = "inflate_tests.rs"]
mod tests;
