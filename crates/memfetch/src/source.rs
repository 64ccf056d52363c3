//! [`Source`]: a memory that operations over whole address spaces go through, on threads of their own.
//!
//! [`Memory::read_at`] answers one question at a time, within the source's time limit. Who reads gigabytes knows the
//! state of each page beforehand, reads on the thread that looks at the bytes while they are in its cache, and has
//! somebody else watch that the read comes back: a page of a hung process may never.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::address::{Address, Span};
use crate::error::Error;
use crate::memory::{Memory, PageRuns, PageState, ReadError};
use crate::region::{Region, RegionMap};

/// How pages are read whose state is known: on the calling thread, for as long as the kernel takes.
pub trait PageSource: Send + Sync + 'static {
    /// Reads a prefix of `buf` from `at` on, by the route that does the target the least harm for a page of this
    /// state. Nothing is entered into the target's page table.
    ///
    /// # Errors
    ///
    /// As [`Memory::read_at`].
    fn fetch(
        &self,
        region: &Region,
        state: PageState,
        at: Address,
        buf: &mut [u8],
    ) -> Result<usize, ReadError>;

    /// Reads a prefix of `buf` from `at` on through the mapping, though that enters pages into the target's page
    /// table: for [`Touch::All`](crate::Touch::All), and what cannot be had otherwise.
    ///
    /// # Errors
    ///
    /// As [`Memory::read_at`].
    fn touch(&self, region: &Region, at: Address, buf: &mut [u8]) -> Result<usize, ReadError>;
}

/// A source whose pages several threads read, each of which may have to be left behind.
pub trait Source: Memory + PageSource {
    /// The same source, for a thread that may outlive the caller's interest in it.
    fn handle(&self) -> Arc<dyn Source>;

    /// The regions and the states of all their pages, from one look at the map.
    ///
    /// # Errors
    ///
    /// As [`Memory::regions`].
    fn regions_and_pages(&self) -> Result<(RegionMap, PageRuns), Error> {
        Ok((self.regions()?, self.pages(Span::ALL)?))
    }

    /// How long a read may take before it counts as one that never comes back; `None` waits for ever.
    fn time_limit(&self) -> Option<Duration> {
        None
    }

    /// Whether it is still what it was when it was opened.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`], [`Error::Replaced`].
    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    /// How many bytes all reads until now brought in from swap and could not send back.
    fn left_in_ram(&self) -> u64 {
        0
    }

    /// The auxiliary vector, keys (`AT_*` of getauxval(3)) and values; empty where it is not known.
    ///
    /// # Errors
    ///
    /// As [`Memory::regions`].
    fn auxiliary_vector(&self) -> Result<Vec<(u64, u64)>, Error> {
        Ok(Vec::new())
    }

    /// The file behind a region, opened from outside; nothing where it cannot be found or read.
    fn file_behind(&self, _: &Region) -> Option<FileBehind> {
        None
    }
}

/// A file that is mapped, or was.
#[derive(Clone)]
pub struct FileBehind {
    /// The file.
    pub file: Arc<dyn ReadFile>,
    /// Whether it is known to be the one that is mapped; otherwise it only has its name, and what else tells files
    /// apart, such as a build-id, has to be compared.
    pub is_certain: bool,
}

/// A file that can be read at any offset.
pub trait ReadFile: Send + Sync {
    /// Its length in bytes.
    fn size(&self) -> u64;

    /// Reads a prefix of `buf` from `offset` on, and returns its length: 0 at and behind the end.
    ///
    /// # Errors
    ///
    /// Those of pread(2), and ETIMEDOUT where the kernel did not answer in time.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<usize>;
}

/// When a thread began the read that it is in, so that another can see that it is stuck.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    epoch: Instant,
    /// Milliseconds after `epoch`, plus one; 0 while it is not reading.
    since: AtomicU64,
}

impl Heartbeat {
    pub(crate) fn new() -> Self {
        Self { epoch: Instant::now(), since: AtomicU64::new(0) }
    }

    /// A read begins.
    pub(crate) fn beat(&self) {
        let now = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.since.store(now + 1, Ordering::Relaxed);
    }

    /// No read is under way.
    pub(crate) fn rest(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// For how long it has been in one and the same read.
    pub(crate) fn stuck_for(&self) -> Duration {
        match self.since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => self.epoch.elapsed().saturating_sub(Duration::from_millis(since - 1)),
        }
    }
}
