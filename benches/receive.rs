//! A whole migration, from recordings in memory: data pages of each method,
//! zero pages, and single packets.
//!
//! Throughput is in bytes of guest RAM, and for zero pages in pages. The
//! recordings are generated in a temporary directory, and read once before they
//! are measured; see `multifd-qpl bench` for figures of a process of its own,
//! side by side with other ways of receiving.

use std::{hint::black_box, path::Path, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use multifd_qpl::{
    engine::EngineChoice,
    receiver::{Options, Receiver, anonymous_block},
    recording::{GenerateOptions, Generated, Pattern, Recording, generate},
    wire::MethodId,
};

const MIB: u64 = 1 << 20;
const METHODS: [MethodId; 4] = [MethodId::None, MethodId::Qpl, MethodId::Zstd, MethodId::Zlib];

/// Makes a recording.
fn recording(dir: &Path, ram: u64, used: u64, pattern: Pattern, method: MethodId) -> Generated {
    let options = GenerateOptions {
        ram,
        used,
        pattern,
        method,
        channels: 2,
        rounds: 1,
        ..GenerateOptions::default()
    };
    match generate(dir, &options, &|_, _| {}) {
        Ok(made) => made,
        Err(error) => panic!("generating {}: {error}", dir.display()),
    }
}

/// Receives a recording with the default settings, the device left out.
fn receive(dir: &Path) {
    let options = Options { engine: EngineChoice::Software, ..Options::default() };
    let outcome = Recording::open(dir).map_err(|error| error.to_string()).and_then(|recording| {
        let files = recording.open_files().map_err(|error| error.to_string())?;
        let receiver = Receiver::new(Options { channels: Some(recording.channels()), ..options })
            .map_err(|error| error.to_string())?;
        receiver.replay(files, &mut anonymous_block).map_err(|error| error.to_string())
    });
    match outcome {
        Ok(received) => drop(black_box(received)),
        Err(error) => panic!("{}: {error}", dir.display()),
    }
}

/// A directory for recordings, gone in the end.
fn temporary() -> tempfile::TempDir {
    match tempfile::tempdir() {
        Ok(dir) => dir,
        Err(error) => panic!("no temporary directory: {error}"),
    }
}

fn data(criterion: &mut Criterion) {
    let home = temporary();
    let mut group = criterion.benchmark_group("receive_data");
    group.sample_size(20).measurement_time(Duration::from_secs(8));
    for method in METHODS {
        let dir = home.path().join(method.to_string());
        recording(&dir, 64 * MIB, 64 * MIB, Pattern::Dense, method);
        group.throughput(Throughput::Bytes(64 * MIB));
        group.bench_function(BenchmarkId::new("dense", method), |bencher| {
            bencher.iter(|| receive(&dir));
        });
    }
    let dir = home.path().join("scattered");
    recording(&dir, 512 * MIB, 64 * MIB, Pattern::Scattered, MethodId::Qpl);
    group.bench_function(BenchmarkId::new("scattered", MethodId::Qpl), |bencher| {
        bencher.iter(|| receive(&dir));
    });
    group.finish();
}

fn zero(criterion: &mut Criterion) {
    let home = temporary();
    let mut group = criterion.benchmark_group("receive_zero");
    group.sample_size(20).measurement_time(Duration::from_secs(8));
    let dir = home.path().join("zero");
    let made = recording(&dir, 4096 * MIB, 0, Pattern::Dense, MethodId::None);
    group.throughput(Throughput::Elements(made.zero_pages));
    group.bench_function("first_seen", |bencher| bencher.iter(|| receive(&dir)));
    group.finish();
}

/// What is left of a migration when hardly anything is received: set-up, one
/// packet or a few on each channel, device state.
fn least(criterion: &mut Criterion) {
    let home = temporary();
    let mut group = criterion.benchmark_group("receive_one_packet");
    group.sample_size(20);
    for method in METHODS {
        let dir = home.path().join(method.to_string());
        recording(&dir, MIB / 2, MIB / 2, Pattern::Dense, method);
        group.bench_function(BenchmarkId::from_parameter(method), |bencher| {
            bencher.iter(|| receive(&dir));
        });
    }
    group.finish();
}

criterion_group!(benches, data, zero, least);
criterion_main!(benches);
