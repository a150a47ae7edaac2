//! Compression methods: what a channel calls with a checked packet and its
//! payload.
//!
//! | method | a packet's payload | decoded |
//! |---|---|---|
//! | [`none`](none::None) | the pages as they are | read straight into place |
//! | [`zlib`](zlib::Zlib) | a piece of one endless zlib stream per channel | on a thread per channel |
//! | [`zstd`](zstd::Zstd) | a piece of one endless zstd frame per channel | on a thread per channel |
//! | [`qpl`](qpl::Qpl) | one raw DEFLATE block per page | by an [`Engine`] |
//!
//! `uadk` and `qatzip` exist on the wire and are refused by name.

pub mod none;
pub mod qpl;
mod stream;
pub mod zlib;
pub mod zstd;

use std::{io, num::NonZeroUsize, sync::Arc, thread};

pub use stream::{PageStream, Streamed};

use crate::{
    engine::{Engine, EngineChoice, EngineError, PacketBuffer, hardware},
    ram::{Placement, PlacementError, RamBlock},
    wire::{MAX_PAYLOAD, MethodId, qpl::QplError},
};

/// Where the payload of the packet at hand comes from. Whatever a method does
/// not take is lost to the next packet, so it takes all of it or fails.
pub trait Payload {
    /// Bytes of the payload.
    fn len(&self) -> usize;

    /// Whether there is no payload.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buffer` with the payload's next bytes.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        // SAFETY: the one part is the whole of a slice that is held mutably.
        unsafe { self.fill_parts(&[(buffer.as_mut_ptr(), buffer.len())]) }
    }

    /// Fills memory that is not a Rust reference, part after part, with the
    /// payload's next bytes.
    ///
    /// # Safety
    ///
    /// Each part is valid for writing that many bytes.
    unsafe fn fill_parts(&mut self, parts: &[(*mut u8, usize)]) -> io::Result<()>;
}

/// One method on one channel.
pub trait Method: Send {
    /// Takes the payload of a packet whose pages (page indices in `block`, in
    /// payload order, distinct, 1 to 128 of them, inside the block) hold data.
    /// May return before the pages are in guest memory.
    fn packet(
        &mut self,
        block: &Arc<RamBlock>,
        pages: &[u32],
        payload: &mut dyn Payload,
    ) -> Result<(), MethodError>;

    /// Returns when every page taken so far is in guest memory and marked
    /// received.
    fn drain(&mut self) -> Result<(), MethodError>;
}

/// What methods need from their surroundings.
#[derive(Debug, Clone)]
pub struct Workshop {
    /// How pages get into guest memory.
    pub placement: Arc<Placement>,
    /// What runs the page jobs of method qpl.
    pub engine: Arc<dyn Engine>,
    /// Packets of one channel that may be in memory at a time.
    pub packets: usize,
}

impl Workshop {
    /// Puts it together. Software engines get `workers` threads, one per core
    /// if that is `None`; `channels`, if known, share out the packet buffers.
    pub fn new(
        placement: Arc<Placement>,
        engine: EngineChoice,
        device: hardware::Options,
        workers: Option<NonZeroUsize>,
        channels: Option<usize>,
    ) -> Self {
        let workers = workers.or_else(|| thread::available_parallelism().ok());
        let workers = workers.unwrap_or(NonZeroUsize::MIN);
        let engine = engine.start(workers, device, &placement);
        // Enough to keep every worker busy from one channel, in bounds: a
        // buffer holds up to half a megabyte.
        let share = 64 / channels.unwrap_or(8).max(1);
        let packets = (workers.get() + 1).min(share).clamp(2, 8);
        Self { placement, engine, packets }
    }
}

/// Reads a whole payload into a packet buffer.
fn read_payload(
    payload: &mut dyn Payload,
    pages: usize,
    take: impl FnOnce() -> Result<PacketBuffer, EngineError>,
) -> Result<PacketBuffer, MethodError> {
    let len = payload.len();
    if len > MAX_PAYLOAD {
        return Err(MethodError::Length { pages, len, expected: MAX_PAYLOAD });
    }
    let mut buffer = take()?;
    payload.fill(buffer.payload_mut(len))?;
    Ok(buffer)
}

/// Sets up `method` for one channel.
pub fn open(method: MethodId, workshop: &Workshop) -> Result<Box<dyn Method>, MethodError> {
    Ok(match method {
        MethodId::None => Box::new(none::None::new(workshop)?),
        MethodId::Zlib => Box::new(Streamed::new(zlib::Zlib::new(), workshop)?),
        MethodId::Zstd => Box::new(Streamed::new(zstd::Zstd::new()?, workshop)?),
        MethodId::Qpl => Box::new(qpl::Qpl::new(workshop)?),
        MethodId::Uadk | MethodId::Qatzip => return Err(MethodError::Refused(method)),
    })
}

/// Why a packet's payload did not become pages.
#[derive(Debug, thiserror::Error)]
pub enum MethodError {
    /// The source uses a method that this crate knows and does not decode.
    #[error(
        "the source compresses with {0}, which is not supported: set multifd-compression to none, zlib, zstd or qpl"
    )]
    Refused(MethodId),
    /// The payload could not be read.
    #[error("reading a packet's payload: {0}")]
    Read(#[from] io::Error),
    /// The payload's length is not what the method asks for.
    #[error(
        "a packet of {pages} pages has a payload of {len} bytes, and the method says {expected}"
    )]
    Length {
        /// Data pages in the packet.
        pages: usize,
        /// Bytes of its payload.
        len: usize,
        /// Bytes it must have.
        expected: usize,
    },
    /// The lengths in a qpl payload contradict each other.
    #[error(transparent)]
    Qpl(#[from] QplError),
    /// The channel's stream is damaged.
    #[error("the channel's {method} stream is damaged: {reason}")]
    Stream {
        /// zlib or zstd.
        method: MethodId,
        /// What is wrong with it.
        reason: String,
    },
    /// The thread that decodes the channel's stream cannot be started or is gone.
    #[error("the channel's decoder thread: {0}")]
    Thread(#[source] io::Error),
    /// The pages could not be put into guest memory.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// The engine gave up.
    #[error(transparent)]
    Engine(#[from] EngineError),
}
