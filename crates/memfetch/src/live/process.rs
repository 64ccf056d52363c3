//! [`Process`]: the source that callers hold.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::facts::{self, ProcessFacts};
use super::files::BackingFile;
use super::find;
use super::identity::{Identity, libc_errno};
use super::target::Target;
use super::worker::{NoResult, Workers};
use crate::address::{Address, Span};
use crate::error::{Candidate, Error};
use crate::memory::{PageRuns, PageState, ReadError};
use crate::region::{Region, RegionMap};
use crate::source::{FileBehind, PageSource, ReadFile, Source};
use crate::threads::{Pid, Tid};

/// How long a call waits for the kernel unless told otherwise.
const DEFAULT_LIMIT: Duration = Duration::from_secs(10);

/// So much of a file is read by one call.
const MOST_OF_FILE: usize = 256 << 10;

/// A running process: one and the same for as long as the value lives, whatever becomes of its number.
///
/// It is the address space that it had when it was opened. When the process ends or calls exec, everything
/// gives [`Error::Ended`] or [`Error::Replaced`]; nothing is ever read from what came after.
///
/// Cheap to clone, and shared freely between threads. To look at the map takes less permission than to read
/// memory (`PTRACE_MODE_READ` against `PTRACE_MODE_ATTACH`, ptrace(2)); each is asked for when it is needed.
///
/// ```
/// use memfetch::{Memory, Process};
/// let own = Process::current()?;
/// let word = Box::new(*b"look at me");
/// let mut bytes = [0; 10];
/// let read = own.read_at(memfetch::Address::new(word.as_ptr() as u64), &mut bytes)?;
/// assert_eq!(bytes[..read], *b"look at me");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Process {
    target: Arc<Target>,
    limit: Option<Duration>,
}

impl Process {
    /// Opens the process with this number.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchProcess`], [`Error::NoMemory`] for zombies and kernel threads, [`Error::Refused`],
    /// [`Error::TimedOut`].
    pub fn open(pid: Pid) -> Result<Self, Error> {
        let opened = Workers::default()
            .run(DEFAULT_LIMIT, move || Identity::open(pid).and_then(Target::open))
            .map_err(|none| no_result(pid, "open it", DEFAULT_LIMIT, none))?;
        Ok(Self { target: Arc::new(opened?), limit: Some(DEFAULT_LIMIT) })
    }

    /// Opens the process that `text` means: a number, `self`, or a name. A name is that of the process (`comm`),
    /// the last part of the path of its program, or the last part of its first argument. It never means this
    /// process, nor one without memory.
    ///
    /// # Errors
    ///
    /// [`Error::Ambiguous`] with all that have the name; otherwise as [`Process::open`].
    pub fn find(text: &str) -> Result<Self, Error> {
        if text == "self" {
            return Self::current();
        }
        if let Ok(pid) = text.parse() {
            return Self::open(pid);
        }
        Self::open(find::by_name(text)?)
    }

    /// The calling process.
    ///
    /// # Errors
    ///
    /// `/proc` is not there, or is that of another PID namespace.
    pub fn current() -> Result<Self, Error> {
        Self::open(Pid::try_from(std::process::id()).unwrap_or_default())
    }

    /// All processes that have memory and can be seen, by ascending number.
    ///
    /// # Errors
    ///
    /// `/proc` cannot be read.
    pub fn list() -> Result<Vec<Candidate>, Error> {
        find::list()
    }

    /// The same process, with another limit on how long a call waits for the kernel; ten seconds unless this
    /// says otherwise. With `None` calls run on the calling thread, and block for as long as the kernel does.
    #[must_use]
    pub fn with_time_limit(&self, limit: Option<Duration>) -> Self {
        Self { target: Arc::clone(&self.target), limit }
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.target.identity.pid()
    }

    /// Its name (`comm`), at most 15 bytes, as it was when it was opened.
    #[must_use]
    pub fn name(&self) -> &OsStr {
        self.target.identity.comm()
    }

    /// When it started, in clock ticks after boot: with the number it names a process for one boot.
    #[must_use]
    pub fn start_ticks(&self) -> u64 {
        self.target.identity.start_ticks()
    }

    /// Whether it is still there, with the address space that was opened. Takes no lock of the target's.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`], [`Error::Replaced`].
    pub fn check(&self) -> Result<(), Error> {
        self.target.check()
    }

    /// Reads one of its files in `/proc/PID`, such as `auxv` or `task/17/status`.
    ///
    /// Where the first thread has exited before the others, files that need its memory are those of a live one.
    ///
    /// # Errors
    ///
    /// As for [`Process::open`], and [`Error::Ended`].
    pub fn read_proc(&self, name: &str) -> Result<Vec<u8>, Error> {
        let name = name.to_owned();
        self.run("answer", move |target| {
            let identity = &target.identity;
            // Under the process' own name, files that need its memory are empty, ESRCH or EACCES once the first
            // thread has exited.
            let text = match identity.read(&name) {
                Ok(text) if !text.is_empty() => Ok(text),
                nothing => match identity.live_tid() {
                    Ok(tid) if tid != identity.pid() && !name.starts_with("task/") => {
                        identity.read(format!("task/{tid}/{name}")).or(nothing)
                    }
                    _ => nothing,
                },
            };
            text.map_err(|error| match error.raw_os_error() {
                // A file that this kernel lacks says nothing about the process.
                Some(libc_errno::ENOENT) if !identity.has_ended(Duration::ZERO) => {
                    Error::Os { action: format!("read /proc/{}/{name}", identity.pid()), source: error }
                }
                _ => identity.error("read the state", error),
            })
        })?
    }

    /// A thread that still runs in its memory: the first one, or the lowest live one where that has exited.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`].
    pub fn live_tid(&self) -> Result<Tid, Error> {
        self.target.identity.live_tid().map_err(|error| self.target.identity.error("read the state", error))
    }

    /// What the kernel tells of it, as the notes of a core need it.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`], [`Error::TimedOut`], [`Error::Refused`] where `/proc` hides it. What is kept from this
    /// caller alone is left out.
    pub fn facts(&self) -> Result<ProcessFacts, Error> {
        self.run("tell its state", facts::of)?
    }

    /// Runs a call that may block on the target: on a worker within the time limit, or right here without one.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        action: &'static str,
        call: impl FnOnce(&Target) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let Some(limit) = self.limit else { return Ok(call(&self.target)) };
        self.run_within(limit, action, call)
    }

    /// Reads pages of a process that is held, which were seen to be in its page table since, on the calling thread.
    pub(crate) fn read_held(&self, at: Address, buf: &mut [u8]) -> Option<usize> {
        self.target.read_held(at, buf)
    }

    /// Its map and page states, and of which pages it is certain that they were not written since they were protected,
    /// within the time limit. `known` are states that pages had when they were.
    pub(crate) fn regions_pages_and_clean(
        &self,
        known: PageRuns,
        held: bool,
    ) -> Result<(RegionMap, PageRuns, Vec<Span>), Error> {
        self.run("list its mappings", move |target| {
            target.forget_latest_map();
            let map = target.regions()?;
            let (pages, clean) = target.page_states_and_clean(&map, &known, held)?;
            Ok((map, pages, clean))
        })?
    }

    /// As [`Process::run`], on a worker, within a limit of its own.
    pub(super) fn run_within<T: Send + 'static>(
        &self,
        limit: Duration,
        action: &'static str,
        call: impl FnOnce(&Target) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let target = Arc::clone(&self.target);
        let result = self.target.workers.run(limit, move || call(&target));
        result.map_err(|none| no_result(self.pid(), action, limit, none))
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    pub(super) const fn limit(&self) -> Option<Duration> {
        self.limit
    }
}

/// The calls of a thread that somebody watches.
impl PageSource for Process {
    fn fetch(
        &self,
        region: &Region,
        state: PageState,
        at: Address,
        buf: &mut [u8],
    ) -> Result<usize, ReadError> {
        self.target.fetch(region, state, at, buf)
    }

    fn touch(&self, region: &Region, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        self.target.touch(region, at, buf)
    }
}

impl Source for Process {
    fn handle(&self) -> Arc<dyn Source> {
        Arc::new(self.clone())
    }

    /// Within the time limit.
    fn regions_and_pages(&self) -> Result<(RegionMap, PageRuns), Error> {
        self.run("list its mappings", |target| {
            // What was looked up for an earlier reading says nothing of what has come since.
            target.forget_latest_map();
            let map = target.regions()?;
            let pages = target.page_states(&map, Span::ALL)?;
            Ok((map, pages))
        })?
    }

    fn is_live(&self) -> bool {
        true
    }

    fn time_limit(&self) -> Option<Duration> {
        self.limit
    }

    fn check(&self) -> Result<(), Error> {
        self.target.check()
    }

    fn left_in_ram(&self) -> u64 {
        // The last try goes by the target's locks, within the time limit.
        self.run("page out what was read", Target::page_out_and_count)
            .unwrap_or_else(|_| self.target.brought_in())
    }

    fn auxiliary_vector(&self) -> Result<Vec<(u64, u64)>, Error> {
        let bytes = self.read_proc("auxv")?;
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte));
        let word = usize::from(self.target.platform.word.bytes());
        let entries = bytes.chunks_exact(2 * word).map(|entry| entry.split_at(word));
        Ok(entries
            .map(|(key, value)| (number(key), number(value)))
            .take_while(|(key, _)| *key != 0)
            .collect())
    }

    fn file_behind(&self, region: &Region) -> Option<FileBehind> {
        let (span, mapped) = (region.span, region.file()?.clone());
        let opened = self.run("open a file that it maps", move |target| {
            let object = target.files.of(&target.identity, span, &mapped)?;
            let size = object.size().filter(|_| object.is_readable())?;
            Some((object, size))
        });
        let (object, size) = opened.ok()??;
        let file = Arc::new(OpenFile { process: self.clone(), object, size });
        Some(FileBehind { file, is_certain: true })
    }
}

/// A file that the process maps, read within the time limit.
struct OpenFile {
    process: Process,
    object: Arc<BackingFile>,
    size: u64,
}

impl ReadFile for OpenFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let len = buf.len().min(MOST_OF_FILE);
        let object = Arc::clone(&self.object);
        let read = self.process.run("read a file that it maps", move |target| {
            let mut bytes = vec![0; len];
            let read = object.read_and_put_back(offset, &mut bytes, &target.left_in_ram)?;
            bytes.truncate(read);
            Ok::<_, io::Error>(bytes)
        });
        let bytes = read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        if let Some(into) = buf.get_mut(..bytes.len()) {
            into.copy_from_slice(&bytes);
        }
        Ok(bytes.len())
    }
}

impl Process {
    /// As [`PageSource::fetch`], for a few bytes, within the time limit.
    pub(crate) fn peek(
        &self,
        region: &Region,
        state: PageState,
        at: Address,
        len: usize,
    ) -> Result<Vec<u8>, ReadError> {
        let region = region.clone();
        self.run("read its memory", move |target| {
            let mut bytes = vec![0; len];
            let read = target.fetch(&region, state, at, &mut bytes)?;
            bytes.truncate(read);
            Ok(bytes)
        })?
    }
}

fn no_result(pid: Pid, action: &'static str, limit: Duration, none: NoResult) -> Error {
    match none {
        NoResult::TimedOut => Error::TimedOut { pid, action, limit },
        NoResult::NoWorker(source) => {
            Error::Os { action: format!("start a thread to read process {pid}"), source }
        }
    }
}
