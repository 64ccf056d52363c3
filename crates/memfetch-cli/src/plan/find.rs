//! [`Find`]: what `memfetch find` will do.

use std::ffi::OsString;
use std::io;
use std::time::Duration;

use memfetch::query::find::{Encoding, Pattern, PatternError};
use memfetch::query::values::Type;
use memfetch::{Platform, Selection, Selector, Touch};

use super::{selection, touch};
use crate::args::FindArgs;
use crate::failure::Failure;
use crate::text::Paint;

/// Lines of context: more is what `read` is for.
const MOST_LINES: u16 = 4096;

/// What `memfetch find` will do.
#[derive(Debug)]
pub struct Find {
    /// Where to look.
    pub source: OsString,
    /// For what, in the order in which it is told.
    pub wanted: Vec<Wanted>,
    /// Rules to evaluate, and nothing else then.
    pub rules: Option<RuleFiles>,
    /// Whether upper and lower case are alike.
    pub ignore_case: bool,
    /// The alignment of values and pointers, if it is not their size.
    pub align: Option<u64>,
    /// How hits are told.
    pub report: Report,
    /// How many are enough.
    pub max_count: Option<usize>,
    /// Which mappings are searched.
    pub selection: Selection,
    /// Which pages may be read.
    pub touch: Touch,
    /// How many threads search.
    pub threads: Option<usize>,
    /// How long one answer of the kernel may take.
    pub time_limit: Option<Duration>,
}

/// Rules, as far as they are known without their files.
#[derive(Clone, Debug)]
pub struct RuleFiles {
    /// The files.
    pub files: Vec<String>,
    /// External variables.
    pub definitions: Vec<String>,
    /// Only rules with one of these are told; nothing means all.
    pub tags: Vec<String>,
}

/// Something to look for, as far as that is known without the source.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// A text, in UTF-16 or in UTF-8.
    Text(String, bool),
    /// A regular expression.
    Regex(String),
    /// Bytes in hexadecimal.
    Hex(String),
    /// A value.
    Value(Type, String),
    /// Pointers.
    PointsTo(Selector),
}

/// How hits are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// A line each, or with context lines of a hexdump.
    Lines {
        /// Lines of a hexdump before and behind, if there are to be any.
        context: Option<(u16, u16)>,
        /// The colours.
        paint: Paint,
    },
    /// What matched.
    OnlyMatching,
    /// How many.
    Count,
    /// The mappings.
    Mappings,
    /// JSON objects.
    Json,
    /// Nothing.
    Nothing,
}

impl Find {
    /// Resolves the arguments.
    pub fn new(args: FindArgs) -> Result<Self, Failure> {
        let mut wanted: Vec<Wanted> = Vec::new();
        for text in args.patterns {
            wanted.push(match args.kind {
                Some(kind) => Wanted::Value(kind, text),
                None => Wanted::Text(text, args.utf16),
            });
        }
        wanted.extend(args.regexps.into_iter().map(Wanted::Regex));
        wanted.extend(args.hex.into_iter().map(Wanted::Hex));
        wanted.extend(args.points_to.into_iter().map(Wanted::PointsTo));
        let rules = (!args.rules.is_empty()).then_some(RuleFiles {
            files: args.rules,
            definitions: args.define,
            tags: args.tag,
        });
        if wanted.is_empty() && rules.is_none() {
            return Err(Failure::usage("nothing to find was given", "a text: `memfetch find SOURCE TEXT`"));
        }
        let before = args.before.or(args.context);
        let after = args.after.or(args.context);
        let context = (before.is_some() || after.is_some())
            .then(|| (before.unwrap_or(0).min(MOST_LINES), after.unwrap_or(0).min(MOST_LINES)));
        let report = if args.quiet {
            Report::Nothing
        } else if args.json {
            Report::Json
        } else if args.count {
            Report::Count
        } else if args.list_mappings {
            Report::Mappings
        } else if args.only_matching {
            Report::OnlyMatching
        } else {
            Report::Lines { context, paint: Paint::of(&io::stdout()) }
        };
        Ok(Self {
            source: args.source,
            wanted,
            rules,
            ignore_case: args.ignore_case,
            align: args.align,
            max_count: if args.quiet { Some(1) } else { args.max_count.map(usize::from) },
            report,
            selection: selection(args.selection),
            touch: touch(args.touch),
            threads: args.threads.map(usize::from),
            time_limit: args.time_limit,
        })
    }

    /// The patterns for a source of this platform.
    pub fn patterns(&self, platform: &Platform) -> Result<Vec<Pattern>, Failure> {
        let patterns = self.wanted.iter().map(|wanted| {
            self.pattern(wanted, platform).map_err(|error| {
                let hint = match &error {
                    PatternError::Regex(_) => {
                        "escape what is meant as it stands, or give it as a text without -e"
                    }
                    PatternError::Empty => "an empty pattern would be everywhere",
                    PatternError::HexDigit(_) | PatternError::HalfByte => {
                        "bytes are written as in 'de ad ?? ef'"
                    }
                    PatternError::Value(_) => {
                        "numbers are decimal, or hexadecimal with 0x; --type says how wide they are"
                    }
                    _ => "give less of it",
                };
                Failure::usage(format!("`{wanted}` is no pattern: {error}"), hint)
            })
        });
        patterns.collect()
    }

    fn pattern(&self, wanted: &Wanted, platform: &Platform) -> Result<Pattern, PatternError> {
        match wanted {
            Wanted::Text(text, utf16) => {
                let encoding = if *utf16 { Encoding::Utf16(platform.byte_order) } else { Encoding::Utf8 };
                Pattern::text(text, encoding, self.ignore_case)
            }
            Wanted::Regex(expression) => Pattern::regex(expression, self.ignore_case),
            Wanted::Hex(text) => Pattern::hex(text),
            Wanted::Value(kind, text) => {
                Pattern::value(*kind, text, platform, platform.byte_order, self.align)
            }
            Wanted::PointsTo(target) => Ok(Pattern::points_to(target.clone(), self.align)),
        }
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text, _) | Self::Regex(text) | Self::Hex(text) | Self::Value(_, text) => {
                f.write_str(text)
            }
            Self::PointsTo(target) => write!(f, "-> {target}"),
        }
    }
}
