//! Region directories: an index and a file for each region, ours (`mf-index.txt`) and that of memfetch 2002
//! (`mfetch.lst`).
//!
//! To the rest of [`image`](crate::image) such a directory is one line of bytes, in which each file begins at a place
//! of its own: a segment is a file.

pub mod classic;
mod files;
pub mod index;
mod verify;
pub mod words;

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use self::classic::{ClassicEntry, ClassicIndex};
pub(super) use self::files::Files;
use self::index::{Ending, Entry, Index, RegionFile};
pub use self::verify::digest_of_blocks;
use super::elf::Segment;
use super::record::{Origin, Outcome};
use super::store::Store;
use super::{Completeness, Parts, Shortfall};
use crate::address::Span;
use crate::error::{Error, FormatError};
use crate::memory::{Cause, PageRuns, PageState, Platform};
use crate::region::RegionMap;

/// An index longer than this was never written.
const LONGEST: u64 = 1 << 30;

/// Where the index of a region directory lies, if the path is one, or is an index itself.
#[must_use]
pub fn index_of(path: &Path) -> Option<PathBuf> {
    if path.is_dir() {
        return [index::NAME, classic::NAME]
            .map(|name| path.join(name))
            .into_iter()
            .find(|path| path.is_file());
    }
    let is_classic = path.file_name().is_some_and(|name| name == classic::NAME);
    // Whether it can be opened is found out when it is.
    let begins = || {
        let mut head = vec![0; index::MAGIC.len()];
        let store = Store::open(path).ok()?;
        let read = store.read_at(0, &mut head).ok()?;
        Some(head.get(..read)? == index::MAGIC)
    };
    (path.is_file() && (is_classic || begins().unwrap_or(false))).then(|| path.to_owned())
}

/// A region directory whose index was read.
pub(super) struct Opened {
    /// The name of its index.
    name: &'static str,
    /// How long that is.
    index_bytes: u64,
    /// What an index of ours tells, and that of 2002 does not.
    told: Option<Told>,
    /// Whether the index ends with its last line, or the digest that it should have.
    ending: Ending,
    entries: Vec<Entry>,
    files: Files,
}

struct Told {
    origin: Origin,
    platform: Platform,
    outcome: Option<Outcome>,
}

impl Opened {
    /// Reads the index at `path`, and looks for the files beside it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let format = |source| Error::Format { path: path.to_owned(), source };
        let store = Store::open(path)?;
        if store.len() > LONGEST {
            return Err(format(FormatError::Nonsense(format!("its index has {} bytes", store.len()))));
        }
        let length = usize::try_from(store.len()).unwrap_or(usize::MAX);
        let text = store.exactly(0, length).map_err(format)?.unwrap_or_default();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(parent, flags, Mode::empty()).map(File::from).map_err(|errno| {
            Error::Os { action: format!("open {}", parent.display()), source: errno.into() }
        })?;
        Self::new(&text, directory).map_err(format)
    }

    fn new(text: &[u8], directory: File) -> Result<Self, FormatError> {
        let (name, told, ending, entries) = if text.starts_with(index::MAGIC) {
            let Index { origin, platform, outcome, entries, ending, .. } = Index::decode(text)?;
            (index::NAME, Some(Told { origin, platform, outcome }), ending, entries)
        } else {
            let ClassicIndex { entries, is_whole } = ClassicIndex::decode(text)?;
            let entries = entries.into_iter().map(ClassicEntry::into_entry).collect();
            (classic::NAME, None, if is_whole { Ending::Whole } else { Ending::Cut }, entries)
        };
        let files = Files::new(
            directory,
            entries.iter().filter_map(|entry| Some((entry.file()?, entry.region.span))),
        );
        Ok(Self { name, index_bytes: text.len() as u64, told, ending, entries, files })
    }

    /// As the parts of an image.
    pub fn into_parts(self) -> Parts {
        let shortfall = self.shortfall();
        let regions = RegionMap::new(self.entries.iter().map(|entry| entry.region.clone()).collect());
        let (mut pages, mut recorded_pages) = (PageRuns::new(), PageRuns::new());
        let mut segments = Vec::new();
        let mut members = self.files.iter();
        for entry in &self.entries {
            let member = entry.file.as_ref().and_then(|_| members.next());
            let span = entry.region.span;
            if let Some(member) = member {
                let permissions = entry.region.permissions;
                segments.push(Segment { span, offset: member.start, saved: span.len(), permissions });
            }
            add_pages(&mut pages, entry, member.map(|member| member.present));
            if self.ending == Ending::Whole {
                recorded_pages.extend(entry.pages.iter().copied());
            }
        }
        let (platform, origin, outcome, completeness) = match self.told {
            Some(Told { origin, platform, outcome }) => {
                let completeness = shortfall.clone().map_or(Completeness::Complete, Completeness::Incomplete);
                (platform, Some(origin), outcome, completeness)
            }
            None => (platform_of(&regions), None, None, Completeness::Foreign),
        };
        Parts {
            file_end: self.files.end(),
            store: Store::Directory(self.files),
            platform,
            segments,
            regions,
            pages,
            recorded_pages,
            threads: Vec::new(),
            process: None,
            auxv: Vec::new(),
            origin,
            outcome,
            completeness,
            shortfall,
        }
    }

    /// What is missing of it, so far as the index and the lengths of the files tell.
    fn shortfall(&self) -> Option<Shortfall> {
        match self.ending {
            Ending::Whole => {}
            Ending::Altered => return Some(Shortfall::IndexAltered),
            Ending::Cut => return Some(Shortfall::Index),
        }
        let mut members = self.files.iter();
        let lacking = self.entries.iter().filter(|entry| entry.file.is_some()).find_map(|entry| {
            let member = members.next()?;
            (member.is_missing || member.present < entry.least_bytes()).then(|| member.name.clone())
        });
        lacking.map(Shortfall::File)
    }
}

impl Entry {
    fn file(&self) -> Option<&str> {
        self.file.as_ref().map(|file| file.name.as_str())
    }

    /// How long its file is at least: up to the last byte that was written.
    fn least_bytes(&self) -> u64 {
        let end = self.written.last().map(|span| span.end());
        end.and_then(|end| end.offset_from(self.region.span.start())).unwrap_or(0)
    }
}

impl ClassicEntry {
    /// All that it says: the file has the region.
    fn into_entry(self) -> Entry {
        let written = vec![self.region.span];
        let file = Some(RegionFile { name: self.file, digest: [0; 32] });
        Entry { region: self.region, file, pages: PageRuns::new(), written }
    }
}

/// Adds the pages of a region, of whose file so many bytes are there; `None` where it has no file.
fn add_pages(pages: &mut PageRuns, entry: &Entry, present: Option<u64>) {
    let span = entry.region.span;
    let unsaved = PageState::Unreadable(Cause::NotSaved);
    let in_file = |pages: &mut PageRuns, part: Span| match present {
        Some(present) => {
            let (there, cut) = part.split_at(span.start().saturating_add(present));
            pages.push(there, PageState::Resident);
            pages.push(cut, PageState::Unreadable(Cause::Truncated));
        }
        None => pages.push(part, unsaved),
    };
    if entry.pages.is_empty() {
        // The index tells nothing of them: of 2002, or cut short.
        in_file(pages, span);
        return;
    }
    let mut at = span.start();
    for (part, state, is_saved) in entry.saved_pages() {
        if let Some(unmapped) = Span::new(at, part.start()) {
            pages.push(unmapped, unsaved);
        }
        at = part.end();
        match state {
            _ if state.is_known_zero() || state.refusal().is_some() => pages.push(part, state),
            _ if is_saved => in_file(pages, part),
            _ => pages.push(part, unsaved),
        }
    }
    if let Some(rest) = Span::new(at, span.end()) {
        pages.push(rest, unsaved);
    }
}

/// The machine of a directory that does not tell: by its highest address.
fn platform_of(regions: &RegionMap) -> Platform {
    let is_wide = regions.iter().any(|region| u32::try_from(region.span.end().get()).is_err());
    if is_wide { Platform::X86_64 } else { Platform::I386 }
}
