//! What goes back to the source on main, once it has opened the return path.
//!
//! ```text
//!  u16 type | u16 length | that many bytes
//! ```
//!
//! PONG answers a PING. SWITCHOVER_ACK lets a source that waits for it stop
//! its VM. SHUT is the verdict and the last word: without it the source takes
//! the migration for failed. The other messages belong to postcopy and are
//! known here so that a recorder and tests can read them.

use thiserror::Error;

/// Longest body a source accepts; a longer one fails the migration.
pub const MAX_BODY: usize = 512;

const HEADER: usize = 4;

const SHUT: u16 = 1;
const PONG: u16 = 2;
const REQ_PAGES_ID: u16 = 3;
const REQ_PAGES: u16 = 4;
const RECV_BITMAP: u16 = 5;
const RESUME_ACK: u16 = 6;
const SWITCHOVER_ACK: u16 = 7;

/// A message from the receiver to the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReturnMessage {
    /// The verdict: 0 for success, anything else makes the source fail and its
    /// guest run on.
    Shut(u32),
    /// The answer to PING, with its number.
    Pong(u32),
    /// Postcopy: pages wanted now.
    RequestPages {
        /// RAMBlock, if it isn't that of the last request.
        block: Option<String>,
        /// Byte offset in the RAMBlock.
        start: u64,
        /// Bytes wanted.
        len: u32,
    },
    /// Postcopy recovery: the [bitmap](super::received_bitmap) of this RAMBlock
    /// follows the message.
    ReceivedBitmap {
        /// Name of the RAMBlock.
        block: String,
    },
    /// Postcopy recovery: ready to go on.
    ResumeAck(u32),
    /// The source may stop its VM. Sources before 8.1 don't know the message
    /// and fail.
    SwitchoverAck,
}

impl ReturnMessage {
    /// Writes the message to the end of `out`.
    ///
    /// # Panics
    ///
    /// If a RAMBlock's name has more than 255 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut put = |kind: u16, parts: &[&[u8]]| {
            let len: usize = parts.iter().map(|part| part.len()).sum();
            out.extend_from_slice(&kind.to_be_bytes());
            out.extend_from_slice(&(len as u16).to_be_bytes());
            parts.iter().for_each(|part| out.extend_from_slice(part));
        };
        let name_len = |name: &str| [u8::try_from(name.len()).expect("a name of up to 255 bytes")];
        match self {
            Self::Shut(value) => put(SHUT, &[&value.to_be_bytes()]),
            Self::Pong(value) => put(PONG, &[&value.to_be_bytes()]),
            Self::RequestPages { block: None, start, len } => {
                put(REQ_PAGES, &[&start.to_be_bytes(), &len.to_be_bytes()]);
            }
            Self::RequestPages { block: Some(name), start, len } => put(
                REQ_PAGES_ID,
                &[&start.to_be_bytes(), &len.to_be_bytes(), &name_len(name), name.as_bytes()],
            ),
            Self::ReceivedBitmap { block } => {
                put(RECV_BITMAP, &[&name_len(block), block.as_bytes()]);
            }
            Self::ResumeAck(value) => put(RESUME_ACK, &[&value.to_be_bytes()]),
            Self::SwitchoverAck => put(SWITCHOVER_ACK, &[]),
        }
    }

    /// Reads the message at the front of `input` and tells how many bytes it
    /// has; `None` if it isn't complete.
    pub fn parse(input: &[u8]) -> Result<Option<(usize, Self)>, ReturnPathError> {
        let Some((header, rest)) = input.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let kind = u16::from_be_bytes([header[0], header[1]]);
        let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if !(SHUT..=SWITCHOVER_ACK).contains(&kind) {
            return Err(ReturnPathError::Unknown { kind });
        }
        let wrong = ReturnPathError::Length { kind, len };
        if len > MAX_BODY {
            return Err(wrong);
        }
        let Some(body) = rest.get(..len) else {
            return Ok(None);
        };
        let message = Self::parse_body(kind, body).ok_or(wrong)?;
        Ok(Some((HEADER + len, message)))
    }

    fn parse_body(kind: u16, body: &[u8]) -> Option<Self> {
        let value = || body.try_into().ok().map(u32::from_be_bytes);
        let name = |bytes: &[u8]| {
            let (&len, name) = bytes.split_first()?;
            let fits = name.len() == usize::from(len) && len > 0;
            fits.then(|| std::str::from_utf8(name).ok().map(str::to_owned))?
        };
        Some(match kind {
            SHUT => Self::Shut(value()?),
            PONG => Self::Pong(value()?),
            RESUME_ACK => Self::ResumeAck(value()?),
            SWITCHOVER_ACK => body.is_empty().then_some(Self::SwitchoverAck)?,
            RECV_BITMAP => Self::ReceivedBitmap { block: name(body)? },
            REQ_PAGES | REQ_PAGES_ID => {
                let (start, rest) = body.split_first_chunk()?;
                let (len, rest) = rest.split_first_chunk()?;
                let block = match kind {
                    REQ_PAGES => rest.is_empty().then_some(None)?,
                    _ => Some(name(rest)?),
                };
                let (start, len) = (u64::from_be_bytes(*start), u32::from_be_bytes(*len));
                Self::RequestPages { block, start, len }
            }
            _ => return None,
        })
    }
}

/// What is wrong with a message on the return path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ReturnPathError {
    /// No source knows the message.
    #[error("a return path message has type {kind}, which is not known")]
    Unknown {
        /// The message's type.
        kind: u16,
    },
    /// The body can't be that of the message.
    #[error("a return path message of type {kind} has a body of {len} bytes that does not fit it")]
    Length {
        /// The message's type.
        kind: u16,
        /// Bytes of the body.
        len: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<ReturnMessage> {
        let block = "pc.ram".to_owned();
        vec![
            ReturnMessage::Shut(1),
            ReturnMessage::Pong(0xdead_beef),
            ReturnMessage::RequestPages { block: None, start: 4096, len: 8192 },
            ReturnMessage::RequestPages { block: Some(block.clone()), start: 1 << 40, len: 4096 },
            ReturnMessage::ReceivedBitmap { block },
            ReturnMessage::ResumeAck(1),
            ReturnMessage::SwitchoverAck,
        ]
    }

    #[test]
    fn bytes_are_the_documented_ones() {
        let mut out = Vec::new();
        ReturnMessage::Shut(0).encode(&mut out);
        ReturnMessage::Pong(1).encode(&mut out);
        ReturnMessage::SwitchoverAck.encode(&mut out);
        assert_eq!(out, [0, 1, 0, 4, 0, 0, 0, 0, 0, 2, 0, 4, 0, 0, 0, 1, 0, 7, 0, 0]);
    }

    #[test]
    fn messages_come_back_and_wait_for_their_last_byte() {
        for message in all() {
            let mut out = Vec::new();
            message.encode(&mut out);
            for len in 0..out.len() {
                assert_eq!(ReturnMessage::parse(&out[..len]), Ok(None));
            }
            let used = out.len();
            out.push(0x55);
            assert_eq!(ReturnMessage::parse(&out), Ok(Some((used, message))));
        }
    }

    #[test]
    fn unknown_types_and_wrong_lengths_are_refused() {
        for kind in [0, 8, u16::MAX] {
            let [a, b] = kind.to_be_bytes();
            assert_eq!(ReturnMessage::parse(&[a, b, 0, 0]), Err(ReturnPathError::Unknown { kind }));
        }
        assert_eq!(
            ReturnMessage::parse(&[0, 5, 2, 1]),
            Err(ReturnPathError::Length { kind: 5, len: 513 })
        );
        for message in all() {
            let mut out = Vec::new();
            message.encode(&mut out);
            out[3] += 1;
            out.push(0);
            assert!(ReturnMessage::parse(&out).is_err(), "{message:?}");
        }
    }
}
