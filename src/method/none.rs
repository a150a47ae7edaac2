//! Method none: the payload is the pages.
//!
//! The socket is read straight into the pages' destinations: resident staging
//! for pages that are not there yet, the guest page itself for those that are.
//! No packet buffer stands between.

use std::sync::Arc;

use super::{Method, MethodError, Payload, Workshop};
use crate::{
    ram::{InPlace, Landing, Placement, RamBlock, Staging},
    wire::PAGE_SIZE,
};

/// Pages placed at a time: 128 KiB of staging stay in the core's L2 cache
/// between the read that fills them and the copy that places them.
const CHUNK: usize = 32;

/// Method none on one channel.
#[derive(Debug)]
pub struct None {
    placement: Arc<Placement>,
    staging: Option<Staging>,
    parts: Parts,
}

/// Destinations of one chunk; empty but while a chunk is being read.
#[derive(Debug, Default)]
struct Parts(Vec<(*mut u8, usize)>);

// SAFETY: the pointers are only used inside one call of `packet`, which fills
// and empties the vector; between calls there are none.
unsafe impl Send for Parts {}

impl None {
    /// Sets the method up for one channel.
    pub fn new(workshop: &Workshop) -> Result<Self, MethodError> {
        Ok(Self {
            placement: Arc::clone(&workshop.placement),
            staging: Some(Staging::new()?),
            parts: Parts::default(),
        })
    }
}

impl Method for None {
    fn packet(
        &mut self,
        block: &Arc<RamBlock>,
        pages: &[u32],
        payload: &mut dyn Payload,
    ) -> Result<(), MethodError> {
        let expected = pages.len() * PAGE_SIZE;
        if payload.len() != expected {
            return Err(MethodError::Length { pages: pages.len(), len: payload.len(), expected });
        }
        self.placement.foresee(block, pages);
        for chunk in pages.chunks(CHUNK) {
            let staging = match self.staging.take() {
                Some(staging) => staging,
                Option::None => Staging::new()?,
            };
            let landing = Landing::begin(&self.placement, block, chunk, staging, InPlace::Allowed)?;
            self.parts.0.clear();
            self.parts.0.extend(landing.io_slices());
            // SAFETY: a landing's destinations are writable and ours alone
            // until its commit; io_slices covers just them.
            let read = unsafe { payload.fill_parts(&self.parts.0) };
            self.parts.0.clear();
            read?;
            self.staging = Some(landing.commit()?);
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), MethodError> {
        Ok(())
    }
}
