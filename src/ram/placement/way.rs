//! The way that one block's pages take: what a policy comes down to for the
//! memory at hand.

use std::sync::atomic::{AtomicU8, Ordering};

/// How absent pages of one block get their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Way {
    /// From staging with UFFDIO_COPY, one call a run.
    Place = 1,
    /// MADV_POPULATE_WRITE of the run, then stores.
    Populate = 2,
    /// Dense regions as huge pages, the others like `Place`.
    Huge = 3,
    /// Stores that fault.
    Store = 4,
    /// From staging with pwrite to the memory file, one call a run.
    Pwrite = 5,
    /// Dense regions as huge pages, the others like `Populate`.
    HugePopulate = 6,
}

impl Way {
    /// Whether the block is registered with userfaultfd: absent pages must not
    /// be touched.
    pub(super) fn is_registered(self) -> bool {
        matches!(self, Self::Place | Self::Huge)
    }

    /// Whether dense regions become huge pages.
    pub(super) fn is_huge(self) -> bool {
        matches!(self, Self::Huge | Self::HugePopulate)
    }
}

/// The way of a block, once placement is attached to it.
#[derive(Debug, Default)]
pub(in crate::ram) struct WayCell(AtomicU8);

impl WayCell {
    pub(super) fn get(&self) -> Option<Way> {
        match self.0.load(Ordering::Acquire) {
            1 => Some(Way::Place),
            2 => Some(Way::Populate),
            3 => Some(Way::Huge),
            4 => Some(Way::Store),
            5 => Some(Way::Pwrite),
            6 => Some(Way::HugePopulate),
            _ => None,
        }
    }

    pub(super) fn set(&self, way: Option<Way>) {
        self.0.store(way.map_or(0, |way| way as u8), Ordering::Release);
    }
}
