//! Userfaultfd in asynchronous write-protect mode: the kernel notes which pages were written, and nobody waits.
//!
//! A userfaultfd belongs to the address space of the process that *made* it: whoever holds the descriptor acts on that
//! one, also from another process. When the last descriptor is closed, however that comes about, the kernel takes all
//! registrations back.
//!
//! Source: ioctl_userfaultfd(2), include/uapi/linux/userfaultfd.h, fs/userfaultfd.c.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The number of userfaultfd(2).
pub const SYS_USERFAULTFD: u64 = libc::SYS_userfaultfd as u64;

/// What userfaultfd(2) is called with: no privilege is asked for, and no program that is executed inherits it
/// (`O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY`).
pub const FLAGS: u64 = (libc::O_CLOEXEC | libc::O_NONBLOCK | 1) as u64;

/// `UFFD_API`.
const API: u64 = 0xaa;
/// `UFFD_FEATURE_WP_ASYNC`, since Linux 6.7: a write to a protected page is resolved in the kernel, and noted. It brings
/// protection of pages that are not there yet, and of all kinds of mappings, with it.
const WP_ASYNC: u64 = 1 << 15;
/// `UFFDIO_REGISTER_MODE_WP`.
const MODE_WP: u64 = 1 << 1;

/// `struct uffdio_api`.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_range`.
#[repr(C)]
struct Range {
    start: u64,
    len: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct Register {
    range: Range,
    mode: u64,
    ioctls: u64,
}

const _: () = assert!(size_of::<Api>() == 24 && size_of::<Range>() == 16 && size_of::<Register>() == 32);

/// `_IOWR(0xaa, 0x3f, struct uffdio_api)`
const UFFDIO_API: libc::c_ulong = 3 << 30 | 24 << 16 | 0xaa << 8 | 0x3f;
/// `_IOWR(0xaa, 0x00, struct uffdio_register)`
const UFFDIO_REGISTER: libc::c_ulong = 3 << 30 | 32 << 16 | 0xaa << 8;
/// `_IOR(0xaa, 0x01, struct uffdio_range)`
const UFFDIO_UNREGISTER: libc::c_ulong = 2 << 30 | 16 << 16 | 0xaa << 8 | 0x01;

/// A userfaultfd of the calling process. userfaultfd(2)
///
/// # Errors
///
/// `ENOSYS` where the kernel was built without it, `EPERM` by a filter, `EMFILE`.
pub fn create() -> io::Result<OwnedFd> {
    // SAFETY: the call takes a number and makes a descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, FLAGS) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: it was made just now, and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Settles that a new userfaultfd is for asynchronous write protection (`UFFDIO_API`).
///
/// # Errors
///
/// `EINVAL` where the kernel has no such feature, before Linux 6.7, or where this was settled before.
pub fn settle(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut api = Api { api: API, features: WP_ASYNC, ioctls: 0 };
    // SAFETY: the structure has the kernel's layout and lives through the call.
    answer(unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, &raw mut api) })
}

/// Has writes to the mappings in a range tracked (`UFFDIO_REGISTER`, write-protect mode). Nothing is protected by that
/// alone: `PAGEMAP_SCAN` does it. What is between the mappings does not matter.
///
/// # Errors
///
/// `EPERM` where a shared mapping of a file that was opened for reading only is among them, `EINVAL` for mappings of
/// the kernel's own (vdso, vvar) or where nothing is mapped, `EBUSY` where another userfaultfd has one of them,
/// `ENOMEM`, `ESRCH` where the address space is gone. Nothing of the range is registered then.
pub fn register(fd: BorrowedFd<'_>, start: u64, len: u64) -> io::Result<()> {
    let mut register = Register { range: Range { start, len }, mode: MODE_WP, ioctls: 0 };
    // SAFETY: as above. The addresses are those of the address space that the descriptor belongs to; that may be this
    // one, whose bytes it does not change.
    answer(unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_REGISTER, &raw mut register) })
}

/// Ends the tracking of the mappings, or parts of them, in a range, and takes its protection away
/// (`UFFDIO_UNREGISTER`).
///
/// # Errors
///
/// `EINVAL` where nothing is mapped or something that cannot be tracked, `ENOMEM`, `ESRCH`.
pub fn unregister(fd: BorrowedFd<'_>, start: u64, len: u64) -> io::Result<()> {
    let range = Range { start, len };
    // SAFETY: as above; the kernel only reads it.
    answer(unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_UNREGISTER, &raw const range) })
}

fn answer(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Buffer;
    use crate::pagemap::{PageRange, Scan, category, flag, scan};
    use std::os::fd::AsFd;

    #[test]
    fn a_write_to_a_protected_page_is_noted() {
        let Ok(fd) = create() else { return };
        if settle(fd.as_fd()).is_err() {
            return;
        }
        let mut buffer = Buffer::new(4 * 4096).unwrap();
        buffer.fill(1);
        let (start, len) = (buffer.as_ptr() as u64, buffer.len() as u64);
        register(fd.as_fd(), start, len).unwrap();
        let pagemap = std::fs::File::open("/proc/self/pagemap").unwrap();
        let what = Scan {
            flags: flag::WP_MATCHING,
            start,
            end: start + len,
            all_of: category::WRITTEN,
            any_of: category::PRESENT | category::SWAPPED,
            report: category::WRITTEN,
            ..Scan::default()
        };
        let mut found = [PageRange::default(); 8];
        assert_eq!(scan(pagemap.as_fd(), &what, &mut found).unwrap().0, 1);
        assert_eq!(scan(pagemap.as_fd(), &what, &mut found).unwrap().0, 0);
        buffer[4096] = 2;
        assert_eq!(scan(pagemap.as_fd(), &what, &mut found).unwrap().0, 1);
        assert_eq!((found[0].start, found[0].end), (start + 4096, start + 8192));
        unregister(fd.as_fd(), start, len).unwrap();
        assert_eq!(buffer[4096], 2);
    }
}
