//! The checksums of a completion record: CRC-32 as in gzip, CRC-32C when a descriptor asks for it, and a 16-bit XOR.

const fn castagnoli() -> [u32; 256] {
    let mut table = [0u32; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ 0x82f6_3b78 } else { value >> 1 };
            bit += 1;
        }
        table[byte] = value;
        byte += 1;
    }
    table
}

static CASTAGNOLI: [u32; 256] = castagnoli();

/// Continues `crc` over `bytes`.
pub fn crc32(crc: u32, bytes: &[u8], use_castagnoli: bool) -> u32 {
    if use_castagnoli {
        return !bytes
            .iter()
            .fold(!crc, |crc, &byte| crc >> 8 ^ CASTAGNOLI[usize::from(crc as u8 ^ byte)]);
    }
    let mut hasher = crc32fast::Hasher::new_with_initial(crc);
    hasher.update(bytes);
    hasher.finalize()
}

/// Continues the XOR of all little-endian 16-bit words; an odd byte at the end counts as a word.
pub fn xor16(start: u16, bytes: &[u8]) -> u16 {
    // Four words at a time, folded at the end.
    let (eights, rest) = bytes.as_chunks::<8>();
    let sum = eights.iter().fold(0, |sum, eight| sum ^ u64::from_le_bytes(*eight));
    let sum = (sum ^ sum >> 32) as u32;
    let sum = (sum ^ sum >> 16) as u16;
    rest.chunks(2).fold(start ^ sum, |sum, pair| {
        sum ^ u16::from_le_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_check_values() {
        assert_eq!(crc32(0, b"123456789", false), 0xcbf4_3926);
        assert_eq!(crc32(0, b"123456789", true), 0xe306_9283);
        let half = crc32(0, b"12345", true);
        assert_eq!(crc32(half, b"6789", true), 0xe306_9283);
        assert_eq!(xor16(0, &[1, 2, 4, 8, 16]), 0x0a15);
        let bytes: Vec<u8> = (0..99u32).map(|n| (n * 37) as u8).collect();
        let slowly = bytes
            .iter()
            .enumerate()
            .fold(7, |sum, (n, &byte)| sum ^ u16::from(byte) << (n % 2 * 8));
        assert_eq!(xor16(7, &bytes), slowly);
    }
}
