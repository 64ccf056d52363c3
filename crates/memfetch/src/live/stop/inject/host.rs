//! [`Host`]: the thread that is to make a call for us, and what it takes to send it back.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use memfetch_sys::ptrace::{self, UserRegs};
use memfetch_sys::wait::{EVENT_STOP, Stop};
use memfetch_sys::xsave;

use super::super::rewind::{NO_CALL, SYSCALL};
use super::super::tasks::Task;
use super::super::tracee::Tracee;
use super::super::tracer::Tracer;
use super::frame::Frame;
use super::gadgets::{self, Gadgets};
use super::user_mode::{self, Sequence};
use crate::address::{Address, Span};
use crate::error::InjectionError;
use crate::maps;
use crate::region::{Backing, RegionMap};

/// The code segment of 64-bit code.
const WIDE_CODE: u64 = 0x33;
/// `ERESTARTSYS`, `ERESTARTNOINTR`, `ERESTARTNOHAND`, as calls return them: the kernel makes the call again.
const RESTARTS: [u64; 3] =
    [(-512_i64).cast_unsigned(), (-513_i64).cast_unsigned(), (-514_i64).cast_unsigned()];
/// `ERESTART_RESTARTBLOCK`: the kernel makes restart_syscall(2), which knows how much time is left, and which
/// rt_sigreturn(2) makes forget it.
const RESTART_BLOCK: u64 = (-516_i64).cast_unsigned();
/// The bit of a call's number that marks the x32 ABI.
const X32: u64 = 0x4000_0000;
/// How far below its own block a thread's stack may begin: the C libraries put the block at the top of the stack. Where
/// the mapping ends does not tell, since it joins with what lies next to it.
const LARGEST_STACK: u64 = 64 << 20;
/// How many threads are looked at in search of a better one.
const LOOKS: usize = 64;
const PAGE: u64 = 4096;

/// A held thread that can make a call.
#[derive(Debug)]
pub struct Host {
    /// Its place among the tracees.
    pub index: usize,
    /// Which one.
    pub task: Task,
    /// Its registers, to be put back.
    pub regs: UserRegs,
    /// The signals that it blocks, to be put back.
    pub mask: u64,
    /// Whether seccomp restricts it.
    pub is_confined: bool,
    /// What the call goes through.
    pub gadgets: Gadgets,
    /// What sends it back without us.
    pub frame: Frame,
    /// The bytes that lie where the frame goes.
    pub saved: Vec<u8>,
    /// Its memory.
    pub memory: File,
    /// What it may be led through by no means.
    sequence: Option<Sequence>,
}

/// Where a thread stands that is to make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At a system call.
    Call,
    /// In its own code.
    UserMode,
}

/// A thread before its frame and the instructions are known.
struct Candidate {
    index: usize,
    task: Task,
    regs: UserRegs,
    /// The registers with which it would be in user mode if it ran now.
    resumes: UserRegs,
    sequence: Option<Sequence>,
    is_confined: bool,
}

/// A reason, and how much a thread has that one with a lesser number lacks.
pub(super) type Refused = (u8, InjectionError);

impl Host {
    /// The most suitable thread of the target.
    ///
    /// One at a system call before those in user mode, one without seccomp before others, then one whose stack has the
    /// pages that are needed.
    pub fn choose(tracer: &Tracer) -> Result<Self, InjectionError> {
        if tracer.tracees.iter().any(Tracee::is_in_group_stop) {
            return Err(InjectionError::JobControl);
        }
        let mut refused: Refused = (0, InjectionError::NotInCall);
        let mut map = None;
        let best = Self::best_at(Place::Call, tracer, &mut map, &mut refused)
            .or_else(|| Self::best_at(Place::UserMode, tracer, &mut map, &mut refused));
        let (Some(mut host), Some(map)) = (best, map) else { return Err(refused.1) };
        host.gadgets = gadgets::find(host.task, &map, &host.memory).ok_or(InjectionError::NoGadget)?;
        if host.sequence.is_some_and(|sequence| host.gadgets.addresses().any(|at| sequence.contains(at))) {
            return Err(InjectionError::InSequence);
        }
        host.frame.return_to(host.gadgets.restorer);
        // Of the chosen one only: reading enters pages into the page table.
        host.saved.resize(host.frame.bytes.len(), 0);
        host.memory
            .read_exact_at(&mut host.saved, host.frame.at)
            .map_err(|error| InjectionError::Os { action: "reading its stack", error })?;
        Ok(host)
    }

    /// The most suitable one of those that stand at such a place, without the instructions; the map is read where it is
    /// needed, and the weightiest reason against one is kept.
    fn best_at(
        place: Place,
        tracer: &Tracer,
        map: &mut Option<RegionMap>,
        refused: &mut Refused,
    ) -> Option<Self> {
        let mut best: Option<(u8, Self)> = None;
        let mut looks = 0;
        for (index, tracee) in tracer.tracees.iter().enumerate() {
            if tracee.task.process != tracer.target || looks >= LOOKS {
                continue;
            }
            let host = Candidate::new(place, index, tracee).and_then(|candidate| {
                looks += 1;
                let map = match map {
                    Some(map) => map,
                    None => {
                        check_personality(candidate.task).map_err(|error| (7, error))?;
                        map.insert(read_map(candidate.task).map_err(|error| (7, error))?)
                    }
                };
                candidate.settle_in(map)
            });
            match host {
                Ok(host) => {
                    let cost = u8::from(host.is_confined) * 2 + u8::from(!host.has_pages());
                    if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                        best = Some((cost, host));
                    }
                    if cost == 0 {
                        break;
                    }
                }
                Err((rank, error)) if rank >= refused.0 => *refused = (rank, error),
                Err(_) => {}
            }
        }
        best.map(|(_, host)| host)
    }

    /// Whether the frame needs no new page.
    fn has_pages(&self) -> bool {
        const PRESENT: u64 = 1 << 63;
        let path = format!("/proc/{}/task/{}/pagemap", self.task.process, self.task.tid);
        let Ok(pagemap) = File::open(path) else { return false };
        let (first, last) = (self.frame.at / PAGE, self.regs.rsp / PAGE);
        (first..=last).all(|page| {
            let mut word = [0; 8];
            pagemap.read_exact_at(&mut word, page * 8).is_ok() && u64::from_ne_bytes(word) & PRESENT != 0
        })
    }
}

impl Candidate {
    fn new(place: Place, index: usize, tracee: &Tracee) -> Result<Self, Refused> {
        let task = tracee.task;
        let not_in_call = || (0, InjectionError::NotInCall);
        let stopped = tracee.stopped().ok_or_else(not_in_call)?;
        match stopped.at() {
            Stop::Event { event: EVENT_STOP, .. } => {}
            _ => return Err(not_in_call()),
        }
        let foreign = (1, InjectionError::Foreign);
        let Some(regs) = stopped.user_regs().filter(|regs| regs.cs == WIDE_CODE) else { return Err(foreign) };
        let is_in_call = regs.orig_rax <= i32::MAX as u64;
        if is_in_call && regs.orig_rax & X32 != 0 {
            return Err(foreign);
        }
        let is_at_instruction =
            tracee.is_rewound() || is_in_call && stopped.code_before(regs.rip) == Some(SYSCALL);
        if is_at_instruction != (place == Place::Call) {
            return Err(not_in_call());
        }
        let mut resumes = regs;
        let mut sequence = None;
        if place == Place::UserMode {
            sequence = user_mode::check(task, stopped, &regs)?;
        } else if is_in_call {
            if regs.rax == RESTART_BLOCK {
                return Err((2, InjectionError::RestartBlock));
            }
            if RESTARTS.contains(&regs.rax) {
                resumes.rip = regs.rip.wrapping_sub(2);
                resumes.rax = regs.orig_rax;
            }
            resumes.orig_rax = NO_CALL;
        }
        if ptrace::register_set(task.tid, ptrace::NT_X86_SHSTK).is_ok() {
            return Err((3, InjectionError::ShadowStack));
        }
        // A kernel that cannot tell may have it on.
        if ptrace::dispatches_calls(task.tid).unwrap_or(true) {
            return Err((4, InjectionError::UserDispatch));
        }
        let status = task.status().map_err(|error| os("reading its status")(error))?;
        let is_confined = status.get("Seccomp").is_some_and(|mode| mode != "0");
        Ok(Self { index, task, regs, resumes, sequence, is_confined })
    }

    /// Finds it a place for its frame.
    fn settle_in(self, map: &RegionMap) -> Result<Host, Refused> {
        let Self { index, task, regs, resumes, sequence, is_confined } = self;
        let mask = ptrace::signal_mask(task.tid).map_err(os("reading its signal mask"))?;
        let xstate = ptrace::register_set(task.tid, ptrace::NT_X86_XSTATE)
            .map_err(os("reading its extended state"))?;
        let no_room = || (5, InjectionError::NoRoom);
        let frame = Frame::new(&resumes, mask, &xstate, &xsave::components()).ok_or_else(no_room)?;
        let stack = own_stack(task, &regs, map).ok_or_else(no_room)?;
        let taken = Span::from_len(Address::new(frame.at), frame.reach).ok_or_else(no_room)?;
        if !stack.covers(taken) {
            return Err(no_room());
        }
        let memory = File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/{}/task/{}/mem", task.process, task.tid))
            .map_err(os("opening its memory"))?;
        let gadgets = Gadgets { call: 0, restorer: 0 };
        let saved = Vec::new();
        Ok(Host { index, task, regs, mask, is_confined, gadgets, frame, saved, memory, sequence })
    }
}

/// The stack of a thread, if what lies below its stack pointer is known to be the thread's own: the first stack of a
/// process, or one that a C library made for the thread, with the thread's own block at its top and a guard, or nothing,
/// below it.
///
/// Coroutines and goroutines have their stacks side by side with each other and with other things, in one mapping, and
/// the block of a first thread can have become part of any.
fn own_stack(task: Task, regs: &UserRegs, map: &RegionMap) -> Option<Span> {
    let region = map.at(Address::new(regs.rsp))?;
    let access = region.permissions;
    if !access.read || !access.write || access.shared {
        return None;
    }
    let is_own = match region.backing {
        Backing::Stack => true,
        Backing::Anonymous { .. } => {
            let is_guarded = region.span.start().get().checked_sub(1).is_some_and(|below| {
                map.at(Address::new(below)).is_none_or(|below| below.permissions.is_none())
            });
            !task.is_first()
                && is_guarded
                && region.span.contains(Address::new(regs.fs_base))
                && regs.fs_base > regs.rsp
                && regs.fs_base - region.span.start().get() <= LARGEST_STACK
        }
        _ => false,
    };
    is_own.then_some(region.span)
}

/// Whether its calls are those of Linux (personality(2)).
fn check_personality(task: Task) -> Result<(), InjectionError> {
    let path = format!("/proc/{}/task/{}/personality", task.process, task.tid);
    let text = std::fs::read_to_string(path)
        .map_err(|error| InjectionError::Os { action: "reading its personality", error })?;
    match u32::from_str_radix(text.trim(), 16) {
        Ok(personality) if personality & 0xff == 0 => Ok(()),
        _ => Err(InjectionError::Foreign),
    }
}

fn read_map(task: Task) -> Result<RegionMap, InjectionError> {
    const ACTION: &str = "reading its map";
    let text = std::fs::read(format!("/proc/{}/task/{}/maps", task.process, task.tid))
        .map_err(|error| InjectionError::Os { action: ACTION, error })?;
    maps::parse(&text).map_err(|error| InjectionError::Os { action: ACTION, error: io::Error::other(error) })
}

fn os(action: &'static str) -> impl FnOnce(io::Error) -> Refused {
    move |error| (6, InjectionError::Os { action, error })
}
