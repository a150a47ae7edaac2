//! Method zstd: one zstd frame per channel for the whole migration, flushed
//! after each packet and never closed.

use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

use super::{MethodError, PageStream};
use crate::wire::MethodId;

/// Largest window a source may ask for, as a power of two: 32 MiB, what level
/// 20, the highest a source can be set to, uses.
pub const WINDOW_LOG_MAX: u32 = 25;

/// First bytes of a zstd frame, and the only ones a channel may begin with: a
/// skippable frame would let a source send data for ever without a page.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The decompression state of one channel.
pub struct Zstd {
    context: DCtx<'static>,
    begun: bool,
}

impl std::fmt::Debug for Zstd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Zstd").field("begun", &self.begun).finish_non_exhaustive()
    }
}

impl Zstd {
    /// A stream that has not begun; its header is in the first payload.
    pub fn new() -> Result<Self, MethodError> {
        let mut context =
            DCtx::try_create().ok_or_else(|| Self::damaged("no memory for a zstd context"))?;
        context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(code)?;
        Ok(Self { context, begun: false })
    }
}

fn code(code: zstd_safe::ErrorCode) -> MethodError {
    Zstd::damaged(zstd_safe::get_error_name(code))
}

impl PageStream for Zstd {
    const METHOD: MethodId = MethodId::Zstd;

    fn step(&mut self, input: &mut &[u8], out: &mut [u8]) -> Result<usize, MethodError> {
        if !self.begun {
            if !input.starts_with(&MAGIC) {
                return Err(Self::damaged("it does not begin with a zstd frame"));
            }
            // A dictionary would have to be agreed on outside the stream.
            if zstd_safe::get_dict_id_from_frame(input).is_some() {
                return Err(Self::damaged("it asks for a dictionary"));
            }
            self.begun = true;
        }
        let mut from = InBuffer::around(input);
        let mut to = OutBuffer::around(out);
        let hint = self.context.decompress_stream(&mut to, &mut from).map_err(code)?;
        let (used, made) = (from.pos(), to.pos());
        *input = &input[used..];
        if hint == 0 {
            return Err(Self::damaged("its frame ends, although the migration goes on"));
        }
        Ok(made)
    }

    fn end(&mut self, input: &mut &[u8]) -> Result<(), MethodError> {
        loop {
            let before = input.len();
            if self.step(input, &mut [0])? != 0 {
                return Err(Self::damaged("a packet holds more bytes than its pages"));
            }
            if input.is_empty() {
                return Ok(());
            }
            if input.len() == before {
                return Err(Self::damaged("bytes are left over behind a packet's pages"));
            }
        }
    }
}
