//! RAMBlocks, the received map and placement.

mod block;
mod map;
pub mod placement;

pub use block::{BlockError, Initial, RamBlock};
pub use map::{MapError, ReceivedMap};
pub use placement::{
    InPlace, Landing, Placement, PlacementError, PlacementReport, Policy, Staging, StagingPool,
    ZeroCounts, ZeroMode, zero_pages,
};
