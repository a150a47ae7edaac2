//! Functions for a test in the same process: read and reset the counters, and change what goes wrong.

use std::ffi::{CStr, c_char, c_int};
use std::panic::catch_unwind;

use crate::counters::COUNTERS;
use crate::machine::{configure, current, report_at_exit};

/// Stores the counters as JSON, with a NUL at the end, and returns its length without the NUL. When that is `length` or
/// more, nothing is stored. Negative is a failure.
///
/// # Safety
///
/// `buffer` must be room for `length` bytes; it may be null when `length` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iaa_emulator_counters_json(buffer: *mut c_char, length: usize) -> isize {
    let text = catch_unwind(|| {
        current().map_or_else(|| COUNTERS.report(None, 0), |machine| machine.report()).to_string()
    });
    let Ok(text) = text else { return -1 };
    if !buffer.is_null() && text.len() < length {
        // SAFETY: there is room for the text and the NUL, and the text is ours alone.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr().cast(), buffer, text.len());
            buffer.add(text.len()).write(0);
        }
    }
    text.len() as isize
}

/// Sets the counters to zero.
#[unsafe(no_mangle)]
pub extern "C" fn iaa_emulator_reset_counters() {
    // A panic is not expected and would leave the counters as they are.
    let _ = catch_unwind(|| current().map_or_else(|| COUNTERS.reset(), |machine| machine.reset()));
}

/// Applies settings: `key=value`, several with `;` or newlines between them. Every setting before the devices exist
/// (they are made at the first start of libqpl's hardware path), afterwards only `inject`, `seed`, `fault_us` and `report`.
/// Returns 0, or -1 and says why on standard error; nothing has changed then.
///
/// # Safety
///
/// `text` must be null or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iaa_emulator_configure(text: *const c_char) -> c_int {
    if text.is_null() {
        return -1;
    }
    // SAFETY: a NUL-terminated string by the caller's duty.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    match catch_unwind(|| configure(&text)) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            eprintln!("iaa-emulator: {error}");
            -1
        }
        Err(_) => -1,
    }
}

extern "C" fn at_exit() {
    // There is no one left to tell of a panic.
    let _ = catch_unwind(report_at_exit);
}

/// Called by the loader when the process ends.
#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = at_exit;
