//! An ELF core, written: first every offset is laid out, then headers and notes are bytes, then the memory
//! follows in the order of the layout. The same for a file, a pipe and a socket.

pub mod layout;
pub mod notes;
pub mod xstate;

pub use layout::{Group, Layout, Placed, Segment};
