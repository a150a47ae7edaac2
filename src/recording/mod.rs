//! Recorded migrations: one file per connection, byte by byte.
//!
//! A recording is a directory with `main.bin` and `ch0.bin`, `ch1.bin`, ...
//! (each with its hello). Nothing else is required: the connections of a
//! migration are ordered against each other by SYNCs and marks only, which are
//! in the files.

mod generate;
mod send;
mod writer;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

pub use generate::{GenerateError, GenerateOptions, Generated, Pattern, UnknownPattern, generate};
pub use send::{SendError, Sent, send};
pub use writer::{RecordingWriter, WriteError};

/// Most channels a source can have.
const MAX_CHANNELS: usize = 255;

/// Where the main stream of a recording is.
pub fn main_file(dir: &Path) -> PathBuf {
    dir.join("main.bin")
}

/// Where a channel of a recording is.
pub fn channel_file(dir: &Path, id: u8) -> PathBuf {
    dir.join(format!("ch{id}.bin"))
}

/// Why a directory is not a recording, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// There is no main stream.
    #[error("{} is not a recording: it has no main.bin", .0.display())]
    NoMain(PathBuf),
    /// The channels' files are not numbered from 0 without a gap.
    #[error("{} has {found} channel files, but ch{missing}.bin is not among them", dir.display())]
    Gap {
        /// The recording.
        dir: PathBuf,
        /// Channel files.
        found: usize,
        /// The smallest number that is missing.
        missing: usize,
    },
    /// A file cannot be opened.
    #[error("{}: {error}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// A file cannot be read.
    #[error("reading a recording: {0}")]
    Read(#[source] io::Error),
}

/// A recording on disk.
#[derive(Debug, Clone)]
pub struct Recording {
    dir: PathBuf,
    channels: usize,
}

impl Recording {
    /// Looks at what is in `dir`.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, RecordingError> {
        let dir = dir.into();
        if !main_file(&dir).is_file() {
            return Err(RecordingError::NoMain(dir));
        }
        let present: Vec<usize> =
            (0..=MAX_CHANNELS).filter(|&id| channel_file(&dir, id as u8).is_file()).collect();
        if let Some(missing) = (0..present.len()).find(|&id| present[id] != id) {
            return Err(RecordingError::Gap { dir, found: present.len(), missing });
        }
        Ok(Self { dir, channels: present.len() })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Number of channels.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Opens all of its files: the main stream first, then the channels.
    pub fn open_files(&self) -> Result<Vec<File>, RecordingError> {
        std::iter::once(main_file(&self.dir))
            .chain((0..self.channels).map(|id| channel_file(&self.dir, id as u8)))
            .map(|path| File::open(&path).map_err(|error| RecordingError::Open { path, error }))
            .collect()
    }
}
