//! [`Search`]: where patterns lie in a memory.
//!
//! # What is found
//!
//! A pattern is looked for in memory without gaps, across chunks, mappings and page states alike, and each place is
//! found once. Bytes and values are found wherever they lie, also where they overlap. Regular expressions are matched as
//! grep does: from left to right, the next one behind the end of the last, in each stretch without a gap for itself. Such a
//! match is at most [`LONGEST_MATCH`] long; what would be longer is cut there, and an expression that has to see farther
//! than that to match at all may be missed. A match of nothing is none.
//!
//! All of this is as of the moment at which the map and the page states were read: what a process writes afterwards into
//! pages that it had never touched is not looked for.
//!
//! What lies wholly in memory that was never touched is not told: a search for a zero would find each byte of every
//! reservation. The coverage says how much of that there is.

mod matcher;
mod pattern;
mod regex;
mod words;

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use serde::Serialize;

pub use pattern::{Encoding, Pattern, PatternError};

use self::matcher::Matchers;
use super::sweep::{Chunk, Coverage, Scope, Segment, Survey, Sweep, Swept};
use crate::address::{Address, Span};
use crate::error::Error;
use crate::memory::Touch;
use crate::selector::Selection;
use crate::source::Source;

/// The longest match of a regular expression, in bytes.
pub const LONGEST_MATCH: usize = 64 << 10;

/// The core of a chunk, and its least.
const CORE: u64 = 256 << 10;
const SMALL_CORE: u64 = 16 << 10;

/// Patterns and bytes of a core, multiplied, at most.
const MOST_PLACES: u64 = 16 << 20;

/// The core of a chunk where regular expressions are among the patterns, which look far ahead.
const LONG_CORE: u64 = 1 << 20;

/// Where a pattern was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Hit {
    /// The address of its first byte.
    #[serde(rename = "address")]
    pub at: Address,
    /// Which pattern, counted from 0 in the order in which they were given.
    pub pattern: usize,
    /// How many bytes it is long.
    pub len: u64,
}

impl Hit {
    /// Where it lies.
    #[must_use]
    pub fn span(&self) -> Span {
        Span::from_len(self.at, self.len).unwrap_or(Span::empty_at(self.at))
    }
}

/// A hit with the memory around it, as it was when it was found.
#[derive(Clone, Copy, Debug)]
pub struct Sighting<'a> {
    /// Where.
    pub hit: Hit,
    segment: Segment<'a>,
}

impl<'a> Sighting<'a> {
    /// The bytes that matched.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        let start = self.segment.index_of(self.hit.at).unwrap_or_default();
        let end = start.saturating_add(usize::try_from(self.hit.len).unwrap_or(usize::MAX));
        self.segment.bytes().get(start..end).unwrap_or_default()
    }

    /// The part of `span` that was read together with it: whole, where [`Search::around`] asked for as much and nothing
    /// is missing there.
    #[must_use]
    pub fn around(&self, span: Span) -> (Span, &'a [u8]) {
        let segment = Span::from_len(self.segment.at(), self.segment.bytes().len() as u64);
        let Some(shown) = segment.and_then(|segment| segment.intersection(span)) else {
            return (Span::empty_at(self.hit.at), &[]);
        };
        let index = |at: Address| self.segment.index_of(at).unwrap_or_default();
        (shown, self.segment.bytes().get(index(shown.start())..index(shown.end())).unwrap_or_default())
    }
}

/// Hits, and what was searched for them.
#[derive(Debug)]
pub struct Found {
    /// In ascending order.
    pub hits: Vec<Hit>,
    /// What was searched, and what was not.
    pub coverage: Coverage,
}

impl IntoIterator for Found {
    type Item = Hit;
    type IntoIter = std::vec::IntoIter<Hit>;

    fn into_iter(self) -> Self::IntoIter {
        self.hits.into_iter()
    }
}

/// A search to be: for what, where, and how.
///
/// ```
/// use memfetch::query::find::Search;
/// # use memfetch_testkit::Space;
/// # let source = Space::new().bytes(0x1000, b"a session: 17");
/// for hit in Search::text("session:").over(&source)? {
///     println!("{}", hit.at);
/// #   assert_eq!(hit.at.get(), 0x1002);
/// }
/// # Ok::<(), memfetch::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Search {
    patterns: Vec<Pattern>,
    scope: Scope,
    around: u64,
    sweep: Sweep,
    core: Option<u64>,
}

impl Search {
    /// For these patterns, all in one pass.
    #[must_use]
    pub fn new(patterns: impl IntoIterator<Item = Pattern>) -> Self {
        Self {
            patterns: patterns.into_iter().collect(),
            scope: Scope::default(),
            around: 0,
            sweep: Sweep::new(),
            core: None,
        }
    }

    /// For a text in UTF-8. An empty one is found nowhere.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self::new([Pattern::bytes(text.as_bytes())])
    }

    /// In these regions.
    #[must_use]
    pub fn selection(mut self, selection: Selection) -> Self {
        self.scope.selection = selection;
        self
    }

    /// In these parts of them; nothing means all.
    #[must_use]
    pub fn within(mut self, spans: Vec<Span>) -> Self {
        self.scope.within = spans;
        self
    }

    /// Which pages may be read.
    #[must_use]
    pub fn touch(mut self, touch: Touch) -> Self {
        self.scope.touch = touch;
        self
    }

    /// How many bytes around a hit its sighting should have.
    #[must_use]
    pub fn around(mut self, bytes: u64) -> Self {
        self.around = bytes;
        self
    }

    /// On so many threads.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.sweep = self.sweep.threads(threads);
        self
    }

    /// So many bytes at once on each thread, a power of two: nothing that is found depends on it.
    #[must_use]
    pub fn core(mut self, bytes: u64) -> Self {
        self.core = Some(bytes);
        self
    }

    /// All hits at once.
    ///
    /// # Errors
    ///
    /// The source cannot be asked, or was lost before the end: [`Search::run`] also tells what was found by then.
    pub fn over(&self, source: &dyn Source) -> Result<Found, Error> {
        let mut hits = Vec::new();
        let swept = self.run(source, self.survey(source)?, |sighting| {
            hits.push(sighting.hit);
            ControlFlow::Continue(())
        });
        swept.result.map(|()| Found { hits, coverage: swept.coverage })
    }

    /// What of `source` will be searched.
    ///
    /// # Errors
    ///
    /// The map of the source cannot be read.
    pub fn survey(&self, source: &dyn Source) -> Result<Survey, Error> {
        Survey::of(source, &self.scope)
    }

    /// Tells of each hit in what `survey` says of `source` as it is found, in ascending order, until `each` has enough.
    /// What ends a search before its time is in the report, with what was searched by then.
    pub fn run(
        &self,
        source: &dyn Source,
        survey: Survey,
        mut each: impl FnMut(Sighting<'_>) -> ControlFlow<()>,
    ) -> Swept {
        let matchers = Arc::new(Matchers::new(&self.patterns, &survey, source.platform()));
        let reach = matchers.longest().saturating_sub(1) as u64;
        let mut sweep =
            self.sweep.clone().behind(self.around.max(matchers.behind())).ahead(reach + self.around);
        // A hit takes many times the room of the byte that it is for, and there may be one of each pattern.
        let crowd = self.patterns.len().next_power_of_two() as u64;
        let core = if matchers.has_expressions() { LONG_CORE } else { CORE };
        sweep = sweep.core((MOST_PLACES / crowd).clamp(SMALL_CORE, core));
        if let Some(core) = self.core {
            sweep = sweep.core(core);
        }
        let mut seams = matchers.seams();
        let look = {
            let matchers = Arc::clone(&matchers);
            move |chunk: &Chunk| matchers.find(chunk)
        };
        sweep.run(source, survey, look, |chunk, finds| {
            let hits = seams.join(chunk, finds);
            // Hits ascend as segments do, each of which may be asked for many times.
            let mut segments = chunk.segments().peekable();
            for hit in hits {
                while segments.next_if(|segment| segment.address_of(segment.core().end) <= hit.at).is_some() {
                }
                let Some(&segment) = segments.peek() else { break };
                each(Sighting { hit, segment })?;
            }
            ControlFlow::Continue(())
        })
    }
}

/// Whether a hit is told: not where all of it is known to be zero and was not read.
fn is_told(segment: &Segment<'_>, hit: &Hit) -> bool {
    let start = segment.index_of(hit.at).unwrap_or_default();
    !segment.is_unread(start..start.saturating_add(hit.len as usize))
}

/// What a matcher may look at: the bytes of a segment in which something of `len` bytes can begin in the core.
fn window(segment: &Segment<'_>, len: usize) -> Range<usize> {
    let core = segment.core();
    let end = core.end.saturating_add(len.saturating_sub(1)).min(segment.bytes().len());
    core.start..end.max(core.start)
}
