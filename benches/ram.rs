//! The map, zero pages, and placement by policy and run length.
//!
//! Placement figures are for one page: a decoder is stood in for by a copy into
//! the destination. Each landing of absent pages goes to memory never used
//! before; making and unmapping that memory is not in the figures.
//!
//! All figures are CPU time of the thread, user and system: on a machine that
//! is shared with others wall time says more about them than about us.

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{
    BenchmarkId, Throughput, criterion_group, criterion_main,
    measurement::{Measurement, ValueFormatter, WallTime},
};
use multifd_qpl::ram::{
    InPlace, Landing, Placement, Policy, RamBlock, ReceivedMap, Staging, ZeroMode, zero_pages,
};

const BATCH: u32 = 128;
/// Pages of a scratch block: 256 MiB of address space.
const PAGES: u32 = 64 << 10;

type Criterion = criterion::Criterion<CpuTime>;

/// CPU time of the calling thread.
struct CpuTime;

fn cpu_time() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        cpu_time()
    }

    fn end(&self, started: Duration) -> Duration {
        cpu_time() - started
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        WallTime.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

/// `BATCH` pages as runs of `run` pages, one page in eight, or all in one run.
fn batch(first: u32, run: u32) -> Vec<u32> {
    let gap = if run == BATCH { run } else { 8 * run };
    (0..BATCH).map(|i| first + i / run * gap + i % run).collect()
}

fn scratch(placement: &Placement) -> Arc<RamBlock> {
    let block = Arc::new(RamBlock::anonymous("scratch", u64::from(PAGES) * 4096).unwrap());
    placement.attach(&block).unwrap();
    block
}

fn land(
    placement: &Arc<Placement>,
    block: &Arc<RamBlock>,
    pages: &[u32],
    staging: Staging,
    in_place: InPlace,
    source: Option<&[u8; 4096]>,
) -> Staging {
    let landing = Landing::begin(placement, block, pages, staging, in_place).unwrap();
    for i in 0..landing.len() {
        let to = black_box(landing.destination(i));
        if let Some(source) = source {
            // SAFETY: a destination is 4096 writable bytes of this landing.
            unsafe { to.copy_from_nonoverlapping(source.as_ptr(), source.len()) };
        }
    }
    landing.commit().unwrap()
}

/// Pages that nobody has seen before.
fn absent(c: &mut Criterion) {
    let mut group = c.benchmark_group("absent pages");
    group.throughput(Throughput::Elements(BATCH.into()));
    let source = [0x5a; 4096];
    for policy in Policy::ALL {
        for run in [1, 4, 16, BATCH] {
            let placement = Placement::new(Some(policy)).unwrap();
            group.bench_function(BenchmarkId::new(policy.name(), run), |b| {
                b.iter_custom(|iterations| {
                    let stride = batch(0, run)[BATCH as usize - 1] + 1;
                    let mut staging = Staging::new().unwrap();
                    let mut block = scratch(&placement);
                    let (mut first, mut spent) = (0, Duration::ZERO);
                    for _ in 0..iterations {
                        if first + stride > PAGES {
                            block = scratch(&placement);
                            first = 0;
                        }
                        let pages = batch(first, run);
                        let begun = cpu_time();
                        staging = land(
                            &placement,
                            &block,
                            &pages,
                            staging,
                            InPlace::Allowed,
                            Some(&source),
                        );
                        spent += cpu_time() - begun;
                        first += stride;
                    }
                    spent
                });
            });
        }
    }
    group.finish();
}

/// Pages that hold data already.
fn present(c: &mut Criterion) {
    let mut group = c.benchmark_group("present pages");
    group.throughput(Throughput::Elements(BATCH.into()));
    let source = [0x5a; 4096];
    let placement = Placement::new(None).unwrap();
    let block = scratch(&placement);
    for run in [1, BATCH] {
        let pages = batch(0, run);
        let mut staging = Some(Staging::new().unwrap());
        for (name, in_place, source) in [
            ("in place", InPlace::Allowed, Some(&source)),
            ("staged", InPlace::Never, Some(&source)),
            ("in place, bookkeeping alone", InPlace::Allowed, None),
        ] {
            group.bench_function(BenchmarkId::new(name, run), |b| {
                b.iter(|| {
                    let taken = staging.take().unwrap();
                    staging = Some(land(&placement, &block, &pages, taken, in_place, source));
                });
            });
        }
    }
    group.finish();
}

fn memory_file(c: &mut Criterion) {
    let mut group = c.benchmark_group("memory file");
    group.throughput(Throughput::Elements(BATCH.into()));
    let source = [0x5a; 4096];
    for policy in [Policy::Place, Policy::Populate, Policy::Fault] {
        let placement = Placement::new(Some(policy)).unwrap();
        group.bench_function(BenchmarkId::new(policy.name(), BATCH), |b| {
            b.iter_custom(|iterations| {
                let mut staging = Staging::new().unwrap();
                let mut spent = Duration::ZERO;
                for _ in 0..iterations {
                    let block = Arc::new(RamBlock::memfd("scratch", 1 << 20).unwrap());
                    placement.attach(&block).unwrap();
                    let pages = batch(0, BATCH);
                    let begun = cpu_time();
                    staging =
                        land(&placement, &block, &pages, staging, InPlace::Allowed, Some(&source));
                    spent += cpu_time() - begun;
                }
                spent
            });
        });
    }
    group.finish();
}

fn zero(c: &mut Criterion) {
    let mut group = c.benchmark_group("zero pages");
    group.throughput(Throughput::Elements(BATCH.into()));
    let placement = Placement::new(None).unwrap();
    for run in [1, 8, BATCH] {
        let block = scratch(&placement);
        let pages = batch(0, run);
        group.bench_function(BenchmarkId::new("never written", run), |b| {
            // Forgotten each time, so that every mark is the first.
            b.iter(|| {
                let counts = zero_pages(&placement, &block, black_box(&pages), ZeroMode::Map);
                block.map().discard_range(0, (pages[BATCH as usize - 1] + 1).into()).unwrap();
                counts.unwrap()
            });
        });
        group.bench_function(BenchmarkId::new("zero again", run), |b| {
            b.iter(|| zero_pages(&placement, &block, black_box(&pages), ZeroMode::Map).unwrap());
        });
    }
    // After data: what a run costs that is cleared, and one that is given back.
    for run in [8, 32, 64, BATCH] {
        for (name, give_back) in [("cleared", 0), ("given back", run)] {
            placement.set_give_back(give_back);
            let block = scratch(&placement);
            let pages: Vec<u32> = (0..run).collect();
            group.throughput(Throughput::Elements(run.into()));
            group.bench_function(BenchmarkId::new(name, run), |b| {
                b.iter_custom(|iterations| {
                    let mut staging = Staging::new().unwrap();
                    let mut spent = Duration::ZERO;
                    for _ in 0..iterations {
                        staging = land(
                            &placement,
                            &block,
                            &pages,
                            staging,
                            InPlace::Allowed,
                            Some(&[0x5a; 4096]),
                        );
                        let begun = cpu_time();
                        zero_pages(&placement, &block, &pages, ZeroMode::Map).unwrap();
                        spent += cpu_time() - begun;
                    }
                    spent
                });
            });
        }
    }
    group.throughput(Throughput::Elements(BATCH.into()));
    // Memory touched by every page's check, as receivers did before.
    let placement = Placement::new(Some(Policy::Fault)).unwrap();
    let block = scratch(&placement);
    let pages = batch(0, BATCH);
    for (name, mode) in
        [("read and found zero", ZeroMode::ReadCheck), ("one bit", ZeroMode::OneBit)]
    {
        group.bench_function(BenchmarkId::new(name, BATCH), |b| {
            b.iter(|| zero_pages(&placement, &block, black_box(&pages), mode).unwrap());
        });
    }
    group.finish();
}

fn map(c: &mut Criterion) {
    let mut group = c.benchmark_group("map");
    let map = ReceivedMap::new(0, 16 << 20).unwrap();
    group.bench_function("test", |b| b.iter(|| map.test_byte_offset(black_box(77 << 12))));
    group.bench_function("set", |b| b.iter(|| map.set_offset(black_box(77 << 12))));
    group.throughput(Throughput::Elements(BATCH.into()));
    group.bench_function("set_range", |b| b.iter(|| map.set_range(black_box(77 << 12), 128)));
    group.throughput(Throughput::Elements(16 << 20));
    group.bench_function("64 GiB, count", |b| b.iter(|| map.received_count()));
    group.bench_function("64 GiB, words", |b| {
        b.iter(|| map.received_words().fold(0, |all, word| all ^ word));
    });
    group.finish();
}

fn start(c: &mut Criterion) {
    c.bench_function("choose a policy", |b| b.iter(|| Placement::new(None).unwrap()));
}

criterion_group! {
    name = benches;
    config = criterion::Criterion::default()
        .with_measurement(CpuTime)
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    targets = absent, present, memory_file, zero, map, start
}
criterion_main!(benches);
