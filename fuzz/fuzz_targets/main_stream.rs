//! The main stream, whole and in pieces: both must come out the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use multifd_qpl::wire::main_stream::{Event, Limits, MainError, MainParser};

/// Events that say something, the kind of error, and the devices' bytes.
type Outcome = (Vec<String>, Option<std::mem::Discriminant<MainError>>, Option<usize>);

fn parse(bytes: &[u8], step: usize) -> Outcome {
    let limits = Limits {
        max_ram: 1 << 30,
        max_device_bytes: 1 << 16,
        max_vmdesc: 1 << 16,
        max_early_bytes: 1 << 12,
        ..Limits::default()
    };
    let mut parser = MainParser::new(limits);
    let (mut at, mut seen, mut idle) = (0, 0, 0);
    let mut events = Vec::new();
    let mut device_bytes = None;
    loop {
        match parser.next(&bytes[at..seen]) {
            Ok(Some((used, event))) => {
                assert!(used <= seen - at);
                idle = if used == 0 { idle + 1 } else { 0 };
                assert!(idle < 3, "events without bytes must come to an end");
                at += used;
                match event {
                    Event::Zero { block, page } | Event::Page { block, page, .. } => {
                        assert!(u64::from(page) < parser.blocks()[block].pages());
                        events.push(format!("{block} {page}"));
                    }
                    Event::End(state) => {
                        assert_eq!(state.bytes.last(), Some(&0));
                        assert!(state.sections.iter().all(|s| s.start < s.end));
                        device_bytes = Some(state.bytes.len());
                    }
                    Event::Progress => {}
                    event => events.push(format!("{event:?}")),
                }
            }
            Ok(None) if seen == bytes.len() => break,
            Ok(None) => seen = (seen + step).min(bytes.len()),
            Err(error) => return (events, Some(std::mem::discriminant(&error)), None),
        }
    }
    let devices = device_bytes.or_else(|| Some(parser.finish(&bytes[at..]).ok()?.bytes.len()));
    (events, None, devices)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (step, bytes) = input;
    assert_eq!(parse(bytes, usize::from(step) + 1), parse(bytes, bytes.len().max(1)));
});
