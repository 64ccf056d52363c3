//! [`Files`]: the files of a region directory as one line of bytes.

use std::fs::File;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{FileType, Mode, OFlags};

use crate::address::Span;
use crate::image::store;

/// How many files are held open: a process may have 65,000 mappings, and may open 1,024 files.
const HELD: usize = 256;

/// The files of a region directory, each at a place of its own.
///
/// The directory is held open, so that its renaming does not matter; its files are opened when they are read.
#[derive(Debug)]
pub(in crate::image) struct Files {
    directory: File,
    members: Vec<Member>,
    held: AtomicUsize,
}

/// A file of a region directory.
#[derive(Debug)]
pub(in crate::image) struct Member {
    pub name: String,
    /// Where it begins in the line.
    pub start: u64,
    /// How long its region is.
    pub promised: u64,
    /// How much of that the file had when the directory was opened.
    pub present: u64,
    /// How long the file was.
    pub length: u64,
    /// Whether there is no regular file of that name.
    pub is_missing: bool,
    file: OnceLock<File>,
}

impl Files {
    /// The files with these names, which belong to these spans, in this order.
    pub fn new<'a>(directory: File, names: impl Iterator<Item = (&'a str, Span)>) -> Self {
        let mut members = Vec::new();
        let mut end = 0_u64;
        for (name, span) in names {
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            let stat = rustix::fs::statat(&directory, name, flags).ok();
            let stat = stat.filter(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
            let length = stat.as_ref().map_or(0, |stat| stat.st_size.cast_unsigned());
            members.push(Member {
                name: name.to_owned(),
                start: end,
                promised: span.len(),
                present: length.min(span.len()),
                length,
                is_missing: stat.is_none(),
                file: OnceLock::new(),
            });
            end = end.saturating_add(span.len());
        }
        Self { directory, members, held: AtomicUsize::new(0) }
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Member> {
        self.members.iter()
    }

    /// Where the line ends.
    pub fn end(&self) -> u64 {
        self.members.last().map_or(0, |last| last.start.saturating_add(last.promised))
    }

    /// Opens a file; what is no regular file is refused, and never waited for.
    pub fn open(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = File::from(rustix::fs::openat(&self.directory, name, flags, Mode::empty())?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    /// Reads from `offset` on, to the end of the file that it lies in at the most.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let Some((member, at)) = self.member_at(offset) else { return Ok(0) };
        let left = usize::try_from(member.promised.saturating_sub(at)).unwrap_or(usize::MAX);
        let wanted = left.min(buf.len());
        let Some(buf) = buf.get_mut(..wanted) else { return Ok(0) };
        if let Some(file) = member.file.get() {
            return store::read_file(file, at, buf);
        }
        let file = self.open(&member.name)?;
        if self.held.fetch_add(1, Ordering::Relaxed) < HELD {
            return store::read_file(member.file.get_or_init(|| file), at, buf);
        }
        store::read_file(&file, at, buf)
    }

    fn member_at(&self, offset: u64) -> Option<(&Member, u64)> {
        let index = self.members.partition_point(|member| member.start <= offset).checked_sub(1)?;
        let member = self.members.get(index)?;
        Some((member, offset.checked_sub(member.start)?))
    }
}
