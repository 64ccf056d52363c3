//! [`View`]: memory as the engine is shown it, first what was cut out of it, then, to those conditions that ask for
//! the bytes at an address, all of it.

use std::collections::VecDeque;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use boreal::memory::{FragmentedMemory, MemoryParams, Region, RegionDescription};

use super::images::Images;
use super::seeker::Cutting;
use crate::address::{Address, Span};
use crate::error::Error;
use crate::memory::{Cause, Gaps, Touch};
use crate::query::reader::{Chunk, Reader};
use crate::query::sweep::Survey;
use crate::source::Source;

/// So much is read at once for a condition.
const PIECE: u64 = 256 << 10;
/// So many bytes behind a piece are shown with it: the longest number that a condition reads is 8 bytes.
const BEHIND: u64 = 8;
/// Known zeros in longer runs are not read, and shown in pieces of this size.
const ZEROS: u64 = 64 << 20;
/// So many pieces are kept.
const KEPT: usize = 16;

/// What of a source rules are evaluated over.
pub(super) struct View<'a> {
    peek: Peek<'a>,
    images: &'a Images,
    cuttings: &'a [Cutting],
    pieces: Vec<Piece>,
    /// Whether conditions are evaluated: the strings have been looked for.
    conditions: bool,
    next: usize,
    kept: VecDeque<(u64, Vec<u8>)>,
    zeros: Vec<u8>,
    announced: Vec<u64>,
}

/// A part of the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    span: Span,
    /// How far the bytes go that are shown with it.
    shown: u64,
    zero: bool,
}

impl fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("cuttings", &self.cuttings.len()).finish_non_exhaustive()
    }
}

impl<'a> View<'a> {
    pub fn new(peek: Peek<'a>, survey: &Survey, images: &'a Images, cuttings: &'a [Cutting]) -> Self {
        Self {
            peek,
            images,
            cuttings,
            pieces: pieces(survey),
            conditions: false,
            next: 0,
            kept: VecDeque::new(),
            zeros: Vec::new(),
            announced: images.keys().copied().collect(),
        }
    }

    fn cutting(&self, index: usize) -> Option<&'a Cutting> {
        self.cuttings.get(index.checked_sub(self.announced.len())?)
    }
}

impl FragmentedMemory for View<'_> {
    fn next(&mut self, _: &MemoryParams) -> Option<RegionDescription> {
        let index = self.next;
        let (start, length) = if self.conditions {
            let piece = self.pieces.get(index)?;
            (piece.span.start().get(), piece.span.len())
        } else if let Some(&at) = self.announced.get(index) {
            (at, 0)
        } else {
            let cutting = self.cutting(index)?;
            (cutting.at, cutting.bytes.len() as u64)
        };
        self.next += 1;
        Some(RegionDescription { start: usize::try_from(start).ok()?, length: usize::try_from(length).ok()? })
    }

    fn fetch(&mut self, _: &MemoryParams) -> Option<Region<'_>> {
        let index = self.next.checked_sub(1)?;
        if !self.conditions {
            if let Some(&at) = self.announced.get(index).filter(|at| self.images.contains_key(at)) {
                return Some(Region { start: usize::try_from(at).ok()?, mem: &[] });
            }
            let cutting = self.cutting(index)?;
            return Some(Region { start: usize::try_from(cutting.at).ok()?, mem: &cutting.bytes });
        }
        let piece = *self.pieces.get(index)?;
        let at = piece.span.start().get();
        let start = usize::try_from(at).ok()?;
        let len = usize::try_from(piece.shown).ok()?;
        if piece.zero {
            if self.zeros.len() < len {
                self.zeros = vec![0; usize::try_from(ZEROS + BEHIND).ok()?.max(len)];
            }
            return Some(Region { start, mem: self.zeros.get(..len)? });
        }
        if !self.kept.iter().any(|(kept, _)| *kept == at) {
            let mut bytes = vec![0; len];
            // Half a piece cannot be shown: the engine takes what it was told of for granted.
            if self.peek.prefix(piece.span.start(), &mut bytes) < usize::try_from(piece.span.len()).ok()? {
                return None;
            }
            if self.kept.len() >= KEPT {
                self.kept.pop_front();
            }
            self.kept.push_back((at, bytes));
        }
        let (_, bytes) = self.kept.iter().find(|(kept, _)| *kept == at)?;
        Some(Region { start, mem: bytes })
    }

    fn reset(&mut self) {
        self.conditions = true;
        self.next = 0;
    }
}

/// All that may be read or is known to be zero, in parts.
fn pieces(survey: &Survey) -> Vec<Piece> {
    let runs = survey.runs().as_slice();
    let mut pieces = Vec::new();
    let mut first = 0;
    while let Some(run) = runs.get(first) {
        let mut end = run.span.end();
        let mut behind = first + 1;
        while let Some(next) = runs.get(behind).filter(|next| next.span.start() == end) {
            end = next.span.end();
            behind += 1;
        }
        let stretch = Span::new(run.span.start(), end).unwrap_or(run.span);
        let mut push = |span: Span, size: u64, zero: bool| {
            pieces.extend(span.pieces(size).map(|span| {
                let behind = stretch.end().offset_from(span.end()).unwrap_or(0).min(BEHIND);
                Piece { span, shown: span.len() + behind, zero }
            }));
        };
        let mut at = stretch.start();
        for run in runs.get(first..behind).unwrap_or_default() {
            // What reaches from zeros into what lies behind them is read as one.
            let zeros_end = Address::new(run.span.end().get().saturating_sub(BEHIND)).max(run.span.start());
            if run.state.is_known_zero() && run.span.len() > 4 * PIECE {
                push(Span::new(at, run.span.start()).unwrap_or(Span::empty_at(at)), PIECE, false);
                push(
                    Span::new(run.span.start(), zeros_end).unwrap_or(Span::empty_at(zeros_end)),
                    ZEROS,
                    true,
                );
                at = zeros_end;
            }
        }
        push(Span::new(at, stretch.end()).unwrap_or(Span::empty_at(at)), PIECE, false);
        first = behind;
    }
    pieces
}

/// Reads for conditions, by the page states and as far as may be touched, and remembers what could not be had.
#[derive(Clone)]
pub(super) struct Peek<'a> {
    pub source: &'a dyn Source,
    pub touch: Touch,
    pub seen: Arc<Mutex<Seen>>,
}

/// What reading for conditions came to.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub read_bytes: u64,
    pub gaps: Gaps,
}

impl Peek<'_> {
    /// Reads up to the first byte that cannot be had.
    pub fn prefix(&self, at: Address, buf: &mut [u8]) -> usize {
        let Some(span) = Span::from_len(at, buf.len() as u64) else { return 0 };
        let mut done = 0;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let read = Reader::new(self.source, self.touch).read(span, &mut |chunk| -> Result<_, Error> {
            let rest = buf.get_mut(done..).unwrap_or_default();
            let len = match chunk {
                Chunk::Bytes(_, bytes) => {
                    let len = bytes.len().min(rest.len());
                    rest.split_at_mut(len).0.copy_from_slice(bytes.split_at(len).0);
                    seen.read_bytes += len as u64;
                    len
                }
                Chunk::Zeros(zeros) => usize::try_from(zeros.len()).unwrap_or(usize::MAX).min(rest.len()),
                Chunk::Missing(span, cause) => {
                    seen.gaps.push(span, cause);
                    return Ok(ControlFlow::Break(()));
                }
            };
            done += len;
            Ok(ControlFlow::Continue(()))
        });
        if read.is_err() {
            seen.gaps.push(span.split_at(at.saturating_add(done as u64)).1, Cause::Ended);
        }
        done
    }
}
