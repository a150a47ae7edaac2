//! RAMBlocks, the received map and placement.

/// One RAMBlock.
#[derive(Debug)]
pub struct RamBlock;

/// Why bytes could not be put into guest memory.
#[derive(Debug, thiserror::Error)]
pub enum PlacementError {}
