//! Who connects: strangers, connections too many or too few, ids and UUIDs that
//! contradict each other.

use std::{io::Write, os::unix::net::UnixStream, thread, time::Duration};

use multifd_qpl::{
    receiver::{
        Address, Failed, Listener, Options, ReceiveError, Received, Receiver, anonymous_block,
    },
    wire::{HelloError, MethodId},
};

use crate::{
    refusal::{assert_refused, check_sentence, errors, root},
    support::{
        channel::Channel,
        deliver::{hasty, page, patient},
        main_stream::MainStream,
        migration::{Migration, one_round, sample_page},
        watched,
    },
};

/// Connects to a listening receiver, once for each stream, in this order and
/// one after the other; sends; and holds all connections until the verdict.
fn connect(streams: Vec<Vec<u8>>, options: Options) -> Result<Received, Failed> {
    watched(move || {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("migration");
        let listener = Listener::bind(&Address::Unix(path.clone())).expect("a free address");
        let receiver = Receiver::new(options).expect("a receiver");
        let receiving = thread::spawn(move || receiver.receive(listener, &mut anonymous_block));
        let mut open = Vec::new();
        for bytes in streams {
            let mut socket = UnixStream::connect(&path).expect("the receiver listens");
            // A receiver may close a stranger's connection at once.
            let _ = socket.write_all(&bytes);
            open.push(socket);
        }
        let received = receiving.join().expect("no panic");
        drop(open);
        received
    })
}

/// The streams of a good migration with two channels.
fn good() -> Vec<Vec<u8>> {
    let Migration { main, channels } = Migration::sample(MethodId::Qpl, false);
    std::iter::once(main).chain(channels).collect()
}

fn check(received: Result<Received, Failed>) {
    let received = received.expect("a good migration");
    for index in 0..64 {
        assert!(page(&received, "pc.ram", index) == sample_page("pc.ram", index), "page {index}");
    }
}

fn error(received: Result<Received, Failed>) -> ReceiveError {
    let failed = received.expect_err("a migration that must be refused");
    check_sentence(&failed.to_string());
    root(failed.error)
}

fn options(channels: Option<usize>) -> Options {
    Options { channels, ..patient() }
}

/// A hello with a SYNC behind it.
fn channel(id: u8) -> Channel {
    Channel::new(id, MethodId::None).sync()
}

/// A port scanner, or a health check, took the place of a channel, which was
/// then closed as one too many.
#[test]
fn silent_connections_take_nobodys_place() {
    for channels in [Some(2), None] {
        let mut streams = vec![Vec::new(); 5];
        streams.extend(good());
        let hello_timeout = Duration::from_millis(500);
        check(connect(streams, Options { hello_timeout, ..options(channels) }));
    }
}

/// A migration that is complete does not wait for strangers to explain
/// themselves.
#[test]
fn a_complete_migration_does_not_wait_for_a_silent_connection() {
    let mut streams = vec![Vec::new()];
    streams.extend(good());
    let hello_timeout = Duration::from_secs(3600);
    let idle_timeout = Duration::from_secs(3600);
    check(connect(streams, Options { hello_timeout, idle_timeout, ..options(Some(2)) }));
}

#[test]
fn connections_that_speak_something_else_are_closed() {
    for channels in [Some(2), None] {
        let mut streams = vec![b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0x16, 3, 1], vec![0; 64]];
        streams.extend(good());
        let hello_timeout = Duration::from_millis(500);
        check(connect(streams, Options { hello_timeout, ..options(channels) }));
    }
}

#[test]
fn a_connection_behind_the_last_channel_is_ignored() {
    let mut streams = good();
    streams.push(Vec::new());
    check(connect(streams, options(Some(2))));
}

#[test]
fn a_channel_whose_id_is_the_number_of_channels() {
    let mut streams = good();
    streams[2] = channel(2).bytes;
    let error = error(connect(streams, options(Some(2))));
    assert!(matches!(error, ReceiveError::ChannelOutOfRange { id: 2, channels: 2 }), "{error}");
}

#[test]
fn more_channels_than_set() {
    // The receiver must say what to do, whoever comes first.
    for first in 0..3 {
        let mut streams = good();
        streams.push(channel(2).bytes);
        streams.rotate_left(first);
        let main = streams.iter().position(|bytes| bytes.starts_with(b"QEVM")).expect("main");
        // Main is last, so that the set is never complete without the third.
        let main = streams.remove(main);
        streams.push(main);
        let error = error(connect(streams, options(Some(2))));
        assert!(matches!(error, ReceiveError::ChannelOutOfRange { id: 2, .. }), "{error}");
    }
}

#[test]
fn two_channels_with_one_id() {
    let main = one_round(MainStream::new());
    let migration = Migration::new(main, [channel(0).sync(), channel(0).sync()]);
    assert_refused!(migration, ReceiveError::DuplicateChannel(0));
}

#[test]
fn a_gap_among_the_ids() {
    let streams = vec![channel(0).bytes, channel(2).bytes, one_round(MainStream::new()).bytes];
    let error = error(connect(streams, options(None)));
    assert!(matches!(error, ReceiveError::MissingChannel { found: 2, missing: 1 }), "{error}");
}

/// With connections that are all there already nobody else can come: waiting
/// for more was waiting for ever.
#[test]
fn fewer_connections_than_set() {
    let hour = Duration::from_secs(3600);
    let options = Options { idle_timeout: hour, ..options(Some(3)) };
    for error in errors(Migration::sample(MethodId::None, false), &options) {
        assert!(matches!(error, ReceiveError::MissingChannel { found: 2, missing: 2 }), "{error}");
    }
}

#[test]
fn a_channel_that_says_nothing_among_connections_that_are_all_there() {
    let options = Options { hello_timeout: Duration::from_millis(300), ..patient() };
    let mut migration = Migration::sample(MethodId::None, false);
    migration.channels[1].clear();
    for error in errors(migration, &options) {
        assert!(matches!(error, ReceiveError::MissingChannel { found: 1, missing: 1 }), "{error}");
    }
}

#[test]
fn two_main_connections() {
    let mut migration = Migration::sample(MethodId::None, false);
    migration.channels[1] = migration.main.clone();
    assert_refused!(migration, ReceiveError::SecondMain);
}

#[test]
fn a_hello_of_another_version() {
    let mut migration = Migration::sample(MethodId::None, false);
    migration.channels[0][7] = 2;
    assert_refused!(migration, ReceiveError::Hello(HelloError::Version(2)));
}

#[test]
fn channels_of_two_machines() {
    let one = Channel::with_uuid(0, MethodId::None, [1; 16]).sync().sync();
    let other = Channel::with_uuid(1, MethodId::None, [2; 16]).sync().sync();
    let migration = Migration::new(one_round(MainStream::new()), [one, other]);
    assert_refused!(migration, ReceiveError::UuidDiffers);
}

#[test]
fn channels_of_another_machine_than_main() {
    let with = |uuid| {
        let channel = Channel::with_uuid(0, MethodId::None, [1; 16]).sync().sync();
        Migration::new(one_round(MainStream::new().uuid(uuid)), [channel])
    };
    assert_refused!(with([2; 16]), ReceiveError::UuidDiffers);
    drop(crate::support::deliver::replay(&with([1; 16]), patient()).expect("the same machine"));
}

#[test]
fn main_that_never_comes() {
    let error = error(connect(vec![channel(0).bytes, channel(1).bytes], hasty()));
    assert!(
        matches!(error, ReceiveError::Incomplete { channels: 2, main: 0 } | ReceiveError::Io(_)),
        "{error}"
    );
    let migration = Migration { main: Vec::new(), channels: vec![channel(0).bytes] };
    assert_refused_hastily(migration);
}

fn assert_refused_hastily(migration: Migration) {
    for error in errors(migration, &hasty()) {
        assert!(matches!(error, ReceiveError::Incomplete { main: 0, .. }), "{error}");
    }
}

#[test]
fn channels_that_never_come() {
    let streams = vec![one_round(MainStream::new()).bytes, channel(0).bytes];
    let error = error(connect(streams, Options { channels: Some(2), ..hasty() }));
    assert!(
        matches!(error, ReceiveError::Incomplete { channels: 1, main: 1 } | ReceiveError::Io(_)),
        "{error}"
    );
}

#[test]
fn nobody_at_all() {
    let nothing = Receiver::new(patient())
        .expect("a receiver")
        .receive_connected(Vec::new(), &mut anonymous_block);
    let error = error(nothing);
    assert!(matches!(error, ReceiveError::Incomplete { channels: 0, main: 0 }), "{error}");
}
