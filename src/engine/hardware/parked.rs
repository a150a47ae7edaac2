//! Jobs that missed their deadline, and the memory that the device may still
//! use for them.

use std::{mem, sync::Arc};

use super::{Job, Look};
use crate::{
    engine::PacketBuffer,
    ram::{Lost, RamBlock},
};

/// A job whose end nobody waits for any more, with all that it may touch.
#[derive(Debug)]
pub struct Parked {
    job: Option<Job>,
    /// The packet it came from.
    pub packet: u64,
    memory: Option<Memory>,
}

/// What a device uses besides the job's block.
#[derive(Debug)]
struct Memory {
    /// Holds the block that the device reads.
    _source: Arc<PacketBuffer>,
    /// Holds the page that the device writes, where it writes guest memory.
    _block: Arc<RamBlock>,
    /// Holds the page that the device writes; comes with the commit of its
    /// packet, which holds it until then.
    destination: Option<Arc<Lost>>,
}

impl Parked {
    /// Sets a running job apart.
    pub fn new(job: Job, packet: u64, source: &Arc<PacketBuffer>, block: &Arc<RamBlock>) -> Self {
        let memory =
            Memory { _source: Arc::clone(source), _block: Arc::clone(block), destination: None };
        Self { job: Some(job), packet, memory: Some(memory) }
    }

    /// Hands over the staging that the device may still write.
    pub fn keep(&mut self, lost: &Arc<Lost>) {
        if let Some(memory) = &mut self.memory {
            memory.destination = Some(Arc::clone(lost));
        }
    }

    /// Looks once; gives the job back when it is finished, and frees the rest.
    pub fn reclaim(mut self) -> Result<Job, Self> {
        match self.job.take() {
            Some(mut job) => match job.look() {
                Look::Finished(_) => Ok(job),
                Look::Running => {
                    self.job = Some(job);
                    Err(self)
                }
            },
            // Only `reclaim` takes the job, and it gives the rest back with it.
            None => Err(self),
        }
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        if let Some(job) = &mut self.job
            && let Look::Running = job.look()
        {
            // The device may write for as long as the process lives. The job
            // sees to its own block.
            mem::forget(self.memory.take());
        }
    }
}
