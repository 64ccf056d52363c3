//! [`Diff`]: what `memfetch diff` will do.

use std::ffi::OsString;

use memfetch::query::diff::Alignment;
use memfetch::query::values::Type;
use memfetch::{Selection, Touch};

use super::{selection, touch};
use crate::args::DiffArgs;
use crate::failure::Failure;
use crate::text::Paint;

/// What `memfetch diff` will do.
#[derive(Debug)]
pub struct Diff {
    /// How it was.
    pub before: OsString,
    /// How it is.
    pub after: OsString,
    /// How mappings are brought together.
    pub alignment: Alignment,
    /// Whether words that point to corresponding places are equal.
    pub ignore_moved_pointers: bool,
    /// Which mappings are wanted.
    pub selection: Selection,
    /// Which pages may be read.
    pub touch: Touch,
    /// What is told of the changes.
    pub view: ChangeView,
}

/// What is told of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeView {
    /// Nothing: the exit code tells.
    Nothing,
    /// JSON lines, with values where there is a type.
    Json(Option<Type>),
    /// A line for each mapping.
    Summary {
        /// Its colours.
        paint: Paint,
    },
    /// Lines of a dump.
    Dump {
        /// So many ranges of a mapping, and lines of a range; without a number all.
        limit: Option<u64>,
        /// Their colours.
        paint: Paint,
    },
    /// Values.
    Values {
        /// Their type.
        kind: Type,
        /// So many of a mapping; without a number all.
        limit: Option<u64>,
        /// Their colours.
        paint: Paint,
    },
}

impl Diff {
    /// Resolves the arguments.
    ///
    /// # Errors
    ///
    /// Values are to be texts, which have no places that could be compared.
    pub fn new(args: DiffArgs) -> Result<Self, Failure> {
        if let Some(kind) = args.kind.filter(|kind| kind.is_text()) {
            return Err(Failure::usage(
                format!("values that are compared are numbers, and `{}` is a text", kind.name()),
                "without --type lines of a dump are shown, which have the text beside the bytes",
            ));
        }
        let paint = Paint::of(&std::io::stdout());
        let limit = (!args.all).then_some(args.limit);
        Ok(Self {
            before: args.before,
            after: args.after,
            alignment: match (args.by_address, args.by_region) {
                (true, _) => Alignment::ByAddress,
                (_, true) => Alignment::ByRegion,
                _ => Alignment::Auto,
            },
            ignore_moved_pointers: args.ignore_moved_pointers,
            selection: selection(args.selection),
            touch: touch(args.touch),
            view: match args.kind {
                _ if args.quiet => ChangeView::Nothing,
                kind if args.json => ChangeView::Json(kind),
                _ if args.summary => ChangeView::Summary { paint },
                Some(kind) => ChangeView::Values { kind, limit, paint },
                None => ChangeView::Dump { limit, paint },
            },
        })
    }
}
