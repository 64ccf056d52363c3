//! waitid(2) for tracees of the calling thread, without blocking.
//!
//! Tracees and children of whatever kind are looked at (`__WALL`).

use std::io;

/// What a look at a tracee found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Nothing new: it runs, or is a dead first thread whose process has other threads left.
    Nothing,
    /// It is stopped.
    Stopped(Stop),
    /// It called exit.
    Exited {
        /// With this code.
        code: i32,
    },
    /// A signal killed it.
    Killed {
        /// This one.
        signal: i32,
    },
}

/// What a tracee is stopped at (ptrace(2), "Stopped states").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A signal is about to be delivered to it.
    Signal(i32),
    /// It enters or leaves a system call; needs [`crate::ptrace::O_TRACESYSGOOD`].
    Syscall,
    /// A `PTRACE_EVENT_*`. For [`EVENT_STOP`] the signal is `SIGTRAP` where the tracer asked for the stop, and
    /// the stopping signal where job control did.
    Event {
        /// Its number.
        event: i32,
        /// The signal that comes with it.
        signal: i32,
    },
}

/// The event of a stop by the tracer or by job control, `PTRACE_EVENT_STOP`.
pub const EVENT_STOP: i32 = 128;

impl Status {
    /// From `si_code` and `si_status` of a `SIGCHLD` siginfo.
    fn decode(code: i32, status: i32) -> Self {
        match code {
            libc::CLD_EXITED => Self::Exited { code: status },
            libc::CLD_KILLED | libc::CLD_DUMPED => Self::Killed { signal: status },
            libc::CLD_TRAPPED | libc::CLD_STOPPED => Self::Stopped(match (status >> 8, status & 0xff) {
                (0, signal) if signal == libc::SIGTRAP | 0x80 => Stop::Syscall,
                (0, signal) => Stop::Signal(signal),
                (event, signal) => Stop::Event { event, signal: signal & 0x7f },
            }),
            _ => Self::Nothing,
        }
    }
}

/// Looks at one tracee and leaves what it finds as it is (`WNOWAIT`): a stop that is not consumed keeps its
/// signal, which the kernel delivers by itself should the tracer die.
///
/// # Errors
///
/// `ECHILD`: it is no tracee of this thread, or no longer.
pub fn look(tid: i32) -> io::Result<Status> {
    wait(tid, libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT | libc::__WNOTHREAD)
}

/// Waits for whatever happens next to a tracee of this thread, and leaves it as it is, as [`look`] does; returns its
/// number with it. What is not answered is told again.
///
/// # Errors
///
/// `ECHILD`: there is none left. `EINTR`.
pub fn next() -> io::Result<(i32, Status)> {
    let options = libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT | libc::__WNOTHREAD | libc::__WALL;
    wait_for(libc::P_ALL, 0, options)
}

/// Takes note of a tracee's exit, after which it is gone; any other status is returned and left as it is.
///
/// Also of a tracee of another thread of this process. For the first thread of a process that is a child of this
/// process it takes the exit status away from whoever else waits for it.
///
/// # Errors
///
/// `ECHILD`: it is no tracee of this process, or no longer.
pub fn reap(tid: i32) -> io::Result<Status> {
    // Asked for exits alone the kernel shows, and consumes, the stops of tracees as well.
    let status = wait(tid, libc::WEXITED | libc::WNOWAIT)?;
    match status {
        Status::Exited { .. } | Status::Killed { .. } => wait(tid, libc::WEXITED),
        Status::Nothing | Status::Stopped(_) => Ok(status),
    }
}

fn wait(tid: i32, options: i32) -> io::Result<Status> {
    wait_for(libc::P_PID, tid, options | libc::WNOHANG | libc::__WALL).map(|(_, status)| status)
}

fn wait_for(whom: libc::idtype_t, tid: i32, options: i32) -> io::Result<(i32, Status)> {
    // SAFETY: a siginfo_t is plain data, for which zeros are valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one siginfo_t to `info`, which outlives the call.
    if unsafe { libc::waitid(whom, tid.cast_unsigned(), &raw mut info, options) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: waitid fills in the fields of a SIGCHLD, or with WNOHANG and nothing to report leaves zeros.
    let (tid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok((tid, if tid == 0 { Status::Nothing } else { Status::decode(info.si_code, status) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_are_told_apart() {
        let stop = |status| Status::decode(libc::CLD_TRAPPED, status);
        assert_eq!(stop(0x8005), Status::Stopped(Stop::Event { event: EVENT_STOP, signal: libc::SIGTRAP }));
        assert_eq!(stop(0x8013), Status::Stopped(Stop::Event { event: EVENT_STOP, signal: libc::SIGSTOP }));
        assert_eq!(stop(0x85), Status::Stopped(Stop::Syscall));
        assert_eq!(stop(libc::SIGTRAP), Status::Stopped(Stop::Signal(libc::SIGTRAP)));
        assert_eq!(stop(36), Status::Stopped(Stop::Signal(36)));
        assert_eq!(Status::decode(libc::CLD_DUMPED, 11), Status::Killed { signal: 11 });
        assert_eq!(Status::decode(libc::CLD_EXITED, 3), Status::Exited { code: 3 });
    }

    #[test]
    fn a_stranger_is_no_tracee() {
        assert_eq!(look(1).unwrap_err().raw_os_error(), Some(libc::ECHILD));
        assert_eq!(reap(1).unwrap_err().raw_os_error(), Some(libc::ECHILD));
    }
}
