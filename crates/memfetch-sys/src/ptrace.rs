//! ptrace(2), request by request, and kcmp(2).
//!
//! A tracee belongs to the *thread* that seized it: every request must come from that thread, and all but
//! [`seize`] and [`interrupt`] need a tracee that is stopped, else they fail with `ESRCH`.

use std::io;
use std::mem::{offset_of, size_of};

/// Note type of the general registers, `NT_PRSTATUS` (elf.h).
pub const NT_PRSTATUS: u32 = 1;
/// Note type of the x87 and SSE registers, `NT_PRFPREG`.
pub const NT_PRFPREG: u32 = 2;
/// Note type of the thread-local storage descriptors of 32-bit tasks, `NT_386_TLS`.
pub const NT_386_TLS: u32 = 0x200;
/// Note type of the I/O permission bitmap, `NT_386_IOPERM`.
pub const NT_386_IOPERM: u32 = 0x201;
/// Note type of the extended state (xsave), `NT_X86_XSTATE`.
pub const NT_X86_XSTATE: u32 = 0x202;
/// Note type of the shadow stack pointer, `NT_X86_SHSTK`.
pub const NT_X86_SHSTK: u32 = 0x204;

/// Option for [`seize`]: stops at a system call are told from a real `SIGTRAP` by bit 7.
pub const O_TRACESYSGOOD: u32 = libc::PTRACE_O_TRACESYSGOOD as u32;

/// Option for [`seize`]: a thread that is born is traced as well, and stops before its first instruction.
pub const O_TRACECLONE: u32 = libc::PTRACE_O_TRACECLONE as u32;
/// Option for [`seize`]: exec is told by a stop with the event [`EVENT_EXEC`].
pub const O_TRACEEXEC: u32 = libc::PTRACE_O_TRACEEXEC as u32;
/// Option for [`set_options`]: the thread's seccomp filters, or its strict mode, are not asked; ends with the tracer.
pub const O_SUSPEND_SECCOMP: u32 = libc::PTRACE_O_SUSPEND_SECCOMP as u32;
/// The event of a stop behind exec.
pub const EVENT_EXEC: i32 = libc::PTRACE_EVENT_EXEC;

/// The general registers of a 64-bit task: `struct user_regs_struct` of sys/user.h, which is also what
/// [`NT_PRSTATUS`] holds.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the processor's")]
pub struct UserRegs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub orig_rax: u64,
    pub rip: u64,
    pub cs: u64,
    pub eflags: u64,
    pub rsp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
}

const _: () = {
    assert!(size_of::<UserRegs>() == UserRegs::BYTES);
    assert!(size_of::<UserRegs>() == size_of::<libc::user_regs_struct>());
    assert!(offset_of!(UserRegs, rax) == offset_of!(libc::user_regs_struct, rax));
    assert!(offset_of!(UserRegs, orig_rax) == offset_of!(libc::user_regs_struct, orig_rax));
    assert!(offset_of!(UserRegs, rip) == offset_of!(libc::user_regs_struct, rip));
    assert!(offset_of!(UserRegs, rsp) == offset_of!(libc::user_regs_struct, rsp));
    assert!(offset_of!(UserRegs, fs_base) == offset_of!(libc::user_regs_struct, fs_base));
    assert!(offset_of!(UserRegs, gs) == offset_of!(libc::user_regs_struct, gs));
};

impl UserRegs {
    /// Their size in bytes.
    pub const BYTES: usize = 216;

    /// From the bytes of an [`NT_PRSTATUS`] set; none where these are not the registers of a 64-bit task.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        // SAFETY: both are 216 bytes, and every bit pattern is a valid `UserRegs`: 27 integers, no padding.
        Some(unsafe { std::mem::transmute_copy(bytes) })
    }

    /// As the bytes of an [`NT_PRSTATUS`] set.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        // SAFETY: both are 216 bytes, and 27 integers have no padding.
        unsafe { std::mem::transmute_copy(self) }
    }
}

/// Bytes of a `siginfo_t`.
pub const SIGINFO_BYTES: usize = 128;

const _: () = assert!(size_of::<libc::siginfo_t>() == SIGINFO_BYTES);

/// Makes this thread the tracer of thread `tid` without stopping it (`PTRACE_SEIZE`).
///
/// # Errors
///
/// `EPERM`: no permission, already traced, or a zombie. `ESRCH`: no such thread.
pub fn seize(tid: i32, options: u32) -> io::Result<()> {
    // SAFETY: the request takes two numbers and touches no memory of this process.
    answer(unsafe { libc::ptrace(libc::PTRACE_SEIZE, tid, 0_usize, options as usize) })
}

/// Has a seized thread stop (`PTRACE_INTERRUPT`), and returns before it does.
///
/// # Errors
///
/// `ESRCH`: not this thread's tracee, or dead. `EIO`: attached by another request than [`seize`].
pub fn interrupt(tid: i32) -> io::Result<()> {
    // SAFETY: as for `seize`.
    answer(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, tid, 0_usize, 0_usize) })
}

/// Resumes a stopped thread (`PTRACE_CONT`); from a signal-delivery stop with that signal, 0 for none.
///
/// # Errors
///
/// `ESRCH`: it is not stopped, or was killed.
pub fn cont(tid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: as for `seize`.
    answer(unsafe { libc::ptrace(libc::PTRACE_CONT, tid, 0_usize, signal as usize) })
}

/// Leaves a thread that job control has stopped as it is, and has the end of that told (`PTRACE_LISTEN`).
///
/// # Errors
///
/// `EIO`: it is not in such a stop. `ESRCH`: it was killed.
pub fn listen(tid: i32) -> io::Result<()> {
    // SAFETY: as for `seize`.
    answer(unsafe { libc::ptrace(libc::PTRACE_LISTEN, tid, 0_usize, 0_usize) })
}

/// Resumes a stopped thread up to its next entry into or exit from a system call (`PTRACE_SYSCALL`).
///
/// # Errors
///
/// As for [`cont`].
pub fn cont_to_syscall(tid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: as for `seize`.
    answer(unsafe { libc::ptrace(libc::PTRACE_SYSCALL, tid, 0_usize, signal as usize) })
}

/// A register set, whole, whatever its size (`PTRACE_GETREGSET`).
///
/// # Errors
///
/// `EINVAL`, `ENODEV`, `ENXIO`, `EOPNOTSUPP`: this kernel, processor or thread has no such set. `ESRCH`: not
/// stopped.
pub fn register_set(tid: i32, note_type: u32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0_u8; 4096];
    loop {
        let mut span = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        // SAFETY: `span` describes the live buffer `bytes`; the kernel writes at most `iov_len` bytes into it
        // and then sets `iov_len` to what it wrote.
        answer(unsafe {
            libc::ptrace(libc::PTRACE_GETREGSET, tid, note_type as usize, std::ptr::from_mut(&mut span))
        })?;
        // A set that fills the buffer may have been cut to it.
        if span.iov_len < bytes.len() || bytes.len() >= 1 << 20 {
            bytes.truncate(span.iov_len);
            bytes.shrink_to_fit();
            return Ok(bytes);
        }
        let larger = bytes.len() * 4;
        bytes.resize(larger, 0);
    }
}

/// Sets a register set (`PTRACE_SETREGSET`).
///
/// # Errors
///
/// As for [`register_set`]; `EFAULT` or `EINVAL` for values that the processor does not take.
pub fn set_register_set(tid: i32, note_type: u32, bytes: &[u8]) -> io::Result<()> {
    let span = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: `span` describes the live buffer `bytes`, which the kernel only reads.
    answer(unsafe {
        libc::ptrace(libc::PTRACE_SETREGSET, tid, note_type as usize, std::ptr::from_ref(&span))
    })
}

/// The general registers; none for a task that runs in 32-bit mode.
///
/// # Errors
///
/// As for [`register_set`].
pub fn user_regs(tid: i32) -> io::Result<Option<UserRegs>> {
    let mut bytes = [0_u8; 512];
    let mut span = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: as in `register_set`.
    answer(unsafe {
        libc::ptrace(libc::PTRACE_GETREGSET, tid, NT_PRSTATUS as usize, std::ptr::from_mut(&mut span))
    })?;
    Ok(bytes.get(..span.iov_len).and_then(UserRegs::from_bytes))
}

/// The general registers as those of a 64-bit task, whatever mode it runs in just now (`PTRACE_GETREGS`).
///
/// `PTRACE_GETREGSET` goes by the mode of the tracee, this request by that of its caller.
///
/// # Errors
///
/// As for [`register_set`].
pub fn wide_user_regs(tid: i32) -> io::Result<UserRegs> {
    let mut bytes = [0_u8; UserRegs::BYTES];
    // SAFETY: to a 64-bit caller the kernel writes a `user_regs_struct`, 216 bytes, and `bytes` is as long.
    answer(unsafe { libc::ptrace(libc::PTRACE_GETREGS, tid, 0_usize, bytes.as_mut_ptr()) })?;
    UserRegs::from_bytes(&bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The x87 and SSE registers as those of a 64-bit task (`PTRACE_GETFPREGS`): `struct user_fpregs_struct`.
///
/// # Errors
///
/// As for [`register_set`].
pub fn wide_float_regs(tid: i32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0_u8; size_of::<libc::user_fpregs_struct>()];
    // SAFETY: to a 64-bit caller the kernel writes a `user_fpregs_struct`, and `bytes` is as long.
    answer(unsafe { libc::ptrace(libc::PTRACE_GETFPREGS, tid, 0_usize, bytes.as_mut_ptr()) })?;
    Ok(bytes)
}

/// Sets the general registers of a 64-bit task.
///
/// # Errors
///
/// As for [`set_register_set`].
pub fn set_user_regs(tid: i32, regs: &UserRegs) -> io::Result<()> {
    set_register_set(tid, NT_PRSTATUS, &regs.to_bytes())
}

/// The `siginfo_t` of the signal, or event, that the thread is stopped by (`PTRACE_GETSIGINFO`).
///
/// # Errors
///
/// `EINVAL`: stopped by nothing that has one (a group stop). `ESRCH`: not stopped.
pub fn signal_info(tid: i32) -> io::Result<[u8; SIGINFO_BYTES]> {
    let mut info = [0_u8; SIGINFO_BYTES];
    // SAFETY: the kernel writes one siginfo_t, 128 bytes, into `info`.
    answer(unsafe { libc::ptrace(libc::PTRACE_GETSIGINFO, tid, 0_usize, info.as_mut_ptr()) })?;
    Ok(info)
}

/// Replaces the `siginfo_t` of the signal that the thread is stopped by (`PTRACE_SETSIGINFO`).
///
/// # Errors
///
/// As for [`signal_info`].
pub fn set_signal_info(tid: i32, info: &[u8; SIGINFO_BYTES]) -> io::Result<()> {
    // SAFETY: the kernel reads one siginfo_t, 128 bytes, from `info`.
    answer(unsafe { libc::ptrace(libc::PTRACE_SETSIGINFO, tid, 0_usize, info.as_ptr()) })
}

/// The message of the event that the thread is stopped by (`PTRACE_GETEVENTMSG`).
///
/// # Errors
///
/// `ESRCH`: not stopped.
pub fn event_message(tid: i32) -> io::Result<u64> {
    let mut message: libc::c_ulong = 0;
    // SAFETY: the kernel writes one unsigned long to `message`.
    answer(unsafe {
        libc::ptrace(libc::PTRACE_GETEVENTMSG, tid, 0_usize, std::ptr::from_mut(&mut message))
    })?;
    Ok(message)
}

/// The signals that the thread blocks, bit `n - 1` for signal `n` (`PTRACE_GETSIGMASK`).
///
/// Inside a call that changes the mask for its own time (ppoll, epoll_pwait) it is the mask outside that call.
///
/// # Errors
///
/// `ESRCH`: not stopped.
pub fn signal_mask(tid: i32) -> io::Result<u64> {
    const GETSIGMASK: libc::c_uint = 0x420a;
    let mut mask = 0_u64;
    // SAFETY: the kernel writes a signal set of the 8 bytes that `addr` announces to `mask`.
    answer(unsafe { libc::ptrace(GETSIGMASK, tid, 8_usize, std::ptr::from_mut(&mut mask)) })?;
    Ok(mask)
}

/// Sets the signals that the thread blocks, bit `n - 1` for signal `n` (`PTRACE_SETSIGMASK`).
///
/// Inside a call that changes the mask for its own time it is the mask outside that call that is set, and the call's
/// own one is dropped. SIGKILL and SIGSTOP cannot be blocked, and are left out.
///
/// # Errors
///
/// `ESRCH`: not stopped.
pub fn set_signal_mask(tid: i32, mask: u64) -> io::Result<()> {
    const SETSIGMASK: libc::c_uint = 0x420b;
    // SAFETY: the kernel reads a signal set of the 8 bytes that `addr` announces from `mask`.
    answer(unsafe { libc::ptrace(SETSIGMASK, tid, 8_usize, std::ptr::from_ref(&mask)) })
}

/// Replaces the options that [`seize`] was given (`PTRACE_SETOPTIONS`).
///
/// # Errors
///
/// `EPERM`, `EINVAL`: [`O_SUSPEND_SECCOMP`] needs `CAP_SYS_ADMIN`, a caller without seccomp of its own, and a kernel with
/// `CONFIG_CHECKPOINT_RESTORE`. `ESRCH`: not stopped.
pub fn set_options(tid: i32, options: u32) -> io::Result<()> {
    // SAFETY: as for `seize`.
    answer(unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, tid, 0_usize, options as usize) })
}

/// Whether the thread has its system calls turned into signals, from some addresses at least
/// (`PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG`, Linux 6.4).
///
/// # Errors
///
/// `EIO`: the kernel cannot tell. `ESRCH`: not stopped.
pub fn dispatches_calls(tid: i32) -> io::Result<bool> {
    /// `struct ptrace_sud_config` (linux/ptrace.h).
    #[repr(C)]
    #[derive(Default)]
    struct Configuration {
        mode: u64,
        selector: u64,
        offset: u64,
        len: u64,
    }
    const _: () = assert!(size_of::<Configuration>() == 32);
    const GET_CONFIGURATION: libc::c_uint = 0x4211;
    let mut configuration = Configuration::default();
    // SAFETY: the kernel writes the 32 bytes that `addr` announces to `configuration`.
    answer(unsafe {
        libc::ptrace(
            GET_CONFIGURATION,
            tid,
            size_of::<Configuration>(),
            std::ptr::from_mut(&mut configuration),
        )
    })?;
    Ok(configuration.mode != 0)
}

/// The address of the `struct rseq` that the thread has registered; none where it has none
/// (`PTRACE_GET_RSEQ_CONFIGURATION`, Linux 5.13).
///
/// # Errors
///
/// `EIO`: the kernel cannot tell. `ESRCH`: not stopped.
pub fn restartable_sequences(tid: i32) -> io::Result<Option<u64>> {
    /// `struct ptrace_rseq_configuration` (linux/ptrace.h).
    #[repr(C)]
    #[derive(Default)]
    struct Configuration {
        area: u64,
        size: u32,
        signature: u32,
        flags: u32,
        pad: u32,
    }
    const _: () = assert!(size_of::<Configuration>() == 24);
    const GET_CONFIGURATION: libc::c_uint = 0x420f;
    let mut configuration = Configuration::default();
    // SAFETY: the kernel writes at most the 24 bytes that `addr` announces to `configuration`.
    answer(unsafe {
        libc::ptrace(
            GET_CONFIGURATION,
            tid,
            size_of::<Configuration>(),
            std::ptr::from_mut(&mut configuration),
        )
    })?;
    Ok(Some(configuration.area).filter(|area| *area != 0))
}

/// Lets a stopped thread run and is its tracer no longer (`PTRACE_DETACH`); from a signal-delivery stop with that
/// signal, 0 for none.
///
/// The thread looks for signals once more, whether there is one or not: at the entry of a system call this
/// interrupts the call.
///
/// # Errors
///
/// As for [`cont`].
pub fn detach(tid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: as for `seize`.
    answer(unsafe { libc::ptrace(libc::PTRACE_DETACH, tid, 0_usize, signal as usize) })
}

/// The signals that wait for this thread alone, or (`shared`) for any thread of its process, bit `n - 1` for
/// signal `n` (`PTRACE_PEEKSIGINFO`).
///
/// # Errors
///
/// `ESRCH`: not stopped.
pub fn pending_signals(tid: i32, shared: bool) -> io::Result<u64> {
    /// `struct ptrace_peeksiginfo_args` (linux/ptrace.h).
    #[repr(C)]
    struct Arguments {
        offset: u64,
        flags: u32,
        count: i32,
    }
    const _: () = assert!(size_of::<Arguments>() == 16);
    const PEEKSIGINFO: libc::c_uint = 0x4209;
    const BATCH: usize = 16;
    let mut pending = 0_u64;
    let mut offset = 0_u64;
    loop {
        let arguments = Arguments { offset, flags: u32::from(shared), count: BATCH as i32 };
        let mut infos = [[0_u8; SIGINFO_BYTES]; BATCH];
        // SAFETY: the kernel reads `arguments` and writes at most `count` siginfo_t of 128 bytes into `infos`,
        // which holds that many.
        let copied =
            unsafe { libc::ptrace(PEEKSIGINFO, tid, std::ptr::from_ref(&arguments), infos.as_mut_ptr()) };
        let copied = usize::try_from(copied).map_err(|_| io::Error::last_os_error())?;
        for info in infos.iter().take(copied) {
            let [a, b, c, d, ..] = *info;
            if let Ok(bit @ 0..64) = u32::try_from(i32::from_ne_bytes([a, b, c, d]) - 1) {
                pending |= 1 << bit;
            }
        }
        if copied < BATCH {
            return Ok(pending);
        }
        offset += BATCH as u64;
    }
}

/// The 8 bytes at an address of the thread's memory (`PTRACE_PEEKTEXT`).
///
/// # Errors
///
/// `EIO`: not all of them can be read. `ESRCH`: not stopped.
pub fn peek(tid: i32, address: u64) -> io::Result<[u8; 8]> {
    // The wrapper of the C library returns the word, so -1 is told from an error by errno alone; the system
    // call itself stores the word through its fourth argument.
    let mut word = 0_u64;
    // SAFETY: the kernel writes one word to `word`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_ptrace,
            libc::PTRACE_PEEKTEXT as usize,
            tid as usize,
            address as usize,
            std::ptr::from_mut(&mut word),
        )
    };
    answer(result)?;
    Ok(word.to_ne_bytes())
}

fn answer(result: libc::c_long) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_survive_the_way_through_bytes() {
        let regs = UserRegs { r15: 1, rax: 2, orig_rax: u64::MAX, rip: 0x1234, gs: 5, ..UserRegs::default() };
        let bytes = regs.to_bytes();
        assert_eq!(bytes[80], 2);
        assert_eq!(&bytes[128..130], &[0x34, 0x12]);
        assert_eq!(UserRegs::from_bytes(&bytes), Some(regs));
        assert_eq!(UserRegs::from_bytes(&bytes[..68]), None);
    }

    #[test]
    fn nothing_is_done_to_a_thread_that_is_no_tracee() {
        let own = i32::try_from(std::process::id()).unwrap();
        for result in [
            interrupt(own),
            cont(own, 0),
            user_regs(own).map(drop),
            peek(own, 0).map(drop),
            restartable_sequences(own).map(drop),
        ] {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ESRCH));
        }
    }
}
