//! Reading fields off the front of input that may not all be there yet.

use super::MainError;

/// Bytes of a damaged name that an error shows.
const SHOWN: usize = 32;

/// Why a step came to no result.
#[derive(Debug)]
pub(super) enum Stop {
    /// The input ends too soon; nothing was changed.
    More,
    /// The stream is bad.
    Error(MainError),
}

impl From<MainError> for Stop {
    fn from(error: MainError) -> Self {
        Self::Error(error)
    }
}

/// A place in the input. Every read either yields the whole field or stops
/// with [`Stop::More`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(input: &'a [u8], at: usize) -> Self {
        Self { input, at }
    }

    /// Offset of the next byte in the input.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Bytes that are left.
    pub(super) fn left(&self) -> usize {
        self.input.len().saturating_sub(self.at)
    }

    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Stop> {
        let end = self.at.checked_add(len).ok_or(Stop::More)?;
        let bytes = self.input.get(self.at..end).ok_or(Stop::More)?;
        self.at = end;
        Ok(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], Stop> {
        let rest = self.input.get(self.at..).ok_or(Stop::More)?;
        let array = rest.first_chunk().ok_or(Stop::More)?;
        self.at += N;
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Stop> {
        self.array().map(|[byte]| *byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Stop> {
        self.array().map(|bytes| u16::from_be_bytes(*bytes))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Stop> {
        self.array().map(|bytes| u32::from_be_bytes(*bytes))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Stop> {
        self.array().map(|bytes| u64::from_be_bytes(*bytes))
    }

    /// A name behind its length byte: 1 to 255 printable ASCII characters.
    pub(super) fn name(&mut self) -> Result<&'a str, Stop> {
        let len = self.u8()?;
        self.text(len.into())
    }

    /// Text of a known length. Bytes that can't be text are an error as soon
    /// as they are seen, so that a wrong length doesn't wait for ever.
    pub(super) fn text(&mut self, len: usize) -> Result<&'a str, Stop> {
        let rest = self.input.get(self.at..).ok_or(Stop::More)?;
        let seen = &rest[..len.min(rest.len())];
        if len == 0 || !seen.iter().all(|b| (0x20..0x7f).contains(b)) {
            return Err(not_text(seen));
        }
        let text = self.bytes(len)?;
        std::str::from_utf8(text).map_err(|_| not_text(text))
    }
}

/// Shows enough of the bytes to recognise them, in a message that stays short.
fn not_text(bytes: &[u8]) -> Stop {
    let front = &bytes[..bytes.len().min(SHOWN)];
    MainError::Text { bytes: front.escape_ascii().to_string() }.into()
}
