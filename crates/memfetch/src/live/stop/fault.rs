//! Waiting for a fault: all threads run under trace, until one of them is about to take a signal that a program takes
//! for a fault of its own.
//!
//! A traced thread stops at each signal, and goes on with it and its `siginfo_t` at once; the tracing thread sleeps in
//! waitid(2) in between. Threads that are born are followed, and so is the process through exec. What job control stops
//! stays stopped until it is continued. A signal that nobody would have noticed, because it is ignored, interrupts
//! nothing: the thread is put back into its call. One that is blocked comes when it no longer is; where it is taken by
//! sigwait(3) or a signalfd it never comes, and is no fault.
//!
//! A process that shares the memory (a vfork(2) child) is accompanied as well, and its fault counts: until it calls exec,
//! from where on it is a process of its own, and is let go.
//!
//! A fault that the processor finds cannot be ignored or blocked: the kernel takes both back, and the process dies of it
//! (`force_sig_info` in kernel/signal.c). It is seen all the same.
//!
//! # What the wait cannot hide
//!
//! - The relative time limit of a call that was put back starts anew with each ignored signal (SIGWINCH, SIGCHLD, ...): a
//!   call whose limit is longer than the time between two of them does not time out.
//! - A set-user-id program, or one with file capabilities, that the target calls exec of does not get these privileges,
//!   unless the tracer had CAP_SYS_PTRACE when it attached (execve(2), ptrace(2)).

use std::io;
use std::time::Instant;

use memfetch_sys::process::share_memory;
use memfetch_sys::ptrace::EVENT_EXEC;
use memfetch_sys::wait::{self, Status, Stop};

use super::states::Running;
use super::tasks::Task;
use super::tracee::{Facts, Phase, Tracee};
use super::tracer::Tracer;
use crate::error::StopError;
use crate::threads::{Pid, Tid};

impl Tracer {
    /// Lets the target run until one of its threads is about to take a fault signal; that thread stays stopped, and is
    /// the first of [`Tracer::threads`].
    ///
    /// # Errors
    ///
    /// [`StopError::NoFault`] where the target ends before.
    pub fn await_fault(&mut self) -> Result<(), StopError> {
        self.disown_strangers();
        loop {
            let (tid, status) = match wait::next() {
                Ok(told) => told,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) if self.witness().is_none() => return Err(StopError::NoFault),
                Err(source) => return Err(StopError::Os { action: "waiting for a fault", source }),
            };
            match status {
                // The end of a first thread is told when all others have ended.
                Status::Exited { .. } | Status::Killed { .. } if tid == self.target => {
                    return Err(StopError::NoFault);
                }
                Status::Exited { .. } | Status::Killed { .. } => {
                    let _ = wait::reap(tid);
                    self.watch.leave(tid);
                    self.tracees.retain(|tracee| tracee.task.tid != tid);
                    // The number may be that of another process from here on.
                    self.processes.retain(|process| *process != tid);
                    continue;
                }
                Status::Stopped(Stop::Event { event: EVENT_EXEC, .. }) => self.follow_exec(tid),
                Status::Stopped(_) => {}
                Status::Nothing => continue,
            }
            let Some(place) = self.tracee(tid) else { continue };
            let Some(tracee) = self.tracees.get_mut(place) else { continue };
            let is_ours = self.processes.contains(&tracee.task.process);
            tracee.look(if is_ours { Phase::Waiting } else { Phase::Leaving }, &mut self.report);
            let (is_held, is_free) = (tracee.is_held(), tracee.is_free());
            if is_free {
                self.tracees.swap_remove(place);
                self.watch.leave(tid);
            } else if is_held && is_ours {
                self.began = Some(Instant::now());
                self.caught = Some(tid);
                self.tracees.iter_mut().for_each(Tracee::learn);
                return Ok(());
            }
        }
    }

    /// The place of a tracee, which may have been born just now; none for one that is no thread of the processes that
    /// are traced, which is let go.
    fn tracee(&mut self, tid: Tid) -> Option<usize> {
        if let Some(place) = self.tracees.iter().position(|tracee| tracee.task.tid == tid) {
            return Some(place);
        }
        let process = process_of(tid).unwrap_or(self.target);
        let mut tracee =
            Tracee::new(Task { process, tid }, Running::adopt(Task { process, tid }), Facts::default());
        if !self.is_of(process) {
            // A process of its own that shares something with its parent (clone(2) without CLONE_THREAD).
            tracee.let_go();
            return None;
        }
        if process != tid {
            self.watch.enter(tid);
        }
        self.tracees.push(tracee);
        Some(self.tracees.len() - 1)
    }

    /// Of all threads one is left, which has the number of the process now. Where that is not the target, it shares the
    /// memory no more.
    fn follow_exec(&mut self, tid: Tid) {
        let process = process_of(tid).unwrap_or(tid);
        let watch = &self.watch;
        self.tracees.retain(|tracee| {
            let is_left = tracee.task.process != process || tracee.task.tid == tid;
            if !is_left {
                watch.leave(tracee.task.tid);
            }
            is_left
        });
        if process != self.target {
            self.disown(process);
        }
    }

    /// Has those let go that called exec before they were seized; from then on it is told.
    fn disown_strangers(&mut self) {
        let Some(witness) = self.witness() else { return };
        let shares = |process: Pid| share_memory(witness, process).unwrap_or(false);
        let strangers: Vec<Pid> = self
            .processes
            .iter()
            .copied()
            .filter(|process| *process != self.target && !shares(*process))
            .collect();
        for process in strangers {
            self.disown(process);
        }
    }

    /// Has the threads of a process let go as soon as they stop.
    fn disown(&mut self, process: Pid) {
        self.processes.retain(|ours| *ours != process);
        for tracee in self.tracees.iter().filter(|tracee| tracee.task.process == process) {
            tracee.interrupt();
        }
    }
}

/// The process that a thread belongs to.
fn process_of(tid: Tid) -> Option<Pid> {
    Task { process: tid, tid }.status().ok()?.get("Tgid")?.parse().ok()
}
