//! The arguments as they are typed: flags and their words, nothing resolved. What they mean is in
//! [`plan`](crate::plan).

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, CommandFactory, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use memfetch::Selector;

use crate::quantity;

/// Takes snapshots of a running process' memory without harming it.
///
/// No page of the process is faulted in or dirtied for it; what is read from swap is paged out again where that
/// is allowed, and `--touch resident` leaves it there. What could not be read is told: in the snapshot, in the
/// summary and in the exit code, never as a zero.
#[derive(Debug, Parser)]
#[command(
    name = "memfetch",
    version,
    long_version = long_version(),
    override_usage = "memfetch <COMMAND> ...\n       memfetch <PID>...    the same as `memfetch snap <PID>...`",
    after_help = "`memfetch COMMAND --help` explains a command, with examples.",
    after_long_help = "\
Examples:
  memfetch 1234                     a core of process 1234, in NAME.1234.core
  memfetch snap redis-server        the same by name
  memfetch maps 1234                its mappings, and what of each is in RAM
  memfetch maps redis-server.1234.core
  memfetch verify *.core            whole, and unaltered?

Exit codes:
  0  done
  1  nothing found, or different (verify: altered or incomplete; maps: incomplete)
  2  error
  3  done with gaps: something that was wanted could not be read

Environment:
  NO_COLOR  where it is set and not empty, nothing is coloured"
)]
pub struct Args {
    /// Print the completions of a shell, and exit
    #[arg(long, value_name = "SHELL", exclusive = true)]
    pub completions: Option<Shell>,
    /// Print the manual pages, or write them into DIR as a file each, and exit
    #[arg(
        long,
        value_name = "DIR",
        exclusive = true,
        num_args = 0..=1,
        require_equals = true,
        value_hint = ValueHint::DirPath
    )]
    pub man: Option<Option<PathBuf>>,
    /// What to do
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// A command with its own arguments.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take a snapshot of a process
    ///
    /// It is an ELF core that gdb, lldb, elfutils and drgn open. It has its final name only when it is whole and on
    /// stable storage. Pages that were never touched are holes in it. A page that was wanted and could not be read
    /// is a gap: it is listed in the core and in the summary, and makes the exit code 3.
    Snap(SnapArgs),
    /// List the mappings of a process or an image, and the states of their pages
    ///
    /// The page states are known without touching a page. RESIDENT (RES in a narrow terminal) is in RAM; it is
    /// DIRTY + SHARED. DIRTY are pages of private mappings with bytes of their own. SHARED are pages of shared
    /// mappings, and pages that are identical to the file behind them. SWAPPED is in swap.
    ///
    /// Of an image RESIDENT is what is saved. Only a core of memfetch tells which pages of a file mapping were
    /// written: of another's they count as SHARED.
    Maps(MapsArgs),
    /// Tell whether an image is whole and unaltered
    ///
    /// A core of memfetch ends with digests of all that was written, so that a change of any byte is found and told
    /// by its place. A core of another program has none: only its length can be checked, and the exit code is 2
    /// because the question could not be answered.
    Verify(VerifyArgs),
}

/// Which mappings a command is about.
#[derive(Debug, Default, ClapArgs)]
pub struct SelectionArgs {
    /// Only these mappings: heap, stack, anon, file, exec, write, shared, a name or glob, 0xADDRESS,
    /// 0xSTART..0xEND, 0xSTART+LENGTH; may be given several times
    #[arg(long, value_name = "SELECTOR", help_heading = "Selection")]
    pub only: Vec<Selector>,
    /// Not these mappings; wins over --only
    #[arg(long, value_name = "SELECTOR", help_heading = "Selection")]
    pub skip: Vec<Selector>,
}

/// `memfetch snap`.
#[derive(Debug, ClapArgs)]
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
  memfetch snap 1234 --json | jq '.outcome.gaps'")]
pub struct SnapArgs {
    /// The process: its number, its name, or `self`
    #[arg(required = true, value_name = "SOURCE")]
    pub sources: Vec<OsString>,
    /// Where the core goes: a file name (with %p pid, %e name, %h host, %t time, %% as in core(5)), a directory,
    /// or - for standard output [default: NAME.PID.core]
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
    /// How long the kernel may take for one answer about a process that is stuck: 500ms, 10s, 2m
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

/// `memfetch maps`.
#[derive(Debug, ClapArgs)]
#[command(after_long_help = "\
Examples:
  memfetch maps 1234
  memfetch maps redis-server --only anon
  memfetch maps self --skip file
  memfetch maps ./redis-server.1234.core
  memfetch maps 1234 --only 0x7ffd1000         the mapping that holds this address
  memfetch maps 1234 --json | jq 'map(.pages.swapped) | add'

Exit codes:
  0  listed
  1  no such mapping, or the image was cut short: what is left of it is listed
  2  error")]
pub struct MapsArgs {
    /// A process (number, name, or `self`) or an ELF core
    #[arg(value_name = "SOURCE", value_hint = ValueHint::FilePath)]
    pub source: OsString,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub selection: SelectionArgs,
    /// A JSON array with exact byte counts
    #[arg(long)]
    pub json: bool,
}

/// `memfetch verify`.
#[derive(Debug, ClapArgs)]
#[command(after_long_help = "\
Examples:
  memfetch verify redis-server.1234.core
  memfetch verify --json *.core | jq -r 'select(.verdict != \"whole\") | .path'

Exit codes:
  0  all are whole
  1  one at least is altered or incomplete
  2  one at least cannot be read, or is not of memfetch")]
pub struct VerifyArgs {
    /// The images
    #[arg(required = true, value_name = "IMAGE", value_hint = ValueHint::FilePath)]
    pub images: Vec<PathBuf>,
    /// One JSON object per image
    #[arg(long)]
    pub json: bool,
    /// Say nothing: the exit code tells
    #[arg(short, long)]
    pub quiet: bool,
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

/// The words of `--touch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TouchWord {
    /// Those in RAM; all others are left alone
    Resident,
    /// Also those in swap, which are paged out again where that is allowed, and those that the file or memory
    /// object behind a mapping has
    Stored,
    /// Also those that reading faults into the process: of files and shared memory that cannot be opened
    All,
}

/// The names of the commands, `help` included.
#[must_use]
pub fn command_names() -> Vec<String> {
    let mut names: Vec<_> = Args::command().get_subcommands().map(|c| c.get_name().to_owned()).collect();
    names.push("help".to_owned());
    names
}

/// Reads the arguments; prints help, version or a usage error and exits where that is asked for.
#[must_use]
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Args {
    let (arguments, shorthand) = spell_out(arguments.into_iter().collect());
    let mut args = Args::parse_from(arguments);
    if let Some(Command::Snap(snap)) = &mut args.command {
        snap.shorthand = shorthand;
    }
    args
}

/// Puts in the `snap` that `memfetch PID` leaves out, as it was in 2002, and tells whether it did.
fn spell_out(mut arguments: Vec<OsString>) -> (Vec<OsString>, bool) {
    let is_own = |first: &OsStr| {
        let Some(first) = first.to_str() else { return false };
        let option = first.split('=').next().unwrap_or(first);
        ["-h", "--help", "-V", "--version", "--completions", "--man"].contains(&option)
            || command_names().iter().any(|name| name == first)
    };
    let shorthand = arguments.get(1).is_some_and(|first| !first.is_empty() && !is_own(first));
    if shorthand {
        arguments.insert(1, "snap".into());
    }
    (arguments, shorthand)
}

/// The version, and what else a report of a fault should say.
fn long_version() -> String {
    let line = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned());
    let mut text = format!("{}\nbuilt for: {}-linux", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    let facts: [(&str, &str); 2] =
        [("kernel", "/proc/sys/kernel/osrelease"), ("ptrace_scope", "/proc/sys/kernel/yama/ptrace_scope")];
    for (name, path) in facts {
        if let Ok(value) = line(path) {
            text.push_str(&format!("\n{name}: {value}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Args {
        let words = words.iter().map(OsString::from).collect();
        let (words, shorthand) = spell_out(words);
        let mut args = Args::try_parse_from(words).unwrap();
        if let Some(Command::Snap(snap)) = &mut args.command {
            snap.shorthand = shorthand;
        }
        args
    }

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_number_or_a_name_alone_is_a_snapshot() {
        for words in
            [&["memfetch", "1234"][..], &["memfetch", "redis-server", "-q"], &["memfetch", "-q", "7"]]
        {
            let Some(Command::Snap(snap)) = parsed(words).command else { panic!("{words:?}") };
            assert!(snap.shorthand);
        }
        assert!(matches!(parsed(&["memfetch", "maps", "7"]).command, Some(Command::Maps(_))));
        assert_eq!(parsed(&["memfetch", "--man=/x"]).man, Some(Some("/x".into())));
        assert_eq!(parsed(&["memfetch", "--man"]).man, Some(None));
    }

    #[test]
    fn selectors_are_read_at_the_door() {
        let words = ["memfetch", "maps", "7", "--only", "0xzz"].map(OsString::from);
        let error = Args::try_parse_from(words).unwrap_err().to_string();
        assert!(error.contains("addresses are hexadecimal"), "{error}");
    }

    #[test]
    fn the_long_help_teaches() {
        for command in Args::command().get_subcommands_mut() {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Examples:") && help.contains(".\n\nUsage:"), "{help}");
        }
    }
}
