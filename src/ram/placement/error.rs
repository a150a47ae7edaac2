//! What can go wrong on the way into guest memory.

use std::io;

use crate::{
    ram::{BlockError, MapError},
    wire::MAX_PACKET_PAGES,
};

/// Why bytes could not be put into guest memory. Each ends the migration.
#[derive(Debug, thiserror::Error)]
pub enum PlacementError {
    /// Memory for staging could not be had.
    #[error("no memory for staging pages: {0}{advice}", advice = advice(.0))]
    Staging(#[source] io::Error),
    /// A landing holds one packet.
    #[error("a batch of {pages} pages is larger than a packet of {MAX_PACKET_PAGES}")]
    TooManyPages {
        /// Pages in the batch.
        pages: usize,
    },
    /// A batch names a page twice.
    #[error("page {page:#x} of RAMBlock {block:?} is twice in one batch")]
    Duplicate {
        /// Name of the block.
        block: String,
        /// Index of the page.
        page: u32,
    },
    /// A batch names a page outside its block.
    #[error("RAMBlock {block:?}: {source}")]
    OutOfBounds {
        /// Name of the block.
        block: String,
        /// What was asked for.
        source: MapError,
    },
    /// The kernel refused to put pages into a block.
    #[error(
        "cannot {action} {pages} pages of RAMBlock {block:?} from page {page:#x} on: \
         {source}{advice}", advice = advice(source)
    )]
    Refused {
        /// What was tried: `place`, `populate` or `write`.
        action: &'static str,
        /// Name of the block.
        block: String,
        /// First page of the run.
        page: u32,
        /// Pages in the run.
        pages: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A page's write guard was not released in five minutes.
    #[error("another writer holds on to pages of RAMBlock {block:?} and does not let go")]
    Stuck {
        /// Name of the block.
        block: String,
    },
    /// Placement was attached to the block before.
    #[error("RAMBlock {block:?} is attached to a placement already; detach it first")]
    Attached {
        /// Name of the block.
        block: String,
    },
    /// The page's destination is the guest page itself, which cannot change.
    #[error("page {page:#x} of RAMBlock {block:?} is not staged, so it has no second place")]
    NotStaged {
        /// Name of the block.
        block: String,
        /// Index of the page.
        page: u32,
    },
    /// The zero mode reads or writes absent pages, which nobody would provide.
    #[error(
        "this zero mode touches absent pages of RAMBlock {block:?}, which policies place \
         and huge cannot have; choose populate or fault"
    )]
    ModeTouchesAbsent {
        /// Name of the block.
        block: String,
    },
    /// Which pages are resident could not be found out.
    #[error(transparent)]
    Block(#[from] BlockError),
}

/// What to do about an error of the kernel, where that is known.
fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOMEM | libc::ENOSPC | libc::EFAULT) => {
            "; the host, the memory cgroup or the memory file system has no room for the guest: \
             give it more"
        }
        _ => "",
    }
}
