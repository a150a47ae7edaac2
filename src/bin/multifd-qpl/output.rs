//! What a receiving subcommand leaves behind: the guest's directory, the
//! report, one clear sentence if it failed.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use multifd_qpl::{
    ram::RamBlock,
    receiver::{Address, Failed, ReceiveError, Received, Report, Status},
    recording::{GenerateError, RecordingError, SendError},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::args::Receiving;

/// Characters of a block's name that stay themselves in a file name.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'_');
/// Bytes copied at a time between guest RAM and files or digests.
const COPY: usize = 1 << 20;

/// Why a subcommand failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken, or not ours.
    #[error("cannot listen on {0}: {1}")]
    Listen(Address, #[source] io::Error),
    /// A file of the result.
    #[error("{path}: {1}", path = .0.display())]
    File(PathBuf, #[source] io::Error),
    /// The report could not be printed.
    #[error("cannot print the report: {0}")]
    Print(#[source] io::Error),
    /// The directory holds another guest already.
    #[error("{} exists: give a directory of its own to every guest", .0.display())]
    Occupied(PathBuf),
    /// The migration failed.
    #[error("{0}")]
    Receive(#[from] ReceiveError),
    /// A recording did not arrive.
    #[error("sending to {0}: {1}")]
    Send(Address, #[source] SendError),
    /// The recording is not one.
    #[error("{0}")]
    Recording(#[from] RecordingError),
    /// No recording was made.
    #[error("{0}")]
    Generate(#[from] GenerateError),
    /// A measurement could not be made.
    #[error("{0}")]
    Bench(String),
}

/// The receiver could not be set up: a report that says so, and the error.
pub fn not_started(args: &Receiving, error: &ReceiveError) -> Error {
    let report = Report { error: Some(error.to_string()), ..Report::default() };
    match write_report(args, &report) {
        Ok(()) => Error::Receive(ReceiveError::NotStarted(error.to_string())),
        Err(error) => error,
    }
}

/// Stores what was received, tells the source, and reports. The source lets go
/// of its guest only when this has put it where it was asked to.
pub fn finish(
    outcome: Result<Received, Failed>,
    args: &Receiving,
    resume_source: bool,
) -> Result<(), Error> {
    let received = match outcome {
        Ok(received) => received,
        Err(Failed { error, report }) => {
            write_report(args, &report)?;
            return Err(error.into());
        }
    };
    let mut report = received.report().clone();
    if args.sha256 {
        for (block, entry) in received.blocks().iter().zip(&mut report.blocks) {
            entry.sha256 = Some(sha256(block)?);
        }
    }
    if let Some(dir) = &args.ram_dir
        && let Err(error) = store(dir, &received, &report)
    {
        report.status = Status::Failed;
        report.error = Some(error.to_string());
        write_report(args, &report)?;
        // The guest is not safe here, so it had better run on at the source.
        received.refuse()?;
        return Err(error);
    }
    let answered = if resume_source { received.refuse() } else { received.complete() };
    if let Err(error) = answered {
        report.status = Status::Failed;
        report.error = Some(error.to_string());
        write_report(args, &report)?;
        return Err(error.into());
    }
    write_report(args, &report)
}

fn write_report(args: &Receiving, report: &Report) -> Result<(), Error> {
    let mut text =
        serde_json::to_string_pretty(report).map_err(|error| Error::Print(error.into()))?;
    text.push('\n');
    if let Some(path) = &args.report {
        fs::write(path, &text).map_err(|error| Error::File(path.clone(), error))?;
    }
    if args.json {
        io::stdout().write_all(text.as_bytes()).map_err(Error::Print)?;
    }
    Ok(())
}

/// Writes a guest's directory. The manifest comes last and all at once: where
/// it is, the rest is complete.
fn store(dir: &Path, received: &Received, report: &Report) -> Result<(), Error> {
    let manifest = dir.join("manifest.json");
    if manifest.exists() {
        return Err(Error::Occupied(manifest));
    }
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| Error::File(path, error)
    };
    fs::create_dir_all(dir).map_err(at(dir))?;
    let mut blocks = Vec::new();
    for (block, entry) in received.blocks().iter().zip(&report.blocks) {
        let name = format!("{}.ram", utf8_percent_encode(block.name(), ENCODED));
        let path = dir.join(&name);
        store_block(&path, block).map_err(at(&path))?;
        blocks.push(json!({
            "name": block.name(),
            "file": name,
            "bytes": block.used_length(),
            "sha256": entry.sha256,
        }));
    }
    let put = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        fs::write(&path, bytes).map_err(at(&path))
    };
    put("devices.bin", &received.devices().bytes)?;
    for (index, device) in received.early_devices().iter().enumerate() {
        put(&format!("early-device-{index}.bin"), &device.bytes)?;
    }
    if let Some(vmdesc) = &received.devices().vmdesc {
        put("vmdesc.json", vmdesc)?;
    }
    let text = json!({
        "machine": report.machine,
        "method": report.method,
        "blocks": blocks,
        "report": report,
    });
    let unfinished = dir.join("manifest.json.new");
    let mut file = File::create(&unfinished).map_err(at(&unfinished))?;
    serde_json::to_writer_pretty(&mut file, &text)
        .map_err(io::Error::from)
        .and_then(|()| file.sync_all())
        .map_err(at(&unfinished))?;
    fs::rename(&unfinished, &manifest).map_err(at(&manifest))
}

/// A sparse file: only pages that were written are read and stored.
fn store_block(path: &Path, block: &RamBlock) -> io::Result<()> {
    let file = File::create(path)?;
    file.set_len(block.used_length())?;
    for_written(block, |offset, bytes| file.write_all_at(bytes, offset))?;
    file.sync_data()
}

/// Hands out the bytes of all written pages, in order, in pieces.
fn for_written(
    block: &RamBlock,
    mut each: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; COPY];
    for run in block.map().written_runs() {
        let (mut offset, end) = (u64::from(run.start) * 4096, u64::from(run.end) * 4096);
        while offset < end {
            let piece = &mut buffer[..COPY.min((end - offset) as usize)];
            block.read_at(offset, piece).map_err(io::Error::other)?;
            each(offset, piece)?;
            offset += piece.len() as u64;
        }
    }
    Ok(())
}

/// The digest of a whole block. Pages that were never written are not read,
/// since reading would map them; they are zero.
fn sha256(block: &Arc<RamBlock>) -> Result<String, Error> {
    let zero = vec![0; COPY];
    let mut digest = Sha256::new();
    let mut done = 0;
    let skip = |digest: &mut Sha256, until: u64, done: &mut u64| {
        while *done < until {
            let piece = COPY.min((until - *done) as usize);
            digest.update(&zero[..piece]);
            *done += piece as u64;
        }
    };
    for_written(block, |offset, bytes| {
        skip(&mut digest, offset, &mut done);
        digest.update(bytes);
        done += bytes.len() as u64;
        Ok(())
    })
    .map_err(|error| Error::File(block.name().into(), error))?;
    skip(&mut digest, block.used_length(), &mut done);
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
