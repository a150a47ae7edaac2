//! Guest memory: RAMBlocks, the received map, and placement.
//!
//! * [`RamBlock`]: one mapping of guest memory, known by its name.
//! * [`ReceivedMap`]: two bits a page, *received* and *written*, that say what
//!   has to happen to a page that arrives.
//! * [`placement`]: how bytes get into guest pages without page faults and
//!   without memory for pages that hold nothing.
//!
//! A data page: [`Landing::begin`] gives it a destination, a decoder fills it,
//! [`Landing::commit`] puts it into guest memory and marks it. A zero page:
//! [`zero_pages`] marks it and touches memory only where it holds old data.
//!
//! ```
//! use std::sync::Arc;
//! use multifd_qpl::ram::{InPlace, Landing, Placement, RamBlock, Staging, ZeroMode, zero_pages};
//!
//! let placement = Placement::new(None)?;
//! let block = Arc::new(RamBlock::anonymous("pc.ram", 16 << 20)?);
//! placement.attach(&block)?;
//!
//! let landing =
//!     Landing::begin(&placement, &block, &[7, 8, 5], Staging::new()?, InPlace::Allowed)?;
//! for i in 0..landing.len() {
//!     // SAFETY: a destination is 4096 writable bytes of this landing alone.
//!     unsafe { landing.destination(i).write_bytes(i as u8 + 1, 4096) };
//! }
//! landing.commit()?;
//! zero_pages(&placement, &block, &[6, 9], ZeroMode::Map)?;
//! placement.detach(&block);
//!
//! let mut page = [0; 4096];
//! block.read_page(5, &mut page)?;
//! assert_eq!(page, [3; 4096]);
//! assert_eq!(block.map().received_count(), 5);
//! assert_eq!(block.resident_bytes()?, 3 * 4096);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod block;
mod guard;
mod map;
mod mapping;
pub mod placement;
mod primitive;

pub use block::{BlockError, Initial, RamBlock};
pub use guard::WriteGuards;
pub use map::{MapError, ReceivedMap};
pub use placement::{
    InPlace, Landing, Lost, Placement, PlacementError, PlacementReport, Policy, Staging,
    StagingPool, ZeroCounts, ZeroMode, zero_pages,
};
