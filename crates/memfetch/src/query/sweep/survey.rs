//! [`Survey`]: what of a source is read, and why not the rest.

use std::sync::Arc;

use serde::Serialize;

use crate::address::Span;
use crate::error::Error;
use crate::memory::{Cause, Gaps, PageRuns, PageState, Touch};
use crate::region::{Backing, Region, RegionMap};
use crate::selector::Selection;
use crate::source::{Reach, Source, reach};

/// Which part of a source an operation is about.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Which regions.
    pub selection: Selection,
    /// Which parts of them; nothing means all.
    pub within: Vec<Span>,
    /// Which of their pages may be read.
    pub touch: Touch,
}

/// What was looked at and what was not, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// Read and looked at.
    pub read_bytes: u64,
    /// Never touched, or the shared page of zeros: known to be zero, and not read.
    pub zero_bytes: u64,
    /// Wanted, and left alone as the touch policy says or because an image does not have it.
    pub left: Left,
    /// Wanted, and not to be had.
    pub gaps: Gaps,
    /// What came from swap and could not be sent back there.
    pub left_in_ram_bytes: u64,
}

/// What was left alone, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Left {
    /// In swap.
    pub swapped_bytes: u64,
    /// In a memory object, and not in the page table.
    pub backed_bytes: u64,
    /// In a file only.
    pub file_bytes: u64,
    /// In a reservation or a mapping of a file that is not written to, whose bytes the image was not made to have.
    pub unsaved_bytes: u64,
}

impl Left {
    /// All of it.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.swapped_bytes + self.backed_bytes + self.file_bytes + self.unsaved_bytes
    }
}

/// The regions of a source, and what of them is read.
#[derive(Clone, Debug)]
pub struct Survey {
    pub(super) map: Arc<RegionMap>,
    /// What is read or known to be zero. Runs of one stretch adjoin.
    pub(super) runs: PageRuns,
    pub(super) coverage: Coverage,
    pub(super) touch: Touch,
}

/// What becomes of a page.
pub(in crate::query) enum Fate {
    Read,
    Zero,
    Left(fn(&mut Left) -> &mut u64),
    /// Nothing is there that could be missing.
    Nothing,
    Missing(Cause),
}

impl Survey {
    /// Looks at the map and the page states, and touches nothing.
    ///
    /// # Errors
    ///
    /// As [`Source::regions_and_pages`].
    pub fn of(source: &dyn Source, scope: &Scope) -> Result<Self, Error> {
        let (map, pages) = source.regions_and_pages()?;
        Ok(Self::from_pages(map, &pages, scope))
    }

    /// The same of a map and page states that are known.
    #[must_use]
    pub fn from_pages(map: RegionMap, pages: &PageRuns, scope: &Scope) -> Self {
        let mut runs = PageRuns::new();
        let mut coverage = Coverage::default();
        let within =
            if scope.within.is_empty() { vec![Span::ALL] } else { Span::union(scope.within.iter().copied()) };
        for region in map.iter().filter(|region| scope.selection.wants(region)) {
            let first = within.partition_point(|span| span.end() <= region.span.start());
            let parts = within.iter().skip(first).map_while(|span| span.intersection(region.span));
            for run in parts.flat_map(|part| pages.within(part)) {
                let bytes = run.span.len();
                match fate(region, run.state, scope.touch) {
                    Fate::Read => runs.push(run.span, run.state),
                    Fate::Zero => {
                        coverage.zero_bytes += bytes;
                        runs.push(run.span, run.state);
                    }
                    Fate::Left(field) => *field(&mut coverage.left) += bytes,
                    Fate::Nothing => {}
                    Fate::Missing(cause) => coverage.gaps.push(run.span, cause),
                }
            }
        }
        Self { map: Arc::new(map), runs, coverage, touch: scope.touch }
    }

    /// The regions of the source, wanted or not.
    #[must_use]
    pub fn map(&self) -> &Arc<RegionMap> {
        &self.map
    }

    /// What is read, and what is known to be zero.
    #[must_use]
    pub const fn runs(&self) -> &PageRuns {
        &self.runs
    }

    /// Which pages may be read.
    #[must_use]
    pub const fn touch(&self) -> Touch {
        self.touch
    }

    /// What is known of the coverage before anything is read.
    #[must_use]
    pub const fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// How many bytes are to be read.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.runs.bytes_where(|state| !state.is_known_zero())
    }
}

/// What becomes of a page in this state.
pub(in crate::query) fn fate(region: &Region, state: PageState, touch: Touch) -> Fate {
    let cause = match reach(state, touch) {
        Reach::Zero => return Fate::Zero,
        Reach::Read => return Fate::Read,
        Reach::LeftAlone => {
            return Fate::Left(match state {
                PageState::Swapped => |left| &mut left.swapped_bytes,
                PageState::Backed => |left| &mut left.backed_bytes,
                _ => |left| &mut left.file_bytes,
            });
        }
        Reach::Refused(cause) => cause,
    };
    match cause {
        Cause::Guard | Cause::BeyondFile | Cause::NotMapped => Fate::Nothing,
        // What a file has need not be in an image, nor a reservation; data of the process' own should be.
        Cause::NotSaved
            if region.permissions.is_none() || (region.file().is_some() && !region.permissions.write) =>
        {
            Fate::Left(|left| &mut left.unsaved_bytes)
        }
        // vvar, vsyscall and their kin are the kernel's, and not what anybody means by a process' memory.
        _ if matches!(region.backing, Backing::Kernel(_)) => Fate::Nothing,
        cause => Fate::Missing(cause),
    }
}
