//! The small recordings of real migrations, read to their ends with the wire
//! room alone: what it finds must be what an independent decoder found.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use multifd_qpl::wire::main_stream::{
    DeviceState, Event, Limits, MainError, MainParser, Phase, SectionKind,
};
use multifd_qpl::wire::qpl::read_lengths;
use multifd_qpl::wire::{Hello, MethodId, PAGE_SIZE, Packet, PacketKind, PageList};

const RECORDINGS: [&str; 4] =
    ["mini-qpl-10.2", "mini-none-7.2", "mini-zlib-10.2", "mini-zstd-10.2"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn read(name: &str, file: &str) -> Vec<u8> {
    std::fs::read(folder(name).join(file)).unwrap()
}

fn expected(name: &str) -> serde_json::Value {
    serde_json::from_slice(&read(name, "expected.json")).unwrap()
}

/// What the main stream said.
#[derive(Default, Debug, PartialEq)]
struct MainCounts {
    machine: String,
    blocks: Vec<(String, u64)>,
    zero: u64,
    flush: u64,
    eos: u64,
    kinds: Vec<SectionKind>,
    devices: Option<DeviceState>,
}

impl MainCounts {
    fn add(&mut self, event: Event<'_>) {
        match event {
            Event::Configuration(c) => self.machine = c.machine,
            Event::Block(block) => self.blocks.push((block.name, block.used_length)),
            Event::Zero { .. } => self.zero += 1,
            Event::Flush => self.flush += 1,
            Event::Eos { .. } => self.eos += 1,
            Event::RamSectionEnd(kind) => self.kinds.push(kind),
            Event::End(devices) => self.devices = Some(devices),
            Event::Page { .. } | Event::EarlyDevice(_) => panic!("not in these recordings"),
            _ => {}
        }
    }
}

/// Parses a stream of which `step` more bytes arrive whenever the parser asks.
fn parse_main(bytes: &[u8], step: usize) -> MainCounts {
    let mut parser = MainParser::new(Limits::default());
    let mut counts = MainCounts::default();
    let (mut at, mut seen) = (0, 0);
    loop {
        match parser.next(&bytes[at..seen]).unwrap() {
            Some((used, event)) => {
                at += used;
                counts.add(event);
            }
            None if seen == bytes.len() => break,
            None => seen = (seen + step).min(bytes.len()),
        }
        assert!(seen - at <= MainParser::MAX_RECORD + step);
    }
    assert_eq!(at, bytes.len());
    assert_eq!(parser.phase(), Phase::Done);
    counts
}

#[test]
fn main_streams_are_read_to_the_end() {
    for name in RECORDINGS {
        let expected = expected(name);
        let counts = parse_main(&read(name, "main.bin"), usize::MAX / 2);
        assert_eq!(counts.machine, expected["machine"], "{name}");
        let stream = &expected["stream"];
        assert_eq!(counts.zero, stream["main_zero"], "{name}");
        assert_eq!(counts.flush, stream["flush"], "{name}");
        assert_eq!(counts.eos, stream["eos"], "{name}");
        assert_eq!(counts.kinds.first(), Some(&SectionKind::Start));
        assert_eq!(counts.kinds.last(), Some(&SectionKind::End));
        for (block, bytes) in &counts.blocks {
            assert_eq!(*bytes, expected["blocks"][block]["bytes"], "{name} {block}");
        }

        let devices = counts.devices.expect("an end");
        assert!(devices.agrees, "{name}: vmdesc and footers tell the same");
        assert!(devices.vmdesc.is_some());
        assert!(devices.sections.len() > 20, "{name}");
        assert_eq!(devices.bytes.last(), Some(&0));
        let mut at = 0;
        for section in &devices.sections {
            assert_eq!(section.start, at);
            at = section.end;
        }
        assert_eq!(at + 1, devices.bytes.len());
    }
}

#[test]
fn how_the_bytes_arrive_makes_no_difference() {
    for name in RECORDINGS {
        let bytes = read(name, "main.bin");
        let whole = parse_main(&bytes, usize::MAX / 2);
        for step in [1, 7, 4096] {
            assert_eq!(parse_main(&bytes, step), whole, "{name} in steps of {step}");
        }
    }
}

#[test]
fn channels_are_read_to_the_end() {
    for name in RECORDINGS {
        let expected = expected(name);
        let blocks: HashMap<String, u64> =
            parse_main(&read(name, "main.bin"), usize::MAX / 2).blocks.into_iter().collect();
        let method: MethodId = expected["method"].as_str().unwrap().parse().unwrap();
        let [mut packets, mut syncs, mut normal, mut zero, mut raw] = [0u64; 5];
        let mut list = PageList::new();
        for id in 0..2u8 {
            let bytes = read(name, &format!("ch{id}.bin"));
            let (hello, mut rest) = bytes.split_first_chunk().unwrap();
            assert_eq!(Hello::parse(hello).unwrap().id, id);
            let mut first = true;
            while !rest.is_empty() {
                assert_eq!(PacketKind::peek(rest.first_chunk().unwrap()), Ok(PacketKind::Ram));
                let (header, behind) = rest.split_first_chunk().unwrap();
                let packet = Packet::parse(header).unwrap();
                let (payload, behind) = behind.split_at(packet.payload_len());
                rest = behind;
                assert!(!first || packet.is_sync(), "{name}: a SYNC opens every channel");
                first = false;
                packets += 1;
                syncs += u64::from(packet.is_sync());
                normal += packet.normal_pages() as u64;
                zero += packet.zero_pages() as u64;
                if packet.normal_pages() + packet.zero_pages() > 0 {
                    assert_eq!(packet.method(), method);
                    packet.read_pages(blocks[packet.block_name().unwrap()], &mut list).unwrap();
                }
                if method == MethodId::Qpl && packet.normal_pages() > 0 {
                    let mut jobs = Vec::new();
                    read_lengths(payload, packet.normal_pages(), &mut jobs).unwrap();
                    raw += jobs.iter().filter(|job| job.is_raw()).count() as u64;
                }
            }
        }
        let stream = &expected["stream"];
        assert_eq!(packets, stream["packets"], "{name}");
        assert_eq!(syncs, stream["syncs"], "{name}");
        assert_eq!(normal, stream["normal"], "{name}");
        assert_eq!(zero, stream["zero"], "{name}");
        assert_eq!(raw, stream["raw_pages"], "{name}");
    }
}

/// Wherever a real stream is cut before its EOF byte, that is a failure; from
/// there on it is an end without vmdesc.
#[test]
fn every_truncation_is_noticed() {
    let bytes = read("mini-none-7.2", "main.bin");
    let devices = parse_main(&bytes, usize::MAX / 2).devices.unwrap();
    let vmdesc = devices.vmdesc.as_ref().unwrap().len();
    let eof = bytes.len() - vmdesc - 6;
    let first_device = eof + 1 - devices.bytes.len();

    // One parser walks along the RAM part; it is not disturbed by being asked.
    let mut parser = MainParser::new(Limits::default());
    let mut at = 0;
    for len in 0..first_device {
        while let Some((used, _)) = parser.next(&bytes[at..len]).unwrap() {
            at += used;
        }
        let stopped = parser.finish(&bytes[at..len]).unwrap_err();
        assert!(matches!(stopped, MainError::Stopped(_)), "{len}: {stopped}");
    }

    // From the devices on, asking is final. Cut densely around each footer, and
    // here and there in between.
    let edges: Vec<usize> = devices.sections.iter().map(|s| first_device + s.end).collect();
    let near = |len: usize| edges.iter().any(|edge| edge.abs_diff(len) < 12);
    for len in first_device..bytes.len() {
        if !near(len) && !len.is_multiple_of(97) && len.abs_diff(eof) > 300 {
            continue;
        }
        let mut parser = MainParser::new(Limits::default());
        let mut at = 0;
        while let Some((used, _)) = parser.next(&bytes[at..len]).unwrap() {
            at += used;
        }
        let finished = parser.finish(&bytes[at..len]);
        if len <= eof {
            assert!(matches!(finished, Err(MainError::Stopped(_))), "{len} of {eof}");
        } else {
            let state = finished.unwrap();
            assert_eq!(state.bytes, devices.bytes, "{len} of {eof}");
            assert_eq!((state.vmdesc, state.agrees), (None, false));
            assert_eq!(state.sections, devices.sections);
        }
    }
}

/// RAM is what takes time: the parser must not look at a byte twice.
#[test]
fn records_need_no_more_than_a_page() {
    let bytes = read("mini-none-7.2", "main.bin");
    let mut parser = MainParser::new(Limits::default());
    let mut at = 0;
    while parser.phase() != Phase::Devices {
        let window = &bytes[at..(at + 2 * PAGE_SIZE).min(bytes.len())];
        let (used, _) = parser.next(window).unwrap().expect("two pages hold any record");
        at += used;
    }
}
