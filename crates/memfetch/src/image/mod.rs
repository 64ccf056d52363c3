//! Files as sources and as outputs: [`Image`] reads them back, [`verify()`] tells whether they are whole.
//!
//! # What an image of ours adds to a core
//!
//! A note ahead of the data ([`note`]) and a block behind it ([`trailer`]). Without the block a file of ours
//! is known to be incomplete; with it, the names, the permissions and the page states are those of the
//! process, and a gap is a gap although the file has filler in its place.

pub mod directory;
mod elf;
pub mod encode;
mod leb128;
mod named_file;
pub mod note;
mod pages;
pub mod record;
mod store;
pub mod trailer;
pub mod verify;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

pub use elf::ProcessFacts;
pub use verify::{Verdict, verify};

use self::elf::{Header, Notes, ProgramHeaders, Segment};
use self::named_file::NamedFile;
use self::record::{Origin, Outcome};
use self::store::Store;
use self::trailer::Trailer;
use crate::address::{Address, Span};
use crate::error::{Error, FormatError};
use crate::maps;
use crate::memory::{Cause, Memory, PageRuns, PageState, Platform, ReadError};
use crate::region::{FileKind, Region, RegionMap};
use crate::source::{FileBehind, PageSource, Source};
use crate::threads::{SignalInfo, Thread, Threads};

/// The memory of a process as a file has it: an ELF core of ours, of gdb's, of the kernel's, or a region directory.
///
/// The file is held open and read as it is asked for; its headers and notes are read once, when it is opened.
/// A file that was cut short still gives its threads and regions, and what is cut off is
/// [`Cause::Truncated`].
///
/// ```no_run
/// use memfetch::{Image, Memory};
///
/// let image = Image::open("redis.core")?;
/// for region in &image.regions()? {
///     println!("{} {} {}", region.span, region.permissions, region.name().display());
/// }
/// # Ok::<(), memfetch::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Image {
    parts: Arc<Parts>,
}

/// A read of so many bytes is part of a way through all of it.
const LARGE: usize = 64 << 10;

/// What an image is made of; handles of it share this.
#[derive(Debug)]
struct Parts {
    store: Store,
    platform: Platform,
    /// In the order of their addresses, none over another.
    segments: Vec<Segment>,
    regions: RegionMap,
    pages: PageRuns,
    recorded_pages: PageRuns,
    threads: Vec<Thread>,
    process: Option<ProcessFacts>,
    auxv: Vec<(u64, u64)>,
    origin: Option<Origin>,
    outcome: Option<Outcome>,
    completeness: Completeness,
    shortfall: Option<Shortfall>,
    /// The end of the last byte that a program header promises.
    file_end: u64,
}

/// Whether an image is all that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "is", content = "why")]
pub enum Completeness {
    /// It is not of ours and does not tell. Bytes that its file lacks are [`Cause::Truncated`].
    Foreign,
    /// It ends with its trailer. Whether its data is unaltered only [`verify()`] tells.
    Complete,
    /// It is of ours and lacks something: memory that was never written to it reads as zero here and there.
    Incomplete(Shortfall),
}

/// What an image of ours lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case", tag = "what", content = "cause")]
pub enum Shortfall {
    /// The file ends before its data does.
    #[error("it ends before its data does")]
    Data,
    /// The file ends within the trailer.
    #[error("it ends within its trailer")]
    Trailer,
    /// The trailer is not what was written.
    #[error("{0}")]
    TrailerDamaged(String),
    /// Its own note is not what was written.
    #[error("{0}")]
    NoteDamaged(String),
    /// The index of a region directory ends before its last line.
    #[error("its index is cut short")]
    Index,
    /// The index of a region directory is not what was written.
    #[error("its index is not what was written: its digest differs")]
    IndexAltered,
    /// A file of a region directory is not there, or is shorter than what was written into it.
    #[error("its file {0} is missing or cut short")]
    File(String),
}

impl Image {
    /// Opens a core, or a region directory: the directory itself, or its index.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] where it cannot be opened, [`Error::Format`] where it is neither, or is cut off before the end of
    /// its program headers, or ahead of the first region of its index.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        if let Some(index) = directory::index_of(path) {
            return Ok(Self { parts: Arc::new(directory::Opened::open(&index)?.into_parts()) });
        }
        if path.is_dir() {
            return Err(Error::Format { path: path.to_owned(), source: FormatError::NoIndex });
        }
        let store = Store::open(path)?;
        Self::from_store(store).map_err(|source| Error::Format { path: path.to_owned(), source })
    }

    /// The image that an open regular file is, which may have no name.
    ///
    /// # Errors
    ///
    /// As for the contents of a file.
    pub fn from_file(file: File) -> Result<Self, FormatError> {
        Self::from_store(Store::of_file(file)?)
    }

    /// The image that these bytes are: for one that is in memory already.
    ///
    /// # Errors
    ///
    /// As for the contents of a file.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, FormatError> {
        Self::from_store(Store::Memory(bytes))
    }

    fn from_store(store: Store) -> Result<Self, FormatError> {
        let header = Header::read(&store)?;
        let ProgramHeaders { segments, notes, file_end } = header.program_headers(&store)?;
        let segments = elf::in_order(segments);
        let mut notes = Notes::read(&store, &header, &notes)?;

        let (origin, trailer, completeness) = match notes.origin.take() {
            None => (None, None, Completeness::Foreign),
            Some(Err(error)) => {
                (None, None, Completeness::Incomplete(Shortfall::NoteDamaged(error.to_string())))
            }
            Some(Ok(origin)) => match own_map(&store, &origin) {
                Ok(trailer) => (Some(origin), Some(trailer), Completeness::Complete),
                Err(shortfall) => (Some(origin), None, Completeness::Incomplete(shortfall)),
            },
        };
        let ours = completeness != Completeness::Foreign;
        let (segments, regions, pages, recorded_pages, outcome) = match trailer {
            Some((regions, trailer)) => {
                let pages = pages::by_trailer(&segments, store.len(), &regions, &trailer);
                (segments, regions, pages, trailer.pages, Some(trailer.outcome))
            }
            None => {
                let segments = elf::with_unsaved_files(segments, &notes);
                let regions = elf::regions(&segments, &notes, &header, ours);
                let pages = pages::by_segments(&segments, store.len());
                (segments, regions, pages, PageRuns::new(), None)
            }
        };
        let platform = Platform {
            machine: header.machine,
            word: header.encoding.word,
            byte_order: header.encoding.order,
            page_size: page_size(&notes),
        };
        let Notes { mut threads, process, auxv, .. } = notes;
        for (index, thread) in threads.iter_mut().enumerate() {
            // Others than the first have its number only because readers want it.
            if ours && (index > 0 || thread.signal.as_ref().is_some_and(is_placeholder)) {
                thread.signal = None;
            }
            // The process is named for its first thread.
            if let Some(process) = process.as_ref().filter(|process| process.pid == thread.tid) {
                thread.name.clone_from(&process.name);
            }
        }
        let shortfall = match &completeness {
            Completeness::Incomplete(why) => Some(why.clone()),
            Completeness::Foreign if file_end > store.len() => Some(Shortfall::Data),
            Completeness::Foreign | Completeness::Complete => None,
        };
        let parts = Parts {
            store,
            platform,
            segments,
            regions,
            pages,
            recorded_pages,
            threads,
            process,
            auxv,
            origin,
            outcome,
            completeness,
            shortfall,
            file_end,
        };
        Ok(Self { parts: Arc::new(parts) })
    }

    /// What is known of the process as a whole (NT_PRPSINFO).
    #[must_use]
    pub fn process(&self) -> Option<&ProcessFacts> {
        self.parts.process.as_ref()
    }

    /// The auxiliary vector, keys (`AT_*`) and values, without its last entry; empty where the image has
    /// none.
    #[must_use]
    pub fn auxv(&self) -> &[(u64, u64)] {
        &self.parts.auxv
    }

    /// Where the image came from, if it is of ours.
    #[must_use]
    pub fn origin(&self) -> Option<&Origin> {
        self.parts.origin.as_ref()
    }

    /// How the capture went, if the image is of ours and complete.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        self.parts.outcome.as_ref()
    }

    /// Whether the image is all that was written.
    #[must_use]
    pub fn completeness(&self) -> &Completeness {
        &self.parts.completeness
    }

    /// What the image lacks, whoever wrote it: a foreign one is known to be cut short where a program header promises
    /// bytes behind the end of the file.
    #[must_use]
    pub fn shortfall(&self) -> Option<Shortfall> {
        self.parts.shortfall.clone()
    }

    /// The states that the pages had in the process when they were copied, which [`Image::pages`] does not tell: there
    /// what is saved is [`PageState::Resident`]. Empty where that is not known: the image is not of ours, or not
    /// complete.
    #[must_use]
    pub fn recorded_pages(&self) -> &PageRuns {
        &self.parts.recorded_pages
    }
}

impl Memory for Image {
    fn platform(&self) -> &Platform {
        &self.parts.platform
    }

    fn regions(&self) -> Result<RegionMap, Error> {
        Ok(self.parts.regions.clone())
    }

    fn pages(&self, span: Span) -> Result<PageRuns, Error> {
        let mut runs = PageRuns::new();
        runs.extend(self.parts.pages.within(span));
        Ok(runs)
    }

    fn read_at(&self, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        self.read_by(Store::read_at, at, buf)
    }
}

/// How a store is read.
type StoreRead = fn(&Store, u64, &mut [u8]) -> std::io::Result<usize>;

impl Image {
    fn read_by(&self, read: StoreRead, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        let mut filled = 0;
        while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let here = at.checked_add(filled as u64).ok_or(Cause::NotMapped);
            match here.and_then(|here| self.read_run(read, here, rest)) {
                Ok(read) => filled = filled.saturating_add(read),
                Err(cause) if filled == 0 => return Err(ReadError::fault(at, cause)),
                Err(_) => break,
            }
        }
        Ok(filled)
    }

    /// Reads from one run of pages and one segment.
    fn read_run(&self, read: StoreRead, at: Address, buf: &mut [u8]) -> Result<usize, Cause> {
        let run = self.parts.pages.at(at).ok_or(Cause::NotMapped)?;
        if let Some(cause) = run.state.refusal() {
            return Err(cause);
        }
        let up_to = |end: Address| usize::try_from(end.offset_from(at).unwrap_or(0)).unwrap_or(usize::MAX);
        let wanted = buf.len().min(up_to(run.span.end()));
        if run.state.is_known_zero() {
            let part = buf.get_mut(..wanted).ok_or(Cause::NotSaved)?;
            part.fill(0);
            return Ok(wanted);
        }
        let segment = elf::at(&self.parts.segments, at).ok_or(Cause::NotSaved)?;
        let offset = segment.offset_of(at).ok_or(Cause::Truncated)?;
        let part = buf.get_mut(..wanted.min(up_to(segment.span.end()))).ok_or(Cause::NotSaved)?;
        match read(&self.parts.store, offset, part) {
            // The file was cut short after it was opened.
            Ok(0) => Err(Cause::Truncated),
            Ok(read) => Ok(read),
            Err(error) => {
                Err(Cause::Os(error.raw_os_error().unwrap_or(rustix::io::Errno::IO.raw_os_error())))
            }
        }
    }
}

impl PageSource for Image {
    /// What goes through whole images leaves the page cache as it was; what reads a few bytes may come back for more.
    fn fetch(&self, _: &Region, _: PageState, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        let is_large = buf.len() >= LARGE;
        self.read_by(if is_large { Store::read_once_at } else { Store::read_at }, at, buf)
    }

    fn touch(&self, _: &Region, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        self.read_at(at, buf)
    }
}

impl Source for Image {
    fn handle(&self) -> Arc<dyn Source> {
        Arc::new(self.clone())
    }

    fn auxiliary_vector(&self) -> Result<Vec<(u64, u64)>, Error> {
        Ok(self.parts.auxv.clone())
    }

    /// The file that has the name now, which may be another one.
    fn file_behind(&self, region: &Region) -> Option<FileBehind> {
        let mapped = region.file().filter(|file| file.kind == FileKind::Regular && !file.deleted)?;
        let file = NamedFile::open(Path::new(&mapped.path))?;
        Some(FileBehind { file: Arc::new(file), is_certain: false })
    }

    fn has_exact_map(&self) -> bool {
        self.parts.completeness == Completeness::Complete
    }
}

impl Threads for Image {
    fn threads(&self) -> Result<Vec<Thread>, Error> {
        Ok(self.parts.threads.clone())
    }
}

/// The trailer that the note tells of, and the map in it.
fn own_map(store: &Store, origin: &Origin) -> Result<(RegionMap, Trailer), Shortfall> {
    let trailer = Trailer::read_at(store, origin.trailer_offset).map_err(|error| match error {
        FormatError::Truncated("data") => Shortfall::Data,
        FormatError::Truncated(_) => Shortfall::Trailer,
        other => Shortfall::TrailerDamaged(other.to_string()),
    })?;
    let regions = maps::parse(&trailer.maps).map_err(|error| Shortfall::TrailerDamaged(error.to_string()))?;
    Ok((regions, trailer))
}

/// The SIGSTOP that an image of ours has for a thread that no signal had stopped: readers want one.
fn is_placeholder(signal: &SignalInfo) -> bool {
    let number_bytes = 4;
    signal.number == 19 && signal.bytes.iter().skip(number_bytes).all(|&byte| byte == 0)
}

/// The size of a page: by the auxiliary vector, else by the unit of NT_FILE, else what most machines have.
fn page_size(notes: &Notes) -> u64 {
    const AT_PAGESZ: u64 = 6;
    let plausible = |size: &u64| size.is_power_of_two() && (1 << 10..=1 << 24).contains(size);
    let told = notes.auxiliary(AT_PAGESZ).filter(plausible);
    told.or(notes.file_unit.filter(plausible)).unwrap_or(4096)
}
