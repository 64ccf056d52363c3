//! The arguments of `memfetch maps`.

use std::ffi::OsString;

use clap::{Args, ValueHint};

use super::SelectionArgs;

/// `memfetch maps`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  memfetch maps 1234
  memfetch maps redis-server --only anon
  memfetch maps self --skip file
  memfetch maps ./redis-server.1234.core
  memfetch maps 1234 --only 0x7ffd1000    the mapping that holds this address
  memfetch maps 1234 --json | jq 'map(.pages.swapped) | add'

Exit codes:
  0  listed
  1  no such mapping, or the image was cut short: what is left of it is listed
  2  error")]
pub struct MapsArgs {
    /// A process (number, name, or `self`), an ELF core or a region directory
    #[arg(value_name = "SOURCE", value_hint = ValueHint::FilePath)]
    pub source: OsString,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub selection: SelectionArgs,
    /// A JSON array with exact byte counts
    #[arg(long)]
    pub json: bool,
}
