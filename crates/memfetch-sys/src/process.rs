//! Other processes: descriptors that name them, and calls that reach into their address space.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags};

/// `PIDFD_THREAD` of linux/pidfd.h, since Linux 6.9.
const PIDFD_THREAD: u32 = libc::O_EXCL.cast_unsigned();

/// How many remote ranges one call takes (`UIO_MAXIOV`).
pub const MAX_RANGES: usize = 1024;

/// A descriptor for the process with this number. pidfd_open(2)
///
/// # Errors
///
/// `ESRCH` where there is none, `EINVAL` (before Linux 6.9 `ENOENT`) where it is the number of a thread that is
/// not the first of its process.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    Ok(rustix::process::pidfd_open(positive(pid)?, PidfdFlags::empty())?)
}

/// A descriptor for one thread, whichever it is. pidfd_open(2), `PIDFD_THREAD`
///
/// # Errors
///
/// `ESRCH` where there is none, `EINVAL` before Linux 6.9.
pub fn pidfd_open_thread(tid: i32) -> io::Result<OwnedFd> {
    Ok(rustix::process::pidfd_open(positive(tid)?, PidfdFlags::from_bits_retain(PIDFD_THREAD))?)
}

fn positive(number: i32) -> io::Result<Pid> {
    (number > 0)
        .then(|| Pid::from_raw(number))
        .flatten()
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
}

/// Whether the process (or thread) behind a pidfd has ended, waiting at most so long for it. poll(2)
///
/// # Errors
///
/// As poll(2); an interrupted wait counts as "no".
pub fn has_ended(pidfd: BorrowedFd<'_>, wait: Duration) -> io::Result<bool> {
    let mut polled = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    let wait = rustix::event::Timespec {
        tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(wait.subsec_nanos()),
    };
    match rustix::event::poll(&mut polled, Some(&wait)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A copy of the descriptor that has this number in the process (or thread) behind a pidfd. pidfd_getfd(2)
///
/// # Errors
///
/// `EBADF` where there is none, `ESRCH`, `EMFILE`, `EPERM` without `PTRACE_MODE_ATTACH_REALCREDS`, `ENOSYS`.
pub fn pidfd_getfd(pidfd: BorrowedFd<'_>, number: i32) -> io::Result<OwnedFd> {
    Ok(rustix::process::pidfd_getfd(pidfd, number, rustix::process::PidfdGetfdFlags::empty())?)
}

/// Reads ranges (address, length) of another process' memory into `local`, one behind the other, and returns
/// how many bytes were read. process_vm_readv(2)
///
/// Against the manual the kernel returns a prefix also where a range ends within. At most [`MAX_RANGES`] ranges
/// are taken. It pins the pages, which un-shares anonymous pages that are shared since a fork.
///
/// # Errors
///
/// `EFAULT` where the first byte cannot be read, `ESRCH`, `EPERM`, `ENOSYS`.
pub fn process_vm_readv(pid: i32, local: &mut [u8], remote: &[(u64, u64)]) -> io::Result<usize> {
    let into = [libc::iovec { iov_base: local.as_mut_ptr().cast(), iov_len: local.len() }];
    let from = foreign_ranges(remote);
    // SAFETY: the only local range is `local`, borrowed mutably for the call; the remote ranges are never
    // followed in this address space, the kernel checks them against the other one. If `pid` is this very
    // process they are read, and nothing else is written than `local`.
    let read = unsafe {
        libc::process_vm_readv(pid, into.as_ptr(), 1, from.as_ptr(), from.len() as libc::c_ulong, 0)
    };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

/// Ranges (address, length) of another address space, as the kernel takes them; at most [`MAX_RANGES`].
fn foreign_ranges(ranges: &[(u64, u64)]) -> Vec<libc::iovec> {
    let range = |&(at, len): &(u64, u64)| libc::iovec {
        iov_base: std::ptr::without_provenance_mut(usize::try_from(at).unwrap_or(usize::MAX)),
        iov_len: usize::try_from(len).unwrap_or(usize::MAX),
    };
    ranges.iter().take(MAX_RANGES).map(range).collect()
}

/// Has pages of another process reclaimed (`MADV_PAGEOUT`), by ranges (address, length), and returns how many bytes
/// took the advice. process_madvise(2)
///
/// # Errors
///
/// `EPERM` without `CAP_SYS_NICE` and `PTRACE_MODE_READ`, `ESRCH`, `ENOSYS`, `EINVAL`.
pub fn page_out(pidfd: BorrowedFd<'_>, ranges: &[(u64, u64)]) -> io::Result<usize> {
    advise(pidfd, ranges, libc::MADV_PAGEOUT)
}

/// Has small pages of another process put together to huge ones (`MADV_COLLAPSE`, since Linux 6.1), by ranges (address,
/// length), and returns how many bytes took the advice. process_madvise(2)
///
/// # Errors
///
/// As for [`page_out`]; `EAGAIN`, `EBUSY`, `ENOMEM` where it cannot be done now, `EINVAL` where a range can have no huge
/// pages or is registered with a userfaultfd.
pub fn collapse(pidfd: BorrowedFd<'_>, ranges: &[(u64, u64)]) -> io::Result<usize> {
    /// Of linux/mman.h; the libc crate does not name it yet.
    const MADV_COLLAPSE: libc::c_int = 25;
    advise(pidfd, ranges, MADV_COLLAPSE)
}

/// Advice that keeps every byte.
fn advise(pidfd: BorrowedFd<'_>, ranges: &[(u64, u64)], advice: libc::c_int) -> io::Result<usize> {
    let ranges = foreign_ranges(ranges);
    // SAFETY: the vector lives through the call, and the addresses in it are not followed here. The
    // advice keeps every byte, so that even this process' own memory means the same afterwards.
    let done = unsafe {
        libc::syscall(
            libc::SYS_process_madvise,
            pidfd.as_raw_fd(),
            ranges.as_ptr(),
            ranges.len(),
            advice,
            0_u32,
        )
    };
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}

/// Whether two tasks run in one address space. kcmp(2), `KCMP_VM`
///
/// Two that have none, such as zombies, count as having the same.
///
/// # Errors
///
/// `EPERM` without ptrace read access to both, `ESRCH`, `ENOSYS`.
pub fn share_memory(one: i32, other: i32) -> io::Result<bool> {
    const KCMP_VM: i32 = 1;
    // SAFETY: kcmp takes numbers only.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_VM, 0_u64, 0_u64) };
    if order < 0 { Err(io::Error::last_os_error()) } else { Ok(order == 0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn this_process_reads_itself() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let words = [0x1122_3344_5566_7788_u64, 42];
        let at = words.as_ptr() as u64;
        let mut bytes = [0; 16];
        assert_eq!(process_vm_readv(pid, &mut bytes, &[(at + 8, 8), (at, 8)]).unwrap(), 16);
        assert_eq!(bytes[..8], 42_u64.to_le_bytes());
        assert_eq!(
            process_vm_readv(pid, &mut bytes, &[(0, 8)]).unwrap_err().raw_os_error(),
            Some(libc::EFAULT)
        );
        assert!(share_memory(pid, pid).unwrap());
    }

    #[test]
    fn a_pidfd_tells_the_end() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let pidfd = pidfd_open(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(!has_ended(pidfd.as_fd(), Duration::ZERO).unwrap());
        child.kill().unwrap();
        assert!(has_ended(pidfd.as_fd(), Duration::from_secs(10)).unwrap());
        child.wait().unwrap();
        for nobody in [0, -1, i32::MAX] {
            assert!(pidfd_open(nobody).is_err());
        }
    }
}
