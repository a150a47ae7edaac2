//! What can be wrong with a main stream.

use thiserror::Error;

/// Why the main stream can't be received. Nothing after such an error makes
/// sense, so each ends the migration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MainError {
    /// Something else than a migration source is calling.
    #[error("the main stream begins with {0:#010x}: this is not a QEMU migration")]
    Magic(u32),
    /// A stream format that current sources don't write.
    #[error("the main stream has version {0}, only version 3 is known")]
    Version(u32),
    /// Machine types up to 2.3, or send-configuration=off.
    #[error("the source sends no configuration: leave send-configuration on")]
    NoConfiguration,
    /// A name that is empty or not printable ASCII.
    #[error("a name in the main stream is empty or not text: \"{bytes}\"")]
    Text {
        /// The bytes, escaped.
        bytes: String,
    },
    /// A name is longer than any source's.
    #[error("the machine type's name has {0} bytes, more than any machine's")]
    MachineName(u32),
    /// A part of the configuration whose length isn't known.
    #[error("the configuration holds {0:?} version {1}, which cannot be read")]
    ConfigurationPart(String, u32),
    /// More capabilities than sources have.
    #[error("the source announces {0} capabilities, more than there are")]
    CapabilityCount(u32),
    /// A capability that changes the stream in ways not known here.
    #[error("the source uses the capability {0:?}, which cannot be received: turn it off")]
    Capability(String),
    /// Pages of a size that x86-64 guests don't have.
    #[error("the guest has pages of 2^{0} bytes, only 4096-byte pages are received")]
    PageBits(u32),

    /// No such section exists.
    #[error("a section has type {0:#04x}, which is not known: the main stream is out of step")]
    SectionType(u8),
    /// A section of something that isn't RAM among the RAM sections.
    #[error("the source sends a section of {idstr:?}, which cannot be received: {hint}")]
    Section {
        /// Whose section.
        idstr: String,
        /// What the user may do.
        hint: &'static str,
    },
    /// A RAM section of a format that isn't known.
    #[error("the RAM section is instance {instance} version {version}; 0 and 4 are known")]
    RamVersion {
        /// Instance of the section.
        instance: u32,
        /// Version of its format.
        version: u32,
    },
    /// START, PART and END of RAM come in this order; START and END once.
    #[error("a {0} section of RAM comes at the wrong time")]
    SectionOrder(&'static str),
    /// A PART or END section of something that wasn't started.
    #[error("a section continues section {0}, which was not started")]
    UnknownSection(u32),
    /// The section wasn't cut where the source cut it.
    #[error("section {section} ends with {found} instead of its footer")]
    Footer {
        /// Id of the section.
        section: u32,
        /// What is in the footer's place.
        found: String,
    },
    /// The EOF byte is in the wrong place.
    #[error("the main stream ends before the guest's RAM was complete")]
    EofBeforeRam,

    /// No such command exists.
    #[error("command {0} is not known")]
    UnknownCommand(u16),
    /// A command with a payload that isn't its own.
    #[error("command {command} has {len} bytes of payload, which is not its length")]
    CommandLength {
        /// Number of the command.
        command: u16,
        /// Bytes of its payload.
        len: u16,
    },
    /// A command of postcopy or COLO.
    #[error("the source sends the command {name}: {feature} cannot be received")]
    Command {
        /// Name of the command.
        name: &'static str,
        /// What it belongs to.
        feature: &'static str,
    },

    /// The START section must begin with the list of RAMBlocks.
    #[error("the START section of RAM does not begin with the list of RAMBlocks")]
    NoBlockList,
    /// Only the START section has a list, and only one.
    #[error("the list of RAMBlocks comes a second time")]
    BlockListAgain,
    /// More RAM than the receiver was told to take.
    #[error("the source's RAM has {total} bytes in all, the limit is {limit}")]
    TooMuchRam {
        /// Bytes announced.
        total: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// More RAMBlocks than any VM has.
    #[error("the source has more than {0} RAMBlocks")]
    TooManyBlocks(usize),
    /// Length zero, no whole pages, or more than was announced for all.
    #[error("RAMBlock {name:?} claims {len} bytes, where {left} are left of the total")]
    BlockLength {
        /// Name of the RAMBlock.
        name: String,
        /// Claimed bytes.
        len: u64,
        /// Bytes not yet claimed by other RAMBlocks.
        left: u64,
    },
    /// Two RAMBlocks of one name could not be told apart.
    #[error("RAMBlock {0:?} is listed twice")]
    BlockAgain(String),
    /// Not a power of two, or not one of the sizes announced before.
    #[error("RAMBlock {name:?} claims host pages of {size} bytes")]
    HostPageSize {
        /// Name of the RAMBlock.
        name: String,
        /// Claimed bytes.
        size: u64,
    },

    /// A record with flags that don't belong together.
    #[error("a RAM record begins with {0:#x}, which is not known")]
    Record(u64),
    /// A record of a feature that excludes multifd, or of another transport.
    #[error("a RAM record is of kind {0}, which cannot be received together with multifd")]
    RefusedRecord(&'static str),
    /// A record names its RAMBlock as "the same as before" when there was none.
    #[error("a RAM record continues a RAMBlock, but none was named before")]
    NothingToContinue,
    /// A record names a RAMBlock that isn't listed.
    #[error("a RAM record names RAMBlock {0:?}, which is not listed")]
    UnknownBlock(String),
    /// The page isn't in the RAMBlock.
    #[error("a RAM record names the page at {offset:#x} of {name:?}, which has {len:#x} bytes")]
    OutOfBlock {
        /// Name of the RAMBlock.
        name: String,
        /// Offset in it.
        offset: u64,
        /// Bytes of the RAMBlock.
        len: u64,
    },
    /// Zero pages are filled with zero, nothing else.
    #[error("a zero page is to be filled with {0:#04x}")]
    Fill(u8),

    /// The state of a virtio-mem device contradicts itself.
    #[error("the early state of {0:?} makes no sense")]
    EarlyDevice(String),
    /// More early state than any VM has.
    #[error("devices send more than {0} bytes ahead of the RAM")]
    EarlyDevicesSize(usize),
    /// What follows the END section of RAM is no device section.
    #[error("what follows the guest's RAM begins with {0:#04x} and is not a device section")]
    NoDeviceSection(u8),
    /// More device state than the receiver was told to take.
    #[error("the devices' state is larger than {0} bytes")]
    DevicesSize(usize),
    /// More device sections than any VM has.
    #[error("the source has more than {0} device sections")]
    TooManySections(usize),

    /// The connection closed, or fell silent, before the stream was complete.
    #[error("the main stream stops {0}: the source failed or was cancelled")]
    Stopped(&'static str),
    /// Bytes behind the end of the stream.
    #[error("the main stream goes on behind its end")]
    DataAfterEnd,
}
