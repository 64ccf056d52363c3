//! [`Segment`]: a part of the address space and where the file has its bytes.

use crate::address::{Address, Span};
use crate::memory::{Cause, PageState};
use crate::region::Permissions;

/// A `PT_LOAD`.
#[derive(Clone, Copy, Debug)]
pub(in crate::image) struct Segment {
    /// The addresses.
    pub(in crate::image) span: Span,
    /// The offset in the file of the first byte.
    pub(in crate::image) offset: u64,
    /// How many bytes, from the first on, the file is said to have: no more than the span has.
    pub(in crate::image) saved: u64,
    /// What the process may do there.
    pub(in crate::image) permissions: Permissions,
}

impl Segment {
    /// The segment without the part below `at`.
    fn from(self, at: Address) -> Self {
        let (below, span) = self.span.split_at(at);
        Self {
            span,
            offset: self.offset.saturating_add(below.len()),
            saved: self.saved.saturating_sub(below.len()),
            permissions: self.permissions,
        }
    }

    /// The offset in the file of the byte at `at`, as if the whole segment were there.
    pub(in crate::image) fn offset_of(&self, at: Address) -> Option<u64> {
        self.offset.checked_add(at.offset_from(self.span.start())?)
    }

    /// What a file of `file_bytes` has of the segment: saved, cut off, never saved; in this order, some
    /// empty.
    pub(in crate::image) fn parts(&self, file_bytes: u64) -> [(Span, PageState); 3] {
        let start = self.span.start();
        let present = self.saved.min(file_bytes.saturating_sub(self.offset));
        let (present, rest) = self.span.split_at(start.saturating_add(present));
        let (cut, unsaved) = rest.split_at(start.saturating_add(self.saved));
        [
            (present, PageState::Resident),
            (cut, PageState::Unreadable(Cause::Truncated)),
            (unsaved, PageState::Unreadable(Cause::NotSaved)),
        ]
    }
}

/// Puts segments in order. Of two that overlap the one that starts lower wins, and the other is cut to what
/// lies above it, as [`RegionMap::new`](crate::region::RegionMap::new) does with regions.
pub(in crate::image) fn in_order(mut segments: Vec<Segment>) -> Vec<Segment> {
    segments.sort_by_key(|segment| segment.span);
    let mut end = Address::ZERO;
    segments.retain_mut(|segment| {
        *segment = segment.from(end);
        end = end.max(segment.span.end());
        !segment.span.is_empty()
    });
    segments
}

/// The segment that holds `at`, of segments in order.
pub(in crate::image) fn at(segments: &[Segment], at: Address) -> Option<&Segment> {
    let index = segments.partition_point(|segment| segment.span.end() <= at);
    segments.get(index).filter(|segment| segment.span.contains(at))
}
