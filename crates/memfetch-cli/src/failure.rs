//! [`Failure`]: what keeps a command from being done.

use std::io;
use std::path::PathBuf;

use memfetch::error::OutputError;

/// What keeps a command from being done.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The library's own.
    #[error(transparent)]
    Memory(#[from] memfetch::Error),
    /// The library's own, where it was to receive something.
    #[error(transparent)]
    Receiving(memfetch::Error),
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
