//! Roles that are about processes of which no thread can make a call for somebody else, or in which that call fails.
//!
//! Those that take no orders end by a signal when their parent does.

use crate::blocked::system;
use crate::memory::map;
use crate::{Role, fact, serve, unknown};

/// The roles of this module.
pub const ROLES: &[Role] = &[
    ("strict", strict),
    ("dispatched", dispatched),
    ("busy", busy),
    ("on-alternate-stack", on_alternate_stack),
    ("napping", napping),
    ("full-table", full_table),
    ("own-stack", own_stack),
];

/// Says that the role's state is reached, for those that cannot [`serve`].
pub fn ready() {
    use std::io::Write;
    system(libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize]);
    println!("ready");
    std::io::stdout().flush().expect("the test listens");
}

/// Answers every line with itself, by calls of read and write alone; returns when standard input ends.
fn echo() {
    let mut room = [0_u8; 64];
    loop {
        let read = system(libc::SYS_read, [0, room.as_mut_ptr().addr(), room.len()]);
        let Ok(read @ 1..) = usize::try_from(read) else { return };
        system(libc::SYS_write, [1, room.as_ptr().addr(), read]);
    }
}

/// `strict`: seccomp's strict mode, in which any call but read, write, exit and sigreturn kills. Orders are answered
/// with themselves.
fn strict(_: &[String]) {
    ready();
    assert_eq!(system(libc::SYS_prctl, [libc::PR_SET_SECCOMP as usize, 1]), 0);
    echo();
    system(libc::SYS_exit, [0]);
}

/// `dispatched`: system calls would become signals (PR_SET_SYSCALL_USER_DISPATCH), were it not switched off just now.
fn dispatched(_: &[String]) {
    const SET_USER_DISPATCH: usize = 59;
    let allow = std::ptr::from_ref(Box::leak(Box::new(0_u8))).addr();
    fact("on", system(libc::SYS_prctl, [SET_USER_DISPATCH, 1, 0, 0, allow]) == 0);
    serve(unknown);
}

/// `busy`: all threads compute.
fn busy(_: &[String]) {
    std::thread::spawn(|| spin());
    ready();
    spin();
}

/// `on-alternate-stack`: the only thread computes in a signal handler that has a stack of its own.
fn on_alternate_stack(_: &[String]) {
    const SIZE: usize = 1 << 16;
    extern "C" fn handler(_: i32) {
        ready();
        spin();
    }
    let start = map(SIZE, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let stack =
        libc::stack_t { ss_sp: std::ptr::with_exposed_provenance_mut(start), ss_flags: 0, ss_size: SIZE };
    // SAFETY: sigaction is plain data, for which zeros are valid; the stack is fresh and stays mapped; the signal comes
    // at a place where the handler may do anything.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as extern "C" fn(i32) as usize;
        action.sa_flags = libc::SA_ONSTACK;
        assert_eq!(libc::sigaltstack(&raw const stack, std::ptr::null_mut()), 0);
        assert_eq!(libc::sigaction(libc::SIGUSR2, &raw const action, std::ptr::null_mut()), 0);
        libc::raise(libc::SIGUSR2);
    }
}

fn spin() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

/// `napping`: all threads are in a call that the kernel restarts with the time that is left.
fn napping(_: &[String]) {
    std::thread::spawn(|| nap());
    ready();
    nap();
}

fn nap() -> ! {
    let hour = libc::timespec { tv_sec: 3600, tv_nsec: 0 };
    loop {
        system(libc::SYS_nanosleep, [std::ptr::from_ref(&hour).addr(), 0]);
    }
}

/// `full-table`: no descriptor can be made.
fn full_table(_: &[String]) {
    let limit = [0_u64; 2];
    assert_eq!(system(libc::SYS_setrlimit, [libc::RLIMIT_NOFILE as usize, limit.as_ptr().addr()]), 0);
    serve(unknown);
}

/// `own-stack`: the only thread runs on a stack that the program made, amid other memory, as coroutines do. Orders are
/// answered with themselves.
fn own_stack(_: &[String]) {
    const SIZE: usize = 1 << 20;
    extern "C" fn run() -> ! {
        echo();
        std::process::exit(0)
    }
    let start = map(SIZE, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    ready();
    // SAFETY: the new stack is fresh, 16-byte aligned, and stays mapped; nothing returns to the old one.
    unsafe {
        std::arch::asm!("mov rsp, {}", "call {}", in(reg) start + SIZE / 2, in(reg) run as extern "C" fn() -> !, options(noreturn));
    }
}
