//! Migrations that must be refused: each with one clear sentence, soon, without
//! a panic and without much memory.

mod configuration;
mod connections;
mod mutation;
mod packets;
mod payloads;
mod ram_records;
mod refusal;
mod silence;
#[path = "../support/mod.rs"]
mod support;
mod surplus;
mod truncation;
