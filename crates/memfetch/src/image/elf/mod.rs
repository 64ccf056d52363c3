//! ELF cores: ours, gdb's, the kernel's own, of either word size and byte order.
//!
//! Nothing in a core is believed: every number is checked against the file's own length, and the worst that a
//! hostile file gets is an error or a region that cannot be read. What is damaged costs what it describes and
//! no more.

mod encoding;
mod header;
mod names;
mod notes;
mod segment;
mod status;

pub(super) use header::{Header, ProgramHeaders};
pub(super) use names::{regions, with_unsaved_files};
pub(super) use notes::Notes;
pub(super) use segment::{Segment, at, in_order};
pub use status::ProcessFacts;
