//! `multifd-qpl record`: stores a migration as it is.

use std::path::PathBuf;

use multifd_qpl::receiver::{Options, record};

use super::{args, output};

/// Store one live migration as it is, for `replay` and `send`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    listening: args::Listening,
    /// Directory for the recording; made if it is missing
    dir: PathBuf,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<(), output::Error> {
    let mut options = Options::default();
    args.listening.apply(&mut options);
    std::fs::create_dir_all(&args.dir)
        .map_err(|error| output::Error::File(args.dir.clone(), error))?;
    let listener = args.listening.bind()?;
    let recorded = record(listener, &options, &args.dir, args.listening.resume_source)?;
    eprintln!(
        "recorded {} bytes of a main stream and {} channels in {}",
        recorded.bytes,
        recorded.channels,
        args.dir.display()
    );
    Ok(())
}
