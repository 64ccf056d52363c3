//! The notes of a core, in the kernel's order and layout.
//!
//! For the first thread NT_PRSTATUS, then NT_PRPSINFO, NT_SIGINFO, NT_AUXV, NT_FILE, then its other register sets;
//! then each other thread. Source: `fill_note_info` and `elf_core_dump` in fs/binfmt_elf.c, `struct
//! elf_prstatus` and `struct elf_prpsinfo` in include/linux/elfcore.h.

use super::layout::Encoder;
use crate::memory::{Platform, WordSize};
use crate::region::RegionMap;
use crate::threads::{BlockedCall, Pid, Registers, Thread};

/// The general registers and what surrounds them.
pub const NT_PRSTATUS: u32 = 1;
/// The floating-point registers.
pub const NT_PRFPREG: u32 = 2;
/// Facts about the process.
pub const NT_PRPSINFO: u32 = 3;
/// The extended registers, as XSAVE stores them.
pub const NT_X86_XSTATE: u32 = 0x202;
/// The auxiliary vector.
pub const NT_AUXV: u32 = 6;
/// The mapped files.
pub const NT_FILE: u32 = 0x4649_4c45;
/// The `siginfo_t` of the signal that ended the process.
pub const NT_SIGINFO: u32 = 0x5349_4749;

/// The signal that a process is reported to have stopped by where none did.
const SIGSTOP: i32 = 19;
/// The size of `siginfo_t`, the same for both word sizes.
const SIGINFO_LEN: usize = 128;
/// Clock ticks a second in what the kernel shows to user space (`USER_HZ`, fixed for x86).
const TICKS_PER_SECOND: u64 = 100;

/// Facts about a process, as NT_PRPSINFO and NT_PRSTATUS carry them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessRecord {
    /// The number of the process.
    pub pid: Pid,
    /// That of its parent.
    pub ppid: Pid,
    /// Its process group.
    pub pgrp: Pid,
    /// Its session.
    pub session: Pid,
    /// The letter of its state (proc(5), `stat`).
    pub state: u8,
    /// Its nice value.
    pub nice: i8,
    /// Its flags (`PF_*` of linux/sched.h).
    pub flags: u64,
    /// Its real user.
    pub uid: u32,
    /// Its real group.
    pub gid: u32,
    /// Its name.
    pub name: Vec<u8>,
    /// Its arguments, joined by zero bytes as in `/proc/PID/cmdline`.
    pub command_line: Vec<u8>,
    /// The auxiliary vector as in `/proc/PID/auxv`.
    pub auxv: Vec<u8>,
}

/// All notes of a core, `own` (the description of our own note, with its owner and type) last.
#[must_use]
pub fn encode(
    platform: Platform,
    process: &ProcessRecord,
    threads: &[Thread],
    map: &RegionMap,
    own: (&[u8], u32, &[u8]),
) -> Vec<u8> {
    let mut out = Notes { platform, out: Vec::new() };
    let nobody = Thread { tid: process.pid, ..Thread::default() };
    let (first, others) = threads.split_first().unwrap_or((&nobody, &[]));
    // The same in all, as the kernel has it (`fill_prstatus` in fs/binfmt_elf.c): gdb goes by the last.
    let signal = first.signal.as_ref().map_or(SIGSTOP, |signal| signal.number);
    out.note(b"CORE", NT_PRSTATUS, &prstatus(platform, process, first, signal));
    out.note(b"CORE", NT_PRPSINFO, &prpsinfo(platform, process));
    out.note(b"CORE", NT_SIGINFO, &siginfo(first));
    out.note(b"CORE", NT_AUXV, &process.auxv);
    out.note(b"CORE", NT_FILE, &files(platform, map));
    out.other_sets(&first.registers);
    for thread in others {
        out.note(b"CORE", NT_PRSTATUS, &prstatus(platform, process, thread, signal));
        out.other_sets(&thread.registers);
    }
    let (owner, kind, description) = own;
    out.note(owner, kind, description);
    out.out
}

struct Notes {
    platform: Platform,
    out: Vec<u8>,
}

impl Notes {
    /// Name and description are each padded to four bytes, also in 64-bit files: the kernel and all readers agree
    /// on that against the specification.
    fn note(&mut self, owner: &[u8], kind: u32, description: &[u8]) {
        let mut note = Encoder::new(self.platform);
        note.u32(owner.len() as u32 + 1);
        note.u32(description.len() as u32);
        note.u32(kind);
        note.bytes(owner);
        note.pad_to((12 + owner.len() + 1).next_multiple_of(4));
        note.bytes(description);
        let mut bytes = note.finish();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        self.out.append(&mut bytes);
    }

    fn other_sets(&mut self, registers: &Registers) {
        let Registers::Complete(sets) = registers else { return };
        for set in sets.iter().filter(|set| set.note_type != NT_PRSTATUS) {
            let owner = if set.note_type == NT_PRFPREG { &b"CORE"[..] } else { b"LINUX" };
            self.note(owner, set.note_type, &set.bytes);
        }
    }
}

fn prstatus(platform: Platform, process: &ProcessRecord, thread: &Thread, signal: i32) -> Vec<u8> {
    let accounting = &thread.accounting;
    let mut out = Encoder::new(platform);
    out.u32(signal as u32); // si_signo
    out.u32(0); // si_code
    out.u32(0); // si_errno
    out.u16(signal as u16); // pr_cursig
    out.u16(0);
    out.word(accounting.pending);
    out.word(accounting.blocked);
    for number in [thread.tid, process.ppid, process.pgrp, process.session] {
        out.u32(number as u32);
    }
    for ticks in [
        accounting.user_ticks,
        accounting.system_ticks,
        accounting.children_user_ticks,
        accounting.children_system_ticks,
    ] {
        out.word(ticks / TICKS_PER_SECOND);
        out.word(ticks % TICKS_PER_SECOND * (1_000_000 / TICKS_PER_SECOND));
    }
    let (registers_len, total) = match platform.word {
        WordSize::Bits32 => (68, 144),
        WordSize::Bits64 => (216, 336),
    };
    let mut registers = match &thread.registers {
        Registers::Complete(_) => thread.registers.set(NT_PRSTATUS).map_or_else(Vec::new, <[u8]>::to_vec),
        Registers::Partial(call) if platform.word == WordSize::Bits64 => general_from_call(call),
        Registers::Partial(call) => general_from_32_bit_call(call),
        Registers::Unknown => Vec::new(),
    };
    registers.resize(registers_len, 0);
    out.bytes(&registers);
    let has_floats = thread.registers.set(NT_PRFPREG).is_some();
    out.u32(u32::from(has_floats)); // pr_fpvalid
    out.pad_to(total);
    out.finish()
}

/// `struct user_regs_struct` of x86-64 (sys/user.h) with what is known of a thread inside a system call.
fn general_from_call(call: &BlockedCall) -> Vec<u8> {
    /// User mode's code and stack segments on x86-64 Linux.
    const CS: u64 = 0x33;
    const SS: u64 = 0x2b;
    /// What `rax` holds from the entry of a call on until its result is there: -ENOSYS.
    const NO_RESULT: u64 = (-38_i64) as u64;
    let [rdi, rsi, rdx, r10, r8, r9] = call.arguments;
    let mut registers = [0_u64; 27];
    registers[7] = r10;
    registers[8] = r9;
    registers[9] = r8;
    registers[10] = NO_RESULT;
    registers[12] = rdx;
    registers[13] = rsi;
    registers[14] = rdi;
    registers[15] = call.number as u64;
    registers[16] = call.program_counter;
    registers[17] = CS;
    registers[19] = call.stack_pointer;
    registers[20] = SS;
    registers.iter().flat_map(|register| register.to_le_bytes()).collect()
}

/// The same of i386: the arguments of `int 0x80` and of the fast gate, which goes on by it.
fn general_from_32_bit_call(call: &BlockedCall) -> Vec<u8> {
    /// User mode's 32-bit code segment, and its data segment, on x86-64 Linux.
    const CS: u64 = 0x23;
    const DS: u64 = 0x2b;
    const NO_RESULT: u64 = (-38_i64) as u64;
    let [ebx, ecx, edx, esi, edi, ebp] = call.arguments;
    let number = call.number as u64;
    // ebx to ebp, eax, ds, es, fs, gs, orig_eax, eip, cs, eflags, esp, ss.
    let registers = [
        ebx,
        ecx,
        edx,
        esi,
        edi,
        ebp,
        NO_RESULT,
        DS,
        DS,
        0,
        0,
        number,
        call.program_counter,
        CS,
        0,
        call.stack_pointer,
        DS,
    ];
    registers.iter().flat_map(|&register| (register as u32).to_le_bytes()).collect()
}

fn prpsinfo(platform: Platform, process: &ProcessRecord) -> Vec<u8> {
    // The kernel's order of states: its index is pr_state.
    let index = b"RSDTZW".iter().position(|&letter| letter == process.state).unwrap_or(0);
    let mut out = Encoder::new(platform);
    out.bytes(&[index as u8, process.state, u8::from(process.state == b'Z'), process.nice as u8]);
    match platform.word {
        WordSize::Bits64 => {
            out.u32(0);
            out.word(process.flags);
            out.u32(process.uid);
            out.u32(process.gid);
        }
        WordSize::Bits32 => {
            out.word(process.flags);
            out.u16(process.uid as u16);
            out.u16(process.gid as u16);
        }
    }
    for number in [process.pid, process.ppid, process.pgrp, process.session] {
        out.u32(number as u32);
    }
    out.text(&process.name, 16);
    // A program that shows a title of its own leaves the room behind it blank.
    let used =
        process.command_line.iter().rposition(|&byte| byte != 0 && byte != b' ').map_or(0, |last| last + 1);
    let line = process.command_line.iter().take(used);
    let arguments: Vec<u8> = line.map(|&byte| if byte == 0 { b' ' } else { byte }).collect();
    out.text(&arguments, 80);
    out.finish()
}

fn siginfo(thread: &Thread) -> Vec<u8> {
    let mut bytes = match &thread.signal {
        Some(signal) => signal.bytes.clone(),
        None => SIGSTOP.to_le_bytes().to_vec(),
    };
    bytes.resize(SIGINFO_LEN, 0);
    bytes
}

/// Every mapping that has an inode: count, page size, then start, end and offset in pages of each, then the names.
fn files(platform: Platform, map: &RegionMap) -> Vec<u8> {
    let files: Vec<_> = map.iter().filter_map(|region| Some((region, region.file()?))).collect();
    let mut out = Encoder::new(platform);
    out.word(files.len() as u64);
    out.word(platform.page_size);
    for (region, file) in &files {
        out.word(region.span.start().get());
        out.word(region.span.end().get());
        out.word(file.offset / platform.page_size);
    }
    for (region, _) in &files {
        out.bytes(std::os::unix::ffi::OsStrExt::as_bytes(region.name().as_os_str()));
        out.bytes(&[0]);
    }
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::RegisterSet;

    #[test]
    fn structures_have_the_sizes_of_the_kernels() {
        let process = ProcessRecord { name: vec![b'x'; 40], ..ProcessRecord::default() };
        let thread = Thread::default();
        for (platform, status, info) in [(Platform::X86_64, 336, 136), (Platform::I386, 144, 124)] {
            assert_eq!(prstatus(platform, &process, &thread, SIGSTOP).len(), status);
            let bytes = prpsinfo(platform, &process);
            assert_eq!(bytes.len(), info);
            // pr_fname is 16 bytes with its zero, and pr_psargs the last 80.
            assert_eq!(bytes[info - 81], 0);
            assert_eq!(bytes[info - 82], b'x');
        }
    }

    #[test]
    fn notes_stand_in_the_kernels_order() {
        let set = |note_type| RegisterSet { note_type, bytes: vec![1; 216] };
        let thread = |tid| Thread {
            tid,
            registers: Registers::Complete(vec![set(NT_PRSTATUS), set(NT_PRFPREG), set(0x202)]),
            ..Thread::default()
        };
        let bytes = encode(
            Platform::X86_64,
            &ProcessRecord::default(),
            &[thread(1), thread(2)],
            &RegionMap::default(),
            (b"MEMFETCH", 1, b"{}"),
        );
        let mut kinds = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let number = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
            let (name, description) = (number(0) as usize, number(4) as usize);
            kinds.push((String::from_utf8_lossy(&rest[12..12 + name - 1]).into_owned(), number(8)));
            rest = &rest[12 + name.next_multiple_of(4) + description.next_multiple_of(4)..];
        }
        let expected = [
            ("CORE", NT_PRSTATUS),
            ("CORE", NT_PRPSINFO),
            ("CORE", NT_SIGINFO),
            ("CORE", NT_AUXV),
            ("CORE", NT_FILE),
            ("CORE", NT_PRFPREG),
            ("LINUX", 0x202),
            ("CORE", NT_PRSTATUS),
            ("CORE", NT_PRFPREG),
            ("LINUX", 0x202),
            ("MEMFETCH", 1),
        ];
        assert_eq!(kinds, expected.map(|(owner, kind)| (owner.to_owned(), kind)));
    }

    #[test]
    fn a_blocked_thread_shows_where_it_waits() {
        let call = BlockedCall {
            number: 232,
            arguments: [1, 2, 3, 4, 5, 6],
            stack_pointer: 0x7ffc_0000,
            program_counter: 0x7f00_1234,
        };
        let registers = general_from_call(&call);
        let word = |index: usize| u64::from_le_bytes(registers[index * 8..][..8].try_into().unwrap());
        assert_eq!((word(16), word(19), word(15), word(14)), (0x7f00_1234, 0x7ffc_0000, 232, 1));
    }
}
