//! The received pages of one RAMBlock as QEMU puts them on the wire.
//!
//! ```text
//!  u64   size of the bitmap: whole 64-bit words
//!  ..    page i is bit i%8 of byte i/8, least significant first; padding is 0
//!  u64   end mark 0x0123456789abcdef
//! ```
//!
//! It follows a RECV_BITMAP message on the return path, when a source asks
//! after a broken postcopy which pages it must send again.

use thiserror::Error;

/// Ends every bitmap.
pub const END_MARK: u64 = 0x0123_4567_89ab_cdef;

const WORD_BITS: u64 = 64;
const WORD: usize = size_of::<u64>();

/// Bytes of the wire form of a bitmap for `pages` pages, size and end mark
/// included.
pub fn encoded_len(pages: u64) -> u64 {
    (pages.div_ceil(WORD_BITS) + 2) * WORD as u64
}

/// Writes the wire form to the end of `out`. Page i is bit i%64 of word i/64,
/// as the received map keeps it. Bits beyond `pages` are sent as 0.
///
/// # Panics
///
/// If `words` holds fewer words than `pages` needs.
pub fn encode(words: impl IntoIterator<Item = u64>, pages: u64, out: &mut Vec<u8>) {
    let count = pages.div_ceil(WORD_BITS);
    out.extend_from_slice(&(count * WORD as u64).to_be_bytes());
    let mut words = words.into_iter();
    for index in 0..count {
        let mut word = words.next().expect("a word for every 64 pages");
        let left = pages - index * WORD_BITS;
        if left < WORD_BITS {
            word &= (1 << left) - 1;
        }
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&END_MARK.to_be_bytes());
}

/// Reads the wire form of a bitmap for `pages` pages into words. `bytes` must
/// be the bitmap and nothing else; nothing is allocated before that is known.
pub fn parse(bytes: &[u8], pages: u64) -> Result<Vec<u64>, BitmapError> {
    let expected = encoded_len(pages);
    if bytes.len() as u64 != expected {
        return Err(BitmapError::Truncated { len: bytes.len(), expected });
    }
    // The length is that of whole words, at least two.
    let (words, _) = bytes.as_chunks::<WORD>();
    let [size, map @ .., mark] = words else {
        return Err(BitmapError::Truncated { len: bytes.len(), expected });
    };
    let size = u64::from_be_bytes(*size);
    if size != map.len() as u64 * WORD as u64 {
        return Err(BitmapError::Size { size, pages });
    }
    let mark = u64::from_be_bytes(*mark);
    if mark != END_MARK {
        return Err(BitmapError::EndMark(mark));
    }
    let map: Vec<u64> = map.iter().map(|word| u64::from_le_bytes(*word)).collect();
    let used = pages % WORD_BITS;
    if used != 0 && map.last().is_some_and(|last| last >> used != 0) {
        return Err(BitmapError::Padding { pages });
    }
    Ok(map)
}

/// What is wrong with a received bitmap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BitmapError {
    /// Fewer or more bytes than the RAMBlock's bitmap has.
    #[error("a received bitmap has {len} bytes in all, expected {expected}")]
    Truncated {
        /// Bytes there are.
        len: usize,
        /// Bytes there must be.
        expected: u64,
    },
    /// The bitmap is that of a RAMBlock of another size.
    #[error("a received bitmap of {size} bytes does not belong to a RAMBlock of {pages} pages")]
    Size {
        /// Claimed bytes of the bitmap.
        size: u64,
        /// Pages of the RAMBlock.
        pages: u64,
    },
    /// Something else than the end mark follows the bitmap.
    #[error("a received bitmap ends with {0:#018x} instead of its end mark")]
    EndMark(u64),
    /// A page beyond the RAMBlock is marked.
    #[error("a received bitmap marks pages beyond the {pages} of its RAMBlock")]
    Padding {
        /// Pages of the RAMBlock.
        pages: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_lie_where_they_are_documented() {
        let mut out = Vec::new();
        encode([0x0000_0000_0000_8101, u64::MAX], 66, &mut out);
        assert_eq!(out.len() as u64, encoded_len(66));
        assert_eq!(out[..8], [0, 0, 0, 0, 0, 0, 0, 16]);
        assert_eq!(out[8..16], [0x01, 0x81, 0, 0, 0, 0, 0, 0]);
        assert_eq!(out[16..24], [0x03, 0, 0, 0, 0, 0, 0, 0], "padding is cleared");
        assert_eq!(out[24..], [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]);
        assert_eq!(parse(&out, 66).unwrap(), [0x8101, 3]);
    }

    #[test]
    fn faults_are_told_apart() {
        let mut good = Vec::new();
        encode([1], 3, &mut good);
        assert!(parse(&good, 64).is_ok());
        let total = good.len();
        for len in 0..total {
            let error = parse(&good[..len], 3).unwrap_err();
            assert_eq!(error, BitmapError::Truncated { len, expected: 24 });
        }
        assert!(matches!(parse(&good, 65), Err(BitmapError::Truncated { .. })));
        assert!(matches!(parse(&good, u64::MAX), Err(BitmapError::Truncated { .. })));

        let mut bad = good.clone();
        bad[7] = 16;
        assert_eq!(parse(&bad, 3), Err(BitmapError::Size { size: 16, pages: 3 }));
        let mut bad = good.clone();
        bad[8] = 8;
        assert_eq!(parse(&bad, 3), Err(BitmapError::Padding { pages: 3 }));
        let mut bad = good;
        bad[total - 1] = 0;
        assert_eq!(parse(&bad, 3), Err(BitmapError::EndMark(0x0123_4567_89ab_cd00)));
    }

    #[test]
    fn no_pages_make_an_empty_bitmap() {
        let mut out = Vec::new();
        encode([], 0, &mut out);
        assert!(parse(&out, 0).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn bitmaps_come_back_as_they_went(
            words in proptest::collection::vec(any::<u64>(), 1..20),
            cut in 0u64..64,
        ) {
            let pages = words.len() as u64 * 64 - cut;
            let mut out = Vec::new();
            encode(words.iter().copied(), pages, &mut out);
            let back = parse(&out, pages).unwrap();
            for page in 0..words.len() * 64 {
                let sent = (page as u64) < pages && words[page / 64] >> (page % 64) & 1 == 1;
                prop_assert_eq!(back[page / 64] >> (page % 64) & 1 == 1, sent);
            }
        }
    }
}
