//! Ways to deliver a migration to a receiver.

use std::{
    fs::File,
    io::{Read, Write},
    net::Shutdown,
    num::NonZeroUsize,
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use multifd_qpl::{
    ram::{Policy, RamBlock},
    receiver::{Address, Failed, Listener, Options, Progress, Received, Receiver, anonymous_block},
    wire::ReturnMessage,
};

use super::{migration::Migration, pages::Page};

/// Options for migrations that are meant to succeed: patient, because the
/// machine may be busy.
pub fn patient() -> Options {
    Options {
        workers: NonZeroUsize::new(2),
        placement: Some(Policy::Place),
        idle_timeout: Duration::from_secs(30),
        hello_timeout: Duration::from_secs(30),
        ..Options::default()
    }
}

/// Options for migrations that end by a time-out.
pub fn hasty() -> Options {
    Options {
        idle_timeout: Duration::from_millis(600),
        hello_timeout: Duration::from_millis(300),
        ..patient()
    }
}

/// A file in memory.
pub fn file(bytes: &[u8]) -> File {
    // SAFETY: the name is a C string; the call touches no other memory.
    let fd = unsafe { libc::memfd_create(c"recording".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor was just made and belongs to nobody else.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.write_all(bytes).expect("a file in memory takes bytes");
    std::io::Seek::rewind(&mut file).expect("a file in memory can be rewound");
    file
}

/// Receives from files: the whole migration is there at once.
pub fn replay(migration: &Migration, options: Options) -> Result<Received, Failed> {
    let files = std::iter::once(&migration.main).chain(&migration.channels);
    let files = files.map(|bytes| file(bytes)).collect();
    Receiver::new(options).expect("a receiver").replay(files, &mut anonymous_block)
}

/// How the sender and the receiver are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    Sockets,
    Tcp,
    Unix,
}

/// In which order connections are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    MainFirst,
    MainLast,
    /// The last channel first, main in between.
    Reversed,
}

/// How the connections' bytes come, one against the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    AtOnce,
    /// 1 to 7 bytes at a time for the first so many bytes.
    Dribble(usize),
    /// Main's first byte comes after the channels sent what they could.
    MainLate,
    /// All others hold back while this channel sends what it can.
    Ahead(usize),
}

/// A way to deliver a migration.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    pub via: Via,
    pub order: Order,
    pub pace: Pace,
}

impl Way {
    /// The plainest way.
    pub const PLAIN: Self = Self { via: Via::Sockets, order: Order::MainFirst, pace: Pace::AtOnce };
}

/// How long a connection holds back for another one to be far ahead.
const HOLD_BACK: Duration = Duration::from_millis(60);

/// Sends a migration over sockets and closes all connections behind it.
pub fn over(way: Way, migration: &Migration, options: Options) -> Result<Received, Failed> {
    let receiver = Receiver::new(options).expect("a receiver");
    let count = migration.channels.len();
    // Number 0 is main.
    let mut order: Vec<usize> = (0..=count).collect();
    match way.order {
        Order::MainFirst => {}
        Order::MainLast => order.rotate_left(1),
        Order::Reversed => {
            order.reverse();
            order.swap(count / 2, count);
        }
    }
    let start = |number: usize, to: OwnedFd| {
        let bytes = match number.checked_sub(1) {
            None => migration.main.clone(),
            Some(channel) => migration.channels[channel].clone(),
        };
        let late = match way.pace {
            Pace::MainLate => number == 0,
            Pace::Ahead(channel) => number != channel + 1,
            Pace::AtOnce | Pace::Dribble(_) => false,
        };
        let dribble = if let Pace::Dribble(bytes) = way.pace { bytes } else { 0 };
        thread::spawn(move || send(to, &bytes, late, dribble))
    };
    let mut senders = Vec::new();
    let received = if way.via == Via::Sockets {
        let mut sockets = Vec::new();
        for number in order {
            let (ours, theirs) = UnixStream::pair().expect("a socket pair");
            sockets.push(theirs.into());
            senders.push(start(number, ours.into()));
        }
        receiver.receive_connected(sockets, &mut anonymous_block)
    } else {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let address = match way.via {
            Via::Tcp => "tcp:127.0.0.1:0".parse().expect("an address"),
            _ => Address::Unix(directory.path().join("migration")),
        };
        let listener = Listener::bind(&address).expect("an address that is free");
        let address = listener.address().clone();
        // All connections wait in the kernel before the first is accepted.
        for number in order {
            senders.push(start(number, address.connect().expect("somebody listens")));
        }
        receiver.receive(listener, &mut anonymous_block)
    };
    // Until here a source that listens has kept its ends open.
    let ends: Vec<UnixStream> =
        senders.into_iter().map(|sender| sender.join().expect("a sender does not panic")).collect();
    drop(ends);
    received
}

/// Sends, and does not mind a receiver that has heard enough.
fn send(to: OwnedFd, mut bytes: &[u8], late: bool, dribble: usize) -> UnixStream {
    let mut to = UnixStream::from(to);
    if late {
        thread::sleep(HOLD_BACK);
    }
    let mut step = 0;
    let end = bytes.len().saturating_sub(dribble);
    while bytes.len() > end {
        step = step % 7 + 1;
        let (now, rest) = bytes.split_at(step.min(bytes.len()));
        if to.write_all(now).is_err() {
            return to;
        }
        bytes = rest;
    }
    // The receiver may have failed, which is its own to tell.
    let _ = to.write_all(bytes);
    let _ = to.shutdown(Shutdown::Write);
    to
}

/// A migration that the test sends itself, byte by byte.
pub struct Live {
    pub main: UnixStream,
    pub channels: Vec<UnixStream>,
    pub progress: Progress,
    receiver: JoinHandle<Result<Received, Failed>>,
}

impl Live {
    /// A receiver that waits for a migration with so many channels.
    pub fn new(channels: usize, options: Options) -> Self {
        let receiver = Receiver::new(options).expect("a receiver");
        let progress = receiver.progress();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..=channels {
            let (a, b) = UnixStream::pair().expect("a socket pair");
            ours.push(a);
            theirs.push(b.into());
        }
        let receiver =
            thread::spawn(move || receiver.receive_connected(theirs, &mut anonymous_block));
        let main = ours.remove(0);
        Self { main, channels: ours, progress, receiver }
    }

    /// Sends everything of a migration that fits the sockets' buffers.
    pub fn send(&mut self, migration: &Migration) {
        for (socket, bytes) in self.channels.iter_mut().zip(&migration.channels) {
            socket.write_all(bytes).expect("the receiver listens");
        }
        self.main.write_all(&migration.main).expect("the receiver listens");
    }

    /// Waits until main has passed so many marks.
    pub fn wait_for_marks(&self, marks: u64) {
        let progress = self.progress.clone();
        super::watched(move || {
            while progress.marks() < marks {
                thread::sleep(Duration::from_millis(1));
            }
        });
    }

    /// Waits until the receiver has taken in so many bytes of all connections.
    pub fn wait_for_bytes(&self, bytes: u64) {
        let progress = self.progress.clone();
        super::watched(move || {
            while progress.counters().bytes.load(std::sync::atomic::Ordering::Relaxed) < bytes {
                thread::sleep(Duration::from_millis(1));
            }
        });
    }

    /// Waits for the verdict. The sender's ends stay open.
    pub fn outcome(self) -> (Result<Received, Failed>, UnixStream, Vec<UnixStream>) {
        let receiver = self.receiver;
        let received = super::watched(move || receiver.join().expect("no panic"));
        (received, self.main, self.channels)
    }
}

/// What was answered on main until it was closed.
pub fn answers(mut main: UnixStream) -> Vec<ReturnMessage> {
    main.set_read_timeout(Some(super::DEADLINE)).expect("a time-out can be set");
    let mut bytes = Vec::new();
    main.read_to_end(&mut bytes).expect("the receiver closes main in the end");
    let mut messages = Vec::new();
    let mut rest = &bytes[..];
    while let Some((used, message)) = ReturnMessage::parse(rest).expect("a message") {
        messages.push(message);
        rest = &rest[used..];
    }
    assert!(rest.is_empty(), "half a message is left");
    messages
}

/// The block of this name.
pub fn block<'a>(received: &'a Received, name: &str) -> &'a RamBlock {
    received.blocks().iter().find(|block| block.name() == name).expect("a block of this name")
}

/// What a received page holds.
pub fn page(received: &Received, name: &str, index: u32) -> Page {
    let mut page = [0; 4096];
    block(received, name).read_page(index, &mut page).expect("a page of the block");
    page
}
