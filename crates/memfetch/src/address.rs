//! Addresses and half-open spans of them, with checked arithmetic only.

use std::fmt;

use serde::{Serialize, Serializer};

/// A virtual address in the address space of a source.
///
/// Printed as `0x7ffd1000`, serialized as that string: JSON numbers lose bits above 2^53 in many readers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(u64);

impl Address {
    /// The lowest address.
    pub const ZERO: Self = Self(0);

    /// The address with this number.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The address as a number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The address `bytes` further up, or `None` past the end of the 64-bit space.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// The address `bytes` further up, or the last one of the 64-bit space.
    #[must_use]
    pub const fn saturating_add(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }

    /// How many bytes `self` lies above `base`, or `None` where it lies below.
    #[must_use]
    pub const fn offset_from(self, base: Self) -> Option<u64> {
        self.0.checked_sub(base.0)
    }

    /// The start of the aligned block of `size` bytes that holds this address. `size` must be a power of two.
    #[must_use]
    pub const fn align_down(self, size: u64) -> Self {
        debug_assert!(size.is_power_of_two());
        Self(self.0 & !(size - 1))
    }

    /// The first address at or above this one that is a multiple of `size` (a power of two), saturating.
    #[must_use]
    pub const fn align_up(self, size: u64) -> Self {
        self.saturating_add(size - 1).align_down(size)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:#x}", self.0))
    }
}

impl fmt::LowerHex for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Address {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.strip_prefix("0x")
            .and_then(|hex| u64::from_str_radix(hex, 16).ok())
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("an address is a string such as 0x7ffd1000"))
    }
}

/// A half-open range of addresses, `start..end`, with `start <= end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, serde::Deserialize)]
#[serde(try_from = "Bounds")]
pub struct Span {
    start: Address,
    end: Address,
}

/// A span as it is written down, before its order is checked.
#[derive(serde::Deserialize)]
struct Bounds {
    start: Address,
    end: Address,
}

impl TryFrom<Bounds> for Span {
    type Error = &'static str;

    fn try_from(bounds: Bounds) -> Result<Self, Self::Error> {
        Self::new(bounds.start, bounds.end).ok_or("a span ends before it starts")
    }
}

impl Span {
    /// All addresses.
    pub const ALL: Self = Self { start: Address::ZERO, end: Address(u64::MAX) };

    /// `start..end`, or `None` where `end` lies below `start`.
    #[must_use]
    pub const fn new(start: Address, end: Address) -> Option<Self> {
        if start.0 <= end.0 { Some(Self { start, end }) } else { None }
    }

    /// `len` bytes from `start`, or `None` where they would pass the end of the 64-bit space.
    #[must_use]
    pub const fn from_len(start: Address, len: u64) -> Option<Self> {
        match start.checked_add(len) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// The empty span at `at`.
    #[must_use]
    pub const fn empty_at(at: Address) -> Self {
        Self { start: at, end: at }
    }

    /// The first address.
    #[must_use]
    pub const fn start(self) -> Address {
        self.start
    }

    /// The address behind the last one.
    #[must_use]
    pub const fn end(self) -> Address {
        self.end
    }

    /// The length in bytes.
    #[must_use]
    pub const fn len(self) -> u64 {
        self.end.0 - self.start.0
    }

    /// Whether the span holds no address at all.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.start.0 == self.end.0
    }

    /// Whether `at` lies in the span.
    #[must_use]
    pub const fn contains(self, at: Address) -> bool {
        self.start.0 <= at.0 && at.0 < self.end.0
    }

    /// Whether all of `other` lies in the span.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        self.start.0 <= other.start.0 && other.end.0 <= self.end.0
    }

    /// What `self` and `other` have in common, or `None` where that is nothing.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let end = self.end.min(other.end);
        (start < end).then_some(Self { start, end })
    }

    /// The span cut at `at`: what lies below, and what lies at or above. Either may be empty.
    #[must_use]
    pub fn split_at(self, at: Address) -> (Self, Self) {
        let at = at.clamp(self.start, self.end);
        (Self { start: self.start, end: at }, Self { start: at, end: self.end })
    }

    /// What the spans cover together: ascending, with gaps between them; empty ones cover nothing.
    #[must_use]
    pub fn union(spans: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut spans: Vec<Self> = spans.into_iter().filter(|span| !span.is_empty()).collect();
        spans.sort_unstable();
        spans.dedup_by(|next, last| {
            let touches = next.start <= last.end;
            if touches {
                last.end = last.end.max(next.end);
            }
            touches
        });
        spans
    }

    /// The span in pieces that end at multiples of `size` (a power of two): the unit in which work is batched.
    pub fn pieces(self, size: u64) -> impl Iterator<Item = Self> {
        let mut rest = self;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let cut = rest.start.saturating_add(1).align_up(size);
            let (piece, behind) = rest.split_at(cut);
            rest = behind;
            Some(piece)
        })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start.0, self.end.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: u64, end: u64) -> Span {
        Span::new(Address::new(start), Address::new(end)).unwrap()
    }

    #[test]
    fn arithmetic_stops_at_the_end_of_the_space() {
        assert_eq!(Address::new(u64::MAX).checked_add(1), None);
        assert_eq!(Span::from_len(Address::new(u64::MAX - 1), 2), None);
        assert_eq!(Span::new(Address::new(2), Address::new(1)), None);
        assert_eq!(Address::new(u64::MAX).align_up(4096), Address::new(u64::MAX - 4095));
    }

    #[test]
    fn pieces_cover_the_span_and_end_on_the_grid() {
        let pieces: Vec<_> = span(10, 35).pieces(16).collect();
        assert_eq!(pieces, [span(10, 16), span(16, 32), span(32, 35)]);
        assert_eq!(span(5, 5).pieces(16).count(), 0);
        assert_eq!(span(16, 32).pieces(16).collect::<Vec<_>>(), [span(16, 32)]);
    }

    #[test]
    fn a_union_has_gaps_between_its_parts() {
        let spans = [span(30, 40), span(5, 10), span(7, 8), span(10, 12), span(20, 20), span(35, 50)];
        assert_eq!(Span::union(spans), [span(5, 12), span(30, 50)]);
        assert_eq!(Span::union([]), []);
    }

    #[test]
    fn json_keeps_all_bits() {
        let json = serde_json::to_string(&span(1, u64::MAX)).unwrap();
        assert_eq!(json, r#"{"start":"0x1","end":"0xffffffffffffffff"}"#);
        assert_eq!(serde_json::from_str::<Span>(&json).unwrap(), span(1, u64::MAX));
        assert!(serde_json::from_str::<Span>(r#"{"start":"0x2","end":"0x1"}"#).is_err());
    }
}
