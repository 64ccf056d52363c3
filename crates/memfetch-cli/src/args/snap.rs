//! The arguments of `memfetch snap`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};

use memfetch::Address;

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
  memfetch snap 1234 --max-pause 5ms
      Consistent if the process need not be held for longer; else live.
  memfetch snap 1234 --mode live
      No stop at all. The pages may be of different instants.
  memfetch snap 1234 --only heap --only stack
      Only these mappings; the others stand in the core as not saved.
  memfetch snap 1234 -o - | zstd > core.zst
      Through a pipe.
  memfetch snap 1234 -o tcp://box:9000
      To `memfetch recv 0.0.0.0:9000 -o FILE` on that machine, or to
      `nc -l 9000 > FILE`.
  memfetch snap 1234 --format dir -o dump
      A directory: mf-index.txt, and a file for each region.
  memfetch snap 1234 --format raw --only heap -o - | strings -n 12
      The bytes of these mappings, one after the other, as memdump had them.
  memfetch snap 1234 --format raw -o mem.raw --index mem.txt
      And a text that tells which memory stands where.
  memfetch snap 1234 --classic -a -o dump
      mfetch.lst and mem-NNN.bin, as in 2002, of what is no file.
  memfetch -s 1234
      A core at the next SIGSEGV, SIGBUS, SIGILL, SIGFPE or SIGPIPE, of that
      thread.
  memfetch snap 1234 --json | jq '.outcome.gaps'")]
pub struct SnapArgs {
    /// The process: its number, its name, or `self`
    #[arg(required = true, value_name = "SOURCE")]
    pub sources: Vec<OsString>,
    /// Where the core goes: a file name (with %p pid, %e name, %h host, %t time, %% as in core(5)), a directory,
    /// `-` for standard output, or tcp://HOST:PORT for a peer, in plain bytes [default: NAME.PID.core, .raw, or
    /// .regions for --format dir]
    #[arg(short, long, value_name = "WHERE", value_hint = ValueHint::AnyPath, help_heading = "Output")]
    pub output: Option<PathBuf>,
    /// What to write [default: core]
    #[arg(long, value_name = "FORMAT", help_heading = "Output")]
    pub format: Option<Format>,
    /// A directory with the files and the index of memfetch 2002: mfetch.lst, map-NNN.bin, mem-NNN.bin; all that can
    /// be read, unless --contents says otherwise
    #[arg(long, help_heading = "Output")]
    pub classic: bool,
    /// Where the text goes that tells which memory stands where: for --format raw; - is standard output
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Output")]
    pub index: Option<PathBuf>,
    /// Overwrite a file that is there; never a device, a pipe or a socket, nor a link to one. A directory is replaced
    /// if it holds nothing but the files of such a snapshot
    #[arg(long, help_heading = "Output")]
    pub force: bool,
    /// The largest apparent size of the file, holes counted: 512M, 4GiB ... Beyond it, long stretches of
    /// memory that was never touched are left out and marked as not saved
    #[arg(long, value_name = "SIZE", value_parser = quantity::parse_size, help_heading = "Output")]
    pub max_apparent_size: Option<u64>,
    /// How the process is held still
    #[arg(long, value_name = "MODE", default_value = "auto", help_heading = "Capture")]
    pub mode: ModeWord,
    /// How long the process may be held at the most, as far as that can be known beforehand: 5ms, 1s. What would take
    /// longer is an error, or with --mode auto a snapshot without a stop
    #[arg(long, value_name = "DURATION", value_parser = quantity::parse_duration, help_heading = "Capture")]
    pub max_pause: Option<Duration>,
    /// How --mode instant takes shared memory, and pages of files, which others may change
    #[arg(long, value_name = "HOW", default_value = "auto", help_heading = "Capture")]
    pub shared: SharedWord,
    /// How --mode instant has it told which pages are written
    #[arg(long, value_name = "TRACKER", default_value = "auto", help_heading = "Capture")]
    pub tracker: TrackerWord,
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
    /// Skip mappings of files
    #[arg(short = 'a', help_heading = "memfetch 2002")]
    pub anonymous: bool,
    /// Only the mapping that holds this address, hexadecimal with or without 0x
    #[arg(short = 'S', value_name = "ADDR", value_parser = parse_address, help_heading = "memfetch 2002")]
    pub address: Option<Address>,
    /// Write the index to standard output, too
    #[arg(short = 'w', help_heading = "memfetch 2002")]
    pub show_index: bool,
    /// Wait until a thread is about to take SIGSEGV, SIGBUS, SIGILL, SIGFPE or SIGPIPE, which it does not ignore, then
    /// take the snapshot; the signal follows. Ctrl-C ends the wait, and the process runs on. While it lasts, the time
    /// limit of a sleeping call starts anew with each signal that the process ignores; and a set-user-id program that
    /// it executes gets no privileges, unless root waits
    #[arg(short = 's', help_heading = "memfetch 2002")]
    pub at_fault: bool,
    /// Means nothing: memory is never mapped
    #[arg(short = 'm', help_heading = "memfetch 2002")]
    pub no_mmap: bool,
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
    /// A directory: an index, and a file for each region of which something is saved
    Dir,
    /// The bytes of the regions, one after the other
    Raw,
}

/// The words of `--mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeWord {
    /// The most consistent way that works; the summary says which, and why
    Auto,
    /// Copied while it runs, and what it writes meanwhile once more in a stop of milliseconds
    Instant,
    /// All threads stopped while the memory is copied
    Freeze,
    /// No stop: pages may be of different instants, and registers are missing
    Live,
}

/// The words of `--shared`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SharedWord {
    /// In the stop, as long as that does not make it much longer
    Auto,
    /// In the stop, however long that takes
    Stop,
    /// While it runs, and once more what the process itself writes to it
    Tracked,
}

/// The words of `--tracker`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TrackerWord {
    /// By userfaultfd, or by soft-dirty bits where that cannot be had
    Auto,
    /// By userfaultfd, for which one thread of the process makes one system call (Linux 6.7)
    WriteProtect,
    /// By soft-dirty bits, one set for all who ask: nobody else may use them meanwhile (CRIU does)
    SoftDirty,
}

/// The words of `--contents`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ContentsWord {
    /// In a core what /proc/PID/coredump_filter asks for, and every private file page that was written; else all
    /// but what was never written of files that may not be written
    Default,
    /// Everything that can be read
    Full,
    /// Registers, stacks, and what unwinding needs
    Minimal,
}

/// An address as memfetch took it in 2002: hexadecimal, with or without `0x`.
fn parse_address(text: &str) -> Result<Address, String> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    let is_hex = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let address = is_hex.then(|| u64::from_str_radix(digits, 16).ok()).flatten();
    address
        .map(Address::new)
        .ok_or_else(|| "addresses are hexadecimal, such as 7ffd1000 or 0x7ffd1000".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hexadecimal_with_or_without_a_prefix() {
        for text in ["7ffd1000", "0x7ffd1000", "0X7FFD1000"] {
            assert_eq!(parse_address(text), Ok(Address::new(0x7ffd_1000)), "{text}");
        }
        for bad in ["", "0x", "+1", "-1", "heap", "1 2", "11112222333344445"] {
            assert!(parse_address(bad).is_err(), "{bad}");
        }
    }
}
