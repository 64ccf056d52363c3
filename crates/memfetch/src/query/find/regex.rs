//! Regular expressions: matches that exclude each other, found by threads that do not know of each other.

use super::{Hit, LONGEST_MATCH, is_told};
use crate::address::Address;
use crate::query::sweep::{Chunk, Segment};

/// An expression, and the number of its pattern.
#[derive(Clone, Debug)]
pub(super) struct Expression {
    pub pattern: usize,
    pub regex: regex::bytes::Regex,
}

impl Expression {
    /// The next match at or behind `from` that begins in the core, and where in the segment's bytes it ends.
    fn next(&self, segment: &Segment<'_>, mut from: usize) -> Option<(Hit, usize)> {
        while from < segment.core().end {
            let found = self.regex.find_at(segment.bytes(), from)?;
            if found.start() >= segment.core().end {
                return None;
            }
            if !found.is_empty() {
                let end = found.end().min(found.start() + LONGEST_MATCH);
                let len = (end - found.start()) as u64;
                return Some((
                    Hit { at: segment.address_of(found.start()), pattern: self.pattern, len },
                    end,
                ));
            }
            from = found.end() + 1;
        }
        None
    }

    /// All matches that begin in the cores of a chunk, if one may begin at the start of each.
    pub(super) fn all(&self, chunk: &Chunk) -> Vec<Hit> {
        let mut hits = Vec::new();
        for segment in chunk.segments() {
            let mut from = segment.core().start;
            while let Some((hit, end)) = self.next(&segment, from) {
                hits.push(hit);
                from = end;
            }
        }
        hits
    }
}

/// Puts the matches of one expression right where one of them reached into the next chunk: what begins within it does
/// not count, and what was hidden by that does.
#[derive(Debug)]
pub(super) struct Seam {
    expression: Expression,
    /// The end of the last match.
    end: Address,
}

impl Seam {
    pub(super) const fn new(expression: Expression) -> Self {
        Self { expression, end: Address::ZERO }
    }

    /// The hits of this expression in a chunk, as they are if what came before is known: those that begin within an
    /// earlier match are no hits, and what they hid is. `found` are those that each segment has for itself, ascending.
    pub(super) fn join(&mut self, chunk: &Chunk, found: Vec<Hit>, hits: &mut Vec<Hit>) {
        let mut found = found.into_iter().peekable();
        for segment in chunk.segments() {
            let core = segment.core();
            let (start, core_end) = (segment.address_of(core.start), segment.address_of(core.end));
            let mut mended = Vec::new();
            while self.end > start {
                while found.next_if(|hit| hit.at < self.end && hit.at < core_end).is_some() {}
                let from = segment.index_of(self.end);
                let Some((hit, _)) = from.and_then(|from| self.expression.next(&segment, from)) else {
                    break;
                };
                // From where both ways find the same, they go on alike.
                if found.peek() == Some(&hit) {
                    break;
                }
                self.end = hit.span().end();
                mended.push(hit);
            }
            let rest = std::iter::from_fn(|| found.next_if(|hit| hit.at < core_end));
            for hit in mended.into_iter().chain(rest) {
                self.end = hit.span().end();
                if is_told(&segment, &hit) {
                    hits.push(hit);
                }
            }
        }
    }
}
