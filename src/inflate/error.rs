//! Why a block is no page. One sentence for each malformed case, so that the
//! verdict of a migration can name it.

/// What is wrong with a DEFLATE block that should have become one page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InflateError {
    /// The two type bits are 11, which DEFLATE reserves.
    #[error("the block has the reserved type 3")]
    InvalidBlockType,
    /// LEN and its complement NLEN differ.
    #[error("a stored block's length and its complement disagree")]
    StoredLengthMismatch,
    /// The header of a dynamic block describes no usable code.
    #[error("a dynamic block's header describes no valid Huffman code")]
    InvalidHeader,
    /// A bit pattern that stands for no symbol, or for a symbol that DEFLATE
    /// does not use.
    #[error("the block holds a code that stands for nothing")]
    InvalidCode,
    /// A match reaches back to before the first byte of the page.
    #[error("a match reaches back to before the start of the page")]
    DistanceBeforeStart,
    /// The final block ended with fewer than 4096 bytes.
    #[error("the block ends before the page is full")]
    OutputShort,
    /// More than 4096 bytes come out.
    #[error("the block holds more than one page")]
    OutputLong,
    /// The final block does not end inside the input.
    #[error("the input ends in the middle of the block")]
    InputTruncated,
    /// Whole bytes are left over behind the final block.
    #[error("there are bytes left over behind the final block")]
    TrailingBytes,
    /// The reference decoder refused the block and does not say why.
    #[error("the block is not valid DEFLATE")]
    BadData,
}
