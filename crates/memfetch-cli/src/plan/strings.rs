//! [`Strings`]: what `memfetch strings` will do.

use std::ffi::OsString;
use std::time::Duration;

use memfetch::query::strings::Encoding;
use memfetch::query::sweep::Scope;

use super::{selection, touch};
use crate::args::{EncodingWord, RadixWord, StringsArgs};

/// What `memfetch strings` will do.
#[derive(Debug)]
pub struct Strings {
    /// The process or the image.
    pub source: OsString,
    /// Which of its memory.
    pub scope: Scope,
    /// How long one answer of the kernel may take.
    pub time_limit: Option<Duration>,
    /// How many threads look; without a number the library decides.
    pub threads: Option<usize>,
    /// The fewest characters.
    pub min_length: usize,
    /// How text is encoded.
    pub encodings: Vec<Encoding>,
    /// Whether UTF-16 may be of any script.
    pub all_scripts: bool,
    /// How many strings are enough.
    pub most: Option<u64>,
    /// How a string is shown.
    pub layout: StringLayout,
    /// Whether nothing is said of what was read.
    pub quiet: bool,
    /// Whether the coverage is told in JSON.
    pub json: bool,
}

/// How a string is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StringLayout {
    /// Not at all: only how many there are.
    Count,
    /// A JSON object.
    Json,
    /// A line.
    Line {
        /// How its address is written, if it is.
        radix: Option<RadixWord>,
        /// Whether it says in which encoding it is.
        encoding: bool,
        /// Whether it says in which mapping.
        region: bool,
    },
}

impl Strings {
    /// Resolves the arguments.
    #[must_use]
    pub fn new(args: StringsArgs) -> Self {
        let mut encodings: Vec<_> = args.encoding.into_iter().map(encoding).collect();
        encodings.sort();
        encodings.dedup();
        let layout = if args.count {
            StringLayout::Count
        } else if args.json {
            StringLayout::Json
        } else {
            StringLayout::Line {
                radix: (!args.no_address).then_some(args.radix),
                encoding: encodings.len() > 1,
                region: args.region,
            }
        };
        Self {
            source: args.source,
            scope: Scope {
                selection: selection(args.selection),
                touch: touch(args.touch),
                ..Scope::default()
            },
            time_limit: args.time_limit,
            threads: args.threads.map(usize::from),
            min_length: usize::try_from(args.min_length).unwrap_or(usize::MAX),
            encodings,
            all_scripts: args.all_scripts,
            most: args.max_count,
            layout,
            quiet: args.quiet,
            json: args.json,
        }
    }
}

const fn encoding(word: EncodingWord) -> Encoding {
    match word {
        EncodingWord::Ascii => Encoding::Ascii,
        EncodingWord::Utf8 => Encoding::Utf8,
        EncodingWord::Latin1 => Encoding::Latin1,
        EncodingWord::Utf16le => Encoding::Utf16Le,
        EncodingWord::Utf16be => Encoding::Utf16Be,
    }
}
