//! [`Strings`]: the text that a memory holds, in the order of its addresses.
//!
//! # What a string is
//!
//! As many characters of text as lie one behind the other, [`min_length`](Strings::min_length) at least, in one
//! encoding. It is found whole wherever it lies: across chunks, across pages of different states, across mappings that
//! adjoin. What was not read counts it, and so does memory that is known to be zero. What is found depends neither on the
//! number of threads nor on how the memory is cut.
//!
//! A line end counts a string and a tab does not. In UTF-8 and ISO 8859-1 every character is text that is assigned or may
//! be, and is neither a control nor for private use.
//!
//! Nearly any two bytes are a character of UTF-16, most of them an ideograph. So UTF-16 is of Latin script unless
//! [`all_scripts`](Strings::all_scripts) says otherwise: of Latin-1, Latin Extended-A and common punctuation, half of it
//! ASCII at least, at even and odd addresses. With all scripts it lies at even addresses, as what is aligned does, and
//! is not such text as is made of ASCII only when it is read by the byte. Where both byte orders are looked for, Latin text
//! overlaps itself, shifted by a byte; then what begins first counts.
//!
//! # Long strings
//!
//! A string longer than [`PIECE`] comes in pieces of at most that many bytes, cut between characters, and counted from
//! its start. So a gigabyte of text takes no more memory than a page of it.

mod encoding;
mod join;
mod rules;
mod scan;

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::Arc;

pub use encoding::Encoding;

use self::join::Joiner;
use self::rules::Rules;
use self::scan::Run;
use super::sweep::{Chunk, Survey, Sweep, Swept};
use crate::address::Address;
use crate::source::Source;

/// The most bytes of a string that are told in one piece.
pub const PIECE: usize = 64 << 10;

/// The longest minimum, in characters: what surely fits into a piece.
pub const MAX_MIN_LENGTH: usize = 10_000;

/// What of a string may lie in the next chunk: all of a character but its first byte. As much lies in the one before.
const AROUND: u64 = 3;

/// A string, or a piece of a long one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<'a> {
    /// Where it lies.
    pub at: Address,
    /// The encoding that was looked for.
    pub encoding: Encoding,
    /// The bytes as they are in memory.
    pub bytes: &'a [u8],
    /// Whether this goes on with the string of the piece before.
    pub continued: bool,
    /// Whether another piece of the same string follows.
    pub continues: bool,
}

impl<'a> Text<'a> {
    /// The characters.
    #[must_use]
    pub fn text(&self) -> Cow<'a, str> {
        self.encoding.decode(self.bytes)
    }

    /// Whether all of it is ASCII, a byte a character.
    #[must_use]
    pub const fn is_ascii(&self) -> bool {
        self.encoding.byte_order().is_none() && self.bytes.is_ascii()
    }
}

/// Looks for text.
///
/// ```
/// use std::ops::ControlFlow;
///
/// use memfetch::Process;
/// use memfetch::query::strings::Strings;
/// use memfetch::query::sweep::{Scope, Survey};
///
/// let process = Process::current()?;
/// let survey = Survey::of(&process, &Scope::default())?;
/// let mut first = None;
/// let swept = Strings::new().min_length(8).run(&process, survey, |text| {
///     first = Some((text.at, text.text().into_owned()));
///     ControlFlow::Break(())
/// });
/// swept.result?;
/// assert!(first.is_some_and(|(_, text)| text.chars().count() >= 8));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Strings {
    rules: Rules,
    sweep: Sweep,
}

impl Default for Strings {
    fn default() -> Self {
        Self::new()
    }
}

impl Strings {
    /// UTF-8, and UTF-16 of Latin script with the low byte first; at least four characters.
    #[must_use]
    pub fn new() -> Self {
        let encodings = vec![Encoding::Utf8, Encoding::Utf16Le];
        Self { rules: Rules { encodings, min_length: 4, all_scripts: false }, sweep: Sweep::new() }
    }

    /// In these encodings. Text that can be read in several of them is told for each; ASCII alone is a part of
    /// [`Encoding::Utf8`] and [`Encoding::Latin1`], and counts only without them.
    #[must_use]
    pub fn encodings(mut self, encodings: impl IntoIterator<Item = Encoding>) -> Self {
        let mut encodings: Vec<_> = encodings.into_iter().collect();
        encodings.sort();
        encodings.dedup();
        if encodings.iter().any(|wider| matches!(wider, Encoding::Utf8 | Encoding::Latin1)) {
            encodings.retain(|&encoding| encoding != Encoding::Ascii);
        }
        self.rules.encodings = encodings;
        self
    }

    /// Of at least so many characters: 1 to [`MAX_MIN_LENGTH`].
    #[must_use]
    pub fn min_length(mut self, characters: usize) -> Self {
        self.rules.min_length = characters.clamp(1, MAX_MIN_LENGTH);
        self
    }

    /// Whether UTF-16 may be of any script.
    #[must_use]
    pub const fn all_scripts(mut self, all: bool) -> Self {
        self.rules.all_scripts = all;
        self
    }

    /// How the source is gone through; what is found is the same.
    #[must_use]
    pub const fn sweep(mut self, sweep: Sweep) -> Self {
        self.sweep = sweep;
        self
    }

    /// Reads what `survey` says of `source`. `each` gets what is found on this thread, by ascending address, and can
    /// end the work.
    pub fn run(
        &self,
        source: &dyn Source,
        survey: Survey,
        each: impl FnMut(&Text<'_>) -> ControlFlow<()>,
    ) -> Swept {
        let rules = Arc::new(self.rules.clone());
        let look = {
            let rules = Arc::clone(&rules);
            move |chunk: &Chunk| look(&rules, chunk)
        };
        let mut joiner = Joiner::new(&rules, each);
        let mut over = false;
        let sweep = self.sweep.clone().behind(AROUND).ahead(AROUND);
        let swept = sweep.run(source, survey, look, |chunk, found| {
            let mut rest = found.runs.as_slice();
            for (segment, count) in chunk.segments().zip(found.counts) {
                let (runs, others) = rest.split_at_checked(count).unwrap_or((rest, &[]));
                rest = others;
                if joiner.take(&segment, runs).is_break() {
                    over = true;
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        });
        if !over {
            // Also what was found until something ended it is told.
            let _ = joiner.finish();
        }
        swept
    }
}

/// What a thread found in a chunk.
struct Found {
    runs: Vec<Run>,
    /// How many of them are in each segment.
    counts: Vec<usize>,
}

fn look(rules: &Rules, chunk: &Chunk) -> Found {
    let mut found = Found { runs: Vec::new(), counts: Vec::new() };
    for segment in chunk.segments() {
        let before = found.runs.len();
        let at = segment.at().get();
        scan::scan(rules, segment.bytes(), segment.core(), at, &mut found.runs);
        found.counts.push(found.runs.len() - before);
    }
    found
}
