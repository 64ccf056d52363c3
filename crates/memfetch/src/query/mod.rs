//! Looking at memory: operations that read any [`Source`](crate::Source) and know nothing of where its bytes come from.
//!
//! What they have in common: a byte that was not read is never shown as one, pages are read as far as
//! [`Touch`](crate::Touch) allows, and memory use is bounded whatever is asked for.

pub mod atlas;
pub mod dump;
pub mod place;
pub mod reader;
pub mod symbols;
pub mod values;
