//! Why a migration was not received.

use std::io;

use crate::{
    engine::EngineError,
    method::MethodError,
    ram::{BlockError, PlacementError},
    wire::{HelloError, MethodId, PacketError, main_stream::MainError},
};

/// Why a migration was not received. The first error ends it; what was
/// received until then is discarded.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// An error on one channel.
    #[error("channel {channel}: {error}")]
    Channel {
        /// Its id.
        channel: u8,
        /// What happened.
        error: Box<ReceiveError>,
    },
    /// The main connection was lost or lied.
    #[error(transparent)]
    Main(#[from] MainError),
    /// A packet's header is not one.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// A channel's first bytes are not a hello.
    #[error(transparent)]
    Hello(#[from] HelloError),
    /// A payload did not become pages.
    #[error(transparent)]
    Method(#[from] MethodError),
    /// Pages could not be put into guest memory.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// A RAMBlock could not be made.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// The engine cannot run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Reading or writing a connection.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A file of a recording.
    #[error("{path}: {1}", path = .0.display())]
    File(std::path::PathBuf, #[source] io::Error),
    /// Another thread failed first.
    #[error("the migration was given up")]
    Stopped,
    /// Data packets of two methods in one migration, or another one than the
    /// receiver was told.
    #[error("the source compresses with {now}, but {first} was set here or used before")]
    MethodDiffers {
        /// What was expected.
        first: MethodId,
        /// What came.
        now: MethodId,
    },
    /// Pages of a block that the source has not listed.
    #[error("the source sends pages of RAMBlock {0:?}, which is not in its list")]
    UnknownBlock(String),
    /// Pages before the START section's mark.
    #[error("pages arrived before the channel's first SYNC")]
    BeforeFirstMark,
    /// Pages behind the last mark.
    #[error("pages arrived after the main stream's last mark")]
    AfterLastMark,
    /// More SYNCs than marks.
    #[error("channel {channel} sent more SYNCs than the main stream has marks ({marks})")]
    SurplusSync {
        /// Its id.
        channel: u8,
        /// Marks on the main stream.
        marks: u64,
    },
    /// A channel ended where a SYNC was to come.
    #[error(
        "channel {channel} was closed before its SYNC for mark {mark}: the source failed or was cancelled"
    )]
    MissingSync {
        /// Its id.
        channel: u8,
        /// The mark main has reached, counted from 1.
        mark: u64,
    },
    /// A FLUSH record from a source that marks by section.
    #[error("the main stream has a FLUSH record, but its START section had none")]
    UnexpectedFlush,
    /// The caller wants to answer, and the source does not listen.
    #[error("the source has not opened a return path: turn on its capability return-path")]
    NoReturnPath,
    /// A second main connection.
    #[error("a second main connection was opened")]
    SecondMain,
    /// Two channels with one id.
    #[error("two connections say that they are channel {0}")]
    DuplicateChannel(u8),
    /// An id beyond the number of channels.
    #[error(
        "channel {id} connected, but there are only {channels} channels: set --channels as multifd-channels is set at the source"
    )]
    ChannelOutOfRange {
        /// Its id.
        id: u8,
        /// Number of channels.
        channels: usize,
    },
    /// Channel ids with a gap.
    #[error("{found} channels are connected, but channel {missing} is not among them")]
    MissingChannel {
        /// Channels that said hello.
        found: usize,
        /// The smallest id that did not.
        missing: usize,
    },
    /// Channels of different machines.
    #[error("channels or configuration carry different machine UUIDs: two sources are connected")]
    UuidDiffers,
    /// The set of connections did not become complete.
    #[error(
        "not all connections came: {channels} channels and {main} of 1 main connection are here"
    )]
    Incomplete {
        /// Channels that said hello.
        channels: usize,
        /// 0 or 1.
        main: usize,
    },
    /// Engine or placement could not be set up, as a report has told already.
    #[error("{0}")]
    NotStarted(String),
    /// The caller gave up.
    #[error("receiving was cancelled")]
    Cancelled,
}

impl ReceiveError {
    /// Says on which channel it happened.
    pub(super) fn on_channel(self, channel: u8) -> Self {
        match self {
            stopped @ Self::Stopped => stopped,
            error => Self::Channel { channel, error: Box::new(error) },
        }
    }
}
