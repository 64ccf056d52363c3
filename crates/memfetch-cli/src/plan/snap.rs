//! [`Snap`]: what `memfetch snap` will do.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::Duration;

use memfetch::{Endpoint, Selection, Touch, image::record::Contents};

use super::{Telling, selection, touch};
use crate::args::{self, ContentsWord, Format, ModeWord, SnapArgs};
use crate::failure::Failure;
use crate::hints::is_slip;
use crate::template::Template;

/// What `memfetch snap` will do.
#[derive(Debug)]
pub struct Snap {
    /// The processes.
    pub sources: Vec<OsString>,
    /// Where the cores go.
    pub output: Output,
    /// Whether a file that is there is overwritten.
    pub overwrite: bool,
    /// How the process is held still.
    pub mode: ModeWord,
    /// What is saved.
    pub contents: Contents,
    /// Which pages may be read.
    pub touch: Touch,
    /// Which mappings are wanted.
    pub selection: Selection,
    /// The largest apparent size of a file.
    pub max_apparent_size: Option<u64>,
    /// How long one answer of the kernel may take.
    pub time_limit: Option<Duration>,
    /// What is told.
    pub telling: Telling,
}

/// Where the cores of a call go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// To standard output, one core only.
    Stdout,
    /// Each to a file.
    Files(Template),
    /// To a peer, one core only.
    Tcp(Endpoint),
}

impl Snap {
    /// Resolves the arguments.
    pub fn new(args: SnapArgs) -> Result<Self, Failure> {
        // One of several words that is no number may be a command with a slip in it: `memfetch mapz 1234` must not
        // take a snapshot of 1234.
        if args.shorthand
            && args.sources.len() > 1
            && let Some(word) = args.sources.iter().find(|word| !is_number(word))
        {
            let word = word.to_string_lossy();
            let command = args::command_names().into_iter().find(|command| is_slip(&word, command));
            return Err(Failure::usage(
                format!("`{word}` is no command and no process number"),
                match command {
                    Some(command) => format!("there is a command `{command}`"),
                    None => "several processes by their names: `memfetch snap NAME...`".to_owned(),
                },
            ));
        }
        let Format::Core = args.format;
        let several = args.sources.len() > 1;
        Ok(Self {
            output: output(args.output.as_deref(), several, io::stdout().is_terminal())?,
            sources: args.sources,
            overwrite: args.force,
            mode: args.mode,
            contents: match args.contents {
                ContentsWord::Default => Contents::Default,
                ContentsWord::Full => Contents::Full,
                ContentsWord::Minimal => Contents::Minimal,
            },
            touch: touch(args.touch),
            selection: selection(args.selection),
            max_apparent_size: args.max_apparent_size,
            time_limit: args.time_limit,
            telling: Telling::of(args.json, args.quiet),
        })
    }
}

fn is_number(word: &OsStr) -> bool {
    word.to_str().is_some_and(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Where `-o` says that the cores go.
fn output(given: Option<&Path>, several: bool, stdout_is_terminal: bool) -> Result<Output, Failure> {
    let Some(given) = given else { return Ok(Output::Files(Template::standard_in(Path::new("")))) };
    let text = given.as_os_str();
    if text == "-" {
        if stdout_is_terminal {
            return Err(Failure::usage(
                "a core is not written to a terminal",
                "send it through a pipe (`-o - | zstd > core.zst`), or give a file name",
            ));
        }
        one_stream(several)?;
        return Ok(Output::Stdout);
    }
    if let Some(peer) = text.to_str().and_then(|text| text.strip_prefix("tcp://")) {
        one_stream(several)?;
        let endpoint = peer.strip_suffix('/').unwrap_or(peer).parse().map_err(|error| {
            Failure::usage(
                format!("`{}` names no peer: {error}", given.display()),
                "tcp://box:9000, tcp://192.0.2.1:9000 or tcp://[2001:db8::1]:9000",
            )
        })?;
        return Ok(Output::Tcp(endpoint));
    }
    if text.as_encoded_bytes().ends_with(b"/") || given.is_dir() {
        return Ok(Output::Files(Template::standard_in(given)));
    }
    let template = Template::parse(text).map_err(|word| {
        Failure::usage(
            format!("`{word}` in `{}` is no word of a file name", given.display()),
            "%p is the process number, %e its name, %h the host, %t the time, %% a percent sign",
        )
    })?;
    if several && !template.tells_processes_apart() {
        return Err(Failure::usage(
            format!("`{}` is the name of one file, and several processes were given", given.display()),
            "put %p into the name, or name a directory",
        ));
    }
    Ok(Output::Files(template))
}

fn one_stream(several: bool) -> Result<(), Failure> {
    if several {
        return Err(Failure::usage(
            "several cores do not fit into one stream",
            "a call for each, or `-o` with a directory",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(given: &str, several: bool, terminal: bool) -> String {
        output(Some(Path::new(given)), several, terminal).unwrap_err().to_string()
    }

    #[test]
    fn a_core_never_goes_to_a_terminal() {
        assert!(refused("-", false, true).contains("terminal"));
        assert_eq!(output(Some(Path::new("-")), false, false).unwrap(), Output::Stdout);
    }

    #[test]
    fn several_processes_need_several_names() {
        assert!(refused("-", true, false).contains("one stream"));
        assert!(refused("x.core", true, false).contains("one file"));
        assert!(output(Some(Path::new("x.%p")), true, false).is_ok());
        assert!(output(None, true, false).is_ok());
    }

    #[test]
    fn a_peer_is_a_host_and_a_port() {
        for peer in ["tcp://box:9000", "tcp://[::1]:9000", "tcp://box:9000/"] {
            assert!(matches!(output(Some(Path::new(peer)), false, true), Ok(Output::Tcp(_))), "{peer}");
        }
        assert!(refused("tcp://box", false, false).contains("the port is missing"));
        assert!(refused("tcp://box:9/x", false, false).contains("a port is a number"));
        assert!(refused("tcp://box:9000", true, false).contains("one stream"));
    }

    #[test]
    fn a_directory_takes_the_standard_name() {
        for directory in ["/tmp", "/nowhere/at/all/"] {
            let files = Output::Files(Template::standard_in(Path::new(directory)));
            assert_eq!(output(Some(Path::new(directory)), false, false).unwrap(), files);
        }
        assert!(refused("x%q", false, false).contains("%q"));
    }

    #[test]
    fn a_misspelt_command_takes_no_snapshot() {
        let words = ["memfetch", "mapz", "1234"].map(OsString::from);
        let Some(args::Command::Snap(args)) = args::parse(words).command else { panic!() };
        let failure = Snap::new(args).unwrap_err();
        assert!(matches!(&failure, Failure::Usage { hint, .. } if hint.contains("`maps`")), "{failure}");
        let words = ["memfetch", "12", "34"].map(OsString::from);
        let Some(args::Command::Snap(args)) = args::parse(words).command else { panic!() };
        assert!(Snap::new(args).is_ok());
    }
}
