//! [`Source`]: a memory that operations over whole address spaces go through, on threads of their own.
//!
//! [`Memory::read_at`] answers one question at a time, within the source's time limit. Who reads gigabytes knows the
//! state of each page beforehand, reads on the thread that looks at the bytes while they are in its cache, and has
//! somebody else watch that the read comes back: a page of a hung process may never.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::address::{Address, Span};
use crate::error::Error;
use crate::memory::{Cause, Memory, PageRuns, PageState, ReadError, Touch};
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
    /// table: for [`Touch::All`], and what cannot be had otherwise.
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

    /// Whether this is a process that runs on this machine, whose page states tell of now.
    fn is_live(&self) -> bool {
        false
    }

    /// Whether the regions are all that the process had, with their names, offsets and permissions.
    fn has_exact_map(&self) -> bool {
        true
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
    /// When somebody looked last, likewise.
    looked: AtomicU64,
}

/// Whoever watches looks several times a second. Where that long passed without a look, this whole process stood still
/// (SIGSTOP, a debugger, a frozen cgroup), and what was not read meanwhile is not the target's fault.
const STOOD_STILL: u64 = 1000;

impl Heartbeat {
    pub(crate) fn new() -> Self {
        Self { epoch: Instant::now(), since: AtomicU64::new(0), looked: AtomicU64::new(0) }
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

    /// For how long it has been in one and the same read, while this process ran.
    pub(crate) fn stuck_for(&self) -> Duration {
        let now = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1;
        let looked = self.looked.swap(now, Ordering::Relaxed);
        let since = self.since.load(Ordering::Relaxed);
        if since == 0 {
            return Duration::ZERO;
        }
        let away = now.saturating_sub(looked.max(since));
        if away > STOOD_STILL {
            // Unless it has come back from that read meanwhile.
            let later = since + away;
            let _ = self.since.compare_exchange(since, later, Ordering::Relaxed, Ordering::Relaxed);
            return Duration::from_millis(now.saturating_sub(later));
        }
        Duration::from_millis(now.saturating_sub(since))
    }
}

/// Whether pages of this state, which cannot be read from what is behind the mapping, are read through it instead.
pub(crate) fn is_touched(state: PageState, touch: Touch) -> bool {
    state == PageState::Unreadable(Cause::SharedUnknown) && touch == Touch::All
}

/// What a touch policy makes of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Known to be zero, and not read.
    Zero,
    /// Read; through the mapping where [`is_touched`] says so.
    Read,
    /// Could be read, and the policy says not to.
    LeftAlone,
    /// Cannot be read, or holds nothing.
    Refused(Cause),
}

/// What `touch` makes of a page in this state: the one table that all operations go by.
pub(crate) fn reach(state: PageState, touch: Touch) -> Reach {
    match state {
        PageState::Absent | PageState::Zero => Reach::Zero,
        PageState::Resident | PageState::FileResident => Reach::Read,
        PageState::Swapped | PageState::Backed | PageState::FileClean if touch >= Touch::Stored => {
            Reach::Read
        }
        PageState::Swapped | PageState::Backed | PageState::FileClean => Reach::LeftAlone,
        PageState::Unreadable(_) if is_touched(state, touch) => Reach::Read,
        PageState::Guard => Reach::Refused(Cause::Guard),
        PageState::Unreadable(cause) => Reach::Refused(cause),
    }
}

/// How a thread reads runs of pages: what it reads from, and who watches it.
pub(crate) struct RunReader<'a, S: ?Sized> {
    pub source: &'a S,
    pub map: &'a RegionMap,
    pub touch: Touch,
    pub page_size: u64,
    /// Set when the work is given up: no further page is read then.
    pub cancelled: &'a AtomicBool,
    pub beat: &'a Heartbeat,
}

/// How much a [`RunReader`] read, and where from.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Amounts {
    /// Through the mappings.
    pub mapped_bytes: u64,
    /// From the files and memory objects behind them.
    pub behind_bytes: u64,
}

impl<S: PageSource + ?Sized> RunReader<'_, S> {
    /// Reads all of a run of one state. A page that cannot be had becomes filler, and `missing` is told of it: those
    /// behind it may well be there.
    pub(crate) fn read(
        &self,
        at: Address,
        state: PageState,
        bytes: &mut [u8],
        missing: &mut impl FnMut(Span, Cause),
    ) -> Result<Amounts, Error> {
        let mut amounts = Amounts::default();
        // Once one page of a run cannot be had but by touching it, the others are alike.
        let mut touched = is_touched(state, self.touch);
        let mut region: Option<&Region> = None;
        let mut done = 0;
        while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
            if self.cancelled.load(Ordering::Relaxed) {
                break;
            }
            let here = at.saturating_add(done as u64);
            region = region.filter(|region| region.span.contains(here)).or_else(|| self.map.at(here));
            let Some(region) = region else {
                fill(here, rest, Cause::NotMapped, missing);
                break;
            };
            self.beat.beat();
            let read = if touched {
                self.source.touch(region, here, rest)
            } else {
                self.source.fetch(region, state, here, rest)
            };
            match read {
                Ok(0) => {
                    fill(here, rest, Cause::Vanished, missing);
                    break;
                }
                Ok(n) => {
                    match state {
                        PageState::FileClean | PageState::Backed if !touched => {
                            amounts.behind_bytes += n as u64;
                        }
                        _ => amounts.mapped_bytes += n as u64,
                    }
                    done += n;
                }
                // The file is gone, or was never to be had.
                Err(ReadError::Fault(fault))
                    if fault.cause == Cause::FileUnavailable && self.touch == Touch::All && !touched =>
                {
                    touched = true;
                }
                Err(ReadError::Fault(fault)) => {
                    let page_end = here.saturating_add(1).align_up(self.page_size);
                    let len = page_end.offset_from(here).unwrap_or(1).min(rest.len() as u64) as usize;
                    if let Some(page) = rest.get_mut(..len) {
                        fill(here, page, fault.cause, missing);
                    }
                    done += len;
                }
                Err(ReadError::Source(error)) => return Err(error),
            }
        }
        self.beat.rest();
        Ok(amounts)
    }
}

/// Filler in the place of what could not be read.
fn fill(at: Address, bytes: &mut [u8], cause: Cause, missing: &mut impl FnMut(Span, Cause)) {
    bytes.fill(0);
    if let Some(span) = Span::from_len(at, bytes.len() as u64) {
        missing(span, cause);
    }
}
