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
mod survey;

use std::ops::ControlFlow;
use std::sync::Arc;

pub use chunk::{Chunk, Segment};
pub use survey::{Coverage, Left, Scope, Survey};

use self::chunk::{Cut, Cutter, Order};
pub(super) use self::survey::{Fate, fate};
use super::crew::{self, Job, Taker, Watched};
use crate::error::Error;
use crate::memory::Cause;
use crate::source::{RunReader, Source};

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
        let cutter = Cutter::new(Cut { core: self.core, behind: self.behind, ahead: self.ahead });
        let before = source.left_in_ram();
        let mut taker = Counting { coverage: survey.coverage.clone(), each };
        let job = Looking { source: source.handle(), page_size: source.platform().page_size, survey, look };
        let result = crew::run(job, cutter, self.threads, source.time_limit(), &mut taker);
        let result = result.and_then(|()| source.check());
        let mut coverage = taker.coverage;
        coverage.gaps.sort();
        coverage.left_in_ram_bytes = source.left_in_ram().saturating_sub(before);
        Swept { coverage, result }
    }
}

/// What the threads of a sweep do.
struct Looking<L> {
    source: Arc<dyn Source>,
    page_size: u64,
    survey: Survey,
    look: L,
}

impl<T: Send + 'static, L: Fn(&Chunk) -> T + Send + Sync + 'static> Job for Looking<L> {
    type Cutter = Cutter;
    type Order = Order;
    type Chunk = Chunk;
    type Found = T;

    fn cut(&self, cutter: &mut Cutter) -> Option<Order> {
        cutter.next(&self.survey.runs)
    }

    fn fill(&self, order: &Order, chunk: &mut Chunk, watched: &Watched<'_>) -> Result<(), Error> {
        let reader = RunReader {
            source: self.source.as_ref(),
            map: &self.survey.map,
            touch: self.survey.touch,
            page_size: self.page_size,
            cancelled: watched.cancelled,
            beat: watched.beat,
        };
        chunk.fill(order, &self.survey, &reader)
    }

    fn look(&self, chunk: &Chunk) -> T {
        (self.look)(chunk)
    }
}

/// Takes the chunks of a sweep, and counts what they came to.
struct Counting<E> {
    coverage: Coverage,
    each: E,
}

impl<T, L, E> Taker<Looking<L>> for Counting<E>
where
    T: Send + 'static,
    L: Fn(&Chunk) -> T + Send + Sync + 'static,
    E: FnMut(&Chunk, T) -> ControlFlow<()>,
{
    fn take(&mut self, chunk: &Chunk, found: T) -> ControlFlow<()> {
        chunk.count(&mut self.coverage);
        (self.each)(chunk, found)
    }

    fn lost(&mut self, order: &Order) {
        for piece in &order.pieces {
            self.coverage.gaps.push(piece.core, Cause::TimedOut);
        }
    }
}
