//! The commands: each carries out a plan and tells how it ended.

pub mod maps;
pub mod snap;
pub mod strings;
pub mod verify;
