//! What a descriptor asks for, from the checks of its fields to the bytes of its output.
//!
//! Nothing here writes to the client's memory: the result is a record and the bytes that belong at the destination, so
//! that the caller can spoil or delay either.

use std::sync::atomic::Ordering::Relaxed;

use crate::checksum::{crc32, xor16};
use crate::counters::COUNTERS;
use crate::deflate::{self, LITERAL_CODES, Tail, encode, histogram};
use crate::descriptor::{
    COMPRESS, CRC32C, DECOMPRESS, Descriptor, INTERRUPT, KNOWN_FLAGS, NOOP, RECORD_VALID, Record,
};
use crate::inflate::{End, Error, inflate};
use crate::memory::{Fault, Memory, Use};

const STATUS_SUCCESS: u8 = 0x01;
const STATUS_OVERFLOW: u8 = 0x0b;
const STATUS_BAD_OPCODE: u8 = 0x10;
const STATUS_BAD_FLAGS: u8 = 0x11;
const STATUS_RESERVED: u8 = 0x12;
const STATUS_BAD_SIZE: u8 = 0x13;
const STATUS_OVERLAP: u8 = 0x16;
const STATUS_BAD_INTERRUPT: u8 = 0x19;
const STATUS_RECORD_ALIGNMENT: u8 = 0x1b;
const STATUS_AECS_ALIGNMENT: u8 = 0x1c;
const STATUS_BAD_DETAIL: u8 = 0x30;
const STATUS_BAD_FILTER: u8 = 0x31;

/// Decompress flag: the operation is on.
const DECOMPRESS_ENABLE: u16 = 1;
const DECOMPRESS_CHECK_END: u16 = 1 << 3;
const DECOMPRESS_SUPPRESS: u16 = 1 << 9;
/// Flags of decompression that are modelled: enable, flush, stop on end, check for end, final block, suppress output,
/// and the count of bits to ignore at the end, which are read all the same: they lie behind the end of a whole stream.
const DECOMPRESS_MODELLED: u16 = 0x03df;

const COMPRESS_STATISTICS: u16 = 1;
/// Flags of compression that are modelled: statistics, flush, end, literals only.
const COMPRESS_MODELLED: u16 = 0x001f;
const COMPRESS_AECS_SIZE: u32 = 0x620;

/// A record and what is to be stored before it is.
#[derive(Debug)]
pub struct Outcome {
    /// The record.
    pub record: Record,
    /// The bytes for the destination.
    pub output: Vec<u8>,
    /// Page requests that were resolved.
    pub resolved: u64,
}

impl From<Record> for Outcome {
    fn from(record: Record) -> Self {
        Outcome { record, output: Vec::new(), resolved: 0 }
    }
}

/// The record of an access that failed.
pub fn fault_record(fault: Fault) -> Record {
    let code = if fault.refused { 0x04 } else { 0x03 };
    Record {
        status: code | if fault.write { 0x80 } else { 0 },
        fault_address: fault.address,
        ..Record::default()
    }
}

/// Carries out a descriptor.
pub fn run(descriptor: &Descriptor, memory: &Memory, max_transfer: u64) -> Outcome {
    if let Some(record) = refusal(descriptor, max_transfer) {
        return record.into();
    }
    if descriptor.opcode == NOOP {
        return Record::status(STATUS_SUCCESS).into();
    }
    let mut resolved = 0;
    let length = descriptor.source_size as usize;
    let read = memory.read(
        descriptor.source,
        length,
        descriptor.block_on_fault(),
        Use::Source,
        &mut resolved,
    );
    let source = match read {
        Ok(source) => source,
        Err(fault) => return fault_record(fault).into(),
    };
    COUNTERS.bytes_in.fetch_add(length as u64, Relaxed);
    let mut outcome = if descriptor.opcode == DECOMPRESS {
        COUNTERS.decompress.fetch_add(1, Relaxed);
        decompress(descriptor, &source)
    } else {
        compress(descriptor, &source, memory, &mut resolved)
    };
    outcome.resolved = resolved;
    outcome
}

/// Checks the fields in the order that this model has chosen.
fn refusal(descriptor: &Descriptor, max_transfer: u64) -> Option<Record> {
    if descriptor.flags & RECORD_VALID != 0 && !descriptor.record.is_multiple_of(64) {
        return Some(Record::status(STATUS_RECORD_ALIGNMENT));
    }
    if ![NOOP, DECOMPRESS, COMPRESS].contains(&descriptor.opcode) {
        return Some(Record::status(STATUS_BAD_OPCODE));
    }
    let unknown = descriptor.flags & !KNOWN_FLAGS;
    if unknown != 0 {
        return Some(Record { invalid_flags: unknown, ..Record::status(STATUS_BAD_FLAGS) });
    }
    if descriptor.flags & INTERRUPT != 0 {
        return Some(Record::status(STATUS_BAD_INTERRUPT));
    }
    if descriptor.opcode == NOOP {
        return None;
    }
    if descriptor.elements != 0 {
        return Some(Record::status(STATUS_RESERVED));
    }
    let uses_aecs = descriptor.flags >> 16 & 0xf != 0;
    let aecs_size = if uses_aecs { descriptor.aecs_size } else { 0 };
    let largest = descriptor.source_size.max(descriptor.destination_size).max(aecs_size);
    if u64::from(largest) > max_transfer {
        return Some(Record::status(STATUS_BAD_SIZE));
    }
    if uses_aecs
        && (!descriptor.aecs.is_multiple_of(32) || !descriptor.aecs_size.is_multiple_of(32))
    {
        return Some(Record::status(STATUS_AECS_ALIGNMENT));
    }
    let suppressed =
        descriptor.opcode == DECOMPRESS && descriptor.detail & DECOMPRESS_SUPPRESS != 0;
    if !suppressed && overlap(descriptor) {
        return Some(Record::status(STATUS_OVERLAP));
    }
    let reads = descriptor.reads_source2();
    if descriptor.opcode == DECOMPRESS {
        if reads != 0 {
            // State carried over from an earlier descriptor is not modelled.
            return Some(Record { invalid_flags: reads << 16, ..Record::status(STATUS_BAD_FLAGS) });
        }
        if descriptor.filter != 0 {
            return Some(Record::status(STATUS_BAD_FILTER));
        }
        if descriptor.detail & !DECOMPRESS_MODELLED != 0
            || descriptor.detail & DECOMPRESS_ENABLE == 0
        {
            return Some(Record::status(STATUS_BAD_DETAIL));
        }
    } else {
        if descriptor.detail & !COMPRESS_MODELLED != 0 || descriptor.filter != 0 {
            return Some(Record::status(STATUS_BAD_DETAIL));
        }
        let needs_table = descriptor.detail & COMPRESS_STATISTICS == 0;
        if needs_table && (reads != 1 || descriptor.aecs_size < COMPRESS_AECS_SIZE) {
            return Some(Record { invalid_flags: 3 << 16, ..Record::status(STATUS_BAD_FLAGS) });
        }
    }
    None
}

fn overlap(descriptor: &Descriptor) -> bool {
    let (source, destination) = (u128::from(descriptor.source), u128::from(descriptor.destination));
    source < destination + u128::from(descriptor.destination_size)
        && destination < source + u128::from(descriptor.source_size)
}

fn decompress(descriptor: &Descriptor, source: &[u8]) -> Outcome {
    let suppress = descriptor.detail & DECOMPRESS_SUPPRESS != 0;
    // Suppressed output has no destination to overflow; the bound keeps a hostile stream from filling the memory.
    let limit = if suppress { 64 << 20 } else { descriptor.destination_size as usize };
    let mut output = Vec::with_capacity(limit.min(1 << 16));
    let inflated = inflate(source, limit, &mut output);
    let record = Record {
        completed: inflated.consumed as u32,
        output_size: output.len() as u32,
        crc: crc32(0, &output, descriptor.flags & CRC32C != 0),
        xor: xor16(0, &output),
        ..Record::default()
    };
    let record = match inflated.end {
        End::Final => Record { status: STATUS_SUCCESS, ..record },
        End::OutOfInput if descriptor.detail & DECOMPRESS_CHECK_END == 0 => {
            Record { status: STATUS_SUCCESS, ..record }
        }
        End::OutOfInput => Record { status: 0x0a, error: Error::BadEndOfStream as u8, ..record },
        End::Overflow => Record { status: STATUS_OVERFLOW, ..record },
        End::Malformed(error) => Record { status: 0x0a, error: error as u8, ..record },
    };
    if suppress {
        output.clear();
    }
    Outcome { record, output, resolved: 0 }
}

fn compress(
    descriptor: &Descriptor,
    source: &[u8],
    memory: &Memory,
    resolved: &mut u64,
) -> Outcome {
    let castagnoli = descriptor.flags & CRC32C != 0;
    let done = |output: Vec<u8>, bits, start: (u32, u16)| Outcome {
        record: Record {
            status: STATUS_SUCCESS,
            completed: source.len() as u32,
            output_size: output.len() as u32,
            output_bits: bits,
            crc: crc32(start.0, source, castagnoli),
            xor: xor16(start.1, source),
            ..Record::default()
        },
        output,
        resolved: 0,
    };
    if descriptor.detail & COMPRESS_STATISTICS != 0 {
        COUNTERS.statistics.fetch_add(1, Relaxed);
        let output: Vec<u8> =
            histogram(source).iter().flat_map(|count| count.to_le_bytes()).collect();
        if output.len() > descriptor.destination_size as usize {
            return Record::error(deflate::Error::DestinationShort as u8).into();
        }
        return done(output, 0, (0, 0));
    }
    COUNTERS.compress.fetch_add(1, Relaxed);
    let size = descriptor.aecs_size as usize;
    let aecs = match memory.read(
        descriptor.aecs,
        size,
        descriptor.block_on_fault(),
        Use::Aecs,
        resolved,
    ) {
        Ok(aecs) => aecs,
        Err(fault) => return fault_record(fault).into(),
    };
    let word = |at: usize| u32::from_le_bytes([aecs[at], aecs[at + 1], aecs[at + 2], aecs[at + 3]]);
    let codes: [u32; LITERAL_CODES] = std::array::from_fn(|symbol| word(0x120 + 4 * symbol));
    let held = (word(0x1c) as usize).min(256 * 8);
    let tail = match descriptor.detail >> 2 & 3 {
        0 => Tail::Nothing,
        1 => Tail::EndOfBlock,
        2 => Tail::EndOfBlockAndStored { last: false },
        _ => Tail::EndOfBlockAndStored { last: true },
    };
    let limit = descriptor.destination_size as usize;
    match encode(source, &codes, &aecs[0x20..0x120], held, tail, limit) {
        Ok((output, bits)) => done(output, bits, (word(0), word(4) as u16)),
        Err(error) => Record::error(error as u8).into(),
    }
}
