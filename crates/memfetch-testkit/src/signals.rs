//! Signals that a test sends to its target.

use std::io;
use std::time::Duration;

/// Queues a real-time or other signal with a value (sigqueue(3)); waits while the queue is full.
///
/// # Panics
///
/// Where there is no such process.
pub fn queue(pid: i32, signal: i32, value: usize) {
    let value = libc::sigval { sival_ptr: std::ptr::without_provenance_mut(value) };
    loop {
        // SAFETY: sigqueue takes numbers only; the value is never used as a pointer.
        if unsafe { libc::sigqueue(pid, signal, value) } == 0 {
            return;
        }
        let error = io::Error::last_os_error();
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN), "sigqueue: {error}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sends a signal to a process (kill(2)).
///
/// # Panics
///
/// Where there is no such process.
pub fn send(pid: i32, signal: i32) {
    // SAFETY: kill takes numbers only.
    let result = unsafe { libc::kill(pid, signal) };
    assert_eq!(result, 0, "kill: {}", io::Error::last_os_error());
}

/// Sends a signal to one thread (tgkill(2)).
///
/// # Panics
///
/// Where there is no such thread.
pub fn send_to_thread(pid: i32, tid: i32, signal: i32) {
    // SAFETY: tgkill takes numbers only.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signal) };
    assert_eq!(result, 0, "tgkill: {}", io::Error::last_os_error());
}

/// Has every open of a file wait until the returned handle is closed, for up to
/// `/proc/sys/fs/lease-break-time` seconds; none where the file system has no leases.
#[must_use]
pub fn lease(path: &std::path::Path) -> Option<std::fs::File> {
    use std::os::fd::AsRawFd;
    /// Of fcntl.h; the libc crate has no name for it.
    const F_SETSIG: i32 = 10;
    let file = std::fs::File::open(path).ok()?;
    // SAFETY: fcntl takes numbers only here. SIGURG, which is ignored by default, instead of SIGIO, which kills.
    let is_ours = unsafe {
        libc::fcntl(file.as_raw_fd(), F_SETSIG, libc::SIGURG) == 0
            && libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) == 0
    };
    is_ours.then_some(file)
}
