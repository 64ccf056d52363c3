//! The role `sequence`: a thread and its restartable sequences (rseq(2)).

use std::sync::atomic::AtomicU64;

use crate::blocked::{system, use_stack};
use crate::unwilling::ready;
use crate::{Role, fact};

/// The roles of this module.
pub const ROLES: &[Role] = &[("sequence", sequence)];

/// What stands before the instruction that an interrupted sequence goes on with, as the C library has it.
const SIGNATURE: usize = 0x5305_3053;
const SYS_RSEQ: libc::c_long = 334;

std::arch::global_asm!(
    // rdi: where the description is announced; rsi: counters of rounds, and of interruptions.
    ".globl memfetch_inside, memfetch_inside_begin, memfetch_inside_end",
    "memfetch_inside:",
    "jmp 3f",
    ".long 0x53053053",
    "2: inc qword ptr [rsi+64]",
    "3: lea rax, [rip+4f]",
    "mov [rdi], rax",
    "memfetch_inside_begin:",
    "inc qword ptr [rsi]",
    "jmp memfetch_inside_begin",
    "memfetch_inside_end:",
    "ud2",
    ".pushsection .data.rel.ro,\"aw\"",
    ".balign 32",
    "4: .long 0, 0",
    ".quad memfetch_inside_begin, memfetch_inside_end - memfetch_inside_begin, 2b",
    ".popsection",
    // The sequence is soon over; what was announced stays.
    ".globl memfetch_behind, memfetch_behind_begin, memfetch_behind_end",
    "memfetch_behind:",
    "jmp 3f",
    ".long 0x53053053",
    "2: inc qword ptr [rsi+64]",
    "3: lea rax, [rip+4f]",
    "mov [rdi], rax",
    "memfetch_behind_begin:",
    "inc qword ptr [rsi]",
    "memfetch_behind_end:",
    ".fill 100000, 1, 0x90",
    "jmp 3b",
    ".pushsection .data.rel.ro,\"aw\"",
    ".balign 32",
    "4: .long 0, 0",
    ".quad memfetch_behind_begin, memfetch_behind_end - memfetch_behind_begin, 2b",
    ".popsection",
);

unsafe extern "C" {
    fn memfetch_inside(announced: *mut u64, counters: *const AtomicU64);
    fn memfetch_inside_begin();
    fn memfetch_inside_end();
    fn memfetch_behind(announced: *mut u64, counters: *const AtomicU64);
    fn memfetch_behind_begin();
    fn memfetch_behind_end();
}

#[repr(C, align(32))]
struct Own([u64; 4]);

/// The thread's `struct rseq`: that of the C library, or, where it has none, one of our own.
fn registered() -> *mut u8 {
    // SAFETY: dlsym takes a name that ends in 0; what it finds is an integer that glibc documents (`__rseq_offset`, a
    // ptrdiff_t, and `__rseq_size`, an unsigned int); the thread pointer is the first word of the thread's block.
    unsafe {
        let offset = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()).cast::<isize>();
        let size = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_size".as_ptr()).cast::<u32>();
        if !offset.is_null() && !size.is_null() && *size > 0 {
            let block: *mut u8;
            std::arch::asm!("mov {}, fs:[0]", out(reg) block);
            return block.offset(*offset);
        }
    }
    let own = Box::leak(Box::new(Own([0; 4])));
    let own = std::ptr::from_mut(own);
    assert_eq!(system(SYS_RSEQ, [own.addr(), size_of::<Own>(), 0, SIGNATURE]), 0, "rseq");
    own.cast()
}

/// `sequence inside`: the only thread is in a restartable sequence, which begins anew whenever it is interrupted.
/// `sequence behind`: the only thread goes through one over and over, and is mostly behind it.
///
/// `begin`, `end`: the instructions of the sequence; `announced`: the address of what the thread announces to the kernel.
fn sequence(arguments: &[String]) {
    let is_inside = arguments.iter().any(|argument| argument == "inside");
    // A word of the area; a description's address is in it while one is announced.
    let announced = registered().wrapping_add(8);
    let counters: &[AtomicU64; 16] = Box::leak(Box::new(std::array::from_fn(|_| AtomicU64::new(0))));
    let (begin, end): (unsafe extern "C" fn(), unsafe extern "C" fn()) = if is_inside {
        (memfetch_inside_begin, memfetch_inside_end)
    } else {
        (memfetch_behind_begin, memfetch_behind_end)
    };
    fact("begin", format!("{:#x}", (begin as *const u8).addr()));
    fact("end", format!("{:#x}", (end as *const u8).addr()));
    fact("announced", format!("{:#x}", announced.addr()));
    fact("counters", format!("{:#x}", counters.as_ptr().addr()));
    use_stack();
    ready();
    let run = if is_inside { memfetch_inside } else { memfetch_behind };
    // SAFETY: both write to the two counters, which live for ever, and to the area's word, which the kernel reads and
    // which is the thread's own; neither returns.
    unsafe { run(announced.cast(), counters.as_ptr()) };
}
