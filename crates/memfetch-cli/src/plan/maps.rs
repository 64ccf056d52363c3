//! [`Maps`]: what `memfetch maps` will do.

use std::ffi::OsString;
use std::io::{self, IsTerminal};

use memfetch::Selection;

use super::selection;
use crate::args::MapsArgs;
use crate::text::Paint;

/// What `memfetch maps` will do.
#[derive(Debug)]
pub struct Maps {
    /// The process or the image.
    pub source: OsString,
    /// Which mappings are wanted.
    pub selection: Selection,
    /// How they are shown.
    pub layout: Layout,
}

/// How mappings are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A JSON array.
    Json,
    /// A table.
    Table {
        /// The columns of the terminal; without one nothing is cut.
        width: Option<usize>,
        /// Its colours.
        paint: Paint,
    },
}

impl Maps {
    /// Resolves the arguments.
    #[must_use]
    pub fn new(args: MapsArgs) -> Self {
        let layout = if args.json { Layout::Json } else { Layout::of_stdout() };
        Self { source: args.source, selection: selection(args.selection), layout }
    }
}

impl Layout {
    fn of_stdout() -> Self {
        let stdout = io::stdout();
        let width = stdout.is_terminal().then(|| {
            let size = rustix::termios::tcgetwinsize(&stdout).ok();
            size.map_or(80, |size| usize::from(size.ws_col)).max(40)
        });
        Self::Table { width, paint: Paint::of(&stdout) }
    }
}
