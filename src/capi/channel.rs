//! Packets of one channel.

use std::{
    ffi::{c_char, c_int, c_void},
    io, slice,
    sync::Arc,
};

use super::{
    Failure, MultifdQplStatus, arg,
    block::MultifdQplBlock,
    free, object,
    receiver::{MultifdQplReceiver, engine_failure},
    status, text,
};
use crate::{
    method::{self, Method, MethodError, Payload, Workshop},
    ram::{RamBlock, ZeroMode, zero_pages},
    wire::{MAX_PACKET_PAGES, MAX_PAYLOAD, MethodId, PAGE_SIZE, PageList},
};

/// One multifd channel. Used by one thread at a time.
pub struct MultifdQplChannel {
    method: Box<dyn Method>,
    workshop: Workshop,
    pages: Box<PageList>,
}

/// The pages of one packet, as byte offsets in their RAMBlock.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct MultifdQplPages {
    /// Offsets of the pages that come as data, in payload order.
    pub normal: *const u64,
    /// How many.
    pub normal_count: usize,
    /// Offsets of the pages that are zero.
    pub zero: *const u64,
    /// How many. Both together are at most 128.
    pub zero_count: usize,
}

/// Fills `buffer` with the next `length` bytes of the payload. Anything but 0
/// is a failure, and ends the migration.
pub type MultifdQplRead =
    Option<unsafe extern "C" fn(opaque: *mut c_void, buffer: *mut c_void, length: usize) -> c_int>;

/// Sets a channel up for one method: "none", "zlib", "zstd" or "qpl". Null on
/// failure.
///
/// # Safety
///
/// `receiver` is null or live, `method` is null or NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn multifd_qpl_channel_new(
    receiver: *const MultifdQplReceiver,
    method: *const c_char,
) -> *mut MultifdQplChannel {
    object(|| {
        // SAFETY: the caller's promise.
        let (receiver, name) = unsafe { (arg(receiver, "receiver")?, text(method, "method")?) };
        let method: MethodId = name.parse().map_err(Failure::argument)?;
        let workshop = receiver.workshop.clone();
        let method = method::open(method, &workshop).map_err(method_failure)?;
        Ok(MultifdQplChannel { method, workshop, pages: Box::default() })
    })
}

/// Frees a channel; null is fine. What it has not finished is given up.
///
/// # Safety
///
/// `channel` is null or was made by `multifd_qpl_channel_new`, and is not used
/// again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn multifd_qpl_channel_free(channel: *mut MultifdQplChannel) {
    // SAFETY: the caller's promise.
    unsafe { free(channel) }
}

/// Takes a packet whose payload is in memory. May return before its pages are
/// in guest memory; `payload` is not needed any more then.
///
/// # Safety
///
/// `channel` is null or live and used by no other thread; `block` is null or
/// live; `pages` is null or valid, and so are its arrays for their counts;
/// `payload` is valid for reading `length` bytes, or null if that is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn multifd_qpl_channel_packet(
    channel: *mut MultifdQplChannel,
    block: *const MultifdQplBlock,
    pages: *const MultifdQplPages,
    payload: *const c_void,
    length: usize,
) -> MultifdQplStatus {
    status(|| {
        if payload.is_null() && length > 0 {
            return Err(Failure::null("payload"));
        }
        let mut payload = FromMemory { next: payload.cast(), left: length };
        // SAFETY: the caller's promise.
        unsafe { packet(channel, block, pages, &mut payload) }
    })
}

/// Takes a packet whose payload of `length` bytes is read from the caller's
/// socket, straight to where it is needed.
///
/// # Safety
///
/// As for `multifd_qpl_channel_packet`; `read` writes just the bytes it is asked
/// for, and does not unwind.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn multifd_qpl_channel_packet_read(
    channel: *mut MultifdQplChannel,
    block: *const MultifdQplBlock,
    pages: *const MultifdQplPages,
    read: MultifdQplRead,
    opaque: *mut c_void,
    length: usize,
) -> MultifdQplStatus {
    status(|| {
        let read = read.ok_or_else(|| Failure::null("read"))?;
        let mut payload = FromCallback { read, opaque, left: length };
        // SAFETY: the caller's promise.
        unsafe { packet(channel, block, pages, &mut payload) }
    })
}

/// Returns when every page taken so far is in guest memory and marked received.
///
/// # Safety
///
/// `channel` is null or live and used by no other thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn multifd_qpl_channel_drain(
    channel: *mut MultifdQplChannel,
) -> MultifdQplStatus {
    status(|| {
        // SAFETY: the caller's promise.
        let channel = unsafe { channel.as_mut() }.ok_or_else(|| Failure::null("channel"))?;
        channel.method.drain().map_err(method_failure)
    })
}

/// # Safety
///
/// As for `multifd_qpl_channel_packet`.
unsafe fn packet(
    channel: *mut MultifdQplChannel,
    block: *const MultifdQplBlock,
    pages: *const MultifdQplPages,
    payload: &mut dyn Payload,
) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    let channel = unsafe { channel.as_mut() }.ok_or_else(|| Failure::null("channel"))?;
    // SAFETY: the caller's promise.
    let (block, pages) = unsafe { (&arg(block, "block")?.block, arg(pages, "pages")?) };
    // SAFETY: the caller vouches for both arrays.
    let (normal, zero) = unsafe {
        (
            offsets(pages.normal, pages.normal_count, "normal")?,
            offsets(pages.zero, pages.zero_count, "zero")?,
        )
    };
    channel.take(block, normal, zero, payload)
}

/// # Safety
///
/// `pointer` is valid for reading `count` numbers, or null if that is 0.
unsafe fn offsets<'a>(pointer: *const u64, count: usize, name: &str) -> Result<&'a [u64], Failure> {
    if count == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() {
        return Err(Failure::null(name));
    }
    if count > MAX_PACKET_PAGES {
        return Err(Failure::argument(format!("{name} has {count} pages, but 128 is the most")));
    }
    // SAFETY: not null, and the caller promises the rest.
    Ok(unsafe { slice::from_raw_parts(pointer, count) })
}

impl MultifdQplChannel {
    fn take(
        &mut self,
        block: &Arc<RamBlock>,
        normal: &[u64],
        zero: &[u64],
        payload: &mut dyn Payload,
    ) -> Result<(), Failure> {
        let bad = |error: crate::wire::PacketError| Failure::new(MultifdQplStatus::BadData, error);
        self.pages.set(normal, zero, block.used_length()).map_err(bad)?;
        if payload.len() > MAX_PAYLOAD || (normal.is_empty() && !payload.is_empty()) {
            let sentence = format!(
                "a packet with {} data pages has a payload of {} bytes",
                normal.len(),
                payload.len()
            );
            return Err(Failure::new(MultifdQplStatus::BadData, sentence));
        }
        if !zero.is_empty() {
            let placement = &self.workshop.placement;
            zero_pages(placement, block, self.pages.zero(), ZeroMode::Map)
                .map_err(Failure::system)?;
        }
        if !normal.is_empty() {
            self.method.packet(block, self.pages.normal(), payload).map_err(method_failure)?;
        }
        Ok(())
    }
}

fn method_failure(error: MethodError) -> Failure {
    let status = match error {
        MethodError::Engine(error) => return engine_failure(error),
        MethodError::Refused(_) => MultifdQplStatus::Unavailable,
        MethodError::Read(_) => MultifdQplStatus::Read,
        MethodError::Length { .. } | MethodError::Qpl(_) | MethodError::Stream { .. } => {
            MultifdQplStatus::BadData
        }
        MethodError::Thread(_) | MethodError::Placement(_) => MultifdQplStatus::System,
    };
    Failure::new(status, error)
}

/// A payload in the caller's memory.
struct FromMemory {
    next: *const u8,
    left: usize,
}

impl Payload for FromMemory {
    fn len(&self) -> usize {
        self.left
    }

    unsafe fn fill_parts(&mut self, parts: &[(*mut u8, usize)]) -> io::Result<()> {
        for &(to, count) in parts {
            if count > self.left {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // SAFETY: `left >= count` bytes of the caller's payload lie at
            // `next`, the part is valid for as many, and guest memory or our
            // buffers are never a payload.
            unsafe {
                to.copy_from_nonoverlapping(self.next, count);
                self.next = self.next.add(count);
            }
            self.left -= count;
        }
        Ok(())
    }
}

/// A payload that the caller reads.
struct FromCallback {
    read: unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> c_int,
    opaque: *mut c_void,
    left: usize,
}

impl Payload for FromCallback {
    fn len(&self) -> usize {
        self.left
    }

    unsafe fn fill_parts(&mut self, parts: &[(*mut u8, usize)]) -> io::Result<()> {
        for &(to, count) in parts {
            if count > self.left {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // SAFETY: the part is valid for writing `count` bytes, which is
            // all that the callback may do to it.
            if unsafe { (self.read)(self.opaque, to.cast(), count) } != 0 {
                return Err(io::Error::other("the read callback failed"));
            }
            self.left -= count;
        }
        Ok(())
    }
}

// Offsets are given out as page indices; both ends agree on the page's size.
const _: () = assert!(PAGE_SIZE == 4096);
