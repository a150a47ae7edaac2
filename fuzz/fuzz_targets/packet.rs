//! A packet's header, together with the size of the RAMBlock it names: nothing
//! is accepted that would lead outside the payload's limit or the RAMBlock.

#![no_main]

use libfuzzer_sys::fuzz_target;
use multifd_qpl::wire::{Hello, MAX_PAYLOAD, Packet, PacketKind, PageList};

fuzz_target!(|input: (u64, &[u8])| {
    let (used_length, bytes) = input;
    if let Some(hello) = bytes.first_chunk().and_then(|bytes| Hello::parse(bytes).ok()) {
        assert_eq!(Hello::parse(&hello.encode()), Ok(hello));
    }
    let kind = bytes.first_chunk().map(PacketKind::peek);
    let Some(header) = bytes.first_chunk() else {
        return;
    };
    let Ok(packet) = Packet::parse(header) else {
        return;
    };
    assert_eq!(kind, Some(Ok(PacketKind::Ram)));
    assert!(packet.payload_len() <= MAX_PAYLOAD);
    assert_eq!(packet.payload_len() > 0, packet.normal_pages() > 0);
    let _ = packet.block_name();

    let mut list = PageList::new();
    if packet.read_pages(used_length, &mut list).is_err() {
        assert!(list.normal().is_empty() && list.zero().is_empty());
        return;
    }
    assert_eq!(list.normal().len(), packet.normal_pages());
    assert_eq!(list.zero().len(), packet.zero_pages());
    let mut pages: Vec<u32> = list.normal().iter().chain(list.zero()).copied().collect();
    assert!(pages.iter().all(|&page| (u64::from(page) + 1) * 4096 <= used_length));
    pages.sort_unstable();
    assert!(pages.windows(2).all(|pair| pair[0] < pair[1]), "no page twice");
});
