//! [`WriteProtect`]: tracking by userfaultfd in asynchronous write-protect mode, armed and read by `PAGEMAP_SCAN`.
//!
//! The userfaultfd belongs to the address space of the process; this end of it is the only one. When it is closed, by
//! whatever end of this process, the kernel takes every registration back.
//!
//! # How it is armed
//!
//! By `PM_SCAN_WP_MATCHING` for pages that are there and count as written. For holes as well it would cost page tables
//! that stay (64 GiB reserved: 127 MiB). A hole that is filled later counts as written, since nobody has protected it.
//! Without a result vector the kernel ignores the masks; with `PM_SCAN_CHECK_WPASYNC` one mapping that is not tracked
//! makes it fail after the bits before it were consumed. A scan holds the mmap_lock, so it goes in pieces.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use memfetch_sys::pagemap::{self, PageRange, Scan, category, flag};
use memfetch_sys::{process, userfaultfd};

use super::super::process::Process;
use super::super::scan;
use super::super::target::Target;
use super::{Cost, Kind, Tracker};
use crate::address::{Address, Span};
use crate::error::Error;
use crate::memory::{PageRuns, PageState};
use crate::region::{Backing, Region, RegionMap};

/// One scan, and one end of tracking, goes over so much at once: what holds the mmap_lock for 0.2 ms or so.
const PIECE: u64 = 64 << 20;
/// So many pieces are armed within one time limit: 16 GiB.
const AT_A_TIME: usize = 256;
/// So many spans are armed one by one rather than all that lies between them.
const MANY: usize = 256;
/// What a huge page covers.
const HUGE: u64 = 2 << 20;

/// A tracker of writes to private memory, and to shared memory through this process' own mappings.
#[derive(Debug)]
pub(crate) struct WriteProtect {
    process: Process,
    fd: OwnedFd,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What is registered: ascending, disjoint.
    watched: Vec<Span>,
    /// Huge pages as they were before.
    huge: Vec<Span>,
    longest_lock: Duration,
    has_left: bool,
}

impl WriteProtect {
    /// Takes a new userfaultfd of the process.
    ///
    /// # Errors
    ///
    /// The kernel has no asynchronous mode, before Linux 6.7.
    pub(crate) fn new(process: &Process, fd: OwnedFd) -> std::io::Result<Self> {
        userfaultfd::settle(fd.as_fd())?;
        Ok(Self { process: process.clone(), fd, state: Mutex::default() })
    }

    /// Whether the kernel has the asynchronous mode, as tried with a userfaultfd of this process.
    ///
    /// # Errors
    ///
    /// It has not. Where this process may not make one to try with, nobody knows, and that is no error.
    pub(crate) fn probe() -> std::io::Result<()> {
        userfaultfd::create().map_or(Ok(()), |fd| userfaultfd::settle(fd.as_fd()))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Arms the pages that are there, and returns those that were written since they were armed before, or never were:
    /// ascending, in runs.
    ///
    /// A page that is written while this goes on is told of the next time.
    fn rearm_all(&self, pages: &PageRuns) -> Result<Vec<Span>, Error> {
        let cells = cells(pages, &self.state().watched);
        let mut written = Vec::new();
        // So much at a time that the time limit is that of a process that is stuck.
        for cells in cells.chunks(AT_A_TIME) {
            written.extend(self.rearm_some(cells.to_vec())?);
        }
        Ok(Span::union(written))
    }

    fn rearm_some(&self, cells: Vec<Span>) -> Result<Vec<Span>, Error> {
        let (written, longest) = self.process.run("arm the tracking of its writes", move |target| {
            let mut written = Vec::new();
            let mut longest = Duration::ZERO;
            let mut found = vec![PageRange::default(); 4096];
            for cell in cells {
                let spans = match scan::written_or_vacant(target, cell, &mut found) {
                    // One by one they would take longer than all of it.
                    Some(spans) if spans.len() <= MANY => spans,
                    _ => vec![cell],
                };
                for span in spans {
                    let began = Instant::now();
                    if rearm(target.pagemap(), span, &mut found, &mut written).is_err() {
                        // Some bits may have been consumed: all of it counts as written.
                        written.push(span);
                    }
                    longest = longest.max(began.elapsed());
                }
                std::thread::yield_now();
            }
            (written, longest)
        })?;
        let mut state = self.state();
        state.longest_lock = state.longest_lock.max(longest);
        Ok(written)
    }

    /// Notes where huge pages are, so that those that a write splits can be put together again.
    fn note_huge_pages(&self, pages: &PageRuns) -> Result<(), Error> {
        let spans = cells(pages, &self.state().watched);
        let huge = self.process.run("list its huge pages", move |target| {
            let mut huge = Vec::new();
            for cell in spans {
                huge.extend(huge_in(target, cell)?);
            }
            Ok::<_, std::io::Error>(huge)
        })?;
        // A kernel that cannot tell has no such tracking either.
        self.state().huge = Span::union(huge.unwrap_or_default());
        Ok(())
    }
}

impl Tracker for WriteProtect {
    fn kind(&self) -> Kind {
        Kind::WriteProtect
    }

    fn needs_stop(&self) -> bool {
        false
    }

    fn begin(&self, pages: &PageRuns) -> Result<(), Error> {
        self.note_huge_pages(pages)?;
        // All of it counts as written now.
        self.rearm_all(pages).map(drop)
    }

    fn look(&self, known: PageRuns, held: bool) -> Result<(RegionMap, PageRuns, Vec<Span>), Error> {
        self.process.regions_pages_and_clean(known, held)
    }

    fn written_and_rearm(&self, _: &RegionMap, pages: &PageRuns) -> Result<Vec<Span>, Error> {
        self.rearm_all(pages)
    }

    fn watch(&self, map: &RegionMap) -> Vec<Span> {
        let mut state = self.state();
        let before = state.watched.clone();
        // What is watched already is not asked for again: a mapping that was moved there since may have marks of
        // protection from elsewhere, which would count from then on.
        let is_new = |region: &Region| !covers(&state.watched, region.span);
        let new: Vec<Span> = stretches(map, is_new);
        for span in new {
            let register =
                |span: Span| userfaultfd::register(self.fd.as_fd(), span.start().get(), span.len());
            let began = Instant::now();
            let registered = register(span);
            state.longest_lock = state.longest_lock.max(began.elapsed());
            match registered {
                // What lies between the mappings belongs to nobody, and may be endless.
                Ok(()) => state.watched.extend(map.within(span).map(|region| region.span)),
                // Another userfaultfd has one of them, or one came or went.
                Err(_) => {
                    let one_by_one = map.within(span).filter(|region| can_be_watched(region));
                    let spans = one_by_one.map(|region| region.span).filter(|span| register(*span).is_ok());
                    state.watched.extend(spans);
                }
            }
        }
        for region in map.iter().filter(|region| region.permissions.shared && can_be_watched(region)) {
            if !covers(&state.watched, region.span)
                && userfaultfd::register(self.fd.as_fd(), region.span.start().get(), region.span.len())
                    .is_ok()
            {
                state.watched.push(region.span);
            }
        }
        state.watched = Span::union(std::mem::take(&mut state.watched));
        let watched = state.watched.iter().flat_map(|span| map.within(*span));
        watched.map(|region| region.span).filter(|span| !covers(&before, *span)).collect()
    }

    /// Puts huge pages together again that tracking has split, too.
    fn leave(&self) -> Cost {
        let mut state = self.state();
        if state.has_left {
            return Cost { longest_lock: state.longest_lock, split_bytes: 0 };
        }
        state.has_left = true;
        let watched = std::mem::take(&mut state.watched);
        for (extent, pieces) in groups(&watched) {
            let end = |span: Span| userfaultfd::unregister(self.fd.as_fd(), span.start().get(), span.len());
            let began = Instant::now();
            if end(extent).is_err() {
                // What is not mapped any more needs no end, and what fails now the closing of the descriptor does.
                for piece in pieces {
                    let _ = end(piece);
                }
            }
            state.longest_lock = state.longest_lock.max(began.elapsed());
            std::thread::yield_now();
        }
        let huge = std::mem::take(&mut state.huge);
        let longest_lock = state.longest_lock;
        drop(state);
        let mut split_bytes = 0;
        for piece in huge.iter().flat_map(|span| span.pieces(PIECE)) {
            let mended = self.process.run("put its huge pages together", move |target| mend(target, piece));
            split_bytes += mended.unwrap_or(piece.len());
        }
        Cost { longest_lock, split_bytes }
    }
}

impl Drop for WriteProtect {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Whether writes to a mapping can be tracked, as far as the map tells.
fn can_be_watched(region: &Region) -> bool {
    match &region.backing {
        Backing::Kernel(_) => false,
        _ => !region.permissions.shared || region.permissions.write,
    }
}

/// Private mappings that lie together: one call takes many of them. A shared one that may not be tracked would have the
/// whole call refused.
fn stretches(map: &RegionMap, is_new: impl Fn(&Region) -> bool) -> Vec<Span> {
    let mut stretches: Vec<Span> = Vec::new();
    let mut is_open = false;
    for region in map {
        let is_private = !region.permissions.shared && can_be_watched(region) && is_new(region);
        match stretches.last_mut() {
            Some(last) if is_open && is_private => {
                *last = Span::new(last.start(), region.span.end()).unwrap_or(*last);
            }
            _ if is_private => stretches.push(region.span),
            _ => {}
        }
        is_open = is_private;
    }
    stretches
}

/// Whether one of these spans, which are disjoint and ascending but for the last ones, holds all of another.
fn covers(spans: &[Span], span: Span) -> bool {
    let before = spans.partition_point(|other| other.start() <= span.start());
    before.checked_sub(1).and_then(|index| spans.get(index)).is_some_and(|other| other.covers(span))
}

/// Spans in pieces, small ones near each other together: what one call goes over, and what is in it.
fn groups(spans: &[Span]) -> Vec<(Span, Vec<Span>)> {
    let mut groups: Vec<(Span, Vec<Span>)> = Vec::new();
    for piece in spans.iter().flat_map(|span| span.pieces(PIECE)) {
        match groups.last_mut() {
            Some((extent, pieces))
                if piece.end().offset_from(extent.start()).is_some_and(|len| len <= PIECE) =>
            {
                *extent = Span::new(extent.start(), piece.end()).unwrap_or(*extent);
                pieces.push(piece);
            }
            _ => groups.push((piece, vec![piece])),
        }
    }
    groups
}

/// What is to be scanned: pieces of what is watched in which there are pages.
fn cells(pages: &PageRuns, watched: &[Span]) -> Vec<Span> {
    let mut cells: Vec<Span> = Vec::new();
    for span in watched {
        for run in pages.within(*span) {
            if matches!(run.state, PageState::Absent | PageState::Unreadable(_) | PageState::Guard) {
                continue;
            }
            for piece in run.span.pieces(PIECE) {
                match cells.last_mut() {
                    // Small runs near each other go together.
                    Some(last) if last.start().align_down(PIECE) == piece.start().align_down(PIECE) => {
                        *last = Span::new(last.start(), piece.end()).unwrap_or(*last);
                    }
                    _ => cells.push(piece),
                }
            }
        }
    }
    cells
}

fn rearm(
    pagemap: BorrowedFd<'_>,
    cell: Span,
    found: &mut [PageRange],
    written: &mut Vec<Span>,
) -> std::io::Result<()> {
    let mut rest = cell;
    while !rest.is_empty() {
        let what = Scan {
            flags: flag::WP_MATCHING,
            start: rest.start().get(),
            end: rest.end().get(),
            all_of: category::WRITTEN,
            any_of: category::PRESENT | category::SWAPPED,
            report: category::WRITTEN,
            ..Scan::default()
        };
        let (count, _) = pagemap::scan(pagemap, &what, found)?;
        let mut end = rest.start();
        for range in found.iter().take(count) {
            let span = Span::new(Address::new(range.start), Address::new(range.end));
            if let Some(span) = span.and_then(|span| span.intersection(cell)) {
                end = end.max(span.end());
                written.push(span);
            }
        }
        // The walk is complete unless the vector is full; where it ended it does not tell reliably.
        if count < found.len() {
            break;
        }
        rest = rest.split_at(end).1;
    }
    Ok(())
}

fn huge_in(target: &Target, cell: Span) -> std::io::Result<Vec<Span>> {
    let what = Scan {
        start: cell.start().get(),
        end: cell.end().get(),
        all_of: category::HUGE,
        report: category::HUGE,
        ..Scan::default()
    };
    let mut found = [PageRange::default(); 64];
    let (count, _) = pagemap::scan(target.pagemap(), &what, &mut found)?;
    Ok(found
        .iter()
        .take(count)
        .filter_map(|range| Span::new(Address::new(range.start), Address::new(range.end)))
        .collect())
}

/// Puts huge pages together that are none any more, and returns how many bytes of them stay small.
fn mend(target: &Target, cell: Span) -> u64 {
    let now = Span::union(huge_in(target, cell).unwrap_or_default());
    // What the process has given back of one since is not to be filled again.
    let split = |page: &Span| {
        page.len() == HUGE && !now.iter().any(|span| span.covers(*page)) && is_full(target, *page)
    };
    cell.pieces(HUGE)
        .filter(split)
        .filter(|page| {
            let range = [(page.start().get(), page.len())];
            process::collapse(target.identity.pidfd(), &range).is_err()
        })
        .map(Span::len)
        .sum()
}

/// Whether all pages of a span are in RAM.
fn is_full(target: &Target, span: Span) -> bool {
    let what = Scan {
        start: span.start().get(),
        end: span.end().get(),
        all_of: category::PRESENT,
        report: category::PRESENT,
        ..Scan::default()
    };
    let mut found = [PageRange::default(); 2];
    let count = pagemap::scan(target.pagemap(), &what, &mut found).map_or(0, |(count, _)| count);
    count == 1 && found.first().is_some_and(|range| range.end - range.start == span.len())
}
