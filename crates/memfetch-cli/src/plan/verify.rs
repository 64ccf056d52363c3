//! [`Verify`]: what `memfetch verify` will do.

use std::path::PathBuf;

use super::Telling;
use crate::args::VerifyArgs;

/// What `memfetch verify` will do.
#[derive(Debug)]
pub struct Verify {
    /// The images.
    pub images: Vec<PathBuf>,
    /// What is told.
    pub telling: Telling,
}

impl Verify {
    /// Resolves the arguments.
    #[must_use]
    pub fn new(args: VerifyArgs) -> Self {
        Self { images: args.images, telling: Telling::of(args.json, args.quiet) }
    }
}
