//! The arguments of `memfetch read`.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};
use memfetch::query::place::Where;
use memfetch::query::values::Type;

use super::TouchWord;
use crate::quantity;

/// `memfetch read`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
WHERE is a place, or a span of two:
  0x7ffd1000         an address: hexadecimal, always with 0x
  heap, stack        the heap, the stack of the first thread
  libc.so.6          the base of a mapped file, by its path or its last part
  main               the program itself
  [vdso]             any mapping by its name in `memfetch maps`
  libc.so.6!environ  a symbol; !environ in whichever module has it
  PLACE+0x10 PLACE-8 moved; 0x1000+8 needs -n, or it might mean a length
  PLACE..PLACE       up to the second: .. always spans
  PLACE..+0x100      so many bytes (also 256, 4K, 1M)
  PLACE..            to the end of its mapping

Examples:
  memfetch read 1234 heap                  256 bytes in hexadecimal and as text
  memfetch read 1234 0x7ffd1000 -n 4K      dd bs=1 skip=... count=4096 | xxd
  memfetch read 1234 stack.. --no-squeeze  all of it, each line: hexdump -Cv
  memfetch read 1234 libc.so.6+0x1c0 -t u32 -n 4
  memfetch read redis-server 'main!server' -t ptr -n 8
  memfetch read ./redis.core 'libc.so.6!environ' -t ptr
  memfetch read 1234 heap.. --raw | strings
  memfetch read 1234 0x7ffd1000..+0x40 --json | jq '.parts'

Exit codes:
  0  read
  2  error: nothing could be read
  3  some of it could not be read: it is shown as --, and the causes are on
     standard error")]
pub struct ReadArgs {
    /// A process (number, name, or `self`), an ELF core or a region directory
    #[arg(value_name = "SOURCE", value_hint = ValueHint::FilePath)]
    pub source: OsString,
    /// Where to read: an address, a name, a symbol, each with offsets, or a span
    #[arg(value_name = "WHERE")]
    pub place: Where,
    /// How much: bytes, or elements with --type (decimal, 0x..., 4K, 1MiB)
    ///
    /// Without it, and where WHERE is no span: the size of the symbol, or else one element, or 256 bytes as far as
    /// there is memory.
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = quantity::parse_count)]
    pub count: Option<u64>,
    /// As values of this type, one a line: u8 to u64, i8 to i64, f32, f64, ptr, str, utf16
    ///
    /// A ptr is followed by what lies where it points. A str and a utf16 end with their zero.
    #[arg(short = 't', long = "type", value_name = "TYPE", help_heading = "View")]
    pub kind: Option<Type>,
    /// The byte order of values [default: that of the source]
    #[arg(long, value_name = "ORDER", requires = "kind", help_heading = "View")]
    pub endian: Option<OrderWord>,
    /// The bytes and nothing else, for a pipe or a file
    ///
    /// It stops before the first byte that cannot be read, unless --fill says what to put in its place.
    #[arg(short, long, conflicts_with_all = ["kind", "json"], help_heading = "View")]
    pub raw: bool,
    /// What stands for each byte that could not be read; the exit code is still 3
    #[arg(long, value_name = "BYTE", requires = "raw", value_parser = quantity::parse_byte, help_heading = "View")]
    pub fill: Option<u8>,
    /// Every line, also those that repeat the one above
    #[arg(short = 'v', long, help_heading = "View")]
    pub no_squeeze: bool,
    /// Bytes in a line
    #[arg(
        short = 'w',
        long,
        value_name = "BYTES",
        default_value_t = 16,
        value_parser = clap::value_parser!(u16).range(1..=4096),
        help_heading = "View"
    )]
    pub width: u16,
    /// Bytes that are written without a space between them, in their order in memory
    #[arg(
        short = 'g',
        long,
        value_name = "BYTES",
        default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=4096),
        help_heading = "View"
    )]
    pub group: u16,
    /// Which pages may be read
    #[arg(long, value_name = "PAGES", default_value = "stored", help_heading = "Capture")]
    pub touch: TouchWord,
    /// How long the kernel may take for one answer about a process that is stuck: 500ms, 10s, 2m
    #[arg(long, value_name = "DURATION", value_parser = quantity::parse_duration, help_heading = "Capture")]
    pub time_limit: Option<Duration>,
    /// One JSON object: the bytes in hexadecimal, or the values
    #[arg(long)]
    pub json: bool,
}

/// The words of `--endian`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OrderWord {
    /// Least significant byte first
    Little,
    /// Most significant byte first
    Big,
}
