//! What the kernel writes about a thread (`elf_prstatus`) and about the process (`elf_prpsinfo`).
//!
//! Source: include/linux/elfcore.h. Offsets instead of structures: the core may be of any word size and byte
//! order.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use serde::Serialize;

use super::encoding::Encoding;
use super::header::Header;
use crate::threads::{Accounting, Pid, RegisterSet, Registers, SignalInfo, Thread};

const NT_PRSTATUS: u32 = 1;
/// `USER_HZ`: the same on every Linux.
const TICKS_PER_SECOND: u64 = 100;
/// EM_X86_64: in a 32-bit core, the x32 ABI, whose registers have 64 bits all the same.
const EM_X86_64: u16 = 62;

/// What an image knows of its process as a whole (NT_PRPSINFO).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProcessFacts {
    /// The name of its first thread, at most 15 bytes.
    #[serde(serialize_with = "lossy")]
    pub name: OsString,
    /// The start of its command line, arguments joined by spaces, at most 80 bytes.
    #[serde(serialize_with = "lossy")]
    pub arguments: OsString,
    /// Its number.
    pub pid: Pid,
    /// The number of its parent.
    pub parent: Pid,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// What it did, as one letter of proc(5), `/proc/PID/stat`: `R`, `S`, `D`, `T`, `Z` ...
    pub state: char,
}

fn lossy<S: serde::Serializer>(text: &OsString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text.to_string_lossy())
}

/// Reads an `elf_prstatus`. Its length depends on the registers, which fill what the rest leaves.
pub(super) fn thread(bytes: &[u8], header: &Header) -> Option<Thread> {
    let encoding = header.encoding;
    let word = encoding.word_bytes();
    // siginfo (12), pr_cursig (2), padding; two words of signals; four numbers; four pairs of words of time.
    let pending_at: usize = 16;
    let pid_at = pending_at.checked_add(2 * word)?;
    let times_at = pid_at.checked_add(16)?;
    let registers_at = times_at.checked_add(8 * word)?;
    // pr_fpvalid (4), and padding to a word.
    let tail = if encoding.is_64() || header.machine == EM_X86_64 { 8 } else { 4 };
    let registers = bytes.get(registers_at..bytes.len().checked_sub(tail)?)?;

    let ticks = |index: usize| {
        let at = times_at.checked_add(index.checked_mul(2 * word)?)?;
        let seconds = encoding.word(bytes, at)?;
        let microseconds = encoding.word(bytes, at.checked_add(word)?)?;
        Some(
            seconds
                .saturating_mul(TICKS_PER_SECOND)
                .saturating_add(microseconds / (1_000_000 / TICKS_PER_SECOND)),
        )
    };
    let signal = i32::from(encoding.u16(bytes, 12)?.cast_signed());
    Some(Thread {
        tid: encoding.i32(bytes, pid_at)?,
        name: OsString::new(),
        registers: Registers::Complete(vec![RegisterSet {
            note_type: NT_PRSTATUS,
            bytes: registers.to_vec(),
        }]),
        accounting: Accounting {
            pending: encoding.word(bytes, pending_at)?,
            blocked: encoding.word(bytes, pending_at.checked_add(word)?)?,
            user_ticks: ticks(0)?,
            system_ticks: ticks(1)?,
            children_user_ticks: ticks(2)?,
            children_system_ticks: ticks(3)?,
        },
        signal: (signal > 0).then(|| SignalInfo { number: signal, bytes: Vec::new() }),
    })
}

/// Reads an `elf_prpsinfo`.
pub(super) fn process(bytes: &[u8], encoding: Encoding) -> Option<ProcessFacts> {
    // The users have 16 bits on i386 and Arm, 32 elsewhere: of the 32-bit layouts, the length tells them
    // apart.
    let (uid_at, wide) = match (encoding.is_64(), bytes.len()) {
        (true, _) => (16, true),
        (false, 128..) => (8, true),
        (false, _) => (8, false),
    };
    let id = |index: usize| {
        if wide {
            encoding.u32(bytes, uid_at + 4 * index)
        } else {
            encoding.u16(bytes, uid_at + 2 * index).map(u32::from)
        }
    };
    let pid_at = uid_at + if wide { 8 } else { 4 };
    let text = |at: usize, len: usize| {
        let field = bytes.get(at..at.checked_add(len)?)?;
        Some(OsString::from_vec(field.split(|&byte| byte == 0).next().unwrap_or_default().to_vec()))
    };
    let mut arguments = text(pid_at + 32, 80)?.into_vec();
    arguments.truncate(arguments.trim_ascii_end().len());
    Some(ProcessFacts {
        name: text(pid_at + 16, 16)?,
        arguments: OsString::from_vec(arguments),
        pid: encoding.i32(bytes, pid_at)?,
        parent: encoding.i32(bytes, pid_at + 4)?,
        uid: id(0)?,
        gid: id(1)?,
        state: char::from(*bytes.get(1)?),
    })
}

/// The stack pointer among the general registers.
///
/// Source: `user_regs_struct` and its kin (arch/*/include/uapi/asm/ptrace.h).
pub(super) fn stack_pointer(thread: &Thread, header: &Header) -> Option<u64> {
    let index = match header.machine {
        3 => 15,         // EM_386: esp
        EM_X86_64 => 19, // rsp
        20 | 21 => 1,    // EM_PPC, EM_PPC64: r1
        40 => 13,        // EM_ARM: sp
        183 => 31,       // EM_AARCH64: sp
        243 => 2,        // EM_RISCV: x2, behind the pc that stands for x0
        _ => return None,
    };
    let registers = thread.registers.set(NT_PRSTATUS)?;
    if header.machine == EM_X86_64 {
        return header.encoding.u64(registers, 8 * index);
    }
    header.encoding.word(registers, index * header.encoding.word_bytes())
}
