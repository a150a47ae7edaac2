//! Receives QEMU multifd live migrations: every page once, without faults, on
//! an Intel IAA device or in software.
//!
//! The rooms, from the ground up; a room uses only the rooms above it in this
//! list:
//!
//! * [`wire`]: bytes to values and back. No I/O, no unsafe.
//! * [`ram`]: RAMBlocks, the received map, and how bytes get into guest pages.
//! * [`inflate`]: page decoders, one raw DEFLATE block in, one page out.
//! * [`engine`]: runs page jobs, in software or on the device.
//! * [`measure`]: what a migration costs the process.
//! * [`method`]: one file per compression method.
//! * [`recording`]: recorded migrations: read, send, generate.
//! * [`receiver`]: connections, epochs, the verdict; records, too.
//! * [`capi`]: the C interface to methods and received map.
//! * [`doctor`]: what stands between this host and its IAA.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("multifd-qpl receives x86-64 guests on Linux hosts only");

pub mod capi;
pub mod doctor;
pub mod engine;
pub mod inflate;
pub mod measure;
pub mod method;
pub mod ram;
pub mod receiver;
pub mod recording;
pub mod wire;

/// Compiles the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
