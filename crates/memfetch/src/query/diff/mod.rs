//! [`Diff`]: what two sources have in common, and what not.
//!
//! # What is compared with what
//!
//! Either every byte with that at the same address, or, for two runs of a program whose parts lie at random addresses,
//! every byte with the one at the same place in the corresponding region: [`Alignment`]. What lies in a region of one
//! side only is told as a region that came or went, and is not compared with anything.
//!
//! # Pages first
//!
//! What both sides know to be zero is equal, and is not read; where one does, only the other is read. Clean pages of
//! one file at one offset are equal, and are not read, where both sides are processes that run on this machine: of an
//! image nobody knows what the file has become since. All else is read, by several threads, and compared.
//!
//! # What cannot be compared
//!
//! A byte that one side cannot give is neither equal nor different. It is a gap of that side, with its cause; what was
//! never saved, and what the touch policy leaves alone, is counted apart.
//!
//! # Changes
//!
//! A changed range is a run of granules that differ, of 1, 2, 4, 8 or 16 bytes on a grid of addresses of the first side:
//! the bytes of a value, or a line of a dump. A range ends where a region of either side does, and after
//! [`LONGEST_RANGE`] bytes, so that its bytes can be told as a whole within bounded memory. Neither the number of
//! threads nor how the memory is cut for them has an influence on what is told.

mod align;
mod chunk;
mod layout;
mod paged;
mod range;

use std::ops::ControlFlow;
use std::sync::Arc;

use serde::Serialize;

pub use align::Alignment;
pub use range::LONGEST_RANGE;

use self::chunk::{Chunk, Found, Moves, Readers};
use self::layout::{Cutter, Layout, Piece, Reads, Side, Terms};
use self::range::Ranges;
use super::crew::{self, Job, Taker, Watched};
use super::sweep::Left;
use crate::address::{Address, Span};
use crate::error::Error;
use crate::memory::{ByteOrder, Cause, Gaps, Touch};
use crate::region::Region;
use crate::selector::Selection;
use crate::source::{RunReader, Source};

/// So much is in one chunk of each side: what fits into a core's own cache.
const CHUNK: u64 = 256 << 10;
/// Where a side is a file, one read of it is so long, and so many threads wait for the disk: less leaves it idle.
const CHUNK_OF_FILE: u64 = 1 << 20;
const THREADS_FOR_FILE: usize = 4;

/// How two sources are compared.
#[derive(Clone, Debug)]
pub struct Diff {
    threads: Option<usize>,
    chunk: Option<u64>,
    alignment: Alignment,
    granule: u64,
    selection: Selection,
    touch: Touch,
    ignore_moved_pointers: bool,
}

/// What is told while two sources are compared: the regions first, then the bytes, ascending as they lie in the first
/// source.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A region, or a part of one, is not what it was.
    Region(RegionChange<'a>),
    /// Bytes are not what they were.
    Bytes(Difference<'a>),
}

/// How a region, or a part of one, differs.
#[derive(Clone, Copy, Debug)]
pub struct RegionChange<'a> {
    /// How.
    pub change: Change,
    /// Where it lies in the first source, and in which region.
    pub before: Option<(Span, &'a Region)>,
    /// Where it lies in the second source, and in which region.
    pub after: Option<(Span, &'a Region)>,
}

/// How a region differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// The second source has it, and the first does not.
    Came,
    /// The first source has it, and the second does not.
    Went,
    /// A region of both is larger in the second source, by this.
    Grew,
    /// A region of both is smaller in the second source, by this.
    Shrank,
    /// It lies elsewhere, with all that moves together with it. That alone makes no difference: it is what two runs of
    /// a program are expected to have.
    Moved,
    /// Its permissions are others.
    Permissions,
    /// Something else is behind it: another file, another part of it.
    Replaced,
}

/// A changed range: its bytes in both sources.
#[derive(Clone, Copy, Debug)]
pub struct Difference<'a> {
    /// Where it lies in the first source.
    pub before_at: Address,
    /// Where it lies in the second source.
    pub after_at: Address,
    /// What the first source has there.
    pub before: &'a [u8],
    /// What the second source has there, equally long.
    pub after: &'a [u8],
    /// The region of the first source.
    pub before_region: &'a Region,
    /// The region of the second source.
    pub after_region: &'a Region,
}

/// What a comparison came to, in bytes that both sources have a region for, unless it says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// How the regions were brought together.
    pub alignment: Alignment,
    /// What was compared; of it
    pub compared_bytes: u64,
    /// what is known to be equal without having been read, and
    pub unread_bytes: u64,
    /// what differs.
    pub different_bytes: u64,
    /// In so many ranges.
    pub ranges: u64,
    /// So many words differ only because what they point to lies elsewhere; they are not counted as different.
    pub moved_pointers: u64,
    /// How often a region was told of, other than as moved.
    pub region_changes: u64,
    /// In regions of the first source only.
    pub only_before_bytes: u64,
    /// In regions of the second source only.
    pub only_after_bytes: u64,
    /// What was left alone on either side as the touch policy says, or because an image does not have it.
    pub left: Left,
    /// What could not be compared because one source or both could not give it.
    pub gap_bytes: u64,
    /// What the first source could not give.
    pub gaps_before: Gaps,
    /// What the second source could not give.
    pub gaps_after: Gaps,
    /// What came from swap and could not be sent back there.
    pub left_in_ram_bytes: u64,
}

impl Report {
    /// Whether something differs: a byte, or a region other than by its place.
    #[must_use]
    pub const fn is_different(&self) -> bool {
        self.different_bytes > 0 || self.region_changes > 0
    }

    /// Whether something that both have could not be had from one of them.
    #[must_use]
    pub const fn has_gaps(&self) -> bool {
        self.gap_bytes > 0
    }
}

/// How a comparison ended: also one that did not come to its end has seen something.
#[derive(Debug)]
pub struct Compared {
    /// What was compared, and what it came to.
    pub report: Report,
    /// What ended it before its time.
    pub result: Result<(), Error>,
}

impl Default for Diff {
    fn default() -> Self {
        Self::new()
    }
}

impl Diff {
    /// A comparison of all that is there, byte by byte, with as many threads as there are processors, up to four; with
    /// four where a source is a file.
    #[must_use]
    pub fn new() -> Self {
        Self {
            threads: None,
            chunk: None,
            alignment: Alignment::Auto,
            granule: 1,
            selection: Selection::default(),
            touch: Touch::default(),
            ignore_moved_pointers: false,
        }
    }

    /// With so many threads, one at least.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads.clamp(1, 256));
        self
    }

    /// Reads so many bytes at a time, a power of two.
    #[must_use]
    pub fn chunk(mut self, bytes: u64) -> Self {
        self.chunk = Some(bytes.clamp(16, 1 << 30).next_power_of_two());
        self
    }

    /// Brings the regions together in this way.
    #[must_use]
    pub const fn alignment(mut self, alignment: Alignment) -> Self {
        self.alignment = alignment;
        self
    }

    /// Tells of changes in so many bytes at a time: 1, 2, 4, 8 or 16.
    #[must_use]
    pub fn granule(mut self, bytes: u64) -> Self {
        self.granule = bytes.clamp(1, 16).next_power_of_two();
        self
    }

    /// Compares the regions that are wanted on either side.
    #[must_use]
    pub fn selection(mut self, selection: Selection) -> Self {
        self.selection = selection;
        self
    }

    /// Reads only such pages.
    #[must_use]
    pub const fn touch(mut self, touch: Touch) -> Self {
        self.touch = touch;
        self
    }

    /// Takes an aligned word that points into a region on the first side for equal to one that points to the
    /// corresponding place on the second.
    #[must_use]
    pub const fn ignore_moved_pointers(mut self, ignore: bool) -> Self {
        self.ignore_moved_pointers = ignore;
        self
    }

    /// Compares, and tells `each` what differs; it can end the comparison.
    ///
    /// # Errors
    ///
    /// As [`Source::regions_and_pages`] of either. What goes wrong later is in [`Compared::result`].
    pub fn run(
        &self,
        before: &dyn Source,
        after: &dyn Source,
        mut each: impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Compared, Error> {
        let (side_before, side_after) = (look_at(before)?, look_at(after)?);
        let (alignment, pairs) = align::align(&side_before.map, &side_after.map, self.alignment);
        let mut report = Report { alignment, ..Report::default() };
        let terms = Terms {
            selection: &self.selection,
            touch: self.touch,
            share_files: before.is_live() && after.is_live(),
        };
        let (mut over, mut region_changes) = (false, 0);
        let layout = Layout::new((&side_before, &side_after), &pairs, terms, &mut report, &mut |change| {
            region_changes += u64::from(change.change != Change::Moved);
            over = over || each(Event::Region(change)).is_break();
        });
        report.region_changes = region_changes;
        if over {
            return Ok(Compared { report, result: Ok(()) });
        }

        let in_ram = || [before, after].map(Source::left_in_ram).iter().sum::<u64>();
        let in_ram_before = in_ram();
        let Layout { pieces, stretches } = layout;
        let job = Comparing {
            sources: [before.handle(), after.handle()],
            maps: [Arc::clone(&side_before.map), Arc::clone(&side_after.map)],
            page_sizes: [before, after].map(|source| source.platform().page_size),
            touch: self.touch,
            granule: self.granule,
            moves: self.moves(before, &pairs, &side_before),
            pieces,
        };
        let region = |side: &Side, index: usize| side.map.as_slice().get(index).cloned();
        let mut taker = Telling {
            report: &mut report,
            ranges: Ranges::new(),
            tell: |ranges: &Ranges| {
                let Some(&(was, is)) = stretches.get(ranges.stretch()) else {
                    return ControlFlow::Continue(());
                };
                let regions = region(&side_before, was).zip(region(&side_after, is));
                let Some((before_region, after_region)) = regions else { return ControlFlow::Continue(()) };
                each(Event::Bytes(ranges.difference(&before_region, &after_region)))
            },
        };
        let limit = [before, after].iter().filter_map(|source| source.time_limit()).min();
        let of_file = !before.is_live() || !after.is_live();
        let chunk = self.chunk.unwrap_or(if of_file { CHUNK_OF_FILE } else { CHUNK });
        let processors = || std::thread::available_parallelism().map_or(1, |count| count.get().min(4));
        let threads = self.threads.unwrap_or_else(|| if of_file { THREADS_FOR_FILE } else { processors() });
        let result = crew::run(job, Cutter::new(chunk.max(self.granule)), threads, limit, &mut taker);
        // Nobody is told anything after this, whatever the answer.
        let _ = taker.finish();
        let result = result.and_then(|()| before.check()).and_then(|()| after.check());
        report.gaps_before.sort();
        report.gaps_after.sort();
        report.left_in_ram_bytes = in_ram().saturating_sub(in_ram_before);
        Ok(Compared { report, result })
    }

    /// Where pointers lead.
    fn moves(&self, before: &dyn Source, pairs: &[align::Pair], side: &Side) -> Moves {
        if !self.ignore_moved_pointers {
            return Moves::NONE;
        }
        let both = pairs.iter().filter(|pair| !pair.before.is_empty() && !pair.after.is_empty());
        let moves = both.filter_map(|pair| Some((align::extent(&side.map, &pair.before)?, pair.shift)));
        let platform = before.platform();
        Moves::new(moves.collect(), platform.word.bytes().into(), platform.byte_order == ByteOrder::Little)
    }
}

fn look_at(source: &dyn Source) -> Result<Side, Error> {
    let (map, pages) = source.regions_and_pages()?;
    Ok(Side { map: Arc::new(map), pages, has_exact_map: source.has_exact_map() })
}

/// What the threads of a comparison do.
struct Comparing {
    sources: [Arc<dyn Source>; 2],
    maps: [Arc<crate::region::RegionMap>; 2],
    page_sizes: [u64; 2],
    touch: Touch,
    granule: u64,
    moves: Moves,
    pieces: Vec<Piece>,
}

impl Job for Comparing {
    type Cutter = Cutter;
    type Order = Vec<Piece>;
    type Chunk = Chunk;
    type Found = Found;

    fn cut(&self, cutter: &mut Cutter) -> Option<Vec<Piece>> {
        cutter.next(&self.pieces)
    }

    fn fill(&self, order: &Vec<Piece>, chunk: &mut Chunk, watched: &Watched<'_>) -> Result<(), Error> {
        let [before, after] = &self.sources;
        let [map_before, map_after] = &self.maps;
        let [page_before, page_after] = self.page_sizes;
        let Watched { cancelled, beat } = *watched;
        let touch = self.touch;
        let readers = Readers {
            before: RunReader {
                source: before.as_ref(),
                map: map_before,
                touch,
                page_size: page_before,
                cancelled,
                beat,
            },
            after: RunReader {
                source: after.as_ref(),
                map: map_after,
                touch,
                page_size: page_after,
                cancelled,
                beat,
            },
        };
        chunk.fill(order, &readers)
    }

    fn look(&self, chunk: &Chunk) -> Found {
        chunk.look(self.granule, &self.moves)
    }
}

/// Takes the chunks of a comparison, joins what they found, and tells of it.
struct Telling<'a, T> {
    report: &'a mut Report,
    ranges: Ranges,
    tell: T,
}

impl<T: FnMut(&Ranges) -> ControlFlow<()>> Telling<'_, T> {
    /// Tells of the range that is under way, if there is one.
    fn finish(&mut self) -> ControlFlow<()> {
        if self.ranges.is_empty() {
            return ControlFlow::Continue(());
        }
        self.report.ranges += 1;
        let told = (self.tell)(&self.ranges);
        self.ranges.clear();
        told
    }
}

impl<T: FnMut(&Ranges) -> ControlFlow<()>> Taker<Comparing> for Telling<'_, T> {
    fn take(&mut self, chunk: &Chunk, found: Found) -> ControlFlow<()> {
        let report = &mut *self.report;
        report.compared_bytes += found.compared_bytes;
        report.different_bytes += found.different_bytes;
        report.moved_pointers += found.moved_pointers;
        report.gap_bytes += chunk.gap_bytes;
        report.gaps_before.extend(chunk.gaps_before.iter().copied());
        report.gaps_after.extend(chunk.gaps_after.iter().copied());
        for range in &found.ranges {
            let Some(mut rest) = chunk.differing(range) else { continue };
            if !self.ranges.continue_at(&rest) {
                self.finish()?;
            }
            while !self.ranges.add(&mut rest) {
                self.finish()?;
            }
            if !rest.may_go_on {
                self.finish()?;
            }
        }
        ControlFlow::Continue(())
    }

    fn lost(&mut self, order: &Vec<Piece>) {
        for piece in order {
            self.report.gap_bytes += piece.len;
            // Which side does not answer is not known where both are read.
            let lose = |gaps: &mut Gaps, at| {
                if let Some(span) = Span::from_len(at, piece.len) {
                    gaps.push(span, Cause::TimedOut);
                }
            };
            if !matches!(piece.reads, Reads::After(_)) {
                lose(&mut self.report.gaps_before, piece.before);
            }
            if !matches!(piece.reads, Reads::Before(_)) {
                lose(&mut self.report.gaps_after, piece.after);
            }
        }
    }
}
