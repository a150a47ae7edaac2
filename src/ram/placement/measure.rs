//! What this host allows, and which policy is best on it.
//!
//! The measurement places a few dozen scratch pages in each way and looks at
//! CPU time, which a busy host disturbs less than wall time. `place` is
//! preferred unless another way is clearly faster, because it alone causes no
//! page faults, and because small differences in a short measurement mean
//! nothing. `fault` is `populate` with
//! a trap for each page on top, so it is only tried where `place` is not to be
//! had. `huge` is never chosen unasked: it trades memory for speed.
//!
//! Every page that is tried in another way than `place` is a page fault on the
//! migration's account, hence no more of them than a run of pages takes to show
//! its cost: 96 with these figures.

use std::{fs, io};

use super::{
    Policy,
    uffd::{CopyPages, Uffd},
};
use crate::{
    ram::mapping::{HUGE_PAGE, Mapping, populate},
    wire::PAGE_SIZE,
};

/// Pages of one trial: the run that a chunk of a dense packet makes.
const TRIAL_PAGES: usize = 32;
const TRIAL: usize = TRIAL_PAGES * PAGE_SIZE;
/// Trials of each way; the fastest counts, so that disturbed ones do not.
const TRIALS: usize = 3;

/// What the host allows.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) uffd: io::Result<Uffd>,
    pub(super) populate: io::Result<()>,
}

impl Host {
    pub(super) fn probe() -> io::Result<Self> {
        let scratch = Mapping::new(PAGE_SIZE, PAGE_SIZE, None)?;
        // SAFETY: the scratch page was just mapped.
        let populate = unsafe { populate(scratch.start().as_ptr(), PAGE_SIZE) };
        Ok(Self { uffd: Uffd::open(), populate })
    }

    /// Why a policy cannot be had here, if it cannot.
    pub(super) fn objection(&self, policy: Policy) -> Option<String> {
        match policy {
            Policy::Place => self.uffd.as_ref().err().map(|error| {
                format!(
                    "userfaultfd is not to be had ({error}); set vm.unprivileged_userfaultfd=1 \
                     or allow /dev/userfaultfd"
                )
            }),
            Policy::Populate => self.populate.as_ref().err().map(|error| {
                format!("MADV_POPULATE_WRITE is not to be had ({error}); it takes Linux 5.14")
            }),
            Policy::Huge => {
                let setting = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
                let on = setting.is_ok_and(|setting| !setting.contains("[never]"));
                (!on).then(|| "transparent huge pages are off on this host".to_owned())
            }
            Policy::Fault => None,
        }
    }

    /// The best policy, and why.
    pub(super) fn best(&self) -> io::Result<(Policy, String)> {
        let source = Mapping::new(HUGE_PAGE, HUGE_PAGE, None)?;
        source.advise_huge(true);
        source.make_resident()?;
        let mut times = Vec::new();
        for policy in [Policy::Place, Policy::Populate, Policy::Fault] {
            let wanted = policy != Policy::Fault || self.uffd.is_err();
            if wanted && self.objection(policy).is_none() {
                times.push((policy, self.time(policy, &source)?));
            }
        }
        let fastest = times.iter().map(|&(_, ns)| ns).min().unwrap_or(0);
        // In the order above: from the fewest faults to the most.
        let close_enough = |&&(_, ns): &&(Policy, u64)| 2 * ns <= 3 * fastest;
        let best = times.iter().find(close_enough).map_or(Policy::Fault, |&(policy, _)| policy);
        let times: Vec<String> = times.iter().map(|(p, ns)| format!("{p} {ns}")).collect();
        let missing = self.objection(Policy::Place).map_or(String::new(), |why| format!("; {why}"));
        Ok((best, format!("measured ns per page: {}{missing}", times.join(", "))))
    }

    /// Nanoseconds a page, decoding stood in for by a copy.
    fn time(&self, policy: Policy, source: &Mapping) -> io::Result<u64> {
        let mut best = u64::MAX;
        for _ in 0..TRIALS {
            let scratch = Mapping::new(TRIAL, PAGE_SIZE, None)?;
            scratch.advise_huge(false);
            let to = scratch.start().as_ptr();
            let staging = source.start().as_ptr();
            if let (Policy::Place, Ok(uffd)) = (policy, &self.uffd) {
                uffd.register(to, TRIAL)?;
            }
            let started = thread_nanoseconds();
            match (policy, &self.uffd) {
                (Policy::Place, Ok(uffd)) => {
                    // SAFETY: both halves lie in `source`, which is ours.
                    unsafe { staging.add(TRIAL).copy_to_nonoverlapping(staging, TRIAL) };
                    // SAFETY: `to` is scratch memory registered just above.
                    if let (_, Some(error)) = unsafe { uffd.copy(to, staging, TRIAL) } {
                        return Err(error);
                    }
                }
                _ => {
                    if policy == Policy::Populate {
                        // SAFETY: `to` is scratch memory of this length.
                        unsafe { populate(to, TRIAL)? };
                    }
                    // SAFETY: `source` and `scratch` are ours and apart.
                    unsafe { staging.add(TRIAL).copy_to_nonoverlapping(to, TRIAL) };
                }
            }
            let elapsed = thread_nanoseconds().saturating_sub(started);
            best = best.min(elapsed / TRIAL_PAGES as u64);
            // Unmapping a range ends its registration too.
        }
        Ok(best)
    }
}

/// CPU time of the calling thread.
fn thread_nanoseconds() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is one timespec. The clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
