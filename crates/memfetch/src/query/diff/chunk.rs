//! [`Chunk`]: parts of both sides as a thread compares them.

use std::ops::Range;

use super::layout::{Piece, Reads};
use super::paged::Paged;
use crate::address::{Address, Span};
use crate::error::Error;
use crate::memory::{Cause, Gaps, PageState};
use crate::source::{RunReader, Source};

/// Where pointers of the first side lead on the second.
#[derive(Clone, Debug, Default)]
pub(super) struct Moves {
    /// Spans of the first side, ascending, and how far above them their partners lie.
    moves: Vec<(Span, i128)>,
    word: usize,
    is_little: bool,
}

impl Moves {
    /// No move is known: every pointer that differs, differs.
    pub(super) const NONE: Self = Self { moves: Vec::new(), word: 8, is_little: true };

    pub(super) fn new(mut moves: Vec<(Span, i128)>, word: usize, is_little: bool) -> Self {
        moves.sort_unstable_by_key(|(span, _)| *span);
        Self { moves, word, is_little }
    }

    /// Whether these words point to corresponding places.
    fn lead_to_the_same(&self, before: &[u8], after: &[u8]) -> bool {
        let number = |bytes: &[u8]| {
            let next = |all: u64, byte: &u8| (all << 8) | u64::from(*byte);
            if self.is_little { bytes.iter().rev().fold(0, next) } else { bytes.iter().fold(0, next) }
        };
        let (was, is) = (number(before), number(after));
        let index = self.moves.partition_point(|(span, _)| span.end().get() < was);
        // Behind the end of one may be the start of another.
        self.moves.iter().skip(index).take(2).any(|&(span, shift)| {
            (span.start().get()..=span.end().get()).contains(&was)
                && i128::from(was) + shift == i128::from(is)
        })
    }
}

/// Bytes of both sides, read to the same places of two buffers.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    before: Paged,
    after: Paged,
    parts: Vec<Part>,
    pub gaps_before: Gaps,
    pub gaps_after: Gaps,
    /// How many bytes could not be read on one side or the other.
    pub gap_bytes: u64,
}

/// Bytes that can be compared, and adjoin.
#[derive(Clone, Debug)]
struct Part {
    before: Address,
    after: Address,
    bytes: Range<usize>,
    stretch: usize,
}

/// What differs in a chunk.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// Ranges of differing granules, ascending, none next to another of its part.
    pub ranges: Vec<FoundRange>,
    pub compared_bytes: u64,
    pub different_bytes: u64,
    pub moved_pointers: u64,
}

#[derive(Clone, Debug)]
pub(super) struct FoundRange {
    part: usize,
    bytes: Range<usize>,
}

/// A range of differing granules with its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Differing<'a> {
    pub before_at: Address,
    pub after_at: Address,
    pub before: &'a [u8],
    pub after: &'a [u8],
    pub stretch: usize,
    /// Whether it reaches the end of what adjoins here: the next chunk may have more of it.
    pub may_go_on: bool,
}

/// How the threads read.
pub(super) struct Readers<'a> {
    pub before: RunReader<'a, dyn Source>,
    pub after: RunReader<'a, dyn Source>,
}

impl Chunk {
    /// Reads what is ordered in place of what was here.
    pub(super) fn fill(&mut self, order: &[Piece], readers: &Readers<'_>) -> Result<(), Error> {
        let length: u64 = order.iter().map(|piece| piece.len).sum();
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        self.before.make_room(length);
        self.after.make_room(length);
        self.parts.clear();
        self.gaps_before = Gaps::new();
        self.gaps_after = Gaps::new();
        self.gap_bytes = 0;
        let mut at = 0;
        for piece in order {
            at = self.read_piece(at, piece, readers)?;
        }
        Ok(())
    }

    fn read_piece(&mut self, at: usize, piece: &Piece, readers: &Readers<'_>) -> Result<usize, Error> {
        let end = at.saturating_add(usize::try_from(piece.len).unwrap_or(usize::MAX));
        let (Some(before), Some(after)) = (self.before.get_mut(at..end), self.after.get_mut(at..end)) else {
            return Ok(end);
        };
        let (state_before, state_after) = match piece.reads {
            Reads::Both(before, after) => (Some(before), Some(after)),
            Reads::Before(state) => (Some(state), None),
            Reads::After(state) => (None, Some(state)),
        };
        let mut missing: Vec<Range<u64>> = Vec::new();
        read(&readers.before, piece.before, state_before, before, &mut self.gaps_before, &mut missing)?;
        read(&readers.after, piece.after, state_after, after, &mut self.gaps_after, &mut missing)?;
        missing.sort_unstable_by_key(|range| range.start);
        let mut done = 0;
        for hole in missing.into_iter().chain(std::iter::once(piece.len..piece.len)) {
            self.add_part(at, piece, done..hole.start);
            self.gap_bytes += hole.end.saturating_sub(hole.start.max(done));
            done = done.max(hole.end);
        }
        Ok(end)
    }

    /// Adds the bytes at `range` of a piece, which was read to `at`.
    fn add_part(&mut self, at: usize, piece: &Piece, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let index = |offset: u64| at.saturating_add(usize::try_from(offset).unwrap_or(usize::MAX));
        self.parts.push(Part {
            before: piece.before.saturating_add(range.start),
            after: piece.after.saturating_add(range.start),
            bytes: index(range.start)..index(range.end),
            stretch: piece.stretch,
        });
    }

    /// Compares both sides. Granules are `granule` bytes on a grid of addresses of the first side, a power of two.
    pub(super) fn look(&self, granule: u64, moves: &Moves) -> Found {
        let mut found = Found::default();
        for (number, part) in self.parts.iter().enumerate() {
            let (Some(before), Some(after)) =
                (self.before.get(part.bytes.clone()), self.after.get(part.bytes.clone()))
            else {
                continue;
            };
            found.compared_bytes += before.len() as u64;
            // memcmp at first: most memory is equal.
            if before != after {
                Comparison { part, number, granule, moves, found: &mut found }.compare(before, after);
            }
        }
        found
    }

    /// The bytes of a range.
    pub(super) fn differing(&self, range: &FoundRange) -> Option<Differing<'_>> {
        let part = self.parts.get(range.part)?;
        let offset = (range.bytes.start.checked_sub(part.bytes.start)?) as u64;
        Some(Differing {
            before_at: part.before.saturating_add(offset),
            after_at: part.after.saturating_add(offset),
            before: self.before.get(range.bytes.clone())?,
            after: self.after.get(range.bytes.clone())?,
            stretch: part.stretch,
            may_go_on: range.bytes.end == part.bytes.end,
        })
    }
}

/// Reads one side of a piece, which is zero where it has no state.
fn read(
    reader: &RunReader<'_, dyn Source>,
    at: Address,
    state: Option<PageState>,
    bytes: &mut [u8],
    gaps: &mut Gaps,
    missing: &mut Vec<Range<u64>>,
) -> Result<(), Error> {
    let Some(state) = state else {
        bytes.fill(0);
        return Ok(());
    };
    reader.read(at, state, bytes, &mut |span: Span, cause: Cause| {
        gaps.push(span, cause);
        let start = span.start().offset_from(at).unwrap_or(0);
        missing.push(start..start.saturating_add(span.len()));
    })?;
    Ok(())
}

/// The comparison of a part, of which something is known to differ.
struct Comparison<'a> {
    part: &'a Part,
    number: usize,
    granule: u64,
    moves: &'a Moves,
    found: &'a mut Found,
}

/// So much is compared at once before it is looked at more closely.
const BLOCK: usize = 1024;

impl Comparison<'_> {
    fn compare(&mut self, before: &[u8], after: &[u8]) {
        let mut index = 0;
        // Blocks of the grid of addresses, so that no word lies across two.
        let mut len = BLOCK - (self.part.before.get() % BLOCK as u64) as usize;
        while let (Some(one), Some(other)) = (rest(before, index, len), rest(after, index, len)) {
            if one != other {
                self.compare_words(index, one, other);
            }
            index += one.len();
            len = BLOCK;
        }
    }

    /// Goes through words on the grid of addresses; `index` is where the bytes begin in the part.
    fn compare_words(&mut self, index: usize, before: &[u8], after: &[u8]) {
        let word = self.moves.word.max(1);
        let start = self.part.before.saturating_add(index as u64).get();
        let mut done = 0;
        while done < before.len() {
            let into_word = (start.wrapping_add(done as u64) % word as u64) as usize;
            let len = (word - into_word).min(before.len() - done);
            let (Some(one), Some(other)) = (before.get(done..done + len), after.get(done..done + len)) else {
                return;
            };
            if one != other {
                if len == word && self.moves.lead_to_the_same(one, other) {
                    self.found.moved_pointers += 1;
                } else {
                    for (offset, _) in
                        one.iter().zip(other).enumerate().filter(|(_, (one, other))| one != other)
                    {
                        self.found.different_bytes += 1;
                        self.mark(index + done + offset);
                    }
                }
            }
            done += len;
        }
    }

    /// The granule of the byte at `index` of the part differs.
    fn mark(&mut self, index: usize) {
        let at = self.part.before.saturating_add(index as u64);
        let into_granule = at.offset_from(at.align_down(self.granule)).unwrap_or(0) as usize;
        let bytes = &self.part.bytes;
        // A granule may begin before what could be compared, and end behind it.
        let end = (bytes.start + index + self.granule as usize).saturating_sub(into_granule).min(bytes.end);
        let start = (bytes.start + index).saturating_sub(into_granule).max(bytes.start);
        match self.found.ranges.last_mut() {
            Some(last) if last.part == self.number && last.bytes.end >= start => {
                last.bytes.end = last.bytes.end.max(end);
            }
            _ => self.found.ranges.push(FoundRange { part: self.number, bytes: start..end }),
        }
    }
}

/// At most `len` bytes from `index` on, if there are any.
fn rest(bytes: &[u8], index: usize, len: usize) -> Option<&[u8]> {
    bytes.get(index..bytes.len().min(index.saturating_add(len))).filter(|rest| !rest.is_empty())
}
