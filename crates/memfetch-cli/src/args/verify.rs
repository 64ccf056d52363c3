//! The arguments of `memfetch verify`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

/// `memfetch verify`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  memfetch verify redis-server.1234.core
  memfetch verify --json *.core | jq -r 'select(.verdict != \"whole\") | .path'

Exit codes:
  0  all are whole
  1  one at least is altered or incomplete
  2  one at least cannot be read, or is not of memfetch")]
pub struct VerifyArgs {
    /// The images: cores, region directories
    #[arg(required = true, value_name = "IMAGE", value_hint = ValueHint::FilePath)]
    pub images: Vec<PathBuf>,
    /// One JSON object per image
    #[arg(long)]
    pub json: bool,
    /// Say nothing: the exit code tells
    #[arg(short, long)]
    pub quiet: bool,
}
