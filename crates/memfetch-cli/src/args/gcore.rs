//! The arguments where memfetch is called by the name `gcore`: those of gdb's script, read as getopts(1) reads them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// What gdb's script says where it is called otherwise.
pub const USAGE: &str = "usage:  gcore [-a] [-o prefix] pid1 [pid2...pidN]";

/// `gcore [-a] [-o PREFIX] PID...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GcoreArgs {
    /// Whether everything is saved, and not what coredump_filter asks for.
    pub all: bool,
    /// What the names of the cores begin with.
    pub prefix: OsString,
    /// The processes, as they were typed.
    pub pids: Vec<OsString>,
}

/// Whether the program was called by this name.
#[must_use]
pub fn is_called(name: &OsStr) -> bool {
    Path::new(name).file_name().is_some_and(|name| name == "gcore")
}

/// Reads what stands behind the name; `None` is a usage error.
#[must_use]
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Option<GcoreArgs> {
    let mut args = GcoreArgs { all: false, prefix: "core".into(), pids: Vec::new() };
    let mut words = arguments.into_iter().peekable();
    // Options end at the first word that is none.
    while let Some(word) = words.next_if(|word| word.len() > 1 && word.as_bytes().starts_with(b"-")) {
        if word == "--" {
            break;
        }
        let mut letters = word.as_bytes().iter().skip(1).copied();
        while let Some(letter) = letters.next() {
            match letter {
                b'a' => args.all = true,
                b'o' => {
                    let rest: Vec<u8> = letters.by_ref().collect();
                    args.prefix = if rest.is_empty() { words.next()? } else { OsString::from_vec(rest) };
                }
                _ => return None,
            }
        }
    }
    args.pids.extend(words);
    (!args.pids.is_empty()).then_some(args)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &str) -> Option<(bool, String, Vec<String>)> {
        let args = parse(words.split(' ').filter(|word| !word.is_empty()).map(OsString::from))?;
        let text = |word: OsString| word.into_string().unwrap();
        Some((args.all, text(args.prefix), args.pids.into_iter().map(text).collect()))
    }

    #[test]
    fn words_are_read_as_the_script_reads_them() {
        let told = |all, prefix: &str, pids: &[&str]| {
            Some((all, prefix.to_owned(), pids.iter().map(|&pid| pid.to_owned()).collect()))
        };
        assert_eq!(parsed("12"), told(false, "core", &["12"]));
        assert_eq!(parsed("-a -o x/y 12 13"), told(true, "x/y", &["12", "13"]));
        assert_eq!(parsed("-aox 12"), told(true, "x", &["12"]));
        assert_eq!(parsed("-- 12"), told(false, "core", &["12"]));
        // What follows a process is a process, as the script has it.
        assert_eq!(parsed("12 -a"), told(false, "core", &["12", "-a"]));
        for usage in ["", "-a", "-o", "-o x", "-x 12", "--help", "--version"] {
            assert_eq!(parsed(usage), None, "{usage}");
        }
    }

    #[test]
    fn the_last_part_of_the_name_counts() {
        for name in ["gcore", "/usr/local/bin/gcore", "./gcore"] {
            assert!(is_called(OsStr::new(name)));
        }
        for name in ["memfetch", "/opt/gcore/memfetch", "gcore.old", ""] {
            assert!(!is_called(OsStr::new(name)));
        }
    }
}
