//! The injected call: one thread of a held process makes a system call for us, and notices nothing.
//!
//! # How it heals itself
//!
//! Below its red zone the thread gets a signal frame ([`frame`]) that holds what it would go on with, and is then put
//! at a `syscall; ret` of its own code ([`gadgets`]) as if it were about to call rt_sigreturn(2) with that frame. If we
//! die there, that is what it does. Only at the entry of that call, where it stops, the call is made another one; that
//! one, if we die in it, returns into code that calls rt_sigreturn. As soon as it is known which descriptor it made, the
//! thread is put at a close of it, so that if we die from then on it closes the descriptor and goes back.
//!
//! Stops at system calls are used (`PTRACE_SYSCALL`) rather than single steps, whose SIGTRAP would be delivered if we
//! died before we had taken note of it, and would kill.
//!
//! # Which thread
//!
//! One that stands at a system call. Not one whose call can be restarted by restart_syscall(2) only, which rt_sigreturn
//! makes forget what it was to do. Where there is none, one that was stopped in user mode, in no restartable sequence
//! ([`user_mode`]). Its stack must be known to be its own.
//!
//! # Signals
//!
//! All that can be blocked are, but those by which a thread learns of its own faults: forced upon a thread that blocks
//! it, such a signal loses its handler. If one of these, or SIGSTOP, comes nevertheless before there is a descriptor,
//! all is undone, the signal is delivered, and it begins anew. Later the descriptor is closed first: the kernel keeps the
//! signal, with its `siginfo_t`, if it is blocked now, and a thread that job control stops makes that one call.

mod call;
mod frame;
mod gadgets;
mod host;
mod user_mode;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Instant;

use memfetch_sys::process::{pidfd_getfd, pidfd_open, pidfd_open_thread};

use self::call::Ride;
use self::host::Host;
use super::states::Seen;
use super::tasks::Task;
use super::tracer::{Tracer, rest};
use crate::error::InjectionError;

/// How often to begin anew because of signals.
const TRIES: usize = 32;

/// Numbers of system calls (asm/unistd_64.h).
const CLOSE: u64 = 3;
const USERFAULTFD: u64 = 323;
/// `O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY`.
const FLAGS: u64 = 0o2_000_000 | 0o4000 | 1;

impl Tracer {
    /// A userfaultfd of the target's address space.
    ///
    /// # Errors
    ///
    /// All of [`InjectionError`].
    pub fn userfaultfd(&mut self, observe: &mut dyn FnMut(&'static str)) -> Result<OwnedFd, InjectionError> {
        let until = Instant::now() + self.deadline;
        for _ in 0..TRIES {
            self.tend();
            let host = Host::choose(self)?;
            if let Some(result) = self.let_ride(&host, until, observe) {
                return result;
            }
            self.await_return(host.index, until);
        }
        Err(InjectionError::Signals)
    }

    /// Has a thread make the calls, and go back to where it was; none where a signal came first.
    fn let_ride(
        &mut self,
        host: &Host,
        until: Instant,
        observe: &mut dyn FnMut(&'static str),
    ) -> Option<Result<OwnedFd, InjectionError>> {
        // Ours before it is needed: that may fail as well.
        let pidfd = match open_pidfd(host.task) {
            Ok(pidfd) => pidfd,
            Err(error) => return Some(Err(error)),
        };
        let phase = self.holding();
        let tracee = self.tracees.get_mut(host.index)?;
        let stopped = tracee.lend()?;
        let fetch = |number: i32| pidfd_getfd(pidfd.as_fd(), number).and_then(verify);
        let (seen, result) =
            Ride::new(host, until, self.deadline, self.at_fault, observe).take(stopped, fetch);
        let result = match (&seen, result) {
            (Seen::Running(_), _) => Some(Err(InjectionError::TimedOut { limit: self.deadline })),
            (Seen::Gone, _) => Some(Err(InjectionError::Died)),
            (Seen::Stopped(_), result) => result,
        };
        tracee.put(seen, phase, &mut self.report);
        result
    }

    /// Waits until a thread stands that a signal was delivered to.
    fn await_return(&mut self, index: usize, until: Instant) {
        let mut quiet_looks = 0;
        while self.tracees.get(index).is_some_and(|tracee| tracee.is_awaited()) && Instant::now() < until {
            let arrived = self.pass(self.holding());
            self.watch.step();
            quiet_looks = if arrived > 0 { 0 } else { quiet_looks + 1 };
            rest(quiet_looks);
        }
    }
}

/// Of the thread itself, whose descriptors may not be those of the others, and which lives where the first has exited.
fn open_pidfd(task: Task) -> Result<OwnedFd, InjectionError> {
    pidfd_open_thread(task.tid)
        // Before Linux 6.9.
        .or_else(|_| pidfd_open(task.process))
        .map_err(|error| InjectionError::Os { action: "opening a pidfd", error })
}

/// A descriptor that is what it should be: before Linux 6.9 another table than the thread's may have been asked.
fn verify(file: OwnedFd) -> io::Result<OwnedFd> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    if link.as_os_str().as_encoded_bytes() == b"anon_inode:[userfaultfd]" {
        Ok(file)
    } else {
        Err(io::Error::other("the process has another file of that number"))
    }
}

/// The result of a system call, as the register has it.
fn result_of(value: u64) -> Result<u64, io::Error> {
    match value.cast_signed() {
        error @ -4095..=-1 => Err(io::Error::from_raw_os_error(-(error as i32))),
        _ => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_is_not_taken_for_a_userfaultfd() {
        assert!(verify(std::fs::File::open("/dev/null").unwrap().into()).is_err());
    }

    #[test]
    fn results_and_errors_are_told_apart() {
        assert_eq!(result_of(7).unwrap(), 7);
        assert_eq!(result_of((-24_i64).cast_unsigned()).unwrap_err().raw_os_error(), Some(24));
        assert_eq!(result_of((-4096_i64).cast_unsigned()).unwrap(), (-4096_i64).cast_unsigned());
    }
}
