//! One RAMBlock: one mapping of guest memory and its received map.
//!
//! Guest memory is never a Rust reference: a device, a peer or the guest may
//! write it at any time. It is reached through raw pointers whose bounds are
//! checked here, and through copies. No copy out touches a page that was never
//! written: its bytes are known to be zero, and reading it would map a page.

use std::{
    ffi::CString,
    fs::File,
    io,
    ops::Range,
    os::fd::{AsFd, FromRawFd, OwnedFd},
    ptr::NonNull,
    sync::OnceLock,
};

use super::{
    guard::WriteGuards,
    map::{MapError, ReceivedMap, WORD_PAGES},
    mapping::{HUGE_PAGE, Mapping, resident_pages},
    placement::{huge::Regions, way::WayCell},
};
use crate::wire::PAGE_SIZE;

/// Why a RAMBlock could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The length is no number of pages that a block can have.
    #[error(
        "RAMBlock {name:?} cannot be {length:#x} bytes long: \
         it takes whole 4 KiB pages, from 1 to {:#x} of them",
        u32::MAX
    )]
    Length {
        /// Name of the block.
        name: String,
        /// Length asked for, in bytes.
        length: u64,
    },
    /// A caller's memory does not start on a page, or wraps around.
    #[error(
        "memory at {address:#x} cannot be RAMBlock {name:?}: \
         it must start at a multiple of 4096 and end below the top of the address space"
    )]
    Address {
        /// Name of the block.
        name: String,
        /// Address given.
        address: usize,
    },
    /// Memory could not be mapped.
    #[error("cannot map {length:#x} bytes for RAMBlock {name:?}: {source}")]
    Map {
        /// Name of the block.
        name: String,
        /// Length asked for, in bytes.
        length: u64,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel does not say which pages are resident.
    #[error("cannot tell which pages of RAMBlock {name:?} are resident: {source}")]
    Residency {
        /// Name of the block.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A page or a range lies outside the block.
    #[error("RAMBlock {name:?}: {source}")]
    OutOfBounds {
        /// Name of the block.
        name: String,
        /// What was asked for.
        source: MapError,
    },
}

/// What a caller's memory holds at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Initial {
    /// Every byte reads as zero; the owner of the memory says so.
    KnownZero,
    /// Anything: every page counts as written from the start.
    Unknown,
}

/// Whose memory a block is.
#[derive(Debug)]
enum Memory {
    Anonymous(Mapping),
    Memfd(Mapping, File),
    Caller(NonNull<u8>, Initial),
}

// SAFETY: the only member that is not Send by itself is the caller's address,
// and `from_raw` demands memory that any thread may use.
unsafe impl Send for Memory {}
// SAFETY: as for Send; access to the memory is kept apart by the write guards.
unsafe impl Sync for Memory {}

/// One RAMBlock of the guest. Share it as `Arc<RamBlock>`.
#[derive(Debug)]
pub struct RamBlock {
    name: String,
    pages: u32,
    memory: Memory,
    map: ReceivedMap,
    guards: WriteGuards,
    pub(super) way: WayCell,
    pub(super) regions: OnceLock<Regions>,
}

impl RamBlock {
    /// A block in fresh private memory. Nothing is reserved or populated: the
    /// block takes memory only for pages that are written.
    pub fn anonymous(name: impl Into<String>, length: u64) -> Result<Self, BlockError> {
        let name = name.into();
        let pages = page_count(&name, length)?;
        // Aligned, so that huge pages fit where they are wanted.
        let align = if length >= HUGE_PAGE as u64 { HUGE_PAGE } else { PAGE_SIZE };
        match Mapping::new(pages as usize * PAGE_SIZE, align, None) {
            Ok(mapping) => Self::new(name, pages, Memory::Anonymous(mapping)),
            Err(source) => Err(BlockError::Map { name, length, source }),
        }
    }

    /// A block in a memory file, which can be shared with another process.
    pub fn memfd(name: impl Into<String>, length: u64) -> Result<Self, BlockError> {
        let name = name.into();
        let pages = page_count(&name, length)?;
        match map_memfd(&name, length) {
            Ok((mapping, file)) => Self::new(name, pages, Memory::Memfd(mapping, file)),
            Err(source) => Err(BlockError::Map { name, length, source }),
        }
    }

    /// A block in memory that the caller mapped.
    ///
    /// # Safety
    ///
    /// * `length` bytes from `address` on are mapped readable and writable for
    ///   as long as the block lives, and any thread may access them.
    /// * No Rust reference to them exists meanwhile.
    /// * With [`Initial::KnownZero`] they all read as zero now and nobody else
    ///   writes them before the block is dropped. Content is wrong otherwise.
    pub unsafe fn from_raw(
        name: impl Into<String>,
        address: *mut u8,
        length: u64,
        initial: Initial,
    ) -> Result<Self, BlockError> {
        let name = name.into();
        let pages = page_count(&name, length)?;
        let end = (address.addr() as u64).checked_add(length);
        match NonNull::new(address) {
            Some(start) if address.addr().is_multiple_of(PAGE_SIZE) && end.is_some() => {
                Self::new(name, pages, Memory::Caller(start, initial))
            }
            _ => Err(BlockError::Address { name, address: address.addr() }),
        }
    }

    fn new(name: String, pages: u32, memory: Memory) -> Result<Self, BlockError> {
        let start = memory.start().as_ptr().addr();
        let map = match ReceivedMap::new(start, pages) {
            Ok(map) => map,
            Err(source) => {
                let length = u64::from(pages) * PAGE_SIZE as u64;
                return Err(BlockError::Map { name, length, source });
            }
        };
        if matches!(memory, Memory::Caller(_, Initial::Unknown)) {
            map.mark_all_written();
        }
        let guards = WriteGuards::new(pages.div_ceil(WORD_PAGES));
        let (way, regions) = (WayCell::default(), OnceLock::new());
        Ok(Self { name, pages, memory, map, guards, way, regions })
    }

    /// The name the source gave it, such as `pc.ram`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Length in bytes.
    pub fn used_length(&self) -> u64 {
        u64::from(self.pages) * PAGE_SIZE as u64
    }

    /// Length in 4 KiB pages.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// What has arrived and what was written.
    pub fn map(&self) -> &ReceivedMap {
        &self.map
    }

    /// First byte. Reading a page that was never written maps it, and before
    /// [`Placement::detach`](super::Placement::detach) may wait for ever; use
    /// [`read_at`](Self::read_at) or stay within
    /// [`written_runs`](ReceivedMap::written_runs).
    pub fn as_ptr(&self) -> *mut u8 {
        self.memory.start().as_ptr()
    }

    /// The memory file of a block made by [`memfd`](Self::memfd).
    pub fn memory_file(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        match &self.memory {
            Memory::Memfd(_, file) => Some(file.as_fd()),
            _ => None,
        }
    }

    /// Address of a page's 4096 bytes; see [`as_ptr`](Self::as_ptr).
    pub fn page_ptr(&self, page: u32) -> Result<*mut u8, BlockError> {
        self.check_range(page.into(), u64::from(page) + 1)?;
        Ok(self.page(page))
    }

    /// Copies a page out without touching memory that was never written.
    ///
    /// The page must be quiet: no landing and no zero page for it under way.
    pub fn read_page(&self, page: u32, out: &mut [u8; PAGE_SIZE]) -> Result<(), BlockError> {
        self.read_at(u64::from(page) * PAGE_SIZE as u64, out)
    }

    /// Copies any bytes out without touching memory that was never written.
    ///
    /// The pages must be quiet: no landing and no zero page for them under way.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), BlockError> {
        let end = offset.saturating_add(out.len() as u64);
        self.check_range(offset / PAGE_SIZE as u64, end.div_ceil(PAGE_SIZE as u64))?;
        let mut offset = offset as usize;
        let mut rest = out;
        while !rest.is_empty() {
            let left_of_page = PAGE_SIZE - offset % PAGE_SIZE;
            let (part, behind) = rest.split_at_mut(left_of_page.min(rest.len()));
            if self.map.is_written((offset / PAGE_SIZE) as u32) {
                // SAFETY: `check_range` has found `offset + part.len()` inside
                // the block, and `part` is memory of our own.
                unsafe {
                    self.as_ptr().add(offset).copy_to_nonoverlapping(part.as_mut_ptr(), part.len());
                }
            } else {
                part.fill(0);
            }
            offset += part.len();
            rest = behind;
        }
        Ok(())
    }

    /// Bytes of the block that are in memory now.
    pub fn resident_bytes(&self) -> Result<u64, BlockError> {
        match resident_pages(self.as_ptr(), self.pages as usize) {
            Ok(pages) => Ok(pages * PAGE_SIZE as u64),
            Err(source) => Err(BlockError::Residency { name: self.name.clone(), source }),
        }
    }

    pub(super) fn guards(&self) -> &WriteGuards {
        &self.guards
    }

    /// Address of a page that was checked before.
    pub(super) fn page(&self, page: u32) -> *mut u8 {
        debug_assert!(page < self.pages);
        self.as_ptr().wrapping_add(page as usize * PAGE_SIZE)
    }

    /// Whether this is private memory of our own, which may be given back.
    pub(super) fn is_anonymous(&self) -> bool {
        matches!(self.memory, Memory::Anonymous(_))
    }

    /// What a caller said about its memory.
    pub(super) fn callers_memory(&self) -> Option<Initial> {
        match self.memory {
            Memory::Caller(_, initial) => Some(initial),
            _ => None,
        }
    }

    /// Advice for the whole of our own private memory.
    pub(super) fn advise_huge(&self, huge: bool) {
        if let Memory::Anonymous(mapping) = &self.memory {
            mapping.advise_huge(huge);
        }
    }

    /// Stores pages from `source`.
    ///
    /// # Safety
    ///
    /// `pages` lie in the block and their guards are held; `source` is readable
    /// for as many pages and no part of the block.
    pub(super) unsafe fn store(&self, pages: Range<u32>, source: *const u8) {
        let len = pages.len() * PAGE_SIZE;
        // SAFETY: as the caller promises; the block's memory is mapped
        // writable as long as it lives.
        unsafe { self.page(pages.start).copy_from_nonoverlapping(source, len) };
    }

    /// Stores zero bytes.
    ///
    /// # Safety
    ///
    /// `pages` lie in the block and their guards are held.
    pub(super) unsafe fn store_zero(&self, pages: Range<u32>) {
        let len = pages.len() * PAGE_SIZE;
        // SAFETY: as for `store`.
        unsafe { self.page(pages.start).write_bytes(0, len) };
    }

    fn check_range(&self, first: u64, end: u64) -> Result<(), BlockError> {
        if first < u64::from(self.pages) && end <= u64::from(self.pages) {
            return Ok(());
        }
        let page = first.max(end.saturating_sub(1));
        let source = MapError::OutOfBounds { page, pages: self.pages };
        Err(BlockError::OutOfBounds { name: self.name.clone(), source })
    }
}

impl Memory {
    fn start(&self) -> NonNull<u8> {
        match self {
            Self::Anonymous(mapping) | Self::Memfd(mapping, _) => mapping.start(),
            Self::Caller(start, _) => *start,
        }
    }
}

fn page_count(name: &str, length: u64) -> Result<u32, BlockError> {
    match u32::try_from(length / PAGE_SIZE as u64) {
        Ok(pages) if pages > 0 && length.is_multiple_of(PAGE_SIZE as u64) => Ok(pages),
        _ => Err(BlockError::Length { name: name.to_owned(), length }),
    }
}

fn map_memfd(name: &str, length: u64) -> io::Result<(Mapping, File)> {
    // The name is for /proc only: at most 249 bytes, none of them zero.
    let label: Vec<u8> = name.bytes().filter(|&byte| byte != 0).take(200).collect();
    let label = CString::new(label)?;
    // SAFETY: `label` is a C string that outlives the call.
    let fd = unsafe { libc::memfd_create(label.as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just opened and belongs to nobody else.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.set_len(length)?;
    let mapping = Mapping::new(length as usize, PAGE_SIZE, Some(file.as_fd()))?;
    Ok((mapping, file))
}
