//! Counters of placement and their report.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Policy, Way};

/// What one landing or one batch of zero pages did; added to the shared
/// counters in one go, because every thread counts there.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Tally {
    pub placed: u32,
    pub populated: u32,
    pub huge: u32,
    pub stored: u32,
    pub in_place: u32,
    pub pwritten: u32,
    pub uffd_copies: u32,
    pub eexist: u32,
    pub eagain: u32,
    pub zero_untouched: u32,
    pub zero_cleared: u32,
    pub given_back: u32,
    pub write_conflicts: u32,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters of all threads.
        #[derive(Debug, Default)]
        pub(super) struct Counters { $($name: AtomicU64,)* }

        impl Counters {
            pub(super) fn add(&self, tally: &Tally) {
                // Statistics: nothing else depends on their order.
                $(if tally.$name != 0 {
                    self.$name.fetch_add(tally.$name.into(), Ordering::Relaxed);
                })*
            }

            pub(super) fn read(&self) -> PageCounts {
                PageCounts { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }

        /// How many pages went which way.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
        pub struct PageCounts { $($(#[$doc])* pub $name: u64,)* }
    };
}

counters! {
    /// Pages put into absent places by UFFDIO_COPY.
    placed,
    /// Pages whose run was populated before they were stored.
    populated,
    /// Pages stored for the first time into regions of huge pages.
    huge,
    /// Pages stored for the first time without further ado: one fault each
    /// where memory was absent.
    stored,
    /// Pages stored where data had been before.
    in_place,
    /// Pages written to a memory file.
    pwritten,
    /// Calls of UFFDIO_COPY.
    uffd_copies,
    /// Pages found present by UFFDIO_COPY and stored in place.
    eexist,
    /// Calls of UFFDIO_COPY that were disturbed and repeated.
    eagain,
    /// Zero pages left alone.
    zero_untouched,
    /// Zero pages cleared, those given back included.
    zero_cleared,
    /// Zero pages whose memory was given back.
    given_back,
    /// Times a writer met another one at the same pages.
    write_conflicts,
}

/// The way of one block and why.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct BlockWay {
    /// Name of the block.
    pub block: String,
    /// How its absent pages get their bytes.
    pub way: Way,
    /// Why this way, where it is not the policy's own.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: &'static str,
}

/// What placement did, for the migration's report.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct PlacementReport {
    /// The policy.
    pub policy: Policy,
    /// Why this policy.
    pub reason: String,
    /// Pages by way.
    #[serde(flatten)]
    pub pages: PageCounts,
    /// The way of each block that was attached.
    pub blocks: Vec<BlockWay>,
}
