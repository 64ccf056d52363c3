//! [`Spool`]: a copy of memory that is made page by page while the original changes, and read as a source once it is
//! whole.
//!
//! Most of it lies in a file, if it is large: the pages as they were when they were first copied. What was copied again
//! lies in memory, and counts; a small copy lies there as a whole.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use memfetch_sys::buffer::Buffer;

use super::super::arrangement::Stretch;
use super::spans::outside;
use crate::address::{Address, Span};
use crate::error::Error;
use crate::live::Process;
use crate::memory::{Cause, Gaps, PageRun, PageRuns, PageState, ReadError, Touch};
use crate::region::{Region, RegionMap};
use crate::source::{Heartbeat, PageSource, RunReader};

/// How much of a copy in memory one buffer holds.
const UNIT: usize = 4 << 20;
/// How many threads copy into memory.
const THREADS: usize = 2;
/// Runs up to this length are read by one call on `/proc/PID/mem` each: to find out whether another call may be used
/// would take longer than the reading.
const SHORT: u64 = 64 << 10;

/// Copied memory that lies in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    span: Span,
    /// The number of the buffer, and where in it.
    buffer: usize,
    at: usize,
}

impl Piece {
    /// What of it lies in a part of its span.
    fn part(self, span: Span) -> Option<Self> {
        let into = usize::try_from(span.start().offset_from(self.span.start())?).ok()?;
        Some(Self { span, at: self.at.checked_add(into)?, ..self })
    }
}

/// Where the file of a spool is read.
pub(in crate::capture) trait Base: Send + Sync {
    /// Reads a prefix of `buf`, which is not empty, from `offset` on.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<usize>;
}

/// Copied memory. As a source it is read at the addresses that the memory had.
#[derive(Default)]
pub(in crate::capture) struct Spool {
    buffers: Vec<Buffer>,
    /// Buffers that are in RAM already, for what is to be copied while the process is held.
    ready: Vec<Buffer>,
    /// What is in memory: ascending, disjoint.
    pieces: Vec<Piece>,
    /// What was copied last, in no order, and not yet among the others.
    fresh: Vec<Piece>,
    /// What is in the file: ascending by address, disjoint.
    places: Vec<Stretch>,
    base: Option<Box<dyn Base>>,
    gaps: Vec<(Span, Cause)>,
    /// What of the fresh could not be read.
    fresh_gaps: Vec<(Span, Cause)>,
}

/// Memory to copy, and how.
pub(in crate::capture) struct Order<'a> {
    pub process: &'a Process,
    pub map: &'a Arc<RegionMap>,
    pub touch: Touch,
    pub page_size: u64,
    /// Whether the process is held, and its pages are as they are listed.
    pub held: bool,
    /// How long a thread may take over the reads of one buffer.
    pub limit: Option<Duration>,
}

/// What copying came to.
#[derive(Debug, Default)]
pub(in crate::capture) struct Copied {
    pub read_bytes: u64,
    pub file_bytes: u64,
    pub gaps: Gaps,
}

/// What one thread copies into one buffer.
struct Load {
    buffer: Buffer,
    runs: Vec<PageRun>,
}

impl Spool {
    /// Takes a file for what is in it: `places` are ascending by address.
    pub fn with_base(base: Box<dyn Base>, places: Vec<Stretch>) -> Self {
        Self { base: Some(base), places, ..Self::default() }
    }

    /// How many bytes of memory it takes; of what was made ready only where that is not about to be used.
    pub fn memory(&self, held: bool) -> u64 {
        let ready = if held { 0 } else { self.ready.len() };
        ((self.buffers.len() + ready) * UNIT) as u64
    }

    /// Where in the file a span lies, if all of it does.
    pub fn places(&self) -> &[Stretch] {
        &self.places
    }

    /// Has so many bytes of buffers in RAM, so that copying does not wait for them.
    pub fn make_ready(&mut self, bytes: u64) -> Result<(), Error> {
        let wanted = usize::try_from(bytes).unwrap_or(usize::MAX).div_ceil(UNIT).saturating_add(THREADS);
        while self.ready.len() < wanted {
            let mut buffer = new_buffer()?;
            buffer.enter_pages();
            self.ready.push(buffer);
        }
        Ok(())
    }

    /// Copies pages into memory, where they take the place of what was copied before once [`Spool::settle`] was called.
    pub fn copy(&mut self, runs: &PageRuns, order: &Order<'_>) -> Result<Copied, Error> {
        let mut loads = self.loads(runs)?;
        let mut copied = Copied::default();
        let lists = {
            let first = loads.len().div_ceil(THREADS);
            let second = loads.split_off(first.min(loads.len()));
            [loads, second]
        };
        let done = std::thread::scope(|scope| {
            let threads: Vec<_> = lists
                .into_iter()
                .filter(|list| !list.is_empty())
                .map(|list| {
                    // The first that does not come back is the last: the process may be held meanwhile.
                    scope.spawn(move || {
                        list.into_iter().map(|load| order.carry_out(load)).collect::<Result<Vec<_>, _>>()
                    })
                })
                .collect();
            threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect::<Vec<_>>()
        });
        for results in done {
            let results = results.map_err(|_| Error::Os {
                action: "copy memory".into(),
                source: std::io::Error::other("a copying thread panicked"),
            })?;
            for filled in results? {
                let buffer = self.buffers.len();
                self.buffers.push(filled.buffer);
                self.fresh.extend(filled.placed.into_iter().map(|(span, at)| Piece { span, buffer, at }));
                copied.read_bytes += filled.read_bytes;
                copied.file_bytes += filled.file_bytes;
                copied.gaps.extend(filled.gaps.iter().copied());
            }
        }
        Ok(copied)
    }

    /// Cuts runs into what fits a buffer each.
    fn loads(&mut self, runs: &PageRuns) -> Result<Vec<Load>, Error> {
        let mut loads: Vec<Load> = Vec::new();
        let mut room = 0;
        for run in runs {
            let mut rest = run.span;
            while !rest.is_empty() {
                if room == 0 {
                    let buffer = self.ready.pop().map_or_else(new_buffer, Ok)?;
                    loads.push(Load { buffer, runs: Vec::new() });
                    room = UNIT as u64;
                }
                let (now, later) = rest.split_at(rest.start().saturating_add(room));
                if let Some(load) = loads.last_mut() {
                    load.runs.push(PageRun { span: now, state: run.state });
                }
                room -= now.len();
                rest = later;
            }
        }
        Ok(loads)
    }

    /// Has what was copied last take its place among the rest. Not while the process is held: with many pieces it takes
    /// its time.
    pub fn settle(&mut self) {
        let mut fresh = std::mem::take(&mut self.fresh);
        if !fresh.is_empty() {
            fresh.sort_unstable_by_key(|piece| piece.span);
            let spans = Span::union(fresh.iter().map(|piece| piece.span));
            self.forget(&spans);
            self.pieces.extend(fresh);
            self.pieces.sort_unstable_by_key(|piece| piece.span);
        }
        // What was a gap before is none where it could be read since; what could not be read now is one.
        self.gaps.append(&mut self.fresh_gaps);
        self.gaps.sort_unstable_by_key(|(span, _)| *span);
    }

    /// Takes away what is in memory of these spans: the file has it newer.
    pub fn forget(&mut self, spans: &[Span]) {
        let kept = std::mem::take(&mut self.pieces).into_iter();
        self.pieces = kept
            .flat_map(|piece| {
                outside(piece.span, spans).filter_map(move |span| piece.part(span)).collect::<Vec<_>>()
            })
            .collect();
        self.gaps = std::mem::take(&mut self.gaps)
            .into_iter()
            .flat_map(|(span, cause)| outside(span, spans).map(move |span| (span, cause)).collect::<Vec<_>>())
            .collect();
    }

    /// Takes note of what could not be read of what was copied last.
    pub fn note_gaps(&mut self, gaps: &Gaps) {
        self.fresh_gaps.extend(gaps.iter().map(|gap| (gap.span, gap.cause)));
    }

    /// The buffers that were made ready and not used are given back.
    pub fn close(&mut self) {
        self.settle();
        self.ready.clear();
    }

    /// Where memory lies that was copied again after it had been written to the file, or never was.
    pub fn in_memory(&self) -> Vec<Span> {
        Span::union(self.pieces.iter().map(|piece| piece.span))
    }
}

fn new_buffer() -> Result<Buffer, Error> {
    Buffer::new(UNIT).map_err(|source| Error::Os { action: "allocate a buffer".into(), source })
}

/// A buffer, and what is in it.
struct Filled {
    buffer: Buffer,
    placed: Vec<(Span, usize)>,
    read_bytes: u64,
    file_bytes: u64,
    gaps: Gaps,
}

impl Order<'_> {
    /// Reads all of a load, on a thread that can be given up on.
    fn carry_out(&self, load: Load) -> Result<Filled, Error> {
        let (process, map) = (self.process.clone(), Arc::clone(self.map));
        let (touch, page_size, held) = (self.touch, self.page_size, self.held);
        self.process.with_time_limit(self.limit).run("read its memory", move |_| {
            let cancelled = AtomicBool::new(false);
            let beat = Heartbeat::new();
            let reader = RunReader {
                source: &process,
                map: &map,
                touch,
                page_size,
                cancelled: &cancelled,
                beat: &beat,
            };
            fill(load, &reader, held)
        })?
    }
}

fn fill(load: Load, reader: &RunReader<'_, Process>, held: bool) -> Result<Filled, Error> {
    let Load { buffer, runs } = load;
    let mut filled = Filled {
        buffer,
        placed: Vec::with_capacity(runs.len()),
        read_bytes: 0,
        file_bytes: 0,
        gaps: Gaps::new(),
    };
    let mut at = 0;
    for run in runs {
        let len = run.span.len() as usize;
        let Some(bytes) = filled.buffer.get_mut(at..at + len) else { break };
        let is_there = matches!(run.state, PageState::Resident | PageState::FileResident);
        if held
            && is_there
            && run.span.len() <= SHORT
            && reader.source.read_held(run.span.start(), bytes) == Some(len)
        {
            filled.read_bytes += run.span.len();
        } else {
            let gaps = &mut filled.gaps;
            let read =
                reader.read(run.span.start(), run.state, bytes, &mut |span, cause| gaps.push(span, cause))?;
            filled.read_bytes += read.mapped_bytes;
            filled.file_bytes += read.behind_bytes;
        }
        filled.placed.push((run.span, at));
        at += len;
    }
    Ok(filled)
}

impl PageSource for Spool {
    fn fetch(&self, _: &Region, state: PageState, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        if buf.is_empty() {
            return Ok(0);
        }
        if state.is_known_zero() {
            buf.fill(0);
            return Ok(buf.len());
        }
        let wanted = Span::from_len(at, buf.len() as u64).unwrap_or(Span::empty_at(at));
        let mut end = wanted.end();
        let next_gap = self.gaps.partition_point(|(span, _)| span.end() <= at);
        if let Some((span, cause)) = self.gaps.get(next_gap) {
            if span.contains(at) {
                return Err(ReadError::fault(at, *cause));
            }
            end = end.min(span.start());
        }
        let next = self.pieces.partition_point(|piece| piece.span.end() <= at);
        if let Some(piece) = self.pieces.get(next) {
            if piece.span.contains(at) {
                let span = Span::new(at, end.min(piece.span.end())).unwrap_or(Span::empty_at(at));
                let bytes = piece.part(span).and_then(|part| {
                    self.buffers.get(part.buffer)?.get(part.at..part.at.checked_add(span.len() as usize)?)
                });
                let Some((into, from)) = bytes.and_then(|from| Some((buf.get_mut(..from.len())?, from)))
                else {
                    return Err(ReadError::fault(at, Cause::Vanished));
                };
                into.copy_from_slice(from);
                return Ok(from.len());
            }
            end = end.min(piece.span.start());
        }
        let place = self.places.partition_point(|place| place.span.end() <= at);
        let (Some(place), Some(base)) =
            (self.places.get(place).filter(|place| place.span.contains(at)), &self.base)
        else {
            return Err(ReadError::fault(at, Cause::Vanished));
        };
        let len = end.min(place.span.end()).offset_from(at).unwrap_or_default() as usize;
        let offset = place.offset.saturating_add(at.offset_from(place.span.start()).unwrap_or_default());
        let into = buf.get_mut(..len).unwrap_or_default();
        match base.read_at(offset, into) {
            Ok(read) if read > 0 => Ok(read),
            Ok(_) => Err(ReadError::fault(at, Cause::Truncated)),
            Err(source) => {
                Err(ReadError::Source(Error::Os { action: "read back what was copied".into(), source }))
            }
        }
    }

    fn touch(&self, region: &Region, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        self.fetch(region, PageState::Resident, at, buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::PageState::{Absent, Resident};
    use crate::region::{Backing, Permissions};

    const PAGE: u64 = 4096;

    /// A file in which each byte tells its page.
    struct Numbered;

    impl Base for Numbered {
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<usize> {
            for (byte, at) in buf.iter_mut().zip(offset..) {
                *byte = (at / PAGE) as u8;
            }
            Ok(buf.len())
        }
    }

    fn pages(first: u64, count: u64) -> Span {
        Span::from_len(Address::new(0x10_0000 + first * PAGE), count * PAGE).unwrap()
    }

    fn region() -> Region {
        let backing = Backing::Anonymous { label: None };
        Region { span: pages(0, 64), permissions: Permissions::default(), backing }
    }

    /// Has pages copied into memory, all of them with this byte.
    fn overlay(spool: &mut Spool, span: Span, byte: u8) {
        let mut buffer = Buffer::new(span.len() as usize).unwrap();
        buffer.fill(byte);
        let number = spool.buffers.len();
        spool.buffers.push(buffer);
        spool.fresh.push(Piece { span, buffer: number, at: 0 });
    }

    /// The byte of each page, or the cause for which it has none.
    fn told(spool: &Spool, count: u64) -> Vec<Result<u8, Cause>> {
        (0..count)
            .map(|number| {
                let mut byte = [0];
                match spool.fetch(&region(), Resident, pages(number, 1).start(), &mut byte) {
                    Ok(_) => Ok(byte[0]),
                    Err(ReadError::Fault(fault)) => Err(fault.cause),
                    Err(error) => panic!("{error}"),
                }
            })
            .collect()
    }

    #[test]
    fn what_was_copied_last_counts_and_so_does_what_could_not_be() {
        let places = vec![Stretch { span: pages(0, 8), offset: 0 }];
        let mut spool = Spool::with_base(Box::new(Numbered), places);
        overlay(&mut spool, pages(2, 3), 100);
        let mut gaps = Gaps::new();
        gaps.push(pages(3, 1), Cause::Vanished);
        gaps.push(pages(6, 1), Cause::Vanished);
        spool.note_gaps(&gaps);
        spool.settle();
        let lost = Err(Cause::Vanished);
        assert_eq!(told(&spool, 9), [Ok(0), Ok(1), Ok(100), lost, Ok(100), Ok(5), lost, Ok(7), lost]);
        // As in the stop: told of before it takes its place.
        overlay(&mut spool, pages(3, 1), 101);
        overlay(&mut spool, pages(6, 2), 102);
        let mut gaps = Gaps::new();
        gaps.push(pages(7, 1), Cause::TimedOut);
        spool.note_gaps(&gaps);
        spool.close();
        let late = Err(Cause::TimedOut);
        assert_eq!(told(&spool, 9), [Ok(0), Ok(1), Ok(100), Ok(101), Ok(100), Ok(5), Ok(102), late, lost]);
        // What the file has newer.
        spool.forget(&[pages(2, 2)]);
        assert_eq!(told(&spool, 4), [Ok(0), Ok(1), Ok(2), Ok(3)]);
        assert_eq!(spool.in_memory(), [pages(4, 1), pages(6, 2)]);
        let mut zeros = [1; 10];
        assert_eq!(spool.fetch(&region(), Absent, pages(0, 1).start(), &mut zeros).unwrap(), 10);
        assert_eq!(zeros, [0; 10]);
    }

    #[test]
    fn a_read_ends_where_what_it_reads_does() {
        let places = vec![Stretch { span: pages(0, 8), offset: 0 }];
        let mut spool = Spool::with_base(Box::new(Numbered), places);
        overlay(&mut spool, pages(2, 2), 100);
        spool.close();
        let mut bytes = vec![0; 16 * PAGE as usize];
        let mut lengths = Vec::new();
        let mut at = pages(0, 1).start();
        while let Ok(read) = spool.fetch(&region(), Resident, at, &mut bytes) {
            lengths.push(read as u64 / PAGE);
            at = at.saturating_add(read as u64);
        }
        assert_eq!(lengths, [2, 2, 4]);
    }
}
