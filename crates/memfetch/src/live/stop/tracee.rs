//! [`Tracee`]: one thread from seizing to letting go: what its stops mean, and what is done about them.
//!
//! # How a thread is let go
//!
//! Where it stands, by `PTRACE_DETACH`, and wherever possible without having run under us: to a traced thread
//! even ignored signals come, and wake it. A thread that was put back before its call, and for which a signal
//! waits, is escorted: resumed, it either stops by the signal, and then the call is to return EINTR; or it gets
//! to the entry of the call, from where it is resumed by `PTRACE_CONT`, because `PTRACE_DETACH` there makes the
//! call return EINTR.

use std::ffi::OsString;

use memfetch_sys::ptrace::{self, UserRegs};
use memfetch_sys::wait::Stop;

use super::StopReport;
use super::rewind::{Finding, Rewound};
use super::states::{Running, Seen, Stopped};
use super::tasks::{self, Task};
use crate::memory::WordSize;
use crate::threads::{Accounting, RegisterSet, Registers, SignalInfo, Thread};

/// The signal of a stop that the tracer asked for.
const SIGTRAP: i32 = 5;

/// What a program takes for a fault of its own: SIGILL, SIGBUS, SIGFPE, SIGSEGV, SIGPIPE.
const FAULTS: [i32; 5] = [4, 7, 8, 11, 13];

/// The bytes of `user_fpregs_struct` of x86-64 (sys/user.h).
const WIDE_FLOATS: usize = 512;

/// A thread that is, or was, traced by the calling thread.
#[derive(Debug)]
pub(super) struct Tracee {
    pub task: Task,
    state: State,
    /// Set from the moment that it was put back before its call to the moment that it is in it again.
    rewound: Option<Box<Rewound>>,
    /// It waits in the kernel for something that the stop itself holds up.
    is_stuck: bool,
    /// Job control had stopped it when it was last resumed.
    is_listening: bool,
    facts: Facts,
}

#[derive(Debug)]
enum State {
    Running(Running),
    Held(Stopped),
    /// Let go, and no tracee any more.
    Free,
    /// Dead.
    Gone,
}

/// What is known of a thread from before it was stopped.
#[derive(Debug, Default)]
pub(super) struct Facts {
    name: OsString,
    accounting: Accounting,
}

/// What becomes of a thread that stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// What stops is sent on, until one is about to take a fault signal: that stays stopped.
    Waiting,
    /// What stops stays stopped.
    Holding,
    /// As [`Phase::Holding`], also at a signal that is a fault or would kill: what the others met is not to end it before
    /// it was looked at.
    Keeping,
    /// What stops is sent on.
    Leaving,
}

impl Tracee {
    /// Of a thread that was just seized.
    pub fn new(task: Task, running: Running, facts: Facts) -> Self {
        Self {
            task,
            state: State::Running(running),
            rewound: None,
            is_stuck: false,
            is_listening: false,
            facts,
        }
    }

    /// Whether it has died.
    pub fn is_gone(&self) -> bool {
        matches!(self.state, State::Gone)
    }

    /// Whether it stands.
    pub fn is_held(&self) -> bool {
        matches!(self.state, State::Held(_))
    }

    /// Whether it was let go.
    pub fn is_free(&self) -> bool {
        matches!(self.state, State::Free)
    }

    /// Has it stop, if it runs.
    pub fn interrupt(&self) {
        if let State::Running(running) = &self.state {
            running.interrupt();
        }
    }

    /// Learns what can change over time, of one that has been traced for long.
    pub fn learn(&mut self) {
        self.facts = Facts::of(self.task);
    }

    /// Whether it runs, and waiting for its stop makes sense.
    pub fn is_awaited(&self) -> bool {
        matches!(self.state, State::Running(_)) && !self.is_stuck
    }

    /// Whether it is on its way back into a call.
    pub fn is_under_way(&self) -> bool {
        matches!(self.state, State::Running(_)) && self.rewound.is_some()
    }

    /// Whether job control has stopped it.
    pub fn is_in_group_stop(&self) -> bool {
        match &self.state {
            State::Held(stopped) => {
                matches!(stopped.at(), Stop::Event { signal, .. } if signal != SIGTRAP)
            }
            _ => false,
        }
    }

    /// Looks at it, if it runs; returns whether anything had happened to it.
    pub fn look(&mut self, phase: Phase, report: &mut StopReport) -> bool {
        let running = match std::mem::replace(&mut self.state, State::Gone) {
            State::Running(running) => running,
            state => {
                self.state = state;
                return false;
            }
        };
        match running.look() {
            Seen::Running(running) => {
                self.state = State::Running(running);
                false
            }
            Seen::Stopped(stopped) => {
                self.state = self.arrive(stopped, phase, report);
                true
            }
            Seen::Gone => {
                self.rewound = None;
                true
            }
        }
    }

    /// Where it stands, if it does.
    pub fn stopped(&self) -> Option<&Stopped> {
        match &self.state {
            State::Held(stopped) => Some(stopped),
            _ => None,
        }
    }

    /// Whether it was put back before its call.
    pub fn is_rewound(&self) -> bool {
        self.rewound.is_some()
    }

    /// Gives its stop away, which must come back by [`Tracee::put`] before anything else is done with it.
    pub fn lend(&mut self) -> Option<Stopped> {
        match std::mem::replace(&mut self.state, State::Gone) {
            State::Held(stopped) => Some(stopped),
            state => {
                self.state = state;
                None
            }
        }
    }

    /// Takes back what [`Tracee::lend`] gave. A stop may be another one by now: it counts as one that it has just come
    /// to, unless it is one that the tracer asked for.
    pub fn put(&mut self, seen: Seen, phase: Phase, report: &mut StopReport) {
        self.state = match seen {
            Seen::Running(running) => State::Running(running),
            Seen::Stopped(stopped) if matches!(stopped.at(), Stop::Event { signal: SIGTRAP, .. }) => {
                State::Held(stopped)
            }
            Seen::Stopped(stopped) => self.arrive(stopped, phase, report),
            Seen::Gone => {
                self.rewound = None;
                State::Gone
            }
        };
    }

    /// Looks whether it was killed while it was held.
    pub fn look_for_death(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Gone) {
            State::Held(stopped) => match stopped.release().look() {
                Seen::Stopped(stopped) => State::Held(stopped),
                Seen::Running(running) => State::Running(running),
                Seen::Gone => State::Gone,
            },
            state => state,
        };
    }

    fn arrive(&mut self, stopped: Stopped, phase: Phase, report: &mut StopReport) -> State {
        if self.rewound.as_ref().is_some_and(|rewound| !rewound.still_holds(&stopped)) {
            self.rewound = None;
        }
        if phase == Phase::Waiting {
            return self.accompany(stopped, report);
        }
        match stopped.at() {
            Stop::Event { signal: SIGTRAP, .. } => {
                self.mend(&stopped, report);
                match phase {
                    Phase::Waiting | Phase::Holding | Phase::Keeping => State::Held(stopped),
                    Phase::Leaving => self.send_off(stopped, 0),
                }
            }
            // Job control stops the process: a call that it interrupts returns EINTR without us as well, and a
            // resumed thread would run although it should not. The kernel stops it again when we leave.
            Stop::Event { .. } => {
                self.take_back(&stopped, report);
                State::Held(stopped)
            }
            Stop::Signal(signal) => {
                report.signals_forwarded += 1;
                let status = self.task.status();
                // To a thread that is traced even a signal comes that is ignored, and wakes it.
                if status.as_ref().is_ok_and(|status| status.ignores(signal)) {
                    self.mend(&stopped, report);
                } else {
                    self.take_back(&stopped, report);
                    let ends = FAULTS.contains(&signal) || status.is_ok_and(|status| status.dies_of(signal));
                    if phase == Phase::Keeping && ends {
                        return State::Held(stopped);
                    }
                }
                if matches!(phase, Phase::Holding | Phase::Keeping) {
                    stopped.interrupt();
                    return State::Running(stopped.resume(signal));
                }
                self.send_off(stopped, signal)
            }
            // At the entry of its call: from here on a wake-up is the call's own affair.
            Stop::Syscall => {
                self.rewound = None;
                State::Running(stopped.resume(0))
            }
        }
    }

    /// Sends it on from a stop that nobody asked for, unless that is what is waited for.
    fn accompany(&mut self, stopped: Stopped, report: &mut StopReport) -> State {
        let was_listening = std::mem::take(&mut self.is_listening);
        match stopped.at() {
            // Its birth, its bearing a thread, its exec, or SIGCONT, which stops all threads that are traced: those that
            // were stopped return EINTR without us as well, those that ran would not have noticed.
            Stop::Event { signal: SIGTRAP, .. } => {
                if !was_listening {
                    self.mend(&stopped, report);
                }
                State::Running(stopped.resume(0))
            }
            Stop::Event { .. } => {
                self.take_back(&stopped, report);
                self.is_listening = true;
                State::Running(stopped.listen())
            }
            Stop::Syscall => State::Running(stopped.resume(0)),
            Stop::Signal(signal) => {
                if self.task.status().is_ok_and(|status| status.ignores(signal)) {
                    // Were it not traced, it would not even have woken up.
                    self.mend(&stopped, report);
                    return State::Running(stopped.resume(signal));
                }
                self.take_back(&stopped, report);
                if FAULTS.contains(&signal) {
                    return State::Held(stopped);
                }
                report.signals_forwarded += 1;
                State::Running(stopped.resume(signal))
            }
        }
    }

    fn mend(&mut self, stopped: &Stopped, report: &mut StopReport) {
        if self.rewound.is_some() {
            return;
        }
        match Rewound::mend(self.task, stopped) {
            Finding::Whole => {}
            Finding::Interrupted => report.interrupted += 1,
            Finding::Shortened => report.shortened += 1,
            Finding::Rewound(rewound) => {
                report.rewound += 1;
                report.limits_restarted += usize::from(rewound.limited);
                self.rewound = Some(rewound);
            }
        }
    }

    fn take_back(&mut self, stopped: &Stopped, report: &mut StopReport) {
        if let Some(rewound) = self.rewound.take() {
            report.rewound = report.rewound.saturating_sub(1);
            report.limits_restarted = report.limits_restarted.saturating_sub(usize::from(rewound.limited));
            rewound.take_back(stopped);
        }
    }

    /// Lets it run, if it was held.
    pub fn release(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Gone) {
            State::Held(stopped) => {
                // What it was about to take when it was stopped follows now.
                let signal = stopped.signal().unwrap_or(0);
                self.send_off(stopped, signal)
            }
            state => state,
        };
    }

    /// Lets one go that has just stopped, and is none of ours.
    pub fn let_go(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Gone) {
            State::Running(running) => match running.look() {
                Seen::Stopped(stopped) => {
                    let signal = stopped.signal().unwrap_or(0);
                    stopped.let_go(signal);
                    State::Free
                }
                Seen::Running(running) => State::Running(running),
                Seen::Gone => State::Gone,
            },
            state => state,
        };
    }

    /// Whether a signal waits for it that interrupts a call.
    fn is_due_a_signal(&self, stopped: &Stopped) -> bool {
        let due = stopped.due_signals();
        let ignored = |status: tasks::StatusFile| {
            (1..=64).filter(|signal| due & 1 << (signal - 1) != 0).all(|signal| status.ignores(signal))
        };
        due != 0 && !self.task.status().is_ok_and(ignored)
    }

    /// Lets it go for good, or under escort where a signal may still interrupt the call that it was put back
    /// before.
    ///
    /// A signal that comes between this question and its answer is handled, and the call then starts as if the
    /// signal had come right before it.
    fn send_off(&mut self, stopped: Stopped, signal: i32) -> State {
        if self.rewound.as_ref().is_some_and(|rewound| rewound.masks || self.is_due_a_signal(&stopped)) {
            return State::Running(stopped.resume_to_call(signal));
        }
        self.rewound = None;
        stopped.let_go(signal);
        State::Free
    }

    /// Finds out whether waiting for it makes sense.
    pub fn ask_why_it_runs(&mut self) {
        match self.task.state() {
            // A dead first thread reports its death only when all others have died.
            None | Some('Z' | 'X') => self.state = State::Gone,
            // It would stop when its child does exec: the child, which shares its memory, is held by us.
            Some('D') => self.is_stuck = self.task.waits_for_vfork(),
            Some(_) => {}
        }
    }

    /// What is known of it.
    pub fn describe(&self, registers_of: Option<WordSize>) -> Thread {
        let mut thread = Thread {
            tid: self.task.tid,
            name: self.facts.name.clone(),
            accounting: self.facts.accounting,
            ..Thread::default()
        };
        if let State::Held(stopped) = &self.state
            && let Some(number) = stopped.signal()
        {
            thread.signal = stopped.signal_info().map(|bytes| SignalInfo { number, bytes });
        }
        let Some(word) = registers_of else { return thread };
        if !self.is_held() {
            thread.registers = self.task.blocked_call().map_or(Registers::Unknown, Registers::Partial);
            return thread;
        }
        thread.registers = Registers::Complete(self.register_sets(word));
        if let (Ok(pending), Ok(blocked)) =
            (ptrace::pending_signals(self.task.tid, false), ptrace::signal_mask(self.task.tid))
        {
            thread.accounting.pending = pending;
            thread.accounting.blocked = blocked;
        }
        thread
    }

    fn register_sets(&self, word: WordSize) -> Vec<RegisterSet> {
        let wanted = [
            ptrace::NT_PRSTATUS,
            ptrace::NT_PRFPREG,
            ptrace::NT_386_TLS,
            ptrace::NT_386_IOPERM,
            ptrace::NT_X86_XSTATE,
            ptrace::NT_X86_SHSTK,
        ];
        let mut sets = Vec::with_capacity(wanted.len());
        for note_type in wanted {
            // A set that this kernel, processor or thread has not is left out.
            let bytes = match &self.rewound {
                Some(rewound) if note_type == ptrace::NT_PRSTATUS => rewound.original().to_bytes().to_vec(),
                _ => self.register_set(note_type, word),
            };
            if !bytes.is_empty() {
                sets.push(RegisterSet { note_type, bytes });
            }
        }
        sets
    }
}

impl Tracee {
    /// A set in the layout of the process. The kernel gives it in that of the mode which the thread runs in.
    fn register_set(&self, note_type: u32, word: WordSize) -> Vec<u8> {
        let tid = self.task.tid;
        let bytes = ptrace::register_set(tid, note_type).unwrap_or_default();
        let is_wide = match note_type {
            ptrace::NT_PRSTATUS => bytes.len() == UserRegs::BYTES,
            ptrace::NT_PRFPREG => bytes.len() == WIDE_FLOATS,
            _ => return bytes,
        };
        match (word, note_type) {
            _ if bytes.is_empty() => bytes,
            (WordSize::Bits64, _) if is_wide => bytes,
            (WordSize::Bits32, _) if !is_wide => bytes,
            (WordSize::Bits64, ptrace::NT_PRSTATUS) => {
                ptrace::wide_user_regs(tid).map(|regs| regs.to_bytes().to_vec()).unwrap_or_default()
            }
            (WordSize::Bits64, _) => ptrace::wide_float_regs(tid).unwrap_or_default(),
            (WordSize::Bits32, ptrace::NT_PRSTATUS) => {
                UserRegs::from_bytes(&bytes).as_ref().map(narrow).unwrap_or_default()
            }
            // They are in the extended state as well.
            (WordSize::Bits32, _) => Vec::new(),
        }
    }
}

/// What of 64-bit registers those of a 32-bit process have room for: `user_regs_struct` of i386 (sys/user.h).
fn narrow(regs: &UserRegs) -> Vec<u8> {
    [
        regs.rbx,
        regs.rcx,
        regs.rdx,
        regs.rsi,
        regs.rdi,
        regs.rbp,
        regs.rax,
        regs.ds,
        regs.es,
        regs.fs,
        regs.gs,
        regs.orig_rax,
        regs.rip,
        regs.cs,
        regs.eflags,
        regs.rsp,
        regs.ss,
    ]
    .iter()
    .flat_map(|&register| (register as u32).to_le_bytes())
    .collect()
}

impl Facts {
    pub fn of(task: Task) -> Self {
        Self { name: task.name(), accounting: task.accounting() }
    }
}
