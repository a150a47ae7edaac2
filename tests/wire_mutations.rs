//! A small fuzzer that always does the same: real recordings, changed at
//! random from a fixed seed. What must hold for any input whatsoever is checked
//! after every change. The open-ended fuzzers are in `fuzz/`.

use std::collections::HashSet;
use std::path::Path;

use multifd_qpl::wire::main_stream::{Event, Limits, MainError, MainParser, Phase};
use multifd_qpl::wire::qpl::read_lengths;
use multifd_qpl::wire::{
    MAX_PAYLOAD, MethodId, Packet, PacketKind, PageList, ReturnMessage, received_bitmap,
};

const RECORDINGS: [&str; 4] =
    ["mini-qpl-10.2", "mini-none-7.2", "mini-zlib-10.2", "mini-zstd-10.2"];

fn read(name: &str, file: &str) -> Vec<u8> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    std::fs::read(data.join(name).join(file)).unwrap()
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// A place in `len` bytes, more often one near the front, where the
    /// structure is.
    fn place(&mut self, len: usize) -> usize {
        let end = match self.below(3) {
            0 => 300,
            1 => 6000,
            _ => len,
        };
        self.below(end.min(len))
    }
}

/// Changes bytes here and there, in ways that parsers trip over.
fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.place(bytes.len());
        match random.below(8) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes[at] = [0, 1, 2, 4, 6, 0x7e, 0x7f, 0x80, 0xff][random.below(9)],
            3 => {
                let values = [0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX, 128, 129, 4096, 4097];
                let value = values[random.below(9)].to_be_bytes();
                let room = &mut bytes[at..];
                let len = room.len().min(4);
                room[..len].copy_from_slice(&value[..len]);
            }
            4 => bytes.truncate(at),
            5 => drop(bytes.drain(at..(at + 1 + random.below(20)).min(bytes.len()))),
            6 => {
                let from = random.place(bytes.len());
                let piece = bytes[from..(from + random.below(40)).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let insert: Vec<u8> = (0..random.below(10)).map(|_| random.next() as u8).collect();
                bytes.splice(at..at, insert);
            }
        }
    }
}

/// How a main stream came out: the events that say something, and the end.
#[derive(Debug, PartialEq)]
struct Outcome {
    events: Vec<String>,
    error: Option<std::mem::Discriminant<MainError>>,
    device_bytes: Option<usize>,
}

fn parse(bytes: &[u8], step: usize, limits: &Limits) -> Outcome {
    let mut parser = MainParser::new(limits.clone());
    let (mut at, mut seen, mut idle) = (0, 0, 0);
    let mut outcome = Outcome { events: Vec::new(), error: None, device_bytes: None };
    let error = loop {
        match parser.next(&bytes[at..seen]) {
            Ok(Some((used, event))) => {
                assert!(used <= seen - at);
                at += used;
                idle = if used == 0 { idle + 1 } else { 0 };
                assert!(idle < 3, "events without bytes must come to an end");
                match event {
                    Event::Zero { block, page } | Event::Page { block, page, .. } => {
                        assert!(u64::from(page) < parser.blocks()[block].pages());
                    }
                    Event::End(state) => {
                        assert!(state.bytes.len() <= limits.max_device_bytes + 300);
                        assert!(state.sections.iter().all(|s| s.end < state.bytes.len()));
                        outcome.device_bytes = Some(state.bytes.len());
                        continue;
                    }
                    Event::Progress => continue,
                    _ => {}
                }
                outcome.events.push(format!("{event:?}"));
            }
            Ok(None) => {
                // Only what is still coming may be waited for.
                let in_devices = matches!(parser.phase(), Phase::Devices | Phase::EofSeen);
                assert!(seen - at < MainParser::MAX_RECORD || in_devices);
                if seen == bytes.len() {
                    break None;
                }
                seen = (seen + step).min(bytes.len());
            }
            Err(error) => break Some(error),
        }
    };
    outcome.error = error.as_ref().map(std::mem::discriminant);
    match error {
        Some(error) => assert!(!error.to_string().is_empty()),
        None if outcome.device_bytes.is_none() => {
            outcome.device_bytes = parser.finish(&bytes[at..]).ok().map(|state| state.bytes.len());
        }
        None => {}
    }
    outcome
}

#[test]
fn changed_main_streams_are_handled_however_they_arrive() {
    let mut random = Random(1);
    let limits = Limits { max_ram: 64 << 20, ..Limits::default() };
    // RAM pages apart, a stream is the same in all; the two generations differ.
    for name in ["mini-none-7.2", "mini-qpl-10.2"] {
        let original = read(name, "main.bin");
        let mut ended = 0;
        for round in 0..1500 {
            let mut bytes = original.clone();
            mutate(&mut random, &mut bytes);
            let whole = parse(&bytes, usize::MAX / 2, &limits);
            ended += usize::from(whole.device_bytes.is_some());
            if round % 8 == 0 {
                let step = 1 + random.below(5000);
                assert_eq!(parse(&bytes, step, &limits), whole, "{name} {round} by {step}");
            }
        }
        assert!(ended > 20, "{name}: changes that do no harm must not stop a migration: {ended}");
    }
}

/// The rules of a packet's header in their plainest form. `Err` is a refusal.
fn plain_packet(header: &[u8], used_length: u64) -> Result<(bool, usize, Vec<u64>, Vec<u64>), ()> {
    let u32_at = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
    let must = |good: bool| good.then_some(()).ok_or(());
    must(u32_at(0) == 0x1122_3344 && u32_at(4) == 1)?;
    let flags = u32_at(8);
    must(flags & !0x3f == 0)?;
    let methods = flags & 0x3e;
    must(methods.count_ones() <= 1)?;
    let (room, normal, zero) =
        (u64::from(u32_at(12)), u64::from(u32_at(16)), u64::from(u32_at(32)));
    must(room <= 128 && normal <= room && zero <= room - normal)?;
    let size = u64::from(u32_at(20));
    let payload = if normal > 0 {
        must(size > 0 && size <= MAX_PAYLOAD as u64)?;
        match methods {
            0 => must(size == normal * 4096)?,
            0x08 | 0x10 => must(size >= normal * 5 && size <= normal * 4100)?,
            _ => {}
        }
        size as usize
    } else {
        must(zero == 0 || size == 0)?;
        0
    };
    let mut seen = HashSet::new();
    let mut pages = Vec::new();
    for index in 0..(normal + zero) as usize {
        let at = 320 + index * 8;
        let offset = u64::from_be_bytes(header[at..at + 8].try_into().unwrap());
        must(offset % 4096 == 0)?;
        must(offset.checked_add(4096).is_some_and(|end| end <= used_length))?;
        must(seen.insert(offset))?;
        pages.push(offset / 4096);
    }
    let zero_pages = pages.split_off(normal as usize);
    Ok((flags & 1 != 0, payload, pages, zero_pages))
}

#[test]
fn changed_packets_are_judged_by_the_plain_rules() {
    let mut headers: Vec<([u8; Packet::HEADER_LEN], Vec<u8>)> = Vec::new();
    for name in RECORDINGS {
        for file in ["ch0.bin", "ch1.bin"] {
            let bytes = read(name, file);
            let mut rest = &bytes[64..];
            while let Some((header, behind)) = rest.split_first_chunk() {
                let payload = Packet::parse(header).unwrap().payload_len();
                headers.push((*header, behind[..payload].to_vec()));
                rest = &behind[payload..];
            }
        }
    }

    let mut random = Random(2);
    let mut list = PageList::new();
    let (mut good, mut bad) = (0, 0);
    for round in 0..60_000 {
        let (original, _) = &headers[round % headers.len()];
        let mut bytes = original.to_vec();
        if random.below(3) > 0 {
            // Counts, lengths and offsets one by one.
            let at = [8, 12, 16, 20, 32, 320 + random.below(128) * 8 + 4][random.below(6)];
            let byte = at + random.below(4);
            bytes[byte] = match random.below(2) {
                0 => random.next() as u8,
                _ => bytes[byte] ^ 1 << random.below(8),
            };
        } else {
            mutate(&mut random, &mut bytes);
        }
        bytes.resize(Packet::HEADER_LEN, 0);
        let used_length = [4 << 20, 131_072, 4096, 0, u64::MAX][random.below(5)];
        let header: &[u8; Packet::HEADER_LEN] = bytes.as_slice().try_into().unwrap();
        let found = Packet::parse(header).and_then(|packet| {
            packet.read_pages(used_length, &mut list)?;
            let _ = packet.block_name();
            let wide = |pages: &[u32]| pages.iter().map(|&page| u64::from(page)).collect();
            Ok((packet.is_sync(), packet.payload_len(), wide(list.normal()), wide(list.zero())))
        });
        let plain = plain_packet(header, used_length.min(1 << 44));
        assert_eq!(found.as_ref().ok(), plain.as_ref().ok(), "round {round}: {found:?}");
        if found.is_ok() {
            assert_eq!(PacketKind::peek(header.first_chunk().unwrap()), Ok(PacketKind::Ram));
        }
        *if found.is_ok() { &mut good } else { &mut bad } += 1;
    }
    assert!(good > 5000 && bad > 5000, "{good} good, {bad} bad");

    // Payloads of qpl packets.
    let mut blocks = Vec::new();
    let qpl: Vec<_> = headers
        .iter()
        .filter_map(|(header, payload)| {
            let packet = Packet::parse(header).unwrap();
            let is_qpl = packet.method() == MethodId::Qpl && !payload.is_empty();
            is_qpl.then(|| (packet.normal_pages(), payload))
        })
        .collect();
    for round in 0..5000 {
        let (normal, original) = &qpl[round % qpl.len()];
        let mut payload = original.to_vec();
        mutate(&mut random, &mut payload);
        if read_lengths(&payload, *normal, &mut blocks).is_ok() {
            assert_eq!(blocks.len(), *normal);
            let mut at = *normal as u32 * 4;
            for block in &blocks {
                assert!(block.start == at && (1..=4096).contains(&block.len));
                at += block.len;
            }
            assert_eq!(at as usize, payload.len());
        } else {
            assert!(blocks.is_empty());
        }
    }
}

#[test]
fn what_is_read_is_written_the_same_again() {
    let mut random = Random(3);
    for _ in 0..20_000 {
        let mut bytes = vec![0; random.below(40)];
        bytes.iter_mut().for_each(|byte| *byte = random.next() as u8 & 7);
        if let Ok(Some((used, message))) = ReturnMessage::parse(&bytes) {
            let mut again = Vec::new();
            message.encode(&mut again);
            assert_eq!(again, bytes[..used]);
        }
    }
    for _ in 0..5000 {
        let pages = random.next() % 300;
        let mut bytes = Vec::new();
        let words = (0..5).map(|_| random.next());
        received_bitmap::encode(words, pages, &mut bytes);
        if random.below(2) == 0 {
            mutate(&mut random, &mut bytes);
        }
        if let Ok(words) = received_bitmap::parse(&bytes, pages) {
            let mut again = Vec::new();
            received_bitmap::encode(words, pages, &mut again);
            assert_eq!(again, bytes);
        }
    }
}
