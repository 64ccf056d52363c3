//! What of two address spaces is compared with what, known from their maps and page states alone.

use std::sync::Arc;

use super::align::{Pair, extent};
use super::{Change, RegionChange, Report};
use crate::address::{Address, Span};
use crate::memory::{Cause, Gaps, PageRun, PageRuns, PageState, Touch};
use crate::query::sweep::{Fate, fate};
use crate::region::{Backing, Region, RegionMap};
use crate::selector::Selection;

/// One of the two, as it was looked at.
#[derive(Clone, Debug)]
pub(super) struct Side {
    pub map: Arc<RegionMap>,
    pub pages: PageRuns,
    /// Whether its map is all that the process' own was: names, permissions, offsets.
    pub has_exact_map: bool,
}

/// Bytes that are to be compared: those of each side adjoin, and are in one state and one region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub before: Address,
    pub after: Address,
    pub len: u64,
    pub reads: Reads,
    /// Changed bytes of different stretches are told apart.
    pub stretch: usize,
}

/// Which side is read; the other is known to be zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reads {
    Both(PageState, PageState),
    Before(PageState),
    After(PageState),
}

/// What is compared, and what is known without it.
#[derive(Debug, Default)]
pub(super) struct Layout {
    pub pieces: Vec<Piece>,
    /// The regions of each stretch, by their places in the maps.
    pub stretches: Vec<(usize, usize)>,
}

/// A part of a region.
#[derive(Clone, Copy, Debug)]
struct Part<'a> {
    index: usize,
    region: &'a Region,
    span: Span,
}

/// How the sides are looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms<'a> {
    pub selection: &'a Selection,
    pub touch: Touch,
    /// Whether a clean page of a file is the same on both sides where the file is.
    pub share_files: bool,
}

impl Layout {
    /// Lays out what the pairs have in common; `each` is told how the regions differ, and `report` counts what is
    /// not to be compared.
    pub(super) fn new(
        (before, after): (&Side, &Side),
        pairs: &[Pair],
        terms: Terms<'_>,
        report: &mut Report,
        each: &mut dyn FnMut(RegionChange<'_>),
    ) -> Self {
        let mut layout = Self::default();
        let exact = before.has_exact_map && after.has_exact_map;
        for pair in pairs {
            let mut told_move = pair.shift == 0;
            parts(pair, &before.map, &after.map, &mut |was, is| {
                let wanted =
                    |part: Option<Part<'_>>| part.is_some_and(|part| terms.selection.wants(part.region));
                if !wanted(was) && !wanted(is) {
                    return;
                }
                // A core of others has vvar and its kin as it pleases.
                let is_kernels = |part: Option<Part<'_>>| {
                    part.is_some_and(|part| matches!(part.region.backing, Backing::Kernel(_)))
                };
                let foreign = !exact && (is_kernels(was) || is_kernels(is));
                if foreign && (was.is_none() || is.is_none()) {
                    return;
                }
                if was.is_some() && is.is_some() && !told_move {
                    told_move = true;
                    each(moved(pair, &before.map, &after.map, was, is));
                }
                if let Some(change) = change(was, is, exact).filter(|_| !foreign) {
                    each(RegionChange { change, before: told(was), after: told(is) });
                }
                match (was, is) {
                    (Some(was), Some(is)) => {
                        layout.compare(was, is, &before.pages, &after.pages, terms, report);
                    }
                    (Some(was), None) => report.only_before_bytes += was.span.len(),
                    (None, Some(is)) => report.only_after_bytes += is.span.len(),
                    (None, None) => {}
                }
            });
        }
        layout
    }

    /// Adds what of two parts, equally long, has to be read.
    fn compare(
        &mut self,
        was: Part<'_>,
        is: Part<'_>,
        pages_before: &PageRuns,
        pages_after: &PageRuns,
        terms: Terms<'_>,
        report: &mut Report,
    ) {
        let stretch = self.stretches.len();
        self.stretches.push((was.index, is.index));
        let same_file = terms.share_files && is_same_file(was, is);
        let mut runs_before = whole(pages_before, was.span);
        let mut runs_after = whole(pages_after, is.span);
        let mut next = (runs_before.next(), runs_after.next());
        while let (Some(one), Some(other)) = next {
            let len = one.span.len().min(other.span.len());
            let (first, rest_before) = cut(one, len);
            let (second, rest_after) = cut(other, len);
            self.compare_run(
                (was.region, first),
                (is.region, second),
                terms.touch,
                same_file,
                stretch,
                report,
            );
            next = (rest_before.or_else(|| runs_before.next()), rest_after.or_else(|| runs_after.next()));
        }
    }

    fn compare_run(
        &mut self,
        (region_before, before): (&Region, PageRun),
        (region_after, after): (&Region, PageRun),
        touch: Touch,
        same_file: bool,
        stretch: usize,
        report: &mut Report,
    ) {
        let len = before.span.len();
        let own = |region: &Region, run: PageRun| {
            matches!(region.backing, Backing::Kernel(_))
                && matches!(run.state, PageState::Unreadable(cause) if cause != Cause::NotSaved)
        };
        let clean = |state| matches!(state, PageState::FileClean | PageState::FileResident);
        let fates = (fate(region_before, before.state, touch), fate(region_after, after.state, touch));
        let reads = match fates {
            // vvar, vsyscall: the kernel's own, and not what anybody means by a process' memory.
            _ if own(region_before, before) || own(region_after, after) => return,
            (Fate::Nothing, Fate::Nothing) => return,
            // The policy may forbid to read them; they need not be.
            _ if same_file && clean(before.state) && clean(after.state) => {
                report.compared_bytes += len;
                report.unread_bytes += len;
                return;
            }
            (Fate::Missing(cause), _) => {
                return lose(&mut report.gaps_before, before, cause, len, &mut report.gap_bytes);
            }
            (_, Fate::Missing(cause)) => {
                return lose(&mut report.gaps_after, after, cause, len, &mut report.gap_bytes);
            }
            (Fate::Left(field), _) | (_, Fate::Left(field)) => {
                *field(&mut report.left) += len;
                return;
            }
            (Fate::Nothing, _) => {
                let cause = before.state.refusal().unwrap_or(Cause::NotMapped);
                return lose(&mut report.gaps_before, before, cause, len, &mut report.gap_bytes);
            }
            (_, Fate::Nothing) => {
                let cause = after.state.refusal().unwrap_or(Cause::NotMapped);
                return lose(&mut report.gaps_after, after, cause, len, &mut report.gap_bytes);
            }
            (Fate::Zero, Fate::Zero) => {
                report.compared_bytes += len;
                report.unread_bytes += len;
                return;
            }
            (Fate::Read, Fate::Zero) => Reads::Before(before.state),
            (Fate::Zero, Fate::Read) => Reads::After(after.state),
            (Fate::Read, Fate::Read) => Reads::Both(before.state, after.state),
        };
        self.pieces.push(Piece {
            before: before.span.start(),
            after: after.span.start(),
            len,
            reads,
            stretch,
        });
    }
}

/// Notes a gap on one side.
fn lose(gaps: &mut Gaps, run: PageRun, cause: Cause, len: u64, bytes: &mut u64) {
    gaps.push(run.span, cause);
    *bytes += len;
}

/// The first `len` bytes of a run, and the rest if there is one.
fn cut(run: PageRun, len: u64) -> (PageRun, Option<PageRun>) {
    let (first, rest) = run.span.split_at(run.span.start().saturating_add(len));
    let rest = (!rest.is_empty()).then_some(PageRun { span: rest, ..run });
    (PageRun { span: first, ..run }, rest)
}

/// The runs of all of `span`: what no run tells of is not mapped.
fn whole(pages: &PageRuns, span: Span) -> impl Iterator<Item = PageRun> + '_ {
    let mut at = span.start();
    let mut runs = pages.within(span).peekable();
    std::iter::from_fn(move || {
        let end = runs.peek().map_or(span.end(), |run| run.span.start());
        let run = match Span::new(at, end).filter(|hole| !hole.is_empty()) {
            Some(hole) => PageRun { span: hole, state: PageState::Unreadable(Cause::NotMapped) },
            None => runs.next()?,
        };
        at = run.span.end();
        Some(run)
    })
}

/// Whether both parts are of one file at one offset, for certain. A file system without a block device of its own
/// may number the files of each of its subvolumes anew (btrfs), or show those of others (overlayfs).
fn is_same_file(was: Part<'_>, is: Part<'_>) -> bool {
    let (Some(one), Some(other)) = (was.region.file(), is.region.file()) else { return false };
    one.device.major != 0
        && (one.device, one.inode, &one.path) == (other.device, other.inode, &other.path)
        && offset_of(was) == offset_of(is)
}

/// The offset in its file at which a part begins.
fn offset_of(part: Part<'_>) -> Option<u64> {
    part.region.file()?.offset.checked_add(part.span.start().offset_from(part.region.span.start())?)
}

/// How a part differs as a mapping, if it does.
fn change(was: Option<Part<'_>>, is: Option<Part<'_>>, exact: bool) -> Option<Change> {
    let is_whole = |part: Part<'_>| part.span == part.region.span;
    let (was, is) = match (was, is) {
        (Some(was), None) => return Some(if is_whole(was) { Change::Went } else { Change::Shrank }),
        (None, Some(is)) => return Some(if is_whole(is) { Change::Came } else { Change::Grew }),
        (Some(was), Some(is)) => (was, is),
        (None, None) => return None,
    };
    let same_backing = match (&was.region.backing, &is.region.backing) {
        (Backing::File(one), Backing::File(other)) => {
            one.path == other.path && offset_of(was) == offset_of(is)
        }
        (one, other) => one == other,
    };
    // A core of others knows few names, and not all permissions.
    let is_known = |region: &Region| exact || !region.name().is_empty();
    if !same_backing && is_known(was.region) && is_known(is.region) {
        return Some(Change::Replaced);
    }
    let (one, other) = (was.region.permissions, is.region.permissions);
    let differ = if exact {
        one != other
    } else {
        !one.is_none()
            && !other.is_none()
            && (one.read, one.write, one.execute) != (other.read, other.write, other.execute)
    };
    differ.then_some(Change::Permissions)
}

fn told(part: Option<Part<'_>>) -> Option<(Span, &Region)> {
    part.map(|part| (part.span, part.region))
}

/// All of a pair, which lies elsewhere now.
fn moved<'a>(
    pair: &Pair,
    before: &'a RegionMap,
    after: &'a RegionMap,
    was: Option<Part<'a>>,
    is: Option<Part<'a>>,
) -> RegionChange<'a> {
    let all = |map: &RegionMap, range: &std::ops::Range<usize>, part: Option<Part<'a>>| {
        part.map(|part| (extent(map, range).unwrap_or(part.span), part.region))
    };
    RegionChange {
        change: Change::Moved,
        before: all(before, &pair.before, was),
        after: all(after, &pair.after, is),
    }
}

/// Walks through a pair of blocks, and tells of each part that lies in one region, or in none, of each side.
fn parts<'a>(
    pair: &Pair,
    before: &'a RegionMap,
    after: &'a RegionMap,
    each: &mut dyn FnMut(Option<Part<'a>>, Option<Part<'a>>),
) {
    // In terms of the first side.
    let place = |at: Address, shift: i128| i128::from(at.get()) - shift;
    let (mut b, mut a) = (pair.before.clone(), pair.after.clone());
    let region_at = |map: &'a RegionMap, range: &std::ops::Range<usize>| {
        let index = range.start;
        map.as_slice().get(index).filter(|_| !range.is_empty()).map(|region| (index, region))
    };
    let mut at = i128::MIN;
    loop {
        let (was, is) = (region_at(before, &b), region_at(after, &a));
        let bounds = |found: Option<(usize, &Region)>, shift| {
            found.map(|(_, region)| (place(region.span.start(), shift), place(region.span.end(), shift)))
        };
        let (was_bounds, is_bounds) = (bounds(was, 0), bounds(is, pair.shift));
        let Some(start) = [was_bounds, is_bounds].into_iter().flatten().map(|(start, _)| start.max(at)).min()
        else {
            return;
        };
        // The next place at which either side changes.
        let edge =
            |bounds: Option<(i128, i128)>| bounds.map(|(from, to)| if from > start { from } else { to });
        let Some(end) = [edge(was_bounds), edge(is_bounds)].into_iter().flatten().min() else { return };
        let part = |found: Option<(usize, &'a Region)>, bounds: Option<(i128, i128)>, shift: i128| {
            let (index, region) = found.filter(|_| bounds.is_some_and(|(from, _)| from <= start))?;
            let address = |at: i128| u64::try_from(at + shift).ok().map(Address::new);
            Some(Part { index, region, span: Span::new(address(start)?, address(end)?)? })
        };
        each(part(was, was_bounds, 0), part(is, is_bounds, pair.shift));
        at = end;
        if was_bounds.is_some_and(|(_, to)| to <= end) {
            b.start += 1;
        }
        if is_bounds.is_some_and(|(_, to)| to <= end) {
            a.start += 1;
        }
    }
}

/// Cuts pieces into orders, one after the other, on a grid of addresses of the first side.
#[derive(Debug)]
pub(super) struct Cutter {
    chunk: u64,
    /// The piece that is not wholly ordered, and how much of it is.
    next: usize,
    done: u64,
}

/// So many pieces are in one chunk at most, where pieces are small.
const PIECES: usize = 1024;

impl Cutter {
    pub(super) const fn new(chunk: u64) -> Self {
        Self { chunk, next: 0, done: 0 }
    }

    pub(super) fn next(&mut self, pieces: &[Piece]) -> Option<Vec<Piece>> {
        let mut order: Vec<Piece> = Vec::new();
        let mut length = 0;
        while let Some(piece) = pieces.get(self.next).filter(|_| order.len() < PIECES) {
            let before = piece.before.saturating_add(self.done);
            let to_grid =
                before.saturating_add(1).align_up(self.chunk).offset_from(before).unwrap_or(self.chunk);
            let left = piece.len - self.done;
            let len = to_grid.clamp(1, left.max(1));
            if length + len > self.chunk && !order.is_empty() {
                break;
            }
            length += len;
            order.push(Piece { before, after: piece.after.saturating_add(self.done), len, ..*piece });
            self.done += len;
            if self.done >= piece.len {
                self.next += 1;
                self.done = 0;
            }
        }
        (!order.is_empty()).then_some(order)
    }
}
