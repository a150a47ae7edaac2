//! The main stream: blocks, marks, legacy pages, device state, return path.

use std::{io, sync::Arc, time::Duration};

use super::{
    ReceiveError,
    connection::{Connection, Filled, Kind},
    session::Counters,
    shared::{Blocks, Shared},
};
use crate::{
    ram::{InPlace, Landing, RamBlock, Staging, zero_pages},
    wire::{
        MAX_PACKET_PAGES, MethodId, PAGE_SIZE, ReturnMessage,
        main_stream::{
            BlockInfo, Command, Configuration, DeviceState, EarlyDevice, Event, Limits, MainParser,
            Phase, SectionKind,
        },
    },
};

/// Longest item of the main stream that has to be seen whole: one page record,
/// one name, one command. Device state is taken in pieces.
pub const LONGEST_ITEM: usize = 1 << 20;

/// How long a source may take between its EOF byte and the description that
/// usually follows, before it counts as one that sends none.
pub const VMDESC_GRACE: Duration = Duration::from_secs(2);

/// When to tell the source that it may switch over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SwitchoverAck {
    /// Once, if the START section shows a source that knows the message.
    #[default]
    Auto,
    /// Once, always (for a source from 8.1 that runs an old machine type).
    Always,
    /// Never.
    Never,
}

/// What main needs from its surroundings.
pub struct Main<'a> {
    pub shared: &'a Shared<'a>,
    pub connection: &'a mut Connection,
    /// Set when the source opens the return path.
    pub return_path: &'a mut bool,
    pub limits: Limits,
    pub switchover_ack: SwitchoverAck,
    /// The return path must be open, or the migration is of no use.
    pub need_return_path: bool,
    /// Makes the RAMBlocks.
    pub make_block: &'a mut dyn FnMut(&BlockInfo) -> Result<Arc<RamBlock>, ReceiveError>,
    /// Finds out how many channels there are, at the first mark.
    pub settle: &'a mut dyn FnMut() -> Result<usize, ReceiveError>,
}

/// What the main stream came to.
#[derive(Debug)]
pub struct Arrived {
    pub machine: Option<Configuration>,
    pub early_devices: Vec<EarlyDevice>,
    pub devices: DeviceState,
    pub marks: u64,
}

/// How SYNCs and marks pair; the START section shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SyncMode {
    Unknown,
    /// Sources up to 8.0, and old machine types: every EOS is a mark.
    PerSection,
    /// Every FLUSH is a mark.
    PerRound,
}

impl Main<'_> {
    /// Reads the main stream to its end. When this returns, every page of the
    /// migration is in guest memory.
    pub fn run(self) -> Result<Arrived, ReceiveError> {
        let mut parser = MainParser::new(self.limits.clone());
        let mut reader = Reader {
            main: self,
            mode: SyncMode::Unknown,
            marks: 0,
            open_epoch: false,
            channels: 0,
            machine: None,
            early: Vec::new(),
            infos: Vec::new(),
            zero: ZeroBatch::default(),
            pages: PageBatch::default(),
        };
        let devices = reader.run(&mut parser)?;
        let Reader { machine, early: early_devices, marks, .. } = reader;
        Ok(Arrived { machine, early_devices, devices, marks })
    }
}

struct Reader<'a> {
    main: Main<'a>,
    mode: SyncMode,
    marks: u64,
    /// Page records came since the last mark.
    open_epoch: bool,
    channels: usize,
    machine: Option<Configuration>,
    early: Vec<EarlyDevice>,
    infos: Vec<BlockInfo>,
    zero: ZeroBatch,
    pages: PageBatch,
}

/// Zero records that wait to be dealt with together.
#[derive(Default)]
struct ZeroBatch {
    block: usize,
    pages: Vec<u32>,
}

/// Page records (of a migration without channels) that wait to be placed
/// together: ascending pages of one block.
#[derive(Default)]
struct PageBatch {
    block: usize,
    pages: Vec<u32>,
    bytes: Vec<u8>,
    staging: Option<Staging>,
}

impl Reader<'_> {
    fn run(&mut self, parser: &mut MainParser) -> Result<DeviceState, ReceiveError> {
        loop {
            let Some((used, event)) = parser.next(self.main.connection.unread())? else {
                self.flush()?;
                if let Some(devices) = self.read_more(parser)? {
                    return Ok(devices);
                }
                continue;
            };
            // Legacy pages come by the million: they are collected, and
            // everything else finds them dealt with.
            match event {
                Event::Zero { block, page } => {
                    self.main.connection.consume(used);
                    self.zero(block, page)?;
                    continue;
                }
                Event::Page { block, page, data } => {
                    if !self.pages.takes(block, page) {
                        self.main.shared.place(&mut self.pages)?;
                        self.pages.block = block;
                    }
                    self.open_epoch = true;
                    self.pages.pages.push(page);
                    self.pages.bytes.extend_from_slice(data);
                    self.main.connection.consume(used);
                    self.flush_zero()?;
                    continue;
                }
                _ => {}
            }
            match event {
                Event::Configuration(configuration) => self.machine = Some(configuration),
                Event::Block(info) => self.infos.push(info),
                Event::EarlyDevice(device) => self.early.push(device),
                Event::End(devices) => {
                    self.main.connection.consume(used);
                    self.flush()?;
                    if self.channels > 0 && self.open_epoch {
                        return Err(ReceiveError::AfterLastMark);
                    }
                    return Ok(devices);
                }
                Event::BlocksEnd => {
                    self.main.connection.consume(used);
                    self.blocks()?;
                    continue;
                }
                Event::Command(command) => {
                    self.main.connection.consume(used);
                    self.command(&command)?;
                    continue;
                }
                Event::Flush => {
                    self.main.connection.consume(used);
                    self.flush()?;
                    self.flush_record()?;
                    continue;
                }
                Event::Eos { section } => {
                    self.main.connection.consume(used);
                    self.flush()?;
                    self.end_of_section(section)?;
                    continue;
                }
                _ => {}
            }
            self.main.connection.consume(used);
        }
    }

    /// Reads on; answers the device state when the stream has ended instead.
    fn read_more(&mut self, parser: &mut MainParser) -> Result<Option<DeviceState>, ReceiveError> {
        let last_piece = parser.phase() == Phase::EofSeen;
        self.main.connection.set_patience(last_piece.then_some(VMDESC_GRACE));
        match self.main.connection.fill(LONGEST_ITEM) {
            Ok(Filled::More) => Ok(None),
            Ok(Filled::End | Filled::Finished) => {
                Ok(Some(parser.finish(self.main.connection.unread())?))
            }
            Err(error) if last_piece && error.kind() == io::ErrorKind::TimedOut => {
                Ok(Some(parser.finish(self.main.connection.unread())?))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the RAMBlocks and lets the channels see them.
    fn blocks(&mut self) -> Result<(), ReceiveError> {
        let mut list = Vec::with_capacity(self.infos.len());
        for info in &self.infos {
            list.push((self.main.make_block)(info)?);
        }
        let bytes: u64 = self.infos.iter().map(|info| info.used_length).sum();
        Counters::add(&self.main.shared.session.counters.ram_bytes, bytes);
        let blocks = Blocks::attach(list, &self.main.shared.workshop.placement)?;
        // The parser lets the list through once, so it is not set yet.
        let _ = self.main.shared.blocks.set(blocks);
        Ok(())
    }

    fn command(&mut self, command: &Command) -> Result<(), ReceiveError> {
        match command {
            Command::OpenReturnPath if self.main.connection.kind() == Kind::Socket => {
                *self.main.return_path = true;
            }
            Command::Ping(value) if *self.main.return_path => {
                self.main.connection.answer(&ReturnMessage::Pong(*value))?;
            }
            _ => {}
        }
        Ok(())
    }

    /// A FLUSH record.
    fn flush_record(&mut self) -> Result<(), ReceiveError> {
        match self.mode {
            // No EOS has come yet: this is the START section.
            SyncMode::Unknown => self.mode = SyncMode::PerRound,
            SyncMode::PerRound => {}
            // Source 8.1.0 sends them even if it has no channels.
            _ if self.channels == 0 => return Ok(()),
            _ => return Err(ReceiveError::UnexpectedFlush),
        }
        self.mark()
    }

    /// An EOS record.
    fn end_of_section(&mut self, section: SectionKind) -> Result<(), ReceiveError> {
        if self.mode == SyncMode::Unknown {
            self.mode = SyncMode::PerSection;
        }
        if self.mode == SyncMode::PerSection {
            self.mark()?;
        }
        if section == SectionKind::Start {
            self.after_start()?;
        }
        Ok(())
    }

    /// The START section is over: it has shown what the source knows.
    fn after_start(&mut self) -> Result<(), ReceiveError> {
        if self.main.need_return_path && !*self.main.return_path {
            return Err(ReceiveError::NoReturnPath);
        }
        let ack = match self.main.switchover_ack {
            SwitchoverAck::Auto => self.mode == SyncMode::PerRound,
            SwitchoverAck::Always => true,
            SwitchoverAck::Never => false,
        };
        if ack && *self.main.return_path {
            self.main.connection.answer(&ReturnMessage::SwitchoverAck)?;
        }
        Ok(())
    }

    fn mark(&mut self) -> Result<(), ReceiveError> {
        if self.marks == 0 {
            self.channels = (self.main.settle)()?;
        }
        if self.channels > 0 {
            self.main.shared.session.epochs.mark()?;
        }
        self.marks += 1;
        self.open_epoch = false;
        Ok(())
    }

    fn zero(&mut self, block: usize, page: u32) -> Result<(), ReceiveError> {
        if !self.pages.pages.is_empty() {
            self.main.shared.place(&mut self.pages)?;
        }
        if self.zero.block != block || self.zero.pages.len() == MAX_PACKET_PAGES {
            self.flush_zero()?;
            self.zero.block = block;
        }
        self.zero.pages.push(page);
        self.open_epoch = true;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ReceiveError> {
        self.flush_zero()?;
        self.main.shared.place(&mut self.pages)
    }

    fn flush_zero(&mut self) -> Result<(), ReceiveError> {
        if self.zero.pages.is_empty() {
            return Ok(());
        }
        let block = self.main.shared.block_at(self.zero.block)?;
        let pages = &self.zero.pages;
        let placement = &self.main.shared.workshop.placement;
        let done = zero_pages(placement, block, pages, self.main.shared.zero_mode)?;
        let counters = &self.main.shared.session.counters;
        Counters::add(&counters.legacy_zero, pages.len() as u64);
        Counters::add(&counters.zero_untouched, done.untouched.into());
        Counters::add(&counters.zero_cleared, done.cleared.into());
        self.zero.pages.clear();
        Ok(())
    }
}

impl PageBatch {
    /// Whether the page can join those that wait.
    fn takes(&self, block: usize, page: u32) -> bool {
        match self.pages.last() {
            Some(&last) => {
                self.block == block && self.pages.len() < MAX_PACKET_PAGES && page > last
            }
            None => self.block == block,
        }
    }
}

impl Shared<'_> {
    fn block_at(&self, index: usize) -> Result<&Arc<RamBlock>, ReceiveError> {
        self.blocks
            .get()
            .and_then(|blocks| blocks.list().get(index))
            .ok_or_else(|| ReceiveError::UnknownBlock(format!("number {index}")))
    }

    /// Places the page records that wait.
    fn place(&self, batch: &mut PageBatch) -> Result<(), ReceiveError> {
        if batch.pages.is_empty() {
            return Ok(());
        }
        self.agree_on(MethodId::None)?;
        let block = self.block_at(batch.block)?;
        let staging = match batch.staging.take() {
            Some(staging) => staging,
            None => Staging::new()?,
        };
        let placement = &self.workshop.placement;
        let landing = Landing::begin(placement, block, &batch.pages, staging, InPlace::Allowed)?;
        for (index, page) in batch.bytes.chunks_exact(PAGE_SIZE).enumerate() {
            // SAFETY: `page` is one page long and in our own vector; the
            // destination is one writable page that is ours until the commit.
            unsafe {
                landing.destination(index).copy_from_nonoverlapping(page.as_ptr(), PAGE_SIZE);
            }
        }
        batch.staging = Some(landing.commit()?);
        Counters::add(&self.session.counters.normal, batch.pages.len() as u64);
        batch.pages.clear();
        batch.bytes.clear();
        Ok(())
    }
}
