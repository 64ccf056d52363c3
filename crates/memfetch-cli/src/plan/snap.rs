//! [`Snap`]: what `memfetch snap` will do.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::Duration;

use memfetch::{
    Address, Endpoint, Selection, Selector, Sharing, Touch, TrackerChoice, image::record::Contents,
};

use super::{Telling, selection, touch};
use crate::args::{self, ContentsWord, Format, ModeWord, SharedWord, SnapArgs, TrackerWord};
use crate::failure::Failure;
use crate::hints::is_slip;
use crate::template::Template;

/// What `memfetch snap` will do.
#[derive(Debug)]
pub struct Snap {
    /// The processes.
    pub sources: Vec<OsString>,
    /// What is written.
    pub shape: Shape,
    /// Where the cores go.
    pub output: Output,
    /// Where the index of raw memory goes.
    pub index: Option<Template>,
    /// Whether the index goes to standard output as well.
    pub shows_index: bool,
    /// Whether a file that is there is overwritten.
    pub overwrite: bool,
    /// How the process is held still.
    pub mode: ModeWord,
    /// How long the process may be held.
    pub max_pause: Option<Duration>,
    /// How shared memory is taken.
    pub sharing: Sharing,
    /// By what writes are told.
    pub tracker: TrackerChoice,
    /// What is saved.
    pub contents: Contents,
    /// Which pages may be read.
    pub touch: Touch,
    /// Which mappings are wanted.
    pub selection: Selection,
    /// The address whose mapping alone is wanted.
    pub address: Option<Address>,
    /// Whether to wait for a fault signal.
    pub at_fault: bool,
    /// The largest apparent size of a file.
    pub max_apparent_size: Option<u64>,
    /// How long one answer of the kernel may take.
    pub time_limit: Option<Duration>,
    /// What is told.
    pub telling: Telling,
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// An ELF core.
    Core,
    /// A region directory.
    Directory {
        /// That of 2002.
        classic: bool,
    },
    /// Raw memory.
    Raw,
}

impl Shape {
    /// What `--format` and `--classic` ask for.
    fn of(format: Option<Format>, classic: bool) -> Result<Self, Failure> {
        match (format, classic) {
            (Some(Format::Core | Format::Raw), true) => Err(Failure::usage(
                "only a directory is as in 2002",
                "`--classic` is `--format dir` with the names of 2002",
            )),
            (Some(Format::Raw), false) => Ok(Self::Raw),
            (None | Some(Format::Core), false) => Ok(Self::Core),
            (None | Some(Format::Dir), classic) => Ok(Self::Directory { classic }),
        }
    }

    /// What a standard name ends in.
    const fn extension(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Directory { .. } => "regions",
            Self::Raw => "raw",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Directory { .. } => "directory",
            Self::Raw => "raw memory",
        }
    }
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
        let shape = Shape::of(args.format, args.classic)?;
        let several = args.sources.len() > 1;
        let to_stdout = args.index.as_deref().is_some_and(|path| path.as_os_str() == "-");
        let shows_index = args.show_index || to_stdout;
        let output = output(shape, args.output.as_deref(), several, io::stdout().is_terminal())?;
        check_index(shape, args.index.is_some(), shows_index, &output)?;
        let other = match args.mode {
            ModeWord::Live => Some(("`--mode live` holds nothing", "`--mode live`")),
            ModeWord::Instant => Some(("`--mode instant` lets it run on", "`--mode instant`")),
            ModeWord::Auto | ModeWord::Freeze => None,
        };
        if let Some((what, mode)) = other.filter(|_| args.at_fault) {
            return Err(Failure::usage(
                format!("a process that waits with a fault is held, and {what}"),
                format!("leave one of `-s` and {mode} out"),
            ));
        }
        if args.max_pause.is_some()
            && (args.at_fault || matches!(args.mode, ModeWord::Live | ModeWord::Freeze))
        {
            return Err(Failure::usage(
                "`--max-pause` is for `--mode auto` and `--mode instant`",
                "leave it out, or `-s` and the other modes",
            ));
        }
        if args.at_fault
            && args
                .output
                .as_ref()
                .is_some_and(|output| output.as_os_str().as_encoded_bytes().starts_with(b"tcp://"))
        {
            return Err(Failure::usage(
                "nobody knows how long a fault takes to come, and a peer does not wait so long",
                "write a file, and send it when it is there",
            ));
        }
        if args.at_fault && several {
            return Err(Failure::usage("one process can be waited for at a time", "a call for each"));
        }
        let mut selection = selection(args.selection);
        selection.only.extend(args.address.map(Selector::At));
        if args.anonymous {
            selection.skip.push(Selector::FileBacked);
        }
        Ok(Self {
            shape,
            output,
            index: match args.index.filter(|_| !to_stdout) {
                Some(path) => Some(named(&path, several)?),
                None => None,
            },
            shows_index,
            address: args.address,
            at_fault: args.at_fault,
            sources: args.sources,
            overwrite: args.force,
            mode: args.mode,
            max_pause: args.max_pause,
            sharing: match args.shared {
                SharedWord::Auto => Sharing::Auto,
                SharedWord::Stop => Sharing::Stop,
                SharedWord::Tracked => Sharing::Tracked,
            },
            tracker: match args.tracker {
                TrackerWord::Auto => TrackerChoice::Auto,
                TrackerWord::WriteProtect => TrackerChoice::WriteProtect,
                TrackerWord::SoftDirty => TrackerChoice::SoftDirty,
            },
            contents: match args.contents {
                ContentsWord::Default => Contents::Default,
                ContentsWord::Full => Contents::Full,
                ContentsWord::Minimal => Contents::Minimal,
            },
            touch: touch(args.touch),
            selection,
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
fn output(
    shape: Shape,
    given: Option<&Path>,
    several: bool,
    stdout_is_terminal: bool,
) -> Result<Output, Failure> {
    let standard_in = |directory| Output::Files(Template::standard_in(directory, shape.extension()));
    let Some(given) = given else { return Ok(standard_in(Path::new(""))) };
    let text = given.as_os_str();
    let is_directory = matches!(shape, Shape::Directory { .. });
    let peer = text.to_str().and_then(|text| text.strip_prefix("tcp://"));
    if is_directory && (text == "-" || peer.is_some()) {
        return Err(Failure::usage(
            "a directory does not fit into a stream",
            "`--format raw` or a core does; `-w` writes the index to standard output",
        ));
    }
    if text == "-" {
        if stdout_is_terminal {
            return Err(Failure::usage(
                format!("a {} is not written to a terminal", shape.name()),
                "send it through a pipe (`-o - | zstd > core.zst`), or give a file name",
            ));
        }
        one_stream(several)?;
        return Ok(Output::Stdout);
    }
    if let Some(peer) = peer {
        one_stream(several)?;
        let endpoint = peer.strip_suffix('/').unwrap_or(peer).parse().map_err(|error| {
            Failure::usage(
                format!("`{}` names no peer: {error}", given.display()),
                "tcp://box:9000, tcp://192.0.2.1:9000 or tcp://[2001:db8::1]:9000",
            )
        })?;
        return Ok(Output::Tcp(endpoint));
    }
    // A directory is what is to be made, unless it ends in a slash.
    if text.as_encoded_bytes().ends_with(b"/") || (!is_directory && given.is_dir()) {
        return Ok(standard_in(given));
    }
    named(given, several).map(Output::Files)
}

/// A name with the words of core(5) in it.
fn named(given: &Path, several: bool) -> Result<Template, Failure> {
    let template = Template::parse(given.as_os_str()).map_err(|word| {
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
    Ok(template)
}

/// Whether there is an index to write, and standard output to take it.
fn check_index(shape: Shape, is_given: bool, is_shown: bool, output: &Output) -> Result<(), Failure> {
    match shape {
        Shape::Core if is_given || is_shown => Err(Failure::usage(
            "a core has no index",
            "`--format dir` and `--classic` have one, `--format raw` writes one by `--index`; \
             `memfetch maps` lists the mappings of a core",
        )),
        Shape::Directory { .. } if is_given => {
            Err(Failure::usage("a directory has its index in it", "`-w` writes it to standard output, too"))
        }
        Shape::Raw if is_shown && *output == Output::Stdout => {
            Err(Failure::usage("standard output is for the memory", "`--index` with a file name"))
        }
        _ => Ok(()),
    }
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
        output(Shape::Core, Some(Path::new(given)), several, terminal).unwrap_err().to_string()
    }

    #[test]
    fn a_core_never_goes_to_a_terminal() {
        assert!(refused("-", false, true).contains("terminal"));
        assert_eq!(output(Shape::Core, Some(Path::new("-")), false, false).unwrap(), Output::Stdout);
    }

    #[test]
    fn several_processes_need_several_names() {
        assert!(refused("-", true, false).contains("one stream"));
        assert!(refused("x.core", true, false).contains("one file"));
        assert!(output(Shape::Core, Some(Path::new("x.%p")), true, false).is_ok());
        assert!(output(Shape::Core, None, true, false).is_ok());
    }

    #[test]
    fn a_peer_is_a_host_and_a_port() {
        for peer in ["tcp://box:9000", "tcp://[::1]:9000", "tcp://box:9000/"] {
            assert!(
                matches!(output(Shape::Core, Some(Path::new(peer)), false, true), Ok(Output::Tcp(_))),
                "{peer}"
            );
        }
        assert!(refused("tcp://box", false, false).contains("the port is missing"));
        assert!(refused("tcp://box:9/x", false, false).contains("a port is a number"));
        assert!(refused("tcp://box:9000", true, false).contains("one stream"));
    }

    #[test]
    fn a_directory_takes_the_standard_name() {
        for directory in ["/tmp", "/nowhere/at/all/"] {
            let files = Output::Files(Template::standard_in(Path::new(directory), "core"));
            assert_eq!(output(Shape::Core, Some(Path::new(directory)), false, false).unwrap(), files);
        }
        assert!(refused("x%q", false, false).contains("%q"));
    }

    fn planned(words: &str) -> Result<Snap, Failure> {
        let words = ["memfetch"].into_iter().chain(words.split(' ')).map(OsString::from);
        let Some(args::Command::Snap(args)) = args::parse(words).command else { panic!() };
        Snap::new(args)
    }

    #[test]
    fn the_flags_of_2002_go_with_the_number_alone() {
        let plan = planned("-s -a -m -S 7ffd1000 1234").unwrap();
        assert!(plan.at_fault && plan.shape == Shape::Core);
        assert_eq!(plan.selection.only, [Selector::At(Address::new(0x7ffd_1000))]);
        assert_eq!(plan.selection.skip, [Selector::FileBacked]);
        let plan = planned("-wa --classic 1234").unwrap();
        assert!(plan.shows_index && plan.shape == Shape::Directory { classic: true });
        for (words, told) in [
            ("-w 1234", "a core has no index"),
            ("-s --mode live 1234", "live"),
            ("--classic --format raw 1234", "2002"),
            ("--format dir -o - 1234", "stream"),
            ("--format dir --index x 1234", "in it"),
            ("--format raw -w -o - 1234", "for the memory"),
            ("--format raw --index x 12 34", "several processes"),
        ] {
            let text = planned(words).unwrap_err().to_string();
            assert!(text.contains(told), "{words}: {text}");
        }
    }

    #[test]
    fn a_directory_is_what_is_made_and_not_what_takes_it() {
        let shape = Shape::Directory { classic: false };
        let made = |given| output(shape, Some(Path::new(given)), false, true).unwrap();
        let inside = Output::Files(Template::standard_in(Path::new("/tmp/"), "regions"));
        assert_eq!(made("/tmp"), Output::Files(Template::parse(OsStr::new("/tmp")).unwrap()));
        assert_eq!(made("/tmp/"), inside);
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
