//! A process' memory as a typed source: read it, map it out, take a snapshot of it, without harming it.
//!
//! A *source* is anything that memory can be read from; it implements [`Memory`], and most implement
//! [`Threads`] too. What only reads works on every source.
//!
//! This crate never prints, never exits, and never reads the environment.
#![forbid(unsafe_code)]

pub mod address;
pub mod capture;
pub mod error;
pub mod image;
pub mod live;
pub mod maps;
pub mod memory;
pub mod region;
pub mod selector;
pub mod sink;
pub mod threads;

pub use address::{Address, Span};
pub use error::Error;
pub use image::Image;
pub use memory::{
    ByteOrder, Cause, Fault, Gap, Gaps, Memory, PageRun, PageRuns, PageState, Platform, ReadError, Touch,
    WordSize,
};
pub use region::{Backing, Permissions, Region, RegionMap};
pub use selector::{Selection, Selector};
pub use threads::{Pid, Thread, Threads, Tid};
