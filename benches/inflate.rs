//! The page decoders against each other and, with the feature `rivals`, against
//! other libraries, on four corpora that any machine has. Prints the ratios
//! first; criterion then measures each decoder alone.

#[path = "../src/bin/multifd-qpl/bench/inflate/mod.rs"]
#[allow(dead_code, reason = "the command's arguments are of no use here")]
mod inflate;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use inflate::Blocks;
use inflate::coders::Compressor;
use inflate::corpus::{Corpus, PAGE};
use multifd_qpl::inflate::{Decoder, Kind};

fn decoders(criterion: &mut Criterion) {
    let mut compressor = Compressor::new();
    let mut out = vec![0u8; 128 * PAGE];
    for corpus in Corpus::of_this_machine(512) {
        for coder in compressor.coders() {
            let Some(blocks) = Blocks::new(&corpus, coder, &mut compressor) else { continue };
            print!("{}", blocks.race(15).table());
            let name = format!("inflate/{}/{}", corpus.name, coder.name());
            let mut group = criterion.benchmark_group(name);
            group.throughput(Throughput::Bytes(blocks.bytes() as u64));
            group.sample_size(10);
            for mut decoder in Kind::ALL.iter().filter_map(|&kind| Decoder::with_kind(kind)) {
                let id = BenchmarkId::new("ours", decoder.kind().name());
                group.bench_function(id, |bencher| {
                    bencher.iter(|| {
                        (0..blocks.packets())
                            .all(|packet| blocks.ours(&mut decoder, packet, &mut out))
                    });
                });
            }
            #[cfg(feature = "rivals")]
            for mut rival in inflate::rivals::all() {
                let id = BenchmarkId::new("theirs", &rival.name);
                group.bench_function(id, |bencher| {
                    bencher.iter(|| {
                        (0..blocks.packets())
                            .all(|packet| blocks.theirs(&mut rival, packet, &mut out))
                    });
                });
            }
            group.finish();
        }
    }
}

criterion_group!(benches, decoders);
criterion_main!(benches);
