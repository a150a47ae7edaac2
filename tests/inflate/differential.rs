//! Our decoders against zlib and libdeflate: the same pages from the same
//! blocks, good or damaged.

use libz_rs_sys as z;
use multifd_qpl::inflate::{Kind, PAGE};
use proptest::prelude::*;

use crate::tokens::{Token, block, expand, fit};
use crate::{decode, decoders};

fn stream() -> z::z_stream {
    // SAFETY: an all-zero stream is what the interface asks for.
    unsafe { std::mem::MaybeUninit::zeroed().assume_init() }
}

const SIZE: i32 = size_of::<z::z_stream>() as i32;

/// zlib's answer under our rules: exactly one page, and nothing left over.
fn zlib(block: &[u8]) -> Option<Vec<u8>> {
    let mut page = vec![0; PAGE + 1];
    let mut stream = stream();
    // SAFETY: the stream points at the two buffers and is ended here.
    let result = unsafe {
        assert_eq!(z::inflateInit2_(&mut stream, -15, z::zlibVersion(), SIZE), z::Z_OK);
        stream.next_in = block.as_ptr().cast_mut();
        stream.avail_in = block.len() as u32;
        stream.next_out = page.as_mut_ptr();
        stream.avail_out = page.len() as u32;
        let result = z::inflate(&mut stream, z::Z_FINISH);
        z::inflateEnd(&mut stream);
        result
    };
    page.truncate(PAGE);
    (result == z::Z_STREAM_END && stream.avail_in == 0 && stream.avail_out == 1).then_some(page)
}

/// A page compressed by zlib, as raw DEFLATE.
fn deflate(page: &[u8], level: i32, strategy: i32, memory: i32) -> Vec<u8> {
    let mut out = vec![0; 2 * PAGE];
    let mut stream = stream();
    // SAFETY: as above.
    unsafe {
        let version = z::zlibVersion();
        let ready = z::deflateInit2_(&mut stream, level, 8, -15, memory, strategy, version, SIZE);
        assert_eq!(ready, z::Z_OK);
        stream.next_in = page.as_ptr().cast_mut();
        stream.avail_in = page.len() as u32;
        stream.next_out = out.as_mut_ptr();
        stream.avail_out = out.len() as u32;
        assert_eq!(z::deflate(&mut stream, z::Z_FINISH), z::Z_STREAM_END);
        z::deflateEnd(&mut stream);
    }
    out.truncate(out.len() - stream.avail_out as usize);
    out
}

/// Asserts that every decoder answers as zlib does, block by block.
fn compare(blocks: &[Vec<u8>]) {
    let expected: Vec<_> = blocks.iter().map(|block| zlib(block)).collect();
    for mut decoder in decoders() {
        let results = decode(&mut decoder, blocks);
        for ((block, result), expected) in blocks.iter().zip(results).zip(&expected) {
            // libdeflate accepts a little more, see its module.
            if decoder.kind() == Kind::Libdeflate && expected.is_none() {
                continue;
            }
            assert_eq!(&result.ok(), expected, "{:?}: {block:02x?}", decoder.kind());
        }
    }
}

/// A page of pieces: noise, text of few letters, numbers, repetition, zeros.
fn page() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..200),
        proptest::collection::vec(b'a'..b'h', 1..400),
        proptest::collection::vec(140u8..150, 1..300),
        (any::<u8>(), 1..600usize).prop_map(|(byte, len)| vec![byte; len]),
        (proptest::collection::vec(any::<u8>(), 2..80), 2..20usize)
            .prop_map(|(part, times)| part.repeat(times)),
    ];
    proptest::collection::vec(piece, 1..24).prop_map(|pieces| {
        let pieces = pieces.concat();
        pieces.into_iter().cycle().take(PAGE).collect()
    })
}

fn token() -> impl Strategy<Value = Token> {
    prop_oneof![
        6 => any::<u8>().prop_map(Token::Literal),
        6 => (0u8..144).prop_map(Token::Literal),
        4 => (3..=258u16, 1..=4096u16).prop_map(|(len, distance)| Token::Match(len, distance)),
        4 => (3..=20u16, 1..=40u16).prop_map(|(len, distance)| Token::Match(len, distance)),
    ]
}

/// Flips, sets, cuts and adds bytes.
fn damage() -> impl Strategy<Value = Vec<(u8, usize, u8)>> {
    proptest::collection::vec((0u8..5, any::<usize>(), any::<u8>()), 1..4)
}

fn apply(mut block: Vec<u8>, damage: &[(u8, usize, u8)]) -> Vec<u8> {
    for &(how, at, value) in damage {
        let at = at % (block.len() + 1);
        match how {
            0 if at < block.len() => block[at] ^= 1 << (value & 7),
            1 if at < block.len() => block[at] = value,
            2 => block.truncate(at),
            3 => block.insert(at, value),
            4 if at < 20.min(block.len()) => block[at] ^= value,
            _ => block.push(value),
        }
    }
    block
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_page_survives_any_compressor(pages in proptest::collection::vec(page(), 1..20)) {
        for (level, strategy, memory) in [
            (1, z::Z_FIXED, 8),
            (9, z::Z_FIXED, 8),
            (6, z::Z_DEFAULT_STRATEGY, 8),
            (1, z::Z_DEFAULT_STRATEGY, 1),
            (6, z::Z_HUFFMAN_ONLY, 8),
            (6, z::Z_RLE, 8),
            (0, z::Z_DEFAULT_STRATEGY, 8),
        ] {
            let blocks: Vec<_> =
                pages.iter().map(|page| deflate(page, level, strategy, memory)).collect();
            for mut decoder in decoders() {
                for (result, page) in decode(&mut decoder, &blocks).iter().zip(&pages) {
                    prop_assert_eq!(result.as_ref(), Ok(page));
                }
            }
        }
    }

    #[test]
    fn any_symbols_become_what_they_stand_for(
        pages in proptest::collection::vec(proptest::collection::vec(token(), 0..2000), 1..20),
    ) {
        let pages: Vec<_> = pages.into_iter().map(fit).collect();
        let blocks: Vec<_> = pages.iter().map(|tokens| block(tokens)).collect();
        for mut decoder in decoders() {
            for (result, tokens) in decode(&mut decoder, &blocks).iter().zip(&pages) {
                prop_assert_eq!(result.as_ref(), Ok(&expand(tokens)));
            }
        }
    }

    #[test]
    fn damage_is_judged_as_zlib_judges_it(
        pages in proptest::collection::vec((page(), damage()), 1..30),
    ) {
        for (level, strategy) in
            [(1, z::Z_FIXED), (6, z::Z_DEFAULT_STRATEGY), (6, z::Z_HUFFMAN_ONLY)]
        {
            let blocks: Vec<_> = pages
                .iter()
                .map(|(page, damage)| apply(deflate(page, level, strategy, 8), damage))
                .collect();
            compare(&blocks);
        }
    }

    #[test]
    fn noise_is_judged_as_zlib_judges_it(
        blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..600), 1..40),
    ) {
        compare(&blocks);
    }
}
