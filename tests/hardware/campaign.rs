//! Every failure of a device, alone and mixed, rare and always: RAM is right,
//! nothing hangs, nothing leaks, nothing is written after it was handed over.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use multifd_qpl::engine::{
    BufferPool, Engine, EngineError, EngineReport, PagePacket,
    hardware::{Device, HardwareEngine, Options, Simulator},
};

use multifd_qpl::ram::Placement;

use crate::support::{Guest, Random, Sent};

/// Deadline where jobs miss it on purpose.
const DEADLINE: Duration = Duration::from_millis(20);
const LATE: Duration = Duration::from_millis(80);

/// Jobs that miss no deadline, however busy the machine.
fn options() -> Options {
    Options { jobs: 32, deadline: Duration::from_secs(10), ..Options::default() }
}

fn impatient() -> Options {
    Options { deadline: DEADLINE, ..options() }
}

fn options_for(faults: &str) -> Options {
    if faults.contains("late") || faults.contains("never") { impatient() } else { options() }
}

fn engine(faults: &str, guest: &Guest, options: Options) -> (Arc<Simulator>, HardwareEngine) {
    let simulator = Simulator::new(faults.parse().unwrap());
    let device: Arc<dyn Device> = Arc::<Simulator>::clone(&simulator);
    let placement = Arc::clone(&guest.placement);
    (simulator, HardwareEngine::with_device(device, placement, options, "test"))
}

/// Lets all jobs come to an end that nobody waits for any more.
fn wait_for_parked(simulator: &Simulator, engine: &HardwareEngine) {
    let end = Instant::now() + Duration::from_secs(20);
    while engine.parked() > 0 {
        assert!(Instant::now() < end, "{} jobs never end", engine.parked());
        simulator.release();
        thread::sleep(Duration::from_millis(1));
    }
}

/// Sends pages through a faulty device, ends everything, and looks for damage.
fn campaign(faults: &str, options: Options) -> (EngineReport, Sent) {
    let mut guest = Guest::new(600);
    let faults = format!("{faults},late-ms={}", LATE.as_millis());
    let (simulator, engine) = engine(&faults, &guest, options);
    let sent = guest.send_all(&engine, 2, 50).unwrap_or_else(|error| panic!("{faults}: {error}"));
    let report = engine.report();
    assert_eq!(report.raw, sent.raw, "{faults}: {report:?}");
    assert_eq!(report.pages + report.fell_back, sent.compressed, "{faults}: {report:?}");

    // Whatever comes late must not reach guest memory.
    wait_for_parked(&simulator, &engine);
    guest.check();
    drop(engine);
    assert_eq!(simulator.live(), 0, "{faults}: blocks left");
    assert_eq!(simulator.violations(), 0, "{faults}");
    (report, sent)
}

#[test]
fn a_good_device_does_every_page() {
    let (report, sent) = campaign("delay-us=5", Options { verify: true, ..options() });
    assert_eq!(report.pages, sent.compressed);
    assert!(report.most_in_flight > 8, "{report:?}");
    assert_eq!((report.busy, report.timed_out, report.mismatched), (0, 0, 0));
    assert_eq!(report.reason, "test");
}

#[test]
fn each_failure_alone() {
    for probability in ["0.01", "0.1", "1"] {
        for fault in [
            "busy",
            "fault",
            "unknown",
            "short",
            "flip",
            "late",
            "refuse:8",
            "refuse:503",
            "refuse:319",
            "status:2",
            "status:6",
            "status:213",
            "status:217",
            "status:303",
            "status:319",
            "status:326",
            "status:333",
            "status:431",
        ] {
            let faults = format!("{fault}={probability}");
            let (report, sent) = campaign(&faults, Options { verify: true, ..options_for(fault) });
            if probability == "1" {
                assert_eq!(report.pages, 0, "{faults}: {report:?}");
            } else {
                assert!(
                    fault == "late" || report.pages > sent.compressed / 4,
                    "{faults}: {report:?}"
                );
            }
            let counter = match fault {
                "busy" => report.busy,
                "fault" | "status:303" | "status:326" | "status:431" => report.faults,
                "late" => report.timed_out,
                "flip" => report.mismatched,
                _ => report.fell_back,
            };
            assert!(counter > 0, "{faults}: {report:?}");
        }
    }
}

#[test]
fn jobs_that_never_end() {
    for probability in ["0.01", "0.1", "1"] {
        let (report, _) = campaign(&format!("never={probability}"), impatient());
        assert!(report.timed_out > 0, "{report:?}");
    }
}

#[test]
fn all_failures_mixed() {
    for probability in [0.01, 0.1, 0.5] {
        let faults = ["busy", "fault", "unknown", "short", "flip", "late", "never", "status:213"]
            .map(|fault| format!("{fault}={}", probability / 8.0))
            .join(",");
        campaign(
            &format!("{faults},engines=2,delay-us=3"),
            Options { verify: true, ..impatient() },
        );
        campaign(&format!("{faults},depth=3"), Options { verify: true, jobs: 5, ..impatient() });
    }
    let faults =
        "busy=0.12,fault=0.14,unknown=0.16,short=0.2,flip=0.25,status:213=0.33,late=0.5,never=1";
    let (report, _) = campaign(faults, Options { verify: true, ..impatient() });
    assert_eq!(report.pages, 0, "{report:?}");
}

#[test]
fn a_small_queue_is_used_to_the_full() {
    let (report, sent) = campaign("depth=4,delay-us=20", options());
    assert!(report.busy > 0, "{report:?}");
    assert!(report.pages > 0 && report.fell_back > 0, "{report:?}");
    assert_eq!(report.pages + report.fell_back, sent.compressed);
}

#[test]
fn a_dead_device_is_given_up() {
    let (report, sent) = campaign("refuse:503=1", options());
    assert_eq!(report.fell_back, sent.compressed);
    assert!(report.reason.contains("no usable work queue"), "{}", report.reason);

    let guest = Guest::new(600);
    let (simulator, engine) = engine("refuse:503=1", &guest, options());
    let mut guest = guest;
    guest.send_all(&engine, 4, 50).unwrap();
    assert!(simulator.submitted() < 100, "{} submissions to a dead device", simulator.submitted());
}

#[test]
fn jobs_that_cannot_be_set_up() {
    let (report, sent) = campaign("init=503", options());
    assert_eq!((report.pages, report.fell_back), (0, sent.compressed));
}

#[test]
fn direct_writing_is_right_as_well() {
    for faults in
        ["delay-us=3", "fault=0.1,short=0.1,flip=0.1,busy=0.1,status:213=0.1", "late=0.01"]
    {
        campaign(faults, Options { verify: true, direct: true, ..options_for(faults) });
    }
}

#[test]
fn a_page_that_the_device_holds_ends_a_migration_with_direct_writing() {
    let mut guest = Guest::new(64);
    guest.send_all(&engine("", &guest, impatient()).1, 1, 64).unwrap();
    let patience = Duration::from_millis(100);
    let options = Options { direct: true, direct_patience: patience, ..impatient() };
    let (simulator, engine) = engine("never=1", &guest, options);
    let error = guest.send_all(&engine, 1, 64).unwrap_err();
    assert!(matches!(error, EngineError::DeviceHoldsPage { .. }), "{error}");
    assert!(engine.parked() > 0);
    drop(engine);
    // The memory was left mapped, so this writes to what is still there.
    assert!(simulator.release() > 0);
    assert_eq!(simulator.violations(), 0);
}

#[test]
fn memory_of_jobs_that_never_end_outlives_the_engine() {
    let mut guest = Guest::new(128);
    let (simulator, engine) = engine("never=1", &guest, impatient());
    guest.send_all(&engine, 1, 64).unwrap();
    drop(engine);
    assert!(simulator.live() > 0);
    assert!(simulator.release() > 0);
    guest.check();
    assert_eq!(simulator.violations(), 0);
}

#[test]
fn a_queue_may_be_dropped_with_jobs_in_flight() {
    for faults in ["delay-us=500", "late=1,late-ms=60", "never=1"] {
        let mut guest = Guest::new(64);
        let (simulator, engine) = engine(faults, &guest, impatient());
        let mut queue = engine.open().unwrap();
        let mut pool = BufferPool::new(2);
        let pages: Vec<u32> = (0..64).collect();
        let packet = guest
            .packet(&mut *queue, &mut pool, &pages[..20], &mut Random::new(3), &mut Sent::default())
            .unwrap();
        queue.submit(packet).unwrap();
        drop(queue);
        drop(pool);
        wait_for_parked(&simulator, &engine);
        drop(engine);
        assert_eq!((simulator.live(), simulator.violations()), (0, 0), "{faults}");
    }
}

#[test]
fn a_damaged_block_is_an_error_that_names_its_page() {
    for faults in ["", "status:213=1", "busy=1", "short=1"] {
        let mut guest = Guest::new(64);
        let (simulator, engine) = engine(faults, &guest, options());
        let mut queue = engine.open().unwrap();
        let mut pool = BufferPool::new(2);
        let pages: Vec<u32> = (10..20).collect();
        let mut random = Random::new(5);
        let packet = guest
            .packet(&mut *queue, &mut pool, &pages, &mut random, &mut Sent::default())
            .unwrap();
        let PagePacket { block, mut buffer, jobs } = packet;
        let victim = *jobs.iter().find(|job| job.len < 4096).unwrap();
        let len = buffer.len();
        // The reserved block type.
        buffer.payload_mut(len)[victim.start as usize] |= 0b110;
        let result = queue.submit(PagePacket { block, buffer, jobs }).and_then(|()| queue.drain());
        match result {
            Err(EngineError::BadPage { block, page, .. }) => {
                assert_eq!((block.as_str(), page), ("pc.ram", victim.page), "{faults}");
            }
            other => panic!("{faults}: {other:?}"),
        }
        assert!(matches!(queue.drain(), Err(EngineError::Stopped)));
        drop((queue, engine));
        assert_eq!((simulator.live(), simulator.violations()), (0, 0), "{faults}");
    }
}

#[test]
fn of_two_versions_of_a_page_the_later_one_stays() {
    let mut guest = Guest::new(64);
    // The first packet takes longer than the second.
    let (_simulator, engine) = engine("late=0.3,late-ms=60,delay-us=10", &guest, impatient());
    let mut queue = engine.open().unwrap();
    let mut pool = BufferPool::new(4);
    let mut random = Random::new(11);
    let pages: Vec<u32> = (0..64).collect();
    for _ in 0..12 {
        let packet = guest
            .packet(&mut *queue, &mut pool, &pages[..16], &mut random, &mut Sent::default())
            .unwrap();
        queue.submit(packet).unwrap();
    }
    let rest = guest
        .packet(&mut *queue, &mut pool, &pages[16..], &mut random, &mut Sent::default())
        .unwrap();
    queue.submit(rest).unwrap();
    queue.drain().unwrap();
    guest.check();
}

#[test]
fn queues_share_a_device() {
    let simulator = Simulator::new("engines=2,depth=16,late=0.001,late-ms=60".parse().unwrap());
    let device: Arc<dyn Device> = Arc::<Simulator>::clone(&simulator);
    let placement = Placement::new(None).unwrap();
    let mut guests: Vec<Guest> =
        (0..4).map(|_| Guest::with_placement(300, Arc::clone(&placement))).collect();
    let shared = Options { total_jobs: 40, ..impatient() };
    let engine = HardwareEngine::with_device(device, placement, shared, "test");
    thread::scope(|scope| {
        for guest in &mut guests {
            scope.spawn(|| guest.send_all(&engine, 2, 50).unwrap());
        }
    });
    wait_for_parked(&simulator, &engine);
    drop(engine);
    assert_eq!((simulator.live(), simulator.violations()), (0, 0));
}
