//! How memory is shown: each view takes the parts of a span in order and writes them.

mod hex;
mod json;
mod raw;
mod typed;

use std::ops::ControlFlow;

use memfetch::Fault;
use memfetch::query::reader::Chunk;

pub use hex::{Hex, painted};
pub use json::{Json, Subject};
pub use raw::Raw;
pub use typed::Typed;

use crate::failure::Failure;

/// What shows the parts of a span.
pub trait Show {
    /// Shows the next part. With [`ControlFlow::Break`] nothing more is wanted.
    fn show(&mut self, chunk: Chunk<'_>) -> Result<ControlFlow<()>, Failure>;

    /// There are no more parts.
    fn finish(&mut self) -> Result<(), Failure>;

    /// The byte before which it stopped since it cannot be shown.
    fn stopped_at(&self) -> Option<Fault> {
        None
    }

    /// What remains to be said of what was shown.
    fn note(&self) -> Option<String> {
        None
    }
}
