//! Makes recordings without a QEMU: of any size, any method, any number of
//! channels, and always the same for the same options.
//!
//! The VM is imagined: what each page holds in each round is a function of seed
//! and page ([`plan`], [`content`]), so nothing of the guest is ever in memory,
//! and a 64 GiB VM takes no more than a small one. One thread per channel (no
//! more than there are CPUs) walks over all pages, picks the packets that are
//! its channel's turn, and writes them as a source from 9.2 on would:
//!
//! ```text
//!  main   configuration | START: blocks, FLUSH | PART: FLUSH .. | END: FLUSH FLUSH | devices
//!  ch i   hello SYNC    | first round: every page | SYNC | re-sent pages | SYNC | SYNC
//! ```
//!
//! * Every packet's zero pages are sorted to the back of its list the way
//!   sources do it, so lists don't ascend.
//! * Later rounds re-send a part of the pages: data for data, data for zero,
//!   zero for data, and zero for zero.
//! * The devices are made up, but a vmdesc describes them to the byte.
//!
//! All pages differ from each other, and compress about as files do. What is
//! not as in a real guest: text is made of invented words, data lies in one
//! piece (or one page in eight), and how many pages change from round to round
//! follows a fixed share.

mod channel;
mod compress;
mod content;
mod deflate;
mod main_stream;
mod plan;

use std::{
    io::{BufWriter, Write},
    num::NonZero,
    path::Path,
    str::FromStr,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    thread,
};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::{RecordingWriter, WriteError, channel_file, main_file};
use crate::wire::{MAX_BLOCK_LEN, MethodId, PAGE_SIZE};
use channel::{Channel, Counts};
use content::Page;
use plan::Plan;

/// What the guest's data looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// File-like data in one piece: text, code, tables, and a part that doesn't
    /// compress.
    Dense,
    /// The same data, but only one page in eight holds any.
    Scattered,
    /// Nothing but text.
    Text,
    /// Nothing but data that doesn't compress.
    Random,
}

impl Pattern {
    /// All patterns.
    pub const ALL: [Self; 4] = [Self::Dense, Self::Scattered, Self::Text, Self::Random];

    /// The name the command line uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Scattered => "scattered",
            Self::Text => "text",
            Self::Random => "random",
        }
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Pattern {
    type Err = UnknownPattern;

    fn from_str(name: &str) -> Result<Self, UnknownPattern> {
        let found = Self::ALL.into_iter().find(|pattern| pattern.name() == name);
        found.ok_or_else(|| UnknownPattern(name.to_owned()))
    }
}

/// A pattern name that isn't one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no pattern {0:?}: dense, scattered, text and random are known")]
pub struct UnknownPattern(String);

/// What to generate.
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    /// Bytes of the guest's RAM, a multiple of 4096. A small RAMBlock of
    /// firmware comes on top.
    pub ram: u64,
    /// Bytes that hold data in the first round; all others are zero.
    pub used: u64,
    /// What the data looks like.
    pub pattern: Pattern,
    /// none, zlib, zstd or qpl.
    pub method: MethodId,
    /// Multifd channels, 1 to 255.
    pub channels: u8,
    /// Rounds over the guest's RAM, at least 1.
    pub rounds: u32,
    /// The same seed makes the same recording.
    pub seed: u64,
    /// Adds the SHA-256 of each RAMBlock's final content to `expected.json`.
    /// Takes seconds per GiB, zero or not.
    pub sha256: bool,
    /// The source opens the return path, and waits for a verdict.
    pub return_path: bool,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            ram: 1 << 30,
            used: 256 << 20,
            pattern: Pattern::Dense,
            method: MethodId::Qpl,
            channels: 2,
            rounds: 3,
            seed: 1,
            sha256: false,
            return_path: false,
        }
    }
}

/// What was generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generated {
    /// Bytes over all files of the recording.
    pub bytes: u64,
    /// Packets, SYNCs included.
    pub packets: u64,
    /// Pages sent with data, over all rounds.
    pub normal_pages: u64,
    /// Pages sent as zero, over all rounds.
    pub zero_pages: u64,
}

/// Why nothing was generated.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// No source could send this.
    #[error("cannot generate such a recording: {0}")]
    Options(&'static str),
    /// There is no compressor for the method.
    #[error("recordings with method {0} cannot be generated: none, zlib, zstd and qpl can")]
    Method(MethodId),
    /// The files cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A compressor failed, which only lack of memory can make it.
    #[error("compressing with {method} failed: {reason}")]
    Compress {
        /// The method.
        method: MethodId,
        /// What the compressor says.
        reason: String,
    },
    /// Another channel failed first; that one's error is the one reported.
    #[error("stopped because another channel failed")]
    Stopped,
}

/// Generates a recording in `dir`, with an `expected.json` that says what its
/// receiver must come to. `progress` is called from several threads, again and
/// again, with the pages of the first round that are written and how many there
/// are in all.
pub fn generate(
    dir: &Path,
    options: &GenerateOptions,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Generated, GenerateError> {
    check(options)?;
    let plan = Plan::new(options);
    let writer = RecordingWriter::create(dir)?;
    let total = plan.blocks().iter().map(|block| block.pages).sum();
    let shared = Shared {
        plan: &plan,
        options,
        writer: &writer,
        total,
        done: AtomicU64::new(0),
        next: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        progress,
    };

    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    let (counts, digests) = thread::scope(|scope| {
        let hashers: Vec<_> = (0..plan.blocks().len())
            .filter(|_| options.sha256)
            .map(|block| {
                scope.spawn({
                    let plan = &plan;
                    move || digest(plan, block)
                })
            })
            .collect();
        let workers: Vec<_> =
            (0..cpus.min(options.channels.into())).map(|_| scope.spawn(|| shared.work())).collect();

        let mut counts = Counts::default();
        let mut first = None;
        for worker in workers {
            match worker.join() {
                Ok(Ok(some)) => counts.add(&some),
                Ok(Err(GenerateError::Stopped)) => {}
                Ok(Err(error)) => drop(first.get_or_insert(error)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        if let Some(error) = first {
            return Err(error);
        }
        let digests: Vec<String> = hashers
            .into_iter()
            .map(|hasher| hasher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect();
        Ok((counts, digests))
    })?;

    let main = main_stream::encode(&plan, options);
    let path = main_file(dir);
    finish(writer.main()?, &main).map_err(WriteError::at(&path))?;
    let path = dir.join("expected.json");
    let expected = expected(&plan, options, &counts, &digests);
    let text = serde_json::to_vec_pretty(&expected).unwrap_or_default();
    std::fs::write(&path, text).map_err(WriteError::at(&path))?;

    Ok(Generated {
        bytes: counts.bytes + main.len() as u64,
        packets: counts.packets,
        normal_pages: counts.normal,
        zero_pages: counts.zero,
    })
}

/// Refuses what no source could send.
fn check(options: &GenerateOptions) -> Result<(), GenerateError> {
    let GenerateOptions { ram, used, .. } = *options;
    let page = PAGE_SIZE as u64;
    let no = |reason| Err(GenerateError::Options(reason));
    match options.method {
        MethodId::None | MethodId::Zlib | MethodId::Zstd | MethodId::Qpl => {}
        other => return Err(GenerateError::Method(other)),
    }
    if ram == 0 || !ram.is_multiple_of(page) || ram > MAX_BLOCK_LEN {
        return no("RAM must be a multiple of 4096 bytes, at most 16 TiB");
    }
    if used > ram {
        return no("more bytes are to be used than there is RAM");
    }
    if options.pattern == Pattern::Scattered && used > ram / 8 {
        return no("scattered data fills at most an eighth of the RAM");
    }
    if options.channels == 0 || options.rounds == 0 {
        return no("there must be at least one channel and one round");
    }
    Ok(())
}

/// What the threads have in common.
struct Shared<'a> {
    plan: &'a Plan,
    options: &'a GenerateOptions,
    writer: &'a RecordingWriter,
    total: u64,
    done: AtomicU64,
    next: AtomicUsize,
    stop: AtomicBool,
    progress: &'a (dyn Fn(u64, u64) + Sync),
}

impl Shared<'_> {
    /// Writes channels as long as some are left.
    fn work(&self) -> Result<Counts, GenerateError> {
        let mut counts = Counts::default();
        loop {
            let next = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(id) = u8::try_from(next).ok().filter(|&id| id < self.options.channels) else {
                return Ok(counts);
            };
            let written = self.channel(id);
            if written.is_err() {
                self.stop.store(true, Ordering::Relaxed);
            }
            counts.add(&written?);
        }
    }

    fn channel(&self, id: u8) -> Result<Counts, GenerateError> {
        let path = channel_file(self.writer.dir(), id);
        let out = self.writer.channel(id)?;
        let tick = |pages| {
            let done = self.done.fetch_add(pages, Ordering::Relaxed) + pages;
            (self.progress)(done, self.total);
            !self.stop.load(Ordering::Relaxed)
        };
        Channel::new(self.plan, self.options, id, out, &path)?.write(&tick)
    }
}

/// Rounds and marks: one in START, one for each round, and a last one in END
/// that nothing comes before.
fn marks(options: &GenerateOptions) -> u64 {
    2 + u64::from(options.rounds)
}

/// The final content of a RAMBlock, from the plan alone: nothing of what the
/// channels wrote goes into it.
fn digest(plan: &Plan, block: usize) -> String {
    let mut hash = Sha256::new();
    let mut page = Page::new();
    for index in 0..plan.blocks()[block].pages {
        match plan.last(block, index as u32) {
            Some(version) => {
                page.fill(plan.kind(block), plan.page_seed(block, index as u32, version));
                hash.update(page.bytes());
            }
            None => hash.update([0; PAGE_SIZE]),
        }
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn expected(
    plan: &Plan,
    options: &GenerateOptions,
    counts: &Counts,
    digests: &[String],
) -> serde_json::Value {
    let blocks: serde_json::Map<_, _> = plan
        .blocks()
        .iter()
        .enumerate()
        .map(|(index, block)| {
            let mut info = json!({ "bytes": block.pages * PAGE_SIZE as u64 });
            if let Some(digest) = digests.get(index) {
                info["sha256"] = json!(digest);
            }
            (block.name.to_owned(), info)
        })
        .collect();
    json!({
        "source": format!("generated by multifd-qpl {}", env!("CARGO_PKG_VERSION")),
        "method": options.method,
        "channels": options.channels,
        "zero_page_detection": "multifd",
        "machine": main_stream::MACHINE,
        "pattern": options.pattern.name(),
        "seed": options.seed,
        "rounds": options.rounds,
        "stream": {
            "packets": counts.packets,
            "syncs": counts.syncs,
            "flush": marks(options),
            "eos": main_stream::sections(options),
            "normal": counts.normal,
            "zero": counts.zero,
            "main_zero": 0,
            "raw_pages": counts.raw,
            "zero_after_data": counts.zero_after_data,
            "zero_again": counts.zero_again,
            "normal_again": counts.normal_again,
        },
        "blocks": blocks,
    })
}

fn finish<W: Write>(mut out: BufWriter<W>, bytes: &[u8]) -> std::io::Result<()> {
    out.write_all(bytes)?;
    out.flush()
}
