//! One connection of a migration: a socket, or a file of a recording.
//!
//! Reads never block where nothing could wake them: a socket is read without
//! waiting, and where it has nothing the thread sleeps in `poll` on the socket
//! and on the session's stop signal, in ticks short enough to notice that the
//! whole migration has gone quiet.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::session::Session;
use crate::wire::ReturnMessage;

/// How long a sleeping reader goes without looking at the clock.
const TICK: Duration = Duration::from_millis(250);
/// Read-ahead of a channel: 48 headers of packets that hold zero pages only,
/// so that a mostly empty VM costs few system calls.
const AHEAD: usize = 64 << 10;
/// Most parts in one scattered read, well below the kernel's limit of 1024.
const MAX_PARTS: usize = 128;

/// What kind of file descriptor stands behind a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A stream socket, in non-blocking mode.
    Socket,
    /// A file or pipe that is read as fast as it goes.
    File,
}

/// A connection with a read-ahead buffer.
#[derive(Debug)]
pub struct Connection {
    fd: OwnedFd,
    kind: Kind,
    session: Arc<Session>,
    /// Longest silence in one read, where that is shorter than the session's.
    patience: Option<Duration>,
    /// Read on when the session is finished, until the peer closes.
    to_the_end: bool,
    buffer: Box<[u8]>,
    /// Unread bytes are `buffer[start..end]`.
    start: usize,
    end: usize,
}

/// What a read without a fixed length came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// There are more bytes than before.
    More,
    /// The peer closed the connection.
    End,
    /// The session is finished and nothing more is waiting.
    Finished,
}

impl Connection {
    /// Takes a connected stream socket over.
    pub fn socket(fd: OwnedFd, session: Arc<Session>) -> io::Result<Self> {
        // SAFETY: F_GETFL and F_SETFL on a descriptor we own touch no memory.
        let failed = unsafe {
            let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
            flags < 0 || libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) < 0
        };
        if failed {
            return Err(io::Error::last_os_error());
        }
        Ok(Self::new(fd, Kind::Socket, session))
    }

    /// Reads a file of a recording.
    pub fn file(fd: OwnedFd, session: Arc<Session>) -> Self {
        Self::new(fd, Kind::File, session)
    }

    fn new(fd: OwnedFd, kind: Kind, session: Arc<Session>) -> Self {
        Self {
            fd,
            kind,
            session,
            patience: None,
            to_the_end: false,
            buffer: vec![0; AHEAD].into(),
            start: 0,
            end: 0,
        }
    }

    /// Limits the silence in any one read, or goes back to the session's rule.
    pub fn set_patience(&mut self, patience: Option<Duration>) {
        self.patience = patience;
    }

    /// Reads on when the session is finished, until the peer closes.
    pub fn read_to_the_end(&mut self) {
        self.to_the_end = true;
    }

    /// The bytes that were read and not consumed.
    pub fn unread(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Drops the first `count` unread bytes.
    pub fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.end - self.start);
        self.start = (self.start + count).min(self.end);
    }

    /// Reads what there is behind the unread bytes, waiting for at least one.
    /// The buffer grows when a single item does not fit it, up to `most`.
    pub fn fill(&mut self, most: usize) -> io::Result<Filled> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.start > 0 && self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            if self.buffer.len() >= most {
                return Err(io::Error::other(format!(
                    "one item of the stream is longer than {most} bytes"
                )));
            }
            let mut grown = vec![0; (self.buffer.len() * 2).min(most)];
            grown[..self.end].copy_from_slice(&self.buffer[..self.end]);
            self.buffer = grown.into();
        }
        let (start, end) = (self.end, self.buffer.len());
        let inside = self.end > self.start;
        let part = (self.buffer[start..end].as_mut_ptr(), end - start);
        // SAFETY: the part is the free end of our own buffer.
        let count = match unsafe { self.read(&[part], inside) }? {
            Read::Bytes(count) => count,
            Read::Finished => return Ok(Filled::Finished),
        };
        self.end += count;
        Ok(if count == 0 { Filled::End } else { Filled::More })
    }

    /// Reads at least until `want` bytes are unread. `End` is only answered at
    /// a boundary, where nothing is unread. `Finished` may leave a part of an
    /// item behind that belongs to no epoch any more.
    pub fn want(&mut self, want: usize) -> io::Result<Filled> {
        while self.end - self.start < want {
            match self.fill(want.max(AHEAD))? {
                Filled::More => {}
                Filled::End if self.start < self.end => return Err(cut_short()),
                other => return Ok(other),
            }
        }
        Ok(Filled::More)
    }

    /// Fills part after part, first with unread bytes, then straight from the
    /// socket.
    ///
    /// # Safety
    ///
    /// Each part is valid for writing that many bytes.
    pub unsafe fn read_parts(&mut self, parts: &[(*mut u8, usize)]) -> io::Result<()> {
        let mut parts = parts.iter().copied().peekable();
        while let Some(part) = parts.peek_mut() {
            let from_buffer = part.1.min(self.end - self.start);
            // SAFETY: both ranges hold `from_buffer` bytes: the unread bytes
            // of our buffer, and a part the caller vouches for. They cannot
            // overlap, since our buffer is given out to nobody.
            unsafe {
                part.0.copy_from_nonoverlapping(self.buffer[self.start..].as_ptr(), from_buffer);
            }
            self.start += from_buffer;
            // SAFETY: at most one past the end of the caller's part.
            part.0 = unsafe { part.0.add(from_buffer) };
            part.1 -= from_buffer;
            if part.1 > 0 {
                break;
            }
            parts.next();
        }
        let mut queue = [(std::ptr::null_mut(), 0); MAX_PARTS];
        loop {
            let mut count = 0;
            while count < MAX_PARTS
                && let Some(part) = parts.next()
            {
                queue[count] = part;
                count += 1;
            }
            if count == 0 {
                return Ok(());
            }
            let mut rest = &mut queue[..count];
            while !rest.is_empty() {
                // SAFETY: the parts are the caller's, cut at the front only.
                let mut done = match unsafe { self.read(rest, true) }? {
                    Read::Bytes(0) | Read::Finished => return Err(cut_short()),
                    Read::Bytes(count) => count,
                };
                while let Some(part) = rest.first_mut() {
                    let step = part.1.min(done);
                    // SAFETY: at most one past the end of the part.
                    part.0 = unsafe { part.0.add(step) };
                    part.1 -= step;
                    done -= step;
                    if part.1 > 0 {
                        break;
                    }
                    rest = &mut rest[1..];
                }
            }
        }
    }

    /// One read into `parts`. `inside` tells that the peer owes us bytes: it
    /// is in the middle of an item.
    ///
    /// # Safety
    ///
    /// Each part is valid for writing that many bytes.
    unsafe fn read(&mut self, parts: &[(*mut u8, usize)], inside: bool) -> io::Result<Read> {
        let mut vector = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; MAX_PARTS];
        for (to, &(base, len)) in vector.iter_mut().zip(parts) {
            *to = libc::iovec { iov_base: base.cast(), iov_len: len };
        }
        let count = parts.len().min(MAX_PARTS) as libc::c_int;
        let mut waited = Duration::ZERO;
        loop {
            // Also where there is always something to read: a peer that never
            // stops sending must not outlive the migration.
            self.session.check()?;
            // SAFETY: the first `count` entries describe memory the caller
            // vouches for.
            let got = unsafe { libc::readv(self.fd.as_raw_fd(), vector.as_ptr(), count) };
            if got >= 0 {
                self.session.heard(got as u64);
                return Ok(Read::Bytes(got as usize));
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => continue,
                io::ErrorKind::WouldBlock => {}
                _ => return Err(error),
            }
            let finished = self.session.is_finished();
            if finished && !self.to_the_end {
                return Ok(Read::Finished);
            }
            let mut wait = [
                PollFd::new(self.fd.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.session.stop_signal(), PollFlags::POLLIN),
            ];
            // The stop signal stays up once the session is finished: who reads
            // on then sleeps without it, and looks at each tick.
            let wait = if finished { &mut wait[..1] } else { &mut wait[..] };
            let tick = self.patience.map_or(TICK, |patience| patience.min(TICK));
            let timeout = PollTimeout::try_from(tick).unwrap_or(PollTimeout::MAX);
            if poll(wait, timeout)? == 0 {
                waited += tick;
                self.session.check_quiet(waited, inside)?;
                if self.patience.is_some_and(|patience| waited >= patience) {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("the peer was silent for {} seconds", waited.as_secs_f32()),
                    ));
                }
            }
        }
    }

    /// Writes all of `bytes`.
    pub fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        let mut waited = Duration::ZERO;
        // What is said after a failure is about it and has to be sent; anything
        // else is of no interest once the session fails.
        let had_failed = self.session.has_failed();
        while !bytes.is_empty() {
            // SAFETY: `bytes` is a live slice.
            let put = unsafe {
                libc::send(
                    self.fd.as_raw_fd(),
                    bytes.as_ptr().cast(),
                    bytes.len(),
                    // A peer that is gone is an error, not a signal.
                    libc::MSG_NOSIGNAL,
                )
            };
            if put >= 0 {
                bytes = &bytes[put as usize..];
                continue;
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => {
                    if !had_failed {
                        self.session.check()?;
                    }
                    let mut wait = [PollFd::new(self.fd.as_fd(), PollFlags::POLLOUT)];
                    let timeout = PollTimeout::try_from(TICK).unwrap_or(PollTimeout::MAX);
                    if poll(&mut wait, timeout)? == 0 {
                        waited += TICK;
                        self.session.check_quiet(waited, true)?;
                    }
                }
                _ => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends a message to the source.
    pub fn answer(&self, message: &ReturnMessage) -> io::Result<()> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.write_all(&bytes)
    }

    /// Whether this is a socket, so that something can be answered on it.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

enum Read {
    Bytes(usize),
    Finished,
}

/// The connection ended in the middle of something.
pub fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended in the middle of an item")
}
