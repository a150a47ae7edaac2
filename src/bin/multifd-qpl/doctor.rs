//! `multifd-qpl doctor`: tells whether this host can use its IAA devices, and
//! what to mend if not.
//!
//! Exit status: 0 when a page went through a device, so that engine `iaa` is
//! what a migration gets; 1 when it is not, and software decompresses; 2 when
//! the command line is wrong. Both 0 and 1 come with a full report.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use multifd_qpl::doctor::{
    LibraryProbe, Probes, Root, ask_library, examine, render, tell_about_library,
};

/// Look at everything between this command and an IAA device, and say what to
/// mend.
///
/// Goes through CPU, kernel, IOMMU, devices, work queues and libraries, from
/// the bottom up, and ends with the engine that a migration would get here.
/// Needs no root, and changes nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 when the device decompressed a page, 1 when software \
                        would be used, 2 for a wrong command line.")]
pub struct DoctorArgs {
    /// Print one JSON object: {"checks":[{"id","title","state","detail","fix"}],"verdict":{...}}.
    #[arg(long)]
    json: bool,

    /// Look at a copy of another host's /sys, /proc, /dev, /etc and /boot below
    /// DIR, and try nothing.
    #[arg(long, value_name = "DIR", hide = true)]
    root: Option<PathBuf>,

    /// Ask the libraries, and tell the process that runs this.
    #[arg(long, hide = true, conflicts_with_all = ["json", "root"])]
    ask_library: bool,
}

/// Examines the host and prints the report.
pub fn run(args: DoctorArgs) -> ExitCode {
    if args.ask_library {
        tell_about_library();
        return ExitCode::SUCCESS;
    }
    let root = args.root.map_or_else(Root::host, Root::at);
    let probes = if root.is_host() { Probes::of_host(ask()) } else { Probes::default() };
    let report = examine(&root, &probes);
    let text = if args.json {
        // Strings and lists of strings: nothing in them that JSON lacks.
        serde_json::to_string_pretty(&report).unwrap_or_default() + "\n"
    } else {
        render(&report)
    };
    // Who closes the pipe early has read enough; the status still tells.
    let _ = std::io::stdout().write_all(text.as_bytes());
    if report.iaa_usable() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn ask() -> LibraryProbe {
    let this = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    ask_library(Command::new(this).args(["doctor", "--ask-library"]))
}
