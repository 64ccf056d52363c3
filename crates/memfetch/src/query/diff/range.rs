//! [`Ranges`]: changed ranges, put together from what the chunks have of them.

use super::Difference;
use super::chunk::Differing;
use crate::address::Address;
use crate::region::Region;

/// What is longer is told as several ranges.
pub const LONGEST_RANGE: usize = 64 << 10;

/// The range that is under way.
#[derive(Debug)]
pub(super) struct Ranges {
    before_at: Address,
    after_at: Address,
    before: Vec<u8>,
    after: Vec<u8>,
    stretch: usize,
}

impl Ranges {
    pub(super) const fn new() -> Self {
        Self {
            before_at: Address::ZERO,
            after_at: Address::ZERO,
            before: Vec::new(),
            after: Vec::new(),
            stretch: 0,
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.before.is_empty()
    }

    pub(super) const fn stretch(&self) -> usize {
        self.stretch
    }

    pub(super) fn clear(&mut self) {
        self.before.clear();
        self.after.clear();
    }

    /// Whether these bytes continue the range, or can begin one.
    pub(super) fn continue_at(&self, next: &Differing<'_>) -> bool {
        let len = self.before.len() as u64;
        self.is_empty()
            || (self.stretch == next.stretch && self.before_at.checked_add(len) == Some(next.before_at))
    }

    /// Adds as much as there is room for, and takes it away from `next`. Whether that was all.
    pub(super) fn add(&mut self, next: &mut Differing<'_>) -> bool {
        if self.is_empty() {
            (self.before_at, self.after_at, self.stretch) = (next.before_at, next.after_at, next.stretch);
        }
        let room = LONGEST_RANGE.saturating_sub(self.before.len()).min(next.before.len());
        let Some(((before, rest_before), (after, rest_after))) =
            next.before.split_at_checked(room).zip(next.after.split_at_checked(room))
        else {
            return true;
        };
        self.before.extend_from_slice(before);
        self.after.extend_from_slice(after);
        next.before_at = next.before_at.saturating_add(room as u64);
        next.after_at = next.after_at.saturating_add(room as u64);
        (next.before, next.after) = (rest_before, rest_after);
        next.before.is_empty()
    }

    /// The range, in these regions.
    pub(super) fn difference<'a>(
        &'a self,
        before_region: &'a Region,
        after_region: &'a Region,
    ) -> Difference<'a> {
        Difference {
            before_at: self.before_at,
            after_at: self.after_at,
            before: &self.before,
            after: &self.after,
            before_region,
            after_region,
        }
    }
}
