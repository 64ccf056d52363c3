//! The commands: each carries out a plan and tells how it ended.

pub mod diff;
pub mod find;
pub mod gcore;
pub mod maps;
pub mod read;
pub mod recv;
mod rules;
pub mod snap;
pub mod strings;
pub mod verify;
