//! DEFLATE blocks written symbol by symbol, so that a test can say exactly
//! which bits a decoder gets.

use multifd_qpl::inflate::PAGE;

/// A symbol of a block.
#[derive(Debug, Clone, Copy)]
pub enum Token {
    Literal(u8),
    /// Length 3 to 258 and distance 1 to 32768.
    Match(u16, u16),
}

use Token::{Literal, Match};

/// Writes bits as DEFLATE orders them: numbers lowest bit first, Huffman codes
/// highest bit first.
#[derive(Debug, Default, Clone)]
pub struct Writer {
    pub bytes: Vec<u8>,
    used: u32,
}

impl Writer {
    pub fn number(&mut self, value: u32, bits: u32) {
        for i in 0..bits {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            *self.bytes.last_mut().unwrap() |= (((value >> i) & 1) as u8) << (self.used % 8);
            self.used += 1;
        }
    }

    pub fn code(&mut self, value: u32, bits: u32) {
        for i in (0..bits).rev() {
            self.number(value >> i & 1, 1);
        }
    }

    /// Bits used of the last byte, 0 when it is full.
    pub fn phase(&self) -> u32 {
        self.used % 8
    }

    /// A literal or length symbol in the fixed code.
    pub fn symbol(&mut self, symbol: u32) {
        match symbol {
            0..144 => self.code(0x30 + symbol, 8),
            144..256 => self.code(0x190 + symbol - 144, 9),
            256..280 => self.code(symbol - 256, 7),
            _ => self.code(0xc0 + symbol - 280, 8),
        }
    }

    pub fn token(&mut self, token: Token) {
        match token {
            Literal(byte) => self.symbol(byte.into()),
            Match(len, distance) => {
                let (code, extra) = split(u32::from(len) - 3, 4, len == 258);
                self.symbol(257 + code);
                self.number(extra.0, extra.1);
                let (code, extra) = split(u32::from(distance) - 1, 2, false);
                self.code(code, 5);
                self.number(extra.0, extra.1);
            }
        }
    }

    /// The header of a final block with fixed codes.
    pub fn fixed() -> Self {
        let mut writer = Self::default();
        writer.number(0b011, 3);
        writer
    }

    /// The end of a block.
    pub fn end(&mut self) {
        self.symbol(256);
    }
}

/// Code, extra bits and how many there are, for codes in groups of `group`
/// with one more extra bit each. The greatest length has a code of its own.
fn split(value: u32, group: u32, greatest: bool) -> (u32, (u32, u32)) {
    if greatest {
        return (28, (0, 0));
    }
    if value < 2 * group {
        return (value, (0, 0));
    }
    let extra = (value / group).ilog2();
    let top = value >> extra;
    (extra * group + top, (value & ((1 << extra) - 1), extra))
}

/// A final fixed block of these tokens.
pub fn block(tokens: &[Token]) -> Vec<u8> {
    let mut writer = Writer::fixed();
    for &token in tokens {
        writer.token(token);
    }
    writer.end();
    writer.bytes
}

/// What the tokens stand for.
pub fn expand(tokens: &[Token]) -> Vec<u8> {
    let mut out = Vec::new();
    for &token in tokens {
        match token {
            Literal(byte) => out.push(byte),
            Match(len, distance) => {
                for _ in 0..len {
                    out.push(out[out.len() - usize::from(distance)]);
                }
            }
        }
    }
    out
}

/// Fills up to a page with literals of a text.
pub fn fill(tokens: &mut Vec<Token>) {
    let made = expand(tokens).len();
    tokens.extend((made..PAGE).map(|i| Literal(b"side by side "[i % 13])));
}

/// Cuts tokens off where they pass a page, then fills it.
pub fn fit(tokens: Vec<Token>) -> Vec<Token> {
    let mut made = 0;
    let mut kept = Vec::new();
    for token in tokens {
        let token = match token {
            Match(_, distance) if usize::from(distance) > made => Literal(distance as u8),
            Match(len, distance) if made + usize::from(len) <= PAGE => Match(len, distance),
            Match(..) => break,
            literal => literal,
        };
        made += if let Match(len, _) = token { usize::from(len) } else { 1 };
        if made > PAGE {
            break;
        }
        kept.push(token);
    }
    fill(&mut kept);
    kept
}
