//! The method qpl, by hand: Debian builds no QEMU with QPL.
//!
//! `QEMU_QPL=/path/to/qemu-system-x86_64 cargo test --test live -- --ignored`

use crate::qemu::{Machine, Migration};
use crate::receiving::receive_live;
use crate::recording::record_and_send;
use std::path::PathBuf;

fn machine() -> Machine {
    let qemu = std::env::var_os("QEMU_QPL").expect("QEMU_QPL is set");
    Machine::pc(&PathBuf::from(qemu))
}

#[test]
#[ignore = "needs a QEMU built with QPL in QEMU_QPL"]
fn received_over_tcp_with_a_return_path() {
    receive_live(&machine(), &Migration::new("qpl", 2, true), "tcp");
}

#[test]
#[ignore = "needs a QEMU built with QPL in QEMU_QPL"]
fn received_over_unix_on_four_channels() {
    let machine = Machine { kind: "q35", ..machine() };
    receive_live(&machine, &Migration::new("qpl", 4, false), "unix");
}

#[test]
#[ignore = "needs a QEMU built with QPL in QEMU_QPL"]
fn received_with_zero_pages_on_the_main_stream() {
    let legacy = Migration { zero_pages: Some("legacy"), ..Migration::new("qpl", 1, true) };
    receive_live(&machine(), &legacy, "unix");
}

#[test]
#[ignore = "needs a QEMU built with QPL in QEMU_QPL"]
fn sent_to_a_destination() {
    record_and_send(&machine(), &Migration::new("qpl", 2, true), "tcp", true);
}
