//! Page faults and resident memory of a whole receive, counted in a process
//! that does nothing else.
//!
//! Under policy `place`: at most 0.02 faults a page of data, and resident
//! memory within 5 % of the data (10 % where one page in eight holds any).

#![cfg(not(loom))]

use std::{fs, sync::Arc};

use multifd_qpl::ram::{
    InPlace, Landing, Placement, Policy, RamBlock, Staging, ZeroMode, placement::Way, zero_pages,
};

const PAGES: u32 = 64 << 10;

fn faults() -> i64 {
    // SAFETY: an all-zero rusage is valid, and getrusage writes one.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is one rusage.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    usage.ru_minflt
}

fn resident_kib() -> i64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Receives two rounds; returns faults per data page and memory per data byte.
fn receive(policy: Policy, one_in: u32, in_place: InPlace) -> (f64, f64, Way) {
    let (faults_before, kib_before) = (faults(), resident_kib());
    let placement = Placement::new(Some(policy)).unwrap();
    let block = Arc::new(RamBlock::anonymous("ram", u64::from(PAGES) * 4096).unwrap());
    placement.attach(&block).unwrap();
    let data: Vec<u32> = (0..PAGES).filter(|page| page % one_in == 0).collect();
    let zero: Vec<u32> = (0..PAGES).filter(|page| page % one_in != 0).collect();
    let mut staging = Staging::new().unwrap();
    for _round in 0..2 {
        for pages in zero.chunks(128) {
            zero_pages(&placement, &block, pages, ZeroMode::Map).unwrap();
        }
        for pages in data.chunks(128) {
            let landing = Landing::begin(&placement, &block, pages, staging, in_place).unwrap();
            for i in 0..landing.len() {
                // SAFETY: a destination is 4096 writable bytes of the landing.
                unsafe { landing.destination(i).write_bytes(i as u8 | 1, 4096) };
            }
            staging = landing.commit().unwrap();
        }
    }
    drop(staging);
    placement.detach(&block);
    let way = placement.report().blocks[0].way;
    let pages = data.len() as f64;
    let faults = (faults() - faults_before) as f64 / pages;
    let memory = (resident_kib() - kib_before) as f64 / (4.0 * pages);
    assert_eq!(block.resident_bytes().unwrap().max(pages as u64 * 4096), {
        if policy == Policy::Huge { block.resident_bytes().unwrap() } else { pages as u64 * 4096 }
    });
    println!(
        "{policy}, one page in {one_in}, {in_place:?}: {faults:.4} faults, {memory:.3} memory"
    );
    (faults, memory, way)
}

#[test]
fn data_alone_takes_memory_and_nothing_faults() {
    // What is paid once, such as growing the heap, is paid before.
    receive(Policy::Place, 8, InPlace::Allowed);
    for in_place in [InPlace::Allowed, InPlace::Never] {
        for (one_in, most) in [(1, 1.05), (8, 1.10)] {
            for policy in [Policy::Place, Policy::Populate, Policy::Fault] {
                let (faults, memory, way) = receive(policy, one_in, in_place);
                assert!(memory <= most, "{policy}: {memory} bytes resident per byte of data");
                if way == Way::Place {
                    assert!(faults <= 0.02, "{policy}: {faults} faults a page of data");
                }
            }
        }
        // Huge pages pay off where memory is dense, and cost none elsewhere.
        let (faults, memory, way) = receive(Policy::Huge, 1, in_place);
        if way == Way::Huge {
            assert!(faults <= 0.02 && memory <= 1.05, "{faults} faults, {memory} memory");
        }
        let (faults, memory, way) = receive(Policy::Huge, 8, in_place);
        assert!(memory <= 1.10, "{memory} bytes resident per byte of data");
        if way == Way::Huge {
            assert!(faults <= 0.02, "{faults} faults a page of data");
        }
    }
}
