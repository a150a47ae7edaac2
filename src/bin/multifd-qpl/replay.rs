//! `multifd-qpl replay`: receives a recording, in this process.

use std::path::PathBuf;

use multifd_qpl::{
    receiver::{Receiver, anonymous_block},
    recording::Recording,
};

use super::{args, output, progress::Bar};

/// Receive a recording in this process.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The recording: main.bin and ch0.bin, ch1.bin, ...
    dir: PathBuf,
    #[command(flatten)]
    receiving: args::Receiving,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<(), output::Error> {
    let recording = Recording::open(&args.dir)?;
    let receiver = Receiver::new(args.receiving.options(Some(recording.channels())))
        .map_err(|error| output::not_started(&args.receiving, &error))?;
    let bar = Bar::start(receiver.progress());
    let outcome = receiver.replay(recording.open_files()?, &mut anonymous_block);
    drop(bar);
    output::finish(outcome, &args.receiving, false)
}
