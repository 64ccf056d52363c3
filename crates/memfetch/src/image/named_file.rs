//! [`NamedFile`]: a file that an image names, on this machine.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

use crate::source::ReadFile;

/// A file on a disk, by a name that may come from anywhere.
#[derive(Debug)]
pub(super) struct NamedFile {
    file: File,
    size: u64,
}

impl NamedFile {
    /// Opens a regular file, and nothing else: to open a device or a pipe may do something, or wait for ever.
    pub(super) fn open(path: &Path) -> Option<Self> {
        if !path.is_absolute() {
            return None;
        }
        let place = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let stat = rustix::fs::fstat(&place).ok()?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return None;
        }
        let own = format!("/proc/self/fd/{}", place.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(own, flags, Mode::empty()).ok()?);
        Some(Self { file, size: u64::try_from(stat.st_size).ok()? })
    }
}

impl ReadFile for NamedFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<usize> {
        self.file.read_at(buf, offset)
    }
}
