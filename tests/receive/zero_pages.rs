//! Zero pages: what was never written takes no memory, what was written is
//! cleared once.

use multifd_qpl::{
    ram::{Policy, RamBlock},
    receiver::{Options, Received},
    wire::MethodId,
};

use crate::support::{
    channel::Channel,
    deliver::{block, page, patient, replay},
    main_stream::MainStream,
    migration::Migration,
    pages::{ZERO, text},
    watched,
};

/// Which pages of a block take memory, as the kernel says.
fn resident(block: &RamBlock) -> Vec<u32> {
    let mut flags = vec![0_u8; block.pages() as usize];
    // SAFETY: the range is the block's own mapping; mincore only fills `flags`,
    // which has a byte for each page.
    let done = unsafe {
        libc::mincore(block.as_ptr().cast(), block.used_length() as usize, flags.as_mut_ptr())
    };
    assert_eq!(done, 0, "mincore: {}", std::io::Error::last_os_error());
    (0..block.pages()).filter(|&page| flags[page as usize] & 1 != 0).collect()
}

/// Page 3 and 300 are data, 4 turns from data to zero, all else is zero, twice.
fn received(policy: Policy, legacy: bool) -> Received {
    let zeros: Vec<u32> = (0..1024).filter(|page| ![3, 4, 300].contains(page)).collect();
    let main = MainStream::new().start(&[("pc.ram", 1024)]).flush().close().part();
    let mut channel = Channel::new(0, MethodId::Qpl).sync();
    channel = channel.data(&[(3, text(3)), (4, text(4)), (300, text(300))]);
    let record = |main: MainStream, pages: &[u32]| {
        pages.iter().fold(main.zero("pc.ram", pages[0].into()), |main, &page| {
            if page == pages[0] { main } else { main.zero_more(page.into()) }
        })
    };
    let packets = |channel: Channel| zeros.chunks(128).fold(channel, Channel::zero);
    let again = [&[4][..], &zeros].concat();
    let main = if legacy {
        let main = record(main, &zeros).flush().close();
        channel = channel.sync();
        let main = record(main.end(), &again).flush().close();
        channel = channel.sync();
        main
    } else {
        channel = packets(channel).sync().zero(&[4]);
        channel = packets(channel).sync();
        main.flush().close().end().flush().close()
    };
    let options = Options { placement: Some(policy), ..patient() };
    replay(&Migration::new(main.finish(), [channel]), options).expect("a migration")
}

#[test]
fn first_seen_zero_pages_take_no_memory_and_only_written_ones_are_cleared() {
    watched(|| {
        for policy in [Policy::Place, Policy::Populate, Policy::Fault] {
            for legacy in [false, true] {
                let received = received(policy, legacy);
                let ram = block(&received, "pc.ram");
                assert_eq!(resident(ram), [3, 4, 300], "{policy}, legacy {legacy}");
                assert!(page(&received, "pc.ram", 4) == ZERO);
                assert!(page(&received, "pc.ram", 300) == text(300));
                let pages = received.report().pages;
                assert_eq!(pages.zero_cleared, 1, "{policy}, legacy {legacy}");
                assert_eq!(pages.zero_untouched, 2 * 1021, "{policy}, legacy {legacy}");
                assert_eq!(ram.map().received_count(), 1024);
                assert_eq!(received.report().blocks[0].resident_bytes, 3 * 4096);
            }
        }
    });
}

#[test]
fn untouched_pages_read_as_zero_once_the_migration_is_here() {
    watched(|| {
        let received = received(Policy::Place, false);
        let ram = block(&received, "pc.ram");
        let address = ram.page_ptr(777).expect("a page of the block");
        // SAFETY: the page is mapped as long as the block lives, and nobody
        // writes it any more.
        assert_eq!(unsafe { address.read_volatile() }, 0);
    });
}

#[test]
fn a_failed_migration_leaves_no_page_that_waits_for_ever() {
    watched(|| {
        // The caller keeps a block of a migration that fails, and reads it.
        let mut kept = None;
        let mut migration = Migration::sample(MethodId::None, false);
        let half = migration.main.len() / 2;
        migration.main.truncate(half);
        let files = std::iter::once(&migration.main).chain(&migration.channels);
        let files = files.map(|bytes| crate::support::deliver::file(bytes)).collect();
        let failed = multifd_qpl::receiver::Receiver::new(patient())
            .expect("a receiver")
            .replay(files, &mut |info| {
                let made = multifd_qpl::receiver::anonymous_block(info)?;
                if info.name == "pc.ram" {
                    kept = Some(std::sync::Arc::clone(&made));
                }
                Ok(made)
            })
            .expect_err("half a main stream");
        drop(failed);
        let ram = kept.expect("the list of blocks is in the first half");
        let address = ram.page_ptr(40).expect("a page of the block");
        // SAFETY: the page is mapped as long as the block lives, and nobody
        // writes it any more.
        assert_eq!(unsafe { address.read_volatile() }, 0);
    });
}
