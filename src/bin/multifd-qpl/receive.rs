//! `multifd-qpl receive`: one migration from a running source.

use multifd_qpl::receiver::{Receiver, anonymous_block};

use super::{args, output, progress::Bar};

/// Receive one live migration.
///
/// Waits for a source on the given address, receives its RAM and, if --ram-dir
/// is given, stores it before the source is told that it may let go.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    listening: args::Listening,
    #[command(flatten)]
    receiving: args::Receiving,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<(), output::Error> {
    let mut options = args.receiving.options(args.listening.channels());
    args.listening.apply(&mut options);
    let receiver =
        Receiver::new(options).map_err(|error| output::not_started(&args.receiving, &error))?;
    let listener = args.listening.bind()?;
    let bar = Bar::start(receiver.progress());
    let outcome = receiver.receive(listener, &mut anonymous_block);
    drop(bar);
    output::finish(outcome, &args.receiving, args.listening.resume_source)
}
