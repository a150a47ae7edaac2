//! Device sections, early and late, their ends and their limits.

use super::*;

fn virtio_mem(region: u64, block: u64, bitmap: usize) -> Vec<u8> {
    let body = Stream::default().u64(1 << 32).u64(region).u64(block).u32(0).u64(block);
    body.raw(&vec![0xff; bitmap]).0
}

#[test]
fn virtio_mem_may_come_before_or_behind_the_start_section() {
    let idstr = "0000:00:03.0/virtio-mem-device-early";
    let body = virtio_mem(1 << 30, 2 << 20, 64);
    for (stream, place) in [(Stream::configuration(), 1), (Stream::started(), 8)] {
        let (_, events) = stream.device(5, idstr, &body).command(11, &[]).events().unwrap();
        let found = events.iter().position(|event| event.starts_with("EarlyDevice"));
        assert!(found.is_some_and(|at| at >= place), "{events:?}");
    }

    // The vmdesc lists it first.
    let json = json(&[(idstr, body.len()), ("timer", 3)]);
    let state = Stream::configuration()
        .device(5, idstr, &body)
        .start()
        .blocks(&[("a", 0x1000)])
        .eos()
        .end_of_ram()
        .eos()
        .device(7, "timer", &[1, 2, 3])
        .vmdesc(&json)
        .end();
    assert!(state.agrees);
    assert_eq!(state.sections.len(), 1);
}

#[test]
fn absurd_virtio_mem_state_is_refused_before_it_is_kept() {
    let idstr = "x/virtio-mem-device-early";
    let early = |region, block| {
        Stream::configuration()
            .section(FULL, 5, idstr, 0, 1)
            .raw(&virtio_mem(region, block, 0))
            .error()
    };
    assert_eq!(early(1 << 30, 0), MainError::EarlyDevice(idstr.into()));
    assert_eq!(early(1 << 30, 3), MainError::EarlyDevice(idstr.into()));
    assert_eq!(early(0, 4096), MainError::EarlyDevice(idstr.into()));
    let limit = Limits::default().max_early_bytes;
    assert_eq!(early(u64::MAX, 1), MainError::EarlyDevicesSize(limit));
    assert_eq!(early(1 << 40, 1), MainError::EarlyDevicesSize(limit));
    let wrong = Stream::configuration()
        .section(FULL, 5, idstr, 0, 1)
        .raw(&virtio_mem(4096, 4096, 8))
        .footer(6);
    assert!(matches!(wrong.error(), MainError::Footer { section: 5, .. }));
}

#[test]
fn devices_are_cut_at_their_footers() {
    let state = Stream::ended()
        .device(10, "timer", &[1; 8])
        .device(11, "cpu", &[2; 30])
        .vmdesc(&json(&[("timer", 8), ("cpu", 30)]))
        .end();
    assert!(state.agrees);
    let found: Vec<_> =
        state.sections.iter().map(|s| (&s.idstr[..], s.id, s.start, s.end)).collect();
    let first = 1 + 4 + 6 + 8 + 8 + 5;
    assert_eq!(found, [("timer", 10, 0, first), ("cpu", 11, first, state.bytes.len() - 1)]);
}

/// A body may hold what looks like its footer and another section, even like an
/// end; only the vmdesc can tell.
#[test]
fn look_alikes_in_a_body_are_seen_through() {
    let section = Stream::default().footer(10).section(FULL, 99, "fake", 0, 1).raw(&[0; 8]).0;
    let eof = Stream::default().footer(10).vmdesc("{nonsense").0;
    let eof_with_json =
        Stream::default().footer(10).raw(&[EOF, VMDESCRIPTION]).u32(1 << 20).raw(b"{").0;
    for body in [section, eof, eof_with_json] {
        let json = json(&[("timer", body.len()), ("cpu", 1)]);
        let stream =
            Stream::ended().device(10, "timer", &body).device(11, "cpu", &[1]).vmdesc(&json);
        let state = stream.finish_or_end();
        assert!(state.agrees);
        let names: Vec<_> = state.sections.iter().map(|section| &section.idstr[..]).collect();
        assert_eq!(names, ["timer", "cpu"]);
    }
}

#[test]
fn a_vmdesc_that_does_not_fit_leaves_the_footers_in_charge() {
    for json in [
        json(&[("timer", 9)]),
        json(&[("timer", 8), ("cpu", 1)]),
        json(&[]),
        json(&[("cpu", 8)]),
        r#"{"devices": 5}"#.to_owned(),
        r#"{"devices": [{"name": "timer", "instance_id": 0, "fields": [{"size": -8}]}]}"#
            .to_owned(),
    ] {
        let state = Stream::ended().device(10, "timer", &[1; 8]).vmdesc(&json).end();
        assert!(!state.agrees, "{json}");
        assert_eq!(state.sections.len(), 1);
        assert_eq!(state.sections[0].end + 1, state.bytes.len());
        assert_eq!(state.vmdesc.unwrap(), json.as_bytes());
    }
}

#[test]
fn a_missing_or_broken_vmdesc_is_an_end_all_the_same() {
    let devices = || Stream::ended().device(10, "timer", &[1; 8]);
    let whole = devices().vmdesc(&json(&[("timer", 8)])).end();
    let suppressed = devices().raw(&[EOF]);
    let broken = devices().vmdesc("{\"devices\": [");
    let long = devices().raw(&[EOF, VMDESCRIPTION]).u32(5000).raw(b"{\"devi");
    for stream in [suppressed, broken, long] {
        let (parser, _) = stream.events().unwrap();
        assert_eq!(parser.phase(), Phase::EofSeen);
        let state = stream.finish().unwrap();
        assert_eq!((state.vmdesc, state.agrees), (None, false));
        assert_eq!(state.bytes, whole.bytes);
        assert_eq!(state.sections, whole.sections);
    }
}

#[test]
fn a_guest_without_devices_ends_too() {
    assert_eq!(Stream::ended().vmdesc(&json(&[])).end().bytes, [EOF]);
    assert_eq!(Stream::ended().raw(&[EOF]).finish().unwrap().bytes, [EOF]);
    let error = Stream::ended().raw(&[0x30]).error();
    assert_eq!(error, MainError::SectionType(0x30));
    assert_eq!(Stream::ended().raw(&[EOF, 5]).error(), MainError::NoDeviceSection(EOF));
}

#[test]
fn nothing_may_follow_the_end() {
    let stream = Stream::ended().device(10, "timer", &[1; 8]).vmdesc(&json(&[("timer", 8)]));
    assert_eq!(stream.clone().raw(&[0]).error(), MainError::DataAfterEnd);
    assert_eq!(stream.finish().unwrap_err(), MainError::DataAfterEnd);
}

#[test]
fn device_state_is_bounded() {
    let limits = Limits { max_device_bytes: 1000, max_vmdesc: 100, ..Limits::default() };
    let mut parser = MainParser::new(limits);
    let stream = Stream::ended().section(FULL, 10, "timer", 0, 1).0;
    let mut at = 0;
    while let Some((used, _)) = parser.next(&stream[at..]).unwrap() {
        at += used;
    }
    assert!(parser.next(&[0; 900]).is_ok());
    assert_eq!(parser.next(&[0; 200]).unwrap_err(), MainError::DevicesSize(1000));

    let limits = Limits { max_sections: 2, ..Limits::default() };
    let mut parser = MainParser::new(limits);
    let stream = (10..13).fold(Stream::ended(), |stream, id| stream.device(id, "cpu", &[])).0;
    let mut at = 0;
    let error = loop {
        match parser.next(&stream[at..]) {
            Ok(Some((used, _))) => at += used,
            Ok(None) => panic!("no error"),
            Err(error) => break error,
        }
    };
    assert_eq!(error, MainError::TooManySections(2));
}

/// An announced vmdesc that doesn't fit the limit is no end.
#[test]
fn a_vmdesc_beyond_the_limit_is_not_waited_for() {
    let stream =
        Stream::ended().device(10, "timer", &[]).raw(&[EOF, VMDESCRIPTION]).u32(u32::MAX).raw(b"{");
    assert!(matches!(stream.finish(), Err(MainError::Stopped(_))));
}

/// The section found in a body may even have the id of one that really follows.
#[test]
fn a_look_alike_does_not_hide_a_section_of_its_id() {
    let body = Stream::default().footer(10).section(FULL, 11, "fake", 0, 1).raw(&[0; 8]).0;
    let stream = Stream::ended().device(10, "timer", &body).device(11, "cpu", &[1]);
    let state = stream.raw(&[EOF]).finish().unwrap();
    let names: Vec<_> = state.sections.iter().map(|section| &section.idstr[..]).collect();
    assert_eq!(names, ["timer", "cpu"]);
    assert_eq!(state.sections[1].end + 1, state.bytes.len());
}
