//! The arguments of `memfetch snap`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};

use super::{SelectionArgs, TouchWord};
use crate::quantity;

/// `memfetch snap`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  memfetch snap 1234
      NAME.1234.core in this directory.
  memfetch snap redis-server -o /var/tmp/
      The process of that name; the core goes to that directory.
  memfetch snap 17 18 19 -o 'core.%e.%p.%t'
      Three cores, named as by core(5).
  memfetch snap 1234 --mode live
      No stop at all. The pages may be of different instants.
  memfetch snap 1234 --only heap --only stack
      Only these mappings; the others stand in the core as not saved.
  memfetch snap 1234 -o - | zstd > core.zst
      Through a pipe.
  memfetch snap 1234 -o tcp://box:9000
      To `memfetch recv 0.0.0.0:9000 -o FILE` on that machine, or to `nc -l 9000 > FILE`.
  memfetch snap 1234 --json | jq '.outcome.gaps'")]
pub struct SnapArgs {
    /// The process: its number, its name, or `self`
    #[arg(required = true, value_name = "SOURCE")]
    pub sources: Vec<OsString>,
    /// Where the core goes: a file name (with %p pid, %e name, %h host, %t time, %% as in core(5)), a directory,
    /// - for standard output, or tcp://HOST:PORT for a peer, in plain bytes [default: NAME.PID.core]
    #[arg(short, long, value_name = "WHERE", value_hint = ValueHint::AnyPath, help_heading = "Output")]
    pub output: Option<PathBuf>,
    /// What to write
    #[arg(long, value_name = "FORMAT", default_value = "core", help_heading = "Output")]
    pub format: Format,
    /// Overwrite a file that is there; never a device, a pipe or a socket, nor a link to one
    #[arg(long, help_heading = "Output")]
    pub force: bool,
    /// The largest apparent size of the file, holes counted: 512M, 4GiB ... Beyond it, long stretches of
    /// memory that was never touched are left out and marked as not saved
    #[arg(long, value_name = "SIZE", value_parser = quantity::parse_size, help_heading = "Output")]
    pub max_apparent_size: Option<u64>,
    /// How the process is held still
    #[arg(long, value_name = "MODE", default_value = "auto", help_heading = "Capture")]
    pub mode: ModeWord,
    /// What is saved
    #[arg(long, value_name = "WHAT", default_value = "default", help_heading = "Capture")]
    pub contents: ContentsWord,
    /// Which pages may be read
    #[arg(long, value_name = "PAGES", default_value = "stored", help_heading = "Capture")]
    pub touch: TouchWord,
    /// How long the kernel may take for one answer about a process that is stuck, and a peer to connect and for each
    /// next byte: 500ms, 10s, 2m [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = quantity::parse_duration, help_heading = "Capture")]
    pub time_limit: Option<Duration>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub selection: SelectionArgs,
    /// One JSON object per snapshot on standard output (on standard error where the core goes to standard
    /// output) instead of the summary
    #[arg(long, help_heading = "Report")]
    pub json: bool,
    /// No summary and no progress; errors are still told
    #[arg(short, long, help_heading = "Report")]
    pub quiet: bool,
    /// Whether `snap` was left out: `memfetch PID...`.
    #[arg(skip)]
    pub shorthand: bool,
}

/// A format of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// An ELF core
    Core,
}

/// The words of `--mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeWord {
    /// The most consistent way that works; the summary says which, and why
    Auto,
    /// All threads stopped while the memory is copied
    Freeze,
    /// No stop: pages may be of different instants, and registers are missing
    Live,
}

/// The words of `--contents`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ContentsWord {
    /// What /proc/PID/coredump_filter asks for, and every private file page that was written
    Default,
    /// Everything that can be read
    Full,
    /// Registers, stacks, and what unwinding needs
    Minimal,
}
