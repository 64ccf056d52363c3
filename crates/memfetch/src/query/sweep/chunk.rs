//! [`Chunk`]: a part of the memory as a thread looks at it, and [`Cutter`], which cuts it out.

use std::ops::Range;

use super::survey::{Coverage, Survey};
use crate::address::{Address, Span};
use crate::error::Error;
use crate::memory::{Cause, Gaps, PageRuns};
use crate::source::{PageSource, RunReader};

/// Runs of known zeros up to this length are in the chunks with what is around them; of longer ones only the ends are.
const SHORT_ZEROS: u64 = 64 << 10;
/// So many pieces are in one chunk at most, where pieces are small.
const PIECES: usize = 1024;

/// How stretches are cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    pub core: u64,
    pub behind: u64,
    pub ahead: u64,
}

/// A piece of a stretch: what begins in the core is looked for, and the bytes around it are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub core: Span,
    pub shown: Span,
}

/// What one chunk is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub pieces: Vec<Piece>,
}

/// Memory that was read, in segments.
#[derive(Debug, Default)]
pub struct Chunk {
    bytes: Vec<u8>,
    parts: Vec<Part>,
    /// Which of `bytes` are known zeros that were not read.
    zeros: Vec<Range<usize>>,
    read_bytes: u64,
    pub(super) gaps: Gaps,
}

#[derive(Debug)]
struct Part {
    at: Address,
    bytes: Range<usize>,
    core: Range<usize>,
}

/// Bytes that adjoin in memory.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    chunk: &'a Chunk,
    part: &'a Part,
}

impl<'a> Segment<'a> {
    /// The address of the first byte.
    #[must_use]
    pub fn at(&self) -> Address {
        self.part.at
    }

    /// The bytes, those around the core included.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.chunk.bytes.get(self.part.bytes.clone()).unwrap_or_default()
    }

    /// Which of the bytes are the core: what begins there belongs here, and all else to other chunks.
    #[must_use]
    pub fn core(&self) -> Range<usize> {
        self.part.core.clone()
    }

    /// The address of the byte at `index`.
    #[must_use]
    pub fn address_of(&self, index: usize) -> Address {
        self.part.at.saturating_add(index as u64)
    }

    /// How far behind the first byte `at` lies; nothing before it. It may lie behind the last.
    #[must_use]
    pub fn index_of(&self, at: Address) -> Option<usize> {
        usize::try_from(at.offset_from(self.part.at)?).ok()
    }

    /// Whether all of `range` is known to be zero without having been read: nobody is told of such finds, of which there
    /// would be one for each byte of a reservation.
    #[must_use]
    pub fn is_unread(&self, range: Range<usize>) -> bool {
        let zeros = &self.chunk.zeros;
        let start = self.part.bytes.start + range.start;
        let end = self.part.bytes.start + range.end;
        let index = zeros.partition_point(|zero| zero.end <= start);
        zeros.get(index).is_some_and(|zero| zero.start <= start && end <= zero.end)
    }
}

impl Chunk {
    /// The segments, ascending.
    pub fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        self.parts.iter().map(|part| Segment { chunk: self, part })
    }

    /// Adds what this chunk came to.
    pub(super) fn count(&self, coverage: &mut Coverage) {
        coverage.read_bytes += self.read_bytes;
        coverage.gaps.extend(self.gaps.iter().copied());
    }

    /// Reads what is ordered in place of what was here.
    pub(super) fn fill<S: PageSource + ?Sized>(
        &mut self,
        order: &Order,
        survey: &Survey,
        reader: &RunReader<'_, S>,
    ) -> Result<(), Error> {
        let length: u64 = order.pieces.iter().map(|piece| piece.shown.len()).sum();
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if self.bytes.len() < length {
            self.bytes.resize(length, 0);
        }
        self.parts.clear();
        self.zeros.clear();
        self.read_bytes = 0;
        self.gaps = Gaps::new();
        let mut at = 0;
        for piece in &order.pieces {
            at = self.read_piece(at, piece, survey, reader)?;
        }
        Ok(())
    }

    /// Reads a piece to `at` in the buffer, and returns where the next one goes.
    fn read_piece<S: PageSource + ?Sized>(
        &mut self,
        at: usize,
        piece: &Piece,
        survey: &Survey,
        reader: &RunReader<'_, S>,
    ) -> Result<usize, Error> {
        let place = |address: Address| {
            at + address.offset_from(piece.shown.start()).and_then(|o| usize::try_from(o).ok()).unwrap_or(0)
        };
        let mut missing = Gaps::new();
        for run in survey.runs.within(piece.shown) {
            let range = place(run.span.start())..place(run.span.end());
            let Some(bytes) = self.bytes.get_mut(range.clone()) else { break };
            if run.state.is_known_zero() {
                bytes.fill(0);
                match self.zeros.last_mut().filter(|last| last.end == range.start) {
                    Some(last) => last.end = range.end,
                    None => self.zeros.push(range),
                }
                continue;
            }
            let mut wanted = run.span.intersection(piece.core).map_or(0, Span::len);
            reader.read(run.span.start(), run.state, bytes, &mut |span, cause| {
                missing.push(span, cause);
                if let Some(lost) = span.intersection(piece.core) {
                    wanted = wanted.saturating_sub(lost.len());
                    // What lies in no core here is told of by the chunk whose core has it.
                    if !matches!(cause, Cause::BeyondFile | Cause::Guard) {
                        self.gaps.push(lost, cause);
                    }
                }
            })?;
            self.read_bytes += wanted;
        }
        let mut rest = piece.shown;
        let mut part = |span: Span| {
            // What lies behind a gap around the core, nothing here can reach.
            let Some(core) = span.intersection(piece.core) else { return };
            let index = |address: Address| place(address) - place(span.start());
            self.parts.push(Part {
                at: span.start(),
                bytes: place(span.start())..place(span.end()),
                core: index(core.start())..index(core.end()),
            });
        };
        for gap in missing.iter() {
            let (whole, from) = rest.split_at(gap.span.start());
            if !whole.is_empty() {
                part(whole);
            }
            rest = from.split_at(gap.span.end()).1;
        }
        if !rest.is_empty() {
            part(rest);
        }
        Ok(place(piece.shown.end()))
    }
}

/// Cuts what a survey says into orders, one after the other.
#[derive(Debug)]
pub(super) struct Cutter {
    cut: Cut,
    /// The first run that is not dealt with.
    next_run: usize,
    /// What of the present stretch's cores is not ordered: a part of it, and the whole.
    rest: Span,
    stretch: Span,
}

impl Cutter {
    pub(super) const fn new(cut: Cut) -> Self {
        let nothing = Span::empty_at(Address::ZERO);
        Self { cut, next_run: 0, rest: nothing, stretch: nothing }
    }

    /// The next order.
    pub(super) fn next(&mut self, runs: &PageRuns) -> Option<Order> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut length = 0;
        while pieces.len() < PIECES {
            if self.rest.is_empty() && !self.next_data(runs) {
                break;
            }
            let Some(core) = self.rest.pieces(self.cut.core).next() else { break };
            let piece = self.piece(core);
            length += piece.shown.len();
            if length > self.cut.core + self.cut.behind + self.cut.ahead && !pieces.is_empty() {
                break;
            }
            self.rest = self.rest.split_at(core.end()).1;
            pieces.push(piece);
        }
        if pieces.is_empty() {
            return None;
        }
        Some(Order { pieces })
    }

    fn piece(&self, core: Span) -> Piece {
        let start =
            Address::new(core.start().get().saturating_sub(self.cut.behind)).max(self.stretch.start());
        let end = core.end().saturating_add(self.cut.ahead).min(self.stretch.end());
        Piece { core, shown: Span::new(start, end).unwrap_or(core) }
    }

    /// Finds the next part of a stretch that has to be read: up to a long run of zeros, or to the stretch's end.
    fn next_data(&mut self, runs: &PageRuns) -> bool {
        let runs = runs.as_slice();
        while let Some(first) = runs.get(self.next_run) {
            // A new stretch begins where the last one ends.
            if first.span.start() >= self.stretch.end() {
                let mut end = first.span.end();
                for run in runs.iter().skip(self.next_run + 1) {
                    if run.span.start() != end {
                        break;
                    }
                    end = run.span.end();
                }
                self.stretch = Span::new(first.span.start(), end).unwrap_or(first.span);
            }
            if first.state.is_known_zero() {
                self.next_run += 1;
                continue;
            }
            // Something that ends in these bytes may begin in the zeros before.
            let before = first.span.start().get().saturating_sub(self.cut.ahead);
            let start = Address::new(before).max(self.stretch.start()).max(self.rest.end());
            let mut end = first.span.end();
            self.next_run += 1;
            while let Some(run) = runs.get(self.next_run).filter(|run| run.span.start() == end) {
                if run.state.is_known_zero() && run.span.len() > SHORT_ZEROS {
                    break;
                }
                end = run.span.end();
                self.next_run += 1;
            }
            self.rest = Span::new(start, end).unwrap_or(first.span);
            return true;
        }
        false
    }
}
