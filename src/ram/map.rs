//! The received map: what has arrived and what was written.

use std::ops::Range;

/// Why a map operation was refused.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum MapError {
    /// A page index, offset or address lies outside the block.
    #[error("page {page:#x} lies outside a RAMBlock of {pages:#x} pages")]
    OutOfBounds {
        /// Index of the page asked for.
        page: u64,
        /// Pages in the block.
        pages: u64,
    },
}

/// Two bits a page: *received* and *written*.
#[derive(Debug)]
pub struct ReceivedMap(());

#[allow(missing_docs, unused_variables)]
impl ReceivedMap {
    pub fn pages(&self) -> u32 {
        unimplemented!()
    }
    pub fn test(&self, host: usize) -> Result<bool, MapError> {
        unimplemented!()
    }
    pub fn test_byte_offset(&self, offset: u64) -> Result<bool, MapError> {
        unimplemented!()
    }
    pub fn set(&self, host: usize) -> Result<(), MapError> {
        unimplemented!()
    }
    pub fn set_range(&self, host: usize, pages: u64) -> Result<(), MapError> {
        unimplemented!()
    }
    pub fn set_offset(&self, offset: u64) -> Result<(), MapError> {
        unimplemented!()
    }
    pub fn is_received(&self, page: u32) -> bool {
        unimplemented!()
    }
    pub fn is_written(&self, page: u32) -> bool {
        unimplemented!()
    }
    /// Words of the received bitmap, LSB first, padding bits zero; their
    /// count times eight is QEMU's size field.
    pub fn received_words(&self) -> impl ExactSizeIterator<Item = u64> + '_ {
        std::iter::empty()
    }
    pub fn received_count(&self) -> u64 {
        unimplemented!()
    }
    /// Runs of pages that may differ from zero, in order.
    pub fn written_runs(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        std::iter::empty()
    }
}
