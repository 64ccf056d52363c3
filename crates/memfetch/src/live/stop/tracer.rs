//! [`Tracer`]: the threads of a process, and of those that share its memory, under one tracing thread.
//!
//! Every method must run on the thread that made the tracer: ptrace belongs to threads. When that thread ends,
//! the kernel lets go of every tracee that is left.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::{Builder, sleep, yield_now};
use std::time::{Duration, Instant};

use memfetch_sys::process::share_memory;

use super::states::Running;
use super::tasks::{self, Task};
use super::tracee::{Facts, Phase, Tracee};
use super::{FreezeOptions, StopReport, Tracing, Watch};
use crate::error::StopError;
use crate::memory::WordSize;
use crate::threads::{Pid, Thread, Tid};

/// How long a thread may take to stop before it is asked what it is doing.
const PATIENCE: Duration = Duration::from_millis(2);
/// How often to look whether an exec is over.
const EXEC_LOOKS: Duration = Duration::from_micros(500);
/// How long a probe may take before the process counts as busy.
const PROBING: Duration = Duration::from_millis(20);
/// How many looks without a result are followed by a mere yield of the processor.
const EAGER_LOOKS: u32 = 16;
/// How long to pass signals on when all threads run: what comes later the kernel passes on when we end.
const LINGERING: Duration = Duration::from_millis(5);

/// All tracees of this thread.
#[derive(Debug)]
pub(super) struct Tracer {
    pub(super) target: Pid,
    pub(super) processes: Vec<Pid>,
    strangers: HashSet<Pid>,
    newest: Option<String>,
    pub(super) tracees: Vec<Tracee>,
    /// Processes of which somebody was in exec when they were to be seized.
    busy: Vec<Pid>,
    pub(super) watch: Arc<Watch>,
    pub(super) deadline: Duration,
    registers: bool,
    word: WordSize,
    pub(super) began: Option<Instant>,
    /// Whether they are to be traced until one meets a fault, and not for a moment only.
    pub(super) at_fault: bool,
    /// The thread that met one.
    pub(super) caught: Option<Tid>,
    pub report: StopReport,
}

impl Tracer {
    /// Seizes all threads; they run on.
    pub fn seize(target: Pid, options: &FreezeOptions, watch: Arc<Watch>) -> Result<Self, StopError> {
        let mut tracer = Self {
            target,
            processes: vec![target],
            strangers: HashSet::new(),
            newest: None,
            tracees: Vec::new(),
            busy: Vec::new(),
            watch,
            deadline: options.deadline,
            registers: options.registers,
            word: options.word,
            began: None,
            at_fault: options.at_fault,
            caught: None,
            report: StopReport::default(),
        };
        // All that takes long comes first: from SEIZE on a signal to the target waits for us.
        tracer.find_sharers()?;
        tracer.await_execs()?;
        let mut facts = HashMap::new();
        if tracer.registers {
            for tid in tasks::threads_of(target).unwrap_or_default() {
                tracer.step()?;
                facts.insert(tid, Facts::of(Task { process: target, tid }));
            }
        }
        // A few times only: a process may bear threads for ever. Once the others stand it bears no more; and where it is
        // accompanied, all whose parents are ours are ours.
        for _ in 0..if tracer.at_fault { 100 } else { 4 } {
            if tracer.enlist(&mut facts)? == 0 && tracer.busy.is_empty() {
                break;
            }
        }
        if tracer.tracees.is_empty() && tracer.busy.is_empty() {
            return Err(StopError::NoThreads);
        }
        Ok(tracer)
    }

    /// Stops all threads, those born meanwhile as well, and waits until they stand or the deadline has passed.
    pub fn hold(&mut self) -> Result<(), StopError> {
        hurry();
        self.began.get_or_insert_with(Instant::now);
        let until = Instant::now() + self.deadline;
        self.interrupt_from(0);
        self.wait_for_stops(until);
        loop {
            self.step()?;
            if self.newest != tasks::newest_task() {
                self.find_sharers()?;
            }
            // A thread that was not seized may have killed those that stand, by exec, and have taken the number of
            // one of them.
            self.reap();
            let before = self.tracees.len();
            let newborn = self.enlist(&mut HashMap::new())?;
            let are_standing =
                newborn == 0 && self.busy.is_empty() && !self.tracees.iter().any(Tracee::is_awaited);
            if (are_standing && self.listing_was_whole()) || Instant::now() >= until {
                break;
            }
            for tracee in self.tracees.iter().take(before).filter(|tracee| tracee.is_awaited()) {
                tracee.interrupt();
            }
            self.interrupt_from(before);
            self.wait_for_stops(until);
            if !self.busy.is_empty() {
                sleep(EXEC_LOOKS);
                self.pass(self.holding());
            }
        }
        self.leave_out_busy()?;
        self.report.already_stopped = self.tracees.iter().any(Tracee::is_in_group_stop);
        self.report.sharers = self.processes.iter().copied().filter(|pid| *pid != self.target).collect();
        if self.tracees.iter().all(|tracee| tracee.is_gone()) {
            return Err(StopError::NoThreads);
        }
        Ok(())
    }

    /// The threads of the target, first thread first, with what is known of them. Before it the one that met a fault,
    /// which may be that of a process that shares the memory.
    pub fn threads(&mut self) -> Vec<Thread> {
        let mut threads = Vec::new();
        for tracee in &mut self.tracees {
            self.watch.step();
            let complete = tracee.is_held();
            if tracee.is_gone() {
                continue;
            }
            self.report.threads += 1;
            self.report.partial += usize::from(!complete);
            if tracee.task.process == self.target || Some(tracee.task.tid) == self.caught {
                threads.push(tracee.describe(self.registers.then_some(self.word)));
            }
        }
        threads.sort_by_key(|thread| (Some(thread.tid) != self.caught, thread.tid != self.target));
        threads
    }

    /// What must be done while the target is held: threads that were killed are reaped, since others wait for
    /// that; threads that stop late are put back before their calls.
    pub fn tend(&mut self) {
        self.reap();
        self.pass(self.holding());
    }

    /// Whether all threads have died.
    pub fn is_bereft(&self) -> bool {
        self.tracees.iter().all(|tracee| tracee.is_gone())
    }

    /// Lets all threads run, sees those that were put back into their calls, and passes signals on until none
    /// is under way. The calling thread should end right after.
    pub fn leave(&mut self) {
        // A late stop that came since the last look must be mended before it is resumed like any other.
        self.pass(self.holding());
        // The first thread first, for the reason for which it was seized last.
        for first in [true, false] {
            for tracee in &mut self.tracees {
                if tracee.task.is_first() == first && !tracee.is_in_group_stop() {
                    tracee.release();
                }
            }
        }
        let mut released = Instant::now();
        let until = released + self.deadline;
        let mut quiet_looks = 0;
        loop {
            let under_way = self.tracees.iter().any(Tracee::is_under_way);
            let arrived = self.pass(Phase::Leaving);
            if under_way {
                released = Instant::now();
            } else if arrived == 0 {
                break;
            }
            let now = Instant::now();
            if now >= until || (!under_way && now.duration_since(released) >= LINGERING) {
                break;
            }
            quiet_looks = if arrived > 0 { 0 } else { quiet_looks + 1 };
            rest(quiet_looks);
        }
        self.report.unsettled = self.tracees.iter().filter(|tracee| tracee.is_under_way()).count();
        self.report.ended = self.is_bereft();
        if let Some(began) = self.began {
            self.report.pause = released.duration_since(began);
        }
    }

    /// Has the tracees from an index on stop.
    ///
    /// A request takes about as long as a stop (it wakes another processor), and until a thread that stands is
    /// put back before its call, our death would interrupt that call: so those before are looked at in between.
    fn interrupt_from(&mut self, index: usize) {
        const RECENT: usize = 3;
        let holding = self.holding();
        let report = &mut self.report;
        for next in index..self.tracees.len() {
            for (position, tracee) in
                self.tracees.iter_mut().enumerate().take(next + 1).skip(next.saturating_sub(RECENT))
            {
                if position == next {
                    tracee.interrupt();
                } else {
                    tracee.look(holding, report);
                }
            }
        }
    }

    /// Whether a process is one of those that are traced.
    pub fn is_of(&self, process: Pid) -> bool {
        self.processes.contains(&process)
    }

    /// How long the target has been held.
    pub fn held_for(&self) -> Duration {
        self.began.map(|began| began.elapsed()).unwrap_or_default()
    }

    /// Seizes the threads that are listed and not yet ours; returns how many there were.
    fn enlist(&mut self, facts: &mut HashMap<Tid, Facts>) -> Result<usize, StopError> {
        // Built anew each time: the number of a thread that died may be that of another now.
        let known: HashSet<Tid> =
            self.tracees.iter().filter(|tracee| !tracee.is_gone()).map(|tracee| tracee.task.tid).collect();
        let mut enlisted = 0;
        let mut loose = Vec::new();
        self.busy.clear();
        for process in &self.processes {
            let mut tids = tasks::threads_of(*process).unwrap_or_default();
            // The first thread last: a signal to the process is dropped at once, if it is ignored, unless the
            // first thread is traced; then it may wake any other, and one that is not traced yet would return
            // EINTR unmended.
            tids.sort_by_key(|tid| tid == process);
            let running: HashSet<Tid> = self
                .tracees
                .iter()
                .filter(|tracee| tracee.is_awaited())
                .map(|tracee| tracee.task.tid)
                .collect();
            let is_news = |tid: &Tid| !known.contains(tid);
            // Not now: we would sleep until the exec is over, and nobody would look after those that are ours.
            if tids.iter().any(is_news)
                && is_any_in_exec(
                    tids.iter()
                        .filter(|tid| is_news(tid) || running.contains(tid))
                        .map(|tid| Task { process: *process, tid: *tid })
                        .collect(),
                )
            {
                self.busy.push(*process);
                continue;
            }
            for tid in tids {
                if known.contains(&tid) {
                    continue;
                }
                self.step()?;
                let task = Task { process: *process, tid };
                match seize(task, self.at_fault) {
                    Ok(None) => {}
                    Ok(Some(running)) => {
                        let facts = match facts.remove(&tid) {
                            Some(facts) => facts,
                            None if self.registers && *process == self.target => Facts::of(task),
                            None => Facts::default(),
                        };
                        if !task.is_first() {
                            self.watch.enter(tid);
                        }
                        self.tracees.push(Tracee::new(task, running, facts));
                        enlisted += 1;
                    }
                    Err(error) if *process == self.target => return Err(error),
                    Err(_) => {
                        loose.push(*process);
                        break;
                    }
                }
            }
        }
        self.processes.retain(|process| !loose.contains(process));
        self.report.loose_sharers.append(&mut loose);
        Ok(enlisted)
    }

    /// Waits until nobody is in exec, for as long as the deadline says; those that still are after it are left
    /// out. Nobody waits for us yet.
    fn await_execs(&mut self) -> Result<(), StopError> {
        let until = Instant::now() + self.deadline;
        self.busy = self.processes.iter().copied().filter(|process| is_in_exec(*process)).collect();
        if self.busy.is_empty() {
            return Ok(());
        }
        let awaited = self.busy.clone();
        while !self.busy.is_empty() && Instant::now() < until {
            self.step()?;
            sleep(EXEC_LOOKS);
            self.busy.retain(|process| is_in_exec(*process));
        }
        // After exec it shares the memory no more.
        self.processes.retain(|process| *process == self.target || !awaited.contains(process));
        self.strangers.retain(|process| self.busy.contains(process) || !awaited.contains(process));
        self.leave_out_busy()?;
        self.find_sharers()
    }

    /// Counts as loose who is still in exec.
    fn leave_out_busy(&mut self) -> Result<(), StopError> {
        let mut busy = std::mem::take(&mut self.busy);
        if busy.contains(&self.target) {
            return Err(StopError::Busy);
        }
        self.processes.retain(|process| !busy.contains(process));
        self.report.loose_sharers.append(&mut busy);
        Ok(())
    }

    /// Tells that we get on; an error where nobody waits for us any more.
    fn step(&self) -> Result<(), StopError> {
        if self.watch.step() { Ok(()) } else { Err(StopError::Stuck) }
    }

    /// Whether the last listings can have missed nobody: a listing skips entries when threads die under it.
    fn listing_was_whole(&self) -> bool {
        self.processes.iter().all(|process| {
            let Ok(listed) = tasks::threads_of(*process) else { return true };
            let Some(first) = listed.first() else { return true };
            let status = Task { process: *process, tid: *first }.status();
            status.ok().and_then(|status| status.get("Threads")?.parse().ok()) == Some(listed.len())
        })
    }

    /// Adds the processes that have the target's address space without being threads of it (vfork,
    /// `CLONE_VM`).
    fn find_sharers(&mut self) -> Result<(), StopError> {
        self.newest = tasks::newest_task();
        let Some(witness) = self.witness() else { return Ok(()) };
        let own = std::process::id();
        for process in tasks::processes().unwrap_or_default() {
            if process == self.target || !self.strangers.insert(process) {
                continue;
            }
            self.step()?;
            // An error is no match: EPERM says that the process may not be stopped either.
            if share_memory(witness, process).unwrap_or(false) {
                if u32::try_from(process) == Ok(own) {
                    return Err(StopError::Itself);
                }
                self.processes.push(process);
            }
        }
        Ok(())
    }

    /// A thread of the target that has an address space to compare, which a dead first thread has not.
    pub(super) fn witness(&self) -> Option<Tid> {
        let listed = tasks::threads_of(self.target).unwrap_or_default();
        listed.into_iter().find(|tid| !is_dead(Task { process: self.target, tid: *tid }))
    }

    fn wait_for_stops(&mut self, until: Instant) {
        let mut asked = Instant::now();
        let mut quiet_looks = 0;
        loop {
            let arrived = self.pass(self.holding());
            if self.step().is_err() || !self.tracees.iter().any(Tracee::is_awaited) {
                return;
            }
            let now = Instant::now();
            if now >= until {
                return;
            }
            if arrived > 0 {
                quiet_looks = 0;
                asked = now;
                continue;
            }
            quiet_looks += 1;
            if now.duration_since(asked) >= PATIENCE {
                asked = now;
                self.reap();
                for tracee in self.tracees.iter_mut().filter(|tracee| tracee.is_awaited()) {
                    tracee.ask_why_it_runs();
                }
            }
            rest(quiet_looks);
        }
    }

    /// What becomes of what stops while all are held.
    pub(super) fn holding(&self) -> Phase {
        if self.caught.is_some() { Phase::Keeping } else { Phase::Holding }
    }

    /// Looks once at every tracee that runs; returns how many had stopped or died.
    pub(super) fn pass(&mut self, phase: Phase) -> usize {
        let report = &mut self.report;
        self.tracees.iter_mut().map(|tracee| usize::from(tracee.look(phase, report))).sum()
    }

    /// Takes note of the dead, also among those that were held: a thread that waits for the whole process to
    /// end (in exec or exit) waits for its tracer to do so.
    fn reap(&mut self) {
        for tracee in &mut self.tracees {
            tracee.look_for_death();
        }
    }
}

/// Seizes a thread; none where it is dead or dying.
fn seize(task: Task, for_long: bool) -> Result<Option<Running>, StopError> {
    // In the midst of exec a thread can be refused that is not a moment later.
    for _ in 0..4 {
        match seize_once(task, for_long) {
            // A probe that came back late.
            Err(StopError::Traced { by, .. }) if u32::try_from(by) == Ok(std::process::id()) => {
                sleep(Duration::from_micros(500));
            }
            Err(StopError::Refused(_)) => sleep(Duration::from_micros(500)),
            result => return result,
        }
    }
    seize_once(task, for_long)
}

fn seize_once(task: Task, for_long: bool) -> Result<Option<Running>, StopError> {
    const NO_SUCH_THREAD: i32 = 3;
    const NOT_PERMITTED: i32 = 1;
    let seized = if for_long { Running::accompany(task) } else { Running::seize(task) };
    let error = match seized {
        Ok(running) => return Ok(Some(running)),
        Err(error) => error,
    };
    match error.raw_os_error() {
        Some(NO_SUCH_THREAD) => Ok(None),
        // The kernel says the same of a dead thread.
        Some(NOT_PERMITTED) if is_dead(task) => Ok(None),
        // By exec a thread of ours took the number of the first one, which has died.
        Some(NOT_PERMITTED) if tasks::is_traced_by(task, rustix::thread::gettid().as_raw_nonzero().get()) => {
            Ok(Some(Running::adopt(task)))
        }
        Some(NOT_PERMITTED) => Err(match tasks::tracer_of(task) {
            Some((by, name)) => StopError::Traced { by, name },
            None => StopError::Refused(error),
        }),
        _ => Err(StopError::Os { action: "PTRACE_SEIZE", source: error }),
    }
}

/// Whether a thread of a process is in exec.
fn is_in_exec(process: Pid) -> bool {
    let tids = tasks::threads_of(process).unwrap_or_default();
    is_any_in_exec(tids.into_iter().map(|tid| Task { process, tid }).collect())
}

/// Whether one of these threads of a process is in exec.
fn is_any_in_exec(tasks: Vec<Task>) -> bool {
    tasks::exec_among(tasks).unwrap_or_else(|running| !can_be_seized(running))
}

/// Tries on another thread whether a thread that runs can be seized without sleeping; it is let go at once.
///
/// What does not come back is left to its fate: it ends, and lets go, as soon as the kernel has answered.
fn can_be_seized(task: Task) -> bool {
    let (births, born) = channel();
    let (outbox, answers) = channel();
    let body = move || {
        let _ = births.send(rustix::thread::gettid().as_raw_nonzero().get());
        let _ = Running::seize(task);
        let _ = outbox.send(());
        StopReport::default()
    };
    let Ok(thread) = Builder::new().name("memfetch-probe".to_owned()).spawn(body) else { return true };
    let tid = born.recv().unwrap_or_default();
    let has_answered = answers.recv_timeout(PROBING).is_ok();
    if has_answered {
        Tracing { tid, thread }.end();
    }
    has_answered
}

fn is_dead(task: Task) -> bool {
    matches!(task.state(), None | Some('Z' | 'X'))
}

/// Gives the processor to those that are waited for: first for as long as they take, then for longer and longer.
///
/// By a sleep, however short, after the first looks: after it a thread gets the processor before those that
/// compute all the time, while after a yield it queues up behind them.
pub(super) fn rest(quiet_looks: u32) {
    if quiet_looks <= EAGER_LOOKS {
        yield_now();
    } else {
        sleep(Duration::from_micros(20 << (quiet_looks / 64).min(6)));
    }
}

/// Has this thread, for which the target waits, get the processor soon; the first part where that is allowed.
fn hurry() {
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), -20);
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
}
