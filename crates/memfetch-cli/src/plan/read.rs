//! [`Read`]: what `memfetch read` will do.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::time::Duration;

use memfetch::query::dump;
use memfetch::query::place::Where;
use memfetch::query::values::Type;
use memfetch::{ByteOrder, Touch};

use super::touch;
use crate::args::{OrderWord, ReadArgs};
use crate::failure::Failure;
use crate::text::Paint;

/// What `memfetch read` will do.
#[derive(Debug)]
pub struct Read {
    /// The process or the image.
    pub source: OsString,
    /// Where.
    pub place: Where,
    /// How many bytes or elements, where that is said.
    pub count: Option<u64>,
    /// How it is shown.
    pub view: View,
    /// Which pages may be read.
    pub touch: Touch,
    /// How long one answer of the kernel may take.
    pub time_limit: Option<Duration>,
    /// Whether a line above the dump tells where it is: where somebody looks at it.
    pub heading: Option<Paint>,
}

/// How memory is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// A hexdump.
    Hex {
        /// Its lines.
        layout: dump::Layout,
        /// Whether lines that repeat are left out.
        squeeze: bool,
        /// Its colours.
        paint: Paint,
    },
    /// The bytes.
    Raw {
        /// What stands for a byte that is missing; without it the output ends before the first.
        fill: Option<u8>,
    },
    /// The bytes in a JSON object.
    Json,
    /// Values.
    Typed {
        /// Of which type.
        kind: Type,
        /// In which byte order, if not in that of the source.
        order: Option<ByteOrder>,
        /// As a JSON object.
        json: bool,
        /// Their colours.
        paint: Paint,
    },
}

impl View {
    /// The type of the values.
    #[must_use]
    pub const fn kind(&self) -> Option<Type> {
        match self {
            Self::Typed { kind, .. } => Some(*kind),
            _ => None,
        }
    }
}

impl Read {
    /// Resolves the arguments.
    pub fn new(args: ReadArgs) -> Result<Self, Failure> {
        let stdout = io::stdout();
        Self::for_stdout(args, stdout.is_terminal(), Paint::of(&stdout))
    }

    fn for_stdout(args: ReadArgs, is_terminal: bool, paint: Paint) -> Result<Self, Failure> {
        if args.raw && is_terminal {
            return Err(Failure::usage(
                "raw bytes are not written to a terminal",
                "send them through a pipe (`--raw | xxd`) or to a file (`--raw > FILE`), or leave out `--raw`",
            ));
        }
        if args.count.is_some() && args.place.has_end() {
            return Err(Failure::usage(
                format!("`{}` tells where it ends, and so does `--count`", args.place),
                "one of them is enough",
            ));
        }
        if args.count.is_none()
            && let Some((sum, length)) = args.place.if_a_length()
        {
            return Err(Failure::usage(
                format!("`{}` may be an offset or a length", args.place),
                format!("`{sum}` is the sum, and `{length}` the span"),
            ));
        }
        let view = match args.kind {
            Some(kind) => {
                let order = args.endian.map(|word| match word {
                    OrderWord::Little => ByteOrder::Little,
                    OrderWord::Big => ByteOrder::Big,
                });
                View::Typed { kind, order, json: args.json, paint }
            }
            None if args.raw => View::Raw { fill: args.fill },
            None if args.json => View::Json,
            None => {
                let layout = dump::Layout {
                    width: args.width.into(),
                    group: args.group.into(),
                    styled: paint.is_on(),
                    ..dump::Layout::default()
                };
                View::Hex { layout, squeeze: !args.no_squeeze, paint }
            }
        };
        Ok(Self {
            source: args.source,
            place: args.place,
            count: args.count,
            view,
            touch: touch(args.touch),
            time_limit: args.time_limit,
            heading: (is_terminal && !args.json).then_some(paint),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args;

    fn planned(words: &[&str], is_terminal: bool) -> Result<Read, Failure> {
        let words = ["memfetch", "read", "7"].iter().chain(words).map(OsString::from);
        let Some(args::Command::Read(args)) = args::parse(words).command else { panic!() };
        Read::for_stdout(args, is_terminal, Paint::OFF)
    }

    #[test]
    fn bytes_never_go_to_a_terminal() {
        let failure = planned(&["heap", "--raw"], true).unwrap_err();
        assert!(failure.to_string().contains("terminal"), "{failure}");
        assert_eq!(
            planned(&["heap", "--raw", "--fill", "0xff"], false).unwrap().view,
            View::Raw { fill: Some(255) }
        );
    }

    #[test]
    fn what_is_said_twice_or_in_two_ways_is_asked_back() {
        let failure = planned(&["heap..", "-n", "4"], false).unwrap_err();
        assert!(failure.to_string().contains("--count"), "{failure}");
        let Failure::Usage { what, hint } = planned(&["0x1000+0x100"], false).unwrap_err() else { panic!() };
        assert!(what.contains("an offset or a length"), "{what}");
        assert!(hint.contains("`0x1100`") && hint.contains("`0x1000..+0x100`"), "{hint}");
        for fine in [&["0x1000+0x100", "-n", "4"][..], &["0x1000..+0x100"], &["heap+0x100"], &["0x1000-8"]] {
            assert!(planned(fine, false).is_ok(), "{fine:?}");
        }
    }
}
