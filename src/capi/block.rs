//! RAMBlocks in the caller's memory, and the received map of each.

use std::{
    ffi::{c_char, c_void},
    sync::Arc,
};

use super::{
    Failure, MultifdQplStatus, arg, free, object,
    receiver::{MultifdQplReceiver, placement},
    status, text, value,
};
use crate::{
    ram::{Initial, MapError, Placement, RamBlock},
    wire::received_bitmap,
};

/// A RAMBlock whose memory is the caller's.
#[derive(Debug)]
pub struct MultifdQplBlock {
    pub(super) block: Arc<RamBlock>,
    placement: Arc<Placement>,
}

impl Drop for MultifdQplBlock {
    fn drop(&mut self) {
        self.placement.detach(&self.block);
    }
}

/// Takes a RAMBlock in: `length` bytes at `host`, both multiples of 4096.
///
/// `known_zero` says that every byte reads as zero now and that nobody but this
/// library writes the memory until the block is freed. Then zero pages that
/// come first are not touched. Memory that may hold something (a ROM, memory
/// used before) is taken in with `known_zero` false: it is cleared page by page.
///
/// Null on failure.
///
/// # Safety
///
/// `receiver` is null or live, `name` is null or NUL-terminated. `length` bytes
/// at `host` are mapped, readable and writable, and stay so until the block is
/// freed and no channel holds jobs of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn multifd_qpl_block_new(
    receiver: *const MultifdQplReceiver,
    name: *const c_char,
    host: *mut c_void,
    length: u64,
    known_zero: bool,
) -> *mut MultifdQplBlock {
    object(|| {
        // SAFETY: the caller's promise.
        let (receiver, name) = unsafe { (arg(receiver, "receiver")?, text(name, "name")?) };
        if host.is_null() {
            return Err(Failure::null("host"));
        }
        let initial = if known_zero { Initial::KnownZero } else { Initial::Unknown };
        // SAFETY: the caller promises that the memory is mapped and stays so.
        let block = unsafe { RamBlock::from_raw(name, host.cast(), length, initial) }
            .map_err(Failure::argument)?;
        let placement = placement(receiver);
        placement.attach(&block).map_err(Failure::system)?;
        Ok(MultifdQplBlock { block: Arc::new(block), placement })
    })
}

/// Gives a RAMBlock back to the caller; null is fine. From now on pages that
/// were never written read as zero.
///
/// # Safety
///
/// `block` is null or was made by `multifd_qpl_block_new`, is not used again,
/// and every channel that has taken packets of it is drained.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn multifd_qpl_block_free(block: *mut MultifdQplBlock) {
    // SAFETY: the caller's promise.
    unsafe { free(block) }
}

/// Whether the page at `host` has been received: 1 or 0, -1 on failure.
///
/// # Safety
///
/// `block` is null or live. `host` is only compared, not read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn multifd_qpl_received_test(
    block: *const MultifdQplBlock,
    host: *const c_void,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { test(block, |block| block.map().test(host.addr())) }
}

/// Whether the page at a byte offset in the block has been received: 1 or 0, -1
/// on failure.
///
/// # Safety
///
/// `block` is null or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn multifd_qpl_received_test_byte_offset(
    block: *const MultifdQplBlock,
    offset: u64,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { test(block, |block| block.map().test_byte_offset(offset)) }
}

/// Marks the page at `host` received.
///
/// # Safety
///
/// `block` is null or live. `host` is only compared, not read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn multifd_qpl_received_set(
    block: *const MultifdQplBlock,
    host: *const c_void,
) -> MultifdQplStatus {
    // SAFETY: the caller's promise.
    unsafe { set(block, |block| block.map().set(host.addr())) }
}

/// Marks `pages` pages of 4096 bytes from `host` on received.
///
/// # Safety
///
/// `block` is null or live. `host` is only compared, not read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn multifd_qpl_received_set_range(
    block: *const MultifdQplBlock,
    host: *const c_void,
    pages: u64,
) -> MultifdQplStatus {
    // SAFETY: the caller's promise.
    unsafe { set(block, |block| block.map().set_range(host.addr(), pages)) }
}

/// Marks the page at a byte offset in the block received.
///
/// # Safety
///
/// `block` is null or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn multifd_qpl_received_set_offset(
    block: *const MultifdQplBlock,
    offset: u64,
) -> MultifdQplStatus {
    // SAFETY: the caller's promise.
    unsafe { set(block, |block| block.map().set_offset(offset)) }
}

/// The received map as a source wants it in postcopy recovery: big-endian
/// length, bitmap, end mark. Returns how many bytes that takes, and writes them
/// if `capacity` is at least that. 0 on failure.
///
/// # Safety
///
/// `block` is null or live; `out` is valid for writing `capacity` bytes, or null
/// if that is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn multifd_qpl_received_send(
    block: *const MultifdQplBlock,
    out: *mut u8,
    capacity: usize,
) -> usize {
    value(0, || {
        // SAFETY: the caller's promise.
        let map = unsafe { arg(block, "block") }?.block.map();
        let pages = u64::from(map.pages());
        let needed =
            usize::try_from(received_bitmap::encoded_len(pages)).map_err(Failure::argument)?;
        if capacity >= needed {
            if out.is_null() {
                return Err(Failure::null("out"));
            }
            let mut bytes = Vec::with_capacity(needed);
            received_bitmap::encode(map.received_words(), pages, &mut bytes);
            // SAFETY: `out` takes `capacity >= needed` bytes, and a vector made
            // here overlaps nothing of the caller's.
            unsafe { out.copy_from_nonoverlapping(bytes.as_ptr(), needed.min(bytes.len())) };
        }
        Ok(needed)
    })
}

/// # Safety
///
/// `block` is null or live.
unsafe fn test(
    block: *const MultifdQplBlock,
    ask: impl FnOnce(&RamBlock) -> Result<bool, MapError>,
) -> i32 {
    value(-1, || {
        // SAFETY: the caller's promise.
        let block = unsafe { arg(block, "block") }?;
        ask(&block.block).map(i32::from).map_err(Failure::argument)
    })
}

/// # Safety
///
/// `block` is null or live.
unsafe fn set(
    block: *const MultifdQplBlock,
    mark: impl FnOnce(&RamBlock) -> Result<(), MapError>,
) -> MultifdQplStatus {
    status(|| {
        // SAFETY: the caller's promise.
        let block = unsafe { arg(block, "block") }?;
        mark(&block.block).map_err(Failure::argument)
    })
}
