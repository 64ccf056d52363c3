//! [`OutputFile`]: a file that has its name only when it is whole.
//!
//! It is made without a name (`O_TMPFILE`, open(2)) and linked at the end, so that nothing is left behind however
//! this process ends. A file system that cannot do that gets a temporary name beside the final one, which is
//! removed on failure.
//!
//! It is written with `O_DIRECT` where the file system can: the page cache of the host stays as it was, and
//! several writes can be in flight. All offsets and lengths are therefore multiples of [`ALIGNMENT`].

use std::ffi::OsString;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::OutputError;

/// What offsets, lengths and buffers of writes are multiples of.
pub const ALIGNMENT: u64 = 4096;

/// A file in the making.
#[derive(Debug)]
pub struct OutputFile {
    file: File,
    /// The directory, held so that its renaming meanwhile does not matter.
    directory: File,
    name: OsString,
    path: PathBuf,
    /// The name it has until it is whole, where it needs one.
    temporary: Option<OsString>,
    replace: bool,
}

impl OutputFile {
    /// Whether this one and another will have one and the same name.
    #[must_use]
    pub fn is_at_the_place_of(&self, other: &Self) -> bool {
        let place =
            |directory: &File| directory.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()));
        self.name == other.name && place(&self.directory) == place(&other.directory)
    }

    /// Makes a file that will be called `path`; with `replace` it takes the place of one that has the name.
    ///
    /// # Errors
    ///
    /// The name is taken, also where it is to be replaced and is that of a device, a pipe, a socket, a directory, or of
    /// a symbolic link to one of these; or the directory cannot be written.
    pub fn create(path: &Path, replace: bool) -> Result<Self, OutputError> {
        let (directory, name) = parent_and_name(path)?;
        let name = name.as_os_str();
        if let Ok(there) = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            let kind = FileType::from_raw_mode(there.st_mode);
            if kind == FileType::Symlink {
                check_link(&directory, name)?;
            }
            check_taken(kind, replace)?;
        }
        let owner_only = Mode::RUSR | Mode::WUSR;
        let unnamed =
            rustix::fs::openat(&directory, ".", OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, owner_only);
        let (file, temporary) = match unnamed {
            Ok(file) => (file, None),
            // EISDIR is what a kernel or file system says that does not know the flag (open(2)).
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {
                let temporary = temporary_name(name);
                let file = rustix::fs::openat(
                    &directory,
                    &temporary,
                    OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    owner_only,
                )
                .map_err(|errno| io("creating the file", errno.into()))?;
                (file, Some(temporary))
            }
            Err(errno) => return Err(io("creating the file", errno.into())),
        };
        let output = Self {
            file: File::from(file),
            directory,
            name: name.to_owned(),
            path: path.to_owned(),
            temporary,
            replace,
        };
        // Where direct I/O is not to be had the file is written through the page cache: slower, and still right.
        if let Ok(flags) = rustix::fs::fcntl_getfl(&output.file) {
            let _ = rustix::fs::fcntl_setfl(&output.file, flags | OFlags::DIRECT);
        }
        Ok(output)
    }

    /// The name that it will have.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sets the length to `apparent` and checks that `stored` bytes have room, before the first byte is written.
    ///
    /// # Errors
    ///
    /// RLIMIT_FSIZE, the file system's largest file (`EFBIG`), or free space would be passed.
    pub fn reserve(&self, apparent: u64, stored: u64) -> Result<(), OutputError> {
        if let Some(limit) = size_limit()
            && apparent > limit
        {
            return Err(OutputError::SizeLimit { needed: apparent, limit });
        }
        check_room(&self.file, stored)?;
        self.file.set_len(apparent).map_err(|source| io("setting the length", source))
    }

    /// Gives a range of the file its blocks on the disk, so that writes into it need not wait for each other: ext4
    /// lets only one writer at a time into a file whose blocks it has to find yet.
    ///
    /// # Errors
    ///
    /// The disk is full. A file system that cannot do this finds the blocks at the writes.
    pub fn allocate(&self, offset: u64, len: u64) -> Result<(), OutputError> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, offset, len) {
            Err(errno @ (Errno::NOSPC | Errno::DQUOT)) => Err(io("finding room for it", errno.into())),
            _ => Ok(()),
        }
    }

    /// Writes all of `bytes` at `offset`; both, and the address of `bytes`, are multiples of [`ALIGNMENT`].
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), OutputError> {
        match self.file.write_all_at(bytes, offset) {
            // A file system may accept the flag and refuse the write: go on through the page cache. Another worker may
            // have found that out first.
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                self.leave_direct()?;
                self.file.write_all_at(bytes, offset).map_err(|source| io("writing", source))
            }
            result => result.map_err(|source| io("writing", source)),
        }
    }

    fn leave_direct(&self) -> Result<(), OutputError> {
        let flags = rustix::fs::fcntl_getfl(&self.file).map_err(|errno| io("writing", errno.into()))?;
        rustix::fs::fcntl_setfl(&self.file, flags - OFlags::DIRECT)
            .map_err(|errno| io("writing", errno.into()))
    }

    /// Cuts the file to its length, and opens it for reading, through the page cache: to be looked at before it gets its
    /// name.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn review(&self, len: u64) -> Result<File, OutputError> {
        self.file.set_len(len).map_err(|source| io("setting the length", source))?;
        File::open(self.own_path()).map_err(|source| io("opening it again", source))
    }

    /// Opens the file for reading, through the page cache, while it is written.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn reader(&self) -> Result<File, OutputError> {
        File::open(self.own_path()).map_err(|source| io("opening it again", source))
    }

    /// Gives the blocks of a range of the file back: it reads as zeros from then on.
    ///
    /// # Errors
    ///
    /// What the file system says to the zeros that are written where it has no holes.
    pub fn clear(&self, offset: u64, len: u64) -> Result<(), OutputError> {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if rustix::fs::fallocate(&self.file, hole, offset, len).is_ok() {
            return Ok(());
        }
        const PIECE: usize = 1 << 20;
        // Some of them begin where direct writes must.
        let zeros = vec![0_u8; PIECE + ALIGNMENT as usize];
        let start = zeros.as_ptr().align_offset(ALIGNMENT as usize).min(ALIGNMENT as usize);
        let mut done = 0;
        while done < len {
            let now = (len - done).min(PIECE as u64);
            self.write_at(zeros.get(start..start + now as usize).unwrap_or_default(), offset + done)?;
            done += now;
        }
        Ok(())
    }

    /// Takes the temporary name away, where there is one. For a file that others still share: it is dropped when they
    /// are done, which may be never.
    pub fn abandon(&self) {
        if let Some(temporary) = &self.temporary {
            // Nothing can be done about a failure here, and the first error is the one to report.
            let _ = rustix::fs::unlinkat(&self.directory, temporary, AtFlags::empty());
        }
    }

    /// Cuts the file to its length, puts it on stable storage, and gives it its name. Returns the bytes that it
    /// takes on the disk.
    ///
    /// # Errors
    ///
    /// What the file system says; then no file with the final name exists, or the one that was there before, unless it
    /// was the name itself that could not be synced.
    pub fn commit(mut self, len: u64) -> Result<u64, OutputError> {
        self.file.set_len(len).map_err(|source| io("setting the length", source))?;
        self.file.sync_all().map_err(|source| io("syncing the file", source))?;
        let stored = rustix::fs::fstat(&self.file).map_or(0, |stat| stat.st_blocks as u64 * 512);
        self.name_it()?;
        match self.directory.sync_all() {
            // Some file systems of networks have nothing to sync there, and say so.
            Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {}
            result => result.map_err(|source| io("syncing the directory", source))?,
        }
        Ok(stored)
    }

    fn name_it(&mut self) -> Result<(), OutputError> {
        match (self.temporary.take(), self.replace) {
            (None, false) => self.link(&self.name),
            (None, true) => {
                let temporary = temporary_name(&self.name);
                self.link(&temporary)?;
                self.temporary = Some(temporary.clone());
                self.rename(&temporary)?;
                self.temporary = None;
                Ok(())
            }
            (Some(temporary), replace) => {
                self.temporary = Some(temporary.clone());
                if replace {
                    self.rename(&temporary)?;
                } else {
                    rustix::fs::renameat_with(
                        &self.directory,
                        &temporary,
                        &self.directory,
                        &self.name,
                        rustix::fs::RenameFlags::NOREPLACE,
                    )
                    .or_else(|errno| match errno {
                        // NFS and others know no flags; the name was free when the file was made.
                        Errno::INVAL | Errno::NOSYS => {
                            rustix::fs::renameat(&self.directory, &temporary, &self.directory, &self.name)
                        }
                        errno => Err(errno),
                    })
                    .map_err(taken)?;
                }
                self.temporary = None;
                Ok(())
            }
        }
    }

    /// Links the unnamed file; through `/proc/self/fd`, since `AT_EMPTY_PATH` needs a capability (linkat(2)).
    fn link(&self, name: &std::ffi::OsStr) -> Result<(), OutputError> {
        rustix::fs::linkat(CWD, self.own_path(), &self.directory, name, AtFlags::SYMLINK_FOLLOW)
            .map_err(taken)
    }

    /// A path to the file also while it has no name (proc(5), `/proc/PID/fd`).
    fn own_path(&self) -> String {
        format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.file.as_fd()))
    }

    fn rename(&self, temporary: &std::ffi::OsStr) -> Result<(), OutputError> {
        rustix::fs::renameat(&self.directory, temporary, &self.directory, &self.name)
            .map_err(|errno| io("naming the file", errno.into()))
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// How long a file this process may write, where that is limited (RLIMIT_FSIZE, setrlimit(2)). To pass it would be
/// a SIGXFSZ, which kills.
#[must_use]
pub fn size_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Fsize).current
}

/// The directory above a path, opened, and its last part.
pub(super) fn parent_and_name(path: &Path) -> Result<(File, OsString), OutputError> {
    let name = path.file_name().ok_or_else(|| io("naming the file", ErrorKind::InvalidInput.into()))?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let directory =
        rustix::fs::open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| io("opening the directory", errno.into()))?;
    Ok((File::from(directory), name.to_owned()))
}

/// Whether so many bytes have room on the file system of this file or directory.
pub(super) fn check_room(on: impl AsFd, stored: u64) -> Result<(), OutputError> {
    let space = rustix::fs::fstatvfs(on).map_err(|errno| io("asking for free space", errno.into()))?;
    let blocks = if rustix::process::geteuid().is_root() { space.f_bfree } else { space.f_bavail };
    let free = blocks.saturating_mul(space.f_frsize);
    if stored > free { Err(OutputError::NoSpace { needed: stored, free }) } else { Ok(()) }
}

pub(super) fn temporary_name(name: &std::ffi::OsStr) -> OsString {
    // A file name has at most 255 bytes (limits.h, NAME_MAX).
    let mut temporary = OsString::from(".");
    let kept = String::from_utf8_lossy(name.as_encoded_bytes()).chars().take(40).collect::<String>();
    temporary.push(kept);
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.subsec_nanos());
    temporary.push(format!(".{}.{nanos:x}.partial", std::process::id()));
    temporary
}

/// Whether a symbolic link may be replaced, were that asked for: one to a device or a pipe is as good as the device,
/// and one into /proc, such as /dev/stdout, stands for whatever is open there.
fn check_link(directory: impl AsFd, name: &std::ffi::OsStr) -> Result<(), OutputError> {
    let refused = |what| Err(OutputError::NoFile(what));
    if let Ok(there) = rustix::fs::statat(&directory, name, AtFlags::empty()) {
        match FileType::from_raw_mode(there.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return refused("a link to a directory"),
            FileType::Fifo => return refused("a link to a pipe"),
            FileType::Socket => return refused("a link to a socket"),
            _ => return refused("a link to a device"),
        }
    }
    match rustix::fs::readlinkat(&directory, name, Vec::new()) {
        Ok(target) if target.to_bytes().starts_with(b"/proc/") => refused("a link into /proc"),
        _ => Ok(()),
    }
}

/// Whether what has the name may be replaced: a rename would put a file in the place of `/dev/null` as well. A
/// symbolic link is replaced itself, and what it leads to stays as it is.
fn check_taken(kind: FileType, replace: bool) -> Result<(), OutputError> {
    match kind {
        FileType::RegularFile | FileType::Symlink if replace => Ok(()),
        FileType::RegularFile | FileType::Symlink => Err(OutputError::Exists),
        FileType::Directory => Err(OutputError::NoFile("a directory")),
        FileType::Fifo => Err(OutputError::NoFile("a pipe")),
        FileType::Socket => Err(OutputError::NoFile("a socket")),
        _ => Err(OutputError::NoFile("a device")),
    }
}

fn taken(errno: Errno) -> OutputError {
    match errno {
        Errno::EXIST => OutputError::Exists,
        errno => io("naming the file", errno.into()),
    }
}

pub(super) fn io(action: &'static str, source: std::io::Error) -> OutputError {
    OutputError::Io { action, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memfetch_sys::buffer::Buffer;

    fn page(byte: u8) -> Buffer {
        let mut buffer = Buffer::new(ALIGNMENT as usize).unwrap();
        buffer.fill(byte);
        buffer
    }

    #[test]
    fn it_has_its_name_only_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.core");
        let output = OutputFile::create(&path, false).unwrap();
        output.reserve(3 * ALIGNMENT, ALIGNMENT).unwrap();
        output.write_at(&page(7), ALIGNMENT).unwrap();
        assert!(!path.exists());
        output.commit(2 * ALIGNMENT + 5).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len() as u64, 2 * ALIGNMENT + 5);
        assert_eq!((bytes[0], bytes[4096], bytes[8191], bytes[8192]), (0, 7, 7, 0));
        let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(OutputFile::create(&path, false), Err(OutputError::Exists)));
        let output = OutputFile::create(&path, true).unwrap();
        output.commit(1).unwrap();
        assert_eq!(path.metadata().unwrap().len(), 1);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failure_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.core");
        let mut output = OutputFile::create(&path, false).unwrap();
        // As on a file system without O_TMPFILE.
        let temporary = temporary_name(std::ffi::OsStr::new("a.core"));
        std::fs::write(folder.path().join(&temporary), b"").unwrap();
        output.temporary = Some(temporary);
        drop(output);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        // Somebody takes the name meanwhile.
        let output = OutputFile::create(&path, false).unwrap();
        std::fs::write(&path, b"mine").unwrap();
        assert!(matches!(output.commit(0), Err(OutputError::Exists)));
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn a_dangling_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.core");
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(matches!(OutputFile::create(&path, false), Err(OutputError::Exists)));
    }

    #[test]
    fn a_pipe_is_not_replaced_by_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        for replace in [false, true] {
            assert!(matches!(OutputFile::create(&path, replace), Err(OutputError::NoFile("a pipe"))));
            assert!(matches!(
                OutputFile::create(folder.path(), replace),
                Err(OutputError::NoFile("a directory"))
            ));
        }
    }

    #[test]
    fn a_link_is_replaced_only_where_it_leads_to_a_file_or_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        rustix::fs::mkfifoat(CWD, at("pipe"), Mode::RUSR | Mode::WUSR).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        std::fs::write(at("file"), b"mine").unwrap();
        let open = File::open(at("file")).unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&open);
        for (target, what) in [
            ("pipe", "a link to a pipe"),
            ("socket", "a link to a socket"),
            ("/dev/null", "a link to a device"),
            (".", "a link to a directory"),
            (&format!("/proc/self/fd/{number}"), "a link into /proc"),
        ] {
            let link = at("link");
            std::os::unix::fs::symlink(target, &link).unwrap();
            std::os::unix::fs::symlink("link", at("far")).unwrap();
            for replace in [false, true] {
                let refused = OutputFile::create(&link, replace).unwrap_err();
                assert!(matches!(refused, OutputError::NoFile(found) if found == what), "{refused}");
            }
            if what != "a link into /proc" {
                let refused = OutputFile::create(&at("far"), true).unwrap_err();
                assert!(matches!(refused, OutputError::NoFile(found) if found == what), "{refused}");
            }
            std::fs::remove_file(&link).unwrap();
            std::fs::remove_file(at("far")).unwrap();
        }
        for target in ["file", "nowhere", "link"] {
            std::os::unix::fs::symlink(target, at("link")).unwrap();
            assert!(matches!(OutputFile::create(&at("link"), false), Err(OutputError::Exists)));
            OutputFile::create(&at("link"), true).unwrap().commit(1).unwrap();
            assert!(at("link").symlink_metadata().unwrap().is_file());
            std::fs::remove_file(at("link")).unwrap();
        }
        assert_eq!(std::fs::read(at("file")).unwrap(), b"mine");
        assert!(!at("nowhere").exists());
    }

    #[test]
    fn no_room_is_said_before_the_first_byte() {
        let folder = tempfile::tempdir().unwrap();
        let output = OutputFile::create(&folder.path().join("a.core"), false).unwrap();
        let refused = output.reserve(ALIGNMENT, 1 << 60);
        assert!(matches!(refused, Err(OutputError::NoSpace { needed, .. }) if needed == 1 << 60));
    }
}
