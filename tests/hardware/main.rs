//! The hardware engine against devices that fail, and against the real libqpl.

mod campaign;
mod libqpl;
mod support;
