//! Writes the files of a new recording.

use std::{
    fs::{self, File},
    io::{self, BufWriter},
    path::{Path, PathBuf},
};

use super::{MAX_CHANNELS, channel_file, main_file};

/// Bytes gathered before a file is written to.
const BUFFER: usize = 256 << 10;

/// Why a recording cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// There is one already; two in one directory would mix.
    #[error("{} holds a recording already: choose another directory", .0.display())]
    Exists(PathBuf),
    /// A file cannot be written.
    #[error("{}: {error}", path.display())]
    Write {
        /// The file, or the directory.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
}

impl WriteError {
    /// For use with `map_err`: names the file.
    pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |error| Self::Write { path: path.to_owned(), error }
    }
}

/// A directory that becomes a recording.
#[derive(Debug)]
pub struct RecordingWriter {
    dir: PathBuf,
}

impl RecordingWriter {
    /// Makes `dir`, unless it exists, and sees to it that no recording is in
    /// it: left-over channels would be taken for channels of the new one.
    pub fn create(dir: impl Into<PathBuf>) -> Result<Self, WriteError> {
        let dir = dir.into();
        fs::create_dir_all(&dir).map_err(WriteError::at(&dir))?;
        let mut files = (0..=MAX_CHANNELS).filter_map(|id| u8::try_from(id).ok());
        let taken = main_file(&dir).exists() || files.any(|id| channel_file(&dir, id).exists());
        if taken { Err(WriteError::Exists(dir)) } else { Ok(Self { dir }) }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Begins the main stream's file.
    pub fn main(&self) -> Result<BufWriter<File>, WriteError> {
        self.file(&main_file(&self.dir))
    }

    /// Begins a channel's file; its hello comes first.
    pub fn channel(&self, id: u8) -> Result<BufWriter<File>, WriteError> {
        self.file(&channel_file(&self.dir, id))
    }

    fn file(&self, path: &Path) -> Result<BufWriter<File>, WriteError> {
        let file = File::create_new(path).map_err(WriteError::at(path))?;
        Ok(BufWriter::with_capacity(BUFFER, file))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::recording::{Recording, RecordingError};

    #[test]
    fn a_written_recording_opens_and_is_not_written_twice() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("new/recording");
        let writer = RecordingWriter::create(&dir).unwrap();
        assert!(matches!(Recording::open(&dir), Err(RecordingError::NoMain(_))));
        writer.main().unwrap().write_all(b"main").unwrap();
        writer.channel(0).unwrap().write_all(b"zero").unwrap();
        writer.channel(1).unwrap();
        assert_eq!(Recording::open(&dir).unwrap().channels(), 2);
        assert!(matches!(RecordingWriter::create(&dir), Err(WriteError::Exists(_))));

        fs::remove_file(dir.join("main.bin")).unwrap();
        fs::remove_file(dir.join("ch0.bin")).unwrap();
        assert!(matches!(RecordingWriter::create(&dir), Err(WriteError::Exists(_))));
    }
}
