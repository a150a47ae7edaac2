//! The command: its arguments, and its exit status.

#[path = "../../src/bin/multifd-qpl/doctor.rs"]
mod doctor;

use std::process::{self, ExitCode};

use clap::Parser;
use multifd_qpl::doctor::{Ending, ask_library, render};

use crate::tree::Host;

#[derive(Debug, Parser)]
struct Command {
    #[command(flatten)]
    args: doctor::DoctorArgs,
}

#[test]
fn a_copy_of_a_host_can_be_examined() {
    let host = Host::sapphire_rapids();
    let dir = host.path().to_str().unwrap();
    for arguments in [vec!["doctor", "--root", dir], vec!["doctor", "--json", "--root", dir]] {
        let command = Command::try_parse_from(arguments).unwrap();
        assert_eq!(doctor::run(command.args), ExitCode::from(1), "no page was tried");
    }
}

#[test]
fn what_asks_the_libraries_takes_no_other_argument() {
    assert!(Command::try_parse_from(["doctor", "--ask-library"]).is_ok());
    assert!(Command::try_parse_from(["doctor", "--ask-library", "--json"]).is_err());
}

#[test]
fn text_shows_commands_below_what_they_mend() {
    let mut host = Host::sapphire_rapids();
    host.without_idxd();
    let text = render(&host.examine());
    let lines: Vec<_> = text.lines().collect();
    let bad = lines.iter().position(|line| line.starts_with("bad ")).unwrap();
    assert!(lines[bad].contains("idxd driver"));
    assert_eq!(lines[bad + 1].trim(), "$ sudo modprobe idxd");
    let verdict = lines.last().unwrap();
    assert!(verdict.contains("engine software here; to use the device, first mend"), "{verdict}");
}

/// What the command does for `--ask-library`, in this test's own program.
#[test]
#[ignore = "is run by the test below, in a process of its own"]
fn child() {
    let command = Command::try_parse_from(["doctor", "--ask-library"]).unwrap();
    assert_eq!(doctor::run(command.args), ExitCode::SUCCESS);
}

#[test]
fn the_libraries_are_asked_in_another_process() {
    let ask = |library: &str| {
        let mut command = process::Command::new(std::env::current_exe().unwrap());
        command.args(["command::child", "--exact", "--ignored", "--nocapture"]);
        ask_library(command.env("QPL_LIBRARY", library))
    };
    let probe = ask("/nonexistent/libqpl.so.1");
    assert_eq!(probe.ending, Ending::Finished);
    assert!(probe.accel_config.is_some());
    let why = probe.qpl.unwrap().unwrap_err();
    assert!(why.contains("/nonexistent/libqpl.so.1"), "{why}");

    let probe = ask("libc.so.6");
    let why = probe.qpl.unwrap().unwrap_err();
    assert!(why.contains("qpl_get_library_version"), "{why}");
    assert_eq!((probe.init, probe.trip), (None, None));
}
