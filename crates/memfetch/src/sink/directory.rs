//! [`OutputDirectory`]: a directory of files that has its name only when it is whole.
//!
//! It is made under a temporary name beside the final one, and renamed at the end. Its files are written with
//! `O_DIRECT` where the file system can, each opened for as long as a write takes: a process may have more mappings
//! than this one may have open files.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use rustix::fs::{Access, AtFlags, Dir, FallocateFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::file::{check_room, io, parent_and_name, size_limit, temporary_name};
use crate::error::OutputError;

/// A directory in the making.
#[derive(Debug)]
pub struct OutputDirectory {
    /// Held, so that its renaming meanwhile does not matter.
    parent: File,
    name: OsString,
    path: PathBuf,
    replace: bool,
    /// Which names are of such directories: nothing else is ever taken away.
    is_ours: fn(&OsStr) -> bool,
    made: Option<Made>,
    /// Whether no file is to be made in it any more; held while one is.
    is_abandoned: RwLock<bool>,
}

#[derive(Debug)]
struct Made {
    name: OsString,
    directory: File,
}

impl OutputDirectory {
    /// Looks whether a directory can be made that will be called `path`; with `replace` it takes the place of one that
    /// has the name, if that holds nothing but files of which `is_ours` is true.
    ///
    /// # Errors
    ///
    /// The name is taken, also where it is to be replaced by that of something else; the directory above cannot be
    /// written.
    pub fn create(path: &Path, replace: bool, is_ours: fn(&OsStr) -> bool) -> Result<Self, OutputError> {
        let (parent, name) = parent_and_name(path)?;
        let output = Self {
            parent,
            name,
            path: path.to_owned(),
            replace,
            is_ours,
            made: None,
            is_abandoned: RwLock::new(false),
        };
        output.check_taken()?;
        rustix::fs::accessat(&output.parent, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
            .map_err(|errno| io("creating the directory", errno.into()))?;
        Ok(output)
    }

    fn check_taken(&self) -> Result<(), OutputError> {
        let Ok(there) = rustix::fs::statat(&self.parent, &self.name, AtFlags::SYMLINK_NOFOLLOW) else {
            return Ok(());
        };
        match FileType::from_raw_mode(there.st_mode) {
            FileType::Directory if self.replace => {}
            FileType::Directory => return Err(OutputError::DirectoryExists),
            _ if self.replace => return Err(OutputError::NoDirectory),
            _ => return Err(OutputError::Exists),
        }
        let directory = open_directory(&self.parent, &self.name)?;
        match names_in(&directory)?.into_iter().find(|name| !(self.is_ours)(name)) {
            Some(name) => Err(OutputError::NotOurs(name.to_string_lossy().into_owned())),
            None => Ok(()),
        }
    }

    /// The name that it will have.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it, under its temporary name, and checks that files of these lengths have room. No file is there yet.
    ///
    /// # Errors
    ///
    /// RLIMIT_FSIZE or free space would be passed; what the file system says.
    pub fn make(&mut self, longest: u64, stored: u64) -> Result<(), OutputError> {
        if let Some(limit) = size_limit().filter(|&limit| longest > limit) {
            return Err(OutputError::SizeLimit { needed: longest, limit });
        }
        let name = temporary_name(&self.name);
        rustix::fs::mkdirat(&self.parent, &name, Mode::RWXU)
            .map_err(|errno| io("creating the directory", errno.into()))?;
        let opened = open_directory(&self.parent, &name);
        let Ok(directory) = opened else {
            let _ = rustix::fs::unlinkat(&self.parent, &name, AtFlags::REMOVEDIR);
            return opened.map(drop);
        };
        let room = check_room(&directory, stored);
        self.made = Some(Made { name, directory });
        room
    }

    fn directory(&self) -> Result<&File, OutputError> {
        self.made.as_ref().map(|made| &made.directory).ok_or_else(|| io("writing", Errno::NOENT.into()))
    }

    /// Nothing is made in it from here on; returns whether that was so before.
    fn close(&self) -> bool {
        let mut is_abandoned = self.is_abandoned.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *is_abandoned, true)
    }

    fn file(&self, name: &str) -> Result<File, OutputError> {
        let is_abandoned = self.is_abandoned.read().unwrap_or_else(PoisonError::into_inner);
        if *is_abandoned {
            return Err(io("writing", Errno::NOENT.into()));
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(self.directory()?, name, flags, Mode::RUSR | Mode::WUSR)
            .map(File::from)
            .map_err(|errno| io("creating a file", errno.into()))
    }

    /// Gives a range of a file its blocks on the disk: see [`OutputFile::allocate`](super::OutputFile::allocate).
    ///
    /// # Errors
    ///
    /// The disk is full, or the file cannot be made.
    pub fn allocate(&self, name: &str, offset: u64, len: u64) -> Result<(), OutputError> {
        match rustix::fs::fallocate(self.file(name)?, FallocateFlags::KEEP_SIZE, offset, len) {
            Err(errno @ (Errno::NOSPC | Errno::DQUOT)) => Err(io("finding room for it", errno.into())),
            _ => Ok(()),
        }
    }

    /// Writes ranges of `bytes` into a file, which is made where it is not there: `ranges` are offsets in the file,
    /// positions in `bytes`, and lengths, all multiples of [`ALIGNMENT`](super::file::ALIGNMENT).
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn write_at(
        &self,
        name: &str,
        bytes: &[u8],
        ranges: impl Iterator<Item = (u64, usize, usize)>,
    ) -> Result<(), OutputError> {
        let file = self.file(name)?;
        // Where direct I/O is not to be had the file is written through the page cache: slower, and still right.
        let flags = rustix::fs::fcntl_getfl(&file).map_err(|errno| io("writing", errno.into()))?;
        let mut is_direct = rustix::fs::fcntl_setfl(&file, flags | OFlags::DIRECT).is_ok();
        for (offset, from, len) in ranges {
            let Some(piece) = bytes.get(from..from.saturating_add(len)) else { continue };
            match file.write_all_at(piece, offset) {
                Err(error) if is_direct && error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                    is_direct = false;
                    rustix::fs::fcntl_setfl(&file, flags).map_err(|errno| io("writing", errno.into()))?;
                    file.write_all_at(piece, offset).map_err(|source| io("writing", source))?;
                }
                result => result.map_err(|source| io("writing", source))?,
            }
        }
        Ok(())
    }

    /// Writes a small file whole.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), OutputError> {
        if let Some(limit) = size_limit().filter(|&limit| bytes.len() as u64 > limit) {
            return Err(OutputError::SizeLimit { needed: bytes.len() as u64, limit });
        }
        self.file(name)?.write_all_at(bytes, 0).map_err(|source| io("writing", source))
    }

    /// Gives a file its length, what lies behind its last byte being a hole; returns whether it got that.
    ///
    /// # Errors
    ///
    /// What the file system says, but that it does not take files so long.
    pub fn set_len(&self, name: &str, len: u64) -> Result<bool, OutputError> {
        match self.file(name)?.set_len(len) {
            Err(error) if error.kind() == std::io::ErrorKind::FileTooLarge => Ok(false),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => Ok(false),
            result => result.map(|()| true).map_err(|source| io("setting the length", source)),
        }
    }

    /// Takes it away, where it has been made. Workers that are stuck make nothing in it any more.
    pub fn abandon(&self) {
        if self.close() {
            return;
        }
        if let Some(made) = &self.made {
            remove(&self.parent, &made.name, &made.directory, |_| true);
        }
    }

    /// Puts its files on stable storage and gives it its name. Returns the bytes that they take on the disk.
    ///
    /// # Errors
    ///
    /// What the file system says; then no directory with the final name exists, or the one that was there before.
    pub fn commit(self) -> Result<u64, OutputError> {
        let syncing = |source| io("syncing the files", source);
        let directory = self.directory()?;
        let mut stored = 0;
        for name in names_in(directory)? {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(directory, &name, flags, Mode::empty())
                .map(File::from)
                .map_err(|errno| syncing(errno.into()))?;
            file.sync_all().map_err(syncing)?;
            stored += rustix::fs::fstat(&file).map_or(0, |stat| stat.st_blocks.cast_unsigned() * 512);
        }
        sync(directory)?;
        self.name_it()?;
        sync(&self.parent)?;
        Ok(stored)
    }

    fn name_it(&self) -> Result<(), OutputError> {
        let Some(made) = &self.made else { return Err(io("naming the directory", Errno::NOENT.into())) };
        let rename =
            |flags| rustix::fs::renameat_with(&self.parent, &made.name, &self.parent, &self.name, flags);
        let fail = |errno: Errno| match errno {
            Errno::EXIST | Errno::NOTEMPTY => OutputError::DirectoryExists,
            errno => io("naming the directory", errno.into()),
        };
        match rename(RenameFlags::NOREPLACE) {
            Ok(()) => {
                self.close();
                return Ok(());
            }
            Err(Errno::EXIST) if self.replace => {}
            // NFS and others know no flags. A plain rename takes the place of an empty directory at the most.
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::renameat(&self.parent, &made.name, &self.parent, &self.name).map_err(fail)?;
                self.close();
                return Ok(());
            }
            Err(errno) => return Err(fail(errno)),
        }
        // Somebody may have put something into it since.
        self.check_taken()?;
        let old = open_directory(&self.parent, &self.name)?;
        rename(RenameFlags::EXCHANGE).map_err(fail)?;
        self.close();
        remove(&self.parent, &made.name, &old, self.is_ours);
        Ok(())
    }
}

impl Drop for OutputDirectory {
    fn drop(&mut self) {
        self.abandon();
    }
}

fn open_directory(parent: &File, name: &OsStr) -> Result<File, OutputError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
        .map(File::from)
        .map_err(|errno| io("opening the directory", errno.into()))
}

fn names_in(directory: &File) -> Result<Vec<OsString>, OutputError> {
    let fail = |errno: Errno| io("listing the directory", errno.into());
    let mut names = Vec::new();
    for entry in Dir::read_from(directory).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

/// Takes a directory and its files away. Where something else is in it, that and the directory stay; nothing can be
/// done about any other failure, and the first error is the one to report.
fn remove(parent: &File, name: &OsStr, directory: &File, is_ours: impl Fn(&OsStr) -> bool) {
    for file in names_in(directory).unwrap_or_default().iter().filter(|name| is_ours(name)) {
        let _ = rustix::fs::unlinkat(directory, file, AtFlags::empty());
    }
    let _ = rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR);
}

fn sync(directory: &File) -> Result<(), OutputError> {
    use std::io::ErrorKind::{InvalidInput, Unsupported};
    match directory.sync_all() {
        // Some file systems of networks have nothing to sync there, and say so.
        Err(error) if matches!(error.kind(), InvalidInput | Unsupported) => Ok(()),
        result => result.map_err(|source| io("syncing the directory", source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn is_ours(name: &OsStr) -> bool {
        name.as_bytes().ends_with(b".bin")
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    fn output(path: &Path, replace: bool, file: &str) -> OutputDirectory {
        let mut output = OutputDirectory::create(path, replace, is_ours).unwrap();
        output.make(1, 1).unwrap();
        output.write(file, b"bytes").unwrap();
        output
    }

    #[test]
    fn it_has_its_name_only_when_it_is_whole_and_is_nobody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dump");
        let first = output(&path, false, "a.bin");
        assert!(!path.exists());
        assert!(first.set_len("a.bin", 1 << 20).unwrap());
        first.commit().unwrap();
        assert_eq!((names(folder.path()), names(&path)), (vec!["dump".to_owned()], vec!["a.bin".to_owned()]));
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join("a.bin"))), (0o700, 0o600));
        assert_eq!(path.join("a.bin").metadata().unwrap().len(), 1 << 20);
        assert!(matches!(OutputDirectory::create(&path, false, is_ours), Err(OutputError::DirectoryExists)));
        output(&path, true, "b.bin").commit().unwrap();
        assert_eq!((names(folder.path()), names(&path)), (vec!["dump".to_owned()], vec!["b.bin".to_owned()]));
    }

    #[test]
    fn what_is_not_ours_is_never_taken_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dump");
        output(&path, false, "a.bin").commit().unwrap();
        let late = output(&path, true, "b.bin");
        std::fs::write(path.join("letter.txt"), b"mine").unwrap();
        assert!(matches!(late.commit(), Err(OutputError::NotOurs(name)) if name == "letter.txt"));
        let refused = OutputDirectory::create(&path, true, is_ours);
        assert!(matches!(refused, Err(OutputError::NotOurs(_))));
        assert_eq!(
            (names(folder.path()), names(&path)),
            (vec!["dump".to_owned()], vec!["a.bin".to_owned(), "letter.txt".to_owned()])
        );
        std::fs::write(folder.path().join("file"), b"").unwrap();
        let at = folder.path().join("file");
        assert!(matches!(OutputDirectory::create(&at, false, is_ours), Err(OutputError::Exists)));
        assert!(matches!(OutputDirectory::create(&at, true, is_ours), Err(OutputError::NoDirectory)));
    }

    #[test]
    fn a_failure_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dump");
        let lost = output(&path, false, "a.bin");
        assert_eq!(names(folder.path()).len(), 1);
        lost.abandon();
        assert!(names(folder.path()).is_empty());
        assert!(lost.write("late.bin", b"x").is_err());
        drop(lost);
        drop(output(&path, false, "a.bin"));
        assert!(names(folder.path()).is_empty());
        // Somebody takes the name meanwhile.
        let late = output(&path, false, "a.bin");
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(late.commit(), Err(OutputError::DirectoryExists)));
        assert_eq!(names(folder.path()), ["dump"]);
        let mut full = OutputDirectory::create(&folder.path().join("full"), false, is_ours).unwrap();
        assert!(matches!(full.make(1, 1 << 60), Err(OutputError::NoSpace { .. })));
        drop(full);
        assert_eq!(names(folder.path()), ["dump"]);
    }
}
