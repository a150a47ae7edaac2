//! The first 64 bytes of a multifd channel: who is calling, and which channel
//! this is.
//!
//! A channel's id and the VM's UUID are all it says. There is no reply; packets
//! follow at once. Whether the id is in range, and whether all channels name
//! the same VM, only the receiver can know, so it isn't judged here.

use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, big_endian::U32};

use super::MULTIFD_MAGIC;

/// Version of the hello and of every packet; no other was ever in use.
pub(super) const VERSION: u32 = 1;

/// How the hello lies in memory and on the wire.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    magic: [u8; 4],
    version: U32,
    uuid: [u8; 16],
    id: u8,
    reserved: [u8; 39],
}

const _: () = assert!(size_of::<Layout>() == Hello::LEN);

/// What a multifd channel says about itself before its first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// The VM's UUID in the byte order of its text form; all zero if the VM
    /// has none.
    pub uuid: [u8; 16],
    /// The channel's number; a migration with N channels uses 0 to N-1.
    pub id: u8,
}

impl Hello {
    /// Bytes of a hello on the wire.
    pub const LEN: usize = 64;

    /// Reads a hello. The reserved bytes are not looked at.
    ///
    /// ```
    /// use multifd_qpl::wire::Hello;
    ///
    /// let hello = Hello { uuid: [7; 16], id: 3 };
    /// assert_eq!(Hello::parse(&hello.encode()).unwrap(), hello);
    /// assert!(Hello::parse(&[0; 64]).is_err());
    /// ```
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, HelloError> {
        let layout: &Layout = zerocopy::transmute_ref!(bytes);
        if layout.magic != MULTIFD_MAGIC {
            return Err(HelloError::Magic(u32::from_be_bytes(layout.magic)));
        }
        if layout.version.get() != VERSION {
            return Err(HelloError::Version(layout.version.get()));
        }
        Ok(Self { uuid: layout.uuid, id: layout.id })
    }

    /// The bytes a source sends.
    pub fn encode(&self) -> [u8; Self::LEN] {
        zerocopy::transmute!(Layout {
            magic: MULTIFD_MAGIC,
            version: U32::new(VERSION),
            uuid: self.uuid,
            id: self.id,
            reserved: [0; 39],
        })
    }
}

/// Why the first bytes of a connection are not a multifd hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HelloError {
    /// Something else than a migration source is calling.
    #[error("a connection begins with {0:#010x}: this is not a multifd channel")]
    Magic(u32),
    /// A multifd protocol that no released source speaks.
    #[error("a multifd channel uses version {0}, only version 1 is known")]
    Version(u32),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_the_documented_one() {
        let mut uuid = [0; 16];
        for (i, b) in uuid.iter_mut().enumerate() {
            *b = 0x80 + i as u8;
        }
        let bytes = Hello { uuid, id: 9 }.encode();
        assert_eq!(bytes[..8], [0x11, 0x22, 0x33, 0x44, 0, 0, 0, 1]);
        assert_eq!(bytes[8..24], uuid);
        assert_eq!(bytes[24], 9);
        assert!(bytes[25..].iter().all(|&b| b == 0));
    }

    #[test]
    fn wrong_magic_and_version_are_refused() {
        let good = Hello { uuid: [0; 16], id: 0 }.encode();
        let mut bad = good;
        bad[0] = 0x51;
        assert_eq!(Hello::parse(&bad), Err(HelloError::Magic(0x5122_3344)));
        let mut bad = good;
        bad[7] = 2;
        assert_eq!(Hello::parse(&bad), Err(HelloError::Version(2)));
    }

    #[test]
    fn reserved_bytes_are_not_judged() {
        let hello = Hello { uuid: [1; 16], id: 255 };
        let mut bytes = hello.encode();
        bytes[25..].fill(0xff);
        assert_eq!(Hello::parse(&bytes), Ok(hello));
    }
}
