//! The role `registers`: threads that fill every register, make a call that blocks, and look at all of it afterwards.

use std::sync::mpsc::{Receiver, Sender, channel};

use crate::blocked::{settle, system, use_stack};
use crate::{Role, serve, unknown};

/// The roles of this module.
pub const ROLES: &[Role] = &[("registers", registers)];

/// What `memfetch_fill_and_call` takes and gives; all in 8-byte words, the vectors aligned.
#[repr(C, align(64))]
#[derive(Clone)]
struct Area {
    /// rbx, rbp, r12, r13, r14, r15; the call's number and its arguments in rdi, rsi, rdx, r10, r8, r9; what the
    /// processor has: 0 SSE, 1 AVX, 2 AVX-512; mxcsr; the control word of the x87.
    set: [u64; 16],
    /// The same registers afterwards; instead of the last three the top of the x87 stack, mxcsr, the control word.
    /// Word 6 is the result.
    got: [u64; 16],
    /// The vector registers before and afterwards, 64 bytes each.
    vectors: [[u64; 8]; 32],
    vectors_got: [[u64; 8]; 32],
    /// The red zone afterwards.
    red_zone: [u64; 16],
}

std::arch::global_asm!(
    ".globl memfetch_fill_and_call",
    "memfetch_fill_and_call:",
    "push rbx; push rbp; push r12; push r13; push r14; push r15; push rdi",
    // The red zone counts down from 16.
    "lea rax, [rsp-128]",
    "mov rcx, 16",
    "2: mov [rax], rcx; add rax, 8; dec rcx; jnz 2b",
    "ldmxcsr [rdi+112]",
    "fldcw [rdi+120]",
    "fldpi",
    "cmp qword ptr [rdi+104], 1",
    "je 4f",
    "ja 5f",
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "movdqu xmm\\n, [rdi+256+\\n*64]",
    ".endr",
    "jmp 6f",
    "4:",
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "vmovdqu ymm\\n, [rdi+256+\\n*64]",
    ".endr",
    "jmp 6f",
    "5:",
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    "vmovdqu64 zmm\\n, [rdi+256+\\n*64]",
    ".endr",
    "6:",
    "mov rbx, [rdi]; mov rbp, [rdi+8]; mov r12, [rdi+16]; mov r13, [rdi+24]; mov r14, [rdi+32]; mov r15, [rdi+40]",
    "mov rax, [rdi+48]; mov rsi, [rdi+64]; mov rdx, [rdi+72]; mov r10, [rdi+80]; mov r8, [rdi+88]",
    "mov r9, [rdi+96]; mov rdi, [rdi+56]",
    "syscall",
    // The area for rdi, whose value is kept in its place.
    "xchg rdi, [rsp]",
    "mov [rdi+128], rbx; mov [rdi+136], rbp; mov [rdi+144], r12; mov [rdi+152], r13; mov [rdi+160], r14",
    "mov [rdi+168], r15; mov [rdi+176], rax; mov rax, [rsp]; mov [rdi+184], rax; mov [rdi+192], rsi",
    "mov [rdi+200], rdx; mov [rdi+208], r10; mov [rdi+216], r8; mov [rdi+224], r9",
    "fstp qword ptr [rdi+232]",
    "stmxcsr [rdi+240]",
    "fnstcw [rdi+248]",
    "cmp qword ptr [rdi+104], 1",
    "je 4f",
    "ja 5f",
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "movdqu [rdi+2304+\\n*64], xmm\\n",
    ".endr",
    "jmp 6f",
    "4:",
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "vmovdqu [rdi+2304+\\n*64], ymm\\n",
    ".endr",
    "jmp 6f",
    "5:",
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    "vmovdqu64 [rdi+2304+\\n*64], zmm\\n",
    ".endr",
    "6:",
    "mov rcx, 16",
    "2: mov rax, [rsp-136+rcx*8]; mov [rdi+4344+rcx*8], rax; dec rcx; jnz 2b",
    "pop rdi; pop r15; pop r14; pop r13; pop r12; pop rbp; pop rbx",
    "ret",
);

unsafe extern "C" {
    fn memfetch_fill_and_call(area: *mut Area);
}

/// The vector registers that the processor has: their number, and the words of each.
pub fn vectors() -> (u64, usize, usize) {
    if std::arch::is_x86_feature_detected!("avx512f") {
        (2, 32, 8)
    } else if std::arch::is_x86_feature_detected!("avx") {
        (1, 16, 4)
    } else {
        (0, 16, 2)
    }
}

/// Makes a call with all registers filled; returns its result, or what was not as before.
fn call(number: libc::c_long, arguments: [usize; 6]) -> Result<u64, String> {
    let (level, count, words) = vectors();
    let mut set = [0_u64; 16];
    for (slot, index) in set.iter_mut().zip(1_u64..) {
        *slot = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    set[6] = number.cast_unsigned();
    for (slot, argument) in set.iter_mut().skip(7).zip(arguments) {
        *slot = argument as u64;
    }
    // Rounding towards zero, in the x87 as well, and 53 bits there.
    set[13..].copy_from_slice(&[level, 0x7f80, 0x0e7f]);
    let mut vectors = [[0_u64; 8]; 32];
    for (slot, index) in vectors.iter_mut().flatten().zip(1_u64..) {
        *slot = index.wrapping_mul(0xd6e8_feb8_6659_fd93);
    }
    let mut area = Area { set, got: [0; 16], vectors, vectors_got: [[0; 8]; 32], red_zone: [0; 16] };
    // SAFETY: the function keeps to the C convention (it restores what it must, the control words below), writes to the
    // area only, whose layout it shares, and makes a call whose pointers the caller vouches for.
    unsafe {
        memfetch_fill_and_call(&raw mut area);
        std::arch::asm!("ldmxcsr [{0}]", "fldcw [{0} + 4]", in(reg) &[0x1f80_u32, 0x037f]);
    }
    for index in (0..13).filter(|index| *index != 6) {
        if area.got[index] != set[index] {
            return Err(format!("register-{index}:{:#x}", area.got[index]));
        }
    }
    if f64::from_bits(area.got[13]).to_bits() >> 8 != std::f64::consts::PI.to_bits() >> 8 {
        return Err(format!("x87:{:#x}", area.got[13]));
    }
    if (area.got[14] as u32, area.got[15] as u16) != (0x7f80, 0x0e7f) {
        return Err(format!("control:{:#x}:{:#x}", area.got[14], area.got[15]));
    }
    for (index, (before, after)) in vectors.iter().zip(&area.vectors_got).take(count).enumerate() {
        if before[..words] != after[..words] {
            return Err(format!("vector-{index}:{after:x?}"));
        }
    }
    if area.red_zone.iter().copied().ne((1..=16).rev()) {
        return Err(format!("red-zone:{:?}", area.red_zone));
    }
    Ok(area.got[6])
}

/// What a thread waits for, in calls that a stop has restarted by the kernel (`read`) or by us (`epoll_wait`).
struct Waiter {
    event: usize,
    told: Receiver<Result<u64, String>>,
}

/// `registers [read] [epoll_wait]`: `wake` lets each thread's call return, and answers `ok` if it returned what it
/// should, and all registers and the red zone were as before it; the alternate signal stack and the signal mask as well.
fn registers(arguments: &[String]) {
    let waiters: Vec<Waiter> = arguments.iter().map(|kind| start(kind == "epoll_wait", kind)).collect();
    settle();
    serve(|order| match order {
        "wake" => {
            for waiter in &waiters {
                let one = 1_u64;
                system(libc::SYS_write, [waiter.event, std::ptr::from_ref(&one).addr(), 8]);
            }
            let wrong: Vec<String> =
                waiters.iter().filter_map(|waiter| waiter.told.recv().expect("it lives").err()).collect();
            settle();
            if wrong.is_empty() { "ok".to_owned() } else { wrong.join(" ") }
        }
        _ => unknown(order),
    })
}

fn start(polls: bool, name: &str) -> Waiter {
    let event = system(libc::SYS_eventfd2, [0, 0]) as usize;
    let (tell, told) = channel();
    let body = move || {
        let thread = system(libc::SYS_gettid, []);
        let _: Result<(), _> = wait(event, polls, &tell).map_err(|error| eprintln!("{thread}: {error}"));
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(body).expect("a thread starts");
    Waiter { event, told }
}

/// The alternate signal stack and the signal mask.
pub fn own() -> ([u64; 3], u64) {
    let (mut stack, mut mask) = ([0_u64; 3], 0_u64);
    system(libc::SYS_sigaltstack, [0, stack.as_mut_ptr().addr()]);
    system(libc::SYS_rt_sigprocmask, [0, 0, std::ptr::from_mut(&mut mask).addr(), 8]);
    (stack, mask)
}

fn wait(
    event: usize,
    polls: bool,
    tell: &Sender<Result<u64, String>>,
) -> Result<(), std::sync::mpsc::SendError<Result<u64, String>>> {
    use_stack();
    let mut room = Box::new([0_u64; 2]);
    let at = room.as_mut_ptr().addr();
    let epoll = system(libc::SYS_epoll_create1, [0]) as usize;
    let interest = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 7 };
    system(
        libc::SYS_epoll_ctl,
        [epoll, libc::EPOLL_CTL_ADD as usize, event, std::ptr::from_ref(&interest).addr()],
    );
    loop {
        let before = own();
        let (result, wanted) = if polls {
            let result = call(libc::SYS_epoll_wait, [epoll, at, 1, usize::MAX, 5, 6]);
            system(libc::SYS_read, [event, at, 8]);
            (result, 1)
        } else {
            (call(libc::SYS_read, [event, at, 8, 4, 5, 6]), 8)
        };
        tell.send(match result {
            Ok(returned) if returned != wanted => Err(format!("returned:{}", returned.cast_signed())),
            _ if own() != before => Err(format!("own:{:x?}:{before:x?}", own())),
            result => result,
        })?;
    }
}
