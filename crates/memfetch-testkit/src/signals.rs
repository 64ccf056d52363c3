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
