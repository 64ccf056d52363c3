//! Shared memory by a descriptor of it: which of its pages are in swap, and how they get there.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

const PAGE: u64 = 4096;

/// `struct cachestat_range` of linux/mman.h.
#[repr(C)]
struct CacheRange {
    offset: u64,
    len: u64,
}

/// `struct cachestat` of linux/mman.h.
#[repr(C)]
#[derive(Default)]
struct CacheStat {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

const _: () = assert!(size_of::<CacheRange>() == 16 && size_of::<CacheStat>() == 40);

/// Tells for each of so many pages from `offset` on whether it is in swap. For objects of tmpfs: memfd, shared
/// anonymous memory, System V segments. cachestat(2), before Linux 6.5 mincore(2) on a mapping of our own
///
/// Where mincore(2) has to tell, holes count as being in swap, and pages of which swap and RAM each have a copy do
/// not.
///
/// # Errors
///
/// `EPERM` where the object may be read only, as mmap(2) otherwise.
pub fn in_swap(object: BorrowedFd<'_>, offset: u64, pages: usize) -> io::Result<Vec<bool>> {
    let mut found = vec![false; pages];
    match by_cachestat(object, offset, &mut found) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
            Ok(Mapping::new(object, offset, pages)?.resident()?.iter().map(|resident| !resident).collect())
        }
        result => result.map(|()| found),
    }
}

/// One call counts for a range; a range of which a part is in swap is halved.
fn by_cachestat(object: BorrowedFd<'_>, offset: u64, found: &mut [bool]) -> io::Result<()> {
    if found.is_empty() {
        // A length of 0 would mean all of the object.
        return Ok(());
    }
    let pages = found.len() as u64;
    // What the page cache of tmpfs evicts goes to swap.
    match cache_stat(object, offset, pages * PAGE)?.evicted {
        0 => {}
        all if all >= pages => found.fill(true),
        _ => {
            let (first, second) = found.split_at_mut(found.len() / 2);
            by_cachestat(object, offset, first)?;
            by_cachestat(object, offset + first.len() as u64 * PAGE, second)?;
        }
    }
    Ok(())
}

/// How many pages of a part of a file are in the page cache. cachestat(2), since Linux 6.5
///
/// # Errors
///
/// `ENOSYS` on older kernels, `EPERM` where the caller neither owns the file nor may write it.
pub fn cached(file: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<u64> {
    // A length of 0 would mean all of the file.
    if len == 0 { Ok(0) } else { Ok(cache_stat(file, offset, len)?.cached) }
}

fn cache_stat(object: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<CacheStat> {
    /// The libc crate does not name it yet.
    const SYS_CACHESTAT: libc::c_long = 451;
    let range = CacheRange { offset, len };
    let mut stat = CacheStat::default();
    // SAFETY: both structures have the kernel's layout and live through the call, which writes to `stat` only.
    let result =
        unsafe { libc::syscall(SYS_CACHESTAT, object.as_raw_fd(), &raw const range, &raw mut stat, 0_u32) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(stat) }
}

/// Sends so many pages from `offset` on to swap, as far as they are in RAM and no other mapping has them.
/// `MADV_POPULATE_READ` and `MADV_PAGEOUT` on a mapping of our own, madvise(2)
///
/// A hole among them is filled with a page of zeros.
///
/// # Errors
///
/// As madvise(2) and mmap(2); `EINVAL` before Linux 5.14.
pub fn page_out(object: BorrowedFd<'_>, offset: u64, pages: usize) -> io::Result<()> {
    let mapping = Mapping::new(object, offset, pages)?;
    // That we have looked at the pages is not to keep them in RAM. It is no matter if it cannot be said.
    let _ = mapping.advise(libc::MADV_SEQUENTIAL);
    // The advice goes by the entries of the page table.
    mapping.advise(libc::MADV_POPULATE_READ)?;
    mapping.advise(libc::MADV_PAGEOUT)
}

/// A part of an object, mapped but never looked into: the object may be cut short at any time.
struct Mapping {
    start: *mut libc::c_void,
    pages: usize,
}

impl Mapping {
    fn new(object: BorrowedFd<'_>, offset: u64, pages: usize) -> io::Result<Self> {
        let len = pages * PAGE as usize;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing that exists.
        let start =
            unsafe { mmap(std::ptr::null_mut(), len, ProtFlags::READ, MapFlags::SHARED, object, offset) }?;
        Ok(Self { start, pages })
    }

    const fn len(&self) -> usize {
        self.pages * PAGE as usize
    }

    /// mincore(2)
    fn resident(&self) -> io::Result<Vec<bool>> {
        let mut bytes = vec![0_u8; self.pages];
        // SAFETY: the range is mapped until drop, and the vector has a byte for each of its pages.
        let result = unsafe { libc::mincore(self.start, self.len(), bytes.as_mut_ptr()) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(bytes.iter().map(|byte| byte & 1 != 0).collect())
    }

    /// Advice that changes no byte.
    fn advise(&self, advice: i32) -> io::Result<()> {
        // SAFETY: the range is mapped until drop, no reference into it is ever made, and none of the kinds of
        // advice given here changes the bytes of a shared mapping.
        let result = unsafe { libc::madvise(self.start, self.len(), advice) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length, and nothing refers to it any more.
        let unmapped = unsafe { munmap(self.start, self.len()) };
        debug_assert!(unmapped.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn what_is_in_ram_is_not_in_swap() {
        let object = rustix::fs::memfd_create("object", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&object, &[1; 3 * 4096]).unwrap();
        let object = object.as_fd();
        assert_eq!(in_swap(object, 0, 3).unwrap(), [false; 3]);
        assert_eq!(Mapping::new(object, 0, 4).unwrap().resident().unwrap(), [true, true, true, false]);
        assert_eq!(in_swap(object, 0, 0).unwrap(), [false; 0]);
        // With swap or without it, the bytes stay.
        let _ = page_out(object, 4096, 2);
        let mut bytes = [0; 3 * 4096];
        assert_eq!(rustix::io::pread(object, &mut bytes, 0).unwrap(), bytes.len());
        assert_eq!(bytes, [1; 3 * 4096]);
    }
}
