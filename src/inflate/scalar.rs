//! One page at a time, for every kind of block: the portable decoder, and what
//! the vector decoders leave to it (dynamic and stored blocks, and pages of
//! several blocks).
//!
//! The loop's contract: it runs while the output is not past the page's end;
//! one turn adds at most three literals and one match (258 bytes), and one copy
//! may run 32 bytes over. `Out` is made over a scratch page with that much
//! room behind it, so nothing in the loop looks at the end. The input's end is
//! looked at between blocks, which [`super::INPUT_PADDING`] makes safe.

use super::bits::Bits;
use super::codes::{BlockCodes, DISTANCE_BITS, Entry, LITLEN_BITS, PRE_BITS, PRE_SYMBOLS, PreCode};
use super::lanes::Scratch;
use super::out::Out;
use super::{InflateError, PAGE};

/// True when this CPU runs [`Scalar::decode_bmi2`].
pub(super) fn bmi2_available() -> bool {
    is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("avx2")
}

/// The tables of one decoder.
#[derive(Debug)]
pub(super) struct Scalar {
    fixed: BlockCodes,
    dynamic: BlockCodes,
    pre: PreCode,
}

impl Scalar {
    pub(super) fn new() -> Box<Self> {
        Box::new(Self {
            fixed: BlockCodes::fixed(),
            dynamic: BlockCodes::empty(),
            pre: PreCode::new(),
        })
    }

    /// Decodes the page at `start` into lane 0's scratch page.
    ///
    /// # Safety
    ///
    /// `start` to `start + len + INPUT_PADDING` is readable and not written
    /// meanwhile.
    pub(super) unsafe fn decode_portable(
        &mut self,
        start: *const u8,
        len: usize,
        scratch: &mut Scratch,
    ) -> Result<(), InflateError> {
        // SAFETY: the caller's.
        unsafe { self.decode_any(start, len, scratch) }
    }

    /// The same, compiled for BMI2.
    ///
    /// # Safety
    ///
    /// As `decode_portable`, and [`bmi2_available`] holds.
    #[target_feature(enable = "bmi1,bmi2,lzcnt,avx2")]
    pub(super) unsafe fn decode_bmi2(
        &mut self,
        start: *const u8,
        len: usize,
        scratch: &mut Scratch,
    ) -> Result<(), InflateError> {
        // SAFETY: the caller's.
        unsafe { self.decode_any(start, len, scratch) }
    }

    #[inline(always)]
    unsafe fn decode_any(
        &mut self,
        start: *const u8,
        len: usize,
        scratch: &mut Scratch,
    ) -> Result<(), InflateError> {
        // SAFETY: the caller's; between two looks at the end at most one block
        // is read, and no symbol takes more than 15 bits a byte.
        let mut bits = unsafe { Bits::new(start, len) };
        // SAFETY: a scratch page has OUT_SLACK bytes behind it, and is ours
        // as long as `scratch` is borrowed.
        let mut out = unsafe { Out::new(scratch.page(0)) };
        self.decode(&mut bits, &mut out)
    }

    /// Decodes all blocks of one page.
    #[inline(always)]
    fn decode(&mut self, bits: &mut Bits, out: &mut Out) -> Result<(), InflateError> {
        loop {
            bits.refill();
            let header = bits.take(3);
            match header >> 1 {
                0 => stored(bits, out)?,
                1 => block(&self.fixed, bits, out)?,
                2 => {
                    self.read_codes(bits)?;
                    block(&self.dynamic, bits, out)?;
                }
                _ => return Err(bits.or_truncated(InflateError::InvalidBlockType)),
            }
            // What was read behind the end means nothing, and a block without
            // output may be followed by another for ever.
            if bits.past_end() {
                return Err(InflateError::InputTruncated);
            }
            if header & 1 != 0 {
                break;
            }
        }
        if out.len() < PAGE {
            Err(InflateError::OutputShort)
        } else if bits.bytes_left() > 0 {
            Err(InflateError::TrailingBytes)
        } else {
            Ok(())
        }
    }

    /// Reads a dynamic block's header.
    #[inline(always)]
    fn read_codes(&mut self, bits: &mut Bits) -> Result<(), InflateError> {
        /// The order in which the lengths of the pre-code come.
        const ORDER: [u8; PRE_SYMBOLS] =
            [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

        let litlens = bits.take(5) as usize + 257;
        let distances = bits.take(5) as usize + 1;
        let pres = bits.take(4) as usize + 4;
        if litlens > 286 || distances > 30 {
            return Err(bits.or_truncated(InflateError::InvalidHeader));
        }
        let mut pre = [0; PRE_SYMBOLS];
        for &symbol in &ORDER[..pres] {
            bits.refill();
            pre[usize::from(symbol)] = bits.take(3) as u8;
        }
        self.pre.rebuild(&pre).map_err(|error| bits.or_truncated(error))?;

        // A repeat may run over the end of what is left; it is found then. A
        // fill of whole blocks may run over once more.
        const BLOCK: usize = 16;
        let mut lengths = [0u8; 286 + 30 + 138 + BLOCK];
        let all = litlens + distances;
        let mut at = 0;
        while at < all {
            // Three symbols (14 bits at most) for each refill.
            bits.refill();
            for _ in 0..3 {
                let entry = self.pre.table[bits.peek(PRE_BITS)];
                bits.skip(entry.0);
                let symbol = entry.value();
                if symbol < 16 {
                    lengths[at] = symbol as u8;
                    at += 1;
                } else if symbol < 18 {
                    let (value, times) = match symbol {
                        16 if at == 0 => {
                            return Err(bits.or_truncated(InflateError::InvalidHeader));
                        }
                        16 => (lengths[at - 1], 3 + bits.take(2)),
                        _ => (0, 3 + bits.take(3)),
                    };
                    lengths[at..at + BLOCK].fill(value);
                    at += times as usize;
                } else {
                    let times = 11 + bits.take(7) as usize;
                    let mut filled = 0;
                    while filled < times {
                        lengths[at + filled..at + filled + BLOCK].fill(0);
                        filled += BLOCK;
                    }
                    at += times;
                }
                if at >= all {
                    break;
                }
            }
        }
        if at > all {
            return Err(bits.or_truncated(InflateError::InvalidHeader));
        }
        let (litlen, rest) = lengths.split_at(litlens);
        self.dynamic.build(litlen, &rest[..distances]).map_err(|error| bits.or_truncated(error))
    }
}

/// Copies a stored block.
#[inline(always)]
fn stored(bits: &mut Bits, out: &mut Out) -> Result<(), InflateError> {
    bits.align();
    bits.refill();
    let len = bits.take(16) as usize;
    let check = bits.take(16) as usize;
    if bits.past_end() {
        return Err(InflateError::InputTruncated);
    }
    if len != !check & 0xffff {
        return Err(InflateError::StoredLengthMismatch);
    }
    if len > bits.bytes_left() {
        return Err(InflateError::InputTruncated);
    }
    if len > PAGE - out.len() {
        return Err(InflateError::OutputLong);
    }
    out.stored(bits, len);
    Ok(())
}

/// Decodes the symbols of a block, to its end.
#[inline(always)]
fn block(codes: &BlockCodes, bits: &mut Bits, out: &mut Out) -> Result<(), InflateError> {
    let litlen = &codes.litlen.table;
    bits.refill();
    let mut entry = litlen[bits.peek(LITLEN_BITS)];
    while out.len() <= PAGE {
        // 56 bits at least, or 28 behind a match and 23 behind three literals,
        // both then filled up. Enough for two literals of the table, a length
        // of any size (20) and a look at the distance, which has its own refill.
        const _: () = assert!(2 * LITLEN_BITS + 20 + DISTANCE_BITS <= 56);
        const _: () = assert!(4 * LITLEN_BITS <= 56);
        if entry.is_literal() {
            bits.skip(entry.0);
            let next = litlen[bits.peek(LITLEN_BITS)];
            out.literal(entry.value());
            entry = next;
            if entry.is_literal() {
                bits.skip(entry.0);
                let next = litlen[bits.peek(LITLEN_BITS)];
                out.literal(entry.value());
                entry = next;
                if entry.is_literal() {
                    bits.skip(entry.0);
                    let next = litlen[bits.peek(LITLEN_BITS)];
                    bits.refill();
                    out.literal(entry.value());
                    entry = next;
                    continue;
                }
            }
        }
        if entry.is_special() {
            if entry.is_long() {
                entry = match codes.long_litlen(bits.buffer()) {
                    Some(found) => found,
                    None => return Err(bits.or_truncated(InflateError::InvalidCode)),
                };
            }
            if entry.is_literal() {
                bits.skip(entry.0);
                out.literal(entry.value());
                bits.refill();
                entry = litlen[bits.peek(LITLEN_BITS)];
                continue;
            }
            if entry.is_end() {
                bits.skip(entry.0);
                return if out.len() <= PAGE {
                    Ok(())
                } else {
                    Err(bits.or_truncated(InflateError::OutputLong))
                };
            }
            if entry.is_special() {
                return Err(bits.or_truncated(InflateError::InvalidCode));
            }
        }
        let len = (entry.value() + entry.extra(bits.buffer())) as usize;
        bits.skip(entry.0);
        let mut far: Entry = codes.distance.table[bits.peek(DISTANCE_BITS)];
        bits.refill();
        if far.is_special() {
            if far.is_long() {
                far = match codes.long_distance(bits.buffer()) {
                    Some(found) => found,
                    None => return Err(bits.or_truncated(InflateError::InvalidCode)),
                };
            }
            if far.is_special() {
                return Err(bits.or_truncated(InflateError::InvalidCode));
            }
        }
        let distance = (far.value() + far.extra(bits.buffer())) as usize;
        bits.skip(far.0);
        entry = litlen[bits.peek(LITLEN_BITS)];
        bits.refill();
        if distance > out.len() {
            return Err(bits.or_truncated(InflateError::DistanceBeforeStart));
        }
        out.copy(distance, len);
    }
    Err(bits.or_truncated(InflateError::OutputLong))
}
