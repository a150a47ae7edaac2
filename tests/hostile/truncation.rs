//! A migration that is cut off anywhere: always an error, never a hang.

use std::num::NonZeroUsize;

use multifd_qpl::{ram::Policy, receiver::Options, wire::MethodId};

use crate::{
    refusal::check_sentence,
    support::{
        channel::Channel,
        deliver::{patient, replay},
        main_stream::MainStream,
        migration::{METHODS, Migration, one_round},
        pages::text,
        watched,
    },
};

fn options() -> Options {
    Options { workers: NonZeroUsize::new(1), placement: Some(Policy::Fault), ..patient() }
}

/// As small as a migration with everything in it can be.
fn tiny(method: MethodId) -> Migration {
    Migration::one_round(method, |channel| channel.packet(&[(1, text(1))], &[2]))
}

fn must_fail(migration: &Migration, what: &str) {
    let failed = match replay(migration, options()) {
        Ok(_) => panic!("{what}: received, although something is missing"),
        Err(failed) => failed,
    };
    check_sentence(&failed.to_string());
}

#[test]
fn main_cut_at_every_byte() {
    watched(|| {
        let main = MainStream::new().return_path().start(&[("pc.ram", 64)]).flush().close();
        let main = main.part().zero("pc.ram", 9).zero_more(10).close();
        let main = main.end().flush().close().device().eof();
        // From the EOF byte on only the description is missing.
        let needed = main.bytes.len();
        let whole = main.vmdesc();
        let channel = Channel::new(0, MethodId::None).sync().sync();
        let whole = Migration::new(whole, [channel]);
        for len in 0..whole.main.len() {
            let mut cut = whole.clone();
            cut.main.truncate(len);
            if len < needed {
                must_fail(&cut, &format!("main cut at {len}"));
            } else {
                drop(replay(&cut, options()).expect("only the description is missing"));
            }
        }
    });
}

#[test]
fn a_channel_cut_at_every_byte() {
    let whole = tiny(MethodId::Qpl);
    let len = whole.channels[0].len();
    for part in 0..4 {
        let whole = whole.clone();
        watched(move || {
            for len in len * part / 4..len * (part + 1) / 4 {
                let mut cut = whole.clone();
                cut.channels[0].truncate(len);
                must_fail(&cut, &format!("channel cut at {len}"));
            }
        });
    }
}

#[test]
fn a_channel_of_any_method_cut_around_its_payload() {
    for method in METHODS {
        watched(move || {
            let whole = tiny(method);
            let len = whole.channels[0].len();
            let payload = 64 + 2 * 1344;
            let near = |at: usize| {
                [0, 64, 64 + 1344, payload, len - 1344, len]
                    .iter()
                    .any(|edge| edge.abs_diff(at) < 20)
            };
            for at in (0..len).filter(|&at| near(at) || at.is_multiple_of(97)) {
                let mut cut = whole.clone();
                cut.channels[0].truncate(at);
                must_fail(&cut, &format!("channel of {method} cut at {at}"));
            }
        });
    }
}

#[test]
fn a_whole_migration_is_not_refused() {
    watched(|| {
        for method in METHODS {
            drop(replay(&tiny(method), options()).expect("nothing is missing"));
        }
        let main = one_round(MainStream::new());
        let channel = Channel::new(0, MethodId::None).sync().sync();
        drop(replay(&Migration::new(main, [channel]), options()).expect("nothing is missing"));
    });
}
