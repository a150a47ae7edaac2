//! The payload of a qpl packet: one length per data page, then the blocks
//! back to back.
//!
//! ```text
//!  u32 x n   lengths: 1..=4095 a raw DEFLATE stream, 4096 the page as it is
//!  bytes     n blocks, in the order of the packet's data pages
//! ```
//!
//! Every block stands for itself, so all of a packet's pages can be decoded at
//! once. That a block makes exactly one page is for the decoder to see.

use thiserror::Error;

use super::PAGE_SIZE;

const LENGTH: usize = size_of::<u32>();

/// Where the bytes of one page lie in the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QplBlock {
    /// Offset in the payload.
    pub start: u32,
    /// Bytes, 1 to 4096.
    pub len: u32,
}

impl QplBlock {
    /// The page is stored as it is: it didn't get smaller.
    pub fn is_raw(&self) -> bool {
        self.len as usize == PAGE_SIZE
    }
}

/// Splits a payload with `normal` data pages into its blocks. On success `out`
/// holds exactly `normal` of them, and they fill the payload without a gap; on
/// an error it is empty.
pub fn read_lengths(
    payload: &[u8],
    normal: usize,
    out: &mut Vec<QplBlock>,
) -> Result<(), QplError> {
    out.clear();
    let size = payload.len();
    let table = normal
        .checked_mul(LENGTH)
        .filter(|&table| table < size && size <= u32::MAX as usize)
        .ok_or(QplError::NoBlocks { size, normal })?;

    let (lengths, _) = payload[..table].as_chunks::<LENGTH>();
    let mut start = table as u64;
    out.extend(lengths.iter().map(|length| {
        let len = u32::from_be_bytes(*length);
        // Cut off only if the sum is wrong, which is found below.
        let block = QplBlock { start: start as u32, len };
        start += u64::from(len);
        block
    }));

    let odd = out.iter().position(|block| block.len.wrapping_sub(1) as usize >= PAGE_SIZE);
    let error = match odd {
        Some(index) => QplError::Length { index, len: out[index].len },
        None if start != size as u64 => QplError::Sum { sum: start, size },
        None => return Ok(()),
    };
    out.clear();
    Err(error)
}

/// Writes the table of lengths that goes before the blocks.
pub fn write_lengths(lengths: impl IntoIterator<Item = u32>, out: &mut Vec<u8>) {
    for length in lengths {
        out.extend_from_slice(&length.to_be_bytes());
    }
}

/// What is wrong with a qpl payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum QplError {
    /// Nothing is left behind the lengths, or not even those fit.
    #[error("a qpl payload of {size} bytes has no room for {normal} pages")]
    NoBlocks {
        /// Payload bytes.
        size: usize,
        /// Data pages of the packet.
        normal: usize,
    },
    /// No block is empty or larger than a page.
    #[error("page {index} of a qpl packet claims {len} bytes; 1 to 4096 are possible")]
    Length {
        /// Which of the packet's data pages.
        index: usize,
        /// Claimed bytes.
        len: u32,
    },
    /// Lengths and payload contradict each other.
    #[error("the lengths in a qpl payload add up to {sum} bytes, but it has {size}")]
    Sum {
        /// Bytes by the lengths, table included.
        sum: u64,
        /// Bytes there are.
        size: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn payload(lengths: &[u32], bytes: usize) -> Vec<u8> {
        let mut out = Vec::new();
        write_lengths(lengths.iter().copied(), &mut out);
        out.resize(out.len() + bytes, 0xaa);
        out
    }

    fn read(payload: &[u8], normal: usize) -> Result<Vec<QplBlock>, QplError> {
        let mut out = vec![QplBlock { start: 9, len: 9 }];
        let result = read_lengths(payload, normal, &mut out);
        assert!(result.is_ok() || out.is_empty());
        result.map(|()| out)
    }

    #[test]
    fn blocks_follow_the_table() {
        let blocks = read(&payload(&[3, 4096], 4099), 2).unwrap();
        assert_eq!(blocks, [QplBlock { start: 8, len: 3 }, QplBlock { start: 11, len: 4096 }]);
        assert!(!blocks[0].is_raw() && blocks[1].is_raw());
    }

    #[test]
    fn a_table_without_room_for_blocks_is_refused() {
        for (size, normal) in [(0, 1), (3, 1), (4, 1), (512, 128), (0, 0), (100, usize::MAX)] {
            assert_eq!(read(&vec![0; size], normal), Err(QplError::NoBlocks { size, normal }));
        }
    }

    #[test]
    fn empty_and_oversized_blocks_are_refused() {
        for len in [0, 4097, u32::MAX] {
            let error = read(&payload(&[5, len], 50), 2).unwrap_err();
            assert_eq!(error, QplError::Length { index: 1, len });
        }
    }

    #[test]
    fn lengths_must_fill_the_payload() {
        assert_eq!(read(&payload(&[5, 6], 10), 2), Err(QplError::Sum { sum: 19, size: 18 }));
        assert_eq!(read(&payload(&[5, 6], 12), 2), Err(QplError::Sum { sum: 19, size: 20 }));
    }

    proptest! {
        #[test]
        fn what_passes_tiles_the_payload(
            lengths in proptest::collection::vec(0u32..4100, 1..=128),
            slack in -1isize..=1,
        ) {
            let sum: usize = lengths.iter().map(|&l| l as usize).sum();
            let payload = payload(&lengths, sum.saturating_add_signed(slack));
            let good = slack == 0 && lengths.iter().all(|l| (1..=4096).contains(l));
            match read(&payload, lengths.len()) {
                Ok(blocks) => {
                    prop_assert!(good);
                    let mut at = lengths.len() as u32 * 4;
                    for (block, len) in blocks.iter().zip(&lengths) {
                        prop_assert_eq!((block.start, block.len), (at, *len));
                        at += len;
                    }
                    prop_assert_eq!(at as usize, payload.len());
                }
                Err(_) => prop_assert!(!good),
            }
        }
    }
}
