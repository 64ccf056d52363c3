//! Threads: the companion of [`Memory`](crate::memory::Memory) for sources that know who runs in it.

use std::ffi::OsString;

use crate::error::Error;

/// A source that knows its threads.
pub trait Threads {
    /// The threads, the one that debuggers should show first in front.
    ///
    /// # Errors
    ///
    /// The source as a whole cannot be asked.
    fn threads(&self) -> Result<Vec<Thread>, Error>;
}

/// The number of a process, positive.
pub type Pid = i32;

/// The number of a thread, positive; that of the first thread is the number of its process.
pub type Tid = i32;

/// One thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Thread {
    /// Its number.
    pub tid: Tid,
    /// Its name (`/proc/PID/task/TID/comm`), at most 15 bytes; empty where the source does not know it.
    pub name: OsString,
    /// How much of its registers is known.
    pub registers: Registers,
    /// What the kernel keeps about its signals and times.
    pub accounting: Accounting,
    /// The signal that it is reported to have stopped by, with its `siginfo_t`; none for a thread that was
    /// merely looked at.
    pub signal: Option<SignalInfo>,
}

/// How much of a thread's registers is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Registers {
    /// Nothing: the thread was not stopped, or died.
    #[default]
    Unknown,
    /// The thread was in the kernel and did not stop: what `/proc/PID/task/TID/syscall` tells.
    Partial(BlockedCall),
    /// All sets, as the kernel gives them.
    Complete(Vec<RegisterSet>),
}

impl Registers {
    /// The set with this note type, if it is known.
    #[must_use]
    pub fn set(&self, note_type: u32) -> Option<&[u8]> {
        match self {
            Self::Complete(sets) => {
                sets.iter().find(|set| set.note_type == note_type).map(|set| set.bytes.as_slice())
            }
            _ => None,
        }
    }
}

/// What the kernel tells of a thread inside a system call (proc(5), `/proc/PID/syscall`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockedCall {
    /// The number of the call, -1 where the thread is blocked outside one.
    pub number: i64,
    /// Its arguments.
    pub arguments: [u64; 6],
    /// The stack pointer.
    pub stack_pointer: u64,
    /// The program counter: behind the instruction that made the call.
    pub program_counter: u64,
}

/// One register set as `PTRACE_GETREGSET` returns it, whatever its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterSet {
    /// The ELF note type that names it (`NT_PRSTATUS` for the general registers, `NT_FPREGSET`, ...).
    pub note_type: u32,
    /// Its bytes, in the machine's own layout.
    pub bytes: Vec<u8>,
}

/// What the kernel keeps about a thread beside its registers (proc(5), `stat` and `status`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accounting {
    /// Signals that wait for this thread, bit `n - 1` for signal `n`.
    pub pending: u64,
    /// Signals that it blocks.
    pub blocked: u64,
    /// Time in user mode, in clock ticks.
    pub user_ticks: u64,
    /// Time in the kernel, in clock ticks.
    pub system_ticks: u64,
    /// User time of children that were waited for, in clock ticks.
    pub children_user_ticks: u64,
    /// Kernel time of children that were waited for, in clock ticks.
    pub children_system_ticks: u64,
}

/// A signal and the `siginfo_t` that came with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignalInfo {
    /// Its number.
    pub number: i32,
    /// The bytes of the `siginfo_t`, 128 on Linux.
    pub bytes: Vec<u8>,
}
