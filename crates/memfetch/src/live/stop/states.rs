//! A thread that this thread traces, its state in its type: [`Running`] can only be looked at and interrupted,
//! [`Stopped`] can be examined and resumed, and resuming uses it up.

use std::io;

use memfetch_sys::ptrace::{self, UserRegs};
use memfetch_sys::wait::{self, Status, Stop};

use super::tasks::Task;

/// The options of [`Running::seize`]. Without TRACESYSGOOD a tracer's death at the entry of a call would send a SIGTRAP.
/// No other one: each adds stops.
pub(super) const MOMENTARY: u32 = ptrace::O_TRACESYSGOOD;
/// The options of [`Running::accompany`].
pub(super) const LASTING: u32 = MOMENTARY | ptrace::O_TRACECLONE | ptrace::O_TRACEEXEC;

/// A tracee that runs, or has stopped without our having seen it yet.
#[derive(Debug)]
pub(super) struct Running(Task);

/// A tracee that is stopped.
///
/// `ESRCH` from any request means that it was killed meanwhile; the next look at it says so.
#[derive(Debug)]
pub(super) struct Stopped {
    task: Task,
    at: Stop,
}

/// What a look at a running tracee found.
#[derive(Debug)]
pub(super) enum Seen {
    Running(Running),
    Stopped(Stopped),
    Gone,
}

impl Running {
    /// Makes the calling thread its tracer; it runs on.
    pub fn seize(task: Task) -> io::Result<Self> {
        ptrace::seize(task.tid, MOMENTARY)?;
        Ok(Self(task))
    }

    /// As [`Running::seize`], for a long time: the threads that it bears are traced as well, and exec is told.
    pub fn accompany(task: Task) -> io::Result<Self> {
        ptrace::seize(task.tid, LASTING)?;
        Ok(Self(task))
    }

    /// Takes a thread for ours that is traced by the calling thread already.
    pub fn adopt(task: Task) -> Self {
        Self(task)
    }

    /// Has it stop soon. Where it has died, the next look says so.
    pub fn interrupt(&self) {
        let _ = ptrace::interrupt(self.0.tid);
    }

    /// Looks at it, without consuming its stop.
    pub fn look(self) -> Seen {
        match wait::look(self.0.tid) {
            Ok(Status::Nothing) => Seen::Running(self),
            Ok(Status::Stopped(at)) => Seen::Stopped(Stopped { task: self.0, at }),
            Ok(Status::Exited { .. } | Status::Killed { .. }) => {
                // The exit of a first thread is its process' exit, which is for its parent to see.
                if !self.0.is_first() {
                    let _ = wait::reap(self.0.tid);
                }
                Seen::Gone
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Seen::Running(self),
            // ECHILD: somebody else reaped it, or it took another thread's number by exec.
            Err(_) => Seen::Gone,
        }
    }
}

impl Stopped {
    /// What it is stopped at.
    pub fn at(&self) -> Stop {
        self.at
    }

    /// Its registers; none where they are not those of a 64-bit task, or it was killed.
    pub fn user_regs(&self) -> Option<UserRegs> {
        ptrace::user_regs(self.task.tid).ok().flatten()
    }

    /// Sets its registers; false where it was killed.
    pub fn set_user_regs(&self, regs: &UserRegs) -> bool {
        ptrace::set_user_regs(self.task.tid, regs).is_ok()
    }

    /// The two bytes that lie before an address of its memory.
    pub fn code_before(&self, address: u64) -> Option<[u8; 2]> {
        let word = |from: Option<u64>| ptrace::peek(self.task.tid, from?).ok();
        // Either word may reach into an unmapped page, if the instruction stands at the edge of its own.
        if let Some([.., a, b]) = word(address.checked_sub(8)) {
            return Some([a, b]);
        }
        word(address.checked_sub(2)).map(|[a, b, ..]| [a, b])
    }

    /// Asks for a stop right behind the one that it is in.
    ///
    /// Before it is resumed and not after it: a request that comes when it has stopped again would stop it once
    /// more later.
    pub fn interrupt(&self) {
        let _ = ptrace::interrupt(self.task.tid);
    }

    /// The signal that it is about to take.
    pub fn signal(&self) -> Option<i32> {
        match self.at {
            Stop::Signal(signal) => Some(signal),
            Stop::Syscall | Stop::Event { .. } => None,
        }
    }

    /// The `siginfo_t` of the signal that it is stopped by; none where it was killed.
    pub fn signal_info(&self) -> Option<Vec<u8>> {
        ptrace::signal_info(self.task.tid).ok().map(Vec::from)
    }

    /// Leaves it stopped by job control, until that ends.
    pub fn listen(self) -> Running {
        let _ = ptrace::listen(self.task.tid);
        Running(self.task)
    }

    /// Lets it run, with the signal that it is stopped by, or 0.
    pub fn resume(self, signal: i32) -> Running {
        let _ = ptrace::cont(self.task.tid, signal);
        Running(self.task)
    }

    /// The signals that it would take if it ran now, bit `n - 1` for signal `n`.
    pub fn due_signals(&self) -> u64 {
        let pending = |shared| ptrace::pending_signals(self.task.tid, shared).unwrap_or_default();
        let blocked = ptrace::signal_mask(self.task.tid).unwrap_or_default();
        (pending(false) | pending(true)) & !blocked
    }

    /// Lets it go for good, with the signal that it is stopped by, or 0.
    ///
    /// Never at the entry of a call: the kernel has a thread that is let go look for signals, and there this
    /// makes the call return EINTR. In all other stops it is at that already.
    pub fn let_go(self, signal: i32) {
        let _ = ptrace::detach(self.task.tid, signal);
    }

    /// Lets it run up to its next system call, with the signal that it is stopped by, or 0.
    pub fn resume_to_call(self, signal: i32) -> Running {
        let _ = ptrace::cont_to_syscall(self.task.tid, signal);
        Running(self.task)
    }

    /// Takes it for running, because it was found dead or is left as it stands.
    pub fn release(self) -> Running {
        Running(self.task)
    }
}
