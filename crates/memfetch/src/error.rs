//! [`Error`]: what can go wrong with a source or an image as a whole.
//!
//! A byte that cannot be read is no such error: it is a [`Fault`](crate::memory::Fault) or a
//! [`Gap`](crate::memory::Gap). Each level says its own part only: the cause is in `source()`, never in the text.

mod injection;

pub use self::injection::InjectionError;

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::threads::Pid;

/// What can go wrong with a source or an image as a whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No process has this number or name.
    #[error("no process `{0}`")]
    NoSuchProcess(String),
    /// Several processes have this name.
    #[error("`{name}` is the name of {} processes", candidates.len())]
    Ambiguous {
        /// The name that was asked for.
        name: String,
        /// All that have it.
        candidates: Vec<Candidate>,
    },
    /// The process ended.
    #[error("process {pid} has ended")]
    Ended {
        /// Its number.
        pid: Pid,
    },
    /// The process called exec: the address space that was opened is gone.
    #[error("process {pid} became another program (exec)")]
    Replaced {
        /// Its number.
        pid: Pid,
    },
    /// The process has no memory of its own: a kernel thread or a zombie.
    #[error("process {pid} has no memory: it is {kind}")]
    NoMemory {
        /// Its number.
        pid: Pid,
        /// `a kernel thread` or `a zombie`.
        kind: &'static str,
    },
    /// The kernel refuses.
    #[error("no permission to {action} of process {pid}")]
    Refused {
        /// Its number.
        pid: Pid,
        /// What was tried, such as `read the memory`.
        action: &'static str,
        /// Which gate refuses, as far as it can be told.
        reason: Refusal,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// The kernel did not answer in time.
    #[error("process {pid} is stuck: the kernel did not {action} within {limit:?}")]
    TimedOut {
        /// Its number.
        pid: Pid,
        /// What was tried.
        action: &'static str,
        /// How long was waited.
        limit: Duration,
    },
    /// The process cannot be stopped.
    #[error("cannot stop process {pid}")]
    CannotStop {
        /// Its number.
        pid: Pid,
        /// Why.
        #[source]
        source: StopError,
    },
    /// A consistent copy with a short pause cannot be had of the process.
    #[error("cannot take an instant snapshot of process {pid}")]
    NoInstant {
        /// Its number.
        pid: Pid,
        /// Why.
        #[source]
        source: InstantError,
    },
    /// The process ended while a fault signal was waited for.
    #[error("process {pid} has ended, and no fault signal came before that")]
    NoFault {
        /// Its number.
        pid: Pid,
    },
    /// A system call failed.
    #[error("cannot {action}")]
    Os {
        /// What was tried, with its object, such as `read /proc/17/maps`.
        action: String,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is no image that can be read", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: FormatError,
    },
    /// An output cannot be written.
    #[error("cannot write {}", path.display())]
    Output {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: OutputError,
    },
    /// A peer cannot be reached.
    #[error("cannot connect to {endpoint}")]
    Connect {
        /// The host and port that were asked for.
        endpoint: String,
        /// Why.
        #[source]
        source: EndpointError,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {endpoint}")]
    Listen {
        /// The host and port that were asked for.
        endpoint: String,
        /// Why.
        #[source]
        source: EndpointError,
    },
    /// What a peer sent did not become a file.
    #[error("nothing was received into {}", path.display())]
    Receive {
        /// The file that it should have become.
        path: PathBuf,
        /// Why.
        #[source]
        source: ReceiveError,
    },
}

/// A process that a name may have meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its number.
    pub pid: Pid,
    /// Its user.
    pub uid: u32,
    /// Its command line, arguments joined by spaces.
    pub command: String,
}

/// Which gate keeps a process' memory shut (ptrace(2), "Ptrace access mode checking").
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// It belongs to another user.
    OtherUser {
        /// Whose it is.
        uid: u32,
    },
    /// It is not dumpable: it changed its user, or runs a file that its user may not read, or asked for it.
    NotDumpable,
    /// Yama's `ptrace_scope` allows it to fewer than asked.
    Yama {
        /// The scope, 1 to 3.
        scope: u8,
    },
    /// It lives in a user namespace where this process has no capability.
    UserNamespace,
    /// It has capabilities that this process lacks.
    MoreCapabilities,
    /// Another tracer holds it.
    Traced {
        /// The tracer.
        by: Pid,
        /// The tracer's name.
        name: String,
    },
    /// `/proc` hides processes of others (`hidepid`).
    Hidden,
    /// None of these: a security module, seccomp, lockdown.
    Other,
}

/// Why a process cannot be stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StopError {
    /// Another tracer holds it.
    #[error("it is traced by process {by} ({name})")]
    Traced {
        /// The tracer.
        by: Pid,
        /// The tracer's name.
        name: String,
    },
    /// It is the caller itself, or shares its memory with it.
    #[error("it is the process that asks")]
    Itself,
    /// ptrace is refused.
    #[error("the kernel refuses to attach")]
    Refused(#[source] std::io::Error),
    /// No thread is left.
    #[error("no thread of it is left")]
    NoThreads,
    /// It ended before the fault came that was waited for.
    #[error("it has ended, and no fault signal came before that")]
    NoFault,
    /// The thread that was about to take a fault signal died, by SIGKILL or an exec of another thread, before the others
    /// stood.
    #[error("the thread that met a fault died before the others were held")]
    FaultLost,
    /// It is in the midst of exec, and waits there, for a file system that does not answer for instance.
    #[error("it is in the midst of exec, which does not come to an end")]
    Busy,
    /// The kernel kept the tracing thread asleep; threads that were seized before may stay under trace for as
    /// long.
    #[error("the kernel does not answer a request to hold it")]
    Stuck,
    /// Any other failure.
    #[error("{action} failed")]
    Os {
        /// What was tried.
        action: &'static str,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
}

/// Why an instant snapshot cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstantError {
    /// It cannot be stopped.
    #[error("it cannot be stopped")]
    Stop(#[source] StopError),
    /// Its writes cannot be tracked, because it cannot be made to ask for that.
    #[error("its writes cannot be tracked")]
    Injection(#[source] InjectionError),
    /// The kernel does not track writes.
    #[error(
        "the kernel cannot track its writes (userfaultfd in asynchronous write-protect mode, since Linux 6.7)"
    )]
    Tracking(#[source] std::io::Error),
    /// The kernel does not track writes by soft-dirty bits.
    #[error("the kernel keeps no soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)")]
    NoSoftDirty,
    /// It has nearly as many mappings as the kernel allows, and tracking would split some.
    #[error("it has {0} mappings, and tracking takes more")]
    Mappings(usize),
    /// It writes faster than it can be copied.
    #[error(
        "it writes too fast: {bytes} bytes change while they are copied, which is more than {limit:?} of a pause"
    )]
    TooFast {
        /// What changed meanwhile.
        bytes: u64,
        /// The longest pause that was asked for.
        limit: Duration,
    },
}

/// What is wrong with an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Neither an ELF core nor a region directory.
    #[error("it is no ELF core")]
    NotACore,
    /// An ELF file, but a program or a library.
    #[error("it is an ELF {0}, not a core")]
    OtherElf(&'static str),
    /// A directory or a text without what the regions are listed in.
    #[error("it has no index of regions (mf-index.txt or mfetch.lst)")]
    NoIndex,
    /// Shorter than what its header promises needs.
    #[error("it ends within its {0}")]
    Truncated(&'static str),
    /// A number in it makes no sense.
    #[error("{0}")]
    Nonsense(String),
    /// It cannot be read at all.
    #[error("reading it failed")]
    Io(#[source] std::io::Error),
}

/// Why an output cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// Something has that name already.
    #[error("the file exists")]
    Exists,
    /// There is a directory of that name already.
    #[error("the directory exists")]
    DirectoryExists,
    /// The name of a directory to be is that of something else.
    #[error("it is no directory")]
    NoDirectory,
    /// A directory that was to be replaced holds something that memfetch did not make.
    #[error("the directory holds `{0}`, which is no file of a snapshot")]
    NotOurs(String),
    /// The caller is to end, by a signal that came meanwhile.
    #[error("a signal that ends this process came meanwhile")]
    Interrupted,
    /// The name is that of something that no image may take the place of.
    #[error("it is {0}, and no file to overwrite")]
    NoFile(&'static str),
    /// Two outputs have the same name.
    #[error("the memory goes there as well")]
    Twice,
    /// The file system lacks the room.
    #[error("it needs {needed} bytes, and {free} are free")]
    NoSpace {
        /// What the image takes.
        needed: u64,
        /// What is there.
        free: u64,
    },
    /// RLIMIT_FSIZE is lower than the image's size.
    #[error("the image takes {needed} bytes, and this process may write files of {limit} (RLIMIT_FSIZE)")]
    SizeLimit {
        /// The apparent size of the image.
        needed: u64,
        /// The limit.
        limit: u64,
    },
    /// The reader went away.
    #[error("the reader closed the pipe")]
    Closed,
    /// The peer of a connection closed or reset it before it had everything, or cannot be reached any more.
    #[error("the peer went away before it had everything")]
    PeerGone(#[source] std::io::Error),
    /// The peer of a connection took nothing for a long time.
    #[error("the peer took nothing for {limit:?}")]
    PeerStalled {
        /// How long was waited.
        limit: Duration,
    },
    /// All was sent, and the peer did not close the connection, as it would having read to the end.
    #[error(
        "the peer did not close the connection within {limit:?} of the last byte: it may not have read them all"
    )]
    Unconfirmed {
        /// How long was waited.
        limit: Duration,
    },
    /// It took nothing for a long time while the process was held for it. The process runs on.
    #[error("it took nothing for {limit:?} while the process was held; the process runs on")]
    Blocked {
        /// How long was waited.
        limit: Duration,
    },
    /// Any other failure.
    #[error("{action} failed")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
}

/// Why there is no connection, or nothing to accept one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// The name has no address, or nobody could be asked for it.
    #[error("its name is not known")]
    Name(#[source] std::io::Error),
    /// Nobody said in time what the address of the name is.
    #[error("its name was not resolved within {limit:?}")]
    NameTimedOut {
        /// How long was waited.
        limit: Duration,
    },
    /// Each address of the name was tried.
    #[error("{}", told(attempts))]
    Failed {
        /// All attempts, in order; at least one.
        attempts: Vec<Attempt>,
    },
}

/// An address that was tried in vain.
#[derive(Debug)]
pub struct Attempt {
    /// The address.
    pub address: SocketAddr,
    /// The kernel's answer.
    pub error: std::io::Error,
}

/// Each attempt with its cause.
fn told(attempts: &[Attempt]) -> String {
    let mut text = String::new();
    for (index, Attempt { address, error }) in attempts.iter().enumerate() {
        let _ = write!(text, "{}{address}: {error}", if index > 0 { "; " } else { "" });
    }
    text
}

fn places_of(number: usize) -> String {
    if number == 1 { "1 place".to_owned() } else { format!("{number} places") }
}

/// Why what a peer sent did not become a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// Nobody came.
    #[error("nobody connected within {limit:?}")]
    NoPeer {
        /// How long was waited.
        limit: Duration,
    },
    /// The peer closed the connection without a byte.
    #[error("{peer} closed the connection without a byte")]
    Nothing {
        /// Who.
        peer: SocketAddr,
    },
    /// The peer sent nothing for a long time.
    #[error("{peer} sent nothing for {limit:?}, after {bytes} bytes")]
    Stalled {
        /// Who.
        peer: SocketAddr,
        /// How much had come.
        bytes: u64,
        /// How long was waited.
        limit: Duration,
    },
    /// The connection broke.
    #[error("the connection to {peer} broke after {bytes} bytes")]
    Broken {
        /// Who.
        peer: SocketAddr,
        /// How much had come.
        bytes: u64,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// More came than is allowed.
    #[error("{peer} sends more than {limit} bytes")]
    TooLong {
        /// Who.
        peer: SocketAddr,
        /// The limit.
        limit: u64,
    },
    /// It was cut short on its way, or before.
    #[error("what {peer} sent is incomplete: {why}; {bytes} bytes came")]
    Incomplete {
        /// Who.
        peer: SocketAddr,
        /// What is missing.
        why: String,
        /// How much came.
        bytes: u64,
    },
    /// It is not what was written: it was altered on its way, or before.
    #[error("what {peer} sent was altered in {}, the first at byte {first:#x}", places_of(*places))]
    Altered {
        /// Who.
        peer: SocketAddr,
        /// In how many.
        places: usize,
        /// Where the first one is.
        first: u64,
    },
    /// It has no digests, so that nobody can tell whether it is whole.
    #[error("what {peer} sent is no core of memfetch: nobody can tell whether the {bytes} bytes are whole")]
    Unverifiable {
        /// Who.
        peer: SocketAddr,
        /// How much came.
        bytes: u64,
    },
    /// It looks like a core, and is none that can be read.
    #[error("what {peer} sent is no image that can be read")]
    Format {
        /// Who.
        peer: SocketAddr,
        /// What is wrong with it.
        #[source]
        source: FormatError,
    },
}
