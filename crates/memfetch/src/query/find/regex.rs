//! Regular expressions: matches that exclude each other, found by threads that do not know of each other.

use super::{Hit, LONGEST_MATCH};
use crate::address::Address;
use crate::query::sweep::{Chunk, Segment};

/// The next match at or behind `from` that begins in the core, as a range of the segment's bytes.
pub(super) fn next(
    regex: &regex::bytes::Regex,
    segment: &Segment<'_>,
    mut from: usize,
) -> Option<(usize, usize)> {
    while from < segment.core().end {
        let found = regex.find_at(segment.bytes(), from)?;
        if found.start() >= segment.core().end {
            return None;
        }
        if !found.is_empty() {
            return Some((found.start(), found.end().min(found.start() + LONGEST_MATCH)));
        }
        from = found.end() + 1;
    }
    None
}

/// All matches that begin in the core, if one may begin at its start.
pub(super) fn all(regex: &regex::bytes::Regex, segment: &Segment<'_>, pattern: usize, hits: &mut Vec<Hit>) {
    let mut from = segment.core().start;
    while let Some((start, end)) = next(regex, segment, from) {
        hits.push(Hit { at: segment.address_of(start), pattern, len: (end - start) as u64 });
        from = end;
    }
}

/// Puts the matches of one expression right where one of them reached into the next chunk: what begins within it does
/// not count, and what was hidden by that does.
#[derive(Debug)]
pub(super) struct Seam {
    pattern: usize,
    regex: regex::bytes::Regex,
    /// The end of the last match.
    end: Address,
}

impl Seam {
    pub(super) const fn new(pattern: usize, regex: regex::bytes::Regex) -> Self {
        Self { pattern, regex, end: Address::ZERO }
    }

    /// The hits of this expression in a chunk, as they are if what came before is known: those that begin within an
    /// earlier match are no hits, and what they hid is. `found` are those that each segment has for itself, ascending.
    pub(super) fn join(&mut self, chunk: &Chunk, found: Vec<Hit>, hits: &mut Vec<Hit>) {
        let mut found = found.into_iter().peekable();
        for segment in chunk.segments() {
            let core = segment.core();
            let (start, core_end) = (segment.address_of(core.start), segment.address_of(core.end));
            let mut tell = |hit: Hit| {
                let offset = hit.at.offset_from(segment.at()).unwrap_or_default() as usize;
                if !segment.is_unread(offset..offset.saturating_add(hit.len as usize)) {
                    hits.push(hit);
                }
            };
            while self.end > start {
                while found.next_if(|hit| hit.at < self.end && hit.at < core_end).is_some() {}
                let from = self.end.offset_from(segment.at()).and_then(|from| usize::try_from(from).ok());
                let Some((first, last)) = from.and_then(|from| next(&self.regex, &segment, from)) else {
                    break;
                };
                let hit =
                    Hit { at: segment.address_of(first), pattern: self.pattern, len: (last - first) as u64 };
                // From where both ways find the same, they go on alike.
                if found.peek() == Some(&hit) {
                    break;
                }
                self.end = hit.span().end();
                tell(hit);
            }
            while let Some(hit) = found.next_if(|hit| hit.at < core_end) {
                self.end = hit.span().end();
                tell(hit);
            }
        }
    }
}
