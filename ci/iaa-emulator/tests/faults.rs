//! What goes wrong on request, and what goes wrong with memory, as a client of libqpl sees it.

mod support;

use std::time::{Duration, Instant};

use support::qpl::{
    BEING_PROCESSED, DECOMPRESS, DYNAMIC, HARDWARE, Job, OMIT_VERIFY, SOFTWARE, WHOLE,
};
use support::{Client, Mapping, page, scenario};

fn hardware(client: &Client) -> Job {
    client.qpl.job(HARDWARE).expect("the hardware path starts")
}

fn stream(client: &Client, page: &[u8]) -> Vec<u8> {
    let (status, stream) =
        client.qpl.job(SOFTWARE).expect("software").compress(DYNAMIC | OMIT_VERIFY, page);
    assert_eq!(status, 0);
    stream
}

/// CRC-32 by its definition.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }
        })
    })
}

fn statuses(client: &Client) {
    let page = page(1);
    let stream = stream(client, &page);
    let mut output = vec![0; 4096];
    // Completion status, and what libqpl makes of it.
    let table = [
        ("status:0x0a=1", 310),
        ("status:0x10=1", 316),
        ("status:0x11=1", 317),
        ("status:0x12=1", 318),
        ("status:0x13=1", 319),
        ("status:0x16=1", 322),
        ("status:0x1a=1", 326),
        ("status:0x1f=1", 331),
        ("status:0x20=1", 332),
        ("status:0x22=1", 334),
        ("status:0x23=1", 335),
        ("status:0x24=1", 336),
        ("status:0x30=1", 348),
        // Page faults: libqpl touches the page and tries again once; the second fault it tells.
        ("status:0x03=1", 303),
        ("status:0x83=1", 431),
        ("status:0x04=1", 304),
        ("status:0x84=1", 432),
        ("error:15=1", 215),
        ("error:17=1", 217),
        ("error:19=1", 219),
        ("error:29=1", 229),
    ];
    for (specification, status) in table {
        let mut job = hardware(client);
        client.inject(specification);
        assert_eq!(job.decompress(&stream, &mut output).0, status, "{specification}");
        job.set(DECOMPRESS, WHOLE, (stream.as_ptr(), stream.len()), (output.as_mut_ptr(), 4096));
        assert_eq!(job.execute(), status, "{specification}, synchronous");
        client.inject("");
        assert_eq!(job.decompress(&stream, &mut output), (0, 4096), "after {specification}");
        assert!(output == page);
    }
    assert!(client.count("injected") >= 2 * table.len() as u64);
}

#[test]
fn completion_statuses_arrive() {
    scenario("completion_statuses_arrive", "", statuses);
}

#[test]
fn completion_statuses_arrive_by_enqcmd() {
    scenario("completion_statuses_arrive_by_enqcmd", "transport=enqcmd", statuses);
}

#[test]
fn faults_with_block_on_fault_off_are_tried_twice() {
    scenario("faults_with_block_on_fault_off_are_tried_twice", "", |client| {
        let page = page(1);
        let stream = stream(client, &page);
        let mut output = vec![0; 4096];
        client.inject("fault-bof-off=1");
        let mut seen = [0, 0];
        for _ in 0..40 {
            match hardware(client).decompress(&stream, &mut output).0 {
                303 => seen[0] += 1,
                431 => seen[1] += 1,
                status => panic!("{status}"),
            }
        }
        assert!(seen[0] > 5 && seen[1] > 5, "{seen:?}");
        assert_eq!(client.counters()["injected_by_kind"]["fault-bof-off"], 80);
    });
}

#[test]
fn faults_that_are_resolved_cost_time() {
    scenario("faults_that_are_resolved_cost_time", "fault_us=3000", |client| {
        let page = page(1);
        let stream = stream(client, &page);
        let mut job = hardware(client);
        let mut output = vec![0; 4096];
        client.inject("fault-bof-on=1");
        let begun = Instant::now();
        for _ in 0..10 {
            assert_eq!(job.decompress(&stream, &mut output), (0, 4096));
        }
        assert!(begun.elapsed() >= Duration::from_millis(30));
        assert_eq!(client.count("injected"), 10);
    });
}

#[test]
fn wrong_results_look_right() {
    scenario("wrong_results_look_right", "", |client| {
        let page = page(1);
        let stream = stream(client, &page);
        let mut job = hardware(client);
        let mut output = vec![0; 4096];

        client.inject("flip=1");
        for _ in 0..20 {
            assert_eq!(job.decompress(&stream, &mut output), (0, 4096));
            let flipped: u32 = output.iter().zip(&page).map(|(a, b)| (a ^ b).count_ones()).sum();
            assert_eq!(flipped, 1);
            assert_eq!(job.raw().crc, crc32(&page), "the checksum is of the right bytes");
        }
        client.inject("short=1");
        for _ in 0..20 {
            let (status, length) = job.decompress(&stream, &mut output);
            assert_eq!(status, 0);
            assert!(length < 4096);
            assert!(output[..length] == page[..length]);
            assert_eq!(job.raw().crc, crc32(&page[..length]));
        }
        client.inject("wrong-crc=1");
        assert_eq!(job.decompress(&stream, &mut output), (0, 4096));
        assert!(output == page && job.raw().crc != crc32(&page));
        assert_eq!(client.count("injected"), 41);
        assert_eq!(client.counters()["injected_by_kind"]["flip"], 20);
    });
}

#[test]
fn a_job_that_never_completes() {
    scenario("a_job_that_never_completes", "", |client| {
        let page = page(1);
        let stream = stream(client, &page);
        let (mut lost, mut good) = (hardware(client), hardware(client));
        let mut untouched = vec![0x55; 4096];
        client.inject("never=1");
        lost.set(
            DECOMPRESS,
            WHOLE,
            (stream.as_ptr(), stream.len()),
            (untouched.as_mut_ptr(), 4096),
        );
        assert_eq!(lost.submit(), 0);
        assert_eq!(lost.wait(Duration::from_millis(300)), BEING_PROCESSED);
        client.inject("");
        let mut output = vec![0; 4096];
        assert_eq!(good.decompress(&stream, &mut output), (0, 4096));
        assert_eq!(lost.check(), BEING_PROCESSED);
        assert!(untouched.iter().all(|byte| *byte == 0x55));
        assert_eq!((client.count("descriptors"), client.count("completed")), (2, 1));
        // The synchronous way gives up by itself, after eight seconds from release 1.8 on.
        client.inject("never=1");
        let begun = Instant::now();
        good.set(DECOMPRESS, WHOLE, (stream.as_ptr(), stream.len()), (output.as_mut_ptr(), 4096));
        assert_eq!(good.execute(), 319);
        assert!(begun.elapsed() > Duration::from_secs(5));
    });
}

#[test]
fn a_late_job_writes_late() {
    scenario("a_late_job_writes_late", "engines=1", |client| {
        let page = page(1);
        let stream = stream(client, &page);
        let (mut late, mut other) = (hardware(client), hardware(client));
        let (mut lately, mut output) = (vec![0x55; 4096], vec![0; 4096]);
        client.inject("late=1,late-ms=300");
        late.set(DECOMPRESS, WHOLE, (stream.as_ptr(), stream.len()), (lately.as_mut_ptr(), 4096));
        assert_eq!(late.submit(), 0);
        assert_eq!(late.wait(Duration::from_millis(100)), BEING_PROCESSED);
        client.inject("");
        assert_eq!(other.decompress(&stream, &mut output), (0, 4096));
        assert!(lately.iter().all(|byte| *byte == 0x55));
        assert_eq!(late.wait(Duration::from_secs(10)), 0);
        assert!(lately == page);
    });
}

fn busy(client: &Client) {
    let page = page(1);
    let stream = stream(client, &page);
    let mut job = hardware(client);
    let mut output = vec![0; 4096];
    client.inject("busy=1");
    client.reset();
    for _ in 0..10 {
        assert_eq!(job.decompress(&stream, &mut output).0, 5);
    }
    assert_eq!((client.count("busy"), client.count("descriptors")), (10, 0));
    client.inject("busy=0.3");
    client.reset();
    let refused = (0..1000).filter(|_| job.decompress(&stream, &mut output).0 == 5).count() as u64;
    assert!((220..380).contains(&refused), "{refused}");
    assert_eq!((client.count("busy"), client.count("descriptors")), (refused, 1000 - refused));
    assert_eq!(client.counters()["injected_by_kind"]["busy"], refused);
    assert_eq!(client.count("busy_queue_full"), 0);

    // An engine that is held up, and a queue of four.
    client.inject("delay-us=400000");
    client.reset();
    let mut jobs: Vec<_> = (0..8).map(|_| (hardware(client), Mapping::new(4096))).collect();
    let mut submit = |(job, output): &mut (Job, Mapping)| {
        job.set(DECOMPRESS, WHOLE, (stream.as_ptr(), stream.len()), (output.at(), 4096));
        job.submit()
    };
    assert_eq!(submit(&mut jobs[0]), 0);
    std::thread::sleep(Duration::from_millis(100));
    let rest: Vec<_> = jobs[1..].iter_mut().map(&mut submit).collect();
    assert_eq!(rest, [0, 0, 0, 0, 5, 5, 5]);
    assert_eq!((client.count("busy"), client.count("busy_queue_full")), (3, 3));
    for (job, _) in &mut jobs[..5] {
        assert_eq!(job.wait(Duration::from_secs(10)), 0);
    }
}

#[test]
fn busy_queues_decline() {
    scenario("busy_queues_decline", "engines=1;queue_size=4", busy);
}

#[test]
fn busy_queues_decline_by_enqcmd() {
    scenario("busy_queues_decline_by_enqcmd", "engines=1;queue_size=4;transport=enqcmd", busy);
}

#[test]
fn with_block_on_fault_missing_pages_are_fetched() {
    scenario("with_block_on_fault_missing_pages_are_fetched", "block_on_fault=1", |client| {
        let page = page(1);
        let stream = stream(client, &page);
        let mut job = hardware(client);
        let mut memory = Mapping::new(8 * 4096);
        job.set(DECOMPRESS, WHOLE, (stream.as_ptr(), stream.len()), (memory.at(), 4096));
        assert_eq!(job.run(), 0);
        // A page that was only read, so that the shared zero page lies there.
        // SAFETY: inside the mapping.
        assert_eq!(unsafe { memory.at().add(4096).read_volatile() }, 0);
        // SAFETY: inside the mapping.
        let second = unsafe { memory.at().add(4096) };
        job.set(DECOMPRESS, WHOLE, (stream.as_ptr(), stream.len()), (second, 4096));
        assert_eq!(job.run(), 0);
        // Two pages at once, because the destination is not aligned; the second of them is there already.
        memory.bytes()[4 * 4096] = 1;
        // SAFETY: inside the mapping.
        let third = unsafe { memory.at().add(3 * 4096 + 100) };
        job.set(DECOMPRESS, WHOLE, (stream.as_ptr(), stream.len()), (third, 4096));
        assert_eq!(job.run(), 0);
        assert!(memory.bytes()[..4096] == page && memory.bytes()[4096..8192] == page);
        let counters = client.counters();
        // bytes() has made none of the pages resident by itself, so page 3 was missing too.
        assert_eq!(counters["faults_destination"], 3);
        assert_eq!(
            (&counters["io_page_faults"], &counters["io_page_faults_resolved"]),
            (&3.into(), &3.into())
        );
    });
}

#[test]
fn without_block_on_fault_missing_pages_are_told() {
    scenario("without_block_on_fault_missing_pages_are_told", "block_on_fault=0", |client| {
        let page = page(1);
        let stream = stream(client, &page);
        let mut job = hardware(client);
        let memory = Mapping::new(4 * 4096);
        client.reset();
        // libqpl touches the page and submits again, once in the life of a job.
        job.set(DECOMPRESS, WHOLE, (stream.as_ptr(), stream.len()), (memory.at(), 4096));
        assert_eq!(job.run(), 0);
        // SAFETY: inside the mapping.
        let second = unsafe { memory.at().add(4096) };
        job.set(DECOMPRESS, WHOLE, (stream.as_ptr(), stream.len()), (second, 4096));
        assert_eq!(job.run(), 431);
        let counters = client.counters();
        assert_eq!(counters["statuses"], serde_json::json!({"0x01": 1, "0x83": 2}));
        assert_eq!(
            (&counters["io_page_faults"], &counters["io_page_faults_resolved"]),
            (&2.into(), &0.into())
        );
        // A source that is not there.
        let mut job = hardware(client);
        let mut sources = Mapping::new(2 * 4096);
        sources.bytes()[..stream.len()].copy_from_slice(&stream);
        // SAFETY: discards memory that the mapping owns.
        unsafe { libc::madvise(sources.at().cast(), 4096, libc::MADV_DONTNEED) };
        job.set(DECOMPRESS, WHOLE, (sources.at(), stream.len()), (memory.at(), 4096));
        // After libqpl's touch the source is there and zero: a stored block of which the rest is missing or wrong.
        assert_eq!(job.run(), 214);
        assert_eq!(client.count("faults_source"), 1);
    });
}

/// Registers memory with a userfaultfd that nobody serves.
fn unserved(memory: &Mapping, length: u64) -> Option<i32> {
    // SAFETY: the calls get structures of the sizes that are coded in their numbers, and keep none of them.
    unsafe {
        let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) as i32;
        if fd < 0 {
            return None;
        }
        let mut api = [0xaa_u64, 0, 0];
        assert_eq!(libc::ioctl(fd, 0xc018_aa3f, api.as_mut_ptr()), 0);
        let mut register = [memory.at() as u64, length, 1, 0];
        assert_eq!(libc::ioctl(fd, 0xc020_aa00, register.as_mut_ptr()), 0);
        Some(fd)
    }
}

#[test]
fn what_cannot_be_fetched_is_refused() {
    scenario("what_cannot_be_fetched_is_refused", "block_on_fault=1", |client| {
        let page = page(1);
        let stream = stream(client, &page);
        let mut job = hardware(client);
        let mut refused = |destination: *mut u8| {
            job.set(DECOMPRESS, WHOLE, (stream.as_ptr(), stream.len()), (destination, 4096));
            job.run()
        };
        let memory = Mapping::new(4 * 4096);
        let address = memory.at();
        // SAFETY: takes the rights of pages that the mapping owns.
        unsafe { libc::mprotect(address.add(4096).cast(), 4096, libc::PROT_READ) };
        // SAFETY: inside the mapping.
        assert_eq!(refused(unsafe { address.add(4096) }), 432);
        // Addresses where nothing is: an error, and the process lives.
        assert_eq!(refused(64 as *mut u8), 432);
        assert_eq!(refused(0x7fff_ffff_0000 as *mut u8), 432);
        let missing = Mapping::new(4096);
        match unserved(&missing, 4096) {
            Some(_) => assert_eq!(refused(missing.at()), 432),
            None => eprintln!("not tested here: userfaultfd is not permitted"),
        }
        // The source.
        job.set(DECOMPRESS, WHOLE, (64 as *const u8, 100), (address, 4096));
        assert_eq!(job.run(), 304);
        let counters = client.counters();
        assert_eq!(counters["io_page_faults_resolved"], 0);
        assert_eq!(counters["io_page_faults"], counters["descriptors"]);
    });
}

#[test]
fn flushes_are_counted() {
    scenario("flushes_are_counted", "", |client| {
        let page = page(1);
        let stream = stream(client, &page);
        let mut job = hardware(client);
        let mut output = Mapping::new(4096);
        output.bytes().fill(1);
        let mut once = |client: &Client| {
            client.reset();
            for _ in 0..200 {
                assert_eq!(job.decompress(&stream, output.bytes()), (0, 4096));
            }
        };
        once(client);
        once(client);
        let counters = client.counters();
        let quiet = client.count("iotlb_flushes");
        assert!(quiet < 20, "{quiet} flushes with nothing unmapped");
        assert!((3..10).contains(&client.count("translations")), "{counters}");
        for _ in 0..100 {
            // SAFETY: discards memory that the mapping owns; the next job brings a new page.
            unsafe { libc::madvise(output.at().cast(), 4096, libc::MADV_DONTNEED) };
            assert_eq!(job.decompress(&stream, output.bytes()), (0, 4096));
        }
        let counters = client.counters();
        assert_eq!(counters["io_page_faults_resolved"], 100);
        if counters["iotlb_flushes_from"] == "tlb_flush" {
            assert!(client.count("iotlb_flushes") >= 100, "{counters}");
            // Frames are told to whoever may count flushes. A page may get its old frame back.
            assert!(client.count("translations_changed") > 0, "{counters}");
        }
    });
}
