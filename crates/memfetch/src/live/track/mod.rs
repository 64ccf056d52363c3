//! Which pages of a running process are written, from some moment on.
//!
//! A tracker watches mappings, is armed for pages, and tells of those that were written since. Who copies memory while it
//! changes copies again what was written meanwhile, and once the process is held, only what was written last.
//!
//! What no tracker sees, and its user has to look for: pages that came back to what they were before they were touched
//! (`MADV_DONTNEED`), whose state is another then; and what changes without a store through this mapping, in files and
//! shared memory.

mod soft_dirty;
mod write_protect;

use std::time::Duration;

pub(crate) use self::soft_dirty::{BySoftDirty, is_kept as keeps_soft_dirty};
pub(crate) use self::write_protect::WriteProtect;
use crate::address::Span;
use crate::error::Error;
use crate::memory::PageRuns;
use crate::region::RegionMap;

/// The ways to track.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    /// userfaultfd in asynchronous write-protect mode.
    #[default]
    WriteProtect,
    /// The soft-dirty bits of the page table.
    SoftDirty,
}

/// Tells which pages were written.
pub(crate) trait Tracker: Send + Sync {
    /// By what it does.
    fn kind(&self) -> Kind;

    /// Watches all mappings of a map that can be, also those that came since it was called before, and returns the new ones.
    fn watch(&self, map: &RegionMap) -> Vec<Span>;

    /// Takes note of what `pages` are like before they are armed, and arms them.
    fn begin(&self, pages: &PageRuns) -> Result<(), Error>;

    /// Whether the process has to be held while [`Tracker::written_and_rearm`] is called: what it writes in that moment
    /// would be told of by neither this call nor the next.
    fn needs_stop(&self) -> bool;

    /// Arms the pages that are there, and returns those that were written since they were armed before, or never were:
    /// ascending, in runs.
    fn written_and_rearm(&self, map: &RegionMap, pages: &PageRuns) -> Result<Vec<Span>, Error>;

    /// Its map, the states of its pages, and where it is certain that nothing was written since it was armed, ascending, of
    /// a process that is held or not. `known` are states that pages had since they were armed.
    fn look(&self, known: PageRuns, held: bool) -> Result<(RegionMap, PageRuns, Vec<Span>), Error>;

    /// Ends the tracking. Best done when the process runs: what is still armed costs its next write something.
    fn leave(&self) -> Cost;
}

/// What tracking cost the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    /// The longest time for which one call held a lock that the process may have waited for.
    pub longest_lock: Duration,
    /// Bytes of huge pages that writes have split, and that could not be put together again.
    pub split_bytes: u64,
}
