//! Epochs: how SYNCs and marks keep channels and main in step.

use std::io::Write;

use multifd_qpl::{
    receiver::{Options, ReceiveError},
    wire::MethodId,
};

use crate::support::{
    channel::Channel,
    deliver::{Live, Order, Pace, Via, Way, over, page, patient, replay},
    main_stream::MainStream,
    migration::{METHODS, Migration, one_round, sample_page},
    pages::{Page, ZERO, noise, text},
    watched,
};

/// A main stream with one block and `rounds` marks behind the first.
fn rounds(rounds: usize) -> MainStream {
    let main = MainStream::new().start(&[("pc.ram", 64)]).flush().close();
    let main = (1..rounds).fold(main, |main, _| main.part().flush().close());
    main.end().flush().close().finish()
}

#[test]
fn every_method_arrives_over_files_and_sockets() {
    watched(|| {
        for method in METHODS {
            let sample = Migration::sample(method, false);
            for received in [replay(&sample, patient()), over(Way::PLAIN, &sample, patient())] {
                let received = received.unwrap_or_else(|failed| panic!("{method}: {failed}"));
                for (name, pages) in [("pc.ram", 64), ("vga.vram", 16)] {
                    for index in 0..pages {
                        let (is, must) = (page(&received, name, index), sample_page(name, index));
                        assert!(is == must, "{method}: page {index} of {name}");
                    }
                }
                let counted = received.report().pages;
                assert_eq!((counted.normal, counted.zero), (8, 8), "{method}");
                // Page 5 of pc.ram turned zero.
                assert_eq!((counted.zero_cleared, counted.zero_untouched), (1, 7), "{method}");
                assert_eq!(received.report().rounds, 2);
            }
        }
    });
}

#[test]
fn an_unpaired_sync_behind_the_last_mark_is_tolerated() {
    watched(|| {
        // Sources 9.1 and 9.2 end so.
        let channel = || Channel::new(0, MethodId::None).sync().data(&[(1, text(1))]).sync().sync();
        let migration = Migration::new(rounds(1), [channel()]);
        for received in [replay(&migration, patient()), over(Way::PLAIN, &migration, patient())] {
            assert_eq!(page(&received.expect("9.1 ends so"), "pc.ram", 1), text(1));
        }
    });
}

#[test]
fn two_unpaired_syncs_are_refused() {
    watched(|| {
        let migration =
            Migration::one_round(MethodId::None, |channel| channel.data(&[(1, text(1))]).sync());
        let twice = Migration {
            channels: vec![
                [&migration.channels[0][..], &Channel::new(0, MethodId::None).sync().bytes[64..]]
                    .concat(),
            ],
            ..migration
        };
        let failed = replay(&twice, patient()).expect_err("nobody sends two SYNCs too many");
        let ReceiveError::Channel { channel: 0, error } = failed.error else {
            panic!("{failed}");
        };
        assert!(matches!(*error, ReceiveError::SurplusSync { channel: 0, marks: 2 }), "{error}");
    });
}

/// Once, a page of the second epoch could be seen before the late half of the
/// first epoch's copy: the later copy has to win however late the earlier is.
#[test]
fn a_page_sent_again_wins_over_a_slow_copy_of_the_epoch_before() {
    for method in METHODS {
        let slow = Channel::new(0, method).sync().data(&[(7, noise(1)), (8, noise(2))]);
        let cut = slow.bytes.len() - 3000;
        let slow = slow.sync().sync().bytes;
        let fast = Channel::new(1, method)
            .sync()
            .data(&[(3, text(3))])
            .sync()
            .data(&[(7, text(7))])
            .sync();
        let mut live = Live::new(2, patient());
        live.main.write_all(&rounds(2).bytes).unwrap();
        live.channels[1].write_all(&fast.bytes).unwrap();
        live.channels[0].write_all(&slow[..cut]).unwrap();
        live.wait_for_bytes((rounds(2).bytes.len() + fast.bytes.len().min(4000) + cut) as u64);
        live.wait_for_marks(1);
        assert_eq!(live.progress.marks(), 1, "{method}: a mark went past pages on the way");
        live.channels[0].write_all(&slow[cut..]).unwrap();
        let received = live.outcome().0.expect("a good migration");
        assert!(page(&received, "pc.ram", 7) == text(7), "{method}");
        assert!(page(&received, "pc.ram", 8) == noise(2), "{method}");
    }
}

/// A migration in which page 7 comes as data on the slow channel in the first
/// epoch, and main sends `late` in the second.
fn main_against_slow_channel(method: MethodId) {
    let slow = Channel::new(0, method).sync().data(&[(7, noise(1))]);
    let cut = slow.bytes.len() - 2000;
    let slow = slow.sync().sync().bytes;
    let main = MainStream::new()
        .start(&[("pc.ram", 64)])
        .flush()
        .close()
        .part()
        .flush()
        .close()
        .end()
        .zero("pc.ram", 7)
        .flush()
        .close()
        .finish();
    let mut live = Live::new(1, patient());
    live.main.write_all(&main.bytes).unwrap();
    live.channels[0].write_all(&slow[..cut]).unwrap();
    live.wait_for_bytes((main.bytes.len() + cut) as u64);
    live.channels[0].write_all(&slow[cut..]).unwrap();
    let received = live.outcome().0.expect("a good migration");
    assert!(page(&received, "pc.ram", 7) == ZERO, "{method}");
    assert_eq!(received.report().pages.zero_cleared, 1, "{method}");
}

#[test]
fn a_zero_record_waits_for_the_data_of_the_epoch_before() {
    METHODS.into_iter().for_each(main_against_slow_channel);
}

#[test]
fn data_waits_for_the_zero_records_of_the_epoch_before() {
    for method in METHODS {
        let channel = Channel::new(0, method)
            .sync()
            .data(&[(7, text(1))])
            .sync()
            .data(&[(7, text(2))])
            .sync();
        let main = MainStream::new().start(&[("pc.ram", 64)]).flush().close().part();
        let head = main.bytes.len();
        // A zero page of the first epoch that has been on its way for long.
        let main = main.zero("pc.ram", 9).zero_more(8).flush().close();
        let main = main.part().zero("pc.ram", 3).close().end().flush().close().finish().bytes;
        let mut live = Live::new(1, patient());
        live.main.write_all(&main[..head]).unwrap();
        live.channels[0].write_all(&channel.bytes).unwrap();
        live.wait_for_bytes((head + 3000) as u64);
        live.wait_for_marks(1);
        assert_eq!(live.progress.marks(), 1);
        live.main.write_all(&main[head..]).unwrap();
        let received = live.outcome().0.expect("a good migration");
        assert!(page(&received, "pc.ram", 7) == text(2), "{method}");
    }
}

#[test]
fn pages_go_from_zero_to_data_to_zero_and_back() {
    watched(|| {
        let last: Page = text(4);
        for method in METHODS {
            let first = Channel::new(0, method)
                .sync()
                .zero(&[1, 2])
                .sync()
                .sync()
                .zero(&[1, 2])
                .sync()
                .data(&[(2, last)])
                .sync()
                .zero(&[1])
                .sync();
            let second = Channel::new(1, method)
                .sync()
                .sync()
                .data(&[(1, text(1)), (2, noise(2))])
                .sync()
                .sync()
                .sync()
                .sync();
            let migration = Migration::new(rounds(5), [first, second]);
            let received = replay(&migration, patient()).expect("a good migration");
            assert!(page(&received, "pc.ram", 1) == ZERO, "{method}");
            assert!(page(&received, "pc.ram", 2) == last, "{method}");
            let pages = received.report().pages;
            assert_eq!((pages.zero_untouched, pages.zero_cleared), (3, 2), "{method}");
        }
    });
}

#[test]
fn a_flush_in_a_section_and_none_in_the_next_are_both_fine() {
    watched(|| {
        let main = MainStream::new().start(&[("pc.ram", 64)]).flush().close();
        let main = main.part().close().part().flush().flush().close().part().close();
        let main = main.end().flush().close().finish();
        let channel =
            Channel::new(0, MethodId::Qpl).sync().sync().data(&[(1, text(1))]).sync().sync();
        let received = replay(&Migration::new(main, [channel]), patient()).expect("a migration");
        assert_eq!(page(&received, "pc.ram", 1), text(1));
    });
}

#[test]
fn early_bytes_of_channels_wait_for_main() {
    watched(|| {
        let channel = Channel::new(0, MethodId::Zstd).sync().data(&[(1, text(1))]).sync();
        let mut live = Live::new(1, patient());
        live.channels[0].write_all(&channel.bytes).unwrap();
        live.wait_for_bytes(channel.bytes.len() as u64);
        live.main.write_all(&one_round(MainStream::new()).bytes).unwrap();
        assert_eq!(page(&live.outcome().0.expect("a migration"), "pc.ram", 1), text(1));
    });
}

/// All of them connect before main says a word, and are found out to be so many.
#[test]
fn as_many_channels_as_a_source_can_have() {
    watched(|| {
        let channel = |id: u8| {
            let page = u32::from(id) % 64;
            let channel = Channel::new(id, MethodId::Zlib).sync();
            if id < 64 { channel.data(&[(page, text(page.into()))]) } else { channel }.sync()
        };
        let migration = Migration::new(rounds(1), (0..255).map(channel));
        for channels in [None, Some(255)] {
            let way = Way { via: Via::Unix, order: Order::Reversed, pace: Pace::MainLate };
            let options = Options { channels, ..patient() };
            let received = over(way, &migration, options).expect("255 is the most");
            assert_eq!(received.report().channels, 255);
            for index in 0..64 {
                assert!(page(&received, "pc.ram", index) == text(index.into()), "page {index}");
            }
        }
    });
}
