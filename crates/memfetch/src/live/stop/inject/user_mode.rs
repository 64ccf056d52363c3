//! Whether a thread that was stopped in user mode, between two of its own instructions, may be moved from there.
//!
//! What it goes on with is in its registers alone, but for what the kernel does by where it stands: a restartable sequence
//! (rseq(2)) that it has left for another instruction is over, and not begun anew. And it must be able to go back without
//! us, by rt_sigreturn(2).

use std::ops::RangeInclusive;

use memfetch_sys::ptrace::{self, UserRegs};

use super::super::rewind::{NO_CALL, SYSCALL};
use super::super::states::Stopped;
use super::super::tasks::Task;
use super::host::Refused;
use crate::error::InjectionError;

/// The stack segment of 64-bit code, as system calls leave it as well.
const WIDE_STACK: u64 = 0x2b;
/// In eflags: a trap after each instruction. It would come after ours as well. (The resume flag, which a page fault sets,
/// does no harm: ptrace and rt_sigreturn both put it back.)
const TRAP: u64 = 1 << 8;
/// The kernel's half of the addresses, with the vsyscall page.
const KERNEL: u64 = 1 << 63;
/// From `ERESTART_RESTARTBLOCK` to `ERESTARTSYS`, as calls return them.
const RESTARTS: RangeInclusive<i64> = -516..=-512;
/// restart_syscall(2).
const RESTART_CALL: u64 = 219;
/// Where in `struct rseq` the address of the sequence's description is (linux/rseq.h).
const DESCRIPTION: u64 = 8;

/// The restartable sequence that a thread has announced: where its instructions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    start: u64,
    len: u64,
}

impl Sequence {
    /// Whether the kernel takes a thread at this address to be in it (`in_rseq_cs` of kernel/rseq.c).
    pub fn contains(self, address: u64) -> bool {
        address.wrapping_sub(self.start) < self.len
    }

    /// What the area tells that a thread has registered; an error where its words cannot be read, or are not understood.
    fn announced(area: u64, word: impl Fn(u64) -> Option<u64>) -> Result<Option<Self>, InjectionError> {
        let at = |address: u64, offset| {
            address.checked_add(offset).and_then(&word).ok_or(InjectionError::InSequence)
        };
        let description = at(area, DESCRIPTION)?;
        if description == 0 {
            return Ok(None);
        }
        // struct rseq_cs: version and flags, the start, the length up to the instruction that commits.
        match at(description, 0)? as u32 {
            0 => Ok(Some(Self { start: at(description, 8)?, len: at(description, 16)? })),
            _ => Err(InjectionError::InSequence),
        }
    }
}

/// Whether an rt_sigreturn with these registers is as good as going on with them.
fn is_plain(regs: &UserRegs) -> bool {
    // The number of a call is still there where a handler is about to begin, or a call was begun anew. The result tells
    // whether the kernel has something to do with it.
    let is_behind_calls = regs.orig_rax == NO_CALL
        || regs.orig_rax <= i32::MAX as u64 && !RESTARTS.contains(&regs.rax.cast_signed());
    is_behind_calls && regs.ss == WIDE_STACK && regs.eflags & TRAP == 0 && regs.rip & KERNEL == 0
}

/// Whether it may be moved; then the sequence that it has announced and is not in.
pub fn check(task: Task, stopped: &Stopped, regs: &UserRegs) -> Result<Option<Sequence>, Refused> {
    if !is_plain(regs) {
        return Err((0, InjectionError::NotInCall));
    }
    // On its way back into a call, of which rt_sigreturn makes the kernel forget what is left.
    if regs.rax == RESTART_CALL && stopped.code_before(regs.rip.wrapping_add(2)) == Some(SYSCALL) {
        return Err((2, InjectionError::RestartBlock));
    }
    let in_sequence = |_| (2, InjectionError::InSequence);
    let Some(area) = ptrace::restartable_sequences(task.tid).map_err(in_sequence)? else { return Ok(None) };
    let word = |address| ptrace::peek(task.tid, address).ok().map(u64::from_ne_bytes);
    let sequence = Sequence::announced(area, word).map_err(|error| (2, error))?;
    match sequence {
        // The kernel takes back what was announced only when it sees the thread elsewhere.
        Some(sequence) if sequence.contains(regs.rip) => Err((2, InjectionError::InSequence)),
        sequence => Ok(sequence),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rt_sigreturn_does_not_bring_back_is_refused() {
        let regs = UserRegs {
            orig_rax: NO_CALL,
            ss: 0x2b,
            eflags: 0x24_0ed7,
            rip: 0x40_1000,
            ..UserRegs::default()
        };
        assert!(is_plain(&regs));
        assert!(is_plain(&UserRegs { rax: (-512_i64).cast_unsigned(), ..regs }));
        assert!(is_plain(&UserRegs { orig_rax: 131, rax: 0, ..regs }));
        assert!(is_plain(&UserRegs { eflags: regs.eflags | 1 << 16, ..regs }));
        for other in [
            UserRegs { eflags: regs.eflags | 1 << 8, ..regs },
            UserRegs { ss: 0, ..regs },
            UserRegs { rip: 0xffff_ffff_ff60_0000, ..regs },
            UserRegs { orig_rax: 35, rax: (-516_i64).cast_unsigned(), ..regs },
            UserRegs { orig_rax: 0, rax: (-512_i64).cast_unsigned(), ..regs },
            UserRegs { orig_rax: 0xffff_ff01, ..regs },
        ] {
            assert!(!is_plain(&other), "{other:x?}");
        }
    }

    #[test]
    fn a_sequence_ends_where_it_commits() {
        let sequence = Sequence { start: 0x1000, len: 0x20 };
        assert!(sequence.contains(0x1000) && sequence.contains(0x101f));
        assert!(!sequence.contains(0xfff) && !sequence.contains(0x1020));
        assert!(!Sequence { start: 0x1000, len: 0 }.contains(0x1000));
    }

    #[test]
    fn what_is_announced_is_read_and_what_is_in_doubt_is_refused() {
        let memory = |words: &'static [(u64, u64)]| {
            move |address| words.iter().find(|(at, _)| *at == address).map(|(_, word)| *word)
        };
        let announced = |words| Sequence::announced(0x100, memory(words));
        assert!(matches!(announced(&[(0x108, 0)]), Ok(None)));
        // Flags, which the kernel has come to ignore, stand above the version.
        let known = announced(&[(0x108, 0x200), (0x200, 7 << 32), (0x208, 0x1000), (0x210, 0x20)]);
        assert_eq!(known.unwrap(), Some(Sequence { start: 0x1000, len: 0x20 }));
        for doubtful in [
            &[][..],
            &[(0x108, 0x200)],
            &[(0x108, 0x200), (0x200, 1), (0x208, 0x1000), (0x210, 0x20)],
            &[(0x108, 0x200), (0x200, 0), (0x208, 0x1000)],
            &[(0x108, u64::MAX - 4), (u64::MAX - 4, 0)],
        ] {
            assert!(matches!(announced(doubtful), Err(InjectionError::InSequence)), "{doubtful:?}");
        }
    }
}
