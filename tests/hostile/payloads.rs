//! Payloads that are damaged: exactly one page for each, or an error.

use multifd_qpl::{
    method::MethodError,
    receiver::ReceiveError,
    wire::{MethodId, qpl::QplError},
};

use crate::{
    refusal::assert_refused,
    support::{
        channel::{Channel, deflate, qpl_payload},
        migration::Migration,
        pages::{Page, noise, text},
    },
};

/// One round with one packet of these pages and this payload.
fn packet(method: MethodId, pages: &[u32], payload: &[u8]) -> Migration {
    Migration::one_round(method, |channel| channel.payload(pages, payload))
}

/// The payload that belongs to these pages at the start of a channel.
fn good(method: MethodId, pages: &[Page]) -> Vec<u8> {
    let pages: Vec<(u32, Page)> = (0..).zip(pages.iter().copied()).collect();
    Channel::new(0, method).encode(&pages)
}

fn damaged(error: &ReceiveError, method: MethodId, words: &str) -> bool {
    let ReceiveError::Method(MethodError::Stream { method: found, reason }) = error else {
        return false;
    };
    *found == method && reason.contains(words)
}

#[test]
fn qpl_lengths_that_contradict_the_payload() {
    let blocks = [deflate(&text(1)), deflate(&text(2))];
    let payload = qpl_payload(&blocks);
    for (at, len) in [(0, 0_u32), (4, 0), (0, 4097), (4, u32::MAX)] {
        let mut payload = payload.clone();
        payload[at..at + 4].copy_from_slice(&len.to_be_bytes());
        let wrong = packet(MethodId::Qpl, &[1, 2], &payload);
        assert_refused!(wrong, ReceiveError::Method(MethodError::Qpl(QplError::Length { .. })));
    }
    for change in [-1_i32, 1] {
        let mut payload = payload.clone();
        let len = (blocks[0].len() as i32 + change) as u32;
        payload[..4].copy_from_slice(&len.to_be_bytes());
        let wrong = packet(MethodId::Qpl, &[1, 2], &payload);
        assert_refused!(wrong, ReceiveError::Method(MethodError::Qpl(QplError::Sum { .. })));
    }
}

#[test]
fn a_qpl_payload_with_no_room_for_blocks() {
    // The header already shows it.
    assert_refused!(packet(MethodId::Qpl, &[1, 2], &[0; 8]), ReceiveError::Packet(_));
    assert_refused!(packet(MethodId::Qpl, &[1], &[0]), ReceiveError::Packet(_));
}

/// A raw DEFLATE stream of stored blocks that holds `bytes`.
fn stored(bytes: &[u8]) -> Vec<u8> {
    let len = bytes.len() as u16;
    [&[1][..], &len.to_le_bytes(), &(!len).to_le_bytes(), bytes].concat()
}

#[test]
fn a_qpl_block_that_is_not_exactly_one_page() {
    let whole = deflate(&text(1));
    let cut = whole[..whole.len() - 3].to_vec();
    let surplus = [&whole[..], &[0; 3]].concat();
    // An invalid type of block; a reference to before the page.
    let garbage = vec![0xff; 100];
    let mut open = whole.clone();
    open[0] &= !1;
    for block in [cut, surplus, garbage, stored(&[7; 4000]), stored(b""), open, vec![0x00]] {
        let payload = qpl_payload(&[deflate(&text(2)), block]);
        let wrong = packet(MethodId::Qpl, &[1, 2], &payload);
        assert_refused!(wrong, ReceiveError::Method(MethodError::Engine(_)));
    }
}

/// Longer than a page: the page's neighbours must not be written.
#[test]
fn a_qpl_block_that_makes_more_than_a_page() {
    let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
    for len in [4097, 5000, 65536, 1 << 20] {
        let mut block = vec![0; 8000];
        let bytes = vec![b'a'; len];
        let count = compressor.deflate_compress(&bytes, &mut block).expect("it compresses well");
        block.truncate(count);
        let wrong = packet(MethodId::Qpl, &[1], &qpl_payload(&[block]));
        assert_refused!(wrong, ReceiveError::Method(MethodError::Engine(_)));
    }
}

#[test]
fn a_damaged_page_among_many_good_packets() {
    let pages: Vec<(u32, Page)> = (0..60).map(|page| (page, text(page.into()))).collect();
    let migration = Migration::one_round(MethodId::Qpl, |mut channel| {
        for number in 0..40 {
            channel = channel.data(&pages);
            if number == 20 {
                channel = channel.payload(&[63], &qpl_payload(&[vec![0xff; 9]]));
            }
        }
        channel
    });
    assert_refused!(migration, ReceiveError::Method(MethodError::Engine(_)));
}

#[test]
fn a_stream_packet_that_holds_too_little() {
    for method in [MethodId::Zlib, MethodId::Zstd] {
        let payload = good(method, &[text(1)]);
        let wrong = packet(method, &[1, 2], &payload);
        assert_refused!(wrong, error if damaged(error, method, "fewer bytes"));
        let wrong = packet(method, &[1], &payload[..payload.len() / 2]);
        assert_refused!(wrong, error if damaged(error, method, "fewer bytes"));
    }
}

#[test]
fn a_stream_packet_that_holds_too_much() {
    for method in [MethodId::Zlib, MethodId::Zstd] {
        let payload = good(method, &[text(1), text(2)]);
        let wrong = packet(method, &[1], &payload);
        assert_refused!(wrong, error if damaged(error, method, ""));
        let payload = good(method, &[noise(1), noise(2)]);
        let wrong = packet(method, &[1], &payload);
        assert_refused!(wrong, error if damaged(error, method, ""));
    }
}

#[test]
fn bytes_left_over_behind_a_stream_packet() {
    for method in [MethodId::Zlib, MethodId::Zstd] {
        let payload = [good(method, &[text(1)]), vec![0xaa; 9]].concat();
        let wrong = packet(method, &[1], &payload);
        assert_refused!(wrong, error if damaged(error, method, ""));
    }
}

#[test]
fn a_stream_that_ends() {
    let mut zlib = vec![0; 8192];
    let mut deflate = zlib_rs::Deflate::new(1, true, 15);
    deflate.compress(&text(1), &mut zlib, zlib_rs::DeflateFlush::Finish).expect("there is room");
    zlib.truncate(deflate.total_out() as usize);
    let wrong = packet(MethodId::Zlib, &[1], &zlib);
    assert_refused!(wrong, error if damaged(error, MethodId::Zlib, "it ends"));

    let mut zstd = vec![0; 8192];
    let len = zstd_safe::compress(&mut zstd[..], &text(1), 1).expect("there is room");
    zstd.truncate(len);
    let wrong = packet(MethodId::Zstd, &[1], &zstd);
    assert_refused!(wrong, error if damaged(error, MethodId::Zstd, "frame ends"));
}

#[test]
fn garbage_instead_of_a_stream() {
    for method in [MethodId::Zlib, MethodId::Zstd] {
        for byte in [0x00, 0x55, 0xff] {
            let wrong = packet(method, &[1], &[byte; 500]);
            assert_refused!(wrong, error if damaged(error, method, ""));
        }
    }
}

#[test]
fn a_zlib_stream_that_asks_for_a_dictionary() {
    // 78 with the dictionary bit, made divisible by 31.
    let mut payload = vec![0x78, 0x20];
    payload[1] += 31 - ((0x78_u16 * 256 + 0x20) % 31) as u8;
    payload.extend_from_slice(&[1; 40]);
    let wrong = packet(MethodId::Zlib, &[1], &payload);
    assert_refused!(wrong, error if damaged(error, MethodId::Zlib, ""));
}

/// A zstd frame's head: no content size, no checksum.
fn zstd_head(descriptor: u8, rest: &[u8]) -> Vec<u8> {
    [&[0x28, 0xb5, 0x2f, 0xfd, descriptor][..], rest].concat()
}

/// One raw block of a page, not the last.
fn zstd_raw_block(page: &Page) -> Vec<u8> {
    let head = (4096_u32 << 3).to_le_bytes();
    [&head[..3], page].concat()
}

#[test]
fn a_zstd_stream_that_asks_for_a_dictionary() {
    // Window of 512 KiB, then the dictionary's number.
    let payload = [zstd_head(0x01, &[0x48, 0x2a]), zstd_raw_block(&text(1))].concat();
    let wrong = packet(MethodId::Zstd, &[1], &payload);
    assert_refused!(wrong, error if damaged(error, MethodId::Zstd, "dictionary"));
}

#[test]
fn a_zstd_window_above_the_limit() {
    // The exponent lies in the upper five bits: 2^(10 + 15) and one more.
    let good = [zstd_head(0x00, &[15 << 3]), zstd_raw_block(&text(1))].concat();
    let received = crate::support::deliver::replay(
        &packet(MethodId::Zstd, &[1], &good),
        crate::support::deliver::patient(),
    );
    drop(received.expect("level 20 has a window of 2^25"));
    for exponent in [16, 17, 31] {
        let payload = [zstd_head(0x00, &[exponent << 3]), zstd_raw_block(&text(1))].concat();
        let wrong = packet(MethodId::Zstd, &[1], &payload);
        assert_refused!(wrong, error if damaged(error, MethodId::Zstd, ""));
    }
}

#[test]
fn a_zstd_stream_that_begins_with_a_skippable_frame() {
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4];
    let payload = [&skippable[..], &good(MethodId::Zstd, &[text(1)])].concat();
    let wrong = packet(MethodId::Zstd, &[1], &payload);
    assert_refused!(wrong, error if damaged(error, MethodId::Zstd, "does not begin"));
}

/// A stream's decoder may be many packets behind its channel when it fails;
/// the channel must not wait for buffers that never come back.
#[test]
fn a_damaged_stream_with_many_packets_behind() {
    for method in [MethodId::Zlib, MethodId::Zstd] {
        let pages: Vec<(u32, Page)> = (0..30).map(|page| (page, noise(page.into()))).collect();
        let migration = Migration::one_round(method, |mut channel| {
            channel = channel.payload(&[1], &[0xff; 100]);
            for _ in 0..30 {
                channel = channel.data(&pages);
            }
            channel
        });
        assert_refused!(migration, error if damaged(error, method, ""));
    }
}
