//! Packet headers: nothing in them is believed before it is checked.

use multifd_qpl::{
    receiver::{Options, ReceiveError},
    wire::{MethodId, PacketError},
};

use crate::{
    refusal::{assert_refused, errors},
    support::{
        channel::Channel,
        deliver::patient,
        main_stream::MainStream,
        migration::{METHODS, Migration, one_round},
        pages::text,
    },
};

/// One round with a good data packet that `change` spoils.
fn spoilt(method: MethodId, change: impl FnOnce(Channel) -> Channel) -> Migration {
    Migration::one_round(method, |channel| {
        change(channel.packet(&[(1, text(1)), (2, text(2))], &[3, 4]))
    })
}

#[test]
fn a_packet_with_another_magic_or_version() {
    let wrong = spoilt(MethodId::Qpl, |channel| channel.edit(0, b"QEVM"));
    assert_refused!(wrong, ReceiveError::Packet(PacketError::Magic(0x5145_564d)));
    let wrong = spoilt(MethodId::Qpl, |channel| channel.edit_u32(4, 2));
    assert_refused!(wrong, ReceiveError::Packet(PacketError::Version(2)));
}

#[test]
fn more_pages_than_a_packet_holds() {
    for (alloc, normal, zero) in [
        (129, 2, 2),
        (u32::MAX, 2, 2),
        (128, 129, 0),
        (128, 128, 1),
        (128, 1, u32::MAX),
        (128, u32::MAX, 2),
        (3, 2, 2),
        (0, 2, 2),
    ] {
        let wrong = spoilt(MethodId::None, |channel| {
            channel.edit_u32(12, alloc).edit_u32(16, normal).edit_u32(32, zero)
        });
        assert_refused!(wrong, ReceiveError::Packet(PacketError::Counts { .. }));
    }
}

#[test]
fn a_block_that_is_not_listed() {
    let wrong = spoilt(MethodId::None, |channel| channel.edit(64, b"pc.rom\0"));
    assert_refused!(wrong, ReceiveError::UnknownBlock(name) if name == "pc.rom");
    // One that begins like a listed one is another one.
    let wrong = spoilt(MethodId::None, |channel| channel.edit(64, b"pc.ram.1\0"));
    assert_refused!(wrong, ReceiveError::UnknownBlock(_));
}

#[test]
fn a_block_name_without_an_end_or_without_text() {
    for name in [&[b'a'; 256][..], b"\0", b"\xff\xfe\0"] {
        let wrong = spoilt(MethodId::None, |channel| channel.edit(64, name));
        assert_refused!(wrong, ReceiveError::Packet(PacketError::BlockName));
    }
}

#[test]
fn an_offset_that_is_not_a_pages() {
    for at in [320, 336] {
        let wrong = spoilt(MethodId::None, |channel| channel.edit(at, &0x1800_u64.to_be_bytes()));
        assert_refused!(wrong, ReceiveError::Packet(PacketError::Misaligned { offset: 0x1800 }));
    }
}

#[test]
fn an_offset_beyond_the_block() {
    for offset in [64 * 4096, 1 << 44, !4095_u64] {
        for at in [320, 336] {
            let wrong = spoilt(MethodId::None, |channel| channel.edit(at, &offset.to_be_bytes()));
            assert_refused!(wrong, ReceiveError::Packet(PacketError::OutOfBlock { .. }));
        }
    }
}

#[test]
fn a_page_twice_in_one_packet() {
    // Data and data, data and zero, zero and zero.
    for (at, offset) in [(328, 4096), (336, 4096), (344, 3 * 4096)] {
        let wrong = spoilt(MethodId::None, |channel| channel.edit(at, &u64::to_be_bytes(offset)));
        assert_refused!(wrong, ReceiveError::Packet(PacketError::Repeated { .. }));
    }
}

#[test]
fn a_payload_of_another_length_than_method_none_has() {
    for len in [0, 4096, 8191, 8193, u32::MAX] {
        let wrong = spoilt(MethodId::None, |channel| channel.edit_u32(20, len));
        assert_refused!(wrong, ReceiveError::Packet(PacketError::PayloadLen { .. }));
    }
}

#[test]
fn a_payload_larger_than_any_source_sends() {
    for method in METHODS {
        for len in [(1 << 20) + 1, u32::MAX] {
            let wrong = spoilt(method, |channel| channel.edit_u32(20, len));
            assert_refused!(wrong, ReceiveError::Packet(PacketError::PayloadLen { .. }));
        }
    }
}

#[test]
fn a_payload_of_a_packet_without_data() {
    for method in METHODS {
        let wrong = Migration::one_round(method, |channel| channel.zero(&[1]).edit_u32(20, 5));
        let form = |error: &ReceiveError| {
            matches!(error, ReceiveError::Packet(PacketError::PayloadOfZeroPages { len: 5 }))
        };
        assert_refused!(wrong, error if form(error));
    }
}

#[test]
fn two_methods_in_one_packet_and_unknown_flags() {
    for flags in [0x06, 0x0a, 0x3e] {
        let wrong = spoilt(MethodId::Zlib, |channel| channel.edit_u32(8, flags));
        assert_refused!(wrong, ReceiveError::Packet(PacketError::SeveralMethods { .. }));
    }
    for flags in [0x82, 0x8000_0002, 0x102] {
        let wrong = spoilt(MethodId::Zlib, |channel| channel.edit_u32(8, flags));
        assert_refused!(wrong, ReceiveError::Packet(PacketError::UnknownFlags(_)));
    }
}

#[test]
fn another_method_than_before_or_than_set() {
    let second = Channel::new(1, MethodId::Zlib).sync().data(&[(1, text(1))]).sync();
    let first = Channel::new(0, MethodId::Qpl).sync().data(&[(2, text(2))]).sync();
    let mixed = Migration::new(one_round(MainStream::new()), [first, second]);
    assert_refused!(mixed, ReceiveError::MethodDiffers { .. });

    let options = Options { method: Some(MethodId::Zstd), ..patient() };
    for error in errors(spoilt(MethodId::Qpl, |channel| channel), &options) {
        let told = (MethodId::Zstd, MethodId::Qpl);
        assert!(
            matches!(error, ReceiveError::MethodDiffers { first, now } if (first, now) == told),
            "{error}"
        );
    }
}

#[test]
fn methods_that_are_known_and_not_decoded_are_refused_by_name() {
    for method in [MethodId::Uadk, MethodId::Qatzip] {
        let payload = vec![1; 2 * 4100];
        let migration = Migration::one_round(method, |channel| channel.payload(&[1, 2], &payload));
        assert_refused!(migration, error if error.to_string().contains(method.name()));
    }
}

#[test]
fn device_state_is_refused_whatever_its_size() {
    for (flags, size) in [(0x40_u32, 0_u32), (0x40, 16), (0x41, 16), (0x40, u32::MAX - 1)] {
        // A header of 276 bytes: no 1344 bytes are waited for.
        let mut packet = [0x11, 0x22, 0x33, 0x44, 0, 0, 0, 1].to_vec();
        packet.extend_from_slice(&flags.to_be_bytes());
        packet.extend_from_slice(&[b'v'; 256]);
        packet.extend_from_slice(&1_u32.to_be_bytes());
        packet.extend_from_slice(&size.to_be_bytes());
        let mut migration = Migration::one_round(MethodId::None, |channel| channel.raw(&packet));
        migration.channels[0].truncate(64 + 1344 + 276);
        assert_refused!(migration, ReceiveError::Packet(PacketError::DeviceState));
    }
}

#[test]
fn pages_before_the_first_sync() {
    let channel = Channel::new(0, MethodId::None).data(&[(1, text(1))]).sync().sync();
    let migration = Migration::new(one_round(MainStream::new()), [channel]);
    assert_refused!(migration, ReceiveError::BeforeFirstMark);
}
