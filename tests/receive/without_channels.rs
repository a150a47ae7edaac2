//! Migrations without multifd: all pages are records on the main stream.

use multifd_qpl::receiver::Options;

use crate::support::{
    deliver::{Order, Pace, Via, Way, over, page, patient, replay},
    main_stream::MainStream,
    migration::Migration,
    pages::{ZERO, noise, text},
    watched,
};

fn pages_and_zeros() -> MainStream {
    MainStream::new()
        .start(&[("pc.ram", 64), ("vga.vram", 8)])
        .close()
        .part()
        .page("pc.ram", 1, &text(1))
        .page_more(2, &noise(2))
        .page_more(0, &text(0))
        .zero_more(5)
        .zero("vga.vram", 0)
        .page_more(0, &text(77))
        .close()
        .part()
        .page_more(7, &text(7))
        .zero_more(0)
        .page("pc.ram", 2, &text(22))
        .zero_more(1)
        .page_more(1, &noise(11))
        .close()
        .part()
        .zero_more(2)
        .close()
        .end()
        .page_more(63, &text(63))
        .zero_more(63)
        .page_more(5, &text(55))
        .close()
        .finish()
}

fn check(received: &multifd_qpl::receiver::Received) {
    let expected = [(0, text(0)), (1, noise(11)), (2, ZERO), (5, text(55)), (63, ZERO)];
    for (index, must) in expected {
        assert!(page(received, "pc.ram", index) == must, "page {index}");
    }
    assert!(page(received, "vga.vram", 0) == ZERO);
    assert!(page(received, "vga.vram", 7) == text(7));
    assert_eq!(received.report().channels, 0);
    assert_eq!(received.report().pages.normal, 9);
    assert_eq!(received.report().pages.legacy_zero, 6);
}

#[test]
fn pages_and_zeros_take_effect_in_their_order() {
    watched(|| {
        let migration = Migration::new(pages_and_zeros(), []);
        check(&replay(&migration, patient()).expect("a migration without channels"));
        for via in [Via::Sockets, Via::Tcp] {
            for (channels, pace) in [(None, Pace::AtOnce), (Some(0), Pace::Dribble(50_000))] {
                let options = Options { channels, ..patient() };
                let way = Way { via, order: Order::MainFirst, pace };
                check(&over(way, &migration, options).expect("a migration without channels"));
            }
        }
    });
}

/// Source 8.1.0 writes FLUSH records even if multifd is off.
#[test]
fn flush_records_mean_nothing_without_channels() {
    watched(|| {
        for main in [
            MainStream::new().start(&[("pc.ram", 64)]).flush().close(),
            MainStream::new().start(&[("pc.ram", 64)]).close(),
        ] {
            let main = main.part().flush().page("pc.ram", 3, &text(3)).flush().close();
            let main = main.end().flush().close().finish();
            let received = replay(&Migration::new(main, []), patient()).expect("8.1.0 does so");
            assert_eq!(page(&received, "pc.ram", 3), text(3));
        }
    });
}
