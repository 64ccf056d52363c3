//! A running process as a source.

pub mod stop;
