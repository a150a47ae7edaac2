//! The doctor against made-up hosts: trees of `/sys`, `/proc` and `/dev` in a
//! temporary directory, and made-up answers of what only trying can tell.

mod chain;
mod command;
mod defects;
mod tree;
