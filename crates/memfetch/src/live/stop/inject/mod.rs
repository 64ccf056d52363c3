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
//! One that stands at a system call: one that was stopped in user mode may be in a restartable sequence (rseq), and the
//! kernel, seeing it at another instruction, would not restart that. Not one whose call can be restarted by
//! restart_syscall(2) only, which rt_sigreturn makes forget what it was to do. Its stack must be known to be its own.
//!
//! # Signals
//!
//! All that can be blocked are, but those by which a thread learns of its own faults: forced upon a thread that blocks
//! it, such a signal loses its handler. If one of these, or SIGSTOP, comes nevertheless, all is undone, the signal is
//! delivered, and it begins anew.

mod call;
mod frame;
mod gadgets;
mod host;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use memfetch_sys::process::{pidfd_getfd, pidfd_open, pidfd_open_thread};

use self::call::Ride;
use self::host::{Demand, Host};
use super::states::Seen;
use super::tasks::Task;
use super::tracer::{Tracer, rest};
use crate::error::InjectionError;
use crate::threads::Tid;

/// How often to begin anew because of signals.
const TRIES: usize = 32;

/// Numbers of system calls (asm/unistd_64.h).
const CLOSE: u64 = 3;
const USERFAULTFD: u64 = 323;
/// `O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY`.
const FLAGS: u64 = 0o2_000_000 | 0o4000 | 1;

/// How far it has come.
#[derive(Debug, Default)]
struct Progress {
    /// The number that the descriptor has in the target, while it is open there.
    open: Option<u64>,
    /// The thread that made it, and whose table it is in.
    maker: Option<Tid>,
    /// It, in this process; or why there is none.
    result: Option<Result<OwnedFd, InjectionError>>,
}

impl Tracer {
    /// A userfaultfd of the target's address space.
    ///
    /// # Errors
    ///
    /// All of [`InjectionError`].
    pub fn userfaultfd(&mut self, observe: &mut dyn FnMut(&'static str)) -> Result<OwnedFd, InjectionError> {
        let until = Instant::now() + self.deadline;
        let mut progress = Progress::default();
        for _ in 0..TRIES {
            self.tend();
            let demand = progress.maker.map_or(Demand::Strict, Demand::Urgent);
            let host = match Host::choose(self, demand) {
                Ok(host) => host,
                // It may be on its way to a stop, with a signal.
                Err(_) if progress.open.is_some() && Instant::now() < until => {
                    rest(u32::MAX);
                    continue;
                }
                Err(_) if progress.open.is_some() => return Err(InjectionError::LeftOpen),
                Err(error) => return Err(error),
            };
            self.let_ride(&host, &mut progress, until, observe)?;
            if progress.open.is_none()
                && let Some(result) = progress.result.take()
            {
                return result;
            }
            self.await_return(host.index, until);
        }
        Err(if progress.open.is_some() { InjectionError::LeftOpen } else { InjectionError::Signals })
    }

    /// Has a thread make the calls that are still to be made, and go back to where it was.
    fn let_ride(
        &mut self,
        host: &Host,
        progress: &mut Progress,
        until: Instant,
        observe: &mut dyn FnMut(&'static str),
    ) -> Result<(), InjectionError> {
        // Ours before it is needed: that may fail as well.
        let pidfd = open_pidfd(host.task)?;
        let phase = self.holding();
        let Some(tracee) = self.tracees.get_mut(host.index) else { return Err(InjectionError::Died) };
        let Some(stopped) = tracee.lend() else { return Err(InjectionError::Died) };
        let mut ride = Ride::new(host, until, self.at_fault, observe);
        let fetch = |number: i32| pidfd_getfd(pidfd.as_fd(), number);
        let (seen, result) = ride.take(stopped, progress, fetch);
        let error = match &seen {
            Seen::Stopped(_) => None,
            Seen::Running(_) => Some(InjectionError::TimedOut { limit: self.deadline }),
            Seen::Gone => Some(InjectionError::Died),
        };
        tracee.put(seen, phase, &mut self.report);
        result.and(error.map_or(Ok(()), Err))
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

/// The result of a system call, as the register has it.
fn outcome(value: u64) -> Result<u64, io::Error> {
    match value.cast_signed() {
        error @ -4095..=-1 => Err(io::Error::from_raw_os_error(-(error as i32))),
        _ => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_and_errors_are_told_apart() {
        assert_eq!(outcome(7).unwrap(), 7);
        assert_eq!(outcome((-24_i64).cast_unsigned()).unwrap_err().raw_os_error(), Some(24));
        assert_eq!(outcome((-4096_i64).cast_unsigned()).unwrap(), (-4096_i64).cast_unsigned());
    }
}
