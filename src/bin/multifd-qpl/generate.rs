//! `multifd-qpl generate`: makes a recording without a QEMU.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use indicatif::{ProgressBar, ProgressStyle};
use multifd_qpl::{
    recording::{GenerateOptions, Pattern, generate},
    wire::MethodId,
};

use super::{args, output};

/// Make a recording of any size without a QEMU.
///
/// The same options always make the same recording.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory for main.bin, ch0.bin, ... and expected.json
    dir: PathBuf,
    /// RAM of the guest, such as 64G
    #[arg(long, value_name = "SIZE", value_parser = args::size)]
    ram: u64,
    /// RAM that holds data; the rest is zero
    #[arg(long, value_name = "SIZE", value_parser = args::size)]
    used: u64,
    /// What the data is like: dense (file-like, in one piece), scattered (one
    /// page in eight), text, or random
    #[arg(long, value_name = "P", value_parser = pattern_parser(), default_value = "dense")]
    pattern: Pattern,
    /// none, zlib, zstd or qpl
    #[arg(long, value_name = "M", value_parser = args::method_parser(), default_value = "qpl")]
    method: MethodId,
    /// Multifd channels
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..), default_value = "2")]
    channels: u8,
    /// Rounds over the guest's RAM; those behind the first send a part again
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..), default_value = "1")]
    rounds: u32,
    /// Another seed makes another guest
    #[arg(long, value_name = "S", default_value = "1")]
    seed: u64,
    /// Put the SHA-256 of each RAMBlock into expected.json
    #[arg(long)]
    sha256: bool,
}

fn pattern_parser() -> impl TypedValueParser<Value = Pattern> {
    PossibleValuesParser::new(Pattern::ALL.map(Pattern::name)).try_map(|name| name.parse())
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<(), output::Error> {
    let options = GenerateOptions {
        ram: args.ram,
        used: args.used,
        pattern: args.pattern,
        method: args.method,
        channels: args.channels,
        rounds: args.rounds,
        seed: args.seed,
        sha256: args.sha256,
        ..GenerateOptions::default()
    };
    // Draws nothing where standard error is no terminal.
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {bar:30} {percent} %") {
        bar.set_style(style);
    }
    let made = generate(&args.dir, &options, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let made = made?;
    println!(
        "{}: {} bytes, {} data pages and {} zero pages in {} packets",
        args.dir.display(),
        made.bytes,
        made.normal_pages,
        made.zero_pages,
        made.packets,
    );
    Ok(())
}
