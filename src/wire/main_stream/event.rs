//! What the main stream says, one thing at a time.

use super::DeviceState;
use crate::wire::PAGE_SIZE;

/// One thing the main stream said. Made without allocation for everything that
/// can come millions of times.
#[derive(Debug)]
pub enum Event<'a> {
    /// The stream's beginning: who is migrating.
    Configuration(Configuration),
    /// A command to the receiver; commands that a precopy receiver must refuse
    /// are errors instead.
    Command(Command),
    /// The START section of RAM begins.
    RamStart,
    /// One RAMBlock of the list in the START section. Its index, from 0 on, is
    /// how later events name it.
    Block(BlockInfo),
    /// The list of RAMBlocks is complete.
    BlocksEnd,
    /// A page that is zero now.
    Zero {
        /// Index of the RAMBlock.
        block: usize,
        /// Index of the 4 KiB page in it, checked.
        page: u32,
    },
    /// A page with its bytes. Multifd sources don't send any on main.
    Page {
        /// Index of the RAMBlock.
        block: usize,
        /// Index of the 4 KiB page in it, checked.
        page: u32,
        /// The page's new content.
        data: &'a [u8; PAGE_SIZE],
    },
    /// A FLUSH record: the mark in per-round mode.
    Flush,
    /// The end of a RAM section's records: the mark in per-section mode.
    Eos {
        /// Which section.
        section: SectionKind,
    },
    /// A RAM section is over, its footer was right.
    RamSectionEnd(SectionKind),
    /// The state of a device that must be known before its RAM; comes before
    /// or after the START section.
    EarlyDevice(EarlyDevice),
    /// Bytes were taken in, but there is nothing to say yet.
    Progress,
    /// Everything has arrived on this connection.
    End(DeviceState),
}

/// The header of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// Machine type of the source, such as `pc-q35-9.2`.
    pub machine: String,
    /// The few capabilities that a source announces here.
    pub capabilities: Vec<String>,
    /// The VM's UUID, if the source wants it compared.
    pub uuid: Option<[u8; 16]>,
}

/// Commands that make sense for precopy with multifd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// From now on the source reads answers on main, and waits for a verdict.
    OpenReturnPath,
    /// To be answered by PONG with the same number.
    Ping(u32),
    /// The source could switch to postcopy; it hasn't.
    PostcopyAdvise,
    /// The VM has stopped, the END section follows.
    SwitchoverStart,
}

/// A RAMBlock as the source announces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockInfo {
    /// The name, such as `pc.ram`.
    pub name: String,
    /// Bytes, a multiple of 4096.
    pub used_length: u64,
    /// Host page size, told only under postcopy and only for huge pages.
    pub host_page_size: Option<u64>,
    /// Guest physical address, told only under `x-ignore-shared`.
    pub guest_address: Option<u64>,
}

impl BlockInfo {
    /// Number of 4 KiB pages.
    pub fn pages(&self) -> u64 {
        self.used_length / PAGE_SIZE as u64
    }
}

/// The three kinds of RAM section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectionKind {
    /// The first one, with the list of RAMBlocks.
    Start,
    /// Any number of times.
    Part,
    /// The last one; the VM is stopped.
    End,
}

/// A device section outside the block of device state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EarlyDevice {
    /// Name of the device.
    pub idstr: String,
    /// The whole section, from type byte to footer.
    pub bytes: Vec<u8>,
}

/// How far the stream has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Before the START section is complete.
    Setup,
    /// RAM is coming.
    Ram,
    /// The END section is over, devices are coming.
    Devices,
    /// What looks like the last byte of the devices has come. A vmdesc follows
    /// unless the machine suppresses it: if nothing comes for a while, call
    /// [`finish`](super::MainParser::finish).
    EofSeen,
    /// [`Event::End`] was returned.
    Done,
}
