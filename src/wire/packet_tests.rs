//! Each trap of the packet header, one by one, and the way there and back.

use proptest::prelude::*;

use super::*;

fn data(method: MethodId, normal: &[u32], zero: &[u32], payload_len: u32) -> [u8; 1344] {
    PacketHeader {
        generation: Generation::From9_0,
        sync: false,
        method,
        packet_num: 5,
        block: "pc.ram",
        normal,
        zero,
        payload_len,
    }
    .encode()
}

fn put(header: &mut [u8; 1344], at: usize, value: u32) {
    header[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

#[test]
fn fields_lie_where_they_are_documented() {
    let header = data(MethodId::Zlib, &[1, 2], &[0x1_0000], 77);
    assert_eq!(header[..12], [0x11, 0x22, 0x33, 0x44, 0, 0, 0, 1, 0, 0, 0, 2]);
    assert_eq!(header[12..24], [0, 0, 0, 128, 0, 0, 0, 2, 0, 0, 0, 77]);
    assert_eq!(header[24..36], [0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1]);
    assert_eq!(&header[64..71], b"pc.ram\0");
    assert_eq!(header[320..328], [0, 0, 0, 0, 0, 0, 0x10, 0]);
    assert_eq!(header[336..344], [0, 0, 0, 0, 0x10, 0, 0, 0]);

    let packet = Packet::parse(&header).unwrap();
    assert_eq!((packet.normal_pages(), packet.zero_pages()), (2, 1));
    assert_eq!((packet.payload_len(), packet.packet_num()), (77, 5));
    assert_eq!(packet.block_name(), Ok("pc.ram"));
}

#[test]
fn magic_version_and_flags_are_checked_for_both_kinds() {
    type Fault = (usize, u32, PacketError);
    let faults: [Fault; 3] = [
        (0, 0x5145_564d, PacketError::Magic(0x5145_564d)),
        (4, 2, PacketError::Version(2)),
        (8, 0x80, PacketError::UnknownFlags(0x80)),
    ];
    for (at, value, error) in faults {
        let mut header = PacketHeader::sync(Generation::From9_0, 0).encode();
        put(&mut header, at, value);
        assert_eq!(Packet::parse(&header).unwrap_err(), error);
        assert_eq!(PacketKind::peek(header.first_chunk().unwrap()).unwrap_err(), error);
    }
}

#[test]
fn two_methods_are_refused() {
    let mut header = data(MethodId::None, &[1], &[], 4096);
    put(&mut header, 8, 0x06);
    assert_eq!(Packet::parse(&header).unwrap_err(), PacketError::SeveralMethods { flags: 6 });
}

#[test]
fn device_state_is_told_apart_and_refused_by_name() {
    let mut header = data(MethodId::None, &[], &[], 0);
    put(&mut header, 8, 0x40);
    assert_eq!(PacketKind::peek(header.first_chunk().unwrap()), Ok(PacketKind::DeviceState));
    let error = Packet::parse(&header).unwrap_err();
    assert_eq!(error, PacketError::DeviceState);
    assert!(error.to_string().contains("VFIO"));
}

#[test]
fn counts_beyond_the_room_are_refused_without_overflow() {
    for (room, normal, zero) in [
        (129, 0, 0),
        (128, 129, 0),
        (128, 128, 1),
        (4, 5, 0),
        (128, u32::MAX, 1),
        (128, u32::MAX, u32::MAX),
        (u32::MAX, u32::MAX, 2),
    ] {
        let mut header = data(MethodId::None, &[], &[], 0);
        put(&mut header, 12, room);
        put(&mut header, 16, normal);
        put(&mut header, 32, zero);
        let error = Packet::parse(&header).unwrap_err();
        assert!(matches!(error, PacketError::Counts { .. }), "{error}");
    }
}

#[test]
fn payload_length_must_fit_the_method() {
    use MethodId::{None, Qpl, Zlib, Zstd};
    for (method, len, good) in [
        (None, 2 * 4096, true),
        (None, 2 * 4096 - 1, false),
        (None, 0, false),
        (Zlib, 0, false),
        (Zlib, 1, true),
        (Zlib, 1 << 20, true),
        (Zlib, (1 << 20) + 1, false),
        (Zstd, u32::MAX, false),
        (Qpl, 8, false),
        (Qpl, 9, false),
        (Qpl, 10, true),
        (Qpl, 8 + 2 * 4096, true),
        (Qpl, 9 + 2 * 4096, false),
    ] {
        let header = data(method, &[1, 2], &[], len);
        let parsed = Packet::parse(&header);
        assert_eq!(parsed.is_ok(), good, "{method} {len}: {parsed:?}");
    }
}

#[test]
fn a_stale_payload_length_is_ignored_only_without_any_page() {
    let mut header = PacketHeader::sync(Generation::UpTo8_2, 0).encode();
    put(&mut header, 20, 12345);
    assert_eq!(Packet::parse(&header).unwrap().payload_len(), 0);
    let header = data(MethodId::Zlib, &[], &[3], 12345);
    assert_eq!(Packet::parse(&header).unwrap_err(), PacketError::PayloadOfZeroPages { len: 12345 });
}

#[test]
fn stale_names_and_offsets_do_not_disturb_a_sync() {
    let mut header = PacketHeader::sync(Generation::UpTo8_2, 0).encode();
    header[64..].fill(0xff);
    let packet = Packet::parse(&header).unwrap();
    assert!(packet.is_sync());
    let mut list = PageList::new();
    packet.read_pages(0, &mut list).unwrap();
    assert!(list.normal().is_empty() && list.zero().is_empty());
    assert_eq!(packet.block_name(), Err(PacketError::BlockName));
}

#[test]
fn names_must_be_terminated_text() {
    let good = data(MethodId::None, &[1], &[], 4096);
    let mut full = good;
    full[64..320].fill(b'a');
    assert_eq!(Packet::parse(&full).unwrap().block_name(), Err(PacketError::BlockName));
    full[319] = 0;
    assert_eq!(Packet::parse(&full).unwrap().block_name().unwrap().len(), 255);
    let mut empty = good;
    empty[64] = 0;
    assert_eq!(Packet::parse(&empty).unwrap().block_name(), Err(PacketError::BlockName));
    let mut not_text = good;
    not_text[64] = 0xff;
    assert_eq!(Packet::parse(&not_text).unwrap().block_name(), Err(PacketError::BlockName));
}

#[test]
fn a_page_both_normal_and_zero_is_refused() {
    let header = data(MethodId::None, &[1, 9], &[4, 1], 8192);
    let error =
        Packet::parse(&header).unwrap().read_pages(1 << 20, &mut PageList::new()).unwrap_err();
    assert_eq!(error, PacketError::Repeated { offset: 4096 });
}

#[test]
fn generations_differ_in_the_room_of_a_sync() {
    let old = PacketHeader::sync(Generation::UpTo8_2, 1).encode();
    let new = PacketHeader::sync(Generation::From9_0, 1).encode();
    assert_eq!((old[15], new[15]), (128, 0));
    assert!(Packet::parse(&old).unwrap().is_sync() && Packet::parse(&new).unwrap().is_sync());
}

proptest! {
    #[test]
    fn packets_come_back_as_they_went(
        pages in proptest::sample::subsequence((0u32..3000).collect::<Vec<_>>(), 0..=128)
            .prop_shuffle(),
        split in 0usize..=128,
        sync: bool,
        packet_num: u64,
        name in "[a-z0-9@/:.]{1,255}",
    ) {
        let (normal, zero) = pages.split_at(split.min(pages.len()));
        let header = PacketHeader {
            generation: Generation::From9_0,
            sync,
            method: MethodId::None,
            packet_num,
            block: &name,
            normal,
            zero,
            payload_len: normal.len() as u32 * 4096,
        }
        .encode();
        let packet = Packet::parse(&header).unwrap();
        let mut list = PageList::new();
        packet.read_pages(3000 * 4096, &mut list).unwrap();
        prop_assert_eq!(list.normal(), normal);
        prop_assert_eq!(list.zero(), zero);
        prop_assert_eq!(packet.is_sync(), sync);
        prop_assert_eq!(packet.packet_num(), packet_num);
        prop_assert_eq!(packet.block_name().unwrap(), &name);
    }

    #[test]
    fn any_bytes_behind_a_good_front_are_handled(
        mut header in proptest::collection::vec(any::<u8>(), 1344),
        flags in 0u32..0x80,
        counts in any::<[u8; 3]>(),
        used_length: u64,
    ) {
        header[..12].copy_from_slice(&[0x11, 0x22, 0x33, 0x44, 0, 0, 0, 1, 0, 0, 0, flags as u8]);
        for (at, count) in [(12, counts[0]), (16, counts[1]), (32, counts[2])] {
            header[at..at + 4].copy_from_slice(&u32::from(count).to_be_bytes());
        }
        let header: &[u8; 1344] = header.as_slice().try_into().unwrap();
        if let Ok(packet) = Packet::parse(header) {
            let _ = packet.block_name();
            let _ = packet.read_pages(used_length, &mut PageList::new());
            prop_assert!(packet.payload_len() <= MAX_PAYLOAD);
        }
    }
}
