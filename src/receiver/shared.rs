//! What the threads of one migration look things up in.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use super::{ReceiveError, session::Session};
use crate::{
    method::Workshop,
    ram::{Placement, RamBlock, ZeroMode},
    wire::MethodId,
};

/// Looked up by every channel.
pub struct Shared<'a> {
    pub session: &'a Arc<Session>,
    pub workshop: &'a Workshop,
    pub zero_mode: ZeroMode,
    /// Set by main before its first mark, so before any channel needs it.
    pub blocks: OnceLock<Blocks>,
    /// The method the user asked for.
    pub method: Option<MethodId>,
}

impl Shared<'_> {
    /// All data packets of a migration use one method.
    pub fn agree_on(&self, method: MethodId) -> Result<(), ReceiveError> {
        let expected = self.method.unwrap_or(method);
        let first = *self.session.method.get_or_init(|| expected);
        if first != method {
            return Err(ReceiveError::MethodDiffers { first, now: method });
        }
        Ok(())
    }

    /// The block of this name.
    pub fn block(&self, name: &str) -> Result<Arc<RamBlock>, ReceiveError> {
        self.blocks
            .get()
            .and_then(|blocks| blocks.list.get(*blocks.by_name.get(name)?))
            .cloned()
            .ok_or_else(|| ReceiveError::UnknownBlock(name.to_owned()))
    }
}

/// The guest's RAMBlocks, prepared for placement. Undone when dropped, so that
/// untouched pages read as zero however the migration ended.
#[derive(Debug)]
pub struct Blocks {
    list: Vec<Arc<RamBlock>>,
    by_name: HashMap<String, usize>,
    placement: Arc<Placement>,
}

impl Blocks {
    /// Prepares `list` for placement.
    pub fn attach(
        list: Vec<Arc<RamBlock>>,
        placement: &Arc<Placement>,
    ) -> Result<Self, ReceiveError> {
        let by_name =
            list.iter().enumerate().map(|(i, block)| (block.name().to_owned(), i)).collect();
        let blocks = Self { list, by_name, placement: Arc::clone(placement) };
        for block in &blocks.list {
            placement.attach(block)?;
        }
        Ok(blocks)
    }

    /// Ends the preparation: untouched pages read as zero from now on.
    pub fn into_list(mut self) -> Vec<Arc<RamBlock>> {
        self.detach();
        std::mem::take(&mut self.list)
    }

    fn detach(&self) {
        for block in &self.list {
            self.placement.detach(block);
        }
    }

    /// In the order of the source's list.
    pub fn list(&self) -> &[Arc<RamBlock>] {
        &self.list
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        self.detach();
    }
}
