//! Page decoders: one raw DEFLATE block in, exactly one page out.

/// Bytes that must be readable behind a payload given to a decoder.
pub const INPUT_PADDING: usize = 4096;
