//! [`Sweep`]: all bytes of a source, read once, looked at by several threads, and told of in order.
//!
//! # What is looked at
//!
//! A [`Survey`] takes the regions that a [`Scope`] wants and their page states, and sorts all of it: what is read, what
//! is known to be zero, what the touch policy leaves alone, what cannot be read. A *stretch* is memory without a gap
//! of any kind, across mappings and page states; what a pattern may match in it does not depend on how it is cut.
//!
//! # Chunks
//!
//! Stretches are cut into chunks on a grid of addresses, each with some bytes of what lies before and behind. What
//! *begins* in the core of a [`Segment`] belongs to its chunk and to no other, so that everything is found once,
//! whatever the number of threads. Long runs of known zeros are left out: no byte of them is in a core but those from
//! which something could reach into memory that was read.
//!
//! # Threads
//!
//! Chunks are read on the threads that look at them, while they are in the cache, and delivered in order on the
//! caller's thread. A read that does not come back within the source's time limit costs its chunk, which is a gap then;
//! after several of those the source counts as lost.

mod chunk;
mod crew;
mod survey;

use std::ops::ControlFlow;
use std::sync::Arc;

pub use chunk::{Chunk, Segment};
pub use survey::{Coverage, Left, Scope, Survey};

use self::chunk::Cut;
use crate::error::Error;
use crate::source::Source;

/// So much of a stretch is in one chunk: what fits into a core's own cache together with what looks at it.
const CORE: u64 = 256 << 10;

/// How a source is gone through.
#[derive(Clone, Debug)]
pub struct Sweep {
    threads: usize,
    core: u64,
    behind: u64,
    ahead: u64,
}

/// What a sweep came to: also one that did not come to its end has seen something.
#[derive(Debug)]
pub struct Swept {
    /// What was looked at, and what was not.
    pub coverage: Coverage,
    /// What ended it before its time.
    pub result: Result<(), Error>,
}

impl Default for Sweep {
    fn default() -> Self {
        Self::new()
    }
}

impl Sweep {
    /// A sweep with as many threads as there are processors, up to four.
    #[must_use]
    pub fn new() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, |count| count.get().min(4));
        Self { threads, core: CORE, behind: 0, ahead: 0 }
    }

    /// With so many threads, one at least.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.clamp(1, 256);
        self
    }

    /// Chunks with a core of so many bytes, a power of two.
    #[must_use]
    pub fn core(mut self, bytes: u64) -> Self {
        self.core = bytes.clamp(16, 1 << 30).next_power_of_two();
        self
    }

    /// So many bytes of what lies before are shown with each chunk, as far as they are there.
    #[must_use]
    pub fn behind(mut self, bytes: u64) -> Self {
        self.behind = bytes;
        self
    }

    /// So many bytes of what lies behind are shown with each chunk, as far as they are there: one less than the
    /// longest thing that is looked for.
    #[must_use]
    pub fn ahead(mut self, bytes: u64) -> Self {
        self.ahead = bytes;
        self
    }

    /// Reads what `survey` says of `source`. `look` runs on the threads, once for each chunk; `each` gets what it
    /// returned here, in ascending order, and can end the sweep.
    pub fn run<T: Send + 'static>(
        &self,
        source: &dyn Source,
        survey: Survey,
        look: impl Fn(&Chunk) -> T + Send + Sync + 'static,
        each: impl FnMut(&Chunk, T) -> ControlFlow<()>,
    ) -> Swept {
        let cut = Cut { core: self.core, behind: self.behind, ahead: self.ahead };
        crew::run(source, survey, cut, self.threads, Arc::new(look), each)
    }
}
