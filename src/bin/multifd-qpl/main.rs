//! multifd live migrations. One file per subcommand.

mod args;
mod bench;
mod doctor;
mod generate;
mod output;
mod progress;
mod receive;
mod record;
mod replay;
mod send;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Receive, record, replay and measure QEMU multifd live migrations.
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 received (or done), 1 failed, 2 wrong usage.";

#[derive(Debug, Subcommand)]
enum Command {
    Receive(Box<receive::Args>),
    Replay(Box<replay::Args>),
    Record(record::Args),
    Send(send::Args),
    Generate(generate::Args),
    Bench(Box<bench::Args>),
    Doctor(doctor::DoctorArgs),
}

fn main() -> ExitCode {
    // Warnings go to standard error; MULTIFD_QPL_LOG=debug shows more.
    let filter = tracing_subscriber::EnvFilter::try_from_env("MULTIFD_QPL_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    let result = match Cli::parse().command {
        Command::Receive(args) => receive::run(*args),
        Command::Replay(args) => replay::run(*args),
        Command::Record(args) => record::run(args),
        Command::Send(args) => send::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Bench(args) => bench::run(*args),
        Command::Doctor(args) => return doctor::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("multifd-qpl: {error}");
            ExitCode::FAILURE
        }
    }
}
