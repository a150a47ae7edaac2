//! The bodies of RAM sections: the list of RAMBlocks and the records.
//!
//! ```text
//!  record    u64: offset in the RAMBlock | flags in the low 12 bits, then
//!    002 ZERO   [block] u8 fill = 0        008 PAGE   [block] 4096 bytes
//!    004 MEM_SIZE  block list, the offset is the sum of all lengths
//!    200 FLUSH  nothing                    010 EOS    nothing, ends the body
//!  [block]   u8 len, name; absent under 020 CONTINUE: the RAMBlock of the ZERO
//!            or PAGE before, even if that was in an earlier section
//!  list      u8 len, name, u64 length [u64 host page size] [u64 guest address]
//! ```

use std::collections::HashMap;

use super::cursor::{Cursor, Stop};
use super::{BlockInfo, Limits, MainError, SectionKind};
use crate::wire::{MAX_BLOCK_LEN, PAGE_SIZE};

const ZERO: u64 = 0x002;
const MEM_SIZE: u64 = 0x004;
const PAGE: u64 = 0x008;
const EOS: u64 = 0x010;
const CONTINUE: u64 = 0x020;
const FLUSH: u64 = 0x200;
const FLAGS: u64 = 0xfff;

const PAGE_BYTES: u64 = PAGE_SIZE as u64;

/// Host page sizes above 4 KiB begin here on x86-64.
const SMALLEST_HUGE_PAGE: u64 = 2 << 20;

/// Bytes of a ZERO record that continues a RAMBlock.
pub(super) const CONTINUED_ZERO_LEN: usize = 9;

/// One record of a RAM section.
#[derive(Debug)]
pub(super) enum Record<'a> {
    /// The list of RAMBlocks begins; so many bytes in all.
    BlockList(u64),
    Zero {
        block: usize,
        page: u32,
    },
    Page {
        block: usize,
        page: u32,
        data: &'a [u8; PAGE_SIZE],
    },
    Flush,
    Eos,
}

/// What is known of the guest's RAM.
#[derive(Debug, Default)]
pub(super) struct Ram {
    blocks: Vec<BlockInfo>,
    index: HashMap<String, usize>,
    /// RAMBlock of the last ZERO or PAGE record.
    current: usize,
    /// Its pages; 0 as long as there was no such record.
    current_pages: u64,
    ignore_shared: bool,
    /// The OR of all host page sizes, if the source might tell them.
    host_page_sizes: Option<u64>,
    started: bool,
    ended: bool,
}

impl Ram {
    pub(super) fn set_ignore_shared(&mut self, on: bool) {
        self.ignore_shared = on;
    }

    pub(super) fn set_host_page_sizes(&mut self, sizes: u64) {
        self.host_page_sizes = Some(sizes);
    }

    pub(super) fn blocks(&self) -> &[BlockInfo] {
        &self.blocks
    }

    pub(super) fn start(&mut self) {
        self.started = true;
    }

    pub(super) fn section_over(&mut self, section: SectionKind) {
        self.ended |= section == SectionKind::End;
    }

    pub(super) fn started(&self) -> bool {
        self.started
    }

    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// Recognises a good ZERO record that continues a RAMBlock, by far the most
    /// frequent one. Everything else is left to [`record`](Self::record).
    #[inline]
    pub(super) fn continued_zero(&self, input: &[u8]) -> Option<(usize, u32)> {
        let &[ref word @ .., fill] = input.first_chunk::<CONTINUED_ZERO_LEN>()?;
        let word = u64::from_be_bytes(*word);
        let page = word / PAGE_BYTES;
        let good = word & FLAGS == ZERO | CONTINUE && page < self.current_pages && fill == 0;
        // No RAMBlock has more pages than 32 bits count.
        good.then_some((self.current, page as u32))
    }

    /// Reads the next record.
    pub(super) fn record<'a>(
        &mut self,
        cursor: &mut Cursor<'a>,
        section: SectionKind,
        limits: &Limits,
    ) -> Result<Record<'a>, Stop> {
        let word = cursor.u64()?;
        let (offset, flags) = (word & !FLAGS, word & FLAGS);
        if flags == MEM_SIZE {
            return self.block_list(offset, section, limits).map_err(Stop::from);
        }
        if self.blocks.is_empty() {
            return Err(MainError::NoBlockList.into());
        }
        match flags & !CONTINUE {
            ZERO => {
                let (block, page) = self.place(cursor, word)?;
                let fill = cursor.u8()?;
                if fill != 0 {
                    return Err(MainError::Fill(fill).into());
                }
                self.remember(block);
                Ok(Record::Zero { block, page })
            }
            PAGE => {
                let (block, page) = self.place(cursor, word)?;
                let data = cursor.array()?;
                self.remember(block);
                Ok(Record::Page { block, page, data })
            }
            _ if word == FLUSH => Ok(Record::Flush),
            _ if word == EOS => Ok(Record::Eos),
            _ => Err(refused_record(word).into()),
        }
    }

    /// Reads the RAMBlock of a ZERO or PAGE record and checks the page. Changes
    /// nothing: the record may not be complete.
    fn place(&self, cursor: &mut Cursor<'_>, word: u64) -> Result<(usize, u32), Stop> {
        let block = if word & CONTINUE == 0 {
            let name = cursor.name()?;
            *self.index.get(name).ok_or_else(|| MainError::UnknownBlock(name.to_owned()))?
        } else if self.current_pages > 0 {
            self.current
        } else {
            return Err(MainError::NothingToContinue.into());
        };
        let info = &self.blocks[block];
        let page = word / PAGE_BYTES;
        match u32::try_from(page) {
            Ok(index) if page < info.pages() => Ok((block, index)),
            _ => Err(MainError::OutOfBlock {
                name: info.name.clone(),
                offset: word & !FLAGS,
                len: info.used_length,
            }
            .into()),
        }
    }

    fn remember(&mut self, block: usize) {
        if block != self.current || self.current_pages == 0 {
            self.current = block;
            self.current_pages = self.blocks[block].pages();
        }
    }

    fn block_list<'a>(
        &self,
        total: u64,
        section: SectionKind,
        limits: &Limits,
    ) -> Result<Record<'a>, MainError> {
        if section != SectionKind::Start || !self.blocks.is_empty() {
            return Err(MainError::BlockListAgain);
        }
        if total == 0 {
            return Err(MainError::NoBlockList);
        }
        if total > limits.max_ram {
            return Err(MainError::TooMuchRam { total, limit: limits.max_ram });
        }
        Ok(Record::BlockList(total))
    }

    /// Reads one entry of the list, in which RAMBlocks of `left` bytes in all
    /// are to come.
    pub(super) fn list_block(
        &mut self,
        cursor: &mut Cursor<'_>,
        left: u64,
        limits: &Limits,
    ) -> Result<BlockInfo, Stop> {
        if self.blocks.len() >= limits.max_blocks {
            return Err(MainError::TooManyBlocks(limits.max_blocks).into());
        }
        let name = cursor.name()?;
        let used_length = cursor.u64()?;
        if used_length == 0
            || !used_length.is_multiple_of(PAGE_BYTES)
            || used_length > left.min(MAX_BLOCK_LEN)
        {
            let name = name.to_owned();
            return Err(MainError::BlockLength { name, len: used_length, left }.into());
        }
        if self.index.contains_key(name) {
            return Err(MainError::BlockAgain(name.to_owned()).into());
        }
        let last = used_length == left;
        let host_page_size = self.host_page_size(cursor, name, last)?;
        let guest_address = if self.ignore_shared { Some(cursor.u64()?) } else { None };

        let info = BlockInfo { name: name.to_owned(), used_length, host_page_size, guest_address };
        self.index.insert(info.name.clone(), self.blocks.len());
        self.blocks.push(info.clone());
        Ok(info)
    }

    /// Under postcopy the host page size follows, but only for RAMBlocks with
    /// huge pages, and nothing says for which. A page size begins with a zero
    /// byte, which a name's length never is; and it is larger than the record
    /// that follows the last entry.
    fn host_page_size(
        &self,
        cursor: &mut Cursor<'_>,
        name: &str,
        last: bool,
    ) -> Result<Option<u64>, Stop> {
        let Some(sizes) = self.host_page_sizes else {
            return Ok(None);
        };
        if sizes == PAGE_BYTES {
            return Ok(None);
        }
        let mut first = *cursor;
        if first.u8()? != 0 {
            return Ok(None);
        }
        let mut field = *cursor;
        let size = field.u64()?;
        if last && size < PAGE_BYTES {
            return Ok(None);
        }
        let possible = size.is_power_of_two() && size >= SMALLEST_HUGE_PAGE && sizes & size == size;
        if !possible {
            return Err(MainError::HostPageSize { name: name.to_owned(), size }.into());
        }
        *cursor = field;
        Ok(Some(size))
    }
}

/// Names the feature a record belongs to, if there is one.
fn refused_record(word: u64) -> MainError {
    match word & FLAGS & !CONTINUE {
        0x001 => MainError::RefusedRecord("FULL (obsolete)"),
        0x040 => MainError::RefusedRecord("XBZRLE"),
        0x080 => MainError::RefusedRecord("HOOK (RDMA)"),
        0x100 => MainError::RefusedRecord("COMPRESS_PAGE"),
        _ => MainError::Record(word),
    }
}
