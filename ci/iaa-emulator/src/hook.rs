//! Stands in for the kernel where libqpl writes descriptors to a work queue's node.
//!
//! A pipe can refuse a write because it is full, but it cannot refuse one in a hundred, count refusals, or know that the
//! writer is another process. So the slot of libqpl's import table that leads to write(2) is pointed at a function here,
//! which passes on every write that is not to a node. The code of libqpl is not changed. libqpl is known by a name that it
//! must hold to look for queues, so it may be called anything and may be linked into a program, whose other writes then
//! pass through here as well.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicUsize};

use crate::counters::COUNTERS;
use crate::descriptor::SIZE;
use crate::machine;
use crate::queue::Declined;

const DT_NULL: i64 = 0;
const DT_PLTRELSZ: i64 = 2;
const DT_STRTAB: i64 = 5;
const DT_SYMTAB: i64 = 6;
const DT_RELA: i64 = 7;
const DT_RELASZ: i64 = 8;
const DT_JMPREL: i64 = 23;
const R_GLOB_DAT: u64 = 6;
const R_JUMP_SLOT: u64 = 7;

static INSTALLED: AtomicBool = AtomicBool::new(false);

/// What every copy of libqpl has among its constants, and else only a libaccel-config.
const MARK: &CStr = c"accfg_wq_get_user_dev_path";

/// Points the import of write(2) of every module that holds libqpl at `write` below. Once done, a later call does nothing.
/// False when there was none; what it writes then goes to the pipe as it is.
pub fn install() -> bool {
    if INSTALLED.swap(true, Relaxed) {
        return true;
    }
    let mut found = 0usize;
    // SAFETY: the callback has the signature that the loader calls and `found` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut found).cast()) };
    INSTALLED.store(found != 0, Relaxed);
    found != 0
}

unsafe extern "C" fn visit(
    info: *mut libc::dl_phdr_info,
    _size: usize,
    found: *mut c_void,
) -> c_int {
    // SAFETY: the loader passes a valid module description, and `found` is the number that `install` passed.
    let (info, found) = unsafe { (&*info, &mut *found.cast::<usize>()) };
    // SAFETY: the description is of a loaded module, which stays loaded: the loader holds its lock in here, and a program
    // that uses libqpl does not unload it while it is starting a device.
    unsafe {
        if holds_libqpl(info) {
            *found += patch(info);
        }
    }
    0
}

/// Whether a module has the mark of libqpl, and is neither this library nor the real one that this stands in for.
///
/// # Safety
///
/// `info` must describe a loaded module.
unsafe fn holds_libqpl(info: &libc::dl_phdr_info) -> bool {
    if !info.dlpi_name.is_null() {
        // SAFETY: a module's name that is not null is a NUL-terminated string of the loader's.
        let name = unsafe { CStr::from_ptr(info.dlpi_name) }.to_string_lossy();
        if name.rsplit('/').next().is_some_and(|file| file.starts_with("libaccel-config")) {
            return false;
        }
    }
    let base = info.dlpi_addr as usize;
    // SAFETY: the loader's own table of program headers and its length.
    let headers =
        unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let loaded = || headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
    let range = |header: &libc::Elf64_Phdr| {
        let start = base + header.p_vaddr as usize;
        start..start + header.p_filesz as usize
    };
    let own = write as *const () as usize;
    if loaded().any(|header| range(header).contains(&own)) {
        return false;
    }
    let constants =
        loaded().filter(|header| header.p_flags & (libc::PF_R | libc::PF_W) == libc::PF_R);
    constants.map(range).any(|range| {
        let mark = MARK.to_bytes_with_nul();
        // SAFETY: a segment that the loader has mapped for reading, and a constant; neither is changed by anyone.
        let at = unsafe {
            libc::memmem(
                range.start as *const c_void,
                range.len(),
                mark.as_ptr().cast(),
                mark.len(),
            )
        };
        !at.is_null()
    })
}

/// Patches one module and tells how many slots there were.
///
/// # Safety
///
/// `info` must describe a loaded x86-64 module.
unsafe fn patch(info: &libc::dl_phdr_info) -> usize {
    let base = info.dlpi_addr as usize;
    // SAFETY: the loader's own table of program headers and its length.
    let headers =
        unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let Some(dynamic) = headers.iter().find(|header| header.p_type == libc::PT_DYNAMIC) else {
        return 0;
    };
    let sealed = headers.iter().find(|header| header.p_type == libc::PT_GNU_RELRO);
    let (mut strings, mut symbols) = (0, 0);
    let (mut rela, mut rela_size, mut jump, mut jump_size) = (0, 0, 0, 0);
    let mut entry = (base + dynamic.p_vaddr as usize) as *const [i64; 2];
    loop {
        // SAFETY: the dynamic section is an array of pairs that ends with DT_NULL, and the loop stops there.
        let [tag, value] = unsafe { entry.read() };
        let value = value as usize;
        // glibc has made the addresses absolute, save in modules whose dynamic section is read-only.
        let address = if value < base { base + value } else { value };
        match tag {
            DT_NULL => break,
            DT_STRTAB => strings = address,
            DT_SYMTAB => symbols = address,
            DT_RELA => rela = address,
            DT_RELASZ => rela_size = value,
            DT_JMPREL => jump = address,
            DT_PLTRELSZ => jump_size = value,
            _ => {}
        }
        // SAFETY: DT_NULL has not been reached, so there is another entry.
        entry = unsafe { entry.add(1) };
    }
    let mut found = 0;
    for (table, size) in [(rela, rela_size), (jump, jump_size)] {
        for index in 0..if table == 0 { 0 } else { size / size_of::<libc::Elf64_Rela>() } {
            // SAFETY: within the relocation table by the size that the module states.
            let relocation = unsafe { (table as *const libc::Elf64_Rela).add(index).read() };
            if ![R_GLOB_DAT, R_JUMP_SLOT].contains(&(relocation.r_info & 0xffff_ffff)) {
                continue;
            }
            let symbol = (relocation.r_info >> 32) as usize;
            // SAFETY: relocations name symbols of the module's table, and symbols name NUL-terminated strings of its
            // string table.
            let name = unsafe {
                let symbol = (symbols as *const libc::Elf64_Sym).add(symbol);
                CStr::from_ptr((strings + (*symbol).st_name as usize) as *const c_char)
            };
            if name != c"write" {
                continue;
            }
            let slot = base + relocation.r_offset as usize;
            let in_sealed = sealed.is_some_and(|header| {
                let start = base + header.p_vaddr as usize;
                (start..start + header.p_memsz as usize).contains(&slot)
            });
            // SAFETY: the slot is a pointer of the module's import table, by its relocation.
            found += usize::from(unsafe { redirect(slot as *mut usize, in_sealed) });
        }
    }
    found
}

/// Points a slot at `write`.
///
/// # Safety
///
/// `slot` must be a pointer of a loaded module's import table that leads to write(2).
unsafe fn redirect(slot: *mut usize, sealed: bool) -> bool {
    let page = (slot as usize & !4095) as *mut c_void;
    // SAFETY: a page of the module's data; making it writable takes nothing from anyone.
    if sealed && unsafe { libc::mprotect(page, 4096, libc::PROT_READ | libc::PROT_WRITE) } != 0 {
        return false;
    }
    // SAFETY: aligned and writable by now; other threads read it as one word.
    let slot = unsafe { AtomicUsize::from_ptr(slot) };
    let own = write as *const () as usize;
    if slot.load(Acquire) != own {
        slot.store(own, Release);
    }
    if sealed {
        // SAFETY: as above; this gives back the protection that the loader had set.
        unsafe { libc::mprotect(page, 4096, libc::PROT_READ) };
    }
    true
}

/// write(2), save that a write to a work queue's node is a submission.
unsafe extern "C" fn write(fd: c_int, buffer: *const c_void, length: usize) -> isize {
    // A panic must not cross into C; there is none to be expected.
    let submitted = catch_unwind(AssertUnwindSafe(|| {
        let (machine, queue) = machine::queue_of_node(fd)?;
        // SAFETY: a call without arguments that cannot fail.
        if machine.pid != unsafe { libc::getpid() } {
            return Some(Err(Declined::Errno(libc::EPERM)));
        }
        if length == 0 || !length.is_multiple_of(SIZE) {
            return Some(Err(Declined::Errno(libc::EINVAL)));
        }
        let mut done = 0;
        while done < length {
            // SAFETY: the caller of write(2) hands over `length` readable bytes, a multiple of the size read here.
            let descriptor =
                unsafe { buffer.cast::<u8>().add(done).cast::<[u8; SIZE]>().read_unaligned() };
            // The kernel looks at the alignment of the completion record.
            let declined = if descriptor[8] % 64 != 0 {
                Err(Declined::Errno(libc::EINVAL))
            } else {
                queue.submit(&descriptor)
            };
            match declined {
                Err(_) if done > 0 => break,
                Err(error) => return Some(Err(error)),
                Ok(()) => done += SIZE,
            }
        }
        Some(Ok(done))
    }));
    let errno = match submitted {
        Ok(Some(Ok(done))) => return done as isize,
        Ok(Some(Err(Declined::Busy))) => libc::EAGAIN,
        Ok(Some(Err(Declined::Errno(errno)))) => {
            COUNTERS.submit_errors.fetch_add(1, Relaxed);
            errno
        }
        // SAFETY: the caller's own arguments.
        Ok(None) => return unsafe { libc::write(fd, buffer, length) },
        Err(_) => libc::EIO,
    };
    // SAFETY: the address of this thread's errno.
    unsafe { *libc::__errno_location() = errno };
    -1
}
