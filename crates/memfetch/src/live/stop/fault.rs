//! Waiting for a fault: all threads run under trace, until one of them is about to take a signal that a program takes
//! for a fault of its own.
//!
//! A traced thread stops at each signal, and goes on with it and its `siginfo_t` at once; the tracing thread sleeps in
//! waitid(2) in between. Threads that are born are followed, and so is the process through exec. What job control stops
//! stays stopped until it is continued. A signal that nobody would have noticed, because it is ignored, interrupts
//! nothing: the thread is put back into its call. One that is blocked comes when it no longer is; where it is taken by
//! sigwait(3) or a signalfd it never comes, and is no fault.
//!
//! A fault that the processor finds cannot be ignored or blocked: the kernel takes both back, and the process dies of it
//! (`force_sig_info` in kernel/signal.c). It is seen all the same.

use std::io;
use std::time::Instant;

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
        loop {
            let (tid, status) = match wait::next() {
                Ok(told) => told,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Err(StopError::NoFault),
            };
            match status {
                // The end of a first thread is told when all others have ended.
                Status::Exited { .. } | Status::Killed { .. } if tid == self.target => {
                    return Err(StopError::NoFault);
                }
                Status::Exited { .. } | Status::Killed { .. } => {
                    let _ = wait::reap(tid);
                    self.tracees.retain(|tracee| tracee.task.tid != tid);
                    continue;
                }
                Status::Stopped(Stop::Event { event: EVENT_EXEC, .. }) => self.follow_exec(tid),
                Status::Stopped(_) => {}
                Status::Nothing => continue,
            }
            let Some(tracee) = self.tracee(tid) else { continue };
            let mut report = std::mem::take(&mut self.report);
            let tracee = self.tracees.get_mut(tracee);
            let is_held = tracee.is_some_and(|tracee| {
                tracee.look(Phase::Waiting, &mut report);
                tracee.is_held()
            });
            self.report = report;
            if is_held {
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

    /// Of all threads one is left, which has the number of the process now.
    fn follow_exec(&mut self, tid: Tid) {
        let of_target = process_of(tid).unwrap_or(tid);
        self.tracees.retain(|tracee| tracee.task.process != of_target || tracee.task.tid == tid);
    }
}

/// The process that a thread belongs to.
fn process_of(tid: Tid) -> Option<Pid> {
    Task { process: tid, tid }.status().ok()?.get("Tgid")?.parse().ok()
}
