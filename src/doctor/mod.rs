//! Finds out whether this host can decompress pages on an IAA device, and if
//! not, which command mends it.
//!
//! Between a migration and the device lies a chain that a person has to get
//! right: the CPU, the kernel and its command line, the IOMMU, the PCI device,
//! the idxd driver, the work queues, the rights on their nodes,
//! libaccel-config, libqpl. When one link is missing libqpl says `503`, and
//! nothing else. So each link is looked at on its own, from the bottom up:
//!
//! ```text
//! cpu -> kernel -> cmdline -> iommu -> paging -> pci -> driver -> sva
//!     -> device:iax1 -> queue:wq1.0 -> node:wq1.0 -> queues
//!     -> accel-config -> libqpl -> portal -> qpl-init -> round-trip
//! beside the chain: userfaultfd, populate, hugepages, numa-balancing,
//!                   tracefs, perf
//! ```
//!
//! Two sorts of facts come in. [`Root`] reads files below `/sys`, `/proc`,
//! `/dev`, `/etc` and `/boot`, or below a copy of them. [`Probes`] holds what
//! only trying can tell: opening the nodes, and asking libqpl for a job and a
//! page. [`examine`] turns both into a [`Report`] and touches nothing else, so
//! a test hands it a made-up tree and made-up probes.
//!
//! A link that cannot be judged because a lower one is bad is `unknown`,
//! "needs that one first": one cause gives one bad line. A link that is proved
//! by its effect is good whatever the lower ones look like.

mod ask;
mod cpu_kernel;
mod iommu;
mod job;
mod library;
mod memory;
mod mend;
mod pci;
mod probes;
mod queues;
mod root;
mod text;
mod trace;

pub use ask::{ask_library, tell_about_library};
pub use library::explain;
pub use probes::{Ending, LibraryProbe, NodeProbe, Probes, QplFound, RoundTrip, SymbolsFound};
pub use root::Root;
pub use text::render;

use serde::Serialize;

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// As it must be.
    Good,
    /// Has to be mended; the check says how.
    Bad,
    /// Could not be judged; the detail says why.
    Unknown,
    /// Makes no difference on this host.
    NotNeeded,
}

impl State {
    /// The word a person reads.
    pub fn word(self) -> &'static str {
        match self {
            State::Good => "good",
            State::Bad => "bad",
            State::Unknown => "unknown",
            State::NotNeeded => "not needed",
        }
    }
}

/// One link of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable name; lines about one device, queue or node end in its name, as
    /// in `queue:wq1.0`.
    pub id: String,
    /// What is looked at, for a person.
    pub title: String,
    /// What it came to.
    pub state: State,
    /// What was found.
    pub detail: String,
    /// Shell commands that mend it, one a line; where no command does, a
    /// comment (`# ...`) that says what does.
    pub fix: Option<String>,
    /// Title of the bad check that this one waits for.
    #[serde(skip)]
    needs: Option<String>,
    /// Whether the device works without this.
    #[serde(skip)]
    advice: bool,
}

impl Check {
    fn new(id: &str, title: &str, state: State, detail: impl Into<String>) -> Check {
        Check {
            id: id.into(),
            title: title.into(),
            state,
            detail: detail.into(),
            fix: None,
            needs: None,
            advice: false,
        }
    }

    fn good(id: &str, title: &str, detail: impl Into<String>) -> Check {
        Check::new(id, title, State::Good, detail)
    }

    fn bad(id: &str, title: &str, detail: impl Into<String>, fix: impl Into<String>) -> Check {
        let mut check = Check::new(id, title, State::Bad, detail);
        check.fix = Some(fix.into());
        check
    }

    fn unknown(id: &str, title: &str, detail: impl Into<String>) -> Check {
        Check::new(id, title, State::Unknown, detail)
    }

    fn not_needed(id: &str, title: &str, detail: impl Into<String>) -> Check {
        Check::new(id, title, State::NotNeeded, detail)
    }

    /// Waits for the bad check called `first`.
    fn needs(id: &str, title: &str, first: String) -> Check {
        let mut check = Check::unknown(id, title, format!("needs {first} first"));
        check.needs = Some(first);
        check
    }

    /// The device works without it: never the verdict's cause.
    fn advice(mut self) -> Check {
        self.advice = true;
        self
    }
}

/// Where pages would be decompressed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// `iaa`; `software`; or `unknown` when only files could be looked at and
    /// nothing in them speaks against the device.
    pub engine: &'static str,
    /// One sentence for a person.
    pub sentence: String,
    /// The id of the check to mend first.
    pub mend: Option<String>,
}

/// All checks, from the bottom of the chain up, and what follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The checks in the order in which they should be mended.
    pub checks: Vec<Check>,
    /// What they come to.
    pub verdict: Verdict,
}

impl Report {
    /// Whether a page went through the device.
    pub fn iaa_usable(&self) -> bool {
        self.verdict.engine == "iaa"
    }

    /// The check of this id.
    pub fn check(&self, id: &str) -> Option<&Check> {
        self.checks.iter().find(|check| check.id == id)
    }
}

/// The checks made so far; later ones ask it what they would stand on.
#[derive(Debug, Default)]
struct Chain {
    checks: Vec<Check>,
}

impl Chain {
    fn push(&mut self, check: Check) {
        self.checks.push(check);
    }

    /// The title of the first thing among `ids` that is bad, or that itself
    /// waits for something bad.
    fn lacking(&self, ids: &[&str]) -> Option<String> {
        let of = |id: &&str| self.checks.iter().find(|check| check.id == *id);
        ids.iter().filter_map(of).find_map(|check| match check.state {
            State::Bad if !check.advice => Some(check.title.clone()),
            State::Unknown => check.needs.clone(),
            _ => None,
        })
    }

    fn is(&self, id: &str, state: State) -> bool {
        self.checks.iter().any(|check| check.id == id && check.state == state)
    }
}

/// Judges the whole chain from the files below `root` and from `probes`.
pub fn examine(root: &Root, probes: &Probes) -> Report {
    let mut chain = Chain::default();
    let mend = mend::Mend::of(root);
    let host = cpu_kernel::Host::read(root);
    let devices = pci::Devices::read(root);
    cpu_kernel::check(&mut chain, root, &host, &devices, &mend);
    iommu::check(&mut chain, root, &host, &devices, &mend);
    pci::check(&mut chain, root, &devices);
    let nodes = queues::check(&mut chain, root, &devices, probes);
    library::check(&mut chain, probes, &nodes, &mend);
    memory::check(&mut chain, root, probes, &devices);
    trace::check(&mut chain, root, &devices);
    let verdict = judge(&chain.checks, probes);
    Report { checks: chain.checks, verdict }
}

fn judge(checks: &[Check], probes: &Probes) -> Verdict {
    let bad = |advice: bool| {
        checks.iter().find(|check| check.state == State::Bad && check.advice == advice)
    };
    let good = |id: &str| checks.iter().any(|check| check.id == id && check.state == State::Good);
    let describe = |check: &Check| format!("{:?}: {}", check.title, check.detail);
    if good("round-trip") {
        if !good("queues") {
            return Verdict {
                engine: "iaa",
                sentence: "Pages are decompressed by engine iaa here, but not by a device that \
                           can be seen: something stands in for libaccel-config."
                    .into(),
                mend: None,
            };
        }
        let first = bad(false).or_else(|| bad(true));
        let rest = match first {
            None => "nothing has to be mended".to_owned(),
            Some(check) => format!("it would do better with a mended {}", describe(check)),
        };
        return Verdict {
            engine: "iaa",
            sentence: format!("Pages are decompressed by engine iaa here; {rest}."),
            mend: first.map(|check| check.id.clone()),
        };
    }
    match bad(false) {
        Some(check) => Verdict {
            engine: "software",
            sentence: format!(
                "Pages are decompressed by engine software here; to use the device, first \
                 mend {}.",
                describe(check)
            ),
            mend: Some(check.id.clone()),
        },
        None if probes.library.is_none() => Verdict {
            engine: "unknown",
            sentence: "Nothing in these files speaks against engine iaa, but no page was tried: \
                       run this on the host itself."
                .into(),
            mend: None,
        },
        None => Verdict {
            engine: "software",
            sentence: "Pages are decompressed by engine software here; no check could tell why \
                       the device does not answer."
                .into(),
            mend: None,
        },
    }
}
