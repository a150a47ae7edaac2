//! Who has connected: sorts connections by their first bytes, checks the set.

use std::{
    collections::BTreeSet,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    ReceiveError,
    connection::{Connection, Filled},
};
use crate::wire::{Hello, MAIN_MAGIC, MULTIFD_MAGIC};

/// Most connections that may be undecided at a time: twice what a source opens.
const MAX_UNKNOWN: usize = 512;

/// What a connection turned out to be.
pub enum Caller {
    /// The main connection; nothing of it is consumed.
    Main(Connection),
    /// A channel, its hello taken off.
    Channel(Hello, Connection),
    /// Neither: closed without a word.
    Stranger,
}

/// Connections so far.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Accepted, and not yet known.
    unknown: usize,
    main: bool,
    ids: BTreeSet<u8>,
    uuid: Option<[u8; 16]>,
    channels: Option<usize>,
}

impl Gate {
    /// A gate for `channels` channels, or for as many as come.
    pub fn new(channels: Option<usize>) -> Self {
        let state = State { channels, ..State::default() };
        Self { state: Mutex::new(state), moved: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete before its guard is dropped.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection was accepted.
    pub fn accepted(&self) {
        self.lock().unknown += 1;
    }

    /// An accepted connection was lost before it could be looked at.
    pub fn gone(&self) {
        self.lock().unknown -= 1;
        self.moved.notify_all();
    }

    /// Whether nobody is missing.
    pub fn is_complete(&self) -> bool {
        self.lock().is_complete()
    }

    /// Whether no more connections are let in. Those that have not said what
    /// they are take nobody's place: they may be anybody's.
    pub fn is_full(&self) -> bool {
        let state = self.lock();
        state.is_complete() || state.unknown >= MAX_UNKNOWN
    }

    /// Channels and main connections that have shown themselves.
    pub fn present(&self) -> (usize, usize) {
        let state = self.lock();
        (state.ids.len(), usize::from(state.main))
    }

    /// Reads a connection's first bytes and enters it. A connection that says
    /// nothing for `patience`, or not what a source says, is a stranger.
    pub fn enter(
        &self,
        mut connection: Connection,
        patience: Duration,
    ) -> Result<Caller, ReceiveError> {
        let caller = self.identify(&mut connection, patience);
        let mut state = self.lock();
        state.unknown -= 1;
        let result = match caller {
            Ok(Some(First::Main)) if state.main => Err(ReceiveError::SecondMain),
            Ok(Some(First::Main)) => {
                state.main = true;
                Ok(Caller::Main(connection))
            }
            Ok(Some(First::Channel(hello))) => {
                state.admit(&hello).map(|()| Caller::Channel(hello, connection))
            }
            Ok(None) => Ok(Caller::Stranger),
            Err(error) => Err(error),
        };
        self.moved.notify_all();
        result
    }

    fn identify(
        &self,
        connection: &mut Connection,
        patience: Duration,
    ) -> Result<Option<First>, ReceiveError> {
        connection.set_patience(Some(patience));
        if !matches!(connection.want(4), Ok(Filled::More)) {
            return Ok(None);
        }
        let first = match connection.unread().first_chunk() {
            Some(&MAIN_MAGIC) => First::Main,
            Some(&MULTIFD_MAGIC) => {
                if connection.want(Hello::LEN)? != Filled::More {
                    return Ok(None);
                }
                let Some(bytes) = connection.unread().first_chunk() else {
                    unreachable!("want() made a whole hello available");
                };
                let hello = Hello::parse(bytes)?;
                connection.consume(Hello::LEN);
                First::Channel(hello)
            }
            _ => return Ok(None),
        };
        connection.set_patience(None);
        Ok(Some(first))
    }

    /// Waits until no connection is unknown, then fixes the number of
    /// channels. All hellos were sent before main's first mark, so the
    /// connections must all be accepted before this is called. With `closed`
    /// no more can come than are here.
    pub fn settle(&self, closed: bool) -> Result<usize, ReceiveError> {
        let mut state = self.lock();
        while state.unknown > 0 && !state.is_complete() {
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let found = state.ids.len();
        let channels = match state.channels {
            Some(channels) if !closed => return Ok(channels),
            Some(channels) => channels,
            None => found,
        };
        if let Some(missing) = (0..channels).find(|&id| !state.ids.contains(&(id as u8))) {
            return Err(ReceiveError::MissingChannel { found, missing });
        }
        state.channels = Some(channels);
        Ok(channels)
    }

    /// Checks the UUID in the configuration against the channels'.
    pub fn check_uuid(&self, uuid: &[u8; 16]) -> Result<(), ReceiveError> {
        match self.lock().uuid {
            Some(seen) if seen != *uuid => Err(ReceiveError::UuidDiffers),
            _ => Ok(()),
        }
    }
}

enum First {
    Main,
    Channel(Hello),
}

impl State {
    fn is_complete(&self) -> bool {
        self.main && self.channels.is_some_and(|channels| self.ids.len() == channels)
    }

    fn admit(&mut self, hello: &Hello) -> Result<(), ReceiveError> {
        if let Some(channels) = self.channels
            && usize::from(hello.id) >= channels
        {
            return Err(ReceiveError::ChannelOutOfRange { id: hello.id, channels });
        }
        if *self.uuid.get_or_insert(hello.uuid) != hello.uuid {
            return Err(ReceiveError::UuidDiffers);
        }
        if !self.ids.insert(hello.id) {
            return Err(ReceiveError::DuplicateChannel(hello.id));
        }
        Ok(())
    }
}
