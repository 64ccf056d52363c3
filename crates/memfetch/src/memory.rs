//! [`Memory`]: anything that memory can be read from, and the words for what it says.
//!
//! # What a read means
//!
//! [`Memory::read_at`] fills a *prefix* of the buffer: `Ok(n)` with `0 < n <= buf.len()`, and the bytes behind
//! `n` are untouched. Where not even the first byte can be had it is a [`Fault`], which carries the address and
//! the cause. It is never `Ok(0)` for a buffer that is not empty, and a byte that was not read is never shown
//! as zero. A short read says nothing of why: read again at `at + n`, and the fault there does.
//!
//! Nothing here promises that two reads see the same instant: consistency is what a capture adds.
//!
//! # What a page state means
//!
//! [`Memory::pages`] tells what a read *would* meet, without touching a page. Operations go by it: what is
//! [`PageState::Absent`] is known to be zero and is never read at all.

use serde::{Deserialize, Serialize};

use crate::address::{Address, Span};
use crate::error::Error;
use crate::region::RegionMap;

/// A source of memory: a live process, an image of one, or a space built in a test.
///
/// `&self` throughout, so that workers share a source.
pub trait Memory: Send + Sync {
    /// The machine whose memory this is.
    fn platform(&self) -> &Platform;

    /// The regions, as they are at this moment.
    ///
    /// # Errors
    ///
    /// The source as a whole cannot be asked: the process is gone, permission is missing, the file is unreadable.
    fn regions(&self) -> Result<RegionMap, Error>;

    /// The states of the pages of `span`, without touching one.
    ///
    /// The runs ascend and do not overlap; neighbours differ in state or do not adjoin; what lies in no run is
    /// not mapped. Runs are cut to `span`.
    ///
    /// # Errors
    ///
    /// As for [`Memory::regions`].
    fn pages(&self, span: Span) -> Result<PageRuns, Error>;

    /// Reads bytes from `at` on into a prefix of `buf`, and returns the length of that prefix.
    ///
    /// # Errors
    ///
    /// [`ReadError::Fault`] where the byte at `at` cannot be read; [`ReadError::Source`] where the source as a
    /// whole is lost. An empty `buf` reads nothing and is `Ok(0)`.
    fn read_at(&self, at: Address, buf: &mut [u8]) -> Result<usize, ReadError>;
}

/// The machine that a memory belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// The ELF machine number (`EM_*` of elf.h), 62 for x86-64.
    pub machine: u16,
    /// The width of an address.
    pub word: WordSize,
    /// The byte order.
    pub byte_order: ByteOrder,
    /// The size of a page in bytes, a power of two.
    pub page_size: u64,
}

impl Platform {
    /// A 64-bit x86 with 4 KiB pages.
    pub const X86_64: Self =
        Self { machine: 62, word: WordSize::Bits64, byte_order: ByteOrder::Little, page_size: 4096 };
    /// A 32-bit x86 with 4 KiB pages.
    pub const I386: Self =
        Self { machine: 3, word: WordSize::Bits32, byte_order: ByteOrder::Little, page_size: 4096 };
}

/// The width of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WordSize {
    /// Four bytes.
    #[serde(rename = "32")]
    Bits32,
    /// Eight bytes.
    #[serde(rename = "64")]
    Bits64,
}

impl WordSize {
    /// How many bytes an address has.
    #[must_use]
    pub const fn bytes(self) -> u8 {
        match self {
            Self::Bits32 => 4,
            Self::Bits64 => 8,
        }
    }
}

/// The order of the bytes of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ByteOrder {
    /// Least significant byte first.
    Little,
    /// Most significant byte first.
    Big,
}

/// What is known of a page without touching it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PageState {
    /// Never touched, and therefore zero: private anonymous memory, or a hole in a shared memory object.
    Absent,
    /// Mapped to the kernel's shared page of zeros.
    Zero,
    /// In RAM and in the page table, with bytes of its own: an anonymous page, or one of shared memory or of a
    /// writable shared file. Reading it changes nothing.
    Resident,
    /// In swap. Reading it brings it back into RAM.
    Swapped,
    /// Not in this process' page table, but in the shared memory object behind the mapping, in RAM or in swap.
    /// Read from the object itself; a read through the mapping would enter it into the page table.
    Backed,
    /// Identical to the file behind the mapping, and in the page table. Reading it changes nothing.
    FileResident,
    /// Identical to the file behind the mapping, and not in the page table: read from the file itself.
    FileClean,
    /// A guard page (`MADV_GUARD_INSTALL`): any access faults.
    Guard,
    /// Cannot be read at all.
    Unreadable(Cause),
}

impl PageState {
    /// Whether the bytes are zero by definition, so that nothing has to be read.
    #[must_use]
    pub const fn is_known_zero(self) -> bool {
        matches!(self, Self::Absent | Self::Zero)
    }

    /// Whether the page is in RAM and in the page table with bytes that have to be read.
    #[must_use]
    pub const fn is_in_ram(self) -> bool {
        matches!(self, Self::Resident | Self::FileResident)
    }

    /// Why no read can succeed here, if that is known beforehand.
    #[must_use]
    pub const fn refusal(self) -> Option<Cause> {
        match self {
            Self::Guard => Some(Cause::Guard),
            Self::Unreadable(cause) => Some(cause),
            _ => None,
        }
    }
}

/// A run of neighbouring pages of one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRun {
    /// Where the pages lie.
    pub span: Span,
    /// What they all are.
    pub state: PageState,
}

/// Page states, run-length coded: ascending, not overlapping, neighbours of one state joined.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PageRuns(Vec<PageRun>);

impl PageRuns {
    /// No pages.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a run behind the last one, joining it where state and address continue.
    ///
    /// What lies at or below the end of the last run is cut off: the kernel's own scan reports ranges twice in
    /// some cases, and a run list that goes backwards would copy pages twice.
    pub fn push(&mut self, span: Span, state: PageState) {
        let span = match self.0.last() {
            Some(last) => span.split_at(last.span.end()).1,
            None => span,
        };
        if span.is_empty() {
            return;
        }
        if let Some(last) = self.0.last_mut()
            && last.span.end() == span.start()
            && last.state == state
            && let Some(joined) = Span::new(last.span.start(), span.end())
        {
            last.span = joined;
            return;
        }
        self.0.push(PageRun { span, state });
    }

    /// The runs in ascending order.
    pub fn iter(&self) -> std::slice::Iter<'_, PageRun> {
        self.0.iter()
    }

    /// The runs in ascending order.
    #[must_use]
    pub fn as_slice(&self) -> &[PageRun] {
        &self.0
    }

    /// Whether there is no run.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many runs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The parts of the runs that lie in `span`.
    pub fn within(&self, span: Span) -> impl Iterator<Item = PageRun> + '_ {
        let first = self.0.partition_point(|run| run.span.end() <= span.start());
        self.0.iter().skip(first).map_while(move |run| {
            let span = run.span.intersection(span)?;
            Some(PageRun { span, state: run.state })
        })
    }

    /// The run that holds `at`.
    #[must_use]
    pub fn at(&self, at: Address) -> Option<PageRun> {
        let index = self.0.partition_point(|run| run.span.end() <= at);
        self.0.get(index).copied().filter(|run| run.span.contains(at))
    }

    /// How many bytes are in a state that `wanted` accepts.
    pub fn bytes_where(&self, wanted: impl Fn(PageState) -> bool) -> u64 {
        self.0.iter().filter(|run| wanted(run.state)).map(|run| run.span.len()).sum()
    }
}

impl<'a> IntoIterator for &'a PageRuns {
    type Item = &'a PageRun;
    type IntoIter = std::slice::Iter<'a, PageRun>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Extend<PageRun> for PageRuns {
    fn extend<I: IntoIterator<Item = PageRun>>(&mut self, runs: I) {
        for run in runs {
            self.push(run.span, run.state);
        }
    }
}

/// Why a byte cannot be read.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error,
)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Nothing is mapped there.
    #[error("nothing is mapped there")]
    NotMapped,
    /// It was mapped when the map was read, and was unmapped before the page was.
    #[error("it was unmapped before it could be read")]
    Vanished,
    /// A guard page.
    #[error("a guard page: any access faults")]
    Guard,
    /// The mapping reaches past the end of its file.
    #[error("the mapping reaches past the end of its file")]
    BeyondFile,
    /// `memfd_secret` memory, which the kernel hands to nobody but its owner.
    #[error("secret memory (memfd_secret): the kernel hands it to nobody else")]
    Secret,
    /// Device memory (`VM_IO`, `VM_PFNMAP`).
    #[error("device memory: the kernel does not let others read it")]
    Device,
    /// Permission for this page is missing, though not for the process as a whole.
    #[error("no permission to read it")]
    NotPermitted,
    /// Shared memory that this process has not entered into its page table; whether there is anything, and what,
    /// only the object behind it could tell, and that may not be opened.
    #[error("shared memory that the process has not touched, and the object behind it may not be opened")]
    SharedUnknown,
    /// The file behind a clean page cannot be opened or is no longer the one that was mapped.
    #[error("the file behind it cannot be opened")]
    FileUnavailable,
    /// The image has the region but not its bytes (`p_filesz < p_memsz`).
    #[error("the image does not hold these bytes")]
    NotSaved,
    /// The image's file ends before these bytes.
    #[error("the image's file is cut short before these bytes")]
    Truncated,
    /// The read did not come back in time.
    #[error("the kernel did not answer in time")]
    TimedOut,
    /// It is not in RAM, and only what is there was to be read ([`Touch::Resident`]).
    #[error("it is not in RAM, and only pages in RAM were to be read")]
    NotTouched,
    /// The process exited, or became another program by exec, before the page was read.
    #[error("the process ended before it could be read")]
    Ended,
    /// Any other error of the kernel, by its errno.
    #[error("{}", std::io::Error::from_raw_os_error(*.0))]
    Os(i32),
}

/// The first byte of a read that cannot be had, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("cannot read memory at {at}")]
pub struct Fault {
    /// The address of that byte.
    pub at: Address,
    /// Why.
    #[source]
    pub cause: Cause,
}

/// Why [`Memory::read_at`] returned nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The byte at the start cannot be read; others may.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The source as a whole is lost: no further read will succeed.
    #[error(transparent)]
    Source(#[from] Error),
}

impl ReadError {
    /// A fault at `at`.
    #[must_use]
    pub const fn fault(at: Address, cause: Cause) -> Self {
        Self::Fault(Fault { at, cause })
    }
}

/// A range that was wanted and not delivered, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// What is missing.
    pub span: Span,
    /// Why.
    pub cause: Cause,
}

/// Gaps in the order in which they were met, neighbours of one cause joined.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Gaps(Vec<Gap>);

impl Gaps {
    /// No gaps.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a gap.
    pub fn push(&mut self, span: Span, cause: Cause) {
        if span.is_empty() {
            return;
        }
        if let Some(last) = self.0.last_mut()
            && last.cause == cause
            && last.span.end() == span.start()
            && let Some(joined) = Span::new(last.span.start(), span.end())
        {
            last.span = joined;
            return;
        }
        self.0.push(Gap { span, cause });
    }

    /// Puts the gaps in the order of their addresses and joins neighbours: workers report them in any order.
    pub fn sort(&mut self) {
        self.0.sort_by_key(|gap| gap.span);
        let sorted = std::mem::take(&mut self.0);
        for gap in sorted {
            self.push(gap.span, gap.cause);
        }
    }

    /// The gaps.
    #[must_use]
    pub fn as_slice(&self) -> &[Gap] {
        &self.0
    }

    /// The gaps.
    pub fn iter(&self) -> std::slice::Iter<'_, Gap> {
        self.0.iter()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// How many bytes they cover.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|gap| gap.span.len()).sum()
    }
}

impl Extend<Gap> for Gaps {
    fn extend<I: IntoIterator<Item = Gap>>(&mut self, gaps: I) {
        for gap in gaps {
            self.push(gap.span, gap.cause);
        }
    }
}

/// Which pages a reading operation may read, by what reading them does to the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Touch {
    /// Pages in RAM only.
    Resident,
    /// Also what is in swap, or in the memory object behind a shared mapping.
    #[default]
    Stored,
    /// Also what has to be faulted into the target: pages of files and of shared memory that cannot be had from what
    /// is behind the mapping. Holes of shared memory are filled by that.
    All,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: u64, end: u64) -> Span {
        Span::new(Address::new(start), Address::new(end)).unwrap()
    }

    #[test]
    fn runs_join_and_never_go_backwards() {
        let mut runs = PageRuns::new();
        runs.push(span(0, 10), PageState::Resident);
        runs.push(span(10, 20), PageState::Resident);
        runs.push(span(5, 25), PageState::Swapped);
        runs.push(span(0, 25), PageState::Resident);
        assert_eq!(
            runs.as_slice(),
            [
                PageRun { span: span(0, 20), state: PageState::Resident },
                PageRun { span: span(20, 25), state: PageState::Swapped }
            ]
        );
        assert_eq!(
            runs.within(span(19, 21)).map(|r| r.span).collect::<Vec<_>>(),
            [span(19, 20), span(20, 21)]
        );
        assert_eq!(runs.at(Address::new(24)).unwrap().state, PageState::Swapped);
        assert_eq!(runs.at(Address::new(25)), None);
    }

    #[test]
    fn within_stops_at_a_hole_only_when_the_span_ends() {
        let mut runs = PageRuns::new();
        runs.push(span(0, 10), PageState::Resident);
        runs.push(span(20, 30), PageState::Resident);
        assert_eq!(runs.within(span(5, 25)).map(|r| r.span).collect::<Vec<_>>(), [span(5, 10), span(20, 25)]);
        assert_eq!(runs.within(span(10, 20)).count(), 0);
    }

    #[test]
    fn gaps_sort_and_join() {
        let mut gaps = Gaps::new();
        gaps.push(span(20, 30), Cause::Guard);
        gaps.push(span(10, 20), Cause::Guard);
        gaps.push(span(30, 31), Cause::Secret);
        gaps.sort();
        assert_eq!(gaps.len(), 2);
        assert_eq!(gaps.bytes(), 21);
    }
}
