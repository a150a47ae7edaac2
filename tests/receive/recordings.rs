//! Recordings of real sources: every way to deliver them gives the same RAM.

use std::{num::NonZeroUsize, path::Path};

use multifd_qpl::{
    ram::Policy,
    receiver::{Options, Received},
};

use crate::support::{
    deliver::{Order, Pace, Via, Way, over, patient, replay},
    recordings::{all, check_digests, contents, expected, inside, load},
    watched,
};

/// Receives a recording once by `receive` and checks it against its digests,
/// then in other ways, all of which must give the same bytes.
fn same_in_all_ways(path: &Path, ways: impl Fn(&dyn Fn(&str, Received))) {
    let first = replay(&load(path), patient()).expect("a recording of a real source");
    check_digests(path, &first);
    let first = contents(&first);
    ways(&|way, received| {
        assert!(contents(&received) == first, "{} differs: {way}", path.display());
    });
}

#[test]
fn any_number_of_workers_and_any_placement_give_the_same_ram() {
    watched(|| {
        for path in all() {
            let recording = load(&path);
            same_in_all_ways(&path, |check| {
                let workers = [1, 2, 8].map(|workers| (workers, Policy::Place));
                let policies = Policy::ALL.map(|policy| (2, policy));
                for (workers, policy) in workers.into_iter().chain(policies) {
                    let options = Options {
                        workers: NonZeroUsize::new(workers),
                        placement: Some(policy),
                        ..patient()
                    };
                    let received = replay(&recording, options).expect("the same recording");
                    check(&format!("{workers} workers, {policy}"), received);
                }
            });
        }
    });
}

#[test]
fn any_order_and_pace_of_the_connections_give_the_same_ram() {
    watched(|| {
        let paces = [
            (Via::Sockets, Order::MainFirst, Pace::AtOnce),
            (Via::Sockets, Order::MainFirst, Pace::MainLate),
            (Via::Sockets, Order::Reversed, Pace::Ahead(0)),
            (Via::Tcp, Order::MainLast, Pace::Ahead(1)),
            (Via::Unix, Order::Reversed, Pace::Dribble(9000)),
            (Via::Tcp, Order::MainFirst, Pace::AtOnce),
            (Via::Unix, Order::MainLast, Pace::MainLate),
        ];
        for path in all() {
            let recording = load(&path);
            let channels = recording.channels.len();
            same_in_all_ways(&path, |check| {
                for (via, order, pace) in paces {
                    for channels in [Some(channels), None] {
                        let way = Way { via, order, pace };
                        let options = Options { channels, ..patient() };
                        let received = over(way, &recording, options).expect("the same recording");
                        assert_eq!(received.report().channels, recording.channels.len());
                        check(&format!("{way:?}, channels {channels:?}"), received);
                    }
                }
            });
        }
    });
}

#[test]
fn the_report_counts_what_an_independent_decoder_counted() {
    watched(|| {
        for path in all() {
            let received = replay(&load(&path), patient()).expect("a recording of a real source");
            let expected = expected(&path);
            let (report, stream) = (received.report(), &expected["stream"]);
            let pages = report.pages;
            assert_eq!(report.method.as_deref(), expected["method"].as_str());
            assert_eq!(report.machine.as_deref(), expected["machine"].as_str());
            assert_eq!(pages.normal, stream["normal"], "{}", path.display());
            assert_eq!(pages.zero, stream["zero"], "{}", path.display());
            assert_eq!(pages.legacy_zero, stream["main_zero"], "{}", path.display());
            assert_eq!(pages.raw, stream["raw_pages"], "{}", path.display());
            assert_eq!(pages.zero_untouched + pages.zero_cleared, pages.zero + pages.legacy_zero);
            assert!(report.devices.described, "{}", path.display());
        }
    });
}

/// Every recording in a directory, where one is given.
#[test]
fn all_recordings_of_a_directory() {
    let Some(directory) = std::env::var_os("MULTIFD_QPL_STREAMS") else {
        eprintln!("MULTIFD_QPL_STREAMS names no directory of recordings: nothing to do");
        return;
    };
    for path in inside(directory.as_ref()) {
        watched(move || {
            let recording = load(&path);
            check_digests(&path, &replay(&recording, patient()).expect("a recording"));
            let way = Way { via: Via::Unix, order: Order::Reversed, pace: Pace::MainLate };
            check_digests(&path, &over(way, &recording, patient()).expect("a recording"));
        });
    }
}
