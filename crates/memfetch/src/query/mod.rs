//! Looking at memory: operations that read any [`Source`](crate::Source) and know nothing of where its bytes come from.
//!
//! What they have in common: a byte that was not read is never shown as one, pages are read as far as
//! [`Touch`](crate::Touch) allows, what is known to be zero is not read at all, and memory use is bounded whatever is
//! asked for. Each says what it could not look at.

pub mod atlas;
mod crew;
pub mod diff;
pub mod dump;
pub mod find;
pub mod place;
pub mod reader;
pub mod rules;
pub mod strings;
pub mod sweep;
pub mod symbols;
pub mod utf16;
pub mod values;
