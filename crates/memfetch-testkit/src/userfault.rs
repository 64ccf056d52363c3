//! userfaultfd(2), as far as a test needs it to see that a descriptor works.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// The handshake that comes first (`UFFDIO_API`); returns the features that the kernel has.
///
/// # Errors
///
/// `EINVAL`: it was made already. `ENOTTY`: it is no userfaultfd.
pub fn greet(file: &OwnedFd) -> io::Result<u64> {
    /// `_IOWR(0xAA, 0x3F, struct uffdio_api)` of linux/userfaultfd.h.
    const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
    const UFFD_API: u64 = 0xaa;
    let mut api = [UFFD_API, 0, 0];
    // SAFETY: the kernel reads and writes a `struct uffdio_api`, 24 bytes, and `api` is as long.
    if unsafe { libc::ioctl(file.as_raw_fd(), UFFDIO_API, api.as_mut_ptr()) } == -1 {
        return Err(io::Error::last_os_error());
    }
    let [_, features, _] = api;
    Ok(features)
}
