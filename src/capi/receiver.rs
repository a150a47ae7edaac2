//! What all channels of one migration share.

use std::{
    ffi::c_char,
    num::NonZeroUsize,
    ptr,
    sync::{Arc, Mutex, PoisonError},
};

use super::{Failure, MultifdQplStatus, arg, free, object, text, value};
use crate::{
    engine::{EngineChoice, EngineError, hardware},
    method::Workshop,
    ram::{Placement, Policy},
};

/// Engine and placement of one migration. May be used by all threads at once.
#[derive(Debug)]
pub struct MultifdQplReceiver {
    pub(super) workshop: Workshop,
    /// The last report given out, kept alive for its reader.
    report: Mutex<Vec<u8>>,
}

/// How a migration is to be received. Fill with zeroes for the defaults.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct MultifdQplOptions {
    /// "auto", "iaa", "qpl-software" or "software"; null is "auto".
    pub engine: *const c_char,
    /// "place", "populate", "huge" or "fault"; null is what is best here.
    pub placement: *const c_char,
    /// Worker threads of software engines; 0 is one per core.
    pub workers: usize,
    /// Number of channels, to share out packet buffers; 0 if not known.
    pub channels: usize,
    /// Compare each page that a device made with the checksum it reports.
    pub verify: bool,
}

impl Default for MultifdQplOptions {
    fn default() -> Self {
        let null = ptr::null();
        Self { engine: null, placement: null, workers: 0, channels: 0, verify: false }
    }
}

/// Sets up engine and placement. `options` may be null. Null on failure.
///
/// # Safety
///
/// `options` is null or points to valid options; their strings are null or
/// NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn multifd_qpl_receiver_new(
    options: *const MultifdQplOptions,
) -> *mut MultifdQplReceiver {
    object(|| {
        // SAFETY: the caller's promise.
        let options = unsafe { options.as_ref() }.copied().unwrap_or_default();
        let engine = if options.engine.is_null() {
            EngineChoice::Auto
        } else {
            // SAFETY: the caller's promise.
            unsafe { text(options.engine, "engine") }?.parse().map_err(Failure::argument)?
        };
        let policy = if options.placement.is_null() {
            None
        } else {
            // SAFETY: the caller's promise.
            let name = unsafe { text(options.placement, "placement") }?;
            Some(name.parse::<Policy>().map_err(Failure::argument)?)
        };
        let placement = Placement::new(policy)
            .map_err(|error| Failure::new(MultifdQplStatus::Unavailable, error))?;
        let device = hardware::Options { verify: options.verify, ..hardware::Options::default() };
        let workers = NonZeroUsize::new(options.workers);
        let channels = (options.channels > 0).then_some(options.channels);
        let workshop = Workshop::new(placement, engine, device, workers, channels);
        // An engine that cannot run had better be known before the first page.
        workshop.engine.open().map_err(engine_failure)?;
        Ok(MultifdQplReceiver { workshop, report: Mutex::default() })
    })
}

pub(super) fn engine_failure(error: EngineError) -> Failure {
    let status = match &error {
        EngineError::Unavailable { .. } => MultifdQplStatus::Unavailable,
        EngineError::BadPage { .. } => MultifdQplStatus::BadData,
        EngineError::Memory(_)
        | EngineError::Stopped
        | EngineError::Placement(_)
        | EngineError::DeviceHoldsPage { .. } => MultifdQplStatus::System,
    };
    Failure::new(status, error)
}

/// Frees a receiver; null is fine. Blocks and channels that are left stay valid.
///
/// # Safety
///
/// `receiver` is null or was made by `multifd_qpl_receiver_new`, and is not used
/// again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn multifd_qpl_receiver_free(receiver: *mut MultifdQplReceiver) {
    // SAFETY: the caller's promise.
    unsafe { free(receiver) }
}

/// What engine and placement did so far, as JSON:
/// `{"engine": {...}, "placement": {...}}`. Null on failure. The text lives
/// until the next call on this receiver, or its end.
///
/// # Safety
///
/// `receiver` is null or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn multifd_qpl_receiver_report(
    receiver: *const MultifdQplReceiver,
) -> *const c_char {
    value(ptr::null(), || {
        // SAFETY: the caller's promise.
        let receiver = unsafe { arg(receiver, "receiver") }?;
        let report = serde_json::json!({
            "engine": receiver.workshop.engine.report(),
            "placement": receiver.workshop.placement.report(),
        });
        let mut bytes = report.to_string().into_bytes();
        bytes.push(0);
        let mut last = receiver.report.lock().unwrap_or_else(PoisonError::into_inner);
        *last = bytes;
        Ok(last.as_ptr().cast())
    })
}

/// Blocks and channels share the placement with the receiver.
pub(super) fn placement(receiver: &MultifdQplReceiver) -> Arc<Placement> {
    Arc::clone(&receiver.workshop.placement)
}
