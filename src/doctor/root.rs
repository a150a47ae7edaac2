//! Reads small files below a root directory.
//!
//! Files of `/sys` and `/proc` may be missing, refuse to be read, or fail in
//! the middle; each of these is an answer here and never an error that ends
//! the examination. Another root than `/` serves tests, and copies of another
//! host's files.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// More than any file read here has; keeps a strange file from filling memory.
const MOST: u64 = 4 << 20;

/// Where `/sys`, `/proc`, `/dev`, `/etc` and `/boot` are.
#[derive(Debug, Clone)]
pub struct Root {
    base: PathBuf,
}

/// Why there is no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lack {
    /// There is no such file or directory.
    Absent,
    /// There is one, and it could not be read, for this reason.
    Refused(String),
}

impl From<std::io::Error> for Lack {
    fn from(error: std::io::Error) -> Lack {
        match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => Lack::Absent,
            _ => Lack::Refused(error.to_string()),
        }
    }
}

impl std::fmt::Display for Lack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Lack::Absent => write!(f, "does not exist"),
            Lack::Refused(why) => write!(f, "cannot be read: {why}"),
        }
    }
}

impl Root {
    /// The running host.
    pub fn host() -> Root {
        Root::at("/")
    }

    /// A tree that has `sys`, `proc` and so on below `base`.
    pub fn at(base: impl Into<PathBuf>) -> Root {
        Root { base: base.into() }
    }

    /// Whether this is the running host, which can be tried and not only read.
    pub fn is_host(&self) -> bool {
        self.base == Path::new("/")
    }

    pub(super) fn path(&self, below: &str) -> PathBuf {
        self.base.join(below)
    }

    pub(super) fn exists(&self, below: &str) -> bool {
        self.path(below).exists()
    }

    /// The text of a file without white space at its ends.
    pub(super) fn read(&self, below: &str) -> Result<String, Lack> {
        let mut bytes = Vec::new();
        File::open(self.path(below))?.take(MOST).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// The names in a directory, `wq1.2` before `wq1.10`.
    pub(super) fn names(&self, below: &str) -> Result<Vec<String>, Lack> {
        let mut names: Vec<String> = std::fs::read_dir(self.path(below))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort_by_key(|name| (name.len(), name.clone()));
        Ok(names)
    }

    /// The last part of what a symbolic link points to.
    pub(super) fn link_name(&self, below: &str) -> Option<String> {
        let target = std::fs::read_link(self.path(below)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_an_answer() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("value"), b" 7\xff\n").unwrap();
        let root = Root::at(dir.path());
        assert_eq!(root.read("value").unwrap(), "7\u{fffd}");
        assert_eq!(root.read("missing"), Err(Lack::Absent));
        assert_eq!(root.read("value/below"), Err(Lack::Absent));
        assert!(matches!(root.read(""), Err(Lack::Refused(_))), "a directory is no file");
        assert_eq!(root.names("missing"), Err(Lack::Absent));
    }

    #[test]
    fn names_come_in_the_order_of_their_numbers() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["wq1.10", "wq1.2", "wq1.0"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(Root::at(dir.path()).names("").unwrap(), ["wq1.0", "wq1.2", "wq1.10"]);
    }
}
