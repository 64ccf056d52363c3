//! The files and memory objects behind mappings, opened from outside: what can be read there need not be read
//! through the target's page table.

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use memfetch_sys::object;
use rustix::fs::{Advice, AtFlags, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Stat, StatxFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::identity::Identity;
use crate::address::Span;
use crate::region::{Device, FileBacking, FileKind};

/// So many files are kept open.
const MAX_OPEN: usize = 128;

/// After this time a file that could not be found is looked for again.
const FORGET_MISSING: Duration = Duration::from_secs(1);

/// The target's descriptors are listed again for a file that is not in the list only if the list is older than
/// this, and than so many times what it took to make.
const LIST_AGAIN: Duration = Duration::from_secs(1);
const LIST_AGAIN_TIMES: u32 = 16;

/// `RWF_DONTCACHE` of linux/fs.h, since Linux 6.14: what the read brings into the page cache leaves it again.
const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// What sort of thing a mapping's file is, by its inode and file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// A file on a disk, or on a network.
    Disk,
    /// Its bytes are memory: tmpfs, memfd, shared anonymous memory, hugetlbfs.
    Memory,
    /// `/dev/zero`: a private mapping of it is anonymous memory.
    DevZero,
    /// A device, or anything else that is not opened.
    Device,
}

/// An object behind mappings. It stays the same one for as long as this is held.
#[derive(Debug)]
pub struct BackingFile {
    /// Opened with `O_PATH`, which runs no code of a driver: a device node is never opened for real.
    place: OwnedFd,
    kind: ObjectKind,
    /// It is memory that may be in swap: not that of ramfs or hugetlbfs.
    may_be_in_swap: bool,
    is_of_huge_pages: bool,
    reader: OnceLock<Option<OwnedFd>>,
    no_dontcache: AtomicBool,
}

impl BackingFile {
    fn new(place: OwnedFd) -> Option<Self> {
        let stat = rustix::fs::fstat(&place).ok()?;
        let mut may_be_in_swap = false;
        let mut is_of_huge_pages = false;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => match rustix::fs::fstatfs(&place).ok()?.f_type {
                // tmpfs: memfd and shared anonymous memory as well.
                0x0102_1994 => {
                    may_be_in_swap = true;
                    ObjectKind::Memory
                }
                // ramfs
                0x8584_58f6 => ObjectKind::Memory,
                // hugetlbfs
                0x9584_58f6 => {
                    is_of_huge_pages = true;
                    ObjectKind::Memory
                }
                _ => ObjectKind::Disk,
            },
            FileType::CharacterDevice if stat.st_rdev == rustix::fs::makedev(1, 5) => ObjectKind::DevZero,
            _ => ObjectKind::Device,
        };
        Some(Self {
            place,
            kind,
            may_be_in_swap,
            is_of_huge_pages,
            reader: OnceLock::new(),
            no_dontcache: AtomicBool::new(false),
        })
    }

    pub const fn kind(&self) -> ObjectKind {
        self.kind
    }

    /// Whether it lies on hugetlbfs.
    pub const fn is_of_huge_pages(&self) -> bool {
        self.is_of_huge_pages
    }

    /// Its size in bytes now.
    pub fn size(&self) -> Option<u64> {
        u64::try_from(rustix::fs::fstat(&self.place).ok()?.st_size).ok()
    }

    /// The descriptor to read from, if the file may be opened.
    fn reader(&self) -> io::Result<BorrowedFd<'_>> {
        let open = || {
            if !matches!(self.kind, ObjectKind::Disk | ObjectKind::Memory) {
                return None;
            }
            let path = own_link(&self.place);
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            // Only the owner may ask that the access time stays as it was.
            let file = rustix::fs::open(&path, flags | OFlags::NOATIME, Mode::empty())
                .or_else(|_| rustix::fs::open(&path, flags, Mode::empty()))
                .ok()?;
            // No read-ahead: what is not asked for is not brought into the page cache.
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::Random);
            Some(file)
        };
        self.reader.get_or_init(open).as_ref().map(AsFd::as_fd).ok_or_else(|| Errno::ACCESS.into())
    }

    /// Whether it can be read.
    pub fn is_readable(&self) -> bool {
        self.reader().is_ok()
    }

    /// Reads from `offset` on into a prefix of `buf`, and returns its length; 0 past the end. The page cache holds
    /// afterwards what it held before.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let file = self.reader()?;
        if self.kind == ObjectKind::Memory {
            return Ok(rustix::io::pread(file, buf, offset)?);
        }
        if !self.no_dontcache.load(Ordering::Relaxed) {
            match rustix::io::preadv2(file, &mut [IoSliceMut::new(buf)], offset, DONTCACHE) {
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                    self.no_dontcache.store(true, Ordering::Relaxed);
                }
                result => return Ok(result?),
            }
        }
        let (is_cached, len) = match cached_prefix(file, offset, buf.len()) {
            Some(prefix) => prefix,
            // A kernel before 6.5, or somebody else's file: what the cache has comes without waiting.
            None => {
                match rustix::io::preadv2(file, &mut [IoSliceMut::new(buf)], offset, ReadWriteFlags::NOWAIT) {
                    Ok(read) if read > 0 => return Ok(read),
                    Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => (true, buf.len()),
                    _ => (false, buf.len()),
                }
            }
        };
        let read = rustix::io::pread(file, buf.split_at_mut(len.min(buf.len())).0, offset)?;
        if !is_cached {
            // It is dropped from the cache again.
            let dropped = u64::try_from(read).ok().and_then(|n| n.try_into().ok());
            let _ = rustix::fs::fadvise(file, offset, dropped, Advice::DontNeed);
        }
        Ok(read)
    }

    /// Reads as [`Self::read_at`] does, at most [`MAX_PUT_BACK`] bytes. What the read brings into RAM from swap goes
    /// back there; the bytes that do not are added to `left_in_ram`.
    pub fn read_and_put_back(
        &self,
        offset: u64,
        buf: &mut [u8],
        left_in_ram: &AtomicU64,
    ) -> io::Result<usize> {
        let len = buf.len().min(MAX_PUT_BACK);
        let buf = buf.split_at_mut(len).0;
        if !self.may_be_in_swap || !has_swap() {
            return self.read_at(offset, buf);
        }
        let file = self.reader()?;
        // The kernel reads some pages around from swap as well.
        let start = offset.saturating_sub(AROUND) & !(PAGE - 1);
        let end = offset.saturating_add(len as u64 + AROUND).min(self.size().unwrap_or_default());
        let pages = usize::try_from(end.saturating_sub(start).div_ceil(PAGE)).unwrap_or_default();
        // Who may not know (it takes the right to write) cannot send it back either.
        let before = object::in_swap(file, start, pages).unwrap_or_default();
        let read = self.read_at(offset, buf)?;
        let mut brought_in: Vec<(usize, usize)> = Vec::new();
        // The second time is for pages that another processor had not yet put on the kernel's lists.
        for _ in 0..2 {
            if !before.contains(&true) {
                break;
            }
            let now = object::in_swap(file, start, pages).unwrap_or_default();
            brought_in.clear();
            for (page, _) in before.iter().zip(&now).enumerate().filter(|(_, (was, is))| **was && !**is) {
                match brought_in.last_mut() {
                    Some((first, count)) if *first + *count == page => *count += 1,
                    _ => brought_in.push((page, 1)),
                }
            }
            for &(first, count) in &brought_in {
                let _ = object::page_out(file, start + first as u64 * PAGE, count);
            }
        }
        for (first, count) in brought_in {
            let now = object::in_swap(file, start + first as u64 * PAGE, count).unwrap_or_default();
            let left = count - now.iter().filter(|&&is| is).count();
            left_in_ram.fetch_add(left as u64 * PAGE, Ordering::Relaxed);
        }
        Ok(read)
    }

    /// Cuts the part `start..end` of the object into holes and data, in order: `true` is data. Calls of `each`
    /// stop at the end of the object. `Err` where it may not be opened.
    pub fn extents(&self, start: u64, end: u64, mut each: impl FnMut(u64, u64, bool)) -> io::Result<()> {
        let file = self.reader()?;
        // A mapping reaches to the end of the object's last page.
        let size = self.size().ok_or(Errno::IO)?;
        let end = end.min(size.saturating_add(PAGE - 1) & !(PAGE - 1));
        let mut at = start;
        while at < end {
            let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
                Ok(data) => data.clamp(at, end),
                Err(Errno::NXIO) => end,
                // No such seek: all of it may be data.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
                Err(error) => return Err(error.into()),
            };
            if data > at {
                each(at, data, false);
                at = data;
                continue;
            }
            let hole = match rustix::fs::seek(file, SeekFrom::Hole(at)) {
                Ok(hole) => hole.saturating_add(PAGE - 1) & !(PAGE - 1),
                Err(_) => end,
            };
            // The object may change meanwhile; the walk goes on in any case.
            let hole = hole.clamp(at.saturating_add(PAGE).min(end), end);
            each(at, hole, true);
            at = hole;
        }
        Ok(())
    }
}

const PAGE: u64 = 4096;

/// So much at once is brought into RAM and sent back to swap.
const MAX_PUT_BACK: usize = 256 << 10;

/// More than the pages that the kernel reads at once where one is in swap (vm.page-cluster).
const AROUND: u64 = 8 * PAGE;

/// Whether this machine has swap space now. sysinfo(2) takes a microsecond, next to nothing at 256 KiB.
pub fn has_swap() -> bool {
    rustix::system::sysinfo().totalswap > 0
}

/// The objects behind a target's mappings, opened when they are first needed and kept, up to a bound.
///
/// While one is held its inode number cannot pass to another file.
#[derive(Debug, Default)]
pub struct BackingFiles {
    known: Mutex<VecDeque<Known>>,
    descriptors: Mutex<Option<Arc<Descriptors>>>,
    #[cfg(test)]
    listed: std::sync::atomic::AtomicUsize,
}

/// What names an object. Device and inode alone do not: the number of a System V segment is shown as its inode,
/// on the device that memfd and shared anonymous memory have as well.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    device: Device,
    inode: u64,
    kind: FileKind,
    /// The name of what is no file of a file system.
    name: Option<OsString>,
}

impl Key {
    fn of(file: &FileBacking) -> Self {
        let name = (file.kind != FileKind::Regular).then(|| file.path.clone());
        Self { device: file.device, inode: file.inode, kind: file.kind, name }
    }
}

#[derive(Debug)]
struct Known {
    key: Key,
    file: Option<Arc<BackingFile>>,
    since: Instant,
}

impl BackingFiles {
    /// The object behind the mapping that lies at `span`, or nothing where it cannot be found from here.
    pub fn of(&self, identity: &Identity, span: Span, file: &FileBacking) -> Option<Arc<BackingFile>> {
        let key = Key::of(file);
        let found = {
            let mut known = self.known();
            known.retain(|entry| entry.file.is_some() || entry.since.elapsed() < FORGET_MISSING);
            known.iter().find(|entry| entry.key == key).map(|entry| entry.file.clone())
        };
        if let Some(found) = found {
            return found;
        }
        // The lock is not held meanwhile: this may block on a file system that does not answer.
        let opened = self.locate(identity, span, file).and_then(BackingFile::new).map(Arc::new);
        let mut known = self.known();
        known.truncate(MAX_OPEN - 1);
        known.push_front(Known { key, file: opened.clone(), since: Instant::now() });
        opened
    }

    fn known(&self) -> std::sync::MutexGuard<'_, VecDeque<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds the object by the mapping itself (`map_files`, which needs `CAP_SYS_ADMIN` or
    /// `CAP_CHECKPOINT_RESTORE`), else among the target's open files, else by its path.
    fn locate(&self, identity: &Identity, span: Span, file: &FileBacking) -> Option<OwnedFd> {
        by_mapping(identity, span, file)
            .or_else(|| self.by_descriptor(identity, file))
            .or_else(|| by_path(identity, file))
    }

    /// A target may have thousands of descriptors, and as many files to look for: they are listed once.
    fn by_descriptor(&self, identity: &Identity, file: &FileBacking) -> Option<OwnedFd> {
        if !file.deleted && file.kind == FileKind::Regular {
            return None;
        }
        let flags = PLACE | OFlags::DIRECTORY;
        let folder = rustix::fs::openat(identity.directory(), "fd", flags, Mode::empty()).ok()?;
        let listed = self.descriptors().clone();
        if let Some(listed) = listed {
            if let Some(place) = listed.open(&folder, file) {
                return Some(place);
            }
            if listed.since.elapsed() < LIST_AGAIN.max(listed.took.saturating_mul(LIST_AGAIN_TIMES)) {
                return None;
            }
        }
        #[cfg(test)]
        self.listed.fetch_add(1, Ordering::Relaxed);
        // Without the lock, as in `of`.
        let listed = Arc::new(Descriptors::list(identity)?);
        *self.descriptors() = Some(Arc::clone(&listed));
        listed.open(&folder, file)
    }

    fn descriptors(&self) -> std::sync::MutexGuard<'_, Option<Arc<Descriptors>>> {
        self.descriptors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The open files of a target by device and inode, as they were at one time.
#[derive(Debug)]
struct Descriptors {
    numbers: HashMap<(Device, u64), Vec<OsString>>,
    since: Instant,
    took: Duration,
}

impl Descriptors {
    /// So many descriptors of one file are remembered: others are of no more use, unless an inode number of
    /// memory objects, which are not unique for ever, stands for several of them.
    const SAME: usize = 8;

    fn list(identity: &Identity) -> Option<Self> {
        let begun = Instant::now();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(identity.directory(), "fd", flags, Mode::empty()).ok()?;
        let mut numbers: HashMap<(Device, u64), Vec<OsString>> = HashMap::new();
        for entry in rustix::fs::Dir::read_from(&folder).ok()? {
            let Ok(entry) = entry else { break };
            let number = entry.file_name();
            // What a server would have to be asked for is not needed.
            let Ok(stat) = rustix::fs::statx(
                &folder,
                number,
                AtFlags::STATX_DONT_SYNC,
                StatxFlags::TYPE | StatxFlags::INO,
            ) else {
                continue;
            };
            if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::RegularFile {
                continue;
            }
            let device = Device { major: stat.stx_dev_major, minor: stat.stx_dev_minor };
            let same = numbers.entry((device, stat.stx_ino)).or_default();
            if same.len() < Self::SAME {
                same.push(OsStr::from_bytes(number.to_bytes()).to_owned());
            }
        }
        Some(Self { numbers, since: Instant::now(), took: begun.elapsed() })
    }

    /// Opens the file by a descriptor that the target has of it, if it is still the same one.
    fn open(&self, folder: &OwnedFd, file: &FileBacking) -> Option<OwnedFd> {
        self.numbers.get(&(file.device, file.inode))?.iter().find_map(|number| {
            let is_named = |name: &[u8]| name.strip_suffix(b" (deleted)") == Some(file.path.as_bytes());
            let place = rustix::fs::openat(folder, number, PLACE, Mode::empty()).ok()?;
            if !rustix::fs::fstat(&place).is_ok_and(|stat| is_file(&stat, file)) {
                return None;
            }
            // Inode numbers of memory objects are not unique for ever; their names are compared as well. It is
            // the name of what was opened, whatever the target's number stands for by now.
            let link = || rustix::fs::readlink(own_link(&place), Vec::new()).unwrap_or_default();
            (file.kind == FileKind::Regular || is_named(link().to_bytes())).then_some(place)
        })
    }
}

/// Where this process has a descriptor of its own among its files.
fn own_link(descriptor: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd())
}

const PLACE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

fn by_mapping(identity: &Identity, span: Span, file: &FileBacking) -> Option<OwnedFd> {
    let link = format!("map_files/{:x}-{:x}", span.start().get(), span.end().get());
    let place = rustix::fs::openat(identity.directory(), &link, PLACE, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&place).ok()?;
    // The mapping may have been replaced since the map was read. On some file systems the map and stat(2) tell
    // different numbers; the name is the same then.
    let is_named = || {
        let name = rustix::fs::readlinkat(identity.directory(), &link, Vec::new()).unwrap_or_default();
        let name = name.to_bytes();
        name.strip_suffix(b" (deleted)").unwrap_or(name) == file.path.as_bytes()
    };
    let is_same = stat.st_ino == file.inode || tells_two_devices(&place) && is_named();
    is_same.then_some(place)
}

fn by_path(identity: &Identity, file: &FileBacking) -> Option<OwnedFd> {
    if file.kind != FileKind::Regular {
        return None;
    }
    let flags = PLACE | OFlags::DIRECTORY;
    let root = rustix::fs::openat(identity.directory(), "root", flags, Mode::empty()).ok()?;
    let open = |path: &OsStr| {
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let place = rustix::fs::openat2(&root, Path::new(path), PLACE, Mode::empty(), inside).ok()?;
        let stat = rustix::fs::fstat(&place).ok()?;
        let is_same = is_file(&stat, file) || stat.st_ino == file.inode && tells_two_devices(&place);
        is_same.then_some(place)
    };
    open(&file.path).or_else(|| {
        // ` (deleted)` may be part of a real name.
        let mut name = file.path.clone();
        name.push(" (deleted)");
        file.deleted.then(|| open(&name)).flatten()
    })
}

fn is_file(stat: &Stat, file: &FileBacking) -> bool {
    let device = Device { major: rustix::fs::major(stat.st_dev), minor: rustix::fs::minor(stat.st_dev) };
    stat.st_ino == file.inode && device == file.device
}

/// Whether the map shows another device number than stat(2) does: btrfs and overlayfs.
fn tells_two_devices(place: &OwnedFd) -> bool {
    rustix::fs::fstatfs(place).is_ok_and(|stat| matches!(stat.f_type, 0x9123_683e | 0x794c_7630))
}

/// Whether the page at `offset` is in the page cache, and how many of `len` bytes from there on are alike; `None` where
/// the kernel does not tell.
///
/// A read that does not wait cannot tell either: on 6.12 it brought in what came quickly, and gave it as if it had
/// been there.
fn cached_prefix(file: BorrowedFd<'_>, offset: u64, len: usize) -> Option<(bool, usize)> {
    let pages = |from: u64, to: u64| object::cached(file, from, to - from).ok();
    let (start, end) = (offset & !(PAGE - 1), offset.saturating_add(len as u64).next_multiple_of(PAGE));
    let all = end.saturating_sub(start) / PAGE;
    match pages(start, end)? {
        0 => return Some((false, len)),
        cached if cached >= all => return Some((true, len)),
        _ => {}
    }
    let first = pages(start, start + PAGE)? > 0;
    let mut at = start + PAGE;
    while at < end && (pages(at, at + PAGE)? > 0) == first {
        at += PAGE;
    }
    Some((first, usize::try_from(at - offset).unwrap_or(len).min(len)))
}

#[cfg(test)]
mod tests {
    use memfetch_testkit::Target as Program;

    use super::super::process::Process;
    use super::*;

    #[test]
    fn many_memfds_are_found_by_few_lists_of_the_descriptors() {
        const COUNT: usize = 1500;
        let program = Program::spawn("many-memfds", &[&COUNT.to_string()]);
        let process = Process::open(program.pid()).unwrap();
        let target = process.target();
        let regions = target.regions().unwrap();
        let is_memfd = |file: &&FileBacking| file.kind == FileKind::Memfd;
        let memfds: Vec<_> = regions.iter().filter_map(|region| region.file().filter(is_memfd)).collect();
        assert_eq!(memfds.len(), COUNT);
        let files = BackingFiles::default();
        // More of them than are kept open, and each is looked for again. As an ordinary user finds them.
        for file in memfds.iter().chain(&memfds) {
            let place = files.by_descriptor(&target.identity, file).unwrap();
            let object = BackingFile::new(place).unwrap();
            assert_eq!(object.kind(), ObjectKind::Memory);
            let mut word = [0; 8];
            assert_eq!(object.read_at(0, &mut word).unwrap(), word.len());
            let start = regions.iter().find(|region| region.file() == Some(*file)).unwrap().span.start();
            assert_eq!(u64::from_ne_bytes(word), start.get());
        }
        assert_eq!(files.listed.load(Ordering::Relaxed), 1);
        // What is not there is not looked for each time.
        let gone = FileBacking { inode: u64::MAX, ..memfds[0].clone() };
        let begun = Instant::now();
        for _ in 0..COUNT {
            assert!(files.by_descriptor(&target.identity, &gone).is_none());
        }
        let allowed = 2 + begun.elapsed().as_secs();
        assert!(files.listed.load(Ordering::Relaxed) as u64 <= allowed);
        // A name that differs is another object.
        let named = FileBacking { path: "/memfd:other".into(), ..memfds[0].clone() };
        assert!(files.by_descriptor(&target.identity, &named).is_none());
    }
}
