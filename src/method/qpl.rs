//! Method qpl: one raw DEFLATE block per page, each on its own.
//!
//! The payload is read into a packet buffer, its table of lengths is checked,
//! and the pages go to the engine as jobs. While the engine works the channel
//! reads the next packet.

use std::sync::Arc;

use super::{Method, MethodError, Payload, Workshop, read_payload};
use crate::{
    engine::{BufferPool, PageJob, PagePacket, PageQueue},
    ram::RamBlock,
    wire::{self, MAX_PACKET_PAGES, qpl::QplBlock},
};

/// Method qpl on one channel.
pub struct Qpl {
    queue: Box<dyn PageQueue>,
    buffers: BufferPool,
    /// Of the packet at hand.
    blocks: Vec<QplBlock>,
}

impl std::fmt::Debug for Qpl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Qpl").field("buffers", &self.buffers).finish_non_exhaustive()
    }
}

impl Qpl {
    /// Sets the method up for one channel.
    pub fn new(workshop: &Workshop) -> Result<Self, MethodError> {
        Ok(Self {
            queue: workshop.engine.open()?,
            buffers: BufferPool::new(workshop.packets),
            blocks: Vec::with_capacity(MAX_PACKET_PAGES),
        })
    }
}

impl Method for Qpl {
    fn packet(
        &mut self,
        block: &Arc<RamBlock>,
        pages: &[u32],
        payload: &mut dyn Payload,
    ) -> Result<(), MethodError> {
        let buffer = read_payload(payload, pages.len(), || self.queue.buffer(&mut self.buffers))?;
        wire::qpl::read_lengths(buffer.payload(), pages.len(), &mut self.blocks)?;
        let jobs = pages
            .iter()
            .zip(&self.blocks)
            .map(|(&page, block)| PageJob { page, start: block.start, len: block.len })
            .collect();
        self.queue.submit(PagePacket { block: Arc::clone(block), buffer, jobs })?;
        Ok(())
    }

    fn drain(&mut self) -> Result<(), MethodError> {
        Ok(self.queue.drain()?)
    }
}
