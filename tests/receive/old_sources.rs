//! What sources up to 8.2 do: marks by section, SYNCs that ride on data, empty
//! packets, leftovers in headers, pages that come twice.

use std::sync::Arc;

use multifd_qpl::{
    receiver::{Receiver, anonymous_block},
    wire::MethodId,
};

use crate::support::{
    channel::Channel,
    deliver::{Way, file, over, page, patient, replay},
    main_stream::MainStream,
    migration::{METHODS, Migration},
    pages::{Page, ZERO, noise, text},
    watched,
};

/// A main stream that marks by section: START, `parts`, END.
fn by_section(parts: usize) -> MainStream {
    let main = MainStream::new().start(&[("pc.ram", 1024)]).close();
    let main = (0..parts).fold(main, |main, _| main.part().close());
    main.end().close().finish()
}

#[test]
fn every_section_is_a_mark_where_start_has_no_flush() {
    watched(|| {
        for method in METHODS {
            let channel = Channel::new(0, method)
                .old()
                .sync()
                .data(&[(1, text(1))])
                .sync()
                .data(&[(1, text(2)), (2, text(3))])
                .sync();
            let migration = Migration::new(by_section(1), [channel]);
            let received = replay(&migration, patient()).expect("a migration of 7.2");
            assert!(page(&received, "pc.ram", 1) == text(2), "{method}");
            assert_eq!(received.report().rounds, 2);
        }
    });
}

#[test]
fn a_sync_on_a_data_packet_counts_behind_its_pages() {
    watched(|| {
        for method in METHODS {
            let first = Channel::new(0, method)
                .old()
                .sync()
                .data_sync(&[(1, text(1))])
                .empty()
                .data_sync(&[(2, text(2))])
                .empty();
            let second = Channel::new(1, method).old().sync().sync().data_sync(&[(1, noise(5))]);
            let migration = Migration::new(by_section(1), [first, second]);
            for received in [replay(&migration, patient()), over(Way::PLAIN, &migration, patient())]
            {
                let received = received.expect("a migration of 8.2");
                assert!(page(&received, "pc.ram", 1) == noise(5), "{method}");
                assert!(page(&received, "pc.ram", 2) == text(2), "{method}");
            }
        }
    });
}

#[test]
fn empty_packets_behind_the_last_sync_mean_nothing() {
    watched(|| {
        let channel = Channel::new(0, MethodId::Zlib).old().sync().data_sync(&[(1, text(1))]);
        let channel = channel.empty().empty();
        let migration = Migration::new(by_section(0), [channel]);
        for received in [replay(&migration, patient()), over(Way::PLAIN, &migration, patient())] {
            assert_eq!(page(&received.expect("8.2 ends so"), "pc.ram", 1), text(1));
        }
    });
}

#[test]
fn leftovers_in_packets_without_pages_are_not_believed() {
    watched(|| {
        let name = b"no block of this name\0";
        let leftovers = |channel: Channel| {
            // Payload length, packet number, name, offsets.
            channel.edit_u32(20, 0x1234).edit(24, &[0xff; 8]).edit(64, name).edit(320, &[0xab; 64])
        };
        for method in METHODS {
            let channel = leftovers(Channel::new(0, method).old().sync());
            let channel = channel.data(&[(3, text(3))]).edit(328, &[0xcd; 16]);
            let channel = leftovers(channel.empty());
            let channel = leftovers(channel.sync());
            let migration = Migration::new(by_section(0), [channel]);
            let received = replay(&migration, patient()).expect("sources up to 9.1 do so");
            assert!(page(&received, "pc.ram", 3) == text(3), "{method}");
            assert!(page(&received, "pc.ram", 4) == ZERO, "{method}");
        }
    });
}

/// Source 7.2 queues the page that fills a packet again as the first page of
/// the next packet, on another channel, in the same epoch.
#[test]
fn a_page_on_two_channels_in_one_epoch_is_accepted() {
    watched(|| {
        for method in METHODS {
            let copy = text(127);
            let full: Vec<(u32, Page)> = (0..128)
                .map(|page| (page, if page == 127 { copy } else { text(page.into()) }))
                .collect();
            let first = Channel::new(0, method).old().sync().data(&full).sync();
            let second =
                Channel::new(1, method).old().sync().data(&[(127, copy), (128, text(128))]).sync();
            let migration = Migration::new(by_section(0), [first, second]);
            let received = replay(&migration, patient()).expect("7.2 does so");
            for index in 0..129 {
                assert!(page(&received, "pc.ram", index) == text(index.into()), "{method} {index}");
            }
        }
    });
}

/// The same taken to an extreme: eight channels write the same pages at once,
/// over and over. Each page must be one of the copies, never a mixture.
#[test]
fn many_channels_may_write_the_same_pages_in_one_epoch() {
    watched(|| {
        const CHANNELS: u32 = 8;
        const EPOCHS: u64 = 6;
        for method in METHODS {
            let channel = |id: u32| {
                let mut channel = Channel::new(id as u8, method).old().sync();
                for epoch in 0..EPOCHS {
                    for packet in 0..3 {
                        let copy = text(epoch * 100 + u64::from(id));
                        // The same 32 pages, each channel in another order.
                        let pages: Vec<(u32, Page)> =
                            (0..32).map(|page| ((page * 5 + id * 7 + packet) % 32, copy)).collect();
                        channel = channel.data(&pages);
                    }
                    channel = channel.sync();
                }
                channel
            };
            let migration =
                Migration::new(by_section(EPOCHS as usize - 1), (0..CHANNELS).map(channel));
            let received = replay(&migration, patient()).expect("an extreme 7.2");
            for index in 0..32 {
                let content = page(&received, "pc.ram", index);
                let copies = (0..CHANNELS).map(|id| text((EPOCHS - 1) * 100 + u64::from(id)));
                assert!(copies.into_iter().any(|copy| copy == content), "{method}: page {index}");
            }
        }
    });
}

#[test]
fn zero_records_on_main_continue_across_sections() {
    watched(|| {
        let main = MainStream::new()
            .start(&[("pc.ram", 1024), ("vga.vram", 16)])
            .close()
            .part()
            .zero("vga.vram", 3)
            .close()
            .part()
            .zero_more(4)
            .close()
            .end()
            .zero("pc.ram", 9)
            .zero_more(10)
            .close()
            .finish();
        let channel = Channel::new(0, MethodId::None).old().sync().block("vga.vram");
        let channel = channel.data(&[(4, text(4)), (5, text(5))]).sync();
        let channel = channel.sync().block("pc.ram").data(&[(1, text(1))]).sync();
        let received = replay(&Migration::new(main, [channel]), patient()).expect("a migration");
        assert_eq!(page(&received, "vga.vram", 4), ZERO);
        assert_eq!(page(&received, "vga.vram", 5), text(5));
        assert_eq!(page(&received, "pc.ram", 1), text(1));
        let pages = received.report().pages;
        assert_eq!((pages.legacy_zero, pages.zero_cleared, pages.zero_untouched), (4, 1, 3));
    });
}

#[test]
fn the_memory_may_be_the_callers() {
    watched(|| {
        use multifd_qpl::ram::RamBlock;
        let migration = Migration::sample(MethodId::Qpl, false);
        let files = std::iter::once(&migration.main).chain(&migration.channels);
        let files = files.map(|bytes| file(bytes)).collect();
        let received = Receiver::new(patient())
            .expect("a receiver")
            .replay(files, &mut |info| {
                if info.name == "pc.ram" {
                    return Ok(Arc::new(RamBlock::memfd(info.name.clone(), info.used_length)?));
                }
                anonymous_block(info)
            })
            .expect("a migration");
        for index in 0..64 {
            let must = crate::support::migration::sample_page("pc.ram", index);
            assert!(page(&received, "pc.ram", index) == must, "page {index}");
        }
    });
}
