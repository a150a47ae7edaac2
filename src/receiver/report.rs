//! What a migration came to, as a value: the command prints it as JSON.

use serde::Serialize;

use crate::{engine::EngineReport, measure::Measured, ram::PlacementReport};

/// A received, or failed, migration in figures. The keys are stable.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// `received` or `failed`.
    pub status: Status,
    /// Why it failed, in one sentence.
    pub error: Option<String>,
    /// Machine type of the source.
    pub machine: Option<String>,
    /// Compression method; `None` where not one data page came.
    pub method: Option<String>,
    /// Number of multifd channels.
    pub channels: usize,
    /// Seconds from the first connection to the verdict.
    pub wall_seconds: f64,
    /// What the process used between the receiver's start and the verdict: CPU
    /// time, page faults, memory, TLB flushes.
    #[serde(flatten)]
    pub used: Measured,
    /// Pages by kind.
    pub pages: Pages,
    /// Marks behind the one in the START section: how often the source went
    /// over its RAM, or, from sources up to 8.0, how many sections it sent.
    pub rounds: u64,
    /// Bytes received over all connections.
    pub bytes_received: u64,
    /// The RAMBlocks in the source's order.
    pub blocks: Vec<BlockReport>,
    /// What decoded the pages of method qpl.
    pub engine: EngineReport,
    /// How pages got into guest memory; not there if the receiver did not start.
    pub placement: Option<PlacementReport>,
    /// Device sections stored, and whether their description agrees with them.
    pub devices: DeviceReport,
}

/// How it ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Every byte is there.
    Received,
    /// Something is missing; nothing may be used.
    #[default]
    Failed,
}

/// Pages by kind.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Pages {
    /// Pages that came as data.
    pub normal: u64,
    /// Pages that came as zero in packets.
    pub zero: u64,
    /// Zero pages (in packets or records) that were left alone.
    pub zero_untouched: u64,
    /// Zero pages (in packets or records) that were cleared.
    pub zero_cleared: u64,
    /// Data pages that a qpl source stored uncompressed.
    pub raw: u64,
    /// Pages that came as zero in records on the main stream.
    pub legacy_zero: u64,
}

/// One RAMBlock.
#[derive(Debug, Clone, Default, Serialize)]
pub struct BlockReport {
    /// Name the source gave it.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// Bytes of it that take memory here.
    pub resident_bytes: u64,
    /// SHA-256 of its content, when asked for.
    pub sha256: Option<String>,
}

/// The opaque device state.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct DeviceReport {
    /// Sections found.
    pub sections: usize,
    /// Bytes, section headers and footers included.
    pub bytes: usize,
    /// The source's JSON description came and agrees with the sections.
    pub described: bool,
}
