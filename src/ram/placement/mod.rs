//! How bytes get into guest pages without faults.

use std::sync::Arc;

use super::RamBlock;

/// A way to get bytes into guest pages. `Display` and `FromStr` use the names
/// `place`, `populate`, `huge` and `fault`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Decode into resident staging, one UFFDIO_COPY a run.
    Place,
    /// MADV_POPULATE_WRITE of the runs about to be written.
    Populate,
    /// Transparent huge pages where a region is dense.
    Huge,
    /// Plain stores.
    Fault,
}

/// Why bytes could not be put into guest memory.
#[derive(Debug, thiserror::Error)]
pub enum PlacementError {
    /// Memory for staging could not be had.
    #[error("no memory for staging pages: {0}")]
    Staging(#[source] std::io::Error),
}

/// How one migration places its pages; shared by all blocks and threads.
#[derive(Debug)]
pub struct Placement(());

/// What placement did, for the migration's report.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct PlacementReport {}

#[allow(missing_docs, unused_variables)]
impl Placement {
    /// `None` chooses by a short measurement.
    pub fn new(choice: Option<Policy>) -> Result<Arc<Self>, PlacementError> {
        unimplemented!()
    }
    pub fn policy(&self) -> Policy {
        unimplemented!()
    }
    pub fn reason(&self) -> &str {
        unimplemented!()
    }
    pub fn attach(&self, block: &RamBlock) -> Result<(), PlacementError> {
        unimplemented!()
    }
    pub fn detach(&self, block: &RamBlock) {
        unimplemented!()
    }
    pub fn report(&self) -> PlacementReport {
        unimplemented!()
    }
    /// Shortest run of pages turned zero that is given back; 0 never. A
    /// device engine sets 0: giving back costs an IOTLB flush.
    pub fn set_give_back(&self, pages: u32) {
        unimplemented!()
    }
}

/// Makes stagings and takes them back when they are dropped.
#[derive(Debug, Clone)]
pub struct StagingPool(());

#[allow(missing_docs, unused_variables)]
impl StagingPool {
    pub fn new() -> Self {
        unimplemented!()
    }
    pub fn take(&self) -> Result<Staging, PlacementError> {
        unimplemented!()
    }
}

impl Default for StagingPool {
    fn default() -> Self {
        Self::new()
    }
}

/// Resident memory for up to 128 decoded pages.
#[derive(Debug)]
pub struct Staging(());

#[allow(missing_docs, unused_variables)]
impl Staging {
    pub fn new() -> Result<Self, PlacementError> {
        unimplemented!()
    }
}

/// Whether pages already present may be handed out for writing directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InPlace {
    /// For decoders that finish one landing before they begin another.
    Allowed,
    /// For devices with several landings in flight.
    Never,
}

/// One batch of pages on their way into guest memory.
#[derive(Debug)]
pub struct Landing(());

#[allow(missing_docs, unused_variables)]
impl Landing {
    pub fn begin(
        placement: &Arc<Placement>,
        block: &Arc<RamBlock>,
        pages: &[u32],
        staging: Staging,
        in_place: InPlace,
    ) -> Result<Self, PlacementError> {
        unimplemented!()
    }
    pub fn len(&self) -> usize {
        unimplemented!()
    }
    pub fn is_empty(&self) -> bool {
        unimplemented!()
    }
    pub fn page(&self, i: usize) -> u32 {
        unimplemented!()
    }
    pub fn destination(&self, i: usize) -> *mut u8 {
        unimplemented!()
    }
    pub fn is_staged(&self, i: usize) -> bool {
        unimplemented!()
    }
    /// Fresh destination for page `i`; the old one is never used again.
    pub fn restage(&mut self, i: usize) -> Result<*mut u8, PlacementError> {
        unimplemented!()
    }
    /// Destinations in payload order, neighbours merged, for `readv`.
    pub fn io_slices(&self) -> impl Iterator<Item = (*mut u8, usize)> + '_ {
        std::iter::empty()
    }
    /// Everything into guest memory, then marked received. After `restage`
    /// the staging given back is a new one.
    pub fn commit(self) -> Result<Staging, PlacementError> {
        unimplemented!()
    }
    /// Gives up: marks nothing, and keeps the staging for ever, because a
    /// device may still write it.
    pub fn quarantine(self) {
        unimplemented!()
    }
}

/// How zero pages are dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ZeroMode {
    /// By the map: first-seen untouched, written ones cleared.
    #[default]
    Map,
    /// Reads each page and clears what is not zero.
    ReadCheck,
    /// One bit: already received is cleared, else marked.
    OneBit,
}

/// What became of zero pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ZeroCounts {
    /// Pages marked and left alone.
    pub untouched: u32,
    /// Pages cleared.
    pub cleared: u32,
}

/// Deals with the zero pages of a packet or a record.
#[allow(unused_variables)]
pub fn zero_pages(
    placement: &Placement,
    block: &RamBlock,
    pages: &[u32],
    mode: ZeroMode,
) -> Result<ZeroCounts, PlacementError> {
    unimplemented!()
}
