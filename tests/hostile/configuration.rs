//! A main stream that is none, before RAM begins; and device sections that
//! make no sense behind it.

use multifd_qpl::{
    receiver::{Options, ReceiveError},
    wire::{
        MethodId,
        main_stream::{Limits, MainError},
    },
};

use crate::{
    refusal::{assert_refused, errors},
    support::{
        channel::Channel,
        deliver::{patient, replay},
        main_stream::{DEVICE_ID, MainStream, RAM_ID},
        migration::{Migration, one_round},
        watched,
    },
};

/// A migration whose main stream is `main`, and a channel that fits it.
fn with(main: MainStream) -> Migration {
    Migration::new(main, [Channel::new(0, MethodId::None).sync().sync()])
}

fn raw(bytes: &[u8]) -> Migration {
    with(MainStream::default().raw(bytes))
}

#[test]
fn another_version_of_the_stream() {
    assert_refused!(raw(b"QEVM\0\0\0\x02\x07"), ReceiveError::Main(MainError::Version(2)));
}

#[test]
fn no_configuration() {
    assert_refused!(raw(b"QEVM\0\0\0\x03\x01"), ReceiveError::Main(MainError::NoConfiguration));
}

#[test]
fn a_huge_machine_name() {
    let main = raw(b"QEVM\0\0\0\x03\x07\xff\xff\xff\xffaaaa");
    assert_refused!(main, ReceiveError::Main(MainError::MachineName(u32::MAX)));
}

#[test]
fn an_unknown_part_of_the_configuration() {
    let main = MainStream::new().raw(&[5]).name("configuration/new").raw(&[0, 0, 0, 1]);
    assert_refused!(with(main), ReceiveError::Main(MainError::ConfigurationPart(_, 1)));
}

#[test]
fn a_capability_that_changes_the_stream() {
    let main = MainStream::new().raw(&[5]).name("configuration/capabilities").raw(&[0, 0, 0, 1]);
    let main = main.raw(&[0, 0, 0, 1]).name("mapped-ram").raw(&[1]);
    assert_refused!(with(main), ReceiveError::Main(MainError::Capability(_)));
}

#[test]
fn commands_of_postcopy_and_colo() {
    for command in [4, 5, 6, 7, 8, 9, 10] {
        let main = MainStream::new().command(command, &[]);
        assert_refused!(with(main), ReceiveError::Main(MainError::Command { .. }));
    }
}

#[test]
fn an_unknown_command_and_one_of_another_length() {
    let main = MainStream::new().command(12, &[]);
    assert_refused!(with(main), ReceiveError::Main(MainError::UnknownCommand(12)));
    let main = MainStream::new().command(1, &[0]);
    assert_refused!(
        with(main),
        ReceiveError::Main(MainError::CommandLength { command: 1, len: 1 })
    );
}

#[test]
fn an_unknown_type_of_section() {
    let main = MainStream::new().raw(&[0x77]);
    assert_refused!(with(main), ReceiveError::Main(MainError::SectionType(0x77)));
}

#[test]
fn another_version_of_ram() {
    let main = MainStream::new().section_head(1, RAM_ID, "ram", 5);
    assert_refused!(with(main), ReceiveError::Main(MainError::RamVersion { version: 5, .. }));
}

#[test]
fn sections_in_parts_of_anything_but_ram() {
    for name in ["dirty-bitmap", "block", "0000:00:03.0/vfio", "strange"] {
        let main = MainStream::new().section_head(1, 3, name, 1);
        assert_refused!(with(main), ReceiveError::Main(MainError::Section { .. }));
    }
}

#[test]
fn a_section_that_was_not_started() {
    let main = MainStream::new().start(&[("pc.ram", 64)]).flush().close().raw(&[2, 0, 0, 0, 7]);
    assert_refused!(with(main), ReceiveError::Main(MainError::UnknownSection(7)));
}

#[test]
fn ram_that_starts_or_ends_twice() {
    let main = MainStream::new().start(&[("pc.ram", 64)]).flush().close();
    let again = main.clone().start_head();
    assert_refused!(with(again), ReceiveError::Main(MainError::SectionOrder("START")));
    let again = main.end().flush().close().end();
    assert_refused!(with(again), ReceiveError::Main(MainError::SectionOrder("END")));
}

#[test]
fn a_footer_of_another_section() {
    let main = MainStream::new().start(&[("pc.ram", 64)]).flush().number(0x10).footer(99);
    assert_refused!(with(main), ReceiveError::Main(MainError::Footer { .. }));
}

#[test]
fn the_end_before_ram_is_complete() {
    let main = MainStream::new().start(&[("pc.ram", 64)]).flush().close().eof();
    assert_refused!(with(main), ReceiveError::Main(MainError::EofBeforeRam));
}

#[test]
fn early_state_that_makes_no_sense_or_is_huge() {
    let head = MainStream::new().section_head(4, 5, "mem/virtio-mem-device-early", 1).number(0);
    let main = head.clone().number(1 << 30).number(3).raw(&[0; 12]);
    assert_refused!(with(main), ReceiveError::Main(MainError::EarlyDevice(_)));
    let main = head.number(u64::MAX).number(1).raw(&[0; 12]);
    assert_refused!(with(main), ReceiveError::Main(MainError::EarlyDevicesSize(_)));
}

#[test]
fn what_follows_ram_is_no_device_section() {
    let main = MainStream::new().start(&[("pc.ram", 64)]).flush().close().end().flush().close();
    assert_refused!(with(main.raw(&[0x66])), ReceiveError::Main(_));
}

#[test]
fn more_device_state_than_allowed() {
    let limits = Limits { max_device_bytes: 1 << 20, ..Limits::default() };
    let options = Options { limits, ..patient() };
    let main = MainStream::new().start(&[("pc.ram", 64)]).flush().close().end().flush().close();
    let main = main.section_head(4, DEVICE_ID, "endless", 1).raw(&vec![0x55; 3 << 20]);
    for error in errors(with(main), &options) {
        assert!(matches!(error, ReceiveError::Main(MainError::DevicesSize(_))), "{error}");
    }
}

#[test]
fn a_main_stream_that_ends_at_any_phase() {
    let start = MainStream::new().start(&[("pc.ram", 64)]);
    let between = start.clone().flush().close();
    let devices = between.clone().end().flush().close().section_head(4, 7, "rtc", 1);
    for main in [
        MainStream::default().raw(b"QEVM\0"),
        MainStream::new(),
        MainStream::new().start_head(),
        start,
        between.clone(),
        between.part(),
        devices.clone().raw(b"half a bo"),
        devices.raw(b"body").footer(7),
    ] {
        assert_refused!(with(main), ReceiveError::Main(MainError::Stopped(_)));
    }
}

/// Sources whose machine suppresses it send no vmdesc.
#[test]
fn a_missing_vmdesc_is_reported_and_not_refused() {
    watched(|| {
        let mut whole = with(one_round(MainStream::new()));
        let json = whole.main.iter().rposition(|&byte| byte == 6).expect("the vmdesc's head");
        for cut in [json, json + 20] {
            whole.main.truncate(cut.min(whole.main.len()));
            let received = replay(&whole, patient()).expect("only the description is missing");
            assert_eq!(received.report().devices.sections, 1);
            assert!(!received.report().devices.described);
        }
    });
}
