//! Pages through placement: content, marks and residency, under every policy
//! and for every kind of memory.

#![cfg(not(loom))]

use std::sync::Arc;

use multifd_qpl::ram::{
    BlockError, InPlace, Initial, Landing, Placement, PlacementError, Policy, RamBlock, Staging,
    StagingPool, ZeroCounts, ZeroMode, placement::Way, zero_pages,
};

const PAGE: usize = 4096;
const BYTES: u64 = 8 << 20;

/// Fills every destination with the page's index and `salt`.
fn fill(landing: &Landing, salt: u32) {
    for i in 0..landing.len() {
        let word = u64::from(landing.page(i)) << 32 | u64::from(salt);
        for at in 0..PAGE / 8 {
            // SAFETY: a destination is 4096 aligned writable bytes that belong
            // to this landing.
            unsafe { landing.destination(i).cast::<u64>().add(at).write(word) };
        }
    }
}

fn data(
    placement: &Arc<Placement>,
    block: &Arc<RamBlock>,
    pages: &[u32],
    salt: u32,
    in_place: InPlace,
) {
    for pages in pages.chunks(128) {
        let staging = Staging::new().unwrap();
        let landing = Landing::begin(placement, block, pages, staging, in_place).unwrap();
        fill(&landing, salt);
        landing.commit().unwrap();
    }
}

fn zero(placement: &Placement, block: &RamBlock, pages: &[u32]) -> (u32, u32) {
    let ZeroCounts { untouched, cleared } =
        zero_pages(placement, block, pages, ZeroMode::Map).unwrap();
    (untouched, cleared)
}

fn holds(block: &RamBlock, page: u32, salt: Option<u32>) -> bool {
    let mut bytes = [1; PAGE];
    block.read_page(page, &mut bytes).unwrap();
    let word = salt.map_or(0, |salt| u64::from(page) << 32 | u64::from(salt));
    bytes.chunks_exact(8).all(|chunk| chunk == word.to_ne_bytes())
}

fn resident_pages(block: &RamBlock) -> u64 {
    block.resident_bytes().unwrap() / PAGE as u64
}

type Kind = (&'static str, fn() -> Arc<RamBlock>);

/// Memory like a caller's that is never unmapped.
fn callers(initial: Initial, dirty: bool) -> Arc<RamBlock> {
    // SAFETY: a new anonymous mapping replaces nothing.
    let memory = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            BYTES as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert_ne!(memory, libc::MAP_FAILED);
    if dirty {
        // SAFETY: the mapping is that long and nobody else's.
        unsafe { memory.cast::<u8>().write_bytes(0x5a, BYTES as usize) };
    }
    // SAFETY: the memory stays mapped for ever and is used by the block alone.
    Arc::new(unsafe { RamBlock::from_raw("caller", memory.cast(), BYTES, initial) }.unwrap())
}

const KINDS: [Kind; 4] = [
    ("anonymous", || Arc::new(RamBlock::anonymous("anonymous", BYTES).unwrap())),
    ("memfd", || Arc::new(RamBlock::memfd("memfd", BYTES).unwrap())),
    ("caller known zero", || callers(Initial::KnownZero, false)),
    ("caller unknown", || callers(Initial::Unknown, false)),
];

#[test]
fn rounds_of_data_and_zero_under_every_policy() {
    let scattered: Vec<u32> = (0..2048).step_by(8).collect();
    let mut shuffled: Vec<u32> = (600..728).collect();
    shuffled.reverse();
    shuffled.swap(3, 90);
    for policy in Policy::ALL {
        for (kind, make) in KINDS {
            for in_place in [InPlace::Allowed, InPlace::Never] {
                let what = format!("{policy}, {kind}, {in_place:?}");
                let placement = Placement::new(Some(policy)).unwrap();
                let block = make();
                placement.attach(&block).unwrap();

                data(&placement, &block, &scattered, 1, in_place);
                data(&placement, &block, &shuffled[..100], 2, in_place);
                // Zero after data, zero again, data after that, data again.
                assert_eq!(zero(&placement, &block, &[0, 651, 700]).1, 3, "{what}");
                assert_eq!(zero(&placement, &block, &[0, 651, 700]), (3, 0), "{what}");
                assert!([0, 651, 700].iter().all(|&page| holds(&block, page, None)), "{what}");
                data(&placement, &block, &[700, 0, 1], 3, in_place);
                data(&placement, &block, &[1, 2, 16, 17], 4, in_place);
                placement.detach(&block);

                for page in 0..block.pages() {
                    let salt = match page {
                        0 | 700 => Some(3),
                        1 | 2 | 16 | 17 => Some(4),
                        651 => None,
                        _ if shuffled[..100].contains(&page) => Some(2),
                        _ if page % 8 == 0 => Some(1),
                        _ => None,
                    };
                    assert!(holds(&block, page, salt), "{what}, page {page}");
                    let received = salt.is_some() || page == 651;
                    assert_eq!(block.map().is_received(page), received, "{what}, page {page}");
                }
                let pages = placement.report().pages;
                assert!(pages.in_place + pages.pwritten > 0, "{what}: {pages:?}");
            }
        }
    }
}

#[test]
fn first_seen_zero_pages_are_never_mapped() {
    let most: Vec<u32> = (0..2048).filter(|page| page % 100 != 7).collect();
    let few: Vec<u32> = (0..2048).filter(|page| page % 100 == 7).collect();
    for policy in Policy::ALL {
        for (kind, make) in &KINDS[..3] {
            let what = format!("{policy}, {kind}");
            let placement = Placement::new(Some(policy)).unwrap();
            let block = make();
            placement.attach(&block).unwrap();
            assert_eq!(zero(&placement, &block, &most), (most.len() as u32, 0), "{what}");
            assert_eq!(resident_pages(&block), 0, "{what}");
            data(&placement, &block, &few, 1, InPlace::Allowed);
            assert_eq!(zero(&placement, &block, &most), (most.len() as u32, 0), "{what}");
            assert_eq!(resident_pages(&block), few.len() as u64, "{what}");
            assert!(most.iter().all(|&page| holds(&block, page, None)), "{what}");
            assert_eq!(resident_pages(&block), few.len() as u64, "{what}, after reading");
            placement.detach(&block);
            assert_eq!(block.map().received_count(), 2048, "{what}");
        }
    }
}

#[test]
fn memory_of_unknown_content_is_cleared_once() {
    for policy in Policy::ALL {
        let placement = Placement::new(Some(policy)).unwrap();
        let block = callers(Initial::Unknown, true);
        placement.attach(&block).unwrap();
        let pages: Vec<u32> = (0..2048).collect();
        assert_eq!(zero(&placement, &block, &pages), (0, 2048), "{policy}");
        assert_eq!(zero(&placement, &block, &pages), (2048, 0), "{policy}");
        assert!(pages.iter().all(|&page| holds(&block, page, None)), "{policy}");
        assert_eq!(placement.report().pages.given_back, 0, "{policy}: it is not ours to give");
    }
}

#[test]
fn long_runs_turned_zero_are_given_back() {
    let pages: Vec<u32> = (0..1024).collect();
    for (kind, make) in &KINDS[..2] {
        let placement = Placement::new(None).unwrap();
        let block = make();
        placement.attach(&block).unwrap();
        data(&placement, &block, &pages, 1, InPlace::Allowed);
        assert_eq!(resident_pages(&block), 1024, "{kind}");
        assert_eq!(zero(&placement, &block, &pages[..512]), (0, 512), "{kind}");
        assert_eq!(resident_pages(&block), 512, "{kind}");
        placement.set_give_back(0);
        assert_eq!(zero(&placement, &block, &pages[512..]), (0, 512), "{kind}");
        assert_eq!(resident_pages(&block), 512, "{kind}");
        // Absent and present pages, all zero, in one batch.
        data(&placement, &block, &pages[450..570], 2, InPlace::Allowed);
        placement.detach(&block);
        for &page in &pages {
            let salt = (450..570).contains(&page).then_some(2);
            assert!(holds(&block, page, salt), "{kind}, page {page}");
        }
        let counts = placement.report().pages;
        assert_eq!((counts.given_back, counts.zero_cleared), (512, 1024), "{kind}");
    }
}

#[test]
fn pages_present_unexpectedly_are_stored_in_place() {
    let placement = Placement::new(Some(Policy::Place)).unwrap();
    placement.set_give_back(0);
    let block = Arc::new(RamBlock::anonymous("b", BYTES).unwrap());
    placement.attach(&block).unwrap();
    let way = placement.report().blocks[0].way;
    let pages: Vec<u32> = (0..128).collect();
    data(&placement, &block, &[3, 4, 5, 60, 127], 1, InPlace::Allowed);
    assert_eq!(zero(&placement, &block, &[3, 4, 5, 60, 127]), (0, 5));
    data(&placement, &block, &pages, 2, InPlace::Allowed);
    placement.detach(&block);
    assert!(pages.iter().all(|&page| holds(&block, page, Some(2))));
    let counts = placement.report().pages;
    if way == Way::Place {
        assert_eq!(counts.eexist, 5);
        assert_eq!(counts.placed, 5 + 123);
    }
}

#[test]
fn a_dropped_landing_marks_nothing_and_frees_its_guards() {
    for policy in Policy::ALL {
        let placement = Placement::new(Some(policy)).unwrap();
        let block = Arc::new(RamBlock::anonymous("b", BYTES).unwrap());
        placement.attach(&block).unwrap();
        data(&placement, &block, &[1, 2], 1, InPlace::Allowed);
        let begin = |pages: &[u32]| {
            let staging = Staging::new().unwrap();
            Landing::begin(&placement, &block, pages, staging, InPlace::Allowed).unwrap()
        };
        drop(begin(&[2, 3, 4]));
        assert!(!block.map().is_received(3) && !block.map().is_received(4));
        assert!(holds(&block, 2, Some(1)), "{policy}");
        // Were a guard still held, this would wait.
        data(&placement, &block, &[2, 3, 4], 2, InPlace::Never);
        placement.detach(&block);
        assert!([2, 3, 4].iter().all(|&page| holds(&block, page, Some(2))), "{policy}");
    }
}

#[test]
fn detached_memory_reads_as_zero() {
    for how in ["detach", "drop"] {
        let placement = Placement::new(Some(Policy::Place)).unwrap();
        let block = Arc::new(RamBlock::anonymous("b", BYTES).unwrap());
        placement.attach(&block).unwrap();
        assert!(matches!(placement.attach(&block), Err(PlacementError::Attached { .. })));
        data(&placement, &block, &[1], 1, InPlace::Allowed);
        if how == "detach" {
            placement.detach(&block);
            // Landings still work, in the plainest way.
            data(&placement, &block, &[9], 9, InPlace::Never);
            assert!(holds(&block, 9, Some(9)));
        }
        drop(placement);
        // SAFETY: page 2 lies in the block; nobody writes it.
        let byte = unsafe { block.page_ptr(2).unwrap().read_volatile() };
        assert_eq!(byte, 0, "{how}");
    }
}

#[test]
fn landings_begun_before_a_detach_land_after_it() {
    let placement = Placement::new(Some(Policy::Place)).unwrap();
    let block = Arc::new(RamBlock::anonymous("b", BYTES).unwrap());
    placement.attach(&block).unwrap();
    let staging = Staging::new().unwrap();
    let landing = Landing::begin(&placement, &block, &[5, 6], staging, InPlace::Allowed).unwrap();
    fill(&landing, 1);
    placement.detach(&block);
    landing.commit().unwrap();
    assert!(holds(&block, 5, Some(1)) && holds(&block, 6, Some(1)));
}

#[test]
fn restaged_pages_come_from_their_new_place() {
    let placement = Placement::new(None).unwrap();
    let block = Arc::new(RamBlock::anonymous("b", BYTES).unwrap());
    placement.attach(&block).unwrap();
    let pool = StagingPool::new();
    let pages: Vec<u32> = (100..228).collect();
    let staging = pool.take().unwrap();
    let lost = staging.page_ptr(0);
    let mut landing = Landing::begin(&placement, &block, &pages, staging, InPlace::Never).unwrap();
    let before = landing.destination(17);
    landing.restage(17).unwrap();
    let address = landing.restage(17).unwrap();
    assert_eq!(landing.destination(17), address);
    assert_ne!(before, address);
    fill(&landing, 1);
    // The device comes back late, and hurts nobody.
    // SAFETY: the staging is still the landing's.
    unsafe { before.write_bytes(0xff, PAGE) };
    let next = landing.commit().unwrap();
    assert_ne!(next.page_ptr(0), lost);
    // SAFETY: quarantined memory stays mapped.
    unsafe { before.write_bytes(0xff, PAGE) };
    placement.detach(&block);
    assert!(pages.iter().all(|&page| holds(&block, page, Some(1))));

    let landing = Landing::begin(&placement, &block, &pages, next, InPlace::Never).unwrap();
    let slot = landing.destination(0);
    landing.quarantine();
    // SAFETY: quarantined memory stays mapped.
    unsafe { slot.write_bytes(0xff, PAGE) };
    assert!(pages.iter().all(|&page| holds(&block, page, Some(1))));

    // What is written in place cannot move.
    let staging = pool.take().unwrap();
    let mut landing =
        Landing::begin(&placement, &block, &[100], staging, InPlace::Allowed).unwrap();
    assert!(!landing.is_staged(0));
    assert!(matches!(landing.restage(0), Err(PlacementError::NotStaged { page: 100, .. })));
}

#[test]
fn io_slices_cover_the_payload_in_order() {
    let placement = Placement::new(Some(Policy::Place)).unwrap();
    let block = Arc::new(RamBlock::anonymous("b", BYTES).unwrap());
    placement.attach(&block).unwrap();
    data(&placement, &block, &[12, 13], 1, InPlace::Allowed);
    let staging = Staging::new().unwrap();
    let pages = [40, 10, 11, 12, 13, 14, 9];
    let landing = Landing::begin(&placement, &block, &pages, staging, InPlace::Allowed).unwrap();
    let mut slices = landing.io_slices();
    let mut next = slices.next();
    for i in 0..pages.len() {
        let (start, len) = next.unwrap();
        assert_eq!(start, landing.destination(i));
        next =
            if len == PAGE { slices.next() } else { Some((start.wrapping_add(PAGE), len - PAGE)) };
    }
    assert!(next.is_none());
    assert!(landing.io_slices().count() < pages.len());
}

#[test]
fn batches_that_no_packet_holds_are_refused() {
    let placement = Placement::new(None).unwrap();
    let block = Arc::new(RamBlock::anonymous("b", BYTES).unwrap());
    placement.attach(&block).unwrap();
    let begin = |pages: &[u32]| {
        Landing::begin(&placement, &block, pages, Staging::new().unwrap(), InPlace::Allowed)
    };
    assert!(matches!(begin(&[2048]), Err(PlacementError::OutOfBounds { .. })));
    assert!(matches!(begin(&[1, 2, 1]), Err(PlacementError::Duplicate { page: 1, .. })));
    assert!(matches!(begin(&[0; 129]), Err(PlacementError::TooManyPages { pages: 129 })));
    assert!(begin(&[]).unwrap().commit().is_ok());
    for mode in [ZeroMode::Map, ZeroMode::OneBit, ZeroMode::ReadCheck] {
        assert!(zero_pages(&placement, &block, &[0, 2048], mode).is_err());
    }
    assert_eq!(block.map().received_count(), 0);
}

#[test]
fn older_zero_modes_do_as_receivers_did() {
    let placement = Placement::new(Some(Policy::Fault)).unwrap();
    let block = Arc::new(RamBlock::anonymous("b", BYTES).unwrap());
    placement.attach(&block).unwrap();
    data(&placement, &block, &[1, 2], 1, InPlace::Allowed);
    let counts = |pages: &[u32], mode| {
        let counts = zero_pages(&placement, &block, pages, mode).unwrap();
        (counts.untouched, counts.cleared)
    };
    assert_eq!(counts(&[1, 3], ZeroMode::OneBit), (1, 1));
    assert_eq!(counts(&[1, 3], ZeroMode::OneBit), (0, 2));
    assert_eq!(counts(&[2, 4], ZeroMode::ReadCheck), (1, 1));
    assert_eq!(counts(&[2, 4], ZeroMode::ReadCheck), (2, 0));
    assert!((0..6).all(|page| holds(&block, page, None)));
    assert_eq!(block.map().received_count(), 4);

    let placement = Placement::new(Some(Policy::Place)).unwrap();
    let block = RamBlock::anonymous("b", BYTES).unwrap();
    placement.attach(&block).unwrap();
    if placement.report().blocks[0].way == Way::Place {
        let refused = zero_pages(&placement, &block, &[1], ZeroMode::ReadCheck);
        assert!(matches!(refused, Err(PlacementError::ModeTouchesAbsent { .. })));
    }
}

#[test]
fn duplicates_across_threads_take_turns() {
    for policy in Policy::ALL {
        let placement = Placement::new(Some(policy)).unwrap();
        let block = Arc::new(RamBlock::anonymous("b", BYTES).unwrap());
        placement.attach(&block).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8u32 {
                let (placement, block) = (&placement, &block);
                scope.spawn(move || {
                    let in_place = if thread % 2 == 0 { InPlace::Allowed } else { InPlace::Never };
                    for round in 0..60 {
                        // All threads in the same few words, in differing order.
                        let from = (round * 7 + thread) % 64;
                        let mut pages: Vec<u32> = (from..from + 100).collect();
                        if round % 3 == 0 {
                            pages.reverse();
                        }
                        data(placement, block, &pages, thread, in_place);
                        if round % 10 == thread % 10 {
                            zero(placement, block, &pages[20..90]);
                        }
                    }
                });
            }
        });
        placement.detach(&block);
        // Each page is wholly one thread's, or zero.
        for page in 0..170 {
            let whole = (0..8).any(|thread| holds(&block, page, Some(thread)));
            assert!(whole || holds(&block, page, None), "{policy}, page {page} is a mixture");
        }
    }
}

#[test]
fn resident_memory_of_a_caller_is_stored_to() {
    let placement = Placement::new(Some(Policy::Place)).unwrap();
    let block = callers(Initial::KnownZero, false);
    // SAFETY: the block's own memory; nobody else uses it.
    unsafe { block.as_ptr().write_bytes(0, BYTES as usize) };
    placement.attach(&block).unwrap();
    let report = placement.report();
    assert_eq!(report.blocks[0].way, Way::Store);
    assert!(!report.blocks[0].reason.is_empty());
    data(&placement, &block, &[1, 5], 1, InPlace::Never);
    assert!(holds(&block, 5, Some(1)) && holds(&block, 6, None));
}

#[test]
fn blocks_refuse_what_they_cannot_be() {
    assert!(matches!(RamBlock::anonymous("b", 0), Err(BlockError::Length { .. })));
    assert!(matches!(RamBlock::anonymous("b", 4097), Err(BlockError::Length { .. })));
    assert!(matches!(RamBlock::anonymous("b", !4095), Err(BlockError::Length { .. })));
    assert!(RamBlock::anonymous("b", 16 << 40).is_err());
    for address in [0usize, 1, 4095, usize::MAX & !4095] {
        let address = std::ptr::without_provenance_mut(address);
        // SAFETY: addresses that are refused are not used.
        let refused = unsafe { RamBlock::from_raw("b", address, 8192, Initial::Unknown) };
        assert!(matches!(refused, Err(BlockError::Address { .. })));
    }
    let block = RamBlock::anonymous("b", 8192).unwrap();
    assert!(block.page_ptr(2).is_err() && block.page_ptr(1).is_ok());
    assert!(block.read_at(8000, &mut [0; 200]).is_err());
    assert!(block.read_at(u64::MAX, &mut [0; 200]).is_err());
    assert!(block.read_at(8000, &mut [0; 192]).is_ok());
    let odd_name = RamBlock::memfd("0000:00:02.0/vga\0.rom".repeat(30), 4096).unwrap();
    assert!(odd_name.memory_file().is_some());
}

#[test]
fn a_block_in_blocks_far_apart_words_lands() {
    // Words a whole guard table apart share an entry: one landing must not
    // wait for itself.
    let placement = Placement::new(None).unwrap();
    let block = Arc::new(RamBlock::anonymous("b", 8 << 30).unwrap());
    placement.attach(&block).unwrap();
    let pages: Vec<u32> = (0..8).map(|i| i * 4096 * 64 + 5).collect();
    for (salt, in_place) in [InPlace::Never, InPlace::Allowed, InPlace::Allowed].iter().enumerate()
    {
        data(&placement, &block, &pages, salt as u32, *in_place);
    }
    assert!(pages.iter().all(|&page| holds(&block, page, Some(2))));
    assert_eq!(zero(&placement, &block, &pages), (0, 8));
    assert!(pages.iter().all(|&page| holds(&block, page, None)));
}

#[test]
fn a_refused_run_leaves_the_rest_unwritten_and_free() {
    let placement = Placement::new(Some(Policy::Place)).unwrap();
    let block = callers(Initial::KnownZero, false);
    placement.attach(&block).unwrap();
    if placement.report().blocks[0].way != Way::Place {
        return;
    }
    // The owner puts other memory under pages 5 and 6, which userfaultfd does
    // not know of.
    // SAFETY: the pages stay mapped, readable, writable and zero.
    let replaced = unsafe {
        libc::mmap(
            block.page_ptr(5).unwrap().cast(),
            2 * PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    assert_ne!(replaced, libc::MAP_FAILED);
    for in_place in [InPlace::Allowed, InPlace::Never] {
        let staging = Staging::new().unwrap();
        let pages = [2, 3, 5, 6, 9];
        let landing = Landing::begin(&placement, &block, &pages, staging, in_place).unwrap();
        fill(&landing, 1);
        let error = landing.commit().unwrap_err();
        assert!(matches!(error, PlacementError::Refused { action: "place", page: 5, .. }));
        assert!(error.to_string().contains("from page 0x5 on"), "{error}");
        for (page, written) in [(2, true), (3, true), (5, false), (6, false), (9, false)] {
            assert_eq!(block.map().is_written(page), written, "page {page}");
        }
        assert!(!block.map().is_received(5) && !block.map().is_received(9));
    }
    data(&placement, &block, &[3, 9], 2, InPlace::Allowed);
    placement.detach(&block);
    assert!(holds(&block, 3, Some(2)) && holds(&block, 9, Some(2)) && holds(&block, 5, None));
}

#[test]
fn dense_regions_are_huge_and_the_others_placed() {
    for in_place in [InPlace::Allowed, InPlace::Never] {
        let placement = Placement::new(Some(Policy::Huge)).unwrap();
        let block = Arc::new(RamBlock::anonymous("b", BYTES).unwrap());
        placement.attach(&block).unwrap();
        let way = placement.report().blocks[0].way;
        let dense: Vec<u32> = (512..768).collect();
        let sparse: Vec<u32> = (1024..2048).step_by(16).collect();
        data(&placement, &block, &dense, 1, in_place);
        data(&placement, &block, &sparse, 1, in_place);
        if way == Way::Huge {
            let counts = placement.report().pages;
            assert_eq!((counts.huge, counts.placed), (256, 64));
            // One huge page, or what the kernel had instead.
            let resident = resident_pages(&block);
            assert!(resident == 512 + 64 || resident == 256 + 64, "{resident}");
        }
        assert_eq!(zero(&placement, &block, &dense[..200]), (0, 200));
        assert_eq!(placement.report().pages.given_back, 0);
        data(&placement, &block, &dense[100..228], 2, in_place);
        data(&placement, &block, &[800, 801, 1024, 1025], 3, in_place);
        placement.detach(&block);
        for page in 0..block.pages() {
            let salt = match page {
                800 | 801 | 1024 | 1025 => Some(3),
                612..740 => Some(2),
                740..768 => Some(1),
                _ if page >= 1024 && page % 16 == 0 => Some(1),
                _ => None,
            };
            assert!(holds(&block, page, salt), "{in_place:?}, page {page}");
        }
        // Attached again: what was huge stays as it is.
        placement.attach(&block).unwrap();
        data(&placement, &block, &[0, 900, 1500], 4, in_place);
        placement.detach(&block);
        assert!([0, 900, 1500].iter().all(|&page| holds(&block, page, Some(4))));
    }
}
