//! `multifd-qpl send`: feeds a recording to a receiver, as a source would.

use std::path::PathBuf;

use multifd_qpl::{
    receiver::Address,
    recording::{Recording, send},
};

use super::output;

/// Feed a recording to any receiver: this command, or a QEMU that waits with
/// -incoming.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The recording: main.bin and ch0.bin, ch1.bin, ...
    dir: PathBuf,
    /// Where the receiver listens: tcp:HOST:PORT or unix:PATH
    #[arg(long, value_name = "ADDRESS")]
    to: Address,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<(), output::Error> {
    let recording = Recording::open(&args.dir)?;
    let sent = send(&recording, || args.to.connect())
        .map_err(|error| output::Error::Send(args.to.clone(), error))?;
    match sent.verdict {
        Some(_) => eprintln!("sent {} bytes; the receiver accepted them", sent.bytes),
        None => eprintln!("sent {} bytes; the recording asks for no verdict", sent.bytes),
    }
    Ok(())
}
