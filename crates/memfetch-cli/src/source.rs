//! SOURCE on the command line: a process, or the file or directory of an image.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use memfetch::image::directory::index_of;
use memfetch::image::{Completeness, Shortfall};
use memfetch::{Error, Image, Process};

use crate::map_table::Witness;

/// What a word on the command line meant.
pub enum Source {
    /// A running process.
    Process(Process),
    /// A file or a directory.
    Image(Image),
}

impl Source {
    /// As the library's source, whatever it is.
    pub fn memory(&self) -> &dyn memfetch::Source {
        match self {
            Self::Process(process) => process,
            Self::Image(image) => image,
        }
    }

    /// What it lacks that it should have.
    pub fn shortfall(&self) -> Option<Shortfall> {
        match self {
            Self::Image(image) => image.shortfall(),
            Self::Process(_) => None,
        }
    }

    /// The same with another limit on how long a call waits for the kernel, if one is given.
    pub fn with_time_limit(self, limit: Option<Duration>) -> Self {
        match self {
            Self::Process(process) if limit.is_some() => Self::Process(process.with_time_limit(limit)),
            source => source,
        }
    }

    /// What makes zeros doubtful: an image of ours that lacks its end reads as zero where it was not yet written.
    pub fn doubt(&self) -> Option<Shortfall> {
        match self {
            Self::Image(image) => match image.completeness() {
                Completeness::Incomplete(why) => Some(why.clone()),
                Completeness::Complete | Completeness::Foreign => None,
            },
            Self::Process(_) => None,
        }
    }

    /// What tells whose the bytes of a page are.
    pub fn witness(&self) -> Witness<'_> {
        match self {
            Self::Process(_) => Witness::Kernel,
            Self::Image(image) => Witness::Record(image.recorded_pages()),
        }
    }
}

/// The process that the word means: a number, a name, or `self`.
pub fn process(word: &OsStr) -> Result<Process, Error> {
    match word.to_str() {
        Some(text) => Process::find(text),
        None => Err(Error::NoSuchProcess(word.to_string_lossy().into_owned())),
    }
}

/// What the word means: a path with a slash is an image; a number and `self` are a process; another word is an
/// image where a file or directory of that name is one, and else the name of a process.
pub fn open(word: &OsStr) -> Result<Source, Error> {
    let path = Path::new(word);
    if word.as_bytes().contains(&b'/') {
        return Ok(Source::Image(Image::open(path)?));
    }
    if is_process_only(word) || !(path.is_file() || index_of(path).is_some()) {
        return Ok(Source::Process(process(word)?));
    }
    match Image::open(path) {
        Ok(image) => Ok(Source::Image(image)),
        // A file that only happens to be called like a process; where there is no such process it was meant.
        Err(about_file) => match process(word) {
            Err(Error::NoSuchProcess(_)) => Err(about_file),
            found => Ok(Source::Process(found?)),
        },
    }
}

fn is_process_only(word: &OsStr) -> bool {
    word == "self" || (!word.is_empty() && word.as_bytes().iter().all(u8::is_ascii_digit))
}
