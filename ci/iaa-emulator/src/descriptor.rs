//! The 64 bytes that a client submits and the 64 bytes that it gets back.

/// Bytes of a descriptor.
pub const SIZE: usize = 64;

/// No operation: completes with success.
pub const NOOP: u8 = 0x00;
/// Decompress.
pub const DECOMPRESS: u8 = 0x42;
/// Compress.
pub const COMPRESS: u8 = 0x43;

/// Operation flag: block on fault.
pub const BLOCK_ON_FAULT: u32 = 1 << 1;
/// Operation flag: the completion record's address is valid.
pub const RECORD_VALID: u32 = 1 << 2;
/// Operation flag: request a completion interrupt.
pub const INTERRUPT: u32 = 1 << 4;
/// Operation flag: the checksum is CRC-32C.
pub const CRC32C: u32 = 1 << 21;
/// Operation flags that mean something: the above, request a record, cache control, strict order, read back, source 2
/// read and write selectors, strict, AECS toggle.
pub const KNOWN_FLAGS: u32 = 0x7f_611e;

/// A submitted descriptor.
#[derive(Clone, Debug)]
pub struct Descriptor {
    /// Operation.
    pub opcode: u8,
    /// Operation flags.
    pub flags: u32,
    /// Address of the completion record.
    pub record: u64,
    /// Address of source 1.
    pub source: u64,
    /// Bytes of source 1.
    pub source_size: u32,
    /// Address of the destination.
    pub destination: u64,
    /// Most bytes that may be written to it.
    pub destination_size: u32,
    /// Decompress or compress flags.
    pub detail: u16,
    /// Address of source 2 or of the AECS.
    pub aecs: u64,
    /// Its size.
    pub aecs_size: u32,
    /// Filter flags, or second compress flags.
    pub filter: u32,
    /// The reserved bytes of the first word that a client must leave zero, and the element count.
    pub elements: u32,
}

impl Descriptor {
    /// Reads a descriptor.
    pub fn parse(bytes: &[u8; SIZE]) -> Self {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        Descriptor {
            opcode: bytes[7],
            flags: word(4) & 0xff_ffff,
            record: long(8),
            source: long(16),
            destination: long(24),
            source_size: word(32),
            detail: u16::from_le_bytes([bytes[38], bytes[39]]),
            aecs: long(40),
            destination_size: word(48),
            aecs_size: word(52),
            filter: word(56),
            elements: word(60),
        }
    }

    /// Whether page requests may be made for it.
    pub fn block_on_fault(&self) -> bool {
        self.flags & BLOCK_ON_FAULT != 0
    }

    /// Which use is made of source 2 as input: 0 none, 1 AECS, 2 filter input.
    pub fn reads_source2(&self) -> u32 {
        self.flags >> 16 & 3
    }
}

/// A completion record to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Status byte.
    pub status: u8,
    /// Error number of status 0x0a.
    pub error: u8,
    /// Bytes of source 1 that were used.
    pub completed: u32,
    /// Address of a page fault.
    pub fault_address: u64,
    /// Operation flags that were not understood.
    pub invalid_flags: u32,
    /// Bytes of output.
    pub output_size: u32,
    /// Bits used of the last byte, 0 for all.
    pub output_bits: u8,
    /// XOR of the uncompressed 16-bit words.
    pub xor: u16,
    /// CRC of the uncompressed bytes.
    pub crc: u32,
}

impl Record {
    /// A record that only has a status.
    pub fn status(status: u8) -> Self {
        Record { status, ..Record::default() }
    }

    /// A record of an analytics error.
    pub fn error(error: u8) -> Self {
        Record { status: 0x0a, error, ..Record::default() }
    }

    /// The bytes as the client gets them.
    pub fn to_bytes(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        bytes[0] = self.status;
        bytes[1] = self.error;
        bytes[4..8].copy_from_slice(&self.completed.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.fault_address.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.invalid_flags.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.output_size.to_le_bytes());
        bytes[28] = self.output_bits;
        bytes[30..32].copy_from_slice(&self.xor.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.crc.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_decompression_is_read_as_libqpl_sends_it() {
        let mut bytes = [0u8; SIZE];
        bytes[4..8].copy_from_slice(&0x4208_010e_u32.to_le_bytes());
        bytes[8..16].copy_from_slice(&0x7f00_0000_1040_u64.to_le_bytes());
        bytes[32..36].copy_from_slice(&1820u32.to_le_bytes());
        bytes[38..40].copy_from_slice(&0x1f_u16.to_le_bytes());
        bytes[48..52].copy_from_slice(&4096u32.to_le_bytes());
        let descriptor = Descriptor::parse(&bytes);
        assert_eq!(
            (descriptor.opcode, descriptor.flags, descriptor.detail),
            (DECOMPRESS, 0x8010e, 0x1f)
        );
        assert_eq!((descriptor.record, descriptor.source_size), (0x7f00_0000_1040, 1820));
        assert!(descriptor.block_on_fault());
        assert_eq!((descriptor.flags & !KNOWN_FLAGS, descriptor.reads_source2()), (0, 0));
    }
}
