//! One RAMBlock: one mapping and its received map.

use super::ReceivedMap;

/// Why a RAMBlock could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The length is zero, not whole pages, or too large.
    #[error("RAMBlock {name:?} cannot be {length:#x} bytes long: a length is whole 4 KiB pages, at least one and at most 2^32 - 1 of them")]
    Length {
        /// Name of the block.
        name: String,
        /// Length asked for.
        length: u64,
    },
    /// Memory could not be mapped.
    #[error("cannot map {length:#x} bytes for RAMBlock {name:?}: {source}")]
    Map {
        /// Name of the block.
        name: String,
        /// Length asked for.
        length: u64,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// What a caller's memory holds at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Initial {
    /// Every byte is zero, and its owner says so.
    KnownZero,
    /// Anything: every page counts as written from the start.
    Unknown,
}

/// One RAMBlock.
#[derive(Debug)]
pub struct RamBlock(());

#[allow(missing_docs, unused_variables, clippy::missing_safety_doc)]
impl RamBlock {
    pub fn anonymous(name: impl Into<String>, length: u64) -> Result<Self, BlockError> {
        unimplemented!()
    }
    pub fn memfd(name: impl Into<String>, length: u64) -> Result<Self, BlockError> {
        unimplemented!()
    }
    pub unsafe fn from_raw(
        name: impl Into<String>,
        address: *mut u8,
        length: u64,
        initial: Initial,
    ) -> Result<Self, BlockError> {
        unimplemented!()
    }
    pub fn name(&self) -> &str {
        unimplemented!()
    }
    pub fn used_length(&self) -> u64 {
        unimplemented!()
    }
    pub fn pages(&self) -> u32 {
        unimplemented!()
    }
    pub fn map(&self) -> &ReceivedMap {
        unimplemented!()
    }
    pub fn page_ptr(&self, page: u32) -> Result<*mut u8, BlockError> {
        unimplemented!()
    }
    pub fn read_page(&self, page: u32, out: &mut [u8; 4096]) -> Result<(), BlockError> {
        unimplemented!()
    }
    /// Copies bytes out; pages never written read as zero and stay untouched.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), BlockError> {
        unimplemented!()
    }
    pub fn resident_bytes(&self) -> Result<u64, BlockError> {
        unimplemented!()
    }
}
