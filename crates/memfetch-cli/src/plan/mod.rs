//! Plans: the arguments with everything resolved that can be known before the work begins.

mod diff;
mod find;
mod maps;
mod read;
mod recv;
mod snap;
mod strings;
mod verify;

use memfetch::{Selection, Touch};

use crate::args::{SelectionArgs, TouchWord};

pub use diff::{ChangeView, Diff};
pub use find::{Find, Report, RuleFiles, Wanted};
pub use maps::{Layout, Maps};
pub use read::{Read, View};
pub use recv::Recv;
pub use snap::{Output, Shape, Snap};
pub use strings::{StringLayout, Strings};
pub use verify::Verify;

/// What is told about a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// A paragraph on standard error, and progress meanwhile.
    Summary,
    /// A JSON object.
    Json,
    /// Nothing.
    Nothing,
}

impl Telling {
    /// What the flags `--json` and `--quiet` ask for.
    fn of(json: bool, quiet: bool) -> Self {
        match (json, quiet) {
            (true, _) => Self::Json,
            (false, true) => Self::Nothing,
            (false, false) => Self::Summary,
        }
    }
}

fn selection(args: SelectionArgs) -> Selection {
    Selection { only: args.only, skip: args.skip }
}

/// Which pages may be read.
fn touch(word: TouchWord) -> Touch {
    match word {
        TouchWord::Resident => Touch::Resident,
        TouchWord::Stored => Touch::Stored,
        TouchWord::All => Touch::All,
    }
}
