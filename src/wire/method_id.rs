//! The compression methods a packet can name.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use thiserror::Error;

/// How a channel's pages are compressed. One method holds for all channels
/// and the whole migration.
///
/// All methods that sources know are listed, so that the ones nobody here can
/// decode (`uadk`, `qatzip`) are refused by their name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MethodId {
    /// Pages as they are.
    None,
    /// One endless zlib stream per channel.
    Zlib,
    /// One endless zstd frame per channel.
    Zstd,
    /// Each page a raw DEFLATE stream of its own; what IAA devices decode.
    Qpl,
    /// Each page a zlib stream of its own, framed like `Qpl`.
    Uadk,
    /// One blob per packet, made by Intel QAT.
    Qatzip,
}

impl MethodId {
    /// All methods, in the order of their flag bits.
    pub const ALL: [Self; 6] =
        [Self::None, Self::Zlib, Self::Zstd, Self::Qpl, Self::Uadk, Self::Qatzip];

    /// The method's bit in a packet's flags; 0 for `None`.
    pub const fn flag(self) -> u32 {
        match self {
            Self::None => 0x00,
            Self::Zlib => 0x02,
            Self::Zstd => 0x04,
            Self::Qpl => 0x08,
            Self::Uadk => 0x10,
            Self::Qatzip => 0x20,
        }
    }

    /// The method of a packet's method bits; `None` if two are set or a bit
    /// is not a method's. The bits are one-hot, not a number.
    pub const fn from_flag(bits: u32) -> Option<Self> {
        Some(match bits {
            0x00 => Self::None,
            0x02 => Self::Zlib,
            0x04 => Self::Zstd,
            0x08 => Self::Qpl,
            0x10 => Self::Uadk,
            0x20 => Self::Qatzip,
            _ => return None,
        })
    }

    /// The name QEMU's `multifd-compression` parameter uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Zlib => "zlib",
            Self::Zstd => "zstd",
            Self::Qpl => "qpl",
            Self::Uadk => "uadk",
            Self::Qatzip => "qatzip",
        }
    }
}

impl fmt::Display for MethodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for MethodId {
    type Err = UnknownMethod;

    fn from_str(name: &str) -> Result<Self, UnknownMethod> {
        Self::ALL.into_iter().find(|m| m.name() == name).ok_or_else(|| UnknownMethod(name.into()))
    }
}

/// A method name that no source knows.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no multifd method {0:?}: none, zlib, zstd, qpl, uadk and qatzip are known")]
pub struct UnknownMethod(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_flags_lead_back() {
        for method in MethodId::ALL {
            assert_eq!(method.name().parse(), Ok(method));
            assert_eq!(MethodId::from_flag(method.flag()), Some(method));
            assert_eq!(serde_json::to_string(&method).unwrap(), format!("\"{method}\""));
        }
        assert!("lz4".parse::<MethodId>().is_err());
        assert_eq!(MethodId::from_flag(0x06), None);
        assert_eq!(MethodId::from_flag(0x40), None);
    }
}
