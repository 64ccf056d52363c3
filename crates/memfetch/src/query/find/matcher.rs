//! [`Matchers`]: patterns, made ready to be looked for together.

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use memchr::memmem;

use super::pattern::{Pattern, spans_of};
use super::regex::{Expression, Seam};
use super::{Hit, LONGEST_MATCH, is_told, window, words};
use crate::address::Span;
use crate::memory::{ByteOrder, Platform, WordSize};
use crate::query::sweep::{Chunk, Segment, Survey};

/// More literals than this are looked for by one automaton, fewer each for itself.
const FEW: usize = 8;
/// What an expression may look back on: a word boundary needs the character before.
const LOOK_BEHIND: u64 = 4;

/// One pattern, or many that are alike.
#[derive(Debug)]
enum Matcher {
    /// A byte that is always the same: part of the mask is full.
    Masked {
        pattern: usize,
        masked: Masked,
    },
    Literals {
        automaton: Box<AhoCorasick>,
        patterns: Vec<usize>,
    },
    Value {
        pattern: usize,
        bytes: Vec<u8>,
        align: u64,
    },
    Pointer {
        pattern: usize,
        spans: Vec<Span>,
        align: u64,
        word: WordSize,
        order: ByteOrder,
    },
}

/// Bytes with masks, and what of them is looked for first.
#[derive(Debug)]
struct Masked {
    bytes: Vec<u8>,
    mask: Vec<u8>,
    /// Whether no bit is left open.
    exact: bool,
    anchor: Anchor,
    /// Where in the pattern the anchor lies.
    offset: usize,
}

#[derive(Debug)]
enum Anchor {
    /// Bytes without an open bit.
    Run(Box<memmem::Finder<'static>>),
    /// A letter in either case.
    Either(u8, u8),
    /// All places are tried.
    None,
}

/// All patterns of a search.
#[derive(Debug)]
pub(super) struct Matchers {
    matchers: Vec<Matcher>,
    /// Their matches exclude each other, so that they are looked for apart.
    expressions: Vec<Expression>,
    longest: usize,
}

impl Matchers {
    pub(super) fn new(patterns: &[Pattern], survey: &Survey, platform: &Platform) -> Self {
        let mut matchers = Vec::new();
        let mut expressions = Vec::new();
        let mut longest = 1;
        let is_literal = |pattern: &Pattern| match pattern {
            Pattern::Bytes { bytes, mask } => !bytes.is_empty() && mask.iter().all(|&bits| bits == 0xff),
            _ => false,
        };
        let literals: Vec<usize> =
            (0..).zip(patterns).filter(|(_, pattern)| is_literal(pattern)).map(|(index, _)| index).collect();
        let together = if literals.len() > FEW { automaton(patterns, &literals) } else { None };
        for (index, pattern) in patterns.iter().enumerate() {
            match pattern {
                Pattern::Bytes { bytes, mask } => {
                    longest = longest.max(bytes.len());
                    if !bytes.is_empty() && (together.is_none() || !is_literal(pattern)) {
                        matchers.push(Matcher::Masked { pattern: index, masked: Masked::new(bytes, mask) });
                    }
                }
                Pattern::Regex(regex) => {
                    longest = longest.max(LONGEST_MATCH);
                    expressions.push(Expression { pattern: index, regex: (**regex).clone() });
                }
                Pattern::Value { bytes, align } => {
                    longest = longest.max(bytes.len());
                    let align = (*align).max(1).next_power_of_two();
                    matchers.push(Matcher::Value { pattern: index, bytes: bytes.clone(), align });
                }
                Pattern::PointsTo { target, align } => {
                    let size = usize::from(platform.word.bytes());
                    longest = longest.max(size);
                    matchers.push(Matcher::Pointer {
                        pattern: index,
                        spans: spans_of(target, survey.map()),
                        align: align.unwrap_or(size as u64).max(1).next_power_of_two(),
                        word: platform.word,
                        order: platform.byte_order,
                    });
                }
            }
        }
        if let Some(automaton) = together {
            matchers.push(Matcher::Literals { automaton: Box::new(automaton), patterns: literals });
        }
        Self { matchers, expressions, longest }
    }

    /// The length of the longest that can be found.
    pub(super) const fn longest(&self) -> usize {
        self.longest
    }

    /// How many bytes before a match decide on it.
    pub(super) fn behind(&self) -> u64 {
        if self.has_expressions() { LOOK_BEHIND } else { 0 }
    }

    pub(super) const fn has_expressions(&self) -> bool {
        !self.expressions.is_empty()
    }

    /// What puts matches right that reach from one chunk into the next.
    pub(super) fn seams(&self) -> Seams {
        Seams(self.expressions.iter().cloned().map(Seam::new).collect())
    }

    /// What begins in the cores of a chunk, as far as the chunk tells.
    pub(super) fn find(&self, chunk: &Chunk) -> Finds {
        let mut hits = Vec::new();
        for segment in chunk.segments() {
            let mut own = Vec::new();
            for matcher in &self.matchers {
                matcher.find(&segment, &mut own);
            }
            own.retain(|hit| is_told(&segment, hit));
            own.sort_unstable();
            hits.append(&mut own);
        }
        let matches = self.expressions.iter().map(|expression| expression.all(chunk)).collect();
        Finds { hits, matches }
    }
}

/// What was found in a chunk.
#[derive(Debug)]
pub(super) struct Finds {
    /// Ascending.
    hits: Vec<Hit>,
    /// Of each expression for itself, ascending, and also what lies in zeros that were not read.
    matches: Vec<Vec<Hit>>,
}

/// The seams of all expressions.
#[derive(Debug)]
pub(super) struct Seams(Vec<Seam>);

impl Seams {
    /// All hits of a chunk, ascending. Chunks come in order.
    pub(super) fn join(&mut self, chunk: &Chunk, finds: Finds) -> Vec<Hit> {
        let Finds { mut hits, matches } = finds;
        let alone = hits.is_empty() && self.0.len() == 1;
        for (seam, found) in self.0.iter_mut().zip(matches) {
            seam.join(chunk, found, &mut hits);
        }
        if !self.0.is_empty() && !alone {
            hits.sort_unstable();
        }
        hits
    }
}

/// One automaton for all literals; `None` where they are too many for one.
fn automaton(patterns: &[Pattern], literals: &[usize]) -> Option<AhoCorasick> {
    let bytes = literals.iter().filter_map(|&index| match patterns.get(index) {
        Some(Pattern::Bytes { bytes, .. }) => Some(bytes),
        _ => None,
    });
    let bytes: Vec<_> = bytes.collect();
    let build = |kind| {
        AhoCorasick::builder().kind(Some(kind)).match_kind(MatchKind::Standard).build(bytes.iter()).ok()
    };
    // A table of all states is the fastest, and large.
    let small = bytes.iter().map(|bytes| bytes.len()).sum::<usize>() < 16 << 10;
    small.then(|| build(AhoCorasickKind::DFA)).flatten().or_else(|| build(AhoCorasickKind::ContiguousNFA))
}

impl Matcher {
    fn find(&self, segment: &Segment<'_>, hits: &mut Vec<Hit>) {
        let bytes = segment.bytes();
        let base = segment.at().get();
        match self {
            Self::Masked { pattern, masked } => {
                let len = masked.bytes.len() as u64;
                masked.find(segment, |start| {
                    hits.push(Hit { at: segment.address_of(start), pattern: *pattern, len });
                });
            }
            Self::Literals { automaton, patterns } => {
                let range = window(segment, automaton.max_pattern_len());
                let Some(haystack) = bytes.get(range.clone()) else { return };
                for found in automaton.find_overlapping_iter(haystack) {
                    let start = range.start + found.start();
                    if start >= segment.core().end {
                        continue;
                    }
                    if let Some(&pattern) = patterns.get(found.pattern().as_usize()) {
                        let len = found.len() as u64;
                        hits.push(Hit { at: segment.address_of(start), pattern, len });
                    }
                }
            }
            Self::Value { pattern, bytes: value, align } => {
                let range = window(segment, value.len());
                let mut found = |offset| {
                    let at = segment.address_of(offset);
                    hits.push(Hit { at, pattern: *pattern, len: value.len() as u64 });
                };
                match *value.as_slice() {
                    [a] => words::values(bytes, range, base, *align, [a], &mut found),
                    [a, b] => words::values(bytes, range, base, *align, [a, b], &mut found),
                    [a, b, c, d] => words::values(bytes, range, base, *align, [a, b, c, d], &mut found),
                    [a, b, c, d, e, f, g, h] => {
                        words::values(bytes, range, base, *align, [a, b, c, d, e, f, g, h], &mut found);
                    }
                    _ => {}
                }
            }
            Self::Pointer { pattern, spans, align, word, order } => {
                let len = usize::from(word.bytes());
                let range = window(segment, len);
                let mut found = |offset| {
                    hits.push(Hit { at: segment.address_of(offset), pattern: *pattern, len: len as u64 });
                };
                match word {
                    WordSize::Bits32 => {
                        words::pointers::<4>(bytes, range, base, *align, *order, spans, &mut found);
                    }
                    WordSize::Bits64 => {
                        words::pointers::<8>(bytes, range, base, *align, *order, spans, &mut found);
                    }
                }
            }
        }
    }
}

impl Masked {
    fn new(bytes: &[u8], mask: &[u8]) -> Self {
        let exact = mask.iter().all(|&bits| bits == 0xff);
        let (offset, anchor) = anchor(bytes, mask);
        Self { bytes: bytes.to_vec(), mask: mask.to_vec(), exact, anchor, offset }
    }

    /// Tells where it begins in the core of a segment, as offsets of the segment's bytes.
    fn find(&self, segment: &Segment<'_>, mut found: impl FnMut(usize)) {
        let range = window(segment, self.bytes.len());
        let Some(haystack) = segment.bytes().get(range.clone()) else { return };
        let Some(last) = haystack.len().checked_sub(self.bytes.len()) else { return };
        let mut check = |start: usize| {
            if start <= last && (self.exact || self.is_at(haystack, start)) {
                found(range.start + start);
            }
        };
        let mut from = self.offset;
        match &self.anchor {
            Anchor::Run(finder) => {
                while let Some(at) = haystack.get(from..).and_then(|rest| finder.find(rest)) {
                    check(from + at - self.offset);
                    from += at + 1;
                }
            }
            Anchor::Either(lower, upper) => {
                let rest = haystack.get(from..).unwrap_or_default();
                for at in memchr::memchr2_iter(*lower, *upper, rest) {
                    check(at);
                }
            }
            Anchor::None => (0..=last).for_each(check),
        }
    }

    fn is_at(&self, haystack: &[u8], start: usize) -> bool {
        let Some(there) = haystack.get(start..) else { return false };
        self.bytes.iter().zip(&self.mask).zip(there).all(|((byte, mask), there)| (byte ^ there) & mask == 0)
    }
}

/// The part of a pattern that is looked for first: the longest run without an open bit, else a letter of either case,
/// the rarer the better.
fn anchor(bytes: &[u8], mask: &[u8]) -> (usize, Anchor) {
    let mut best = 0..0;
    let mut start = 0;
    for (index, &bits) in mask.iter().enumerate() {
        if bits != 0xff {
            start = index + 1;
        } else if index + 1 - start > best.len() {
            best = start..index + 1;
        }
    }
    // A single byte that is common (zero, above all) finds more than it spares.
    let run = bytes.get(best.clone()).unwrap_or_default();
    let letter = || {
        let folded = |(index, (byte, bits)): (usize, (&u8, &u8))| {
            let byte = byte.to_ascii_lowercase();
            let rank = RARE_FIRST.iter().position(|&letter| letter == byte)?;
            (*bits == 0xdf).then_some((rank, index, byte))
        };
        bytes.iter().zip(mask).enumerate().filter_map(folded).min()
    };
    match (run, letter()) {
        ([] | [_], Some((_, index, byte))) => (index, Anchor::Either(byte, byte.to_ascii_uppercase())),
        ([], None) => (0, Anchor::None),
        (run, _) => (best.start, Anchor::Run(Box::new(memmem::Finder::new(run).into_owned()))),
    }
}

/// Letters by how often they occur in text, in either case.
const RARE_FIRST: &[u8; 26] = b"qzxjkvbwygpfhmudclonsritae";
