//! From a live process to an image.

pub mod plan;
