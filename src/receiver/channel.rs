//! One multifd channel: packets in, pages handed to the method.

use std::{io, sync::Arc};

use super::{
    ReceiveError,
    connection::{Connection, Filled},
    session::Counters,
    shared::Shared,
};
use crate::{
    method::{self, Method, Payload},
    ram::{RamBlock, zero_pages},
    wire::{MethodId, Packet, PacketError, PacketKind, PageList},
};

/// Most packets looked at on a channel when the main stream is complete. A
/// source has sent a few empty ones or a SYNC by then; whoever sends more has
/// nothing to say.
const TAIL: usize = 64;

/// Reads a channel to its end. Its hello has been taken off already.
pub fn run(shared: &Shared<'_>, id: u8, connection: Connection) -> Result<(), ReceiveError> {
    Channel {
        shared,
        id,
        connection,
        method: None,
        block: None,
        pages: Box::default(),
        syncs: 0,
        open_epoch: false,
        tail: 0,
    }
    .run()
    .map_err(|error| error.on_channel(id))
}

struct Channel<'a> {
    shared: &'a Shared<'a>,
    id: u8,
    connection: Connection,
    method: Option<Box<dyn Method>>,
    /// The block of the last packet: most packets name the same one again.
    block: Option<Arc<RamBlock>>,
    pages: Box<PageList>,
    syncs: u64,
    /// Pages came since the last SYNC.
    open_epoch: bool,
    /// Packets taken since the main stream was complete.
    tail: usize,
}

impl Channel<'_> {
    fn run(mut self) -> Result<(), ReceiveError> {
        match self.packets() {
            // A source whose migration fails closes its channels at any point:
            // the main stream tells what that means.
            Ok(()) => self.shared.session.epochs.leave(self.id, self.open_epoch),
            // Whatever is wrong with pages behind the last mark, they should
            // not be there.
            Err(_) if self.open_epoch && self.shared.session.is_finished() => {
                Err(ReceiveError::AfterLastMark)
            }
            Err(error) => Err(error),
        }
    }

    fn packets(&mut self) -> Result<(), ReceiveError> {
        while self.tail < TAIL && self.packet()? {
            self.tail += usize::from(self.shared.session.is_finished());
        }
        if let Some(method) = &mut self.method {
            method.drain()?;
        }
        Ok(())
    }

    /// Takes one packet; false when the connection has ended between packets.
    fn packet(&mut self) -> Result<bool, ReceiveError> {
        if self.connection.want(PacketKind::PEEK_LEN)? != Filled::More {
            return Ok(false);
        }
        // A device-state header is shorter than a RAM packet's: waiting for
        // 1344 bytes of it would be waiting for what may never come.
        if let Some(front) = self.connection.unread().first_chunk()
            && PacketKind::peek(front)? == PacketKind::DeviceState
        {
            return Err(PacketError::DeviceState.into());
        }
        if self.connection.want(Packet::HEADER_LEN)? == Filled::Finished {
            return Ok(false);
        }
        let Some(header) = self.connection.unread().first_chunk() else {
            unreachable!("want() made a whole header available");
        };
        let packet = Packet::parse(header)?;
        let counters = &self.shared.session.counters;
        Counters::add(&counters.packets, 1);

        let (normal, zero) = (packet.normal_pages(), packet.zero_pages());
        let (sync, payload) = (packet.is_sync(), packet.payload_len());
        if normal + zero > 0 {
            if self.syncs == 0 {
                return Err(ReceiveError::BeforeFirstMark);
            }
            self.open_epoch = true;
            let method = packet.method();
            self.shared.agree_on(method)?;
            let name = packet.block_name()?;
            let block = match &self.block {
                Some(block) if block.name() == name => Arc::clone(block),
                _ => Arc::clone(self.block.insert(self.shared.block(name)?)),
            };
            packet.read_pages(block.used_length(), &mut self.pages)?;
            self.connection.consume(Packet::HEADER_LEN);
            if zero > 0 {
                self.zero(&block)?;
            }
            if normal > 0 {
                Counters::add(&counters.normal, normal as u64);
                self.data(method, &block, payload)?;
            }
        } else {
            self.connection.consume(Packet::HEADER_LEN);
        }
        if sync {
            if let Some(method) = &mut self.method {
                method.drain()?;
            }
            self.syncs += 1;
            self.shared.session.epochs.sync(self.id, self.open_epoch)?;
            self.open_epoch = false;
        }
        Ok(true)
    }

    fn zero(&mut self, block: &RamBlock) -> Result<(), ReceiveError> {
        let counters = &self.shared.session.counters;
        let pages = self.pages.zero();
        let done =
            zero_pages(&self.shared.workshop.placement, block, pages, self.shared.zero_mode)?;
        Counters::add(&counters.zero, pages.len() as u64);
        Counters::add(&counters.zero_untouched, done.untouched.into());
        Counters::add(&counters.zero_cleared, done.cleared.into());
        Ok(())
    }

    fn data(
        &mut self,
        id: MethodId,
        block: &Arc<RamBlock>,
        len: usize,
    ) -> Result<(), ReceiveError> {
        let method = match &mut self.method {
            Some(method) => method,
            none => none.insert(method::open(id, self.shared.workshop)?),
        };
        let mut payload = FromConnection { connection: &mut self.connection, left: len };
        method.packet(block, self.pages.normal(), &mut payload)?;
        debug_assert_eq!(payload.left, 0, "a method left payload behind");
        Ok(())
    }
}

/// The payload of the packet whose header was just consumed.
struct FromConnection<'a> {
    connection: &'a mut Connection,
    left: usize,
}

impl FromConnection<'_> {
    fn take(&mut self, count: usize) -> io::Result<()> {
        self.left = self
            .left
            .checked_sub(count)
            .ok_or_else(|| io::Error::other("a method read past its packet's payload"))?;
        Ok(())
    }
}

impl Payload for FromConnection<'_> {
    fn len(&self) -> usize {
        self.left
    }

    unsafe fn fill_parts(&mut self, parts: &[(*mut u8, usize)]) -> io::Result<()> {
        self.take(parts.iter().map(|part| part.1).sum())?;
        // SAFETY: the caller vouches for the parts.
        unsafe { self.connection.read_parts(parts) }
    }
}
