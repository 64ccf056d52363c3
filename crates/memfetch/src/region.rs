//! Regions: the mapped parts of an address space, and what stands behind each.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use serde::{Serialize, Serializer};

use crate::address::{Address, Span};

/// One mapping: a line of `/proc/PID/maps`, or a segment of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Region {
    /// Where it lies.
    pub span: Span,
    /// What the process itself may do with it.
    pub permissions: Permissions,
    /// What stands behind it.
    pub backing: Backing,
}

impl Region {
    /// Whether a page that was never touched is zero by definition: private anonymous memory only.
    ///
    /// In a shared mapping an empty page table entry says nothing, and in a file mapping the page is the file's.
    #[must_use]
    pub fn is_zero_until_touched(&self) -> bool {
        !self.permissions.shared
            && match &self.backing {
                Backing::Anonymous { .. } | Backing::Heap | Backing::Stack => true,
                Backing::File(file) => file.kind == FileKind::HugePages,
                Backing::Kernel(_) => false,
            }
    }

    /// Whether the bytes lie in memory rather than on a disk: shared anonymous memory, memfd, System V.
    ///
    /// A file on tmpfs cannot be told from one on a disk by its name, and is not counted.
    #[must_use]
    pub fn is_shared_memory(&self) -> bool {
        self.permissions.shared
            && matches!(&self.backing, Backing::File(file) if matches!(
                file.kind,
                FileKind::SharedAnonymous | FileKind::Memfd | FileKind::SystemV | FileKind::HugePages
            ))
    }

    /// The file behind the region, if any.
    #[must_use]
    pub const fn file(&self) -> Option<&FileBacking> {
        match &self.backing {
            Backing::File(file) => Some(file),
            _ => None,
        }
    }

    /// The name as `/proc/PID/maps` shows it, or nothing for plain anonymous memory.
    #[must_use]
    pub fn name(&self) -> OsString {
        match &self.backing {
            Backing::Anonymous { label: None } => OsString::new(),
            Backing::Anonymous { label: Some(label) } => bracketed("anon:", label),
            Backing::Heap => "[heap]".into(),
            Backing::Stack => "[stack]".into(),
            Backing::Kernel(name) => bracketed("", name),
            Backing::File(file) => {
                let mut name = file.path.clone();
                if file.deleted {
                    name.push(" (deleted)");
                }
                name
            }
        }
    }
}

fn bracketed(prefix: &str, name: &OsStr) -> OsString {
    let mut text = OsString::from("[");
    text.push(prefix);
    text.push(name);
    text.push("]");
    text
}

/// What a process may do with a region, and whether others see its writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Permissions {
    /// May be read.
    pub read: bool,
    /// May be written.
    pub write: bool,
    /// May be executed.
    pub execute: bool,
    /// Writes go to the object behind it (`MAP_SHARED`).
    pub shared: bool,
}

impl Permissions {
    /// Parses the four characters of `/proc/PID/maps`, such as `rw-p`.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let flag = |at: usize, set: u8, clear: u8| match text.get(at) {
            Some(&c) if c == set => Some(true),
            Some(&c) if c == clear => Some(false),
            _ => None,
        };
        if text.len() != 4 {
            return None;
        }
        Some(Self {
            read: flag(0, b'r', b'-')?,
            write: flag(1, b'w', b'-')?,
            execute: flag(2, b'x', b'-')?,
            shared: flag(3, b's', b'p')?,
        })
    }

    /// Whether nothing at all is allowed (`PROT_NONE`): a reservation, or memory that was fenced off.
    #[must_use]
    pub const fn is_none(self) -> bool {
        !self.read && !self.write && !self.execute
    }
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pick = |set: bool, c: char| if set { c } else { '-' };
        let text: String = [
            pick(self.read, 'r'),
            pick(self.write, 'w'),
            pick(self.execute, 'x'),
            if self.shared { 's' } else { 'p' },
        ]
        .iter()
        .collect();
        f.pad(&text)
    }
}

impl Serialize for Permissions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What stands behind a region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Backing {
    /// Private memory of its own; the label is what `PR_SET_VMA_ANON_NAME` gave it.
    Anonymous {
        /// The name given by the program, without `[anon:` and `]`.
        #[serde(serialize_with = "optional_lossy")]
        label: Option<OsString>,
    },
    /// The heap that `brk` grows.
    Heap,
    /// The stack of the first thread.
    Stack,
    /// A mapping that the kernel made: `vdso`, `vvar`, `vsyscall`, `uprobes` ...
    Kernel(#[serde(serialize_with = "name_field")] OsString),
    /// A file, or a memory object that the kernel shows as one.
    File(FileBacking),
}

/// The file behind a region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileBacking {
    /// The path in the target's mount namespace, unescaped, without ` (deleted)`.
    #[serde(serialize_with = "lossy")]
    pub path: OsString,
    /// The offset in the file of the region's first byte.
    pub offset: u64,
    /// The device that the file is on.
    pub device: Device,
    /// The inode number on that device.
    pub inode: u64,
    /// Whether the name ended in ` (deleted)`. That may be part of a real name: compare device and inode.
    pub deleted: bool,
    /// What sort of object it is, as far as the name tells.
    #[serde(rename = "object")]
    pub kind: FileKind,
}

/// A device number, as `/proc/PID/maps` prints it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Device {
    /// The driver.
    pub major: u32,
    /// The device of that driver.
    pub minor: u32,
}

/// What sort of object a mapped file is, as far as its name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileKind {
    /// A file of a file system (of any, tmpfs and devices included).
    Regular,
    /// `memfd_create`.
    Memfd,
    /// `mmap(MAP_SHARED | MAP_ANONYMOUS)`, shown as `/dev/zero`.
    SharedAnonymous,
    /// System V shared memory, shown as `/SYSV........`.
    SystemV,
    /// `mmap(MAP_HUGETLB)`, shown as `/anon_hugepage`.
    HugePages,
    /// `memfd_secret`: readable by nobody else.
    Secret,
    /// An inode of the kernel's own (`anon_inode:`, `socket:` ...), often device memory.
    KernelObject,
}

fn lossy<S: Serializer>(text: &OsStr, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text.to_string_lossy())
}

#[expect(clippy::ref_option, reason = "serde hands over a reference to the field")]
fn optional_lossy<S: Serializer>(text: &Option<OsString>, serializer: S) -> Result<S::Ok, S::Error> {
    text.as_ref().map(|text| text.to_string_lossy()).serialize(serializer)
}

fn name_field<S: Serializer>(name: &OsStr, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Named<'a> {
        name: std::borrow::Cow<'a, str>,
    }
    Named { name: name.to_string_lossy() }.serialize(serializer)
}

/// The regions of an address space, ascending and not overlapping.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct RegionMap(Vec<Region>);

impl RegionMap {
    /// Puts regions in order. Of two that overlap, the one that starts lower wins, and the other is cut to what
    /// lies above it: an image can claim anything.
    #[must_use]
    pub fn new(mut regions: Vec<Region>) -> Self {
        regions.sort_by_key(|region| region.span);
        let mut end = Address::ZERO;
        regions.retain_mut(|region| {
            let (cut, rest) = region.span.split_at(end);
            if let Backing::File(file) = &mut region.backing {
                file.offset = file.offset.saturating_add(cut.len());
            }
            region.span = rest;
            end = end.max(rest.end());
            !rest.is_empty()
        });
        Self(regions)
    }

    /// The regions in ascending order.
    pub fn iter(&self) -> std::slice::Iter<'_, Region> {
        self.0.iter()
    }

    /// The regions in ascending order.
    #[must_use]
    pub fn as_slice(&self) -> &[Region] {
        &self.0
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The region that holds `at`.
    #[must_use]
    pub fn at(&self, at: Address) -> Option<&Region> {
        let index = self.0.partition_point(|region| region.span.end() <= at);
        self.0.get(index).filter(|region| region.span.contains(at))
    }

    /// The regions that have at least a byte in `span`.
    pub fn within(&self, span: Span) -> impl Iterator<Item = &Region> {
        let first = self.0.partition_point(|region| region.span.end() <= span.start());
        self.0.iter().skip(first).take_while(move |region| region.span.start() < span.end())
    }

    /// The heap that `brk` grows, if there is one.
    #[must_use]
    pub fn heap(&self) -> Option<&Region> {
        self.0.iter().find(|region| region.backing == Backing::Heap)
    }

    /// The stack of the first thread.
    #[must_use]
    pub fn stack(&self) -> Option<&Region> {
        self.0.iter().find(|region| region.backing == Backing::Stack)
    }

    /// How many bytes are mapped.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|region| region.span.len()).sum()
    }
}

impl IntoIterator for RegionMap {
    type Item = Region;
    type IntoIter = std::vec::IntoIter<Region>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a RegionMap {
    type Item = &'a Region;
    type IntoIter = std::slice::Iter<'a, Region>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Backing {
    /// Reads the name column of `/proc/PID/maps`, already unescaped, with the numbers that stand before it.
    ///
    /// Source: `get_vma_name` in fs/proc/task_mmu.c.
    #[must_use]
    pub fn from_maps(name: &[u8], offset: u64, device: Device, inode: u64) -> Self {
        let os = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
        let inner = name.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
        if inode == 0 && device == Device::default() {
            return match inner {
                None if name.is_empty() => Self::Anonymous { label: None },
                Some(b"heap") => Self::Heap,
                Some(b"stack") => Self::Stack,
                Some(inner) => match inner.strip_prefix(b"anon:") {
                    Some(label) => Self::Anonymous { label: Some(os(label)) },
                    None if inner.starts_with(b"stack:") => Self::Anonymous { label: Some(os(inner)) },
                    None => Self::Kernel(os(inner)),
                },
                None => Self::File(FileBacking::named(name, offset, device, inode)),
            };
        }
        Self::File(FileBacking::named(name, offset, device, inode))
    }
}

impl FileBacking {
    /// The file with this name as the kernel prints it, ` (deleted)` included.
    #[must_use]
    pub fn named(name: &[u8], offset: u64, device: Device, inode: u64) -> Self {
        let (path, deleted) = match name.strip_suffix(b" (deleted)") {
            Some(path) => (path, true),
            None => (name, false),
        };
        let kind = if path.starts_with(b"/memfd:") && deleted {
            FileKind::Memfd
        } else if deleted && path == b"/dev/zero" || path.starts_with(b"[anon_shmem:") {
            FileKind::SharedAnonymous
        } else if path.starts_with(b"/SYSV") && deleted {
            FileKind::SystemV
        } else if path == b"/anon_hugepage" && deleted {
            FileKind::HugePages
        } else if path == b"/secretmem" {
            FileKind::Secret
        } else if path.starts_with(b"/") {
            FileKind::Regular
        } else {
            FileKind::KernelObject
        };
        Self { path: OsStr::from_bytes(path).to_owned(), offset, device, inode, deleted, kind }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(start: u64, end: u64) -> Region {
        Region {
            span: Span::new(Address::new(start), Address::new(end)).unwrap(),
            permissions: Permissions::parse(b"rw-p").unwrap(),
            backing: Backing::Anonymous { label: None },
        }
    }

    #[test]
    fn overlapping_regions_are_cut() {
        let map = RegionMap::new(vec![region(5, 20), region(0, 10), region(6, 9), region(30, 40)]);
        let spans: Vec<_> = map.iter().map(|r| (r.span.start().get(), r.span.end().get())).collect();
        assert_eq!(spans, [(0, 10), (10, 20), (30, 40)]);
        assert_eq!(map.at(Address::new(19)).unwrap().span.start().get(), 10);
        assert_eq!(map.at(Address::new(20)), None);
        assert_eq!(map.within(Span::new(Address::new(9), Address::new(31)).unwrap()).count(), 3);
    }

    #[test]
    fn permissions_read_and_print_alike() {
        for text in ["rw-p", "r-xs", "---p", "-w-s"] {
            assert_eq!(Permissions::parse(text.as_bytes()).unwrap().to_string(), text);
        }
        for bad in ["rwxp ", "rw-", "rwx-", "wr-p"] {
            assert_eq!(Permissions::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn names_tell_the_backing() {
        let file = |name: &[u8]| match Backing::from_maps(name, 0, Device { major: 0, minor: 1 }, 7) {
            Backing::File(file) => file,
            other => panic!("{other:?}"),
        };
        assert_eq!(file(b"/dev/zero (deleted)").kind, FileKind::SharedAnonymous);
        assert_eq!(file(b"/memfd:x y (deleted)").kind, FileKind::Memfd);
        assert_eq!(file(b"/usr/lib/libc.so.6").kind, FileKind::Regular);
        assert_eq!(file(b"anon_inode:[io_uring]").kind, FileKind::KernelObject);
        assert_eq!(file(b"[anon_shmem:pool]").kind, FileKind::SharedAnonymous);
        let none = Device::default();
        assert_eq!(Backing::from_maps(b"[heap]", 0, none, 0), Backing::Heap);
        assert_eq!(Backing::from_maps(b"[vdso]", 0, none, 0), Backing::Kernel("vdso".into()));
        assert_eq!(
            Backing::from_maps(b"[anon:a]", 0, none, 0),
            Backing::Anonymous { label: Some("a".into()) }
        );
    }
}
