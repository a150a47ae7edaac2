//! `multifd-qpl record`: stores a migration as it is.

use std::{path::PathBuf, time::Duration};

use multifd_qpl::receiver::{Address, Listener, Options, SwitchoverAck, record};

use super::{args, output};

/// Store one live migration as it is, for `replay` and `send`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen: tcp:HOST:PORT (an empty HOST is 127.0.0.1) or unix:PATH
    #[arg(long, value_name = "ADDRESS")]
    listen: Address,
    /// multifd-channels of the source [default: as many as connect]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8))]
    channels: Option<u8>,
    /// Answer that the migration failed, so that the source's guest runs on
    #[arg(long)]
    resume_source: bool,
    /// When to send SWITCHOVER_ACK: auto, always or never
    #[arg(long, default_value = "auto", value_name = "WHEN", value_parser = args::switchover_ack)]
    switchover_ack: SwitchoverAck,
    /// Give up when nothing arrives for so many seconds
    #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = args::seconds)]
    timeout: Duration,
    /// Directory for the recording; made if it is missing
    dir: PathBuf,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<(), output::Error> {
    let options = Options {
        channels: args.channels.map(usize::from),
        switchover_ack: args.switchover_ack,
        idle_timeout: args.timeout,
        need_return_path: args.resume_source,
        ..Options::default()
    };
    std::fs::create_dir_all(&args.dir)
        .map_err(|error| output::Error::File(args.dir.clone(), error))?;
    let listener = Listener::bind(&args.listen)
        .map_err(|error| output::Error::Listen(args.listen.clone(), error))?;
    eprintln!("listening on {}", listener.address());
    let recorded = record(listener, &options, &args.dir, args.resume_source)?;
    eprintln!(
        "recorded {} bytes of a main stream and {} channels in {}",
        recorded.bytes,
        recorded.channels,
        args.dir.display()
    );
    Ok(())
}
