//! Feeds a recording to a receiver, as its source did.
//!
//! A recording pairs its connections by SYNCs and marks only, so every file is
//! sent as fast as the receiver takes it.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::Shutdown,
    os::{fd::OwnedFd, unix::net::UnixStream},
    thread,
    time::Duration,
};

use super::{Recording, RecordingError};
use crate::wire::{
    ReturnMessage, ReturnPathError,
    main_stream::{Command, Event, Limits, MainParser},
};

/// Bytes copied at a time.
const COPY: usize = 256 << 10;
/// How long a receiver may take for its verdict. It may have to store a large
/// guest first.
const VERDICT: Duration = Duration::from_secs(600);
/// Front of the main stream in which a source opens its return path.
const FRONT: usize = 64 << 10;

/// What came of sending a recording.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// Bytes over all connections.
    pub bytes: u64,
    /// The receiver's SHUT, where the recording opens a return path.
    pub verdict: Option<u32>,
}

/// Why a recording did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The recording cannot be read.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// Connecting to the receiver.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// Sending.
    #[error("the receiver stopped taking {what}: {error}")]
    Write {
        /// Which connection.
        what: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// Reading the receiver's answers.
    #[error("the receiver gave no verdict: {0}")]
    NoVerdict(#[source] io::Error),
    /// The receiver's answers are not the protocol's.
    #[error(transparent)]
    ReturnPath(#[from] ReturnPathError),
    /// The receiver says that it failed.
    #[error("the receiver refused the migration (SHUT {0})")]
    Refused(u32),
}

/// Sends `recording` over connections made by `connect`: main first, since
/// some receivers take the first connection for it, then the channels.
pub fn send(
    recording: &Recording,
    connect: impl Fn() -> io::Result<OwnedFd>,
) -> Result<Sent, SendError> {
    let return_path = opens_return_path(recording)?;
    let mut files = recording.open_files()?.into_iter();
    let Some(main_file) = files.next() else {
        return Err(SendError::Recording(RecordingError::NoMain(recording.dir().to_owned())));
    };
    let main = socket(&connect)?;
    let mut channels = Vec::new();
    for file in files {
        channels.push((file, socket(&connect)?));
    }

    thread::scope(|scope| {
        let answers = return_path.then(|| {
            let main = &main;
            scope.spawn(move || verdict(main))
        });
        let channels: Vec<_> = channels
            .iter()
            .enumerate()
            .map(|(id, (file, socket))| {
                scope.spawn(move || copy(file, socket, || format!("channel {id}")))
            })
            .collect();
        let main_bytes = copy(&main_file, &main, || "the main stream".to_owned());
        let mut bytes = 0;
        let mut first = None;
        let mut count = |result| match result {
            Ok(count) => bytes += count,
            Err(error) => drop(first.get_or_insert(error)),
        };
        for channel in channels {
            count(channel.join().unwrap_or(Ok(0)));
        }
        count(main_bytes);
        if first.is_some() {
            // Nobody will answer a stream that was cut off.
            let _ = main.shutdown(Shutdown::Both);
        }
        let verdict = answers.map(|thread| thread.join());
        match (first, verdict) {
            (Some(error), _) => Err(error),
            (None, Some(Ok(Ok(0)))) => Ok(Sent { bytes, verdict: Some(0) }),
            (None, Some(Ok(Ok(value)))) => Err(SendError::Refused(value)),
            (None, Some(Ok(Err(error)))) => Err(error),
            (None, Some(Err(_)) | None) => Ok(Sent { bytes, verdict: None }),
        }
    })
}

/// A connected stream socket, of whatever family: std's Unix stream only adds
/// read, write and shutdown to the descriptor.
fn socket(connect: impl Fn() -> io::Result<OwnedFd>) -> Result<UnixStream, SendError> {
    Ok(UnixStream::from(connect().map_err(SendError::Connect)?))
}

fn copy(
    mut file: &File,
    mut socket: &UnixStream,
    what: impl Fn() -> String,
) -> Result<u64, SendError> {
    let mut buffer = vec![0; COPY];
    let mut done = 0;
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => return Ok(done),
            Ok(count) => count,
            Err(error) => return Err(SendError::Recording(RecordingError::Read(error))),
        };
        socket
            .write_all(&buffer[..count])
            .map_err(|error| SendError::Write { what: what(), error })?;
        done += count as u64;
    }
}

/// Reads answers until SHUT.
fn verdict(mut main: &UnixStream) -> Result<u32, SendError> {
    main.set_read_timeout(Some(VERDICT)).map_err(SendError::NoVerdict)?;
    let mut unread = Vec::new();
    loop {
        while let Some((used, message)) = ReturnMessage::parse(&unread)? {
            unread.drain(..used);
            if let ReturnMessage::Shut(value) = message {
                return Ok(value);
            }
        }
        let mut piece = [0; 512];
        match main.read(&mut piece).map_err(SendError::NoVerdict)? {
            0 => return Err(SendError::NoVerdict(io::ErrorKind::UnexpectedEof.into())),
            count => unread.extend_from_slice(&piece[..count]),
        }
    }
}

/// Whether the recorded source opened its return path.
fn opens_return_path(recording: &Recording) -> Result<bool, SendError> {
    let mut front = Vec::new();
    let main = recording.open_files()?.into_iter().next();
    if let Some(main) = main {
        main.take(FRONT as u64)
            .read_to_end(&mut front)
            .map_err(|error| SendError::Recording(RecordingError::Read(error)))?;
    }
    let mut parser = MainParser::new(Limits::default());
    let mut rest = &front[..];
    // A main stream that makes no sense is the receiver's to refuse.
    while let Ok(Some((used, event))) = parser.next(rest) {
        match event {
            Event::Command(Command::OpenReturnPath) => return Ok(true),
            Event::RamStart => return Ok(false),
            _ => rest = &rest[used..],
        }
    }
    Ok(false)
}
