//! libdeflate behind our interface: the reference that the decoders of this
//! crate are compared with, and a fallback nobody has to trust us for.
//!
//! It reports fewer kinds of damage than our own decoders do, and it lets two
//! rarities pass that they refuse as zlib does: code lengths for the symbols
//! 286, 287, 30 and 31, and a block without an end-of-block code.

use std::fmt;
use std::ptr::NonNull;

use libdeflate_sys::{
    libdeflate_alloc_decompressor, libdeflate_decompressor, libdeflate_deflate_decompress_ex,
    libdeflate_free_decompressor, libdeflate_result_LIBDEFLATE_INSUFFICIENT_SPACE as NO_SPACE,
    libdeflate_result_LIBDEFLATE_SUCCESS as SUCCESS,
};

use super::{InflateError, PAGE};

/// A libdeflate decompressor and the page it decodes into.
pub(super) struct Libdeflate {
    handle: NonNull<libdeflate_decompressor>,
    page: Box<[u8; PAGE]>,
}

// SAFETY: a decompressor is a heap block without thread affinity; libdeflate
// only forbids using one from two threads at once, which `&mut` rules out.
unsafe impl Send for Libdeflate {}

impl fmt::Debug for Libdeflate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Libdeflate")
    }
}

impl Libdeflate {
    /// A decompressor; `None` when there is no memory for it.
    pub(super) fn new() -> Option<Self> {
        // SAFETY: takes no argument; answers null when out of memory.
        let handle = NonNull::new(unsafe { libdeflate_alloc_decompressor() })?;
        Some(Self { handle, page: Box::new([0; PAGE]) })
    }

    /// Decodes `input` and hands out the page.
    pub(super) fn decode(&mut self, input: &[u8]) -> Result<&[u8; PAGE], InflateError> {
        let (mut used, mut made) = (0, 0);
        // SAFETY: the handle lives until drop and `&mut self` is its only
        // user; input and page are valid for the lengths given; both results
        // point to locals.
        let result = unsafe {
            libdeflate_deflate_decompress_ex(
                self.handle.as_ptr(),
                input.as_ptr().cast(),
                input.len(),
                self.page.as_mut_ptr().cast(),
                PAGE,
                &mut used,
                &mut made,
            )
        };
        match result {
            SUCCESS if made < PAGE => Err(InflateError::OutputShort),
            SUCCESS if used < input.len() => Err(InflateError::TrailingBytes),
            SUCCESS => Ok(&self.page),
            NO_SPACE => Err(InflateError::OutputLong),
            _ => Err(InflateError::BadData),
        }
    }
}

impl Drop for Libdeflate {
    fn drop(&mut self) {
        // SAFETY: allocated by `new`, freed once.
        unsafe { libdeflate_free_decompressor(self.handle.as_ptr()) }
    }
}
