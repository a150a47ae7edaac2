//! Records a migration as it is: every byte of every connection into a file of
//! its own, and just enough looking at the main stream to answer the source
//! and to know when it is over.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
    sync::Arc,
    thread,
};

use super::{
    Listener, Options, ReceiveError, SwitchoverAck,
    connection::{Connection, Filled},
    door::{Door, Source},
    main_stream::{LONGEST_ITEM, VMDESC_GRACE},
    session::Session,
};
use crate::{
    recording::{channel_file, main_file},
    wire::{
        Hello, ReturnMessage,
        main_stream::{Command, Event, MainParser, Phase, SectionKind},
    },
};

/// A recorded migration.
#[derive(Debug, Clone, Copy)]
pub struct Recorded {
    /// Number of channels.
    pub channels: usize,
    /// Bytes over all connections.
    pub bytes: u64,
    /// Whether the source waited for a verdict.
    pub return_path: bool,
}

/// Records one migration into `dir`, which exists. With `resume_source` the
/// source is told that it failed, so that its guest runs on.
pub fn record(
    listener: Listener,
    options: &Options,
    dir: &Path,
    resume_source: bool,
) -> Result<Recorded, ReceiveError> {
    let session = Arc::new(Session::new(options.idle_timeout)?);
    let serve = |hello: &Hello, connection| {
        let path = channel_file(dir, hello.id);
        let work = || -> Result<(), ReceiveError> {
            let mut out = create(&path)?;
            write(&mut out, &path, &hello.encode())?;
            copy_channel(connection, &mut out, &path)
        };
        work().map_err(|error| error.on_channel(hello.id))
    };
    let (door, ready) = Door::new(Source::Listener(listener), options, &session, &serve);
    let recorded = thread::scope(|scope| {
        let main = door.open(scope, ready);
        let Ok(connection) = main.recv() else {
            let (channels, main) = door.gate.present();
            session.fail(ReceiveError::Incomplete { channels, main });
            return None;
        };
        let mut settle = || door.settle().map(drop);
        match record_main(connection, options, dir, resume_source, &mut settle) {
            Ok(return_path) => {
                session.finish();
                Some(return_path)
            }
            Err(error) => {
                session.fail(error);
                None
            }
        }
    });
    match (recorded, session.take_error()) {
        (Some(return_path), None) => Ok(Recorded {
            channels: door.gate.present().0,
            bytes: session.counters.bytes.load(std::sync::atomic::Ordering::Relaxed),
            return_path,
        }),
        (_, error) => Err(error.unwrap_or(ReceiveError::Stopped)),
    }
}

fn create(path: &Path) -> Result<File, ReceiveError> {
    File::create_new(path).map_err(|error| ReceiveError::File(path.to_owned(), error))
}

fn write(out: &mut File, path: &Path, bytes: &[u8]) -> Result<(), ReceiveError> {
    out.write_all(bytes).map_err(|error| ReceiveError::File(path.to_owned(), error))
}

/// Copies a channel until the source closes it.
fn copy_channel(
    mut connection: Connection,
    out: &mut File,
    path: &Path,
) -> Result<(), ReceiveError> {
    // Its own silence counts only once the whole migration is silent.
    connection.read_to_the_end();
    loop {
        let count = connection.unread().len();
        write(out, path, connection.unread())?;
        connection.consume(count);
        if connection.fill(LONGEST_ITEM)? == Filled::End {
            return Ok(());
        }
    }
}

/// Copies the main stream, answers the source, gives the verdict. Returns
/// whether the source waited for it.
fn record_main(
    mut connection: Connection,
    options: &Options,
    dir: &Path,
    resume_source: bool,
    settle: &mut dyn FnMut() -> Result<(), ReceiveError>,
) -> Result<bool, ReceiveError> {
    let path = main_file(dir);
    let mut out = create(&path)?;
    let mut parser = MainParser::new(options.limits.clone());
    let mut return_path = false;
    let mut per_round = false;
    loop {
        let Some((used, event)) = parser.next(connection.unread())? else {
            let last_piece = parser.phase() == Phase::EofSeen;
            connection.set_patience(last_piece.then_some(VMDESC_GRACE));
            match connection.fill(LONGEST_ITEM) {
                Ok(Filled::More) => continue,
                Ok(Filled::End | Filled::Finished) => {}
                Err(error) if last_piece && error.kind() == io::ErrorKind::TimedOut => {}
                Err(error) => return Err(error.into()),
            }
            parser.finish(connection.unread())?;
            write(&mut out, &path, connection.unread())?;
            break;
        };
        let bytes = &connection.unread()[..used];
        write(&mut out, &path, bytes)?;
        let mut answer = None;
        let mut start_is_over = false;
        let mut over = false;
        match event {
            Event::Command(Command::OpenReturnPath) => return_path = true,
            Event::Command(Command::Ping(value)) => answer = Some(ReturnMessage::Pong(value)),
            Event::Flush => per_round = true,
            Event::Eos { section: SectionKind::Start } => {
                start_is_over = true;
                let ack = match options.switchover_ack {
                    SwitchoverAck::Auto => per_round,
                    SwitchoverAck::Always => true,
                    SwitchoverAck::Never => false,
                };
                answer = ack.then_some(ReturnMessage::SwitchoverAck);
            }
            Event::End(_) => over = true,
            _ => {}
        }
        connection.consume(used);
        if start_is_over {
            if options.need_return_path && !return_path {
                return Err(ReceiveError::NoReturnPath);
            }
            settle()?;
        }
        if let Some(message) = answer
            && return_path
        {
            connection.answer(&message)?;
        }
        if over {
            break;
        }
    }
    out.sync_data().map_err(|error| ReceiveError::File(path.clone(), error))?;
    if return_path {
        connection.answer(&ReturnMessage::Shut(resume_source.into()))?;
    }
    Ok(return_path)
}
