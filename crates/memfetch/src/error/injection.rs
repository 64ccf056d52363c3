//! [`InjectionError`]: why no thread of a process can be had make a system call.

use std::io;
use std::time::Duration;

/// Why a system call could not be made by a thread of a held process.
///
/// Each text stands alone, cause included: it is what a report says behind "since".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InjectionError {
    /// A filter might kill the process, and may not be suspended (`PTRACE_O_SUSPEND_SECCOMP`).
    #[error("seccomp restricts its system calls, which may be suspended by CAP_SYS_ADMIN only")]
    Seccomp,
    /// prctl(2), `PR_SET_SYSCALL_USER_DISPATCH`.
    #[error("it has its system calls turned into signals (syscall user dispatch)")]
    UserDispatch,
    /// Its system calls have other numbers, or its signal frames another layout.
    #[error("it runs 32-bit code, or has the personality of another system")]
    Foreign,
    /// All its threads are stuck in the kernel, or stand in user mode with the processor's trap flag, in the vsyscall page,
    /// or with another stack segment than that of 64-bit code.
    #[error("none of its threads stands at a system call, or where it could be moved from")]
    NotInCall,
    /// Moved out of a restartable sequence (rseq(2)) a thread would go on with it although it was interrupted.
    #[error("its threads are in restartable sequences, or the kernel does not tell whether they are")]
    InSequence,
    /// The calls that its threads are in cannot be restarted from outside (`ERESTART_RESTARTBLOCK`).
    #[error("its threads wait in calls with a time limit that only the kernel can restart")]
    RestartBlock,
    /// A thread would have to run although it should not.
    #[error("job control has stopped it")]
    JobControl,
    /// What a return address is must be known to the processor as well.
    #[error("it has a shadow stack")]
    ShadowStack,
    /// Where the instructions should have been it has none.
    #[error("its code has no `syscall; ret`, or none that returns from a signal handler")]
    NoGadget,
    /// Below the stack pointers there is too little memory that is known to be nobody's.
    #[error("its stacks have no room")]
    NoRoom,
    /// The call was made, and failed.
    #[error("{call} failed in it: {error}")]
    Call {
        /// Which one.
        call: &'static str,
        /// What it returned.
        error: io::Error,
    },
    /// The descriptor could not be closed in the process again, and stays open there until it ends or calls exec.
    #[error("a descriptor that was made in it could not be closed there again")]
    LeftOpen,
    /// It was killed, or called exec before it was held.
    #[error("it died")]
    Died,
    /// Signals interrupted each try.
    #[error("signals kept coming")]
    Signals,
    /// Nothing came back in time. The thread finds its way back by itself.
    #[error("it was not answered within {limit:?}")]
    TimedOut {
        /// How long was waited.
        limit: Duration,
    },
    /// Any other failure.
    #[error("{action} failed: {error}")]
    Os {
        /// What was tried.
        action: &'static str,
        /// The kernel's answer.
        error: io::Error,
    },
}
