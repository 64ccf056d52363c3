//! Putting a thread back into the call that a stop woke it from.
//!
//! Most calls that a stop interrupts show `-ERESTART*`, and the kernel restarts them by itself. Some return
//! `-EINTR` instead, and there are programs that die of it (signal(7), "Interruption of system calls and library
//! functions by stop signals", lists most). For those the thread goes back over its `syscall` instruction. Only
//! for calls of a known list: an interrupted close(2) has closed.

use memfetch_sys::ptrace::UserRegs;

use super::states::Stopped;
use super::tasks::Task;

/// `-EINTR` as a call returns it.
const INTERRUPTED: u64 = (-4_i64).cast_unsigned();
/// What `orig_rax` holds outside a system call.
pub(super) const NO_CALL: u64 = u64::MAX;
/// The `syscall` instruction.
pub(super) const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// When the EINTR of a call means that nothing of it has happened.
enum Rule {
    /// Always.
    Always,
    /// Where its first argument is a socket: socket calls with a timeout (SO_RCVTIMEO, SO_SNDTIMEO) return it;
    /// of other files some drivers do, and what they have done by then is not known.
    Socket,
}

/// Where a call that may be rewound has its time limit.
enum Limit {
    None,
    /// This argument is a number of milliseconds, negative for none.
    Milliseconds(fn(&UserRegs) -> u64),
    /// This argument points to a time, null for none.
    Pointer(fn(&UserRegs) -> u64),
    /// A property of the socket; it has one, or it would not have returned EINTR.
    OfSocket,
}

fn rule(call: u64) -> Option<(Rule, Limit)> {
    use Limit::{Milliseconds, None as Unlimited, OfSocket, Pointer};
    use Rule::{Always, Socket};
    Some(match call {
        // read, write, readv, writev, preadv2, pwritev2
        0 | 1 | 19 | 20 | 327 | 328 => (Socket, OfSocket),
        // connect, accept, sendto, recvfrom, sendmsg, recvmsg, accept4, sendmmsg
        42..=47 | 288 | 307 => (Always, OfSocket),
        65 => (Always, Unlimited),                            // semop
        128 => (Always, Pointer(|regs| regs.rdx)),            // rt_sigtimedwait
        208 | 333 => (Always, Pointer(|regs| regs.r8)),       // io_getevents, io_pgetevents
        220 => (Always, Pointer(|regs| regs.r10)),            // semtimedop
        232 | 281 => (Always, Milliseconds(|regs| regs.r10)), // epoll_wait, epoll_pwait
        299 => (Always, Pointer(|regs| regs.r8)),             // recvmmsg
        426 => (Always, Unlimited),                           // io_uring_enter
        441 => (Always, Pointer(|regs| regs.r10)),            // epoll_pwait2
        _ => return None,
    })
}

/// What was found in the registers of a stopped thread.
#[derive(Debug)]
pub(super) enum Finding {
    /// Nothing that would have to be mended.
    Whole,
    /// A call of the list that will return EINTR, and cannot be rewound.
    Interrupted,
    /// A transfer that will return fewer bytes than it was asked for.
    Shortened,
    /// It was put back before its call.
    Rewound(Box<Rewound>),
}

/// A thread that was put back before its call, and what it looked like.
#[derive(Clone, Debug)]
pub(super) struct Rewound {
    /// Its registers as the stop found them.
    original: UserRegs,
    /// Its registers since.
    rewound: UserRegs,
    /// Whether the call had a time limit, which now starts anew.
    pub limited: bool,
    /// Whether the call changes the signal mask for its own time. Its caller relies on that a signal which only
    /// this lets through is never handled without the call returning.
    pub masks: bool,
}

impl Rewound {
    /// Puts a thread back that was interrupted in a call of the list.
    ///
    /// Done at the stop rather than when it is resumed: if we are killed meanwhile, it goes back into its call
    /// without us.
    pub fn mend(task: Task, stopped: &Stopped) -> Finding {
        let Some(original) = stopped.user_regs() else { return Finding::Whole };
        if original.orig_rax > i32::MAX as u64 {
            return Finding::Whole;
        }
        if original.rax != INTERRUPTED {
            return if is_shortened(&original) { Finding::Shortened } else { Finding::Whole };
        }
        let Some((rule, limit)) = rule(original.orig_rax) else { return Finding::Whole };
        if matches!(rule, Rule::Socket) && !task.is_socket(original.rdi) {
            return Finding::Whole;
        }
        // A call through another gate than `syscall` (int 0x80, vsyscall emulation) has other numbers or no
        // instruction to go back to.
        if stopped.code_before(original.rip) != Some(SYSCALL) {
            return Finding::Interrupted;
        }
        let rewound = UserRegs {
            rax: original.orig_rax,
            orig_rax: NO_CALL,
            rip: original.rip.wrapping_sub(2),
            ..original
        };
        if !stopped.set_user_regs(&rewound) {
            return Finding::Interrupted;
        }
        let limited = match limit {
            Limit::None => false,
            // An int: the upper half of the register is nobody's.
            Limit::Milliseconds(of) => (of(&original) as i32) > 0,
            Limit::Pointer(of) => of(&original) != 0,
            Limit::OfSocket => true,
        };
        let masks = match original.orig_rax {
            281 | 441 => original.r8 != 0,
            333 => original.r9 != 0,
            _ => false,
        };
        Finding::Rewound(Box::new(Self { original, rewound, limited, masks }))
    }

    /// The registers that the thread would have without the rewinding.
    pub fn original(&self) -> &UserRegs {
        &self.original
    }

    /// Whether a stopped thread still stands before its call.
    pub fn still_holds(&self, stopped: &Stopped) -> bool {
        stopped.user_regs().is_some_and(|regs| {
            (regs.rip, regs.rax, regs.orig_rax, regs.rsp)
                == (self.rewound.rip, self.rewound.rax, NO_CALL, self.rewound.rsp)
        })
    }

    /// Takes the rewinding back, because a real signal interrupts the call: EINTR is what it returns then.
    pub fn take_back(self, stopped: &Stopped) {
        stopped.set_user_regs(&self.original);
    }
}

/// A call that wrote or sent less than it was asked to, which no rewinding can mend.
fn is_shortened(regs: &UserRegs) -> bool {
    /// MSG_WAITALL of recv(2).
    const WAIT_FOR_ALL: u64 = 0x100;
    let wanted = match regs.orig_rax {
        1 | 44 => regs.rdx,                             // write, sendto
        40 => regs.r10,                                 // sendfile
        45 if regs.r10 & WAIT_FOR_ALL != 0 => regs.rdx, // recvfrom
        _ => return false,
    };
    (1..wanted).contains(&regs.rax) && regs.rax <= i64::MAX as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_that_have_done_nothing_are_on_the_list() {
        for call in [0, 1, 43, 42, 44, 45, 46, 47, 65, 128, 208, 220, 232, 281, 288, 299, 333, 426, 441] {
            assert!(rule(call).is_some(), "call {call}");
        }
        // open, close, sendfile, nanosleep, shutdown, wait4, dup2, futex
        for call in [2, 3, 40, 35, 48, 61, 33, 202, NO_CALL] {
            assert!(rule(call).is_none(), "call {call}");
        }
    }

    #[test]
    fn a_short_write_is_seen() {
        let write = |rax| UserRegs { orig_rax: 1, rdx: 1 << 20, rax, ..UserRegs::default() };
        assert!(is_shortened(&write(65_536)));
        assert!(!is_shortened(&write(1 << 20)));
        assert!(!is_shortened(&write(0)));
        assert!(!is_shortened(&write(INTERRUPTED)));
        let receive = UserRegs { orig_rax: 45, rdx: 1000, rax: 100, ..UserRegs::default() };
        assert!(!is_shortened(&receive));
        assert!(is_shortened(&UserRegs { r10: 0x100, ..receive }));
    }
}
