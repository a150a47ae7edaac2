//! Multifd packets: a header of fixed size, then a payload if the packet has
//! pages with data.
//!
//! ```text
//!    0  u32 magic           12  u32 pages_alloc     24  u64 packet_num
//!    4  u32 version         16  u32 normal_pages    32  u32 zero_pages
//!    8  u32 flags           20  u32 payload length  36  28 reserved bytes
//!   64  256 bytes RAMBlock name, NUL padded
//!  320  128 x u64 byte offsets: normal_pages with data, then zero_pages
//! ```
//!
//! Sources up to 8.2 leave the field at 32 zero, so one parser serves both
//! generations. Several fields hold leftovers of earlier packets in some
//! sources and are believed only where they mean something:
//!
//! * the payload length only if there are pages with data (up to 8.1),
//! * the RAMBlock name only if there are pages at all (up to 9.1),
//! * offsets only as far as the counts go (up to 9.1),
//! * the method only if there are pages: bare SYNC packets carry none,
//! * the packet number never: up to 8.2 it repeats.

use thiserror::Error;
use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::hello::VERSION;
use super::{MAX_PACKET_PAGES, MAX_PAYLOAD, MULTIFD_MAGIC, MethodId, PAGE_SIZE, PageList};

const FLAG_SYNC: u32 = 0x01;
const FLAGS_METHOD: u32 = 0x3e;
const FLAG_DEVICE_STATE: u32 = 0x40;

const NAME_LEN: usize = 256;

/// How a RAM packet's header lies in memory and on the wire.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    magic: [u8; 4],
    version: U32,
    flags: U32,
    pages_alloc: U32,
    normal_pages: U32,
    payload_len: U32,
    packet_num: U64,
    zero_pages: U32,
    reserved: [u8; 28],
    block: [u8; NAME_LEN],
    offsets: [U64; MAX_PACKET_PAGES],
}

const HEADER_LEN: usize = size_of::<Layout>();

/// What kind of header a packet has; the first 12 bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketKind {
    /// Guest RAM: [`Packet::HEADER_LEN`] bytes.
    Ram,
    /// State of an assigned device, sources from 10.0: a header of
    /// [`PacketKind::DEVICE_STATE_HEADER_LEN`] bytes.
    DeviceState,
}

impl PacketKind {
    /// Bytes that [`PacketKind::peek`] wants to see.
    pub const PEEK_LEN: usize = 12;
    /// Bytes of a device-state packet's header.
    pub const DEVICE_STATE_HEADER_LEN: usize = 276;

    /// Tells the kind from the front of a packet. Read this much first: waiting
    /// for a whole RAM header would wait for ever behind a device-state packet.
    pub fn peek(front: &[u8; Self::PEEK_LEN]) -> Result<Self, PacketError> {
        let [magic, version, flags]: [[u8; 4]; 3] = zerocopy::transmute!(*front);
        let flags = check_front(magic, u32::from_be_bytes(version), u32::from_be_bytes(flags))?;
        Ok(if flags & FLAG_DEVICE_STATE != 0 { Self::DeviceState } else { Self::Ram })
    }
}

/// What the two kinds of header have in common.
fn check_front(magic: [u8; 4], version: u32, flags: u32) -> Result<u32, PacketError> {
    if magic != MULTIFD_MAGIC {
        return Err(PacketError::Magic(u32::from_be_bytes(magic)));
    }
    if version != VERSION {
        return Err(PacketError::Version(version));
    }
    if flags & !(FLAG_SYNC | FLAGS_METHOD | FLAG_DEVICE_STATE) != 0 {
        return Err(PacketError::UnknownFlags(flags));
    }
    Ok(flags)
}

/// A RAM packet's header, checked. Borrows the bytes it was read from.
#[derive(Clone, Copy)]
pub struct Packet<'a> {
    layout: &'a Layout,
    method: MethodId,
    sync: bool,
    normal: u8,
    zero: u8,
    payload_len: u32,
}

impl<'a> Packet<'a> {
    /// Bytes of a RAM packet's header, 1344, however many pages it lists.
    pub const HEADER_LEN: usize = HEADER_LEN;

    /// Reads and checks a header, all but the offsets and the name, which mean
    /// something only together with a RAMBlock.
    pub fn parse(header: &'a [u8; HEADER_LEN]) -> Result<Self, PacketError> {
        let layout: &Layout = zerocopy::transmute_ref!(header);
        let flags = check_front(layout.magic, layout.version.get(), layout.flags.get())?;
        if flags & FLAG_DEVICE_STATE != 0 {
            return Err(PacketError::DeviceState);
        }
        let method = MethodId::from_flag(flags & FLAGS_METHOD)
            .ok_or(PacketError::SeveralMethods { flags })?;

        let room = u64::from(layout.pages_alloc.get());
        let normal = u64::from(layout.normal_pages.get());
        let zero = u64::from(layout.zero_pages.get());
        if room > MAX_PACKET_PAGES as u64 || normal + zero > room {
            return Err(PacketError::Counts { room, normal, zero });
        }

        let len = layout.payload_len.get();
        let payload_len = if normal > 0 {
            let normal = normal as usize;
            let fits = match method {
                MethodId::None => len as usize == normal * PAGE_SIZE,
                // A length per page comes first, and no block is empty.
                MethodId::Qpl | MethodId::Uadk => {
                    (normal * 5..=normal * (4 + PAGE_SIZE)).contains(&(len as usize))
                }
                MethodId::Zlib | MethodId::Zstd | MethodId::Qatzip => {
                    (1..=MAX_PAYLOAD).contains(&(len as usize))
                }
            };
            if !fits {
                return Err(PacketError::PayloadLen { len, normal, method });
            }
            len
        } else if zero > 0 && len != 0 {
            return Err(PacketError::PayloadOfZeroPages { len });
        } else {
            0
        };

        Ok(Self {
            layout,
            method,
            sync: flags & FLAG_SYNC != 0,
            // At most 128 each, see above.
            normal: normal as u8,
            zero: zero as u8,
            payload_len,
        })
    }

    /// The channel's epoch ends behind this packet. Pages of the same packet
    /// still belong to it (sources up to 8.2 send both in one).
    pub fn is_sync(&self) -> bool {
        self.sync
    }

    /// The compression method. Says nothing unless the packet has pages.
    pub fn method(&self) -> MethodId {
        self.method
    }

    /// The packet's number, for messages only: up to 8.2 numbers repeat.
    pub fn packet_num(&self) -> u64 {
        self.layout.packet_num.get()
    }

    /// Pages that come as data.
    pub fn normal_pages(&self) -> usize {
        self.normal.into()
    }

    /// Pages that are zero.
    pub fn zero_pages(&self) -> usize {
        self.zero.into()
    }

    /// Payload bytes that follow the header; 0 without data pages, whatever
    /// the header claims. Never more than [`MAX_PAYLOAD`].
    pub fn payload_len(&self) -> usize {
        self.payload_len as usize
    }

    /// Name of the RAMBlock all pages are in. Ask only if there are pages:
    /// other packets carry leftovers here.
    pub fn block_name(&self) -> Result<&'a str, PacketError> {
        let field = &self.layout.block;
        let end = field.iter().position(|&b| b == 0).ok_or(PacketError::BlockName)?;
        match std::str::from_utf8(&field[..end]) {
            Ok(name) if !name.is_empty() => Ok(name),
            _ => Err(PacketError::BlockName),
        }
    }

    /// Fills `list` with the packet's pages: every one aligned, inside the
    /// RAMBlock's `used_length` bytes, and listed once.
    pub fn read_pages(&self, used_length: u64, list: &mut PageList) -> Result<(), PacketError> {
        let total = self.normal_pages() + self.zero_pages();
        list.fill(&self.layout.offsets[..total], self.normal_pages(), used_length)
    }
}

impl std::fmt::Debug for Packet<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packet")
            .field("sync", &self.sync)
            .field("method", &self.method)
            .field("packet_num", &self.packet_num())
            .field("normal_pages", &self.normal)
            .field("zero_pages", &self.zero)
            .field("payload_len", &self.payload_len)
            .finish_non_exhaustive()
    }
}

/// Which sources a written packet looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// Up to 8.2: no zero part.
    UpTo8_2,
    /// From 9.0 on, with the details of 9.2 and later.
    From9_0,
}

/// A packet header to be written, by the generator of recordings and by tests.
#[derive(Debug, Clone, Copy)]
pub struct PacketHeader<'a> {
    /// Which sources to look like.
    pub generation: Generation,
    /// Ends the epoch.
    pub sync: bool,
    /// Compression of the payload.
    pub method: MethodId,
    /// The packet's number.
    pub packet_num: u64,
    /// RAMBlock the pages are in, at most 255 bytes.
    pub block: &'a str,
    /// Indices of pages with data.
    pub normal: &'a [u32],
    /// Indices of zero pages; none in the old generation. With `normal` at
    /// most 128.
    pub zero: &'a [u32],
    /// Payload bytes that will follow.
    pub payload_len: u32,
}

impl PacketHeader<'_> {
    /// A packet that ends the epoch and does nothing else.
    pub const fn sync(generation: Generation, packet_num: u64) -> Self {
        Self {
            generation,
            sync: true,
            method: MethodId::None,
            packet_num,
            block: "",
            normal: &[],
            zero: &[],
            payload_len: 0,
        }
    }

    /// The header's bytes.
    ///
    /// # Panics
    ///
    /// If the pages or the name don't fit, or the old generation is given zero
    /// pages: these are mistakes of the caller, not of any input.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let old = self.generation == Generation::UpTo8_2;
        let total = self.normal.len() + self.zero.len();
        assert!(total <= MAX_PACKET_PAGES, "{total} pages do not fit a packet");
        assert!(self.block.len() < NAME_LEN, "RAMBlock name {:?} is too long", self.block);
        assert!(!old || self.zero.is_empty(), "sources up to 8.2 list no zero pages in packets");

        let room = if old || total > 0 { MAX_PACKET_PAGES as u32 } else { 0 };
        let mut block = [0; NAME_LEN];
        block[..self.block.len()].copy_from_slice(self.block.as_bytes());
        let mut offsets = [U64::ZERO; MAX_PACKET_PAGES];
        for (offset, &page) in offsets.iter_mut().zip(self.normal.iter().chain(self.zero)) {
            offset.set(u64::from(page) * PAGE_SIZE as u64);
        }
        let flags = self.method.flag() | if self.sync { FLAG_SYNC } else { 0 };
        zerocopy::transmute!(Layout {
            magic: MULTIFD_MAGIC,
            version: U32::new(VERSION),
            flags: U32::new(flags),
            pages_alloc: U32::new(room),
            normal_pages: U32::new(self.normal.len() as u32),
            payload_len: U32::new(self.payload_len),
            packet_num: U64::new(self.packet_num),
            zero_pages: U32::new(self.zero.len() as u32),
            reserved: [0; 28],
            block,
            offsets,
        })
    }
}

/// What is wrong with a packet. A channel cannot find its way back after any
/// of these, so each ends the migration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PacketError {
    /// The bytes here are not a packet.
    #[error("a packet begins with {0:#010x} instead of 0x11223344: the channel is out of step")]
    Magic(u32),
    /// A packet format that no released source writes.
    #[error("a packet has version {0}, only version 1 is known")]
    Version(u32),
    /// Flags of a source newer than this receiver.
    #[error("a packet has flags {0:#x}, of which some are not known")]
    UnknownFlags(u32),
    /// Methods are one bit each and exclude each other.
    #[error("a packet names more than one compression method (flags {flags:#x})")]
    SeveralMethods {
        /// All flags of the packet.
        flags: u32,
    },
    /// An assigned (VFIO) device sends its state over multifd channels.
    #[error(
        "a packet carries device state: assigned (VFIO) devices cannot be received; \
         unplug them or turn off x-migration-multifd-transfer on the source"
    )]
    DeviceState,
    /// More pages than a packet holds.
    #[error(
        "a packet claims {normal} data pages and {zero} zero pages with room for {room}; \
         128 is the most"
    )]
    Counts {
        /// Pages the source says the packet can list.
        room: u64,
        /// Data pages.
        normal: u64,
        /// Zero pages.
        zero: u64,
    },
    /// A payload that no source makes of that many pages.
    #[error("a packet with {normal} data pages and method {method} claims {len} payload bytes")]
    PayloadLen {
        /// Claimed bytes.
        len: u32,
        /// Data pages.
        normal: usize,
        /// The packet's method.
        method: MethodId,
    },
    /// Zero pages have no payload.
    #[error("a packet with nothing but zero pages claims {len} payload bytes")]
    PayloadOfZeroPages {
        /// Claimed bytes.
        len: u32,
    },
    /// The name is empty, not terminated, or not text.
    #[error("a packet's RAMBlock name is empty or damaged")]
    BlockName,
    /// The offset of a page is inside another page.
    #[error("a packet lists offset {offset:#x}, which is not the start of a page")]
    Misaligned {
        /// The offset in the RAMBlock.
        offset: u64,
    },
    /// The page is not in the RAMBlock.
    #[error("a packet lists a page at {offset:#x} of a RAMBlock of {used_length:#x} bytes")]
    OutOfBlock {
        /// The offset in the RAMBlock.
        offset: u64,
        /// Bytes of the RAMBlock.
        used_length: u64,
    },
    /// No source lists a page twice in one packet.
    #[error("a packet lists the page at {offset:#x} twice")]
    Repeated {
        /// The offset in the RAMBlock.
        offset: u64,
    },
}

#[cfg(test)]
#[path = "packet_tests.rs"]
mod tests;
