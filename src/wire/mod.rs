//! Bytes to values and back; see docs/architecture.md.

/// Bytes of one guest page on the wire, whatever the host's page size.
pub const PAGE_SIZE: usize = 4096;
/// Most pages in one multifd packet.
pub const MAX_PACKET_PAGES: usize = 128;
/// Most payload bytes accepted in one multifd packet; real sources stay below
/// 526,336.
pub const MAX_PAYLOAD: usize = 1 << 20;
