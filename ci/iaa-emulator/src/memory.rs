//! The device's way into the process: reads and writes that can fail, and what each costs in translations and faults.
//!
//! A device with shared virtual memory uses the process's own page tables. A page that is not there is asked of the
//! kernel by a page request when the descriptor allows it (block on fault), and reported as an error when it does not.
//! Here every page is looked up in /proc/self/pagemap before it is used, and:
//!
//! - a read faults when the page is not present;
//! - a write faults when the page is not present, or is an anonymous page that is not mapped exclusively (the shared zero
//!   page, or a page to be copied on write), or is write-protected by userfaultfd.
//!
//! A fault is resolved through /proc/self/mem, because the kernel handles a fault of that access as it handles a page
//! request of a device: for another context and without leave to wait. So a page that is missing under userfaultfd stays
//! missing, and the answer is "invalid". (/proc/self/mem also overrides protections, which a device does not; that is why
//! the mapping's rights are looked up first.) Accesses to pages that are there use process_vm_readv and
//! process_vm_writev: a wild address is an error, never a crash.

use std::collections::HashMap;
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};

use crate::counters::{COUNTERS, Counters};

/// Bytes of a page.
pub const PAGE: u64 = 4096;

const PRESENT: u64 = 1 << 63;
const FILE: u64 = 1 << 61;
const WRITE_PROTECTED: u64 = 1 << 57;
const EXCLUSIVE: u64 = 1 << 56;
const FRAME: u64 = (1 << 55) - 1;

/// What a page is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Source 1.
    Source,
    /// The destination.
    Destination,
    /// The completion record.
    Record,
    /// The analytics engine's configuration and state.
    Aecs,
}

/// An access that could not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The first byte that could not be reached.
    pub address: u64,
    /// Whether it was to be written.
    pub write: bool,
    /// Whether the kernel was asked for the page and refused it.
    pub refused: bool,
}

/// The memory of this process as the device sees it.
pub struct Memory {
    pagemap: File,
    mem: File,
    /// For each page that was used the frame it had then; 0 where the kernel does not tell.
    translations: Mutex<HashMap<u64, u64>>,
}

impl Memory {
    /// Opens the process's own view of its page tables.
    pub fn open() -> io::Result<Self> {
        Ok(Memory {
            pagemap: File::open("/proc/self/pagemap")?,
            mem: File::options().read(true).write(true).open("/proc/self/mem")?,
            translations: Mutex::new(HashMap::new()),
        })
    }

    /// Reads `length` bytes. `resolved` counts the faults on the way.
    pub fn read(
        &self,
        address: u64,
        length: usize,
        block_on_fault: bool,
        usage: Use,
        resolved: &mut u64,
    ) -> Result<Vec<u8>, Fault> {
        let fault = |address, refused| Fault { address, write: false, refused };
        let mut bytes = vec![0; length];
        for (start, part) in parts(address, length) {
            let (present, frame) = self.look_up(start, false);
            if !present {
                count_fault(usage);
                if !block_on_fault {
                    return Err(fault(start, false));
                }
                if !allows(start, false) || self.mem.read_at(&mut [0], start).unwrap_or(0) != 1 {
                    return Err(fault(start, true));
                }
                COUNTERS.io_page_faults_resolved.fetch_add(1, Relaxed);
                *resolved += 1;
            }
            self.note(start / PAGE, present.then_some(frame));
            let range = (start - address) as usize..(start - address) as usize + part;
            if !copy_from(start, &mut bytes[range]) {
                return Err(fault(start, block_on_fault));
            }
        }
        Ok(bytes)
    }

    /// Writes `bytes` in order.
    pub fn write(
        &self,
        address: u64,
        bytes: &[u8],
        block_on_fault: bool,
        usage: Use,
        resolved: &mut u64,
    ) -> Result<(), Fault> {
        for (start, part) in parts(address, bytes.len()) {
            let from = (start - address) as usize;
            let piece = &bytes[from..from + part];
            let (present, frame) = self.look_up(start, true);
            if present {
                if !copy_to(start, piece) {
                    count_fault(usage);
                    return Err(Fault { address: start, write: true, refused: block_on_fault });
                }
            } else {
                count_fault(usage);
                if !block_on_fault {
                    return Err(Fault { address: start, write: true, refused: false });
                }
                if !allows(start, true) || self.mem.write_all_at(piece, start).is_err() {
                    return Err(Fault { address: start, write: true, refused: true });
                }
                mark_written(start, part);
                COUNTERS.io_page_faults_resolved.fetch_add(1, Relaxed);
                *resolved += 1;
            }
            self.note(start / PAGE, present.then_some(frame));
        }
        Ok(())
    }

    /// Stores a completion record so that its first byte, the status, is seen last.
    pub fn complete(
        &self,
        address: u64,
        record: &[u8; 64],
        block_on_fault: bool,
    ) -> Result<(), Fault> {
        let mut resolved = 0;
        // The rest first: it also makes the page present when it was not.
        self.write(
            address.wrapping_add(1),
            &record[1..],
            block_on_fault,
            Use::Record,
            &mut resolved,
        )?;
        if copy_to(address, &record[..1]) {
            Ok(())
        } else {
            Err(Fault { address, write: true, refused: block_on_fault })
        }
    }

    /// Reads what a device may that a program may not: a page mapped for writing only. Safe to call in a signal handler.
    pub fn peek(&self, address: u64, into: &mut [u8]) -> bool {
        self.mem.read_at(into, address).is_ok_and(|read| read == into.len())
    }

    fn entry(&self, page: u64) -> u64 {
        let mut entry = [0; 8];
        match page.checked_mul(8).map(|offset| self.pagemap.read_exact_at(&mut entry, offset)) {
            Some(Ok(())) => u64::from_ne_bytes(entry),
            _ => 0,
        }
    }

    /// Whether a page is there for a read or a write, and its frame.
    fn look_up(&self, address: u64, write: bool) -> (bool, u64) {
        let entry = self.entry(address / PAGE);
        let writable = entry & WRITE_PROTECTED == 0 && entry & (FILE | EXCLUSIVE) != 0;
        (entry & PRESENT != 0 && (!write || writable), entry & FRAME)
    }

    /// Remembers the translation of a page that was just used: its frame, or nothing when it had to be fetched. One that
    /// was used before and had to be fetched, or has another frame, has been taken away in between.
    fn note(&self, page: u64, present: Option<u64>) {
        let frame = present.unwrap_or_else(|| self.entry(page) & FRAME);
        let old =
            self.translations.lock().unwrap_or_else(PoisonError::into_inner).insert(page, frame);
        match old {
            None => COUNTERS.translations.fetch_add(1, Relaxed),
            Some(old) if old != frame || present.is_none() => {
                COUNTERS.translations_changed.fetch_add(1, Relaxed)
            }
            Some(_) => 0,
        };
    }

    /// Forgets the translations, for counters that start anew.
    pub fn forget(&self) {
        self.translations.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn count_fault(usage: Use) {
    let Counters { faults_source, faults_destination, faults_record, faults_aecs, .. } = &COUNTERS;
    let of_use = match usage {
        Use::Source => faults_source,
        Use::Destination => faults_destination,
        Use::Record => faults_record,
        Use::Aecs => faults_aecs,
    };
    of_use.fetch_add(1, Relaxed);
    COUNTERS.io_page_faults.fetch_add(1, Relaxed);
}

/// Cuts a range at the page borders: start and length of each part. A range that wraps around ends at the top.
fn parts(address: u64, length: usize) -> impl Iterator<Item = (u64, usize)> {
    let mut left = length;
    let mut start = Some(address);
    std::iter::from_fn(move || {
        let at = start?;
        let part = left.min((PAGE - at % PAGE) as usize);
        if part == 0 {
            return None;
        }
        left -= part;
        start = at.checked_add(part as u64);
        Some((at, part))
    })
}

/// Reads this process's memory; false when a byte of it is not there. Safe to call in a signal handler.
pub fn copy_from(address: u64, into: &mut [u8]) -> bool {
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let remote = libc::iovec { iov_base: address as *mut c_void, iov_len: into.len() };
    // SAFETY: `local` is the exclusively borrowed slice `into`; `remote` is only a number to the kernel, which answers
    // with an error when it does not name readable memory. Both arrays have the one element that is stated.
    let done = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
    done == into.len() as isize
}

/// Writes this process's memory; false when a byte of it could not be written.
fn copy_to(address: u64, bytes: &[u8]) -> bool {
    let local = libc::iovec { iov_base: bytes.as_ptr() as *mut c_void, iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: address as *mut c_void, iov_len: bytes.len() };
    // SAFETY: the kernel only reads `local`, which is a borrowed slice. `remote` is memory that the client of the device
    // handed over with a descriptor; as with a real device it is the client's duty that nothing else lives there. An
    // address that is not writable memory is an error.
    let done = unsafe { libc::process_vm_writev(libc::getpid(), &local, 1, &remote, 1, 0) };
    mark_written(address, done.max(0) as usize);
    done == bytes.len() as isize
}

/// Tells valgrind's memcheck, when the process runs under it, that a range now has a value: it does not see what the
/// kernel writes on behalf of the device. Without valgrind it is a few instructions that change nothing.
fn mark_written(address: u64, length: usize) {
    const MAKE_MEM_DEFINED: u64 = 0x4d43_0002;
    let request = [MAKE_MEM_DEFINED, address, length as u64, 0, 0, 0];
    // SAFETY: valgrind's documented marker. On a processor the rotations add up to none and the exchange is of a register
    // with itself; valgrind reads the array, which lives until then, and stores an answer in rdx.
    unsafe {
        std::arch::asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") request.as_ptr(),
            inout("rdx") 0u64 => _,
            options(nostack),
        );
    }
}

/// Whether the address lies in a mapping that may be read, or written.
fn allows(address: u64, write: bool) -> bool {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return false };
    maps.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (Some(range), Some(rights)) = (fields.next(), fields.next()) else { return false };
        let Some((from, to)) = range.split_once('-') else { return false };
        let (Ok(from), Ok(to)) = (u64::from_str_radix(from, 16), u64::from_str_radix(to, 16))
        else {
            return false;
        };
        (from..to).contains(&address) && rights.as_bytes()[usize::from(write)] != b'-'
    })
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
