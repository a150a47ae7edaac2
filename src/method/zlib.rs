//! Method zlib: one zlib stream (RFC 1950) per channel for the whole
//! migration, flushed after each packet and never finished.

use zlib_rs::{Inflate, InflateFlush, Status};

use super::{MethodError, PageStream};
use crate::wire::MethodId;

/// The inflate state of one channel.
pub struct Zlib {
    inflate: Inflate,
}

impl std::fmt::Debug for Zlib {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Zlib").field("total_out", &self.inflate.total_out()).finish()
    }
}

impl Zlib {
    /// A stream that has not begun; its header is in the first payload.
    pub fn new() -> Self {
        Self { inflate: Inflate::new(true, 15) }
    }
}

impl Default for Zlib {
    fn default() -> Self {
        Self::new()
    }
}

impl PageStream for Zlib {
    const METHOD: MethodId = MethodId::Zlib;

    fn step(&mut self, input: &mut &[u8], out: &mut [u8]) -> Result<usize, MethodError> {
        let (seen_in, seen_out) = (self.inflate.total_in(), self.inflate.total_out());
        let status = self
            .inflate
            .decompress(input, out, InflateFlush::SyncFlush)
            .map_err(|error| Self::damaged(error.as_str()))?;
        let used = (self.inflate.total_in() - seen_in) as usize;
        let made = (self.inflate.total_out() - seen_out) as usize;
        *input = &input[used..];
        match status {
            Status::StreamEnd => Err(Self::damaged("it ends, although the migration goes on")),
            Status::Ok | Status::BufError => Ok(made),
        }
    }

    fn end(&mut self, input: &mut &[u8]) -> Result<(), MethodError> {
        // The flush mark behind the last page makes no output; a spare byte of
        // room lets the decoder run over it, and shows if there is more.
        while !input.is_empty() {
            let before = input.len();
            if self.step(input, &mut [0])? != 0 {
                return Err(Self::damaged("a packet holds more bytes than its pages"));
            }
            if input.len() == before {
                return Err(Self::damaged("bytes are left over behind a packet's pages"));
            }
        }
        // Output the decoder still holds back would belong to no page.
        if self.step(input, &mut [0])? != 0 {
            return Err(Self::damaged("a packet holds more bytes than its pages"));
        }
        Ok(())
    }
}
