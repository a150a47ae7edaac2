//! The payload of a qpl packet: blocks that are accepted fill it without a gap.

#![no_main]

use libfuzzer_sys::fuzz_target;
use multifd_qpl::wire::qpl::{read_lengths, write_lengths};

fuzz_target!(|input: (u8, &[u8])| {
    let (normal, payload) = (usize::from(input.0), input.1);
    let mut blocks = Vec::new();
    if read_lengths(payload, normal, &mut blocks).is_err() {
        assert!(blocks.is_empty());
        return;
    }
    let mut at = 4 * normal;
    for block in &blocks {
        assert!(block.start as usize == at && (1..=4096).contains(&block.len));
        at += block.len as usize;
    }
    assert_eq!(at, payload.len());

    let mut table = Vec::new();
    write_lengths(blocks.iter().map(|block| block.len), &mut table);
    assert_eq!(table, payload[..4 * normal]);
});
