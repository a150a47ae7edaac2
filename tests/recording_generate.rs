//! Generated recordings, decoded by the plainest decoder there can be: what
//! comes out must be what the generator's own model of the guest says.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use multifd_qpl::recording::{GenerateError, GenerateOptions, Pattern, Recording, generate};
use multifd_qpl::wire::main_stream::{DeviceState, Event, Limits, MainParser, SectionKind};
use multifd_qpl::wire::qpl::read_lengths;
use multifd_qpl::wire::{Hello, MethodId, PAGE_SIZE, Packet, PageList};
use sha2::{Digest, Sha256};

/// One endless stream, or none.
enum Decoder {
    None,
    Zlib(zlib_rs::Inflate),
    Zstd(zstd_safe::DCtx<'static>),
    Qpl(libdeflater::Decompressor),
}

impl Decoder {
    fn new(method: MethodId) -> Self {
        match method {
            MethodId::None => Self::None,
            MethodId::Zlib => Self::Zlib(zlib_rs::Inflate::new(true, 15)),
            MethodId::Zstd => Self::Zstd(zstd_safe::DCtx::create()),
            MethodId::Qpl => Self::Qpl(libdeflater::Decompressor::new()),
            other => panic!("{other} is not generated"),
        }
    }

    fn decode(&mut self, payload: &[u8], pages: usize) -> Vec<u8> {
        // A spare byte would show if there was too much.
        let mut out = vec![0; pages * PAGE_SIZE + 1];
        let made = match self {
            Self::None => {
                out[..payload.len()].copy_from_slice(payload);
                payload.len()
            }
            Self::Zlib(inflate) => {
                let (seen_in, seen_out) = (inflate.total_in(), inflate.total_out());
                inflate.decompress(payload, &mut out, zlib_rs::InflateFlush::SyncFlush).unwrap();
                assert_eq!(inflate.total_in() - seen_in, payload.len() as u64);
                (inflate.total_out() - seen_out) as usize
            }
            Self::Zstd(context) => {
                let mut input = zstd_safe::InBuffer::around(payload);
                let mut output = zstd_safe::OutBuffer::around(&mut out[..]);
                while input.pos() < payload.len() {
                    context.decompress_stream(&mut output, &mut input).unwrap();
                }
                output.pos()
            }
            Self::Qpl(inflate) => {
                let mut blocks = Vec::new();
                read_lengths(payload, pages, &mut blocks).unwrap();
                for (block, page) in blocks.iter().zip(out.chunks_mut(PAGE_SIZE)) {
                    let bytes = &payload[block.start as usize..][..block.len as usize];
                    if block.is_raw() {
                        page.copy_from_slice(bytes);
                    } else {
                        // Sources from QPL's software path send fixed codes.
                        assert_eq!(bytes[0] & 7, 0b011);
                        assert_eq!(inflate.deflate_decompress(bytes, page), Ok(PAGE_SIZE));
                    }
                }
                pages * PAGE_SIZE
            }
        };
        assert_eq!(made, pages * PAGE_SIZE);
        out.truncate(made);
        out
    }
}

#[derive(Default)]
struct Main {
    blocks: Vec<(String, u64)>,
    flush: u64,
    eos: u64,
    events: Vec<String>,
    end: Option<DeviceState>,
}

fn read_main(bytes: &[u8]) -> Main {
    let mut main = Main::default();
    let mut parser = MainParser::new(Limits::default());
    let mut at = 0;
    while let Some((used, event)) = parser.next(&bytes[at..]).unwrap() {
        at += used;
        match event {
            Event::Block(block) => main.blocks.push((block.name, block.used_length)),
            Event::Flush => main.flush += 1,
            Event::Eos { .. } => main.eos += 1,
            Event::Command(command) => main.events.push(format!("{command:?}")),
            Event::RamSectionEnd(SectionKind::End) => main.events.push("End".into()),
            Event::End(state) => main.end = Some(state),
            _ => {}
        }
    }
    assert_eq!(at, bytes.len());
    main
}

/// What the channels said, epoch by epoch, so that epochs can be applied one
/// after the other.
#[derive(Default)]
struct Counts {
    packets: u64,
    syncs: u64,
    normal: u64,
    zero: u64,
    zero_after_data: u64,
    zero_again: u64,
    numbers: Vec<u64>,
}

type Ram = HashMap<String, Vec<u8>>;

fn apply(dir: &Path, channels: usize, method: MethodId, ram: &mut Ram) -> Counts {
    let files: Vec<Vec<u8>> =
        (0..channels).map(|id| std::fs::read(dir.join(format!("ch{id}.bin"))).unwrap()).collect();
    let mut rests: Vec<&[u8]> = Vec::new();
    for (id, file) in files.iter().enumerate() {
        let (hello, rest) = file.split_first_chunk().unwrap();
        assert_eq!(usize::from(Hello::parse(hello).unwrap().id), id);
        rests.push(rest);
    }
    let mut decoders: Vec<Decoder> = (0..channels).map(|_| Decoder::new(method)).collect();
    let mut counts = Counts::default();
    let mut list = PageList::new();
    let mut seen: BTreeMap<(String, u32), bool> = BTreeMap::new();
    while rests.iter().any(|rest| !rest.is_empty()) {
        // One epoch of each channel. No page comes twice in it.
        let mut in_epoch = std::collections::HashSet::new();
        for (rest, decoder) in rests.iter_mut().zip(&mut decoders) {
            loop {
                let (header, behind) = rest.split_first_chunk().unwrap();
                let packet = Packet::parse(header).unwrap();
                let (payload, behind) = behind.split_at(packet.payload_len());
                *rest = behind;
                counts.packets += 1;
                counts.numbers.push(packet.packet_num());
                if packet.is_sync() {
                    assert_eq!(packet.normal_pages() + packet.zero_pages(), 0);
                    counts.syncs += 1;
                    break;
                }
                let name = packet.block_name().unwrap();
                let block = ram.get_mut(name).unwrap();
                packet.read_pages(block.len() as u64, &mut list).unwrap();
                for &page in list.zero() {
                    let at = page as usize * PAGE_SIZE;
                    block[at..at + PAGE_SIZE].fill(0);
                    assert!(in_epoch.insert((name.to_owned(), page)));
                    match seen.insert((name.to_owned(), page), false) {
                        Some(true) => counts.zero_after_data += 1,
                        Some(false) => counts.zero_again += 1,
                        None => {}
                    }
                }
                if !list.normal().is_empty() {
                    let data = decoder.decode(payload, list.normal().len());
                    for (&page, data) in list.normal().iter().zip(data.chunks(PAGE_SIZE)) {
                        let at = page as usize * PAGE_SIZE;
                        block[at..at + PAGE_SIZE].copy_from_slice(data);
                        assert!(in_epoch.insert((name.to_owned(), page)));
                        seen.insert((name.to_owned(), page), true);
                    }
                }
                counts.normal += list.normal().len() as u64;
                counts.zero += list.zero().len() as u64;
            }
        }
    }
    counts
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Generates, decodes, compares.
fn check(options: &GenerateOptions) {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let options = GenerateOptions { sha256: true, ..options.clone() };
    let generated = generate(dir, &options, &|done, total| assert!(done <= total)).unwrap();

    let recording = Recording::open(dir).unwrap();
    assert_eq!(recording.channels(), usize::from(options.channels));
    let main_bytes = std::fs::read(dir.join("main.bin")).unwrap();
    let main = read_main(&main_bytes);
    let end = main.end.expect("an end");
    assert!(end.agrees && end.sections.len() >= 4);
    assert_eq!(main.blocks[0].1, options.ram);

    let mut ram: Ram =
        main.blocks.iter().map(|(name, len)| (name.clone(), vec![0; *len as usize])).collect();
    let mut counts = apply(dir, recording.channels(), options.method, &mut ram);

    let expected: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("expected.json")).unwrap()).unwrap();
    let stream = &expected["stream"];
    assert_eq!(main.flush, stream["flush"]);
    assert_eq!(main.eos, stream["eos"]);
    assert_eq!(counts.syncs, main.flush * u64::from(options.channels));
    assert_eq!(counts.syncs, stream["syncs"]);
    assert_eq!(counts.packets, stream["packets"]);
    assert_eq!(counts.normal, stream["normal"]);
    assert_eq!(counts.zero, stream["zero"]);
    assert_eq!(counts.zero_after_data, stream["zero_after_data"]);
    assert_eq!(counts.zero_again, stream["zero_again"]);
    assert_eq!(counts.packets, generated.packets);
    assert_eq!(counts.normal, generated.normal_pages);
    assert_eq!(counts.zero, generated.zero_pages);
    counts.numbers.sort_unstable();
    assert!(counts.numbers.iter().copied().eq(0..counts.packets), "each number once");
    for (name, bytes) in &ram {
        assert_eq!(expected["blocks"][name]["bytes"], bytes.len() as u64);
        assert_eq!(expected["blocks"][name]["sha256"], hex(&Sha256::digest(bytes)), "{name}");
    }
    let size: u64 = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().extension().is_some_and(|end| end == "bin"))
        .map(|entry| entry.metadata().unwrap().len())
        .sum();
    assert_eq!(size, generated.bytes);
}

const METHODS: [MethodId; 4] = [MethodId::None, MethodId::Zlib, MethodId::Zstd, MethodId::Qpl];

fn small() -> GenerateOptions {
    GenerateOptions { ram: 2 << 20, used: 1 << 20, rounds: 4, ..GenerateOptions::default() }
}

#[test]
fn every_method_comes_back() {
    for method in METHODS {
        check(&GenerateOptions { method, ..small() });
    }
}

#[test]
fn every_pattern_comes_back() {
    for pattern in Pattern::ALL {
        for method in [MethodId::Qpl, MethodId::Zstd] {
            check(&GenerateOptions { pattern, method, used: 256 << 10, ..small() });
        }
    }
}

#[test]
fn any_number_of_channels_and_rounds_will_do() {
    for (channels, rounds) in [(1, 1), (1, 2), (3, 5), (16, 3), (255, 2)] {
        check(&GenerateOptions { channels, rounds, ..small() });
    }
}

#[test]
fn odd_sizes_will_do() {
    for (ram, used) in [(4096, 0), (4096, 4096), (129 * 4096, 4097), (1 << 20, 1 << 20)] {
        check(&GenerateOptions { ram, used, ..small() });
    }
}

#[test]
fn the_same_seed_makes_the_same_files() {
    let files = |seed| -> Vec<Vec<u8>> {
        let temp = tempfile::tempdir().unwrap();
        generate(temp.path(), &GenerateOptions { seed, ..small() }, &|_, _| {}).unwrap();
        ["main.bin", "ch0.bin", "ch1.bin", "expected.json"]
            .map(|file| std::fs::read(temp.path().join(file)).unwrap())
            .into()
    };
    assert!(files(7) == files(7));
    assert!(files(7) != files(8));
}

#[test]
fn the_return_path_is_opened_on_request() {
    for return_path in [false, true] {
        let temp = tempfile::tempdir().unwrap();
        let options = GenerateOptions { return_path, ..small() };
        generate(temp.path(), &options, &|_, _| {}).unwrap();
        let main = read_main(&std::fs::read(temp.path().join("main.bin")).unwrap());
        let opening: &[&str] = if return_path { &["OpenReturnPath", "Ping(1)"] } else { &[] };
        assert_eq!(main.events, [opening, &["SwitchoverStart", "End"]].concat());
    }
}

#[test]
fn what_no_source_could_send_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let refused = |options: GenerateOptions| {
        let error = generate(&temp.path().join("new"), &options, &|_, _| {}).unwrap_err();
        assert!(
            matches!(error, GenerateError::Options(_) | GenerateError::Method(_)),
            "{options:?}: {error}"
        );
    };
    refused(GenerateOptions { ram: 0, used: 0, ..small() });
    refused(GenerateOptions { ram: 4097, used: 0, ..small() });
    refused(GenerateOptions { ram: 1 << 60, used: 0, ..small() });
    refused(GenerateOptions { used: 9 << 20, ..small() });
    refused(GenerateOptions { pattern: Pattern::Scattered, used: 1 << 20, ..small() });
    refused(GenerateOptions { channels: 0, ..small() });
    refused(GenerateOptions { rounds: 0, ..small() });
    refused(GenerateOptions { method: MethodId::Uadk, ..small() });
    assert!(!temp.path().join("new").exists(), "nothing is written for bad options");
}

#[test]
fn a_recording_is_not_overwritten() {
    let temp = tempfile::tempdir().unwrap();
    generate(temp.path(), &small(), &|_, _| {}).unwrap();
    let error = generate(temp.path(), &small(), &|_, _| {}).unwrap_err();
    assert!(matches!(error, GenerateError::Write(_)), "{error}");
}
