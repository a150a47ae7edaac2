//! Options that several subcommands share.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use multifd_qpl::{
    engine::{
        EngineChoice,
        hardware::{self, Numa},
    },
    ram::{Policy, ZeroMode},
    receiver::{Address, Listener, Options, SwitchoverAck},
    wire::{MethodId, main_stream::Limits},
};

use super::output::Error;

/// Options of everything that a source connects to.
#[derive(Debug, clap::Args)]
pub struct Listening {
    /// Where to listen: tcp:HOST:PORT (an empty HOST is 127.0.0.1) or unix:PATH
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Address,
    /// multifd-channels of the source [default: as many as connect]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8))]
    channels: Option<u8>,
    /// Answer that the migration failed, so that the source's guest runs on:
    /// takes a live snapshot. The source needs its capability return-path
    #[arg(long)]
    pub resume_source: bool,
    /// When to send SWITCHOVER_ACK: auto, always or never
    #[arg(long, default_value = "auto", value_name = "WHEN", value_parser = switchover_ack)]
    switchover_ack: SwitchoverAck,
    /// Give up when nothing arrives for so many seconds
    #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = seconds)]
    timeout: Duration,
}

impl Listening {
    /// Number of channels, if it was said.
    pub fn channels(&self) -> Option<usize> {
        self.channels.map(usize::from)
    }

    /// Writes these into the library's options.
    pub fn apply(&self, options: &mut Options) {
        options.channels = self.channels();
        options.switchover_ack = self.switchover_ack;
        options.idle_timeout = self.timeout;
        options.need_return_path = self.resume_source;
    }

    /// Listens, and says where.
    pub fn bind(&self) -> Result<Listener, Error> {
        let listener = Listener::bind(&self.listen)
            .map_err(|error| Error::Listen(self.listen.clone(), error))?;
        eprintln!("listening on {}", listener.address());
        Ok(listener)
    }
}

/// Options of everything that receives.
#[derive(Debug, clap::Args)]
pub struct Receiving {
    /// Accept only this method: none, zlib, zstd or qpl
    #[arg(long, value_name = "M", value_parser = method_parser())]
    pub method: Option<MethodId>,
    /// What decompresses pages of method qpl: auto, iaa, qpl-software or software
    #[arg(long, default_value = "auto", value_name = "E", value_parser = engine_parser())]
    pub engine: EngineChoice,
    /// Compare each page that a device made with the checksum it reports
    #[arg(long)]
    pub verify: bool,
    /// Use only the devices of the NUMA node that a channel's thread runs on
    #[arg(long)]
    pub near_device: bool,
    /// Let the device write pages that are present in guest memory directly:
    /// saves a copy, but a device that stops answering ends the migration
    #[arg(long)]
    pub device_direct: bool,
    /// Worker threads that decompress pages [default: one per core]
    #[arg(long, value_name = "N")]
    pub workers: Option<NonZeroUsize>,
    /// How pages get into guest memory: place, populate, huge or fault
    /// [default: what a short measurement finds best]
    #[arg(long, value_name = "P", value_parser = policy_parser())]
    pub placement: Option<Policy>,
    /// Refuse a guest with more RAM than this, such as 64G
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "16T")]
    pub max_ram: u64,
    /// Directory for the guest: one sparse file per RAMBlock, manifest.json,
    /// devices.bin, vmdesc.json
    #[arg(long, value_name = "DIR")]
    pub ram_dir: Option<PathBuf>,
    /// File for the JSON report
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Print the JSON report to standard output
    #[arg(long)]
    pub json: bool,
    /// Put each block's SHA-256 into the report
    #[arg(long)]
    pub sha256: bool,
    /// Put TLB flushes and page faults by mode into the report, where the
    /// kernel permits counting its tracepoints
    #[arg(long)]
    pub trace: bool,
    /// What is done about zero pages: map, or read-check and one-bit, which
    /// other receivers do and which are here to be measured against
    #[arg(long, value_name = "Z", value_parser = zero_mode_parser(), default_value = "map", hide = true)]
    pub zero_mode: ZeroMode,
}

impl Receiving {
    /// The library's options.
    pub fn options(&self, channels: Option<usize>) -> Options {
        Options {
            channels,
            method: self.method,
            engine: self.engine,
            device: hardware::Options {
                verify: self.verify,
                direct: self.device_direct,
                numa: if self.near_device { Numa::ThreadNode } else { Numa::Any },
                ..hardware::Options::default()
            },
            workers: self.workers,
            placement: self.placement,
            zero_mode: self.zero_mode,
            trace: self.trace,
            limits: Limits { max_ram: self.max_ram, ..Limits::default() },
            ..Options::default()
        }
    }
}

/// `4096`, `64K`, `2M`, `64G`, `1T`, in powers of 1024.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size: write bytes, or a number with K, M, G or T");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        "T" | "TIB" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

/// Seconds, as a number with or without a fraction.
fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| format!("{text:?} is not a number of seconds"))
}

/// `auto`, `always` or `never`.
fn switchover_ack(text: &str) -> Result<SwitchoverAck, String> {
    match text {
        "auto" => Ok(SwitchoverAck::Auto),
        "always" => Ok(SwitchoverAck::Always),
        "never" => Ok(SwitchoverAck::Never),
        _ => Err(format!("{text:?}: write auto, always or never")),
    }
}

/// The methods that can be received.
pub fn method_parser() -> impl TypedValueParser<Value = MethodId> {
    PossibleValuesParser::new(["none", "zlib", "zstd", "qpl"]).try_map(|name| name.parse())
}

fn engine_parser() -> impl TypedValueParser<Value = EngineChoice> {
    PossibleValuesParser::new(EngineChoice::NAMES.map(|(name, _)| name))
        .try_map(|name| name.parse())
}

fn policy_parser() -> impl TypedValueParser<Value = Policy> {
    PossibleValuesParser::new(["place", "populate", "huge", "fault"]).try_map(|name| name.parse())
}

fn zero_mode_parser() -> impl TypedValueParser<Value = ZeroMode> {
    PossibleValuesParser::new(["map", "read-check", "one-bit"]).map(|name| match name.as_str() {
        "read-check" => ZeroMode::ReadCheck,
        "one-bit" => ZeroMode::OneBit,
        _ => ZeroMode::Map,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("64G"), Ok(64 << 30));
        assert_eq!(size("2mib"), Ok(2 << 20));
        for wrong in ["", "G", "1X", "-1", "99999999T", "1.5G"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
