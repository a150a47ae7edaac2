//! Packet buffers: payload memory that is reused for the whole migration.
//!
//! A buffer is mapped once, with room for the largest payload any source sends
//! plus the padding that page decoders may read behind it. Only the pages a
//! payload really fills are ever resident, and they stay so: the device reads
//! its source from memory that was just written by `read`.

use std::{io, ptr::NonNull, slice};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::EngineError;
use crate::{inflate::INPUT_PADDING, wire::MAX_PAYLOAD};

/// Bytes mapped for one buffer.
const MAPPED: usize = MAX_PAYLOAD + INPUT_PADDING;

/// Private anonymous memory of [`MAPPED`] bytes.
#[derive(Debug)]
struct Mapping(NonNull<u8>);

// SAFETY: the mapping is plain memory owned by this value alone.
unsafe impl Send for Mapping {}
// SAFETY: a shared Mapping gives out no access; see PacketBuffer.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new() -> io::Result<Self> {
        // SAFETY: a fresh anonymous mapping at an address of the kernel's
        // choice replaces nothing.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                MAPPED,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(address.cast()).map(Self).ok_or_else(|| io::Error::other("mmap returned null"))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` with this length, and nothing
        // borrows from it any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), MAPPED) };
    }
}

/// One payload. Returns to its pool when dropped.
#[derive(Debug)]
pub struct PacketBuffer {
    mapping: Option<Mapping>,
    len: usize,
    home: Sender<Mapping>,
}

impl PacketBuffer {
    /// Length of the payload in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the payload has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The payload. At least [`INPUT_PADDING`] readable bytes follow it.
    pub fn payload(&self) -> &[u8] {
        // SAFETY: `len <= MAX_PAYLOAD` bytes are mapped and initialised (fresh
        // anonymous memory is zero), and only `payload_mut`, which borrows
        // mutably, writes them.
        unsafe { slice::from_raw_parts(self.address(), self.len) }
    }

    /// Makes the payload `len` bytes long and gives it out for filling.
    ///
    /// # Panics
    ///
    /// If `len` exceeds [`MAX_PAYLOAD`]: the wire parser refuses such packets.
    pub fn payload_mut(&mut self, len: usize) -> &mut [u8] {
        assert!(len <= MAX_PAYLOAD, "payload of {len} bytes was not refused by the parser");
        self.len = len;
        // SAFETY: as in `payload`; the borrow is exclusive.
        unsafe { slice::from_raw_parts_mut(self.address().cast_mut(), len) }
    }

    /// Keeps the memory mapped for ever: a device may still read it.
    pub fn quarantine(mut self) {
        std::mem::forget(self.mapping.take());
    }

    fn address(&self) -> *const u8 {
        match &self.mapping {
            Some(mapping) => mapping.0.as_ptr(),
            // Only `quarantine` and `drop`, which end the value, take it out.
            None => NonNull::dangling().as_ptr(),
        }
    }
}

impl Drop for PacketBuffer {
    fn drop(&mut self) {
        if let Some(mapping) = self.mapping.take() {
            // A full or closed pool has no use for it; then it is unmapped.
            let _ = self.home.try_send(mapping);
        }
    }
}

/// The buffers of one channel: at most `limit` exist at a time, so that a fast
/// source is held back by its socket and not by our memory.
#[derive(Debug)]
pub struct BufferPool {
    free: Receiver<Mapping>,
    home: Sender<Mapping>,
    left: usize,
}

impl BufferPool {
    /// A pool of at most `limit` buffers, mapped when first needed.
    pub fn new(limit: usize) -> Self {
        let limit = limit.max(1);
        let (home, free) = bounded(limit);
        Self { free, home, left: limit }
    }

    /// Takes a buffer if there is one.
    pub fn try_take(&mut self) -> Result<Option<PacketBuffer>, EngineError> {
        let mapping = match self.free.try_recv() {
            Ok(mapping) => mapping,
            Err(_) if self.left > 0 => {
                self.left -= 1;
                Mapping::new().map_err(EngineError::Memory)?
            }
            Err(_) => return Ok(None),
        };
        Ok(Some(self.wrap(mapping)))
    }

    /// Takes a buffer, waiting for one to come back when all are out. Only for
    /// owners whose packets are finished by other threads.
    pub fn take(&mut self) -> Result<PacketBuffer, EngineError> {
        match self.try_take()? {
            Some(buffer) => Ok(buffer),
            None => {
                let mapping = self.free.recv().map_err(|_| EngineError::Stopped)?;
                Ok(self.wrap(mapping))
            }
        }
    }

    fn wrap(&self, mapping: Mapping) -> PacketBuffer {
        PacketBuffer { mapping: Some(mapping), len: 0, home: self.home.clone() }
    }

    /// Makes up for a buffer that was quarantined and will not come back.
    pub fn replace_lost(&mut self) {
        self.left += 1;
    }
}
