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

    pub(super) fn join(&mut self, chunk: &Chunk, hits: &mut Vec<Hit>) {
        for segment in chunk.segments() {
            let (start, core_end) =
                (segment.address_of(segment.core().start), segment.address_of(segment.core().end));
            if self.end > start {
                self.rejoin(&segment, core_end, hits);
            }
            let here = |hit: &&Hit| hit.pattern == self.pattern && start <= hit.at && hit.at < core_end;
            if let Some(last) = hits.iter().rfind(here) {
                self.end = self.end.max(last.span().end());
            }
        }
    }

    fn rejoin(&mut self, segment: &Segment<'_>, core_end: Address, hits: &mut Vec<Hit>) {
        let start = segment.address_of(segment.core().start);
        let own = |hit: &Hit| hit.pattern == self.pattern && start <= hit.at && hit.at < core_end;
        let mut mended = Vec::new();
        let mut end = self.end;
        loop {
            hits.retain(|hit| !own(hit) || hit.at >= end);
            let from = end.offset_from(segment.at()).and_then(|from| usize::try_from(from).ok());
            let Some((first, last)) = from.and_then(|from| next(&self.regex, segment, from)) else { break };
            let hit =
                Hit { at: segment.address_of(first), pattern: self.pattern, len: (last - first) as u64 };
            // From where both ways find the same, they go on alike.
            if hits.contains(&hit) {
                break;
            }
            end = hit.span().end();
            mended.push(hit);
        }
        hits.append(&mut mended);
        hits.sort_unstable();
    }
}
