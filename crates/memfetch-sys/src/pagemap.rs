//! `/proc/PID/pagemap`: what the page table says of each page.
//!
//! Source: Documentation/admin-guide/mm/pagemap.rst, fs/proc/task_mmu.c, include/uapi/linux/fs.h.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Bits of a pagemap word.
pub mod word {
    /// In RAM and in the page table.
    pub const PRESENT: u64 = 1 << 63;
    /// In swap; also set for the markers that the kernel keeps in the page table in place of a page.
    pub const SWAPPED: u64 = 1 << 62;
    /// A page of a file or of shared memory.
    pub const FILE: u64 = 1 << 61;
    /// A guard page, since Linux 6.15.
    pub const GUARD: u64 = 1 << 58;
    /// Mapped once. For a huge page the kernel looks at its first small page only.
    pub const EXCLUSIVE: u64 = 1 << 56;
    /// Written since the last `clear_refs`.
    pub const SOFT_DIRTY: u64 = 1 << 55;
}

/// Page categories of `PAGEMAP_SCAN`.
pub mod category {
    /// The mapping's writes are tracked by userfaultfd in asynchronous mode.
    pub const WPALLOWED: u64 = 1 << 0;
    /// Written since it was write-protected.
    pub const WRITTEN: u64 = 1 << 1;
    /// A page of a file or of shared memory.
    pub const FILE: u64 = 1 << 2;
    /// In RAM and in the page table.
    pub const PRESENT: u64 = 1 << 3;
    /// In swap; also set for markers.
    pub const SWAPPED: u64 = 1 << 4;
    /// The shared page of zeros.
    pub const PFNZERO: u64 = 1 << 5;
    /// Part of a huge page that is mapped as one.
    pub const HUGE: u64 = 1 << 6;
    /// Written since the last `clear_refs`.
    pub const SOFT_DIRTY: u64 = 1 << 7;
    /// A guard page, since Linux 6.15.
    pub const GUARD: u64 = 1 << 8;
}

/// Flags of `PAGEMAP_SCAN`.
pub mod flag {
    /// Write-protect the pages that match.
    pub const WP_MATCHING: u64 = 1 << 0;
    /// Fail where a mapping is not tracked asynchronously.
    pub const CHECK_WPASYNC: u64 = 1 << 1;
}

/// A run of pages of the same categories: `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageRange {
    /// The first address.
    pub start: u64,
    /// The address behind the last one.
    pub end: u64,
    /// Which of the asked-for categories hold.
    pub categories: u64,
}

/// What to look for: `struct pm_scan_arg` without its results.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scan {
    /// Bits of [`flag`].
    pub flags: u64,
    /// The first address, a multiple of the page size.
    pub start: u64,
    /// The address behind the last one.
    pub end: u64,
    /// Stop after so many matching pages, 0 for no such limit.
    pub max_pages: u64,
    /// Categories whose sense is turned around before the masks are applied.
    pub inverted: u64,
    /// Categories that all must hold.
    pub all_of: u64,
    /// Categories of which one must hold, or none of them to not ask.
    pub any_of: u64,
    /// Categories to report.
    pub report: u64,
}

#[repr(C)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

const _: () = assert!(size_of::<ScanArgument>() == 96 && align_of::<ScanArgument>() == 8);
const _: () = assert!(size_of::<PageRange>() == 24 && align_of::<PageRange>() == 8);

/// `_IOWR('f', 16, struct pm_scan_arg)`
const PAGEMAP_SCAN: libc::c_ulong = 3 << 30 | 96 << 16 | (b'f' as libc::c_ulong) << 8 | 16;

/// Scans a part of an address space by its open `pagemap`, fills a prefix of `found`, and returns its length
/// and where the walk ended. `PAGEMAP_SCAN`, since Linux 6.7
///
/// The walk is complete when fewer ranges came than there was room for. Otherwise go on at the end of the last
/// range, not at `walk_end`, which is stale after more than 512 ranges.
///
/// # Errors
///
/// `ENOTTY` on older kernels, `EINVAL` for a category that the kernel does not know, `EPERM` by
/// [`flag::CHECK_WPASYNC`] (pages before that point have been write-protected then), `ESRCH` where the address
/// space is gone.
pub fn scan(pagemap: BorrowedFd<'_>, what: &Scan, found: &mut [PageRange]) -> io::Result<(usize, u64)> {
    let mut argument = ScanArgument {
        size: size_of::<ScanArgument>() as u64,
        flags: what.flags,
        start: what.start,
        end: what.end,
        walk_end: 0,
        vec: found.as_mut_ptr() as u64,
        vec_len: found.len() as u64,
        max_pages: what.max_pages,
        category_inverted: what.inverted,
        category_mask: what.all_of,
        category_anyof_mask: what.any_of,
        return_mask: what.report,
    };
    // SAFETY: the argument has the kernel's layout and its own size in it; `vec` and `vec_len` describe `found`,
    // which is borrowed mutably for the call and whose elements are plain numbers. The only effect on the other
    // address space is write-protection of pages that its userfaultfd resolves by itself.
    let count = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut argument) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    Ok((count.min(found.len()), argument.walk_end))
}

/// Reads pagemap words from that of page number `first` on into a prefix of `words`, and returns its length.
/// pread(2)
///
/// 0 words: the address space is gone, or `first` lies behind it.
///
/// # Errors
///
/// As pread(2).
pub fn read_words(pagemap: BorrowedFd<'_>, first: u64, words: &mut [u64]) -> io::Result<usize> {
    // SAFETY: the bytes of the borrowed words, all of them, for as long as they are borrowed; any bytes are a
    // valid u64.
    let bytes =
        unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), size_of_val(words)) };
    Ok(rustix::io::pread(pagemap, bytes, first.saturating_mul(8))? / 8)
}

/// Whether the address space that a `pagemap` was opened for still lives, without taking any of its locks.
///
/// `pagemap_read` looks for the address space before it checks the alignment of the request: a read of one byte
/// gives 0 where it is gone, and `EINVAL` where it lives.
#[must_use]
pub fn is_live(pagemap: BorrowedFd<'_>) -> bool {
    let mut byte = [0_u8];
    rustix::io::pread(pagemap, &mut byte, 0) == Err(rustix::io::Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn own_pages() {
        let file = std::fs::File::open("/proc/self/pagemap").unwrap();
        assert!(is_live(file.as_fd()));
        let byte = Box::new([1_u8; 8192]);
        let at = byte.as_ptr() as u64 & !4095;
        let mut words = [0];
        assert_eq!(read_words(file.as_fd(), at / 4096, &mut words).unwrap(), 1);
        assert_ne!(words[0] & word::PRESENT, 0);
        let what = Scan {
            start: at,
            end: at + 4096,
            any_of: category::PRESENT,
            report: category::PRESENT | category::FILE,
            ..Scan::default()
        };
        let mut found = [PageRange::default(); 4];
        match scan(file.as_fd(), &what, &mut found) {
            Ok((count, _)) => {
                let range = PageRange { start: at, end: at + 4096, categories: category::PRESENT };
                assert_eq!(found[..count], [range]);
            }
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOTTY)),
        }
    }
}
