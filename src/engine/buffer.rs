//! Packet buffers: payload memory that is reused for the whole migration.
//!
//! A buffer has room for every payload that real sources send, plus the padding
//! that page decoders may read behind it. Three of them share an area of 2 MiB.
//! The first areas are one huge page each where the host allows it, so that
//! filling them costs one page fault and not hundreds; in the others only the
//! pages a payload really fills are ever resident. They stay so: the device
//! reads its source from memory that was just written by `read`. Payloads beyond
//! that, up to [`MAX_PAYLOAD`], go to a reserve that is mapped with the buffer
//! and takes no memory until then.

use std::{
    io,
    ptr::NonNull,
    slice,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::EngineError;
use crate::{
    inflate::INPUT_PADDING,
    wire::{MAX_PACKET_PAGES, MAX_PAYLOAD, PAGE_SIZE},
};

/// Bytes of an area: one transparent huge page on x86-64.
const AREA: usize = 2 << 20;
/// Buffers in an area.
const PER_AREA: usize = 3;
/// Bytes of a buffer in its area.
const SLOT: usize = AREA / PER_AREA / PAGE_SIZE * PAGE_SIZE;
/// Most areas that are huge pages at a time: what two channels use. A source
/// with a hundred channels makes small packets on each, and must not make us
/// hold a huge page for every three of them.
const HUGE_AREAS: usize = 6;
/// Longest payload that a buffer's part of its area takes.
const SLOT_PAYLOAD: usize = SLOT - INPUT_PADDING;
/// Bytes of a buffer's reserve.
const RESERVE: usize = MAX_PAYLOAD + INPUT_PADDING;

// A packet that no method could compress, with some room for its headers.
const _: () = assert!(SLOT_PAYLOAD >= MAX_PACKET_PAGES * PAGE_SIZE * 5 / 4);

/// Private anonymous memory.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is plain memory; whoever uses its addresses answers for
// how they are shared.
unsafe impl Send for Mapping {}
// SAFETY: a shared Mapping gives out no access; see PacketBuffer.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(len: usize) -> io::Result<Self> {
        // SAFETY: a fresh anonymous mapping at an address of the kernel's
        // choice replaces nothing.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        match NonNull::new(address.cast()) {
            Some(start) => Ok(Self { start, len }),
            None => Err(io::Error::other("mmap returned null")),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` with this length, and nothing
        // borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// The memory of several buffers. Unmapped with the last of them.
#[derive(Debug)]
struct Area {
    mapping: Mapping,
    /// Where the aligned 2 MiB begin.
    offset: usize,
}

impl Area {
    fn new() -> io::Result<Self> {
        let mapping = Mapping::new(2 * AREA)?;
        let address = mapping.start.as_ptr().addr();
        let offset = address.next_multiple_of(AREA) - address;
        let aligned = mapping.start.as_ptr().wrapping_add(offset);
        let few = AREAS.fetch_add(1, Ordering::Relaxed) < HUGE_AREAS;
        let advice = if few { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
        // Only advice: kernels without huge pages refuse it, and that is no harm.
        // SAFETY: the range lies in the mapping made above, and the advice
        // changes no content.
        unsafe { libc::madvise(aligned.cast(), AREA, advice) };
        Ok(Self { mapping, offset })
    }

    fn slot(&self, index: usize) -> *mut u8 {
        debug_assert!(index < PER_AREA);
        self.mapping.start.as_ptr().wrapping_add(self.offset + index * SLOT)
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        AREAS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Areas that are mapped. Only a count: nothing is ordered by it.
static AREAS: AtomicUsize = AtomicUsize::new(0);

/// The memory of one buffer.
#[derive(Debug)]
struct Memory {
    area: Arc<Area>,
    /// Which slot of the area.
    index: usize,
    reserve: Mapping,
}

impl Memory {
    /// Where a payload of this length lies.
    fn address(&self, len: usize) -> *mut u8 {
        if len <= SLOT_PAYLOAD { self.area.slot(self.index) } else { self.reserve.start.as_ptr() }
    }
}

/// One payload. Returns to its pool when dropped.
#[derive(Debug)]
pub struct PacketBuffer {
    memory: Option<Memory>,
    len: usize,
    home: Sender<Memory>,
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

    /// Makes the payload `len` bytes long and gives it out for filling. What it
    /// holds until then is of no meaning if the length changes.
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
        std::mem::forget(self.memory.take());
    }

    fn address(&self) -> *const u8 {
        match &self.memory {
            Some(memory) => memory.address(self.len),
            // Only `quarantine` and `drop`, which end the value, take it out.
            None => NonNull::dangling().as_ptr(),
        }
    }
}

impl Drop for PacketBuffer {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            // A full or closed pool has no use for it; then it is unmapped.
            let _ = self.home.try_send(memory);
        }
    }
}

/// The buffers of one channel: at most `limit` exist at a time, so that a fast
/// source is held back by its socket and not by our memory.
#[derive(Debug)]
pub struct BufferPool {
    free: Receiver<Memory>,
    home: Sender<Memory>,
    left: usize,
}

/// The newest area, and its next slot that was never given out. All pools share
/// it: a hundred channels with a buffer each take 34 areas and not a hundred.
static FRESH: Mutex<(Weak<Area>, usize)> = Mutex::new((Weak::new(), 0));

impl BufferPool {
    /// A pool of at most `limit` buffers, mapped when first needed.
    pub fn new(limit: usize) -> Self {
        let limit = limit.max(1);
        let (home, free) = bounded(limit);
        Self { free, home, left: limit }
    }

    /// Takes a buffer if there is one.
    pub fn try_take(&mut self) -> Result<Option<PacketBuffer>, EngineError> {
        let memory = match self.free.try_recv() {
            Ok(memory) => memory,
            Err(_) if self.left > 0 => {
                self.left -= 1;
                map().map_err(EngineError::Memory)?
            }
            Err(_) => return Ok(None),
        };
        Ok(Some(self.wrap(memory)))
    }

    /// Takes a buffer, waiting for one to come back when all are out. Only for
    /// owners whose packets are finished by other threads.
    pub fn take(&mut self) -> Result<PacketBuffer, EngineError> {
        match self.try_take()? {
            Some(buffer) => Ok(buffer),
            None => {
                let memory = self.free.recv().map_err(|_| EngineError::Stopped)?;
                Ok(self.wrap(memory))
            }
        }
    }

    fn wrap(&self, memory: Memory) -> PacketBuffer {
        PacketBuffer { memory: Some(memory), len: 0, home: self.home.clone() }
    }

    /// Makes up for a buffer that was quarantined and will not come back.
    pub fn replace_lost(&mut self) {
        self.left += 1;
    }
}

/// Memory for another buffer.
fn map() -> io::Result<Memory> {
    let reserve = Mapping::new(RESERVE)?;
    let mut fresh = FRESH.lock().unwrap_or_else(PoisonError::into_inner);
    let (area, index) = match (fresh.0.upgrade(), fresh.1) {
        (Some(area), index) if index < PER_AREA => (area, index),
        _ => (Arc::new(Area::new()?), 0),
    };
    *fresh = (Arc::downgrade(&area), index + 1);
    Ok(Memory { area, index, reserve })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_apart_padded_and_come_back() {
        let mut pool = BufferPool::new(5);
        let mut buffers: Vec<PacketBuffer> = (0..5).map(|_| pool.take().unwrap()).collect();
        assert!(pool.try_take().unwrap().is_none());
        for (byte, buffer) in buffers.iter_mut().enumerate() {
            buffer.payload_mut(SLOT_PAYLOAD).fill(byte as u8);
        }
        for (byte, buffer) in buffers.iter().enumerate() {
            assert!(buffer.payload().iter().all(|&b| b == byte as u8));
            // SAFETY: INPUT_PADDING bytes are readable behind the payload.
            let padding = unsafe {
                slice::from_raw_parts(buffer.payload().as_ptr_range().end, INPUT_PADDING)
            };
            assert!(padding.iter().all(|&b| b == 0), "padding belongs to another payload");
        }
        let first = buffers[0].payload().as_ptr();
        drop(buffers.remove(0));
        let mut again = pool.take().unwrap();
        assert_eq!(again.payload_mut(1).as_ptr(), first);
    }

    #[test]
    fn the_longest_payload_fits() {
        let mut pool = BufferPool::new(1);
        let mut buffer = pool.take().unwrap();
        buffer.payload_mut(MAX_PAYLOAD).fill(7);
        assert!(buffer.payload().iter().all(|&b| b == 7));
        assert_eq!(buffer.payload_mut(SLOT_PAYLOAD).len(), SLOT_PAYLOAD);
    }
}
