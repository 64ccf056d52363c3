//! Questions to a memory, of any source: a live process, an image, a region directory.
//!
//! Each goes by the page states, so that nothing is read that is known to be zero, and nothing that the
//! [`Touch`](crate::Touch) policy leaves alone; and each says what it could not look at.

mod crew;
pub mod diff;
pub mod dump;
pub mod sweep;
