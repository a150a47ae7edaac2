//! The C interface: the methods and the received map for a receiver that has
//! its own sockets and its own guest memory, such as QEMU.
//!
//! The order of calls:
//!
//! 1. [`multifd_qpl_receiver_new`](receiver::multifd_qpl_receiver_new), once per
//!    migration.
//! 2. [`multifd_qpl_block_new`](block::multifd_qpl_block_new) for every RAMBlock,
//!    before any of its pages arrives.
//! 3. [`multifd_qpl_channel_new`](channel::multifd_qpl_channel_new) on each
//!    channel's thread, then
//!    [`multifd_qpl_channel_packet`](channel::multifd_qpl_channel_packet) (or
//!    `_packet_read`) for every packet with pages, and
//!    [`multifd_qpl_channel_drain`](channel::multifd_qpl_channel_drain) at every
//!    SYNC. Between marks channels may run freely; the caller keeps epochs
//!    apart.
//! 4. Everything is freed by its `_free`, in any order. A block stays registered
//!    with the kernel until `multifd_qpl_block_free`: only after that do its
//!    untouched pages read as zero, so it comes before the guest runs.
//!
//! Every function has a defined result for null (`NULL_ARGUMENT`, or null), for
//! an error, and for a panic (`PANIC`): none of them unwinds into C. What went
//! wrong last on the calling thread is told by [`multifd_qpl_last_error`].

pub mod block;
pub mod channel;
pub mod receiver;

use std::{
    cell::RefCell,
    ffi::{CStr, CString, c_char},
    panic::{AssertUnwindSafe, catch_unwind},
};

/// What a function came to. Numbers are never used again for something else.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MultifdQplStatus {
    /// Done.
    Ok = 0,
    /// An argument that must not be null is.
    NullArgument = 1,
    /// An argument is outside of what it may be.
    BadArgument = 2,
    /// The packet is damaged, or no source sends it. Ends the migration.
    BadData = 3,
    /// Memory, a thread or the kernel failed us. Ends the migration.
    System = 4,
    /// The engine or policy that was asked for is not to be had here.
    Unavailable = 5,
    /// The read callback said that it failed. Ends the migration.
    Read = 6,
    /// A bug in this library. Ends the migration.
    Panic = 7,
}

/// An error on its way to C.
struct Failure(MultifdQplStatus, String);

impl Failure {
    fn new(status: MultifdQplStatus, error: impl ToString) -> Self {
        Self(status, error.to_string())
    }

    fn argument(error: impl ToString) -> Self {
        Self::new(MultifdQplStatus::BadArgument, error)
    }

    fn system(error: impl ToString) -> Self {
        Self::new(MultifdQplStatus::System, error)
    }

    fn null(name: &str) -> Self {
        Self::new(MultifdQplStatus::NullArgument, format!("{name} is null"))
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Keeps the sentence for [`multifd_qpl_last_error`] and gives the number back.
fn remember(Failure(status, sentence): Failure) -> MultifdQplStatus {
    let sentence = CString::new(sentence.replace('\0', " ")).unwrap_or_default();
    LAST.with(|last| *last.borrow_mut() = sentence);
    status
}

/// Runs the body of a function that answers a status.
fn status(body: impl FnOnce() -> Result<(), Failure>) -> MultifdQplStatus {
    match run(body) {
        Ok(()) => MultifdQplStatus::Ok,
        Err(failure) => remember(failure),
    }
}

/// Runs the body of a function that answers a new object, or null.
fn object<T>(body: impl FnOnce() -> Result<T, Failure>) -> *mut T {
    match run(body) {
        Ok(value) => Box::into_raw(Box::new(value)),
        Err(failure) => {
            remember(failure);
            std::ptr::null_mut()
        }
    }
}

/// Runs the body of a function that answers a plain value, or `failed`.
fn value<T>(failed: T, body: impl FnOnce() -> Result<T, Failure>) -> T {
    run(body).unwrap_or_else(|failure| {
        remember(failure);
        failed
    })
}

/// No panic leaves this. What a body leaves half done when it panics is only
/// ever freed, since the migration has failed.
fn run<T>(body: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        let text = text.unwrap_or("without a message");
        Err(Failure::new(MultifdQplStatus::Panic, format!("a bug in multifd-qpl: {text}")))
    })
}

/// Frees an object made by [`object`].
///
/// # Safety
///
/// `pointer` is null, or came from `object` and is not used again.
unsafe fn free<T>(pointer: *mut T) {
    if !pointer.is_null() {
        // SAFETY: made by Box::into_raw in `object`, and given up by the caller.
        let boxed = unsafe { Box::from_raw(pointer) };
        // Nobody can be told about a panic while freeing.
        let _ = run(|| {
            drop(boxed);
            Ok(())
        });
    }
}

/// Borrows an argument.
///
/// # Safety
///
/// `pointer` is null or points to a live object that nobody changes meanwhile.
unsafe fn arg<'a, T>(pointer: *const T, name: &str) -> Result<&'a T, Failure> {
    // SAFETY: the caller's promise.
    unsafe { pointer.as_ref() }.ok_or_else(|| Failure::null(name))
}

/// Borrows a string argument.
///
/// # Safety
///
/// `pointer` is null or a NUL-terminated string that stays as it is meanwhile.
unsafe fn text<'a>(pointer: *const c_char, name: &str) -> Result<&'a str, Failure> {
    if pointer.is_null() {
        return Err(Failure::null(name));
    }
    // SAFETY: not null, and the caller promises the rest.
    unsafe { CStr::from_ptr(pointer) }
        .to_str()
        .map_err(|_| Failure::argument(format!("{name} is not UTF-8")))
}

/// One sentence about the last failure on the calling thread; empty before the
/// first. It stays as it is until the thread's next failure.
#[unsafe(no_mangle)]
pub extern "C" fn multifd_qpl_last_error() -> *const c_char {
    LAST.with(|last| last.borrow().as_ptr())
}

/// Version of this library, such as "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn multifd_qpl_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}
