//! A process' memory as a typed source: read it, map it out, take a snapshot of it, without harming it.
//!
//! A *source* is anything that memory can be read from; it implements [`Memory`], and most implement
//! [`Threads`] too. What only reads works on every source.
//!
//! The bytes that a program has written, its own here, without touching a page that it has not touched:
//!
//! ```
//! use memfetch::{Memory, PageState, Process};
//!
//! let process = Process::current()?; // or Process::find("redis-server")?
//! let mut bytes = vec![0; 64 << 10];
//! let mut total = 0;
//! for region in process.regions()?.iter().filter(|region| region.permissions.write) {
//!     for run in process.pages(region.span)?.iter().filter(|run| run.state == PageState::Resident) {
//!         let n = process.read_at(run.span.start(), &mut bytes)?;
//!         total += n; // bytes[..n] is what lies at run.span.start()
//!     }
//! }
//! assert!(total > 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
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
pub mod net;
pub mod query;
pub mod region;
pub mod selector;
pub mod sink;
pub mod source;
pub mod threads;

pub use address::{Address, Span};
pub use capture::{ModeChoice, Progress, Report, Sharing, Snapshot, TrackerChoice};
pub use error::Error;
pub use image::Image;
pub use live::Process;
pub use memory::{
    ByteOrder, Cause, Fault, Gap, Gaps, Memory, PageRun, PageRuns, PageState, Platform, ReadError, Touch,
    WordSize,
};
pub use net::{Connection, Endpoint, Receive};
pub use region::{Backing, Permissions, Region, RegionMap};
pub use selector::{Selection, Selector};
pub use source::{PageSource, Source};
pub use threads::{Pid, Thread, Threads, Tid};
