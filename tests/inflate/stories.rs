//! One test, one story: what a decoder has got wrong or may get wrong, with
//! the bits written by hand.

use multifd_qpl::inflate::{InflateError, PAGE};

use crate::tokens::{Token::*, Writer, block, expand, fill, fit};
use crate::{verdict, verdicts};

fn text() -> Vec<crate::tokens::Token> {
    let mut tokens = Vec::new();
    fill(&mut tokens);
    tokens
}

/// A stored block of `bytes`.
fn stored(bytes: &[u8], last: bool) -> Vec<u8> {
    let len = bytes.len() as u16;
    let mut block = vec![u8::from(last)];
    block.extend_from_slice(&len.to_le_bytes());
    block.extend_from_slice(&(!len).to_le_bytes());
    block.extend_from_slice(bytes);
    block
}

#[test]
fn a_stored_page_comes_out_as_it_was() {
    let page: Vec<u8> = (0..PAGE).map(|i| (i * i / 7) as u8).collect();
    assert_eq!(verdict(&stored(&page, true)), Ok(page.clone()));
    let mut two = stored(&page[..1000], false);
    two.extend(stored(&page[1000..], true));
    assert_eq!(verdict(&two), Ok(page.clone()));
    assert_eq!(verdict(&stored(&page[1..], true)), Err(InflateError::OutputShort));
    let mut long = page.clone();
    long.push(0);
    assert_eq!(verdict(&stored(&long, true)), Err(InflateError::OutputLong));
    let mut bad = stored(&page, true);
    bad[3] ^= 1;
    assert_eq!(verdict(&bad), Err(InflateError::StoredLengthMismatch));
    for len in 0..stored(&page, true).len() {
        assert_eq!(verdict(&stored(&page, true)[..len]), Err(InflateError::InputTruncated));
    }
}

/// A decoder that reads length and distance in one go must not count distance
/// bits for the end of the block, which has none: the page would seem to end
/// behind its input.
#[test]
fn the_end_of_a_block_has_no_distance() {
    let tokens = text();
    assert_eq!(verdict(&block(&tokens)), Ok(expand(&tokens)));
}

/// The bits behind the final block, up to the next byte, may be anything; a
/// whole byte may not be there.
#[test]
fn only_bits_may_follow_the_final_block() {
    let mut tokens = text();
    let mut writer = Writer::fixed();
    tokens.iter().for_each(|&token| writer.token(token));
    writer.end();
    for filler in 0..8u32 {
        let mut padded = writer.clone();
        while padded.phase() != 0 {
            padded.number(filler & 1, 1);
        }
        assert_eq!(verdict(&padded.bytes), Ok(expand(&tokens)));
        padded.bytes.push(filler as u8);
        assert_eq!(verdict(&padded.bytes), Err(InflateError::TrailingBytes));
    }
    tokens.pop();
    assert_eq!(verdict(&block(&tokens)), Err(InflateError::OutputShort));
    tokens.extend([Literal(1), Literal(2)]);
    assert_eq!(verdict(&block(&tokens)), Err(InflateError::OutputLong));
}

/// Seven literals of eight bits, then one of nine, at every bit of a byte: the
/// eighth byte of a load is not whole then, and a decoder that corrects it in
/// place corrected garbage.
#[test]
fn a_nine_bit_literal_behind_seven_of_eight() {
    for shift in 0..8 {
        let (mut blocks, mut pages) = (Vec::new(), Vec::new());
        for run in 0..18 {
            let mut tokens = vec![Literal(0xff); shift];
            for nine in 0..112 {
                tokens.extend((0..run).map(|i| Literal(140 - i)));
                tokens.push(Literal(144 + nine));
            }
            let tokens = fit(tokens);
            blocks.push(block(&tokens));
            pages.push(Ok(expand(&tokens)));
        }
        assert_eq!(verdicts(&blocks), pages);
    }
}

/// Every length at every short distance: one copy of a fixed size, its
/// repetition, and the long way round must join without a seam.
#[test]
fn every_length_at_every_short_distance() {
    for distance in (1..=36u16).chain([47, 63, 64, 65]) {
        let (mut blocks, mut pages) = (Vec::new(), Vec::new());
        for first in (3..=258u16).step_by(14) {
            let mut tokens: Vec<_> = (0..distance).map(|i| Literal(i as u8 * 3)).collect();
            for len in first..(first + 14).min(259) {
                tokens.push(Match(len, distance));
                tokens.push(Literal(len as u8));
            }
            let tokens = fit(tokens);
            blocks.push(block(&tokens));
            pages.push(Ok(expand(&tokens)));
        }
        assert_eq!(verdicts(&blocks), pages, "distance {distance}");
    }
}

/// The greatest match that fits a page, up to its last byte, and from its
/// first.
#[test]
fn a_match_reaches_both_ends_of_the_page() {
    let mut tokens = vec![Literal(7)];
    tokens.extend([Match(258, 1); 15]);
    tokens.push(Match(225, 1));
    assert_eq!(verdict(&block(&tokens)), Ok(vec![7; PAGE]));
    tokens.pop();
    tokens.push(Match(226, 1));
    assert_eq!(verdict(&block(&tokens)), Err(InflateError::OutputLong));

    let mut tokens: Vec<_> = (0..4000).map(|i| Literal((i % 251) as u8)).collect();
    tokens.push(Match(96, 4000));
    assert_eq!(verdict(&block(&tokens)), Ok(expand(&tokens)));
    tokens.pop();
    for distance in [4001, 4096, 24577, 32768] {
        tokens.push(Match(96, distance));
        assert_eq!(verdict(&block(&tokens)), Err(InflateError::DistanceBeforeStart));
        tokens.pop();
    }
}

/// The fixed code has codes for symbols that DEFLATE does not use.
#[test]
fn codes_without_a_meaning_are_errors() {
    for symbol in [286, 287] {
        let mut writer = Writer::fixed();
        text().iter().take(100).for_each(|&token| writer.token(token));
        writer.symbol(symbol);
        writer.number(0, 31);
        let bytes = [writer.bytes, vec![0; 16]].concat();
        assert_eq!(verdict(&bytes), Err(InflateError::InvalidCode));
    }
    for code in [30, 31] {
        let mut writer = Writer::fixed();
        text().iter().take(100).for_each(|&token| writer.token(token));
        writer.symbol(257);
        writer.code(code, 5);
        let bytes = [writer.bytes, vec![0; 16]].concat();
        assert_eq!(verdict(&bytes), Err(InflateError::InvalidCode));
    }
    assert_eq!(verdict(&[0b111, 0, 0, 0]), Err(InflateError::InvalidBlockType));
}

/// A block cut off anywhere is truncated, whatever lies in memory behind it:
/// here the padding, which would decode as something.
#[test]
fn every_prefix_of_a_page_is_truncated() {
    let mut tokens = text();
    tokens.truncate(500);
    tokens.extend([Match(200, 30), Literal(200), Match(3, 1)]);
    fill(&mut tokens);
    let whole = block(&tokens);
    let lengths = (0..whole.len()).step_by(31).chain(whole.len() - 9..whole.len());
    let cut: Vec<_> = lengths.map(|len| whole[..len].to_vec()).collect();
    for verdict in verdicts(&cut) {
        assert_eq!(verdict, Err(InflateError::InputTruncated));
    }
}

/// Blocks without output do not fill a page, so a decoder that only watches
/// its output would read them, and what follows in memory, for ever.
#[test]
fn empty_blocks_end_with_the_input() {
    let mut writer = Writer::default();
    for _ in 0..40_000 {
        writer.number(0b010, 3);
        writer.end();
    }
    assert_eq!(verdict(&writer.bytes), Err(InflateError::InputTruncated));
    // Good ones are fine, and a page may come in several blocks.
    let mut writer = Writer::default();
    for _ in 0..100 {
        writer.number(0b010, 3);
        writer.end();
    }
    writer.number(0b011, 3);
    text().iter().for_each(|&token| writer.token(token));
    writer.end();
    assert_eq!(verdict(&writer.bytes), Ok(expand(&text())));
}

/// Dynamic headers that describe no code: what zlib refuses, we refuse.
#[test]
fn dynamic_headers_without_a_code_are_errors() {
    // More than 286 literals and lengths, or more than 30 distances.
    for (litlens, distances) in [(30, 0), (31, 0), (0, 30), (0, 31)] {
        let mut writer = Writer::default();
        writer.number(0b101, 3);
        writer.number(litlens, 5);
        writer.number(distances, 5);
        writer.number(0, 4);
        let bytes = [writer.bytes, vec![0; 200]].concat();
        assert_eq!(verdict(&bytes), Err(InflateError::InvalidHeader));
    }
    // A pre-code with a single symbol, all codes of one length, a repeat first.
    for lengths in [[1u32, 0, 0, 0], [0, 0, 0, 1], [1, 1, 1, 0], [2, 2, 2, 0], [1, 1, 0, 0]] {
        let mut writer = Writer::default();
        writer.number(0b101, 3);
        writer.number(0, 14);
        lengths.iter().for_each(|&len| writer.number(len, 3));
        let bytes = [writer.bytes, vec![0; 200]].concat();
        assert_eq!(verdict(&bytes), Err(InflateError::InvalidHeader), "{lengths:?}");
    }
}
