//! From a live process to an image: [`Snapshot`].

mod arrangement;
mod blocks;
mod copy;
mod crew;
mod directory;
mod gather;
mod guardian;
mod instant;
mod known;
mod link_map;
pub mod plan;
mod prepare;
mod raw;
mod remarks;
mod write;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use memfetch_sys::signals::JobControlHeld;
use serde::{Serialize, Serializer};

use self::prepare::Form;
use crate::error::{Error, InstantError, OutputError};
use crate::image::record::{Contents, Mode, Origin, Outcome};
use crate::live::Process;
use crate::memory::{PageState, Touch};
use crate::selector::Selection;
use crate::sink::{OutputDirectory, OutputFile};
use crate::source::Source;

/// How much the apparent size of a file may be by default. Never-touched memory is holes of the file up to here; past
/// it, long runs of it are left out of the file altogether.
pub const MAX_APPARENT_SIZE: u64 = 1 << 40;

/// How the memory should be held still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModeChoice {
    /// The most consistent way that works on this process; the report says which, and why not a better one.
    #[default]
    Auto,
    /// Copy while it runs, note what changes, and copy that once more in a stop of milliseconds.
    Instant,
    /// Stop all threads for as long as the copy takes.
    Freeze,
    /// Stop nothing.
    Live,
}

/// How mode instant takes what can change with no store by the process itself: shared memory, which others may write, and
/// pages of files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// In the last stop, as long as that is not much longer for it; else tracked. The report says which.
    #[default]
    Auto,
    /// In the last stop, however long that takes.
    Stop,
    /// While it runs, and once more what the process itself writes.
    Tracked,
}

/// How mode instant has it told which pages are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrackerChoice {
    /// By userfaultfd, or by soft-dirty bits where that cannot be had.
    #[default]
    Auto,
    /// By userfaultfd in asynchronous write-protect mode: one thread of the process makes one system call for it.
    WriteProtect,
    /// By soft-dirty bits, which are one set for all who ask: whoever else clears them meanwhile makes the image
    /// inconsistent. Each round needs a stop.
    SoftDirty,
}

/// How far a capture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of memory that are copied.
    pub done_bytes: u64,
    /// Bytes of memory that are to be copied.
    pub total_bytes: u64,
}

/// What a capture came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What was captured, and how.
    pub origin: Origin,
    /// What it came to.
    pub outcome: Outcome,
    /// The file, where it is one.
    pub path: Option<PathBuf>,
    /// The length of the image, holes included.
    pub apparent_bytes: u64,
    /// What it takes on the disk, or what was sent.
    pub stored_bytes: u64,
    /// How long it all took, in nanoseconds in JSON.
    #[serde(rename = "elapsed_ns", serialize_with = "as_nanoseconds")]
    pub elapsed: Duration,
    /// The text that tells what stands where, of a region directory or of raw memory: of one of memfetch 2002 without
    /// the comments around it.
    #[serde(skip)]
    pub index: Vec<u8>,
}

/// A snapshot to be: whom to take it of, and how.
///
/// ```no_run
/// use memfetch::{Process, Snapshot};
///
/// let redis = Process::find("redis-server")?;
/// let report = Snapshot::of(&redis).write_core("redis.core")?;
/// println!("paused {} ns, {} gaps", report.outcome.pause_ns, report.outcome.gaps.len());
/// # Ok::<(), memfetch::Error>(())
/// ```
pub struct Snapshot<'a> {
    process: &'a Process,
    mode: ModeChoice,
    contents: Contents,
    touch: Touch,
    selection: Selection,
    max_apparent_size: u64,
    replace: bool,
    classic: bool,
    index: Option<PathBuf>,
    at_fault: bool,
    time_limit: Option<Duration>,
    sharing: Sharing,
    tracker: TrackerChoice,
    max_pause: Option<Duration>,
    spool_directory: PathBuf,
    spool_memory: Option<u64>,
    progress: Box<dyn FnMut(Progress) + 'a>,
}

impl<'a> Snapshot<'a> {
    /// A snapshot of `process`, by default in mode auto, with default contents.
    #[must_use]
    pub fn of(process: &'a Process) -> Self {
        Self {
            process,
            mode: ModeChoice::Auto,
            contents: Contents::Default,
            touch: Touch::Stored,
            selection: Selection::default(),
            max_apparent_size: MAX_APPARENT_SIZE,
            replace: false,
            classic: false,
            index: None,
            at_fault: false,
            time_limit: Some(Duration::from_secs(10)),
            sharing: Sharing::Auto,
            tracker: TrackerChoice::Auto,
            max_pause: None,
            spool_directory: PathBuf::from("/var/tmp"),
            spool_memory: None,
            progress: Box::new(|_| {}),
        }
    }

    /// How the memory is held still.
    #[must_use]
    pub fn mode(mut self, mode: ModeChoice) -> Self {
        self.mode = mode;
        self
    }

    /// How much is saved.
    #[must_use]
    pub fn contents(mut self, contents: Contents) -> Self {
        self.contents = contents;
        self
    }

    /// Which pages may be read.
    #[must_use]
    pub fn touch(mut self, touch: Touch) -> Self {
        self.touch = touch;
        self
    }

    /// Which regions are saved.
    #[must_use]
    pub fn selection(mut self, selection: Selection) -> Self {
        self.selection = selection;
        self
    }

    /// How long a file may look, holes included; of a region directory each.
    #[must_use]
    pub fn max_apparent_size(mut self, bytes: u64) -> Self {
        self.max_apparent_size = bytes;
        self
    }

    /// Whether a file of the same name is replaced, or a directory that holds nothing but the files of such a one.
    #[must_use]
    pub fn replace(mut self, replace: bool) -> Self {
        self.replace = replace;
        self
    }

    /// Whether a region directory has the files and the index of memfetch 2002; default contents are all that can be
    /// read then.
    #[must_use]
    pub fn classic(mut self, classic: bool) -> Self {
        self.classic = classic;
        self
    }

    /// Where the index of raw memory goes, which else is in the report only.
    #[must_use]
    pub fn index_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.index = Some(path.into());
        self
    }

    /// Whether to wait until a thread is about to take SIGSEGV, SIGBUS, SIGILL, SIGFPE or SIGPIPE, which it does not
    /// ignore, and take the snapshot then, in mode freeze; that thread is the first in it. It takes the signal
    /// afterwards. Where the process ends before that it is [`Error::NoFault`].
    #[must_use]
    pub fn at_fault(mut self, at_fault: bool) -> Self {
        self.at_fault = at_fault;
        self
    }

    /// For how long the kernel may take over a single read; `None` waits for ever.
    #[must_use]
    pub fn time_limit(mut self, limit: Option<Duration>) -> Self {
        self.time_limit = limit;
        self
    }

    /// How mode instant takes shared memory.
    #[must_use]
    pub fn sharing(mut self, sharing: Sharing) -> Self {
        self.sharing = sharing;
        self
    }

    /// How mode instant has it told which pages are written.
    #[must_use]
    pub fn tracker(mut self, tracker: TrackerChoice) -> Self {
        self.tracker = tracker;
        self
    }

    /// How long the process may be held at the most, as far as that can be known beforehand. In mode auto what would take
    /// longer is copied live; in the others it is an error.
    #[must_use]
    pub fn max_pause(mut self, limit: Option<Duration>) -> Self {
        self.max_pause = limit;
        self
    }

    /// Where mode instant puts what does not fit into memory, in a file without a name, for an output that is no file.
    #[must_use]
    pub fn spool_directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.spool_directory = path.into();
        self
    }

    /// How much memory mode instant takes at the most, unless the last stop needs more: by default a quarter of what is
    /// available, and no more than 4 GiB.
    #[must_use]
    pub fn spool_memory(mut self, bytes: u64) -> Self {
        self.spool_memory = Some(bytes);
        self
    }

    /// Whom to tell how far it is.
    #[must_use]
    pub fn progress(mut self, progress: impl FnMut(Progress) + 'a) -> Self {
        self.progress = Box::new(progress);
        self
    }

    /// Writes an ELF core. The file has its name only when it is whole and on stable storage.
    ///
    /// # Errors
    ///
    /// Nothing is left behind then: the process cannot be read, stopped or ended meanwhile, or the file cannot be
    /// written. What could not be read page by page is no error: it is in the report's gaps.
    pub fn write_core(self, path: impl AsRef<Path>) -> Result<Report, Error> {
        self.write_file(Form::Core, path.as_ref())
    }

    /// Writes an ELF core to a pipe or socket, strictly in order. Long runs of never-touched memory are segments of
    /// their own there, without bytes.
    ///
    /// # Errors
    ///
    /// As for [`Snapshot::write_core`]; what was written by then is no whole image, and says so to its readers.
    pub fn write_core_to(self, writer: &mut dyn Write) -> Result<Report, Error> {
        self.write_stream(Form::Core, writer)
    }

    /// Writes a region directory: an index, and a file for each region of which something is saved. It has its name
    /// only when it is whole and on stable storage.
    ///
    /// Signals that end this process are held back from the calling thread while there is something that must be taken
    /// away then; where one comes, the result is [`OutputError::Interrupted`],
    /// and the signal follows.
    ///
    /// # Errors
    ///
    /// As for [`Snapshot::write_core`].
    pub fn write_directory(mut self, path: impl AsRef<Path>) -> Result<Report, Error> {
        let begun = Instant::now();
        let path = path.as_ref();
        let _held = JobControlHeld::new();
        let output =
            OutputDirectory::create(path, self.replace, directory::is_ours).map_err(crew::at_path(path))?;
        if self.classic && self.contents == Contents::Default {
            // In 2002 everything was dumped that could be read.
            self.contents = Contents::Full;
        }
        if let Some(parent) = path.parent() {
            self.spool_directory = if parent.as_os_str().is_empty() { ".".into() } else { parent.to_owned() };
        }
        let gathered = self.gather(Form::Raw, &mut None)?;
        let written = directory::to_directory(&gathered, output, &mut self)?;
        Ok(written.report(Some(path.to_owned()), begun))
    }

    /// Writes the regions one after the other into a file, in which what was never touched is a hole. What stands where
    /// the index tells.
    ///
    /// # Errors
    ///
    /// As for [`Snapshot::write_core`].
    pub fn write_raw(self, path: impl AsRef<Path>) -> Result<Report, Error> {
        self.write_file(Form::Raw, path.as_ref())
    }

    /// Writes the regions one after the other to a pipe or socket. Long runs of never-touched memory are left out; what
    /// stands where the index tells.
    ///
    /// # Errors
    ///
    /// As for [`Snapshot::write_core`]; what was written by then is a part of it.
    pub fn write_raw_to(self, writer: &mut dyn Write) -> Result<Report, Error> {
        self.write_stream(Form::Raw, writer)
    }

    fn write_file(mut self, form: Form, path: &Path) -> Result<Report, Error> {
        let begun = Instant::now();
        let _held = JobControlHeld::new();
        // Before the process is stopped: what is wrong with the file should not cost it a pause.
        let output = OutputFile::create(path, self.replace).map_err(crew::at_path(path))?;
        let index = self.create_index()?;
        if let Some(index) = index.as_ref().filter(|index| index.is_at_the_place_of(&output)) {
            return Err(crew::at_path(index.path())(OutputError::Twice));
        }
        if let Some(parent) = path.parent() {
            self.spool_directory = if parent.as_os_str().is_empty() { ".".into() } else { parent.to_owned() };
        }
        let mut output = Some(output);
        let mut gathered = self.gather(form, &mut output)?;
        let mut index = index;
        let written = match instant::in_place::to_file(&mut gathered, form, &mut self, &mut index) {
            Some(written) => written?,
            None => {
                let output = match output {
                    Some(output) => output,
                    // The first one was to be used at once, and could not be.
                    None => OutputFile::create(path, self.replace).map_err(crew::at_path(path))?,
                };
                write::to_file(&gathered, form, output, &mut self, index)?
            }
        };
        Ok(written.report(Some(path.to_owned()), begun))
    }

    fn write_stream(mut self, form: Form, writer: &mut dyn Write) -> Result<Report, Error> {
        let begun = Instant::now();
        let _held = JobControlHeld::new();
        let index = self.create_index()?;
        let gathered = self.gather(form, &mut None)?;
        let written = write::to_stream(&gathered, form, writer, &mut self)?;
        if let Some(index) = index {
            write::whole(index, &written.index)?;
        }
        Ok(written.report(None, begun))
    }

    fn create_index(&self) -> Result<Option<OutputFile>, Error> {
        let Some(path) = &self.index else { return Ok(None) };
        OutputFile::create(path, self.replace).map(Some).map_err(crew::at_path(path))
    }

    /// An output that is taken has the image in it then.
    fn gather(&mut self, form: Form, output: &mut Option<OutputFile>) -> Result<gather::Gathered, Error> {
        if self.at_fault {
            return gather::gather_at_fault(self.process);
        }
        if !matches!(self.mode, ModeChoice::Auto | ModeChoice::Instant) {
            return gather::gather(self.process, self.mode, Vec::new());
        }
        let mut progress = std::mem::replace(&mut self.progress, Box::new(|_| {}));
        let gathered = instant::gather(self.process, self, form, output, &mut *progress);
        self.progress = progress;
        match gathered {
            Err(Error::NoInstant { source, .. }) if self.mode == ModeChoice::Auto => {
                let choice = match source {
                    InstantError::TooFast { .. } => ModeChoice::Live,
                    _ if self.would_be_held_too_long()? => ModeChoice::Live,
                    _ => ModeChoice::Auto,
                };
                let next = if choice == ModeChoice::Live { Mode::Live } else { Mode::Freeze };
                let remark = format!("mode {}, since {}", word(next), sentence(&source));
                gather::gather(self.process, choice, vec![remark])
            }
            result => result,
        }
    }
}

impl Snapshot<'_> {
    /// Whether a copy of all of the process takes longer than it may be held.
    fn would_be_held_too_long(&self) -> Result<bool, Error> {
        /// Bytes in a second, with the output waited for.
        const SPEED: f64 = 1e9;
        let Some(limit) = self.max_pause else { return Ok(false) };
        let (_, pages) = self.process.regions_and_pages()?;
        let in_use = pages.bytes_where(|state| matches!(state, PageState::Resident | PageState::Swapped));
        Ok(Duration::from_secs_f64(in_use as f64 / SPEED) > limit)
    }
}

fn as_nanoseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(gather::nanoseconds(*duration))
}

/// What the writing of an image came to.
struct Written {
    outcome: Outcome,
    origin: Origin,
    apparent_bytes: u64,
    stored_bytes: u64,
    index: Vec<u8>,
}

impl Written {
    fn report(self, path: Option<PathBuf>, begun: Instant) -> Report {
        Report {
            origin: self.origin,
            outcome: self.outcome,
            path,
            apparent_bytes: self.apparent_bytes,
            stored_bytes: self.stored_bytes,
            elapsed: begun.elapsed(),
            index: self.index,
        }
    }
}

/// An error and its causes, in one line.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// A mode's word, for remarks.
const fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Live => "live",
        Mode::Freeze => "freeze",
        Mode::Instant => "instant",
    }
}
