//! `multifd-qpl receive`: one migration from a running source.

use std::time::Duration;

use multifd_qpl::receiver::{Address, Listener, Receiver, SwitchoverAck, anonymous_block};

use super::{args, output, progress::Bar};

/// Receive one live migration.
///
/// Waits for a source on the given address, receives its RAM and, if --ram-dir
/// is given, stores it before the source is told that it may let go.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen: tcp:HOST:PORT (an empty HOST is 127.0.0.1) or unix:PATH
    #[arg(long, value_name = "ADDRESS")]
    listen: Address,
    /// multifd-channels of the source [default: as many as connect]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8))]
    channels: Option<u8>,
    /// Answer that the migration failed, so that the source's guest runs on:
    /// takes a live snapshot. The source needs its capability return-path
    #[arg(long)]
    resume_source: bool,
    /// When to send SWITCHOVER_ACK: auto, always or never
    #[arg(long, default_value = "auto", value_name = "WHEN", value_parser = args::switchover_ack)]
    switchover_ack: SwitchoverAck,
    /// Give up when nothing arrives for so many seconds
    #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = args::seconds)]
    timeout: Duration,
    #[command(flatten)]
    receiving: args::Receiving,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<(), output::Error> {
    let mut options = args.receiving.options(args.channels.map(usize::from));
    options.switchover_ack = args.switchover_ack;
    options.idle_timeout = args.timeout;
    options.need_return_path = args.resume_source;

    let receiver =
        Receiver::new(options).map_err(|error| output::not_started(&args.receiving, &error))?;
    let listener = Listener::bind(&args.listen)
        .map_err(|error| output::Error::Listen(args.listen.clone(), error))?;
    eprintln!("listening on {}", listener.address());

    let bar = Bar::start(receiver.progress());
    let outcome = receiver.receive(listener, &mut anonymous_block);
    drop(bar);
    output::finish(outcome, &args.receiving, args.resume_source)
}
