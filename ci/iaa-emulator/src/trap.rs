//! Carries out ENQCMD for a processor that does not have it.
//!
//! libqpl maps a queue's portal and submits with ENQCMD, which raises SIGILL on a processor without the instruction, and
//! SIGSEGV on one that has it while the process is bound to no IOMMU. The handler looks at the instruction; when it is an
//! ENQCMD to a portal of ours, it takes the 64 bytes, sets the flags as the instruction would (ZF means declined) and
//! steps over it. Everything else goes to the handler that was there before. It uses atomics, reads and writes of memory
//! by system call, and one write to a pipe: all of that is allowed in a handler.

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

use crate::descriptor::SIZE;
use crate::machine;
use crate::memory::copy_from;
use crate::queue::PORTAL_MAGIC;

const FLAG_ZERO: i64 = 0x40;
/// CF, PF, AF, ZF, SF and OF: all of them are written by the instruction.
const FLAGS_WRITTEN: i64 = 0x8d5;

struct Previous(UnsafeCell<MaybeUninit<libc::sigaction>>);

// SAFETY: written once, before the handler that reads it is installed.
unsafe impl Sync for Previous {}

static PREVIOUS: [Previous; 2] = [const { Previous(UnsafeCell::new(MaybeUninit::zeroed())) }; 2];
static INSTALLED: AtomicBool = AtomicBool::new(false);

fn previous_of(signal: c_int) -> &'static Previous {
    &PREVIOUS[usize::from(signal == libc::SIGSEGV)]
}

/// Installs the handler for SIGILL and SIGSEGV.
pub fn install() -> io::Result<()> {
    if INSTALLED.swap(true, SeqCst) {
        return Ok(());
    }
    for signal in [libc::SIGILL, libc::SIGSEGV] {
        // SAFETY: the old action is stored before the handler can run; a zeroed sigaction with a handler, its flags and
        // an empty mask is a valid one. The handler keeps to what a handler may do.
        unsafe {
            let previous = previous_of(signal).0.get();
            if libc::sigaction(signal, std::ptr::null(), (*previous).as_mut_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            libc::sigemptyset(&mut action.sa_mask);
            if libc::sigaction(signal, &action, std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

unsafe extern "C" fn on_signal(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the address of this thread's errno, which the interrupted code must find as it was.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: with SA_SIGINFO the kernel passes a machine context, which nobody else touches during the handler.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let done = carry_out(registers);
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
    if !done {
        // SAFETY: the arguments are those the kernel passed to this handler.
        unsafe { chain(signal, info, context) };
    }
}

/// Does the ENQCMD at the instruction pointer; false when there is none, or it is not ours.
fn carry_out(registers: &mut [i64; 23]) -> bool {
    let at = registers[libc::REG_RIP as usize] as u64;
    // An instruction may lie at the very end of a mapping: then fewer bytes can be read, but never fewer than it has.
    let mut code = [0u8; 15];
    let length =
        (1..=code.len()).rev().find(|&length| copy_from(at, &mut code[..length])).unwrap_or(0);
    let Some(instruction) = decode(&code[..length], registers) else { return false };
    let Some(machine) = machine::current() else { return false };
    // A portal is mapped for writing only.
    let mut label = [0u8; 16];
    if !machine.memory.peek(instruction.portal & !4095, &mut label)
        || label[..8] != PORTAL_MAGIC.to_ne_bytes()
    {
        return false;
    }
    let mut number = [0; 8];
    number.copy_from_slice(&label[8..]);
    let queue = machine.queue(u64::from_ne_bytes(number));
    let (Some(queue), 0) = (queue, instruction.portal % SIZE as u64) else { return false };
    let mut descriptor = [0; SIZE];
    if !copy_from(instruction.source, &mut descriptor) {
        return false;
    }
    let flags = &mut registers[libc::REG_EFL as usize];
    *flags &= !FLAGS_WRITTEN;
    if queue.submit(&descriptor).is_err() {
        *flags |= FLAG_ZERO;
    }
    registers[libc::REG_RIP as usize] += instruction.length as i64;
    true
}

/// An ENQCMD: from where, to where, and how long it is.
#[derive(Debug, PartialEq, Eq)]
struct Enqcmd {
    source: u64,
    portal: u64,
    length: usize,
}

/// Registers in the order of their numbers in an instruction.
const NUMBERED: [c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Understands `enqcmd register, [register + displacement]`: any registers, no scaled index, not relative to RIP.
fn decode(code: &[u8], registers: &[i64; 23]) -> Option<Enqcmd> {
    let mut at = 0;
    let mut next = || {
        let byte = code.get(at).copied();
        at += 1;
        byte
    };
    if next()? != 0xf2 {
        return None;
    }
    let mut byte = next()?;
    let rex = if byte & 0xf0 == 0x40 { std::mem::replace(&mut byte, next()?) } else { 0 };
    if [byte, next()?, next()?] != [0x0f, 0x38, 0xf8] {
        return None;
    }
    let form = next()?;
    let (mode, register, mut base) = (form >> 6, form >> 3 & 7, form & 7);
    if mode == 3 || (mode == 0 && base == 5) {
        return None;
    }
    if base == 4 {
        let scaled = next()?;
        // Index 4 without the extension bit is "no index"; base 5 in mode 0 is "no base".
        if scaled >> 3 & 7 != 4 || rex & 2 != 0 || (mode == 0 && scaled & 7 == 5) {
            return None;
        }
        base = scaled & 7;
    }
    let displacement = match mode {
        1 => i64::from(next()? as i8),
        2 => i64::from(i32::from_le_bytes([next()?, next()?, next()?, next()?])),
        _ => 0,
    };
    let value = |number: u8| registers[NUMBERED[usize::from(number)] as usize];
    Some(Enqcmd {
        source: value(base | (rex & 1) << 3).wrapping_add(displacement) as u64,
        portal: value(register | (rex & 4) << 1) as u64,
        length: at,
    })
}

/// Hands a signal to the handler that was there before, or lets it end the process.
///
/// # Safety
///
/// The arguments must be those that the kernel passed to a handler with SA_SIGINFO.
unsafe fn chain(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: filled by `install` before this handler could run.
    let previous = unsafe { (*previous_of(signal).0.get()).assume_init_ref() };
    match previous.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: puts the old action back; the instruction then raises the signal again, with its usual end.
            unsafe { libc::sigaction(signal, previous, std::ptr::null_mut()) };
        }
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: with SA_SIGINFO the action is a function of these three arguments.
            unsafe {
                let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                    std::mem::transmute(handler);
                handler(signal, info, context);
            }
        }
        handler => {
            // SAFETY: without SA_SIGINFO the action is a function of the signal's number.
            unsafe {
                let handler: extern "C" fn(c_int) = std::mem::transmute(handler);
                handler(signal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers() -> [i64; 23] {
        let mut registers = [0; 23];
        for (number, &at) in NUMBERED.iter().enumerate() {
            registers[at as usize] = 0x1000 * (number as i64 + 1);
        }
        registers
    }

    #[test]
    fn forms_of_the_instruction_are_understood() {
        let cases: [(&[u8], u64, u64); 5] = [
            (&[0xf2, 0x0f, 0x38, 0xf8, 0x02], 0x3000, 0x1000),
            (&[0xf2, 0x0f, 0x38, 0xf8, 0x46, 0x40], 0x7040, 0x1000),
            (&[0xf2, 0x0f, 0x38, 0xf8, 0x04, 0x24], 0x5000, 0x1000),
            (&[0xf2, 0x45, 0x0f, 0x38, 0xf8, 0x11], 0xa000, 0xb000),
            (&[0xf2, 0x41, 0x0f, 0x38, 0xf8, 0xbc, 0x24, 0, 1, 0, 0], 0xd100, 0x8000),
        ];
        for (code, source, portal) in cases {
            let wanted = Enqcmd { source, portal, length: code.len() };
            assert_eq!(decode(code, &registers()), Some(wanted), "{code:x?}");
            assert_eq!(decode(&code[..code.len() - 1], &registers()), None);
        }
    }

    #[test]
    fn other_instructions_are_not() {
        // ENQCMDS, MOVDIR64B, UD2, ENQCMD relative to RIP.
        for code in [
            [0xf3, 0x0f, 0x38, 0xf8, 2],
            [0x66, 0x0f, 0x38, 0xf8, 2],
            [0x0f, 0x0b, 0, 0, 0],
            [0xf2, 0x0f, 0x38, 0xf8, 5],
        ] {
            assert_eq!(decode(&code, &registers()), None, "{code:x?}");
        }
    }
}
