//! The arguments of `memfetch strings`.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};
use memfetch::query::strings::MAX_MIN_LENGTH;

use super::{SelectionArgs, TouchWord};
use crate::quantity;

/// `memfetch strings`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  memfetch strings 1234
  memfetch strings -n 8 redis-server --only heap
  memfetch strings ./redis-server.1234.core | grep -i session
  memfetch strings 1234 --encoding ascii --no-address | sort | uniq -c
  memfetch strings 1234 -e l --region       UTF-16 as Windows and Java have it
  memfetch strings 1234 --json | jq -r 'select(.encoding == \"utf16le\").text'

Exit codes:
  0  strings were found
  1  none
  2  error, also where the process ended halfway: what was found until then
     is told
  3  done with gaps: something that was wanted could not be read")]
pub struct StringsArgs {
    /// A process (number, name, or `self`), an ELF core or a region directory
    #[arg(value_name = "SOURCE", value_hint = ValueHint::FilePath)]
    pub source: OsString,
    /// The fewest characters of a string
    #[arg(
        short = 'n',
        long,
        value_name = "LENGTH",
        default_value = "4",
        value_parser = clap::value_parser!(u64).range(1..=MAX_MIN_LENGTH as u64),
        help_heading = "What is text"
    )]
    pub min_length: u64,
    /// How it is encoded; several with commas
    #[arg(
        short,
        long,
        value_name = "ENCODING",
        value_delimiter = ',',
        default_value = "utf8,utf16le",
        help_heading = "What is text"
    )]
    pub encoding: Vec<EncodingWord>,
    /// UTF-16 of any script, at even addresses; otherwise it is of Latin script, half of it ASCII at least, since
    /// nearly any two bytes are an ideograph
    #[arg(long, help_heading = "What is text")]
    pub all_scripts: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub selection: SelectionArgs,
    /// Which pages may be read
    #[arg(long, value_name = "PAGES", default_value = "stored", help_heading = "Reading")]
    pub touch: TouchWord,
    /// How long the kernel may take for one answer about a process that is stuck: 500ms, 10s, 2m
    #[arg(long, value_name = "DURATION", value_parser = quantity::parse_duration, help_heading = "Reading")]
    pub time_limit: Option<Duration>,
    /// How many threads read and look [default: as many as there are processors, up to 4]
    #[arg(
        long,
        value_name = "NUMBER",
        value_parser = clap::value_parser!(u16).range(1..=256),
        help_heading = "Reading"
    )]
    pub threads: Option<u16>,
    /// Stop after so many strings
    #[arg(
        short,
        long,
        value_name = "NUMBER",
        value_parser = clap::value_parser!(u64).range(1..),
        help_heading = "Output"
    )]
    pub max_count: Option<u64>,
    /// Only how many there are
    #[arg(short, long, help_heading = "Output")]
    pub count: bool,
    /// How addresses are written: x hexadecimal, d decimal, o octal
    #[arg(short = 't', long, value_name = "RADIX", default_value = "x", help_heading = "Output")]
    pub radix: RadixWord,
    /// No addresses
    #[arg(long, conflicts_with = "radix", help_heading = "Output")]
    pub no_address: bool,
    /// A column with the mapping and the distance from its start
    #[arg(long, help_heading = "Output")]
    pub region: bool,
    /// One JSON object per string, and one with the coverage at the end
    #[arg(long, conflicts_with_all = ["radix", "no_address", "region"], help_heading = "Output")]
    pub json: bool,
    /// Not a word of what was read and what was not; errors are still told
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,
}

/// An encoding, by its name or by the letter that strings(1) has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EncodingWord {
    /// 7-bit characters
    #[value(alias = "s")]
    Ascii,
    /// Those and all others of UTF-8
    #[value(alias = "u")]
    Utf8,
    /// 8-bit characters, ISO 8859-1
    #[value(alias = "S")]
    Latin1,
    /// 16-bit characters, low byte first
    #[value(alias = "l")]
    Utf16le,
    /// 16-bit characters, high byte first
    #[value(alias = "b")]
    Utf16be,
}

/// A radix, as strings(1) has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RadixWord {
    /// Hexadecimal
    X,
    /// Decimal
    D,
    /// Octal
    O,
}
