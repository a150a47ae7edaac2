//! libqpl's software path as a page decoder: a rival to this crate's own, and
//! a choice for hosts whose operators trust libqpl.
//!
//! Runs on the worker threads of the [`SoftwareEngine`]. A job of the software
//! path takes some 724 KiB, so each thread has one and keeps it. libqpl decodes
//! into memory of its own and then copies, and always makes two checksums of
//! each page; that is its price.
//!
//! Where libqpl refuses a block, or makes less than a page of it without saying
//! that anything is wrong, as it does with blocks that end too early, this
//! crate's decoder has the last word and finds the reason.

use std::{num::NonZeroUsize, sync::Arc};

use super::{
    EngineError, PageDecoder, SoftwareEngine,
    hardware::{Device, Job, JobError, LibQpl, Look, Numa, Path, Request},
};
use crate::{inflate, ram::Placement, wire::PAGE_SIZE};

/// Name of this engine on the command line and in reports.
pub const NAME: &str = "qpl-software";

/// Starts `workers` threads that decode by libqpl's software path.
pub fn qpl_software_engine(
    workers: NonZeroUsize,
    placement: Arc<Placement>,
    reason: impl Into<String>,
) -> Result<SoftwareEngine, EngineError> {
    let library = qpl_sys::Library::open().map_err(|error| unavailable(&error))?;
    let device: Arc<dyn Device> = Arc::new(LibQpl::new(library, Path::Software, Numa::Any));
    let reason = format!("{}: {}", device.name(), reason.into());
    let make = move || {
        let decoder = QplDecoder::new(&device).map_err(|error| unavailable(&error))?;
        Ok(Box::new(decoder) as Box<dyn PageDecoder>)
    };
    SoftwareEngine::with_decoder(NAME, workers, placement, reason, Arc::new(make))
}

fn unavailable(error: &dyn std::error::Error) -> EngineError {
    EngineError::Unavailable { engine: NAME, reason: error.to_string() }
}

/// Decodes pages with one job of libqpl's software path.
#[derive(Debug)]
pub struct QplDecoder {
    job: Job,
    own: inflate::Decoder,
}

impl QplDecoder {
    /// Sets up a job. The device runs jobs before `submit` returns.
    pub fn new(device: &Arc<dyn Device>) -> Result<Self, JobError> {
        Ok(Self { job: Job::new(device)?, own: inflate::Decoder::new() })
    }
}

impl PageDecoder for QplDecoder {
    unsafe fn decode(&mut self, payload: *const u8, payload_len: usize, jobs: &mut [inflate::Job]) {
        for page in jobs {
            let request = Request {
                source: payload.wrapping_add(page.start as usize),
                len: page.len,
                destination: page.dst,
            };
            // SAFETY: the caller promises a readable block and a page that is
            // writable and overlaps nothing; the job ends below, before either
            // goes away. A page that is not resident is the CPU's to fault in.
            let submitted = unsafe { self.job.submit(&request) };
            let made = submitted.is_ok()
                && loop {
                    match self.job.look() {
                        Look::Running => std::hint::spin_loop(),
                        Look::Finished(result) => {
                            break result
                                .is_ok_and(|outcome| outcome.total_out as usize == PAGE_SIZE);
                        }
                    }
                };
            if made {
                page.result = Ok(());
            } else {
                // SAFETY: the caller's promises are the ones asked for.
                unsafe {
                    self.own.decode_pages(payload, payload_len, std::slice::from_mut(page));
                }
            }
        }
    }
}
