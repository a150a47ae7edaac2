//! The main stream: everything that isn't on a multifd channel.
//!
//! ```text
//!  "QEVM" u32 3 | 07 u32 len machine type (05 subsection)*
//!  08 u16 command u16 len payload                         any number, between sections
//!  01 section header | block list, records, EOS | footer  START of ram, once
//!  02 u32 id         | records, EOS             | footer  PART of ram, any number
//!  03 u32 id         | records, EOS             | footer  END of ram, once
//!  04 section header | opaque body              | footer  one per device
//!  00 | 06 u32 len JSON                                   EOF byte, vmdesc
//!
//!  section header   u32 id, u8 len, idstr, u32 instance, u32 version
//!  footer           7e u32 id
//! ```
//!
//! [`MainParser`] is pushed along by its caller: it looks at the front of
//! what was read so far and says one [`Event`] and how many bytes that took.
//! It never needs to see more than [`MainParser::MAX_RECORD`] bytes at once,
//! and keeps nothing but the list of RAMBlocks and, once they come, the
//! devices' bytes.
//!
//! The states, in the order in which a stream passes them:
//!
//! ```text
//!  Header -> Between -> BlockList -> Records -> Footer -> Between .. -> Devices -> Done
//!               |  ^-- early devices, commands
//! ```

mod cursor;
mod devices;
mod early;
mod error;
mod event;
mod header;
mod ram;
mod vmdesc;

pub use devices::{DeviceState, SectionInfo};
pub use error::MainError;
pub use event::{BlockInfo, Command, Configuration, EarlyDevice, Event, Phase, SectionKind};

use cursor::{Cursor, Stop};
use devices::{DeviceScanner, FOOTER, SectionHeader};
use early::EarlyScan;
use ram::Ram;

// Types of sections.
const EOF: u8 = 0x00;
const START: u8 = 0x01;
const PART: u8 = 0x02;
const END: u8 = 0x03;
const FULL: u8 = 0x04;
const SUBSECTION: u8 = 0x05;
const VMDESCRIPTION: u8 = 0x06;
const CONFIGURATION: u8 = 0x07;
const COMMAND: u8 = 0x08;

/// What a source may ask the receiver to hold. Each limit is far above what
/// real VMs need.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of all RAMBlocks together.
    pub max_ram: u64,
    /// RAMBlocks.
    pub max_blocks: usize,
    /// Bytes of all device sections behind RAM.
    pub max_device_bytes: usize,
    /// Device sections behind RAM.
    pub max_sections: usize,
    /// Bytes of all device sections before RAM is complete.
    pub max_early_bytes: usize,
    /// Bytes of the vmdesc.
    pub max_vmdesc: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_ram: 4 << 40,
            max_blocks: 4096,
            max_device_bytes: 512 << 20,
            max_sections: 1 << 16,
            max_early_bytes: 16 << 20,
            max_vmdesc: 64 << 20,
        }
    }
}

/// Where the parser stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    Between,
    /// In the list of RAMBlocks; so many bytes of RAM are still to be listed.
    BlockList(u64),
    /// Among the records of a RAM section.
    Records(SectionKind),
    Footer(SectionKind),
    EarlyDevice,
    Devices,
    Done,
}

/// Reads the main stream piece by piece.
///
/// ```
/// use multifd_qpl::wire::main_stream::{Event, Limits, MainParser};
///
/// let mut parser = MainParser::new(Limits::default());
/// let stream = b"QEVM\0\0\0\x03\x07\0\0\0\x0apc-q35-9.2\x08\0\x01\0\0";
/// // Not all there yet: nothing happens, ask again with more.
/// assert!(parser.next(&stream[..9]).unwrap().is_none());
/// let (used, event) = parser.next(stream).unwrap().unwrap();
/// assert!(matches!(event, Event::Configuration(c) if c.machine == "pc-q35-9.2"));
/// // The next event begins behind the bytes used.
/// let (_, event) = parser.next(&stream[used..]).unwrap().unwrap();
/// assert!(matches!(event, Event::Command(_)));
/// ```
#[derive(Debug)]
pub struct MainParser {
    limits: Limits,
    state: State,
    ram: Ram,
    ram_id: Option<u32>,
    early: Option<EarlyScan>,
    early_names: Vec<String>,
    early_bytes: usize,
    devices: DeviceScanner,
}

impl MainParser {
    /// The most bytes that one event can need to be seen at once.
    pub const MAX_RECORD: usize = 32 << 10;

    /// A parser before the first byte.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: State::Header,
            ram: Ram::default(),
            ram_id: None,
            early: None,
            early_names: Vec::new(),
            early_bytes: 0,
            devices: DeviceScanner::new(),
        }
    }

    /// Reads the front of `input`. Returns the event and how many bytes it
    /// took, which can be none; or `None` if the event isn't complete, and then
    /// wants to be asked again with the same bytes and more behind them.
    ///
    /// After an error or [`Event::End`] there is nothing to be had any more.
    #[inline]
    pub fn next<'a>(&mut self, input: &'a [u8]) -> Result<Option<(usize, Event<'a>)>, MainError> {
        // Zero pages of sources up to 8.2 come as tens of millions of these.
        if let State::Records(_) = self.state
            && let Some((block, page)) = self.ram.continued_zero(input)
        {
            return Ok(Some((ram::CONTINUED_ZERO_LEN, Event::Zero { block, page })));
        }
        match self.step(input) {
            Ok(found) => Ok(Some(found)),
            Err(Stop::More) => Ok(None),
            Err(Stop::Error(error)) => Err(error),
        }
    }

    /// The stream ended: the connection closed, or fell silent when
    /// [`phase`](Self::phase) was [`Phase::EofSeen`]. `rest` is what
    /// [`next`](Self::next) didn't use. Returns the device state if that is an
    /// acceptable end, one that only lacks its vmdesc; all others mean that
    /// the source failed or was cancelled.
    pub fn finish(&mut self, rest: &[u8]) -> Result<DeviceState, MainError> {
        let place = match self.state {
            State::Devices => {
                let (used, state) = self.devices.take(rest, &self.limits, &self.early_names)?;
                if used < rest.len() {
                    return Err(MainError::DataAfterEnd);
                }
                self.state = State::Done;
                return match state {
                    Some(state) => Ok(state),
                    None => self.devices.finish(&self.limits, &self.early_names),
                };
            }
            State::Done => return Err(MainError::DataAfterEnd),
            State::Header => "in its configuration",
            State::BlockList(_) => "in the list of RAMBlocks",
            State::Records(_) | State::Footer(_) => "among the guest's RAM",
            State::EarlyDevice => "among the early devices",
            State::Between if self.ram.ended() => "behind the guest's RAM",
            State::Between => "between two sections of RAM",
        };
        Err(MainError::Stopped(place))
    }

    /// How far the stream has come.
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Done => Phase::Done,
            State::Devices if self.devices.eof_seen() => Phase::EofSeen,
            State::Devices => Phase::Devices,
            State::Between if self.ram.ended() => Phase::Devices,
            _ if self.ram.started() => Phase::Ram,
            _ => Phase::Setup,
        }
    }

    /// The RAMBlocks listed so far, by index.
    pub fn blocks(&self) -> &[BlockInfo] {
        self.ram.blocks()
    }

    /// Name of a RAMBlock; empty if there is none of that index.
    pub fn block_name(&self, index: usize) -> &str {
        self.blocks().get(index).map_or("", |block| &block.name)
    }

    fn step<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Event<'a>), Stop> {
        let mut cursor = Cursor::new(input, 0);
        let event = match self.state {
            State::Header => {
                let (configuration, ignore_shared) = header::configuration(&mut cursor)?;
                self.ram.set_ignore_shared(ignore_shared);
                self.state = State::Between;
                Event::Configuration(configuration)
            }
            State::Between => return self.between(input, cursor),
            State::BlockList(0) => {
                self.state = State::Records(SectionKind::Start);
                Event::BlocksEnd
            }
            State::BlockList(left) => {
                let block = self.ram.list_block(&mut cursor, left, &self.limits)?;
                self.state = State::BlockList(left - block.used_length);
                Event::Block(block)
            }
            State::Records(section) => match self.ram.record(&mut cursor, section, &self.limits)? {
                ram::Record::BlockList(total) => {
                    self.state = State::BlockList(total);
                    Event::Progress
                }
                ram::Record::Zero { block, page } => Event::Zero { block, page },
                ram::Record::Page { block, page, data } => Event::Page { block, page, data },
                ram::Record::Flush => Event::Flush,
                ram::Record::Eos => {
                    self.state = State::Footer(section);
                    Event::Eos { section }
                }
            },
            State::Footer(section) => {
                footer(&mut cursor, self.ram_id.unwrap_or_default())?;
                self.state = State::Between;
                self.ram.section_over(section);
                Event::RamSectionEnd(section)
            }
            State::EarlyDevice => {
                let Some(early) = &mut self.early else {
                    return Err(MainError::EarlyDevicesSize(0).into());
                };
                let done = early.take(&mut cursor)?;
                if done && let Some(early) = self.early.take() {
                    self.state = State::Between;
                    Event::EarlyDevice(early.into_device())
                } else {
                    Event::Progress
                }
            }
            State::Devices => {
                if input.is_empty() {
                    return Err(Stop::More);
                }
                let (used, state) = self.devices.take(input, &self.limits, &self.early_names)?;
                return Ok(match state {
                    Some(state) => {
                        self.state = State::Done;
                        (used, Event::End(state))
                    }
                    None => (used, Event::Progress),
                });
            }
            State::Done if input.is_empty() => return Err(Stop::More),
            State::Done => return Err(MainError::DataAfterEnd.into()),
        };
        Ok((cursor.at(), event))
    }

    /// Reads the head of a section, or a command.
    fn between<'a>(
        &mut self,
        input: &'a [u8],
        mut cursor: Cursor<'a>,
    ) -> Result<(usize, Event<'a>), Stop> {
        let kind = cursor.u8()?;
        let event = match kind {
            COMMAND => {
                let (command, page_sizes) = header::command(&mut cursor)?;
                if let Some(page_sizes) = page_sizes {
                    self.ram.set_host_page_sizes(page_sizes);
                }
                Event::Command(command)
            }
            START => {
                let start = SectionHeader::parse(input, 0)?;
                header::check_ram(&start)?;
                if self.ram.started() {
                    return Err(MainError::SectionOrder("START").into());
                }
                self.ram_id = Some(start.id);
                self.ram.start();
                self.state = State::Records(SectionKind::Start);
                return Ok((start.end, Event::RamStart));
            }
            PART | END => {
                let id = cursor.u32()?;
                if self.ram_id != Some(id) {
                    return Err(MainError::UnknownSection(id).into());
                }
                let (section, name) = match kind {
                    PART => (SectionKind::Part, "PART"),
                    _ => (SectionKind::End, "END"),
                };
                if self.ram.ended() {
                    return Err(MainError::SectionOrder(name).into());
                }
                self.state = State::Records(section);
                Event::Progress
            }
            FULL | EOF if self.ram.ended() => {
                self.state = State::Devices;
                return self.step(input);
            }
            FULL => {
                let room = self.limits.max_early_bytes - self.early_bytes;
                let early = EarlyScan::begin(input, room, &self.limits)?;
                let used = early.taken();
                self.early_bytes += early.total();
                self.early_names.push(early.idstr().to_owned());
                self.early = Some(early);
                self.state = State::EarlyDevice;
                return Ok((used, Event::Progress));
            }
            EOF => return Err(MainError::EofBeforeRam.into()),
            other => return Err(MainError::SectionType(other).into()),
        };
        Ok((cursor.at(), event))
    }
}

/// Reads a footer and compares its id.
fn footer(cursor: &mut Cursor<'_>, section: u32) -> Result<(), Stop> {
    let kind = cursor.u8()?;
    if kind != FOOTER {
        return Err(MainError::Footer { section, found: format!("type {kind:#04x}") }.into());
    }
    let id = cursor.u32()?;
    if id != section {
        return Err(MainError::Footer { section, found: format!("that of {id}") }.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
