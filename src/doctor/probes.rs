//! What only trying can tell: opening nodes, calling the kernel.
//!
//! A file's mode says little about whether this process may open it, and
//! nothing about whether the kernel lets it map what is behind; so the nodes
//! are opened and mapped as libqpl would, and let go again. Nothing is
//! submitted here. libqpl itself is asked in a process of its own, see
//! [`ask_library`](super::ask_library).

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use serde::{Deserialize, Serialize};

use super::queues::NODES;
use super::root::Root;

/// Everything that was tried. What was not is `None` or missing.
#[derive(Debug, Clone, Default)]
pub struct Probes {
    /// By the name of the queue, `wq1.0`.
    pub nodes: BTreeMap<String, NodeProbe>,
    /// What libqpl and libaccel-config said.
    pub library: Option<LibraryProbe>,
    /// Whether this process gets a userfaultfd, or the reason why not.
    pub userfaultfd: Option<Result<(), String>>,
    /// Whether the kernel populates pages for writing, or why not.
    pub populate: Option<Result<(), String>>,
}

/// What opening a work queue's node came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeProbe {
    /// It opens, and its portal can be mapped.
    Mapped,
    /// It opens, but mapping its portal is refused.
    WriteOnly {
        /// The error of the mapping.
        why: String,
    },
    /// This user has no right to open it.
    Denied {
        /// The error of opening.
        why: String,
    },
    /// It does not open for another reason.
    Failed {
        /// The error of opening.
        why: String,
    },
}

/// What the libraries said, as far as the asking got.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LibraryProbe {
    /// libaccel-config, or why it does not load.
    pub accel_config: Option<Result<SymbolsFound, String>>,
    /// libqpl, or why it does not load.
    pub qpl: Option<Result<QplFound, String>>,
    /// Status of the initialisation of a hardware job.
    pub init: Option<u32>,
    /// What became of the page.
    pub trip: Option<RoundTrip>,
    /// How the process that asked ended.
    pub ending: Ending,
}

/// libaccel-config as it was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SymbolsFound {
    /// The file.
    pub path: String,
    /// Functions that libqpl cannot do without, and that it lacks.
    pub missing: Vec<String>,
    /// Functions of release 4.0 that it lacks.
    pub missing_newer: Vec<String>,
}

/// libqpl as it was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QplFound {
    /// The file.
    pub path: String,
    /// What it says of itself, `1.9.0`.
    pub version: String,
}

impl QplFound {
    /// Major and minor number.
    pub fn numbers(&self) -> Option<(u32, u32)> {
        let mut parts = self.version.trim_start_matches('v').split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

/// One page through the hardware path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundTrip {
    /// libqpl's status; 1 means that the job was still running at the deadline.
    pub status: u32,
    /// Bytes that came out.
    pub output: u32,
    /// Whether they are the page that went in.
    pub equal: bool,
    /// Submissions refused because the queues were full.
    pub busy: u32,
    /// Microseconds from the submission that was taken to the result.
    pub micros: u64,
}

/// How the process that asked libqpl ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// By itself.
    #[default]
    Finished,
    /// By this signal.
    Signal(i32),
    /// It was ended after so many seconds.
    TimedOut(u64),
    /// It could not be run.
    NotRun(String),
}

impl Probes {
    /// Tries everything on the running host, but for the libraries, which
    /// `library` has asked.
    pub fn of_host(library: LibraryProbe) -> Probes {
        let root = Root::host();
        let names = root.names(NODES).unwrap_or_default();
        let nodes = names.into_iter().filter(|name| name.starts_with("wq"));
        Probes {
            nodes: nodes.map(|name| (name.clone(), try_node(&root, &name))).collect(),
            library: Some(library),
            userfaultfd: Some(try_userfaultfd().map_err(|error| error.to_string())),
            populate: Some(try_populate().map_err(|error| error.to_string())),
        }
    }
}

fn try_node(root: &Root, name: &str) -> NodeProbe {
    let path = root.path(&format!("{NODES}/{name}"));
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return NodeProbe::Denied { why: error.to_string() };
        }
        Err(error) => return NodeProbe::Failed { why: error.to_string() },
    };
    // SAFETY: a new mapping at an address of the kernel's choice touches no
    // memory of ours, and the descriptor is open.
    let portal = unsafe {
        libc::mmap(ptr::null_mut(), 4096, libc::PROT_WRITE, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    if portal == libc::MAP_FAILED {
        return NodeProbe::WriteOnly { why: io::Error::last_os_error().to_string() };
    }
    // SAFETY: exactly the mapping just made, which nothing else knows.
    unsafe { libc::munmap(portal, 4096) };
    NodeProbe::Mapped
}

fn try_userfaultfd() -> io::Result<()> {
    // Faults of user code only: needs no right since Linux 5.11.
    const UFFD_USER_MODE_ONLY: libc::c_int = 1;
    // SAFETY: the call takes flags only and returns a new descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | UFFD_USER_MODE_ONLY) };
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor just made, owned by nobody else.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}

fn try_populate() -> io::Result<()> {
    const LEN: usize = 4096;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice.
    let page = unsafe {
        libc::mmap(
            ptr::null_mut(),
            LEN,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the advice makes pages of our own mapping present, no more.
    let result = match unsafe { libc::madvise(page, LEN, libc::MADV_POPULATE_WRITE) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: exactly the mapping just made, which nothing else knows.
    unsafe { libc::munmap(page, LEN) };
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_opened_and_mapped() {
        let dir = tempfile::tempdir().unwrap();
        let nodes = dir.path().join(NODES);
        std::fs::create_dir_all(nodes.join("wq1.3")).unwrap();
        std::fs::write(nodes.join("wq1.0"), [0; 4096]).unwrap();
        nix::unistd::mkfifo(&nodes.join("wq1.1"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let root = Root::at(dir.path());
        assert_eq!(try_node(&root, "wq1.0"), NodeProbe::Mapped);
        assert!(matches!(try_node(&root, "wq1.1"), NodeProbe::WriteOnly { .. }), "a pipe");
        assert!(matches!(try_node(&root, "wq1.2"), NodeProbe::Failed { .. }), "missing");
        assert!(matches!(try_node(&root, "wq1.3"), NodeProbe::Failed { .. }), "a directory");
    }

    #[test]
    fn the_host_can_be_tried() {
        let probes = Probes::of_host(LibraryProbe::default());
        assert!(probes.userfaultfd.is_some() && probes.populate.is_some());
    }
}
