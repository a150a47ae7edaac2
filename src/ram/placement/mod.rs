//! Placement: how bytes get into guest pages without faults and without memory
//! for pages that hold nothing.
//!
//! ```text
//! Landing::begin   pages sorted; each gets a destination:
//!                    present page, guard free -> the guest page itself
//!                    absent page              -> a staging slot (policy place),
//!                                                or the page, made present
//! (decode)         bytes go to the destinations
//! Landing::commit  staged runs are placed, one call a run; pages are marked
//!                  received; guards are released
//! ```
//!
//! What "made present" means is the [`Policy`]. `place` wins where userfaultfd
//! works: the kernel copies whole pages into absent places, which neither
//! faults nor clears the page first, and staging is always resident, so that a
//! device writing there cannot fault either. A policy is chosen once for a
//! migration and comes down to one [`Way`] for each block, because not every
//! kind of memory takes every policy.
//!
//! Neighbours in guest memory are neighbours in staging, hence a run of pages
//! is one call whatever order the packet named them in.

mod batch;
mod error;
pub(super) mod huge;
mod landing;
mod measure;
mod report;
mod run;
mod staging;
mod uffd;
pub(super) mod way;
mod zero;

use std::{
    fmt,
    str::FromStr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

pub use self::{
    error::PlacementError,
    landing::{InPlace, Landing, Lost},
    report::{BlockWay, PageCounts, PlacementReport},
    staging::{Staging, StagingPool},
    way::Way,
    zero::{ZeroCounts, ZeroMode, zero_pages},
};
use crate::wire::{MAX_PACKET_PAGES, PAGE_SIZE};

use self::{huge::Regions, measure::Host, report::Counters, uffd::Uffd};
use super::{
    block::{Initial, RamBlock},
    mapping::resident_pages,
};

/// Shortest run of pages turned zero that is given back by default. Giving back
/// saves memory, not time: it flushes the TLB once a run and takes about eight
/// times the CPU time of clearing, whatever the length (`benches/ram.rs`).
const GIVE_BACK_PAGES: u32 = 64;

/// How absent pages get their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// From resident staging, one UFFDIO_COPY for each run of pages.
    #[default]
    Place,
    /// MADV_POPULATE_WRITE for the run, then stores.
    Populate,
    /// Transparent huge pages where a region is dense, else like `Place`. Fast,
    /// and wasteful where dense regions are shorter than 2 MiB.
    Huge,
    /// Stores that fault.
    Fault,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Self; 4] = [Self::Place, Self::Populate, Self::Huge, Self::Fault];

    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Place => "place",
            Self::Populate => "populate",
            Self::Huge => "huge",
            Self::Fault => "fault",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A word that names no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no placement policy {0:?}; choose place, populate, huge or fault")]
pub struct UnknownPolicy(String);

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        let found = Self::ALL.into_iter().find(|policy| policy.name() == name);
        found.ok_or_else(|| UnknownPolicy(name.to_owned()))
    }
}

/// How one migration places its pages: shared by its blocks and threads.
#[derive(Debug)]
pub struct Placement {
    policy: Policy,
    reason: String,
    /// Present with policies `place` and `huge`. Dropping it unregisters all blocks.
    uffd: Option<Uffd>,
    can_populate: bool,
    give_back: AtomicU32,
    counters: Counters,
    attached: Mutex<Vec<BlockWay>>,
}

impl Placement {
    /// Uses the policy chosen, or the one that a short measurement on scratch
    /// memory finds best. Falls back to another, and says so in
    /// [`reason`](Self::reason), where the host does not allow the policy.
    pub fn new(choice: Option<Policy>) -> Result<Arc<Self>, PlacementError> {
        Self::on(Host::probe().map_err(PlacementError::Staging)?, choice)
    }

    fn on(host: Host, choice: Option<Policy>) -> Result<Arc<Self>, PlacementError> {
        let (policy, reason) = match choice {
            Some(policy) => match host.objection(policy) {
                None => (policy, "chosen".to_owned()),
                Some(objection) => {
                    let (fallback, reason) = host.best().map_err(PlacementError::Staging)?;
                    (fallback, format!("not {policy}, because {objection}; {reason}"))
                }
            },
            None => host.best().map_err(PlacementError::Staging)?,
        };
        Ok(Arc::new(Self {
            policy,
            reason,
            can_populate: host.populate.is_ok(),
            uffd: host.uffd.ok().filter(|_| matches!(policy, Policy::Place | Policy::Huge)),
            give_back: AtomicU32::new(GIVE_BACK_PAGES),
            counters: Counters::default(),
            attached: Mutex::default(),
        }))
    }

    /// The policy in use.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Why this policy and no other.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Shortest run of pages turned zero whose memory is given back rather than
    /// cleared; 0 means never. Giving back flushes the TLB, and with it the
    /// IOTLB of a device bound to this process: whoever binds one sets 0.
    pub fn set_give_back(&self, pages: u32) {
        self.give_back.store(pages, Ordering::Relaxed);
    }

    /// Prepares a block for landings, before the first of them. With policy
    /// `place` its untouched pages must not be touched by others until
    /// [`detach`](Self::detach): whoever does waits.
    pub fn attach(&self, block: &RamBlock) -> Result<(), PlacementError> {
        // Under the lock, so that two threads cannot both attach a block.
        let mut attached = self.attached();
        if block.way.get().is_some() {
            return Err(PlacementError::Attached { block: block.name().to_owned() });
        }
        let (way, reason) = self.choose_way(block)?;
        attached.push(BlockWay { block: block.name().to_owned(), way, reason });
        block.way.set(Some(way));
        Ok(())
    }

    /// Ends placement for a block: pages that were never placed read as zero
    /// from now on. Its landings are committed or dropped before. Without this
    /// call it happens when the placement is dropped.
    pub fn detach(&self, block: &RamBlock) {
        let _attached = self.attached();
        let way = block.way.get();
        block.way.set(None);
        if let (Some(Way::Place | Way::Huge), Some(uffd)) = (way, &self.uffd) {
            // Fails only for memory that its owner has unmapped.
            uffd.unregister(block.as_ptr(), block.used_length() as usize);
        }
    }

    /// Looks at all pages of a packet before it is cut into landings: only a
    /// whole packet shows whether the memory around it is dense. The pages
    /// come in any order; outside of the block they are ignored.
    pub fn foresee(&self, block: &RamBlock, pages: &[u32]) {
        let way = self.way_of(block);
        if way.is_huge() {
            let mut sorted = [0; MAX_PACKET_PAGES];
            let count = pages.len().min(MAX_PACKET_PAGES);
            sorted[..count].copy_from_slice(&pages[..count]);
            sorted[..count].sort_unstable();
            self.decide_regions(block, way, &sorted[..count]);
        }
    }

    /// Makes regions that turn out dense ready for huge pages.
    fn decide_regions(&self, block: &RamBlock, way: Way, sorted: &[u32]) {
        let Some(regions) = block.regions.get().filter(|_| way.is_huge()) else { return };
        regions.decide(sorted, |pages| {
            let start = block.page(pages.start);
            let len = pages.len() * PAGE_SIZE;
            // SAFETY: the region lies whole in the block (`Regions` has no
            // others to give), and the advice changes no content.
            let answer = unsafe { libc::madvise(start.cast(), len, libc::MADV_HUGEPAGE) };
            // The kernel does not place huge pages: these are faulted in.
            let free = || match (&self.uffd, way) {
                (Some(uffd), Way::Huge) => uffd.unregister(start, len),
                _ => true,
            };
            answer == 0 && free()
        });
    }

    /// What happened so far.
    pub fn report(&self) -> PlacementReport {
        PlacementReport {
            policy: self.policy,
            reason: self.reason.clone(),
            pages: self.counters.read(),
            blocks: self.attached().clone(),
        }
    }

    /// The way of a block; one that was never attached, or no longer is, is
    /// stored to in the plainest manner.
    fn way_of(&self, block: &RamBlock) -> Way {
        block.way.get().unwrap_or(if block.memory_file().is_some() {
            Way::Pwrite
        } else {
            self.populate_or_store()
        })
    }

    fn choose_way(&self, block: &RamBlock) -> Result<(Way, &'static str), PlacementError> {
        let fallback = self.populate_or_store();
        // Small pages unless a region is found to be dense: where the host uses
        // huge pages for all memory, one page of data would take 2 MiB. Before
        // the block is registered, because advice splits and joins mappings.
        block.advise_huge(false);
        let choice = match self.policy {
            Policy::Fault => (Way::Store, ""),
            Policy::Populate => (Way::Populate, ""),
            Policy::Place | Policy::Huge if block.memory_file().is_some() => {
                (Way::Pwrite, "a memory file is filled fastest by writing to it")
            }
            Policy::Huge if block.is_anonymous() => {
                // A block that was attached before may have holes in regions
                // that were to be huge; nobody would fill those.
                let fresh = block.regions.set(Regions::new(block.pages())).is_ok();
                if fresh && self.register(block) {
                    (Way::Huge, "")
                } else {
                    (Way::HugePopulate, "the kernel does not place single pages in this memory")
                }
            }
            Policy::Huge => (fallback, "huge pages in a caller's memory are the caller's choice"),
            Policy::Place if block.callers_memory() == Some(Initial::Unknown) => {
                (fallback, "the caller does not say that its memory is zero")
            }
            Policy::Place => {
                if block.callers_memory().is_some() && is_mostly_resident(block)? {
                    return Ok((Way::Store, "the caller's memory is resident, or pinned, already"));
                }
                if self.register(block) {
                    (Way::Place, "")
                } else {
                    (fallback, "the kernel does not place single pages in this memory")
                }
            }
        };
        Ok(choice)
    }

    fn register(&self, block: &RamBlock) -> bool {
        let len = block.used_length() as usize;
        self.uffd.as_ref().is_some_and(|uffd| uffd.register(block.as_ptr(), len).is_ok())
    }

    fn populate_or_store(&self) -> Way {
        if self.can_populate { Way::Populate } else { Way::Store }
    }

    fn attached(&self) -> MutexGuard<'_, Vec<BlockWay>> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether most of a caller's memory is resident, judged by a few samples: then
/// there is nothing to place, and each page would be found present.
fn is_mostly_resident(block: &RamBlock) -> Result<bool, PlacementError> {
    const SAMPLES: u32 = 32;
    let samples = SAMPLES.min(block.pages());
    let mut resident = 0;
    for sample in 0..samples {
        let page = (u64::from(block.pages()) * u64::from(sample) / u64::from(samples)) as u32;
        resident += resident_pages(block.page(page), 1).map_err(|source| {
            crate::ram::BlockError::Residency { name: block.name().to_owned(), source }
        })?;
    }
    Ok(2 * resident > u64::from(samples))
}

#[cfg(test)]
mod tests;
