//! The arguments of `memfetch find`.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::time::Duration;

use clap::{Args, ValueHint};
use memfetch::Selector;
use memfetch::query::values::Type;

use super::{SelectionArgs, TouchWord};
use crate::quantity;

/// `memfetch find`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  memfetch find redis-server session:
  memfetch find 1234 -i password --utf16 -C 2
  memfetch find 1234 --hex 'de ad ?? e? ff'
  memfetch find 1234 -o -e 'sk_live_[0-9a-zA-Z]{24}' | sort -u
  memfetch find 1234 -t i32 1234 --only heap
  memfetch find 1234 --points-to 0x7ffd1000..0x7ffd1010
  memfetch find ./redis.core -c session:
  memfetch find 1234 --rules malware.yar --tag packer
  for pid in $(pgrep -u alice); do memfetch find -q $pid AKIA && echo $pid; done

Exit codes:
  0  found
  1  not found
  2  error: what was found until then is printed
  3  not found, and something could not be searched: the causes are on
     standard error")]
pub struct FindArgs {
    /// A process (number, name, or `self`), an ELF core or a region directory
    #[arg(value_name = "SOURCE", value_hint = ValueHint::FilePath)]
    pub source: OsString,
    /// What to find: a text, or with --type values; each option below adds patterns of its kind, and all are looked for
    /// in one pass
    #[arg(value_name = "PATTERN", allow_negative_numbers = true)]
    pub patterns: Vec<String>,
    /// A regular expression over bytes (syntax of the crate regex; `.` is any byte but a newline, `\xff` a byte)
    ///
    /// Matches do not overlap, and are at most 64 KiB long: what would be longer is cut there.
    #[arg(short = 'e', long = "regexp", value_name = "REGEX", help_heading = "Patterns")]
    pub regexps: Vec<String>,
    /// Bytes in hexadecimal; ? is any digit
    #[arg(short = 'x', long, value_name = "BYTES", help_heading = "Patterns")]
    pub hex: Vec<String>,
    /// An aligned word that points into these mappings: heap, stack, a name, 0xSTART..0xEND ...
    #[arg(long, value_name = "SELECTOR", help_heading = "Patterns")]
    pub points_to: Vec<Selector>,
    /// YARA rules, of this file or of NAMESPACE:FILE; what is told is which of them are true, and where their strings
    /// match
    #[arg(
        long,
        value_name = "FILE",
        value_hint = ValueHint::FilePath,
        conflicts_with_all = ["patterns", "regexps", "hex", "points_to", "kind", "only_matching", "after", "before", "context"],
        help_heading = "Patterns"
    )]
    pub rules: Vec<String>,
    /// An external variable of the rules
    #[arg(short = 'd', long, value_name = "NAME=VALUE", requires = "rules", help_heading = "Patterns")]
    pub define: Vec<String>,
    /// Only rules with one of these tags
    #[arg(long, value_name = "TAG", requires = "rules", help_heading = "Patterns")]
    pub tag: Vec<String>,
    /// The PATTERNs are values of this type: u8 to u64, i8 to i64, f32, f64, ptr; aligned unless --align says otherwise
    #[arg(short = 't', long = "type", value_name = "TYPE", help_heading = "Patterns")]
    pub kind: Option<Type>,
    /// Addresses of values and pointers are multiples of this: 1, 2, 4 ... [default: their size]
    #[arg(long, value_name = "BYTES", value_parser = quantity::parse_alignment, help_heading = "Patterns")]
    pub align: Option<u64>,
    /// Upper and lower case are alike, in texts and regular expressions
    #[arg(short, long, help_heading = "Patterns")]
    pub ignore_case: bool,
    /// Texts are looked for in UTF-16, in the byte order of the source, and not in UTF-8
    #[arg(long, help_heading = "Patterns")]
    pub utf16: bool,
    /// Only how many there are, for each pattern if there are several
    #[arg(short, long, help_heading = "Output")]
    pub count: bool,
    /// Only the mappings in which there are any; of rules their names
    #[arg(short = 'l', long, conflicts_with = "count", help_heading = "Output")]
    pub list_mappings: bool,
    /// Only what matched, a line each
    #[arg(short, long, conflicts_with_all = ["count", "list_mappings"], help_heading = "Output")]
    pub only_matching: bool,
    /// Stop after so many
    #[arg(short, long, value_name = "NUMBER", help_heading = "Output")]
    pub max_count: Option<NonZeroUsize>,
    /// Say nothing and stop at the first: the exit code tells
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,
    /// So many lines of a hexdump behind each
    #[arg(short = 'A', long, value_name = "LINES", help_heading = "Output")]
    pub after: Option<u16>,
    /// So many before
    #[arg(short = 'B', long, value_name = "LINES", help_heading = "Output")]
    pub before: Option<u16>,
    /// So many on both sides
    #[arg(short = 'C', long, value_name = "LINES", help_heading = "Output")]
    pub context: Option<u16>,
    /// A JSON object a line for each, and one at the end that says what was searched
    #[arg(long, conflicts_with_all = ["count", "list_mappings", "only_matching"], help_heading = "Output")]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub selection: SelectionArgs,
    /// Which pages may be read
    #[arg(long, value_name = "PAGES", default_value = "stored", help_heading = "Search")]
    pub touch: TouchWord,
    /// How many threads search [default: one for each processor, up to 4]; what is found does not depend on it
    #[arg(long, value_name = "NUMBER", help_heading = "Search")]
    pub threads: Option<NonZeroUsize>,
    /// How long the kernel may take for one answer about a process that is stuck: 500ms, 10s, 2m
    #[arg(long, value_name = "DURATION", value_parser = quantity::parse_duration, help_heading = "Search")]
    pub time_limit: Option<Duration>,
}
