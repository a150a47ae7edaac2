//! The command: its arguments, and its exit status.

#[path = "../../src/bin/multifd-qpl/doctor.rs"]
mod doctor;

use std::process::ExitCode;

use clap::Parser;
use multifd_qpl::doctor::render;

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
