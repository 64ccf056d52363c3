//! [`Recv`]: what `memfetch recv` will do.

use std::path::PathBuf;
use std::time::Duration;

use memfetch::Endpoint;

use super::Telling;
use crate::args::RecvArgs;

/// What `memfetch recv` will do.
#[derive(Debug)]
pub struct Recv {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// The file.
    pub output: PathBuf,
    /// Whether a file that is there is overwritten.
    pub overwrite: bool,
    /// Whether what has no digests is taken as well.
    pub unverified: bool,
    /// How long to wait for the peer, and for each next byte.
    pub time_limit: Duration,
    /// How many bytes are taken at the most.
    pub max_size: u64,
    /// What is told.
    pub telling: Telling,
}

impl Recv {
    /// Resolves the arguments.
    #[must_use]
    pub fn new(args: RecvArgs) -> Self {
        Self {
            endpoint: args.endpoint,
            output: args.output,
            overwrite: args.force,
            unverified: args.unverified,
            time_limit: args.time_limit,
            max_size: args.max_size,
            telling: Telling::of(args.json, args.quiet),
        }
    }
}
