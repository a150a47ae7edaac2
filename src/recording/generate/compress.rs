//! Payloads: the data pages of a packet as each method sends them.

use zlib_rs::{Deflate, DeflateFlush};
use zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer, zstd_sys::ZSTD_EndDirective};

use super::{GenerateError, content::Page, deflate::PageDeflate};
use crate::wire::{MAX_PAYLOAD, MethodId, PAGE_SIZE, qpl};

/// What sources use unless told otherwise, for zlib and zstd alike.
const LEVEL: i32 = 1;

/// The compressor of one channel; zlib and zstd make one endless stream of all
/// of a channel's packets.
pub(super) enum Compressor {
    None,
    Zlib(Box<Deflate>),
    Zstd(Box<CCtx<'static>>),
    Qpl { deflate: PageDeflate, lengths: Vec<u32>, blocks: Vec<u8> },
}

impl Compressor {
    pub(super) fn new(method: MethodId) -> Result<Self, GenerateError> {
        Ok(match method {
            MethodId::None => Self::None,
            MethodId::Zlib => Self::Zlib(Box::new(Deflate::new(LEVEL, true, 15))),
            MethodId::Zstd => {
                let fail = |code| failed(MethodId::Zstd, zstd_safe::get_error_name(code));
                let mut context =
                    CCtx::try_create().ok_or_else(|| failed(MethodId::Zstd, "no memory"))?;
                context.set_parameter(CParameter::CompressionLevel(LEVEL)).map_err(fail)?;
                Self::Zstd(Box::new(context))
            }
            MethodId::Qpl => {
                let (lengths, blocks) = (Vec::new(), Vec::new());
                Self::Qpl { deflate: PageDeflate::new(), lengths, blocks }
            }
            other => return Err(GenerateError::Method(other)),
        })
    }

    /// Makes the payload of a packet whose data pages `fill` makes one by one.
    /// Returns how many pages went in as they are, where the method can say so.
    pub(super) fn payload(
        &mut self,
        pages: usize,
        page: &mut Page,
        mut fill: impl FnMut(&mut Page, usize),
        out: &mut Vec<u8>,
    ) -> Result<u64, GenerateError> {
        out.clear();
        if let Self::Zlib(_) | Self::Zstd(_) = self {
            // The most a packet may have; pages that don't compress grow a bit.
            out.resize(MAX_PAYLOAD, 0);
        }
        let mut made = 0;
        let mut raw = 0;
        for index in 0..pages {
            fill(page, index);
            let last = index + 1 == pages;
            match self {
                Self::None => out.extend_from_slice(page.bytes()),
                Self::Qpl { deflate, lengths, blocks } => {
                    let len = deflate.compress(page.bytes(), blocks);
                    raw += u64::from(len == PAGE_SIZE);
                    lengths.push(len as u32);
                }
                Self::Zlib(deflate) => {
                    let flush = if last { DeflateFlush::SyncFlush } else { DeflateFlush::NoFlush };
                    let (seen_in, seen_out) = (deflate.total_in(), deflate.total_out());
                    deflate
                        .compress(page.bytes(), &mut out[made..], flush)
                        .map_err(|error| failed(MethodId::Zlib, error.as_str()))?;
                    made += (deflate.total_out() - seen_out) as usize;
                    if deflate.total_in() - seen_in != PAGE_SIZE as u64 || made == out.len() {
                        return Err(failed(MethodId::Zlib, "a packet got too large"));
                    }
                }
                Self::Zstd(context) => {
                    let end = if last {
                        ZSTD_EndDirective::ZSTD_e_flush
                    } else {
                        ZSTD_EndDirective::ZSTD_e_continue
                    };
                    let mut input = InBuffer::around(page.bytes());
                    let mut output = OutBuffer::around(&mut out[made..]);
                    let left = context
                        .compress_stream2(&mut output, &mut input, end)
                        .map_err(|code| failed(MethodId::Zstd, zstd_safe::get_error_name(code)))?;
                    made += output.pos();
                    if input.pos() != PAGE_SIZE || (last && left != 0) {
                        return Err(failed(MethodId::Zstd, "a packet got too large"));
                    }
                }
            }
        }
        match self {
            Self::None => {}
            Self::Zlib(_) | Self::Zstd(_) => out.truncate(made),
            Self::Qpl { lengths, blocks, .. } => {
                qpl::write_lengths(lengths.drain(..), out);
                out.append(blocks);
            }
        }
        Ok(raw)
    }
}

fn failed(method: MethodId, reason: &str) -> GenerateError {
    GenerateError::Compress { method, reason: reason.to_owned() }
}
