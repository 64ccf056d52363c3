//! The commands: each carries out a plan and tells how it ended.

pub mod diff;
pub mod maps;
pub mod snap;
pub mod verify;
