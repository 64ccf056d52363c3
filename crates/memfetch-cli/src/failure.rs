//! [`Failure`]: what keeps a command from being done.

use std::io;
use std::path::PathBuf;

use memfetch::Fault;
use memfetch::error::OutputError;
use memfetch::query::atlas::NameError;
use memfetch::query::place::PlaceError;

use crate::rule_files::RuleFailure;

/// What keeps a command from being done.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The library's own.
    #[error(transparent)]
    Memory(#[from] memfetch::Error),
    /// The library's own, where it was to receive something.
    #[error(transparent)]
    Receiving(memfetch::Error),
    /// A place that was named is not there.
    #[error(transparent)]
    Place(PlaceError),
    /// Nothing of what was asked for could be read, or no more of it.
    #[error(transparent)]
    Unread(Fault),
    /// Rules cannot be used.
    #[error(transparent)]
    Rules(#[from] RuleFailure),
    /// The arguments make no sense together, or not here.
    #[error("{what}")]
    Usage {
        /// What makes no sense.
        what: String,
        /// What would.
        hint: String,
    },
    /// Standard output cannot be written.
    #[error("cannot write to standard output")]
    Stdout(#[from] io::Error),
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl From<PlaceError> for Failure {
    fn from(error: PlaceError) -> Self {
        match error {
            PlaceError::Name(NameError::Source(error)) => Self::Memory(error),
            error => Self::Place(error),
        }
    }
}

impl Failure {
    /// A usage error.
    pub fn usage(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { what: what.into(), hint: hint.into() }
    }

    /// Whether the reader of standard output went away, having what it wanted.
    #[must_use]
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Stdout(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Whether the reader of a snapshot went away, so that nobody has it whole.
    #[must_use]
    pub const fn is_unread_snapshot(&self) -> bool {
        matches!(self, Self::Memory(memfetch::Error::Output { source: OutputError::Closed, .. }))
    }
}
