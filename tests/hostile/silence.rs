//! Peers that fall silent: nothing is waited for without an end, and nobody is
//! given up who is only quiet while others talk.

use std::{io::Write, thread, time::Duration};

use multifd_qpl::{receiver::ReceiveError, wire::MethodId};

use crate::{
    refusal::{check_sentence, root},
    support::{
        channel::Channel,
        deliver::{Live, hasty, page},
        main_stream::MainStream,
        migration::{METHODS, Migration, one_round},
        pages::text,
        watched,
    },
};

/// Sends a migration whose connections stay open and silent behind it, and
/// demands that it times out.
fn times_out(migration: &Migration) {
    let migration = migration.clone();
    watched(move || {
        let mut live = Live::new(migration.channels.len(), hasty());
        live.send(&migration);
        let (received, ..) = live.outcome();
        let failed = received.expect_err("a silent peer");
        check_sentence(&failed.to_string());
        match root(failed.error) {
            ReceiveError::Io(error)
            | ReceiveError::Method(multifd_qpl::method::MethodError::Read(error)) => {
                assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}");
            }
            other => panic!("{other} ({other:?})"),
        }
    });
}

#[test]
fn inside_a_packet() {
    for method in METHODS {
        let whole = Migration::one_round(method, |channel| channel.data(&[(1, text(1))]));
        for len in [64 + 5, 64 + 1000, 64 + 1344 + 20, 64 + 2 * 1344 + 9] {
            let mut cut = whole.clone();
            cut.channels[0].truncate(len);
            times_out(&cut);
        }
    }
}

#[test]
fn inside_a_hello() {
    let mut cut = Migration::sample(MethodId::None, false);
    cut.channels[0].truncate(40);
    times_out(&cut);
}

#[test]
fn inside_the_main_stream() {
    let whole = Migration::sample(MethodId::None, false);
    for len in [5, 30, 60, 120, 150] {
        let mut cut = whole.clone();
        cut.main.truncate(len);
        times_out(&cut);
    }
}

#[test]
fn a_sync_that_never_comes() {
    let channels = || {
        let ready = Channel::new(0, MethodId::Qpl).sync().sync();
        [ready, Channel::new(1, MethodId::Qpl).sync().data(&[(1, text(1))])]
    };
    times_out(&Migration::new(one_round(MainStream::new()), channels()));
    let never = [Channel::new(0, MethodId::None)];
    times_out(&Migration::new(one_round(MainStream::new()), never));
}

#[test]
fn a_mark_that_never_comes() {
    let main = MainStream::new().start(&[("pc.ram", 64)]).flush().close();
    let channel = Channel::new(0, MethodId::Qpl).sync().data(&[(1, text(1))]).sync();
    times_out(&Migration::new(main, [channel]));
}

/// One connection in the middle of a packet is given up even while others talk.
#[test]
fn inside_a_packet_while_main_talks() {
    watched(|| {
        let mut cut = Migration::one_round(MethodId::None, |channel| channel.data(&[(1, text(1))]));
        cut.channels[0].truncate(64 + 2 * 1344 + 9);
        cut.main = MainStream::new().start(&[("pc.ram", 64)]).flush().close().bytes;
        let mut live = Live::new(1, hasty());
        live.send(&cut);
        let mut main = live.main.try_clone().unwrap();
        let section = MainStream::default().part().close().bytes;
        let talker = thread::spawn(move || {
            while main.write_all(&section).is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        });
        let (received, main, channels) = live.outcome();
        drop((main, channels));
        assert!(matches!(received.expect_err("stalled").error, ReceiveError::Channel { .. }));
        talker.join().unwrap();
    });
}

/// A source has nothing to say on a channel for as long as there are only zero
/// records on main.
#[test]
fn a_quiet_channel_is_not_given_up_while_main_talks() {
    watched(|| {
        let options =
            multifd_qpl::receiver::Options { idle_timeout: Duration::from_secs(4), ..hasty() };
        let mut live = Live::new(1, options);
        let channel = Channel::new(0, MethodId::Qpl).sync();
        let head = channel.bytes.len();
        let channel = channel.data(&[(1, text(1))]).sync();
        live.channels[0].write_all(&channel.bytes[..head]).unwrap();
        let main = MainStream::new().start(&[("pc.ram", 64)]).flush().close();
        live.main.write_all(&main.bytes).unwrap();
        for page in 0..14 {
            let section = MainStream::default().part().zero("pc.ram", page).close();
            live.main.write_all(&section.bytes).unwrap();
            thread::sleep(Duration::from_millis(400));
        }
        live.channels[0].write_all(&channel.bytes[head..]).unwrap();
        let end = MainStream::default().end().flush().close().finish();
        live.main.write_all(&end.bytes).unwrap();
        assert_eq!(page(&live.outcome().0.expect("a slow migration"), "pc.ram", 1), text(1));
    });
}
