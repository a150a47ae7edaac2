//! Engines run page jobs: each job is one raw DEFLATE block (or one page as it
//! is) that becomes exactly one 4 KiB guest page.
//!
//! A channel opens one [`PageQueue`] at its engine and submits packets as they
//! are parsed. The queue decides where and when the pages are decoded; nothing
//! but [`PageQueue::drain`] promises that they are in guest memory. That shape
//! fits worker threads as well as a device with many jobs in flight.

mod buffer;
mod choose;
pub mod hardware;
mod qpl_software;
mod software;

pub use buffer::{BufferPool, PacketBuffer};
pub use choose::{EngineChoice, UnknownEngine};
pub use qpl_software::{QplDecoder, qpl_software_engine};
pub use software::{CHUNK, MakeDecoder, PageDecoder, SoftwareEngine};

use std::sync::Arc;

use crate::ram::RamBlock;

/// One page of a packet: which guest page, and where its bytes lie in the
/// packet's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageJob {
    /// Index of the 4 KiB page in its RAMBlock.
    pub page: u32,
    /// Byte offset of the block in the payload.
    pub start: u32,
    /// Bytes of the block; 4096 means the page is stored as it is.
    pub len: u32,
}

/// The data pages of one packet, checked: every job lies inside the payload,
/// every page inside the block, no page twice.
#[derive(Debug)]
pub struct PagePacket {
    /// The RAMBlock all pages belong to.
    pub block: Arc<RamBlock>,
    /// The payload; goes back to its pool when dropped.
    pub buffer: PacketBuffer,
    /// The pages in payload order, at most 128.
    pub jobs: Vec<PageJob>,
}

/// Runs page jobs for any number of channels.
pub trait Engine: Send + Sync + std::fmt::Debug {
    /// Opens the queue of one channel.
    fn open(&self) -> Result<Box<dyn PageQueue>, EngineError>;
    /// What happened so far, over all queues.
    fn report(&self) -> EngineReport;
}

/// The jobs of one channel.
pub trait PageQueue: Send {
    /// Takes a buffer for the next packet from `pool`, waiting for one to come
    /// back when all are out. A queue that only finishes packets when its
    /// owner calls it does so meanwhile.
    fn buffer(&mut self, pool: &mut BufferPool) -> Result<PacketBuffer, EngineError> {
        pool.take()
    }
    /// Takes a packet over. Returns before its pages are decoded wherever it
    /// can, and blocks only while there is no room. An error, also of an
    /// earlier packet, ends the migration.
    fn submit(&mut self, packet: PagePacket) -> Result<(), EngineError>;
    /// Returns when every page submitted so far is in guest memory and marked
    /// received.
    fn drain(&mut self) -> Result<(), EngineError>;
}

/// Why an engine gave up.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Memory for a packet or a job could not be had.
    #[error("no memory for page jobs: {0}")]
    Memory(#[source] std::io::Error),
    /// The engine's threads have ended, after an error of their own or at the
    /// end of the migration.
    #[error("the engine has stopped")]
    Stopped,
    /// The block of a page is not what a source can have sent.
    #[error("page {page:#x} of RAMBlock {block:?} is damaged: {reason}")]
    BadPage {
        /// Name of the RAMBlock.
        block: String,
        /// Index of the 4 KiB page in the block.
        page: u32,
        /// What is wrong with the compressed block.
        reason: String,
    },
    /// The page was decoded but could not be put into guest memory.
    #[error(transparent)]
    Placement(#[from] crate::ram::PlacementError),
    /// The device was writing a page of guest memory and did not come to an
    /// end, so the page cannot be made in any other way.
    #[error(
        "the device still holds page {page:#x} of RAMBlock {block:?} and does not answer; migrate again without direct writing"
    )]
    DeviceHoldsPage {
        /// Name of the RAMBlock.
        block: String,
        /// Index of the 4 KiB page in the block.
        page: u32,
    },
    /// The engine asked for is not to be had on this host.
    #[error("engine {engine} cannot run here: {reason}")]
    Unavailable {
        /// Name of the engine as the command line spells it.
        engine: &'static str,
        /// One sentence: what is missing, and what mends it.
        reason: String,
    },
}

/// What an engine did, for the migration's report.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct EngineReport {
    /// The engine that ran: `software`, `qpl-software` or `iaa`.
    pub engine: String,
    /// Why this engine and no other.
    pub reason: String,
    /// Pages decoded by the engine itself, on the device for `iaa`.
    pub pages: u64,
    /// Pages stored as they came because the source could not compress them.
    pub raw: u64,
    /// Pages that the device did not do and software did.
    pub fell_back: u64,
    /// Submissions refused because all work queues were full.
    pub busy: u64,
    /// Submissions repeated.
    pub retried: u64,
    /// Page faults that the device reported.
    pub faults: u64,
    /// Jobs that missed their deadline.
    pub timed_out: u64,
    /// Pages whose checksum did not match the page in memory.
    pub mismatched: u64,
    /// Most jobs in flight at one time.
    pub most_in_flight: u64,
}
