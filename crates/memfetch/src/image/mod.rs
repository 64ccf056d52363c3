//! Files as sources and as outputs.

pub mod encode;
pub mod record;
