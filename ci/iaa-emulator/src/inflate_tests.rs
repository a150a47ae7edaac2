//! Streams built bit by bit, one for each way to end.

use super::*;

/// Bits in the order that DEFLATE packs them.
#[derive(Default)]
struct Stream {
    bytes: Vec<u8>,
    bits: usize,
}

impl Stream {
    /// A number, least significant bit first.
    fn number(mut self, value: u32, width: usize) -> Self {
        for bit in 0..width {
            if self.bits.is_multiple_of(8) {
                self.bytes.push(0);
            }
            if value >> bit & 1 == 1 {
                self.bytes[self.bits / 8] |= 1 << (self.bits % 8);
            }
            self.bits += 1;
        }
        self
    }

    /// A code, most significant bit first.
    fn code(self, value: u32, width: usize) -> Self {
        self.number(value.reverse_bits() >> (32 - width), width)
    }

    /// A final block with the fixed code.
    fn fixed() -> Self {
        Stream::default().number(1, 1).number(1, 2)
    }

    fn literal(self, byte: u8) -> Self {
        match byte {
            0..=143 => self.code(0x30 + u32::from(byte), 8),
            144..=255 => self.code(0x190 + u32::from(byte) - 144, 9),
        }
    }

    fn end(self) -> Self {
        self.code(0, 7)
    }

    /// A final dynamic block's counts and the lengths of its code-length code, in symbol order.
    fn dynamic(literals: u32, distances: u32, lengths: [u32; 19]) -> Self {
        let counts = Stream::default()
            .number(1, 1)
            .number(2, 2)
            .number(literals - 257, 5)
            .number(distances - 1, 5);
        LENGTH_CODE_ORDER
            .iter()
            .fold(counts.number(15, 4), |stream, &symbol| stream.number(lengths[symbol], 3))
    }

    fn inflate(&self, limit: usize) -> (End, Vec<u8>) {
        let mut output = Vec::new();
        let end = inflate(&self.bytes, limit, &mut output).end;
        (end, output)
    }

    fn error(&self) -> End {
        self.inflate(8192).0
    }
}

/// Code-length code with symbols 0, 1 (codes 00, 01), 16, 17, 18 (codes 10, 110, 111).
fn small_lengths() -> [u32; 19] {
    let mut lengths = [0; 19];
    lengths[0] = 2;
    lengths[1] = 2;
    lengths[16] = 2;
    lengths[17] = 3;
    lengths[18] = 3;
    lengths
}

/// `count` lengths of zero, by symbol 18 and single ones.
fn zeros(mut stream: Stream, mut count: u32) -> Stream {
    while count >= 11 {
        let run = count.min(138);
        stream = stream.code(7, 3).number(run - 11, 7);
        count -= run;
    }
    (0..count).fold(stream, |stream, _| stream.code(0, 2))
}

#[test]
fn fixed_block_with_a_match() {
    // Length 10 is symbol 264, distance 2 is symbol 1.
    let stream = Stream::fixed().literal(b'a').literal(0xfe).code(264 - 256, 7).code(1, 5).end();
    assert_eq!(stream.inflate(12), (End::Final, [b'a', 0xfe].repeat(6)));
    let mut output = Vec::new();
    let mut bytes = stream.bytes.clone();
    bytes.extend_from_slice(b"trailing bytes are not looked at");
    let inflated = inflate(&bytes, 12, &mut output);
    assert_eq!((inflated.end, inflated.consumed), (End::Final, stream.bytes.len()));
}

#[test]
fn overflow_fills_the_output() {
    let stream = Stream::fixed().literal(b'a').literal(b'b').code(264 - 256, 7).code(1, 5).end();
    assert_eq!(stream.inflate(11), (End::Overflow, b"abababababa".to_vec()));
    assert_eq!(stream.inflate(1), (End::Overflow, b"a".to_vec()));
    assert_eq!(stream.inflate(0), (End::Overflow, vec![]));
}

#[test]
fn stored_blocks() {
    let stored = |complement| {
        let header = Stream::default().number(1, 1).number(0, 2).number(0, 5);
        header.number(3, 16).number(complement, 16).number(0x63_62_61, 24)
    };
    assert_eq!(stored(0xfffc).inflate(3), (End::Final, b"abc".to_vec()));
    assert_eq!(stored(0xfffd).error(), End::Malformed(Error::BadStoredLength));
    assert_eq!(stored(0xfffc).inflate(2).0, End::Overflow);
}

#[test]
fn every_cut_of_a_stream_is_out_of_input() {
    let stream = Stream::fixed().literal(1).literal(200).code(264 - 256, 7).code(1, 5).end();
    for length in 0..stream.bytes.len() {
        let mut output = Vec::new();
        assert_eq!(
            inflate(&stream.bytes[..length], 64, &mut output).end,
            End::OutOfInput,
            "{length}"
        );
    }
}

#[test]
fn bad_blocks_and_symbols() {
    assert_eq!(
        Stream::default().number(1, 1).number(3, 2).error(),
        End::Malformed(Error::BadBlockType)
    );
    // Symbol 286 of the fixed code, then distance symbol 30.
    let length = Stream::fixed().code(0xc6, 8).end().number(0, 32);
    assert_eq!(length.error(), End::Malformed(Error::BadLiteralCode));
    let distance = Stream::fixed().literal(0).code(1, 7).code(30, 5).number(0, 32);
    assert_eq!(distance.error(), End::Malformed(Error::BadDistanceCode));
    let before = Stream::fixed().literal(0).code(1, 7).code(1, 5).end();
    assert_eq!(before.error(), End::Malformed(Error::BeforeStart));
}

#[test]
fn the_window_is_four_kibibytes() {
    // Distance symbol 23 with 10 extra bits ends at 4096, symbol 24 begins at 4097.
    let start = || (0..4200).fold(Stream::fixed(), |stream, n| stream.literal(n as u8));
    let (end, output) = start().code(1, 7).code(23, 5).number(1023, 10).end().inflate(8192);
    assert_eq!((end, &output[4200..]), (End::Final, &[104, 105, 106][..]));
    let beyond = start().code(1, 7).code(24, 5).number(0, 11).end();
    assert_eq!(beyond.error(), End::Malformed(Error::BadDistance));
}

#[test]
fn headers_of_dynamic_blocks() {
    let header = |literals, distances| Stream::dynamic(literals, distances, small_lengths());
    assert_eq!(header(287, 1).error(), End::Malformed(Error::TooManyLiteralCodes));
    assert_eq!(header(257, 31).error(), End::Malformed(Error::TooManyDistanceCodes));
    let bad = |lengths| Stream::dynamic(257, 1, lengths).number(0, 32).error();
    assert_eq!(bad([1; 19]), End::Malformed(Error::BadLengthCodeLengths));
    assert_eq!(bad([0; 19]), End::Malformed(Error::UndefinedLengthCode));
    let repeat = header(257, 1).code(2, 2).number(0, 32);
    assert_eq!(repeat.error(), End::Malformed(Error::FirstLiteralLengthIsRepeat));
    // 250 zeros and then 11 more run past 257.
    let past = zeros(header(257, 1), 250).code(7, 3).number(0, 7).number(0, 32);
    assert_eq!(past.error(), End::Malformed(Error::WrongLiteralCount));
    let none = zeros(header(257, 1), 257).code(0, 2);
    assert_eq!(none.number(0, 32).error(), End::Malformed(Error::NoLiteralCodes));
    // Three codes of one bit.
    let over = zeros(header(257, 1), 254).code(1, 2).code(1, 2).code(1, 2).code(0, 2);
    assert_eq!(over.number(0, 32).error(), End::Malformed(Error::BadLiteralLengths));
    let two = || zeros(header(257, 3), 255).code(1, 2).code(1, 2);
    assert_eq!(
        two().code(2, 2).number(0, 32).error(),
        End::Malformed(Error::FirstDistanceIsRepeat)
    );
    let past = two().code(0, 2).code(6, 3).number(0, 3).number(0, 32);
    assert_eq!(past.error(), End::Malformed(Error::WrongDistanceCount));
    let over = two().code(1, 2).code(1, 2).code(1, 2);
    assert_eq!(over.number(0, 32).error(), End::Malformed(Error::BadDistanceLengths));
    // Symbol 255 is code 0, symbol 256 code 1.
    let good = two().code(0, 2).code(0, 2).code(0, 2).code(0, 1).code(0, 1).code(1, 1);
    assert_eq!(good.inflate(8), (End::Final, vec![255, 255]));
}

#[test]
fn codes_that_are_not_in_the_table() {
    // One code only: 0 is the end of the block, 1 is nothing.
    let single = || zeros(Stream::dynamic(257, 1, small_lengths()), 256).code(1, 2).code(0, 2);
    assert_eq!(single().code(0, 1).error(), End::Final);
    assert_eq!(single().code(1, 1).number(0, 32).error(), End::Malformed(Error::BadLiteralCode));
    // Symbols 256 and 257 and no distance code.
    let no_distance =
        zeros(Stream::dynamic(258, 1, small_lengths()), 256).code(1, 2).code(1, 2).code(0, 2);
    assert_eq!(
        no_distance.code(1, 1).number(0, 32).error(),
        End::Malformed(Error::BadDistanceCode)
    );
}
