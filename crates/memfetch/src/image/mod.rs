//! Files as sources and as outputs.

pub mod record;
