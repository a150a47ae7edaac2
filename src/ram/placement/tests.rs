//! What the kernel may answer to UFFDIO_COPY, played by a script, and hosts that
//! lack one thing or another.

use std::{cell::RefCell, collections::VecDeque, io, str::FromStr, sync::Arc};

use super::{
    InPlace, Landing, Placement, Policy, Staging,
    batch::Run,
    measure::Host,
    report::Tally,
    run::place_run,
    uffd::{CopyPages, Uffd},
    way::Way,
};
use crate::{ram::RamBlock, wire::PAGE_SIZE};

/// Answers each copy with a number of pages and an error, and then plainly
/// copies.
struct Script(RefCell<VecDeque<(usize, i32)>>);

impl CopyPages for Script {
    unsafe fn copy(&self, dst: *mut u8, src: *const u8, len: usize) -> (usize, Option<io::Error>) {
        let next = self.0.borrow_mut().pop_front();
        let copied = next.map_or(len, |(pages, _)| pages * PAGE_SIZE);
        // SAFETY: at most `len` bytes, for which the caller answers; the block
        // of these tests is plain memory.
        unsafe { dst.copy_from_nonoverlapping(src, copied.min(len)) };
        (copied, next.map(|(_, error)| io::Error::from_raw_os_error(error)))
    }
}

const PAGES: usize = 8;

/// Places pages 2..8 of a block from a source whose page `i` holds `i + 1`.
fn place(script: &[(usize, i32)]) -> (RamBlock, usize, Option<i32>, Tally) {
    let block = RamBlock::anonymous("b", 16 * PAGE_SIZE as u64).unwrap();
    block.way.set(Some(Way::Place));
    let (done, error, tally) = place_into(&block, script);
    (block, done, error, tally)
}

fn place_into(block: &RamBlock, script: &[(usize, i32)]) -> (usize, Option<i32>, Tally) {
    let source: Vec<u8> = (0..PAGES * PAGE_SIZE).map(|at| (at / PAGE_SIZE) as u8 + 1).collect();
    let script = Script(RefCell::new(script.iter().copied().collect()));
    let mut tally = Tally::default();
    let run = Run { first: 0, page: 2, len: PAGES };
    // SAFETY: the run lies in the block, which this test alone uses; the source
    // is as long as the run.
    let (done, result) = unsafe { place_run(&script, block, run, source.as_ptr(), &mut tally) };
    let error = result.err().map(|error| match error {
        super::PlacementError::Refused { source, .. } => source.raw_os_error().unwrap(),
        other => panic!("{other}"),
    });
    (done, error, tally)
}

/// First bytes of pages 2..10, and that each page is of one byte.
fn content(block: &RamBlock) -> Vec<u8> {
    let mut pages = Vec::new();
    for page in 2..2 + PAGES as u32 {
        // SAFETY: the page lies in the block, which nobody writes now.
        let bytes = unsafe { std::slice::from_raw_parts(block.page(page), PAGE_SIZE) };
        assert!(bytes.iter().all(|&byte| byte == bytes[0]));
        pages.push(bytes[0]);
    }
    pages
}

const ALL: [u8; PAGES] = [1, 2, 3, 4, 5, 6, 7, 8];

#[test]
fn copies_in_part_go_on_where_they_ended() {
    let (block, done, error, tally) =
        place(&[(3, libc::EAGAIN), (0, libc::EAGAIN), (1, libc::EAGAIN), (0, libc::EINTR)]);
    assert_eq!((done, error, content(&block)), (PAGES, None, ALL.to_vec()));
    assert_eq!((tally.placed, tally.eagain, tally.uffd_copies), (8, 2, 5));
}

#[test]
fn present_pages_are_stored_and_the_rest_goes_on() {
    let (block, done, error, tally) =
        place(&[(2, libc::EAGAIN), (0, libc::EEXIST), (4, libc::EAGAIN), (0, libc::EEXIST)]);
    assert_eq!((done, error, content(&block)), (PAGES, None, ALL.to_vec()));
    assert_eq!((tally.placed, tally.eexist, tally.in_place), (6, 2, 2));
}

#[test]
fn a_run_of_present_pages_costs_one_refusal() {
    let block = RamBlock::anonymous("b", 16 * PAGE_SIZE as u64).unwrap();
    block.way.set(Some(Way::Place));
    // SAFETY: pages 3..7 of a block that this test alone uses.
    unsafe { block.page(3).write_bytes(0xee, 4 * PAGE_SIZE) };
    let (done, error, tally) = place_into(&block, &[(1, libc::EAGAIN), (0, libc::EEXIST)]);
    assert_eq!((done, error, content(&block)), (PAGES, None, ALL.to_vec()));
    assert_eq!((tally.eexist, tally.placed, tally.uffd_copies), (4, 4, 3));
}

#[test]
fn errors_say_how_far_it_came() {
    for code in [libc::ENOMEM, libc::ENOSPC, libc::EFAULT, libc::ENOENT, libc::ESRCH] {
        let (block, done, error, tally) = place(&[(5, libc::EAGAIN), (0, code)]);
        assert_eq!((done, error, tally.placed), (5, Some(code), 5));
        assert_eq!(content(&block)[5..], [0, 0, 0]);
    }
}

#[test]
fn a_copy_disturbed_for_ever_ends() {
    let (_, done, error, _) = place(&vec![(0, libc::EAGAIN); 200_000]);
    assert_eq!((done, error), (0, Some(libc::EAGAIN)));
}

#[test]
fn a_detached_block_is_stored_to() {
    let block = RamBlock::anonymous("b", 16 * PAGE_SIZE as u64).unwrap();
    let (done, error, tally) = place_into(&block, &[(0, libc::ENOENT)]);
    assert_eq!((done, error, content(&block)), (PAGES, None, ALL.to_vec()));
    assert_eq!(tally.stored, PAGES as u32);
}

#[test]
fn an_absurd_count_is_not_believed() {
    let (block, done, error, _) = place(&[(PAGES, libc::EAGAIN), (1000, libc::EAGAIN)]);
    assert_eq!((done, error, content(&block)), (PAGES, None, ALL.to_vec()));
}

#[test]
fn memory_that_takes_no_single_pages_is_refused() {
    let Ok(uffd) = Uffd::open() else { return };
    // Not mapped at all, and not aligned.
    assert!(uffd.register(std::ptr::without_provenance_mut(4096), 4096).is_err());
    let block = RamBlock::anonymous("b", 1 << 20).unwrap();
    assert!(uffd.register(block.as_ptr().wrapping_add(1), 4096).is_err());
    assert!(uffd.register(block.as_ptr(), 1 << 20).is_ok());
    uffd.unregister(block.as_ptr(), 1 << 20);
}

#[test]
fn policies_have_names() {
    for policy in Policy::ALL {
        assert_eq!(Policy::from_str(&policy.to_string()), Ok(policy));
    }
    let error = Policy::from_str("Place").unwrap_err();
    assert!(error.to_string().contains("populate"));
}

/// Places a few pages on a host that lacks what `uffd` and `populate` say.
fn place_on(uffd: bool, populate: bool, choice: Option<Policy>) -> (Policy, String, Way) {
    let refused = || io::Error::from_raw_os_error(libc::EPERM);
    let host = Host {
        uffd: if uffd { Uffd::open() } else { Err(refused()) },
        populate: if populate { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EINVAL)) },
    };
    let placement = Placement::on(host, choice).unwrap();
    let block = Arc::new(RamBlock::anonymous("b", 8 << 20).unwrap());
    placement.attach(&block).unwrap();
    let pages: Vec<u32> = (3..130).collect();
    for in_place in [InPlace::Allowed, InPlace::Never] {
        let staging = Staging::new().unwrap();
        let landing = Landing::begin(&placement, &block, &pages, staging, in_place).unwrap();
        for i in 0..landing.len() {
            // SAFETY: a destination is a page of this landing alone.
            unsafe { landing.destination(i).write_bytes(landing.page(i) as u8, PAGE_SIZE) };
        }
        landing.commit().unwrap();
    }
    for &page in &pages {
        let mut bytes = [0; PAGE_SIZE];
        block.read_page(page, &mut bytes).unwrap();
        assert_eq!(bytes, [page as u8; PAGE_SIZE]);
    }
    (placement.policy(), placement.reason().to_owned(), placement.report().blocks[0].way)
}

#[test]
fn a_host_without_userfaultfd_populates() {
    let (policy, reason, way) = place_on(false, true, Some(Policy::Place));
    assert!(matches!(policy, Policy::Populate | Policy::Fault), "{policy}");
    assert!(matches!(way, Way::Populate | Way::Store), "{way:?}");
    assert!(reason.starts_with("not place, because userfaultfd is not to be had"), "{reason}");
    let (policy, reason, _) = place_on(false, true, None);
    assert_ne!(policy, Policy::Place);
    assert!(reason.contains("userfaultfd"), "{reason}");
    let (policy, _, way) = place_on(false, true, Some(Policy::Huge));
    assert!(policy != Policy::Huge || way == Way::HugePopulate, "{way:?}");
}

#[test]
fn a_host_without_anything_faults() {
    for choice in [None, Some(Policy::Place), Some(Policy::Populate), Some(Policy::Fault)] {
        let (policy, reason, way) = place_on(false, false, choice);
        assert_eq!((policy, way), (Policy::Fault, Way::Store), "{reason}");
    }
    let (_, reason, _) = place_on(false, false, Some(Policy::Populate));
    assert!(reason.contains("it takes Linux 5.14"), "{reason}");
}

#[test]
fn a_host_of_before_populate_still_places() {
    let (policy, reason, _) = place_on(true, false, Some(Policy::Place));
    assert!(policy == Policy::Place || Uffd::open().is_err(), "{reason}");
    // Unlike on the host this runs on, huge pages are populated by stores.
    place_on(true, false, Some(Policy::Huge));
}
