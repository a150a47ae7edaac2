//! Migrations that must be received whole and right, however they come.

mod lockstep;
mod old_sources;
mod recordings;
mod return_path;
#[path = "../support/mod.rs"]
mod support;
mod without_channels;
mod zero_pages;
