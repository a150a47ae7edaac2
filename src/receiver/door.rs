//! Lets connections in: every one gets a thread at once, which finds out what
//! it is and, if it is a channel, serves it to its end.
//!
//! A source may have all of its connections open before it sends a byte, or
//! keep main's first byte back until the channels are connected: so nobody
//! here waits for one connection before accepting the next.

use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, Scope},
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, unbounded};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{
    Listener, Options, ReceiveError,
    connection::Connection,
    gate::{Caller, Gate},
    session::Session,
};
use crate::wire::Hello;

/// How often the acceptor looks whether the session still lives.
const TICK_MS: u16 = 100;

/// Where the connections of a migration come from.
pub enum Source {
    /// They connect.
    Listener(Listener),
    /// They are there.
    Sockets(Vec<OwnedFd>),
    /// They were recorded.
    Files(Vec<File>),
}

/// How long a connection that came too late may take to say what it is. A
/// source's channel has said so long before.
const SURPLUS_PATIENCE: Duration = Duration::from_secs(1);

/// Most connections looked at that came when all were there.
const MAX_SURPLUS: usize = 16;

/// What serves a channel.
pub type Serve<'a> = dyn Fn(&Hello, Connection) -> Result<(), ReceiveError> + Sync + 'a;

/// Lets connections in.
pub struct Door<'a> {
    pub gate: Gate,
    session: &'a Arc<Session>,
    /// Serves a channel to its end; its hello has been taken off.
    serve: &'a Serve<'a>,
    patience: Duration,
    /// Held from before a connection is accepted until the gate knows of it.
    accepting: Mutex<()>,
    listener: Option<Listener>,
    recorded: bool,
}

impl<'a> Door<'a> {
    /// A door for the connections of `source`, and those of them that are there.
    pub fn new(
        source: Source,
        options: &Options,
        session: &'a Arc<Session>,
        serve: &'a Serve<'a>,
    ) -> (Self, Vec<OwnedFd>) {
        let (listener, ready, recorded) = match source {
            Source::Listener(listener) => (Some(listener), Vec::new(), false),
            Source::Sockets(sockets) => (None, sockets, false),
            Source::Files(files) => (None, files.into_iter().map(OwnedFd::from).collect(), true),
        };
        let channels = match &listener {
            Some(_) => options.channels,
            None => options.channels.or(Some(ready.len().saturating_sub(1))),
        };
        let door = Self {
            gate: Gate::new(channels),
            session,
            serve,
            patience: options.hello_timeout,
            accepting: Mutex::new(()),
            listener,
            recorded,
        };
        (door, ready)
    }

    /// Opens the door. The main connection comes out of the channel returned;
    /// none comes when the session fails first.
    pub fn open<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        ready: Vec<OwnedFd>,
    ) -> Receiver<Connection> {
        let (send, main) = unbounded();
        for fd in ready {
            self.gate.accepted();
            self.admit(scope, fd, &send);
        }
        if let Some(listener) = &self.listener {
            scope.spawn(move || {
                if let Err(error) = self.accept(scope, listener, &send) {
                    self.session.fail(error);
                }
            });
        }
        main
    }

    /// Accepts until all are there or the session is over.
    fn accept<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        listener: &Listener,
        main: &Sender<Connection>,
    ) -> Result<(), ReceiveError> {
        let session = &**self.session;
        while !(self.gate.is_complete() || session.has_failed() || session.is_finished()) {
            let mut wait = [
                PollFd::new(session.stop_signal(), PollFlags::POLLIN),
                PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            ];
            // When all are there, or a crowd of strangers is, whoever comes stays
            // in the kernel's queue: until there is room, or `settle` looks at it.
            let awaited = if self.gate.is_full() { 1 } else { 2 };
            let timeout = PollTimeout::from(TICK_MS);
            if poll(&mut wait[..awaited], timeout).map_err(std::io::Error::from)? == 0 {
                // Waiting for a source to begin, strangers or not, has no end.
                let (channels, main) = self.gate.present();
                if channels + main > 0 && session.check_quiet(Duration::ZERO, false).is_err() {
                    return Err(ReceiveError::Incomplete { channels, main });
                }
                continue;
            }
            let _guard = self.accepting.lock().unwrap_or_else(PoisonError::into_inner);
            while !self.gate.is_full()
                && let Some(fd) = listener.accept()?
            {
                self.gate.accepted();
                self.admit(scope, fd, main);
            }
        }
        Ok(())
    }

    /// Gives a connection its thread.
    fn admit<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        fd: OwnedFd,
        main: &Sender<Connection>,
    ) {
        let session = &**self.session;
        session.connected();
        let main = main.clone();
        let work = move || {
            let connection = match self.connection(fd) {
                Ok(connection) => connection,
                Err(error) => {
                    self.gate.gone();
                    return session.fail(error.into());
                }
            };
            match self.gate.enter(connection, self.patience) {
                Ok(Caller::Main(connection)) => {
                    // The receiver outlives every thread of the scope.
                    let _ = main.send(connection);
                }
                Ok(Caller::Channel(hello, connection)) => {
                    // Whoever waits for main must not wait for this channel.
                    drop(main);
                    if let Err(error) = (self.serve)(&hello, connection) {
                        session.fail(error);
                    }
                }
                Ok(Caller::Stranger) => {
                    tracing::warn!("closed a connection that did not speak like a source");
                }
                Err(error) => session.fail(error),
            }
        };
        let spawned =
            thread::Builder::new().name("connection".to_owned()).spawn_scoped(scope, work);
        if let Err(error) = spawned {
            self.gate.gone();
            session.fail(error.into());
        }
    }

    fn connection(&self, fd: OwnedFd) -> std::io::Result<Connection> {
        let session = Arc::clone(self.session);
        if self.recorded {
            Ok(Connection::file(fd, session))
        } else {
            Connection::socket(fd, session)
        }
    }

    /// Looks at a connection that came when all were there. A further channel
    /// means that the source has more of them than were expected here, and
    /// their pages would be missed; a stranger does no harm.
    fn examine_surplus(&self, fd: OwnedFd) -> Result<(), ReceiveError> {
        let connection = self.connection(fd)?;
        self.gate.accepted();
        self.gate.enter(connection, SURPLUS_PATIENCE)?;
        tracing::warn!("closed a connection beyond the last channel");
        Ok(())
    }

    /// Finds out how many channels there are. Called at main's first mark: all
    /// hellos were sent before it, so every channel is connected by now, if
    /// only in the kernel's queue.
    pub fn settle(&self) -> Result<usize, ReceiveError> {
        if let Some(listener) = &self.listener {
            let mut surplus = 0;
            loop {
                {
                    let _guard = self.accepting.lock().unwrap_or_else(PoisonError::into_inner);
                    let mut wait = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
                    let waiting =
                        poll(&mut wait, PollTimeout::ZERO).map_err(std::io::Error::from)?;
                    if waiting == 0 {
                        break;
                    }
                    if self.gate.is_complete() {
                        // A crowd of strangers must not hold up the migration.
                        if surplus == MAX_SURPLUS {
                            break;
                        }
                        surplus += 1;
                        let Some(fd) = listener.accept()? else { break };
                        self.examine_surplus(fd)?;
                        continue;
                    }
                }
                self.session.check()?;
                thread::sleep(Duration::from_millis(1));
            }
        }
        let channels = self.gate.settle(self.listener.is_none())?;
        self.session.epochs.set_channels(channels);
        Ok(channels)
    }
}
