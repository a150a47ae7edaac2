//! The hardware engine: page jobs on an Intel IAA, through libqpl.
//!
//! ```text
//! channel ── submit ──> queue ──┬─ job ─┐
//!                        ^      ├─ job ─┼──> work queue ──> IAA ──> staging
//!                        │      └─ job ─┘                              │
//!                        └── look, out of order ── commit in order <───┘
//! ```
//!
//! A queue keeps many jobs in flight: it submits the pages of a packet as they
//! come, returns, and looks for finished ones when it is called again. Packets
//! are put into guest memory in the order they came, so that of two versions of
//! a page the later one stays.
//!
//! # What a device may do wrong
//!
//! Anything, and no page is lost or spoiled by it. A page counts as done when
//! the status is 0 and 4096 bytes came out (and, with [`Options::verify`], the
//! checksum that the device reports is that of the page in memory). In every
//! other case this page goes through software: when all queues are full, when
//! there is no queue, after a page fault, an error, a short page, a missed
//! deadline. Only when software, too, finds the block damaged is that an error.
//! A device that fails all the time is left alone for a while, and in the end
//! for good: see [`health`].
//!
//! # Who owns memory while a job runs
//!
//! The device does: the job's block, which it writes its completion record to,
//! the block's compressed bytes, and the page it writes. A job that misses its
//! deadline may be done at any later time, so all three are set apart together
//! until its end is seen, and never freed before; the page is made in software
//! elsewhere. A job that ends late gives everything back.
//!
//! # Where the device writes
//!
//! Into staging, which is resident, so the device meets no page fault: under
//! userfaultfd a missing page could not even be resolved for it. From there a
//! page is placed by the kernel or copied. The device can write pages that are
//! present in guest memory directly ([`Options::direct`]), which saves the copy,
//! at a price: such a page cannot be made elsewhere when the job misses its
//! deadline, because the device might still write it after the guest runs. So
//! then there is nothing to do but wait, and to end the migration when the
//! device does not answer at all; and since the pages are locked against other
//! writers from begin to end, only one packet at a time is in flight. That is
//! why it is off unless asked for.
//!
//! # Memory
//!
//! A job's block is some 184 KiB. A queue sets jobs up as it needs them, at most
//! [`Options::jobs`] of them, and all queues together [`Options::total_jobs`].
//!
//! Jobs do not survive a fork: the portal of a work queue is not inherited.

mod device;
mod engine;
pub mod health;
mod job;
mod libqpl;
mod pace;
mod parked;
mod probe;
mod queue;
pub mod simulator;
mod status;

use std::time::Duration;

pub use device::{Device, Outcome, Request};
pub use engine::HardwareEngine;
pub use job::{Job, JobError, Look};
pub use libqpl::{LibQpl, Numa, Path};
pub use pace::Pace;
pub use simulator::{Faults, Simulator};
pub use status::{Status, Trouble};

/// How the hardware engine works.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most jobs of one channel.
    pub jobs: usize,
    /// Most jobs of all channels together. A channel gets [`FEWEST_JOBS`] in any
    /// case.
    pub total_jobs: usize,
    /// Most packets of one channel that are in flight.
    pub packets: usize,
    /// How long a job may take.
    pub deadline: Duration,
    /// Whether the checksum of each page is compared with what the device says.
    pub verify: bool,
    /// Whether the device writes pages that are present directly.
    pub direct: bool,
    /// With `direct`: how long a job that missed its deadline is waited for
    /// before the migration ends.
    pub direct_patience: Duration,
    /// Which devices are used.
    pub numa: Numa,
}

/// Jobs that a channel may set up, however many others there are.
pub const FEWEST_JOBS: usize = 8;

impl Default for Options {
    fn default() -> Self {
        Self {
            // Half of a device's 128 queue entries, 12 MiB of blocks.
            jobs: 64,
            // What two devices hold, 46 MiB of blocks.
            total_jobs: 256,
            packets: 4,
            // Ten times the longest page fault of a device that is on record,
            // and far below the time a guest may be down.
            deadline: Duration::from_millis(250),
            verify: false,
            direct: false,
            direct_patience: Duration::from_secs(10),
            numa: Numa::Any,
        }
    }
}
