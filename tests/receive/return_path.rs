//! The return path: what is answered on main, and when nothing may be.

use std::io::{Read, Write};

use multifd_qpl::{
    receiver::{Options, ReceiveError, SwitchoverAck},
    wire::{MethodId, ReturnMessage},
};

use crate::support::{
    channel::Channel,
    deliver::{Live, answers, hasty, patient},
    main_stream::MainStream,
    migration::{Migration, one_round},
    watched,
};

const PONG: ReturnMessage = ReturnMessage::Pong(1);
const ACK: ReturnMessage = ReturnMessage::SwitchoverAck;

/// What is answered to a migration that arrives, with this verdict.
fn answered(migration: &Migration, options: Options, complete: bool) -> Vec<ReturnMessage> {
    let mut live = Live::new(migration.channels.len(), options);
    live.send(migration);
    let (received, main, _channels) = live.outcome();
    let received = received.expect("a good migration");
    let verdict = if complete { received.complete() } else { received.refuse() };
    verdict.expect("a source that listens");
    answers(main)
}

fn by_section() -> Migration {
    let main = MainStream::new().return_path().start(&[("pc.ram", 64)]).close();
    Migration::new(
        main.end().close().finish(),
        [Channel::new(0, MethodId::None).old().sync().sync()],
    )
}

#[test]
fn ping_is_answered_and_the_verdict_comes_last() {
    watched(|| {
        let migration = Migration::sample(MethodId::Qpl, true);
        let all = [PONG, ACK, ReturnMessage::Shut(0)];
        assert_eq!(answered(&migration, patient(), true), all);
        let all = [PONG, ACK, ReturnMessage::Shut(1)];
        assert_eq!(answered(&migration, patient(), false), all);
    });
}

#[test]
fn every_ping_is_echoed() {
    watched(|| {
        let head = MainStream::new().return_path().command(2, &77_u32.to_be_bytes());
        let channel = Channel::new(0, MethodId::None).sync().sync();
        let migration = Migration::new(one_round(head), [channel]);
        let answers = answered(&migration, patient(), true);
        assert_eq!(answers[..2], [PONG, ReturnMessage::Pong(77)]);
    });
}

/// A source up to 8.0 fails when it is sent SWITCHOVER_ACK; a FLUSH in its
/// START section shows that a source is younger.
#[test]
fn switchover_ack_goes_to_sources_that_show_they_know_it() {
    watched(|| {
        let old = by_section();
        let young = Migration::sample(MethodId::None, true);
        let shut = ReturnMessage::Shut(0);
        let with = |switchover_ack| Options { switchover_ack, ..patient() };
        let auto = with(SwitchoverAck::Auto);
        assert_eq!(answered(&old, auto.clone(), true), [PONG, shut.clone()]);
        assert_eq!(answered(&young, auto, true), [PONG, ACK, shut.clone()]);
        let always = with(SwitchoverAck::Always);
        assert_eq!(answered(&old, always, true), [PONG, ACK, shut.clone()]);
        let never = with(SwitchoverAck::Never);
        assert_eq!(answered(&young, never, true), [PONG, shut]);
    });
}

#[test]
fn nothing_is_written_on_main_unless_the_source_listens() {
    watched(|| {
        // A PING alone opens nothing.
        let head = MainStream::new().command(2, &1_u32.to_be_bytes());
        let channel = Channel::new(0, MethodId::None).sync().sync();
        let migration = Migration::new(one_round(head), [channel]);
        let options = Options { switchover_ack: SwitchoverAck::Always, ..patient() };
        assert_eq!(answered(&migration, options.clone(), true), []);
        assert_eq!(answered(&migration, options, false), []);
    });
}

#[test]
fn a_failure_is_told_to_a_source_that_listens_and_to_no_other() {
    watched(|| {
        for (listens, told) in [(true, vec![PONG, ACK, ReturnMessage::Shut(1)]), (false, vec![])] {
            let mut migration = Migration::sample(MethodId::None, listens);
            // The magic of the second channel's second packet.
            migration.channels[1][64 + 1344] = 0;
            let mut live = Live::new(2, patient());
            live.send(&migration);
            let (received, main, _channels) = live.outcome();
            let failed = received.expect_err("a channel out of step");
            assert!(matches!(failed.error, ReceiveError::Channel { channel: 1, .. }), "{failed}");
            assert_eq!(answers(main), told);
        }
    });
}

#[test]
fn a_failure_of_main_itself_is_told_too() {
    watched(|| {
        let mut live = Live::new(0, patient());
        live.main.write_all(&MainStream::new().return_path().raw(&[0x77]).bytes).unwrap();
        let (received, main, _) = live.outcome();
        assert!(matches!(received.expect_err("no such section").error, ReceiveError::Main(_)));
        assert_eq!(answers(main), [PONG, ReturnMessage::Shut(1)]);
    });
}

#[test]
fn main_stays_open_until_the_verdict() {
    watched(|| {
        let migration = Migration::sample(MethodId::Zstd, true);
        let mut live = Live::new(2, patient());
        live.send(&migration);
        let (received, mut main, _channels) = live.outcome();
        let received = received.expect("a good migration");
        assert!(received.has_return_path());
        main.set_nonblocking(true).unwrap();
        // PONG and SWITCHOVER_ACK, and no end of the stream.
        let mut bytes = [0; 64];
        assert_eq!(main.read(&mut bytes).unwrap(), 8 + 4);
        assert_eq!(main.read(&mut bytes).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        received.complete().expect("the source listens");
        assert_eq!(main.read(&mut bytes).unwrap(), 8);
        assert_eq!(main.read(&mut bytes).unwrap(), 0);
    });
}

#[test]
fn dropping_a_migration_without_a_verdict_closes_main() {
    watched(|| {
        let migration = Migration::sample(MethodId::None, true);
        let mut live = Live::new(2, patient());
        live.send(&migration);
        let (received, main, _channels) = live.outcome();
        drop(received.expect("a good migration"));
        assert_eq!(answers(main), [PONG, ACK]);
    });
}

#[test]
fn a_return_path_can_be_demanded() {
    watched(|| {
        let options = Options { need_return_path: true, ..patient() };
        let mut live = Live::new(2, options.clone());
        live.send(&Migration::sample(MethodId::None, false));
        let failed = live.outcome().0.expect_err("the source does not listen");
        assert!(matches!(failed.error, ReceiveError::NoReturnPath), "{failed}");
        let answers = answered(&Migration::sample(MethodId::None, true), options, true);
        assert_eq!(answers.len(), 3);
    });
}

#[test]
fn cancelling_from_outside_ends_the_migration_and_tells_the_source() {
    watched(|| {
        let mut live = Live::new(1, patient());
        live.main.write_all(&MainStream::new().return_path().bytes).unwrap();
        let mut pong = [0; 8];
        live.main.read_exact(&mut pong).unwrap();
        live.progress.cancel();
        let (received, main, _channels) = live.outcome();
        assert!(matches!(received.expect_err("cancelled").error, ReceiveError::Cancelled));
        assert_eq!(answers(main), [ReturnMessage::Shut(1)]);
    });
}

/// A source that floods PINGs and reads no answer must not block the receiver.
#[test]
fn a_source_that_reads_no_answers_times_out() {
    watched(|| {
        let mut live = Live::new(0, hasty());
        let ping = MainStream::default().command(2, &[0; 4]).bytes.repeat(10_000);
        live.main.write_all(&MainStream::new().return_path().bytes).unwrap();
        let mut socket = live.main.try_clone().unwrap();
        let flood = std::thread::spawn(move || while socket.write_all(&ping).is_ok() {});
        let (received, main, _) = live.outcome();
        let failed = received.expect_err("nobody reads the answers");
        assert!(matches!(failed.error, ReceiveError::Io(_)), "{failed}");
        drop(main);
        flood.join().unwrap();
    });
}
