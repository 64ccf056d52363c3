//! [`Ride`]: a thread on its way through the calls that are made by it, stop by stop.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use memfetch_sys::ptrace::{self, UserRegs};
use memfetch_sys::wait::Stop;

use super::super::rewind::NO_CALL;
use super::super::states::{LASTING, MOMENTARY, Running, Seen, Stopped};
use super::super::tracer::rest;
use super::host::Host;
use super::{CLOSE, FLAGS, USERFAULTFD, result_of};
use crate::error::InjectionError;

const SIGRETURN: u64 = 15;
/// The length of `syscall`.
const SYSCALL_BYTES: u64 = 2;
const SIGTRAP: i32 = 5;
/// SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGSYS: never blocked.
const SYNCHRONOUS: [u32; 6] = [4, 5, 7, 8, 11, 31];

/// A thread that makes calls for us.
pub struct Ride<'a> {
    host: &'a Host,
    until: Instant,
    /// The time that this was from its beginning.
    limit: Duration,
    options: u32,
    observe: &'a mut dyn FnMut(&'static str),
}

/// Why a thread is not where it should be.
enum Halt {
    /// It came to another stop.
    Elsewhere(Stopped),
    /// It did not come to any.
    Running(Running),
    /// It died.
    Gone,
}

/// What comes of it all.
type Outcome = Result<OwnedFd, InjectionError>;

/// A stop that was reached, or why not.
type Reached = Result<Stopped, Halt>;

impl<'a> Ride<'a> {
    /// Of a thread that stands.
    pub fn new(
        host: &'a Host,
        until: Instant,
        limit: Duration,
        is_lasting: bool,
        observe: &'a mut dyn FnMut(&'static str),
    ) -> Self {
        Self { host, until, limit, options: if is_lasting { LASTING } else { MOMENTARY }, observe }
    }

    /// Has it make the calls, and puts it back to where it stood.
    ///
    /// Returned is where it is then: where it stood, or at a signal, or at a stop of job control; and what came of it,
    /// which is nothing where a signal came first.
    pub fn take(
        &mut self,
        stopped: Stopped,
        fetch: impl FnOnce(i32) -> io::Result<OwnedFd>,
    ) -> (Seen, Option<Outcome>) {
        let host = self.host;
        if host.is_confined
            && ptrace::set_options(host.task.tid, self.options | ptrace::O_SUSPEND_SECCOMP).is_err()
        {
            return (Seen::Stopped(stopped), Some(Err(InjectionError::Seccomp)));
        }
        let mut outcome = None;
        let reached = match self.prepare(&stopped) {
            Ok(()) => self.make_calls(stopped, &mut outcome, fetch),
            Err(error) => {
                outcome = Some(Err(InjectionError::Os { action: "writing to its stack", error }));
                Ok(stopped)
            }
        };
        let reached = match reached {
            // At a call, where it must not stay: its registers there are no longer its own.
            Err(Halt::Elsewhere(stopped)) if stopped.at() == Stop::Syscall => self.cancel(stopped),
            reached => reached,
        };
        let seen = match reached {
            Ok(stopped) | Err(Halt::Elsewhere(stopped)) => {
                self.undo(&stopped);
                Seen::Stopped(stopped)
            }
            // It goes back by itself.
            Err(Halt::Running(running)) => {
                running.interrupt();
                Seen::Running(running)
            }
            Err(Halt::Gone) => Seen::Gone,
        };
        (seen, outcome)
    }

    fn step(&mut self, name: &'static str) {
        (self.observe)(name);
    }

    /// Gives it its frame, and puts it before a call.
    fn prepare(&mut self, stopped: &Stopped) -> io::Result<()> {
        let host = self.host;
        self.step("frame");
        host.memory.write_all_at(&host.frame.bytes, host.frame.at)?;
        self.step("registers");
        stopped.set_user_regs(&self.before_return());
        self.step("mask");
        let spared = SYNCHRONOUS.iter().fold(0, |mask, signal| mask | 1_u64 << (signal - 1));
        // An error means that it was killed, which the next stop says.
        let _ = ptrace::set_signal_mask(host.task.tid, host.mask | !spared);
        Ok(())
    }

    /// About to go back to where it was.
    fn before_return(&self) -> UserRegs {
        UserRegs {
            rip: self.host.gadgets.call,
            // As a `ret` through the frame's first word leaves it.
            rsp: self.host.frame.at.wrapping_add(8),
            rax: SIGRETURN,
            orig_rax: NO_CALL,
            ..self.host.regs
        }
    }

    /// About to close a descriptor, and go back.
    fn before_close(&self, number: u64) -> UserRegs {
        if self.host.is_confined {
            // Without us its filters are in force again, and what they say of close is not known.
            return self.before_return();
        }
        UserRegs {
            rip: self.host.gadgets.call,
            rsp: self.host.frame.at,
            rax: CLOSE,
            rdi: number,
            orig_rax: NO_CALL,
            ..self.host.regs
        }
    }

    fn make_calls(
        &mut self,
        stopped: Stopped,
        outcome: &mut Option<Outcome>,
        fetch: impl FnOnce(i32) -> io::Result<OwnedFd>,
    ) -> Reached {
        let at = self.enter(stopped)?;
        if Instant::now() >= self.until {
            // Given up in the midst of the call it would leave a descriptor.
            *outcome = Some(Err(InjectionError::TimedOut { limit: self.limit }));
            return Err(Halt::Elsewhere(at));
        }
        let (at, made) = self.call(at, USERFAULTFD, FLAGS)?;
        let number = match result_of(made) {
            Ok(number) => number,
            Err(error) => {
                *outcome = Some(Err(InjectionError::Call { call: "userfaultfd", error }));
                return self.leave_call(at);
            }
        };
        self.step("before close");
        at.set_user_regs(&self.before_close(number));
        self.step("fetch");
        let fetched = i32::try_from(number).map_err(io::Error::other).and_then(fetch);
        *outcome = Some(Err(InjectionError::LeftOpen));
        let at = self.enter_whatever_comes(at)?;
        let (at, closed) = self.call(at, CLOSE, number)?;
        if result_of(closed).is_ok() {
            *outcome = Some(
                fetched.map_err(|error| InjectionError::Os { action: "fetching the descriptor", error }),
            );
        }
        self.leave_call(at)
    }

    /// Has it go on to the entry of the call that it stands before.
    fn enter(&mut self, stopped: Stopped) -> Reached {
        let mut at = stopped;
        loop {
            self.step("enter");
            at = self.reach(at.resume_to_call(0))?;
            match at.at() {
                Stop::Syscall if self.is_behind_instruction(&at).is_some() => return Ok(at),
                Stop::Event { signal: SIGTRAP, .. } => {}
                _ => return Err(Halt::Elsewhere(at)),
            }
        }
    }

    /// As [`Ride::enter`], through signals, which wait, and stops of job control.
    fn enter_whatever_comes(&mut self, stopped: Stopped) -> Reached {
        let mut at = stopped;
        loop {
            self.step("enter");
            let signal = at.signal().unwrap_or(0);
            if signal != 0 {
                // What is blocked when it is about to be delivered goes back to those that wait (`ptrace_signal` of
                // kernel/signal.c). Nothing forces one on a thread that makes a call and no other instruction.
                let _ = ptrace::set_signal_mask(self.host.task.tid, u64::MAX);
            }
            at = self.reach(at.resume_to_call(signal))?;
            match at.at() {
                Stop::Syscall if self.is_behind_instruction(&at).is_some() => return Ok(at),
                Stop::Syscall => return Err(Halt::Elsewhere(at)),
                Stop::Event { .. } | Stop::Signal(_) => {}
            }
        }
    }

    /// At the entry of a call: makes it another one, and has it made; returns what is in its result register.
    fn call(&mut self, entered: Stopped, number: u64, argument: u64) -> Result<(Stopped, u64), Halt> {
        let Some(regs) = entered.user_regs() else { return Err(Halt::Elsewhere(entered)) };
        self.step("call");
        entered.set_user_regs(&UserRegs { orig_rax: number, rdi: argument, rsp: self.host.frame.at, ..regs });
        self.step("make");
        let left = self.reach(entered.resume_to_call(0))?;
        match self.is_behind_instruction(&left) {
            Some(regs) if left.at() == Stop::Syscall && regs.orig_rax == number => Ok((left, regs.rax)),
            _ => Err(Halt::Elsewhere(left)),
        }
    }

    /// Its registers, if it is in the call that it was put before, or has just left it.
    fn is_behind_instruction(&self, stopped: &Stopped) -> Option<UserRegs> {
        let behind = self.host.gadgets.call.wrapping_add(SYSCALL_BYTES);
        stopped.user_regs().filter(|regs| regs.rip == behind)
    }

    /// Has it go from a call to a stop like the one that it was in before: from there on the kernel looks after a call
    /// that is to be restarted, which it does not on its way out of another one.
    fn leave_call(&mut self, stopped: Stopped) -> Reached {
        self.step("leave");
        // Before it is resumed, so that it runs no further.
        stopped.interrupt();
        self.step("settle");
        self.reach(stopped.resume(0))
    }

    /// As [`Ride::leave_call`], with a call not made that it may be at the entry of.
    fn cancel(&mut self, stopped: Stopped) -> Reached {
        if let Some(regs) = stopped.user_regs() {
            // As behind a call that was made: at the `ret`, which goes to the restorer.
            stopped.set_user_regs(&UserRegs {
                rip: self.host.gadgets.call.wrapping_add(SYSCALL_BYTES),
                rsp: self.host.frame.at,
                orig_rax: NO_CALL,
                ..regs
            });
        }
        self.leave_call(stopped)
    }

    /// Puts back all that was changed, in such an order that it can go back by itself until it need not.
    fn undo(&mut self, stopped: &Stopped) {
        let host = self.host;
        self.step("unmask");
        let _ = ptrace::set_signal_mask(host.task.tid, host.mask);
        if host.is_confined {
            self.step("confine");
            let _ = ptrace::set_options(host.task.tid, self.options);
        }
        self.step("put back");
        stopped.set_user_regs(&host.regs);
        self.step("clean");
        let _ = host.memory.write_all_at(&host.saved, host.frame.at);
        self.step("done");
    }

    /// Waits for its next stop.
    fn reach(&mut self, running: Running) -> Reached {
        let mut running = running;
        let mut quiet_looks = 0_u32;
        loop {
            running = match running.look() {
                Seen::Stopped(stopped) => return Ok(stopped),
                Seen::Gone => return Err(Halt::Gone),
                Seen::Running(running) => running,
            };
            if Instant::now() >= self.until {
                return Err(Halt::Running(running));
            }
            quiet_looks += 1;
            // The death of a first thread is told when all others have been taken note of.
            if quiet_looks.is_multiple_of(32) && matches!(self.host.task.state(), None | Some('Z' | 'X')) {
                return Err(Halt::Gone);
            }
            rest(quiet_looks);
        }
    }
}
