//! Each fault of the main stream, one by one, on streams built by hand. Real
//! streams are read in `tests/wire_recordings.rs`.

mod devices;

use super::*;

const RAM_ID: u32 = 2;

/// A stream under construction.
#[derive(Clone, Default)]
struct Stream(Vec<u8>);

impl Stream {
    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u16(self, value: u16) -> Self {
        self.raw(&value.to_be_bytes())
    }

    fn u32(self, value: u32) -> Self {
        self.raw(&value.to_be_bytes())
    }

    fn u64(self, value: u64) -> Self {
        self.raw(&value.to_be_bytes())
    }

    fn name(self, name: &str) -> Self {
        self.raw(&[name.len() as u8]).raw(name.as_bytes())
    }

    fn configuration() -> Self {
        Self::default().raw(b"QEVM").u32(3).raw(&[7]).u32(2).raw(b"pc")
    }

    fn part(self, name: &str) -> Self {
        self.raw(&[SUBSECTION]).name(name).u32(1)
    }

    fn command(self, command: u16, payload: &[u8]) -> Self {
        self.raw(&[COMMAND]).u16(command).u16(payload.len() as u16).raw(payload)
    }

    fn section(self, kind: u8, id: u32, idstr: &str, instance: u32, version: u32) -> Self {
        self.raw(&[kind]).u32(id).name(idstr).u32(instance).u32(version)
    }

    fn start(self) -> Self {
        self.section(START, RAM_ID, "ram", 0, 4)
    }

    fn part_of_ram(self) -> Self {
        self.raw(&[PART]).u32(RAM_ID)
    }

    fn end_of_ram(self) -> Self {
        self.raw(&[END]).u32(RAM_ID)
    }

    fn blocks(self, blocks: &[(&str, u64)]) -> Self {
        let total: u64 = blocks.iter().map(|(_, len)| len).sum();
        let stream = self.u64(total | 4);
        blocks.iter().fold(stream, |stream, (name, len)| stream.name(name).u64(*len))
    }

    fn eos(self) -> Self {
        self.u64(0x10).footer(RAM_ID)
    }

    fn footer(self, id: u32) -> Self {
        self.raw(&[FOOTER]).u32(id)
    }

    /// A stream up to the end of a START section with blocks `a` (4 pages) and
    /// `b` (1 page).
    fn started() -> Self {
        Self::configuration().start().blocks(&[("a", 0x4000), ("b", 0x1000)]).u64(0x200).eos()
    }

    /// The same, with RAM complete.
    fn ended() -> Self {
        Self::started().end_of_ram().u64(0x200).eos()
    }

    fn device(self, id: u32, idstr: &str, body: &[u8]) -> Self {
        self.section(FULL, id, idstr, 0, 1).raw(body).footer(id)
    }

    fn vmdesc(self, json: &str) -> Self {
        self.raw(&[EOF, VMDESCRIPTION]).u32(json.len() as u32).raw(json.as_bytes())
    }

    /// Parses all there is. Events are told by their debug text.
    fn events(&self) -> Result<(MainParser, Vec<String>), MainError> {
        let mut parser = MainParser::new(Limits::default());
        let mut events = Vec::new();
        let mut at = 0;
        while let Some((used, event)) = parser.next(&self.0[at..])? {
            at += used;
            events.push(format!("{event:?}"));
        }
        assert!(
            at == self.0.len() || parser.phase() != Phase::Done,
            "bytes behind the end are an error, not left over"
        );
        Ok((parser, events))
    }

    fn error(&self) -> MainError {
        self.events().map(|(_, events)| events).expect_err("an error")
    }

    fn end(&self) -> DeviceState {
        let mut parser = MainParser::new(Limits::default());
        let mut at = 0;
        while let Some((used, event)) = parser.next(&self.0[at..]).unwrap() {
            at += used;
            if let Event::End(state) = event {
                assert_eq!(at, self.0.len());
                return state;
            }
        }
        panic!("no end");
    }

    /// The end as a live receiver comes to it: told, or after a silence.
    fn finish_or_end(&self) -> DeviceState {
        let mut parser = MainParser::new(Limits::default());
        let mut at = 0;
        while let Some((used, event)) = parser.next(&self.0[at..]).unwrap() {
            at += used;
            if let Event::End(state) = event {
                return state;
            }
        }
        assert_eq!(parser.phase(), Phase::EofSeen);
        parser.finish(&self.0[at..]).unwrap()
    }

    fn finish(&self) -> Result<DeviceState, MainError> {
        let mut parser = MainParser::new(Limits::default());
        let mut at = 0;
        while let Some((used, _)) = parser.next(&self.0[at..])? {
            at += used;
        }
        parser.finish(&self.0[at..])
    }
}

fn json(devices: &[(&str, usize)]) -> String {
    let devices: Vec<String> = devices
        .iter()
        .map(|(name, size)| {
            format!(
                r#"{{"name": "{name}", "instance_id": 0, "fields": [{{"name": "f", "size": {size}}}]}}"#
            )
        })
        .collect();
    format!(r#"{{"page_size": 4096, "devices": [{}]}}"#, devices.join(", "))
}

#[test]
fn header_faults_are_told_apart() {
    let header = || Stream::default().raw(b"QEVM");
    assert_eq!(Stream::default().raw(b"HTTP").error(), MainError::Magic(0x4854_5450));
    assert_eq!(header().u32(2).error(), MainError::Version(2));
    assert_eq!(header().u32(3).raw(&[START]).error(), MainError::NoConfiguration);
    assert_eq!(header().u32(3).raw(&[7]).u32(1 << 30).error(), MainError::MachineName(1 << 30));
    assert!(matches!(header().u32(3).raw(&[7]).u32(0).error(), MainError::Text { .. }));
    assert!(matches!(header().u32(3).raw(&[7]).u32(9).raw(b"\n").error(), MainError::Text { .. }));
}

#[test]
fn configuration_parts_are_read_or_refused() {
    let parts = Stream::configuration()
        .part("configuration/target-page-bits")
        .u32(12)
        .part("configuration/capabilities")
        .u32(1)
        .name("x-ignore-shared")
        .part("configuration/uuid")
        .raw(&[5; 16])
        .command(1, &[]);
    let (_, events) = parts.events().unwrap();
    assert!(events[0].contains("x-ignore-shared") && events[0].contains("uuid: Some([5, 5"));
    assert_eq!(events[1], "Command(OpenReturnPath)");

    let part = |name| Stream::configuration().part(name);
    assert_eq!(
        part("configuration/target-page-bits").u32(14).raw(&[START]).error(),
        MainError::PageBits(14)
    );
    assert_eq!(
        part("configuration/new").error(),
        MainError::ConfigurationPart("configuration/new".into(), 1)
    );
    let capabilities = || part("configuration/capabilities");
    assert_eq!(
        capabilities().u32(1).name("mapped-ram").error(),
        MainError::Capability("mapped-ram".into())
    );
    assert_eq!(capabilities().u32(u32::MAX).error(), MainError::CapabilityCount(u32::MAX));
    let twice = part("configuration/uuid").raw(&[1; 16]).part("configuration/uuid");
    assert!(matches!(twice.error(), MainError::ConfigurationPart(..)));
}

#[test]
fn commands_are_read_or_refused_by_name() {
    let (_, events) = Stream::configuration()
        .command(1, &[])
        .command(2, &[0, 0, 0, 1])
        .command(3, &[])
        .command(11, &[])
        .events()
        .unwrap();
    assert_eq!(
        events[1..],
        [
            "Command(OpenReturnPath)",
            "Command(Ping(1))",
            "Command(PostcopyAdvise)",
            "Command(SwitchoverStart)"
        ]
    );
    for (command, name) in [
        (4, "POSTCOPY_LISTEN"),
        (5, "POSTCOPY_RUN"),
        (6, "POSTCOPY_RAM_DISCARD"),
        (7, "PACKAGED"),
        (8, "ENABLE_COLO"),
        (9, "POSTCOPY_RESUME"),
        (10, "RECV_BITMAP"),
    ] {
        let error = Stream::configuration().command(command, &[]).error();
        assert!(matches!(error, MainError::Command { name: n, .. } if n == name), "{error}");
    }
    let command = |number, payload: &[u8]| Stream::configuration().command(number, payload).error();
    assert_eq!(command(12, &[]), MainError::UnknownCommand(12));
    assert_eq!(command(0, &[]), MainError::UnknownCommand(0));
    assert_eq!(command(2, &[1]), MainError::CommandLength { command: 2, len: 1 });
    assert_eq!(command(1, &[1]), MainError::CommandLength { command: 1, len: 1 });
}

#[test]
fn sections_of_other_things_are_refused_with_a_hint() {
    for (idstr, word) in
        [("dirty-bitmap", "dirty-bitmaps"), ("block", "block"), ("0000:00:05.0/vfio", "assigned")]
    {
        let error = Stream::configuration().section(START, 7, idstr, 0, 4).error();
        assert!(matches!(error, MainError::Section { .. }));
        assert!(error.to_string().contains(word), "{error}");
    }
    let ram =
        |instance, version| Stream::configuration().section(START, 2, "ram", instance, version);
    assert_eq!(ram(1, 4).error(), MainError::RamVersion { instance: 1, version: 4 });
    assert_eq!(ram(0, 3).error(), MainError::RamVersion { instance: 0, version: 3 });
    let early = Stream::configuration().device(9, "timer", &[]);
    assert!(matches!(early.error(), MainError::Section { .. }));
}

#[test]
fn sections_come_in_order_and_with_their_own_footers() {
    assert_eq!(Stream::configuration().part_of_ram().error(), MainError::UnknownSection(2));
    let other = Stream::started().raw(&[PART]).u32(3);
    assert_eq!(other.error(), MainError::UnknownSection(3));
    assert_eq!(Stream::started().start().error(), MainError::SectionOrder("START"));
    assert_eq!(Stream::ended().part_of_ram().error(), MainError::SectionOrder("PART"));
    assert_eq!(Stream::ended().end_of_ram().error(), MainError::SectionOrder("END"));
    assert_eq!(Stream::started().raw(&[EOF]).error(), MainError::EofBeforeRam);
    assert_eq!(Stream::started().raw(&[9]).error(), MainError::SectionType(9));
    let body = || Stream::started().part_of_ram().u64(0x10);
    assert!(matches!(body().footer(3).error(), MainError::Footer { section: 2, .. }));
    assert!(matches!(body().raw(&[PART]).error(), MainError::Footer { section: 2, .. }));
}

#[test]
fn block_lists_are_checked_before_anything_is_kept() {
    let start = || Stream::configuration().start();
    let length = |name: &str, len, left| MainError::BlockLength { name: name.into(), len, left };
    assert_eq!(start().u64(0x10).error(), MainError::NoBlockList);
    assert_eq!(start().u64(4).error(), MainError::NoBlockList);
    let limit = Limits::default().max_ram;
    let total = !0xfff;
    assert_eq!(start().u64(total | 4).error(), MainError::TooMuchRam { total, limit });
    let list = |total: u64| start().u64(total | 4);
    assert_eq!(list(0x1000).name("a").u64(0x2000).error(), length("a", 0x2000, 0x1000));
    assert_eq!(list(0x2000).name("a").u64(0x1001).error(), length("a", 0x1001, 0x2000));
    assert_eq!(list(0x2000).name("a").u64(0).error(), length("a", 0, 0x2000));
    assert!(matches!(list(0x2000).raw(&[0]).error(), MainError::Text { .. }));
    let twice = start().blocks(&[("a", 0x1000), ("a", 0x1000)]);
    assert_eq!(twice.error(), MainError::BlockAgain("a".into()));
    assert_eq!(Stream::started().part_of_ram().u64(0x1004).error(), MainError::BlockListAgain);
    let again = start().blocks(&[("a", 0x1000)]).blocks(&[("b", 0x1000)]);
    assert_eq!(again.error(), MainError::BlockListAgain);
}

#[test]
fn the_number_of_blocks_is_limited() {
    let max = Limits::default().max_blocks;
    let blocks: Vec<(String, u64)> = (0..=max).map(|i| (format!("block{i}"), 0x1000)).collect();
    let blocks: Vec<(&str, u64)> = blocks.iter().map(|(name, len)| (&name[..], *len)).collect();
    let error = Stream::configuration().start().blocks(&blocks).error();
    assert_eq!(error, MainError::TooManyBlocks(max));
}

#[test]
fn guest_addresses_are_read_under_ignore_shared() {
    let (parser, _) = Stream::configuration()
        .part("configuration/capabilities")
        .u32(1)
        .name("x-ignore-shared")
        .start()
        .u64(0x2000 | 4)
        .name("a")
        .u64(0x1000)
        .u64(0xfffc_0000)
        .name("b")
        .u64(0x1000)
        .u64(0)
        .eos()
        .events()
        .unwrap();
    assert_eq!(parser.blocks()[0].guest_address, Some(0xfffc_0000));
    assert_eq!(parser.blocks()[1].guest_address, Some(0));
}

#[test]
fn host_page_sizes_are_told_from_names_and_records() {
    let advise = |sizes: u64| {
        let payload = [sizes.to_be_bytes(), 4096u64.to_be_bytes()].concat();
        Stream::configuration().command(3, &payload).start()
    };
    let (parser, _) = advise(0x20_1000)
        .u64(0x40_3000 | 4)
        .name("huge")
        .u64(0x20_0000)
        .u64(0x20_0000)
        .name("small")
        .u64(0x3000)
        .name("last")
        .u64(0x20_0000)
        .u64(0x20_0000)
        .u64(0x200)
        .eos()
        .events()
        .unwrap();
    let sizes: Vec<_> = parser.blocks().iter().map(|block| block.host_page_size).collect();
    assert_eq!(sizes, [Some(0x20_0000), None, Some(0x20_0000)]);
    assert_eq!(parser.phase(), Phase::Ram);

    // No field behind the last block: the next record is not mistaken for one.
    for record in [0x200, 0x10] {
        let stream = advise(0x20_1000).blocks(&[("a", 0x1000)]).u64(record);
        assert!(stream.events().is_ok());
    }
    // All host pages are small: no block has the field.
    assert!(advise(0x1000).blocks(&[("a", 0x1000)]).eos().events().is_ok());
    for size in [0x40_0000u64, 0x30_0000, 0x1000] {
        let error = advise(0x20_1000).u64(0x2004).name("a").u64(0x1000).u64(size).error();
        assert_eq!(error, MainError::HostPageSize { name: "a".into(), size });
    }
    let payload = [0x1000u64.to_be_bytes(), 0x4000u64.to_be_bytes()].concat();
    assert_eq!(Stream::configuration().command(3, &payload).error(), MainError::PageBits(14));
}

#[test]
fn records_continue_blocks_across_sections() {
    let (_, events) = Stream::started()
        .part_of_ram()
        .u64(0x3002)
        .name("a")
        .raw(&[0])
        .u64(0x1022)
        .raw(&[0])
        .u64(0x0008)
        .name("b")
        .raw(&[7; 4096])
        .u64(0x0022)
        .raw(&[0])
        .eos()
        .part_of_ram()
        .u64(0x0028)
        .raw(&[9; 4096])
        .eos()
        .events()
        .unwrap();
    let pages: Vec<&str> = events
        .iter()
        .filter(|event| event.starts_with("Zero") || event.starts_with("Page"))
        .map(|event| event.split(", data").next().unwrap())
        .collect();
    assert_eq!(
        pages,
        [
            "Zero { block: 0, page: 3 }",
            "Zero { block: 0, page: 1 }",
            "Page { block: 1, page: 0",
            "Zero { block: 1, page: 0 }",
            "Page { block: 1, page: 0"
        ]
    );
}

#[test]
fn record_faults_are_told_apart() {
    let part = || Stream::started().part_of_ram();
    assert_eq!(part().u64(0x22).raw(&[0]).error(), MainError::NothingToContinue);
    assert_eq!(part().u64(0x28).error(), MainError::NothingToContinue);
    assert_eq!(part().u64(2).name("c").error(), MainError::UnknownBlock("c".into()));
    assert!(matches!(part().u64(2).raw(&[0]).error(), MainError::Text { .. }));
    assert_eq!(part().u64(2).name("a").raw(&[1]).error(), MainError::Fill(1));
    let then = |word| part().u64(2).name("a").raw(&[0]).u64(word).raw(&[0]).error();
    for offset in [0x4000, 0x1_0000_0000_0000, !0xfff] {
        let error = MainError::OutOfBlock { name: "a".into(), offset, len: 0x4000 };
        assert_eq!(part().u64(offset | 2).name("a").raw(&[0]).error(), error);
        assert_eq!(then(offset | 0x22), error);
    }
    assert_eq!(part().u64(2).name("a").raw(&[0]).u64(0x22).raw(&[3]).error(), MainError::Fill(3));
    for (word, name) in [(0x01, "FULL"), (0x40, "XBZRLE"), (0x80, "HOOK"), (0x100, "COMPRESS")] {
        for word in [word, word | 0x1020] {
            let error = part().u64(word).error();
            let named = matches!(error, MainError::RefusedRecord(n) if n.starts_with(name));
            assert!(named, "{error}");
        }
    }
    for word in [0, 0x20, 0x0a, 0x12, 0x30, 0x210, 0x220, 0x400, 0x800, 0x1010, 0x1200, 0x24] {
        assert_eq!(part().u64(word).error(), MainError::Record(word), "{word:#x}");
    }
}

#[test]
fn a_record_waits_for_its_last_byte_and_changes_nothing_before() {
    let front = Stream::started().part_of_ram().u64(2).name("a").raw(&[0]);
    let record = Stream::default().u64(8).name("b").raw(&[1; 4096]);
    for len in 0..record.0.len() {
        // Had the unfinished record moved to `b`, page 3 would be out of it.
        let mut parser = MainParser::new(Limits::default());
        let stream = front.clone().raw(&record.0[..len]);
        let mut at = 0;
        while let Some((used, _)) = parser.next(&stream.0[at..]).unwrap() {
            at += used;
        }
        assert_eq!(stream.0.len() - at, len);
        let next = Stream::default().u64(0x3022).raw(&[0]);
        let (_, event) = parser.next(&next.0).unwrap().unwrap();
        assert!(matches!(event, Event::Zero { block: 0, page: 3 }));
    }
}

#[test]
fn every_truncation_waits_and_none_is_an_end() {
    let stream = Stream::configuration()
        .part("configuration/uuid")
        .raw(&[1; 16])
        .command(1, &[])
        .command(2, &[0, 0, 0, 1])
        .start()
        .blocks(&[("a", 0x4000), ("b", 0x1000)])
        .u64(0x200)
        .eos()
        .part_of_ram()
        .u64(0x1002)
        .name("a")
        .raw(&[0])
        .u64(0x2022)
        .raw(&[0])
        .eos()
        .command(11, &[])
        .end_of_ram()
        .u64(0x200)
        .eos()
        .device(10, "timer", &[1; 8])
        .device(11, "cpu", &[0x7e; 30])
        .raw(&[EOF]);
    let (_, whole) = stream.events().unwrap();
    for len in 0..stream.0.len() {
        let cut = Stream(stream.0[..len].to_vec());
        let (_, events) = cut.events().unwrap();
        let same = events.iter().zip(&whole).all(|(a, b)| a == b);
        assert!(same && events.len() <= whole.len(), "at {len}");
        assert!(matches!(cut.finish(), Err(MainError::Stopped(_))), "at {len}");
    }
    assert!(stream.finish().is_ok());
}
