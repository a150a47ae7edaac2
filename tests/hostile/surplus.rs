//! More than a source sends, or less: pages behind the last mark, floods,
//! channels that end too soon.

use std::{
    io::Write,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use multifd_qpl::{receiver::ReceiveError, wire::MethodId};

use crate::{
    refusal::{assert_refused, root},
    support::{
        channel::Channel,
        deliver::{Live, page, patient},
        main_stream::MainStream,
        migration::{METHODS, Migration, one_round},
        pages::text,
        watched,
    },
};

/// A migration of one round on one channel, with something behind its end.
fn with_tail(method: MethodId, tail: impl FnOnce(Channel) -> Channel) -> Migration {
    let channel = Channel::new(0, method).sync().data(&[(1, text(1))]).sync();
    Migration::new(one_round(MainStream::new()), [tail(channel)])
}

/// Whether they were noticed depended on who was faster: a channel that ended
/// before main did was believed to have ended in order.
#[test]
fn pages_behind_the_last_mark() {
    for method in METHODS {
        for _ in 0..5 {
            let data = with_tail(method, |channel| channel.data(&[(2, text(2))]));
            assert_refused!(data, ReceiveError::AfterLastMark);
            let zero = with_tail(method, |channel| channel.zero(&[1]));
            assert_refused!(zero, ReceiveError::AfterLastMark);
        }
    }
}

/// The one unpaired SYNC that is tolerated was taken to end a good epoch.
#[test]
fn pages_behind_the_last_mark_with_a_sync() {
    for method in METHODS {
        let rides = with_tail(method, |channel| channel.data_sync(&[(2, text(2))]));
        assert_refused!(rides, ReceiveError::AfterLastMark);
        let follows = with_tail(method, |channel| channel.data(&[(2, text(2))]).sync());
        assert_refused!(follows, ReceiveError::AfterLastMark);
        let behind = with_tail(method, |channel| channel.sync().zero(&[2]));
        assert_refused!(behind, ReceiveError::AfterLastMark);
    }
}

#[test]
fn more_than_one_unpaired_sync() {
    let twice = with_tail(MethodId::Qpl, |channel| channel.sync().sync());
    // Over sockets the second may come when nobody listens any more.
    let failed = watched(move || crate::support::deliver::replay(&twice, patient()));
    let error = root(failed.expect_err("two SYNCs too many").error);
    assert!(matches!(error, ReceiveError::SurplusSync { channel: 0, marks: 2 }), "{error}");
}

/// Main waited for ever at its mark for a SYNC that a closed channel can not
/// send.
#[test]
fn a_channel_that_ends_between_packets_before_its_sync() {
    let good = || Channel::new(0, MethodId::None).sync().sync();
    for ended in [
        Channel::new(1, MethodId::None),
        Channel::new(1, MethodId::None).sync(),
        Channel::new(1, MethodId::None).sync().data(&[(1, text(1))]),
        Channel::new(1, MethodId::None).sync().zero(&[5]),
    ] {
        let migration = Migration::new(one_round(MainStream::new()), [good(), ended]);
        assert_refused!(migration, ReceiveError::MissingSync { channel: 1, .. });
    }
}

#[test]
fn a_channel_that_ends_inside_a_packet() {
    for method in METHODS {
        let whole = Migration::one_round(method, |channel| channel.data(&[(1, text(1))]));
        for len in [65, 64 + 11, 64 + 1343, 64 + 1344 + 1, 64 + 2 * 1344, 64 + 2 * 1344 + 9] {
            let mut cut = whole.clone();
            cut.channels[0].truncate(len);
            assert_refused!(cut, error if error.to_string().contains("in the middle of an item"));
        }
    }
}

/// Reading went on for as long as there was something to read, whatever had
/// happened elsewhere.
#[test]
fn a_flood_on_one_connection_does_not_outlive_an_error_on_another() {
    for flooded in [0, 1] {
        watched(move || {
            let mut live = Live::new(2, patient());
            let (main, flood): (_, Vec<u8>) = if flooded == 0 {
                // Endless sections of zero pages.
                let start = MainStream::new().start(&[("pc.ram", 64)]).flush().close();
                (start, MainStream::default().part().zero("pc.ram", 1).close().bytes)
            } else {
                let start = MainStream::new().start(&[("pc.ram", 64)]).flush().close();
                let packet = Channel::new(0, MethodId::None).data(&[(3, text(3))]).bytes;
                (start, packet[64..].to_vec())
            };
            live.main.write_all(&main.bytes).unwrap();
            for id in 0..2 {
                let hello = Channel::new(id, MethodId::None).sync().bytes;
                live.channels[usize::from(id)].write_all(&hello).unwrap();
            }
            live.wait_for_marks(1);
            let mut to =
                if flooded == 0 { &live.main } else { &live.channels[0] }.try_clone().unwrap();
            let flood = flood.repeat(100);
            let flooder = thread::spawn(move || while to.write_all(&flood).is_ok() {});
            live.wait_for_bytes(1 << 20);
            live.channels[1].write_all(&[0; 64]).unwrap();
            let (received, main, channels) = live.outcome();
            let failed = received.expect_err("a channel out of step");
            assert!(matches!(failed.error, ReceiveError::Channel { channel: 1, .. }), "{failed}");
            drop((main, channels));
            flooder.join().unwrap();
        });
    }
}

/// Empty packets mean nothing, and a channel that never stops sending them may
/// not keep a complete migration from its verdict.
#[test]
fn a_flood_of_empty_packets_does_not_outlive_the_migration() {
    watched(|| {
        let migration = with_tail(MethodId::None, |channel| channel);
        let empty = Channel::new(0, MethodId::None).old().empty().bytes[64..].repeat(50);
        let mut live = Live::new(1, patient());
        live.channels[0].write_all(&migration.channels[0]).unwrap();
        let mut to = live.channels[0].try_clone().unwrap();
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let stopped = std::sync::Arc::clone(&stop);
        let flooder = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) && to.write_all(&empty).is_ok() {}
        });
        live.main.write_all(&migration.main).unwrap();
        let (received, ..) = live.outcome();
        assert_eq!(page(&received.expect("nothing is missing"), "pc.ram", 1), text(1));
        stop.store(true, Ordering::Relaxed);
        flooder.join().unwrap();
    });
}
