//! What an image says about itself: [`Origin`], known before its first byte, and [`Outcome`], known behind its
//! last one.
//!
//! Both are JSON, so that `strings` and `jq` read them where nothing else is at hand. docs/formats.md describes
//! the fields.

use serde::{Deserialize, Serialize};

use crate::memory::{Gaps, Touch};
use crate::threads::Pid;

/// How the memory was held still while it was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Not at all: pages may be of different instants.
    Live,
    /// All threads stopped for as long as the copy took.
    Freeze,
    /// Copied while it ran, and what changed meanwhile once more in a stop at the end: all pages are of that instant.
    Instant,
}

/// Which regions and pages are saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contents {
    /// In a core what `/proc/PID/coredump_filter` asks for, plus every private file page that was written; region by
    /// region all but what was never written of files that may not be written.
    #[default]
    Default,
    /// Everything that can be read.
    Full,
    /// Registers, stacks, and what unwinding needs.
    Minimal,
}

/// Where an image came from: the note that stands ahead of the data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The version of memfetch that wrote it.
    pub version: String,
    /// The process.
    pub pid: Pid,
    /// When the copy began, in nanoseconds since 1970 UTC.
    pub started_ns: u64,
    /// The name of the host (uname(2), `nodename`).
    pub host: String,
    /// The kernel (uname(2), `release`).
    pub kernel: String,
    /// How the memory was held still.
    pub mode: Mode,
    /// What was saved.
    pub contents: Contents,
    /// Which pages were allowed to be touched.
    pub touch: Touch,
    /// The offset in the file at which the trailer begins. A file that ends there or before is incomplete. 0, and not
    /// written, where there is none: in a region directory, and of raw memory.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub trailer_offset: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference to the field")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// By what it is told which pages a process writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrackerKind {
    /// userfaultfd in asynchronous write-protect mode, since Linux 6.7.
    #[default]
    WriteProtect,
    /// The soft-dirty bits of the page table, which are one set for all who ask.
    SoftDirty,
}

/// How an instant snapshot came about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracked {
    /// By what the writes were told.
    pub tracker: TrackerKind,
    /// The sum of all stops, in nanoseconds.
    pub stopped_ns: u64,
    /// The longest that one request for tracking took, in nanoseconds: the process may have waited for it.
    pub longest_request_ns: u64,
    /// How often what had been written meanwhile was copied again.
    pub rounds: u32,
    /// Bytes that were copied again.
    pub again_bytes: u64,
    /// Bytes that were copied in the last stop.
    pub stop_bytes: u64,
    /// Whether shared memory, and pages of files, were copied in the last stop, too: they can change with no store by
    /// the process.
    pub shared_in_stop: bool,
    /// Bytes of huge pages that were split by the tracking and stay so.
    pub split_bytes: u64,
}

/// What is known only at the end: the first part of the trailer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// When the last byte was copied, in nanoseconds since 1970 UTC.
    pub finished_ns: u64,
    /// The longest time for which a thread was held, in nanoseconds.
    pub pause_ns: u64,
    /// How often all threads were stopped.
    pub stops: u32,
    /// How many threads there were.
    pub threads: u64,
    /// How many of them have only part of their registers.
    pub partial_threads: u64,
    /// How many were woken from a system call by the stop and put back into it.
    pub rewound_calls: u64,
    /// How it was tracked what changes, in mode instant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracked: Option<Tracked>,
    /// Bytes copied from the process.
    pub read_bytes: u64,
    /// Bytes copied from the files behind its mappings.
    pub file_bytes: u64,
    /// Bytes known to be zero because they were never touched, and not read.
    pub absent_bytes: u64,
    /// Bytes that were not wanted (contents, selectors).
    pub unwanted_bytes: u64,
    /// What was wanted and is missing.
    pub gaps: Gaps,
    /// Sentences about what a reader should know, such as why another mode was taken.
    pub remarks: Vec<String>,
}
