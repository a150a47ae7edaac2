//! Bytes to values and back: everything QEMU's multifd live migration puts on
//! the wire, for sources 7.2 to 11.x with x86-64 guests.
//!
//! Nothing here does I/O, blocks, or remembers guest memory. All input is
//! taken to be hostile: no input panics, and no length from the wire leads to
//! an allocation before it was compared with a named limit.
//!
//! # The whole story
//!
//! A source opens 1+N connections to one address. The first four bytes of each
//! say which it is: [`MAIN_MAGIC`] or [`MULTIFD_MAGIC`].
//!
//! ```text
//!  main       "QEVM" 3 | configuration | COMMAND* | START ram | PART ram* | END ram |
//!             FULL device sections | EOF byte | vmdesc
//!  channel i  hello (64 bytes) | packet* | end of connection
//!
//!  ram section   block list (START only), then records: FLUSH, ZERO, PAGE; EOS; footer
//!  packet        header (1344 bytes) | payload, only with data pages
//! ```
//!
//! RAM travels on the channels, all at once and in any order. What orders it
//! are *marks*: a FLUSH record on main (or each EOS, up to 8.0) pairs with one
//! SYNC packet on every channel. Between two marks, an epoch, a source sends
//! each page once.
//!
//! ```text
//!  main     START ..FLUSH EOS      PART ..FLUSH EOS           END ..FLUSH EOS  devices
//!                   |                     |                         |
//!  ch 0     hello SYNC   data data zero SYNC   zero data ..       SYNC
//!  ch 1     hello SYNC   zero data      SYNC   data zero ..       SYNC
//!                      `---- epoch 1 ----'   `----- epoch 2 -----'
//! ```
//!
//! If the source opened the return path, main is used both ways: answers to
//! PING, and the receiver's verdict at the end.
//!
//! # What is where
//!
//! * [`Hello`]: the first bytes of a channel.
//! * [`Packet`], [`PageList`]: a packet's header and its pages;
//!   [`PacketHeader`] writes one. [`MethodId`] names the compression.
//! * [`qpl`]: the lengths in front of a qpl packet's blocks.
//! * [`main_stream`]: the main stream as a series of events.
//! * [`ReturnMessage`]: what goes back to the source.
//! * [`received_bitmap`]: received pages as the source wants to be told.
//!
//! All integers are big-endian unless said otherwise.

mod hello;
pub mod main_stream;
mod method_id;
mod packet;
mod page_list;
pub mod qpl;
pub mod received_bitmap;
mod return_path;

pub use hello::{Hello, HelloError};
pub use method_id::{MethodId, UnknownMethod};
pub use packet::{Generation, Packet, PacketError, PacketHeader, PacketKind};
pub use page_list::{MAX_BLOCK_LEN, PageList};
pub use return_path::{MAX_BODY as MAX_RETURN_BODY, ReturnMessage, ReturnPathError};

/// Bytes of one guest page on the wire, whatever the host's page size.
pub const PAGE_SIZE: usize = 4096;
/// Most pages in one multifd packet.
pub const MAX_PACKET_PAGES: usize = 128;
/// Most payload bytes accepted in one multifd packet; real sources stay below
/// 526,336.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// First bytes of every multifd channel and of every packet.
pub const MULTIFD_MAGIC: [u8; 4] = [0x11, 0x22, 0x33, 0x44];
/// First bytes of the main stream: "QEVM".
pub const MAIN_MAGIC: [u8; 4] = *b"QEVM";
