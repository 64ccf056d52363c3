//! The arguments of `memfetch diff`.

use std::ffi::OsString;

use clap::{Args, ValueHint};
use memfetch::query::values::Type;

use super::{SelectionArgs, TouchWord};

/// `memfetch diff`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  memfetch diff before.core after.core          what changed between snapshots
  memfetch diff before.core 1234                what changed since a snapshot
  memfetch diff 1234 1235 --only heap           two processes
  memfetch diff a.core b.core --only heap -t i32
      Addresses, old and new values.
  memfetch diff a.core b.core --summary         which mappings, and how much
  memfetch diff a.core 1234 --only 0x7ffd1000 --all
  memfetch diff a.core b.core --by-region --ignore-moved-pointers
      Two runs of a program, whose parts lie at different addresses.
  memfetch diff a.core b.core --json | jq 'select(.event == \"bytes\")'

Exit codes:
  0  equal
  1  different
  2  error
  3  not all could be compared: what was found is told, and what could not be
     had from which side; with -q the first difference decides: 1")]
pub struct DiffArgs {
    /// A process (number, name, or `self`), an ELF core or a region directory: how it was
    #[arg(value_name = "A", value_hint = ValueHint::FilePath)]
    pub before: OsString,
    /// Another: how it is
    #[arg(value_name = "B", value_hint = ValueHint::FilePath)]
    pub after: OsString,
    /// Compare the bytes at equal addresses: of one process at two times, or of its forks
    #[arg(long, conflicts_with = "by_region", help_heading = "Comparison")]
    pub by_address: bool,
    /// Compare the bytes at equal places in corresponding mappings: of two runs [default: where most mappings that
    /// have a name lie at other addresses]
    #[arg(long, help_heading = "Comparison")]
    pub by_region: bool,
    /// Aligned words that point to corresponding places count as equal
    #[arg(long, help_heading = "Comparison")]
    pub ignore_moved_pointers: bool,
    /// Which pages may be read
    #[arg(long, value_name = "PAGES", default_value = "stored", help_heading = "Comparison")]
    pub touch: TouchWord,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub selection: SelectionArgs,
    /// As values of this type, old and new: u8 to u64, i8 to i64, f32, f64, ptr
    #[arg(
        short = 't',
        long = "type",
        value_name = "TYPE",
        conflicts_with = "summary",
        help_heading = "Report"
    )]
    pub kind: Option<Type>,
    /// So many changes of a mapping are shown, and how many more there are
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 16, help_heading = "Report")]
    pub limit: u64,
    /// All changes, whole
    #[arg(long, conflicts_with_all = ["limit", "summary"], help_heading = "Report")]
    pub all: bool,
    /// A line for each mapping that changed
    #[arg(long, conflicts_with = "json", help_heading = "Report")]
    pub summary: bool,
    /// A JSON object for each change, all of them, and one at the end for the whole
    #[arg(long, help_heading = "Report")]
    pub json: bool,
    /// Nothing is told but errors; ends at the first difference
    #[arg(short, long, conflicts_with_all = ["json", "summary", "kind", "all"], help_heading = "Report")]
    pub quiet: bool,
}
