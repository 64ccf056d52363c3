//! [`Store`]: the bytes of an image, read by position.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};

use super::directory::Files;
use crate::error::{Error, FormatError};

/// `RWF_DONTCACHE` of linux/fs.h, since Linux 6.14: what the read brings into the page cache leaves it again.
const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// Where the bytes of an image are: a file that is held open, or memory.
#[derive(Debug)]
pub(super) enum Store {
    /// A regular file, its length when it was opened, and whether reads cannot but leave it in the page cache.
    File { file: File, len: u64, keeps_cache: AtomicBool },
    /// Bytes that are in memory already.
    Memory(Vec<u8>),
    /// The files of a region directory.
    Directory(Files),
}

impl Store {
    /// Opens a file. A FIFO or a device is refused, and never waited for.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let cannot =
            |action: &str, source| Error::Os { action: format!("{action} {}", path.display()), source };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = rustix::fs::open(path, flags, Mode::empty())
            .map(File::from)
            .map_err(|errno| cannot("open", errno.into()))?;
        let metadata = file.metadata().map_err(|source| cannot("ask for the size of", source))?;
        if !metadata.is_file() {
            return Err(Error::Format { path: path.to_owned(), source: FormatError::NotACore });
        }
        Ok(Self::of_length(file, metadata.len()))
    }

    /// A regular file that is open.
    pub(super) fn of_file(file: File) -> Result<Self, FormatError> {
        let len = file.metadata().map_err(FormatError::Io)?.len();
        Ok(Self::of_length(file, len))
    }

    /// A regular file that is open, as far as this length.
    pub(super) const fn of_length(file: File, len: u64) -> Self {
        Self::File { file, len, keeps_cache: AtomicBool::new(false) }
    }

    /// How many bytes there are.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::File { len, .. } => *len,
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Directory(files) => files.end(),
        }
    }

    /// Reads from `offset` on until `buf` is full or the end is reached, and returns how much that was.
    pub(super) fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let file = match self {
            Self::File { file, .. } => file,
            Self::Directory(files) => return files.read_at(offset, buf),
            Self::Memory(bytes) => {
                let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or(&[]);
                let wanted = rest.len().min(buf.len());
                if let (Some(to), Some(from)) = (buf.get_mut(..wanted), rest.get(..wanted)) {
                    to.copy_from_slice(from);
                }
                return Ok(wanted);
            }
        };
        read_file(file, offset, buf)
    }

    /// Reads as [`Store::read_at`] does what is read once, in large parts: what it brings into the page cache leaves it
    /// again, where the kernel and the file system can do that.
    pub(super) fn read_once_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        if let Self::File { file, keeps_cache, .. } = self
            && !keeps_cache.load(Ordering::Relaxed)
            && i64::try_from(offset).is_ok()
        {
            match rustix::io::preadv2(file, &mut [io::IoSliceMut::new(buf)], offset, DONTCACHE) {
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                    keeps_cache.store(true, Ordering::Relaxed)
                }
                // A part is what the caller has to expect of any read; an error is met again below.
                Ok(read) => return Ok(read),
                Err(_) => {}
            }
        }
        self.read_at(offset, buf)
    }

    /// Exactly `wanted` bytes from `offset` on, or `None` where the store ends before.
    pub(super) fn exactly(&self, offset: u64, wanted: usize) -> Result<Option<Vec<u8>>, FormatError> {
        let end = offset.checked_add(wanted as u64);
        if end.is_none_or(|end| end > self.len()) {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(wanted)
            .map_err(|_| FormatError::Nonsense(format!("{wanted} bytes of it do not fit in memory")))?;
        bytes.resize(wanted, 0);
        let read = self.read_at(offset, &mut bytes).map_err(FormatError::Io)?;
        Ok((read == wanted).then_some(bytes))
    }

    /// The first part of `range` that may hold anything but zeros: holes of a sparse file are skipped.
    pub(super) fn next_data(&self, range: Range<u64>) -> Option<Range<u64>> {
        if range.is_empty() {
            return None;
        }
        let Self::File { file, .. } = self else { return Some(range) };
        // The file's own position moves, and nothing here uses it.
        match rustix::fs::seek(file, SeekFrom::Data(range.start)) {
            Ok(start) if start < range.end => {
                let end = rustix::fs::seek(file, SeekFrom::Hole(start)).unwrap_or(range.end);
                Some(start..end.clamp(start.saturating_add(1), range.end))
            }
            Ok(_) | Err(Errno::NXIO) => None,
            // A file system that knows no holes has data everywhere.
            Err(_) => Some(range),
        }
    }
}

/// Reads from `offset` of a file on until `buf` is full or the end is reached, and returns how much that was.
pub(super) fn read_file(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        // A position past i64::MAX is EINVAL to the kernel; no file has a byte there.
        let at = offset.saturating_add(filled as u64);
        if i64::try_from(at).is_err() {
            break;
        }
        match file.read_at(rest, at) {
            Ok(0) => break,
            Ok(read) => filled = filled.saturating_add(read),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // What came before is good; the next read meets the error at its first byte.
            Err(_) if filled > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A part of a store, read from its start to its end.
pub(super) struct Window<'a> {
    store: &'a Store,
    at: u64,
    end: u64,
}

impl<'a> Window<'a> {
    /// The bytes at `range`.
    pub(super) const fn new(store: &'a Store, range: Range<u64>) -> Self {
        Self { store, at: range.start, end: range.end }
    }
}

impl io::Read for Window<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let wanted = left.min(buf.len());
        let read = match buf.get_mut(..wanted) {
            Some(part) => self.store.read_at(self.at, part)?,
            None => 0,
        };
        self.at = self.at.saturating_add(read as u64);
        Ok(read)
    }
}
