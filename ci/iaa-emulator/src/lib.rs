//! A software IAA that the real, unmodified libqpl drives.
//!
//! This library has the SONAME of libaccel-config, so a libqpl that looks for devices finds the ones made here. A
//! descriptor then travels so:
//!
//! ```text
//! libqpl -> accfg (which devices?) -> opens the node of a queue
//!        -> write(2)  -> hook  \
//!        -> ENQCMD    -> trap   > queue -> engine -> operation (inflate, deflate) -> memory -> completion record
//!                                             `- inject (what goes wrong?)              `- counters -> report
//! ```
//!
//! The README tells how to use it, what is modelled and what is not. By module, from the ground up: `checksum`,
//! `inflate`, `deflate` and `descriptor` know bytes only; `memory` is the client's memory with its faults; `operation` is
//! what one descriptor asks for; `queue`, `hook` and `trap` are the ways in; `engine` runs jobs and `inject` spoils them;
//! `machine` holds the devices; `accfg` and `control` are what is exported.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("libqpl and this device are for Linux on x86-64");

mod accfg;
mod checksum;
mod control;
mod counters;
mod deflate;
mod descriptor;
mod engine;
mod hook;
mod inflate;
mod inject;
mod machine;
mod memory;
mod operation;
mod queue;
mod settings;
mod tlb;
mod trap;
