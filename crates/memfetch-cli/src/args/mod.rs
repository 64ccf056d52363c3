//! The arguments as they are typed: flags and their words, nothing resolved. What they mean is in
//! [`plan`](crate::plan).

mod diff;
mod find;
pub mod gcore;
mod maps;
mod read;
mod recv;
mod snap;
mod strings;
mod verify;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::{Args as ClapArgs, CommandFactory, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use memfetch::Selector;

pub use diff::DiffArgs;
pub use find::FindArgs;
pub use maps::MapsArgs;
pub use read::{OrderWord, ReadArgs};
pub use recv::RecvArgs;
pub use snap::{ContentsWord, Format, ModeWord, SharedWord, SnapArgs, TrackerWord};
pub use strings::{EncodingWord, RadixWord, StringsArgs};
pub use verify::VerifyArgs;

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
  memfetch read 1234 heap           a hexdump of the start of its heap
  memfetch find 1234 session:       where it holds this text
  memfetch strings -n 8 1234        all the text that it holds
  memfetch verify *.core            whole, and unaltered?
  memfetch diff before.core 1234    what changed since

Called by the name `gcore` (a link to it), it takes the arguments of gdb's
script: gcore [-a] [-o PREFIX] PID...

Exit codes:
  0  done
  1  nothing found, or different (verify: altered or incomplete;
     maps: incomplete; diff: different)
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
    /// It is an ELF core that gdb, lldb, elfutils and drgn open, or, with --format, a directory with a file for each
    /// region, or the bytes of the regions alone. It has its final name only when it is whole and on stable storage. Pages that were never touched are holes in it. A page that was wanted and could not be read
    /// is a gap: it is listed in the snapshot and in the summary, and makes the exit code 3.
    Snap(SnapArgs),
    /// Find text, bytes, values or pointers in memory
    ///
    /// Each place is found once, also where it lies across mappings, in swap, or partly in memory that was never touched.
    /// What could not be searched is told on standard error, with the cause.
    Find(FindArgs),
    /// List the mappings of a process or an image, and the states of their pages
    ///
    /// The page states are known without touching a page. RESIDENT (RES in a narrow terminal) is in RAM; it is
    /// DIRTY + SHARED. DIRTY are pages of private mappings with bytes of their own. SHARED are pages of shared
    /// mappings, and pages that are identical to the file behind them. SWAPPED is in swap.
    ///
    /// Of an image RESIDENT is what is saved. Only a core of memfetch tells which pages of a file mapping were
    /// written: of another's they count as SHARED.
    Maps(MapsArgs),
    /// Receive an image that a peer sends over TCP
    ///
    /// It is the other end of `memfetch snap -o tcp://HOST:PORT`, and takes the bytes of any program. The file has its name
    /// only when it is whole, verified by the digests that a core of memfetch ends with, and on stable storage; only
    /// then is the connection closed in good order, so that the sender knows too. Long runs of zeros become holes.
    Recv(RecvArgs),
    /// Show memory as a hexdump, as values, or as it is
    ///
    /// What could not be read is shown as --, never as a zero. Memory that was never touched is not read: it is zero.
    /// Lines that repeat the one above are a single *, as with hexdump and xxd.
    Read(ReadArgs),
    /// Print the text in the memory of a process or an image
    ///
    /// A line for each string: its address, its encoding where that is not ASCII (u UTF-8, S ISO 8859-1, l and b
    /// UTF-16), and the text, in which characters that would move the cursor are escaped. A string is found whole also
    /// where it crosses from one mapping into the next; what was not read ends it. Longer ones than 64 KiB take
    /// several lines.
    ///
    /// Looked for is UTF-8, which has ASCII in it, and UTF-16 as Windows, Java and JavaScript have it (-e says
    /// otherwise). Pages that were never touched are not read; at the end it is told what was read and what was not.
    Strings(StringsArgs),
    /// Tell what differs between two sources
    ///
    /// Mappings that came, went, grew, shrank or changed their permissions come first, then the bytes that changed:
    /// the lines of a hexdump from A with -, and from B with +. Of each mapping the first changes are shown.
    ///
    /// Memory that was never touched is equal without being read. What one side cannot give is neither equal nor
    /// different: it is counted, with its cause. What an image was not made to have is counted apart.
    ///
    /// Of one process at two times the bytes at equal addresses are compared. Two runs of a program have their parts
    /// at different addresses: then mappings are brought together by what they are of and how they lie, and the
    /// addresses of both sides are shown.
    Diff(DiffArgs),
    /// Tell whether an image is whole and unaltered
    ///
    /// A core of memfetch ends with digests of all that was written, and the index of a region directory holds them, so
    /// that a change of any byte is found and told by its place. A core of another program has none: only its length can be checked, and the exit code is 2
    /// because the question could not be answered.
    Verify(VerifyArgs),
}

/// Which mappings a command is about.
#[derive(Debug, Default, ClapArgs)]
pub struct SelectionArgs {
    /// Only these mappings: heap, stack, anon, file, exec, write, shared, a name or glob, 0xADDRESS,
    /// 0xSTART..0xEND, 0xSTART..+LENGTH; may be given several times
    #[arg(long, value_name = "SELECTOR", help_heading = "Selection")]
    pub only: Vec<Selector>,
    /// Not these mappings; wins over --only
    #[arg(long, value_name = "SELECTOR", help_heading = "Selection")]
    pub skip: Vec<Selector>,
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

    /// Its columns are set by hand: a line that the terminal breaks spoils them.
    #[test]
    fn examples_and_exit_codes_fit_into_80_columns() {
        let command = Args::command();
        for command in command.get_subcommands().chain([&command]) {
            let help = command.get_after_long_help().unwrap().to_string();
            for line in help.lines() {
                assert!(line.chars().count() <= 80, "{}: {line}", command.get_name());
            }
        }
    }
}
