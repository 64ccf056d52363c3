//! Roles that are about who runs in a process: how many, since when, and who else has its memory.

use std::os::unix::process::CommandExt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::blocked::{Call, returns, settle, start, system};
use crate::memory::{fill, map};
use crate::{Role, argument, fact, serve, unknown};

/// The roles of this module.
pub const ROLES: &[Role] = &[
    ("threads", threads),
    ("spin", spin),
    ("thread-churn", thread_churn),
    ("vfork-parent", vfork_parent),
    ("vfork-exec", vfork_exec),
    ("zombie-leader", zombie_leader),
    ("sharer", sharer),
    ("exec-loop", exec_loop),
    ("exec-counting", exec_counting),
];

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// `threads COUNT MIB`: so many threads, blocked in epoll_wait, futex and nanosleep by turns; `returns` as for
/// `blocked`. Beside them so much memory, every 8-byte word of it its own address.
fn threads(arguments: &[String]) {
    let hour = libc::timespec { tv_sec: 3600, tv_nsec: 0 };
    let hour = std::ptr::from_ref(Box::leak(Box::new(hour))).addr();
    let place = map(4096, READ_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    let epoll = system(libc::SYS_epoll_create1, [0]) as usize;
    let bytes = argument(arguments, 1, 0_usize) << 20;
    if bytes > 0 {
        let start = map(bytes, READ_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        fill(start, bytes);
        fact("start", format_args!("{start:#x}"));
        fact("bytes", bytes);
    }
    for index in 0..argument(arguments, 0, 100_usize) {
        let call: Call = match index % 3 {
            0 => Box::new(move || system(libc::SYS_epoll_wait, [epoll, place + 64, 1, usize::MAX])),
            1 => Box::new(move || system(libc::SYS_futex, [place, 0, 0, 0])),
            _ => Box::new(move || system(libc::SYS_nanosleep, [hour, 0])),
        };
        start("crowd", move || Some(call));
    }
    settle();
    serve(returns);
}

/// A mapping of counters, 64 bytes apart, that other processes can look at.
fn counters(count: usize) -> usize {
    let start = map(count * 64, READ_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    fact("counters", format_args!("{start:#x}"));
    fact("count", count);
    start
}

fn counter(start: usize, index: usize) -> &'static AtomicU64 {
    // SAFETY: `counters` mapped so many cache lines at `start`, and never unmaps them.
    unsafe { AtomicU64::from_ptr((start + index * 64) as *mut u64) }
}

fn count_for_ever(counter: &AtomicU64) -> ! {
    loop {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// `spin COUNT`: so many threads that count, each its own counter at `counters` + 64 * index.
fn spin(arguments: &[String]) {
    let count = argument(arguments, 0, 1_usize);
    let start = counters(count);
    for index in 0..count {
        std::thread::spawn(move || count_for_ever(counter(start, index)));
    }
    serve(unknown);
}

/// `thread-churn COUNT`: so many threads that start and join a thread, over and over; the counter counts them.
fn thread_churn(arguments: &[String]) {
    let start = counters(1);
    for _ in 0..argument(arguments, 0, 2_usize) {
        std::thread::spawn(move || {
            loop {
                let newborn = std::thread::spawn(move || counter(start, 0).fetch_add(1, Ordering::Relaxed));
                newborn.join().expect("it only counts");
            }
        });
    }
    serve(unknown);
}

/// `vfork-parent MILLISECONDS`: a thread that waits so long for the child to which it lent its memory; another
/// one counts. The second counter counts the thread's returns.
fn vfork_parent(arguments: &[String]) {
    extern "C" fn child(milliseconds: *mut libc::c_void) -> i32 {
        let milliseconds = milliseconds.addr() as i64;
        let time = libc::timespec { tv_sec: milliseconds / 1000, tv_nsec: milliseconds % 1000 * 1_000_000 };
        system(libc::SYS_nanosleep, [std::ptr::from_ref(&time).addr(), 0]);
        0
    }
    let milliseconds = argument(arguments, 0, 1000_usize);
    let start = counters(2);
    std::thread::spawn(move || count_for_ever(counter(start, 0)));
    std::thread::spawn(move || {
        clone_sharing_memory(child, milliseconds, libc::CLONE_VFORK);
        counter(start, 1).fetch_add(1, Ordering::Relaxed);
        loop {
            std::thread::park();
        }
    });
    std::thread::sleep(std::time::Duration::from_millis(50));
    serve(unknown);
}

/// `vfork-exec`: a process `child` that has the memory of this one until the order `exec` makes it sleep(1).
fn vfork_exec(_: &[String]) {
    extern "C" fn child(start: *mut libc::c_void) -> i32 {
        let start = start.addr();
        system(libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize]);
        counter(start, 0).store(system(libc::SYS_getpid, []).cast_unsigned(), Ordering::SeqCst);
        let moment = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        while counter(start, 1).load(Ordering::SeqCst) == 0 {
            system(libc::SYS_nanosleep, [std::ptr::from_ref(&moment).addr(), 0]);
        }
        let words = [c"sleep".as_ptr().addr(), c"1000".as_ptr().addr(), 0];
        system(libc::SYS_execve, [c"/bin/sleep".as_ptr().addr(), words.as_ptr().addr(), 0]);
        1
    }
    let start = counters(2);
    std::thread::spawn(move || {
        clone_sharing_memory(child, start, libc::CLONE_VFORK);
        loop {
            std::thread::park();
        }
    });
    while counter(start, 0).load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    fact("child", counter(start, 0).load(Ordering::SeqCst));
    serve(|order| match order {
        "exec" => {
            counter(start, 1).store(1, Ordering::SeqCst);
            "told".to_owned()
        }
        _ => unknown(order),
    })
}

/// `zombie-leader`: the first thread has exited; another one counts, a third one serves.
fn zombie_leader(_: &[String]) {
    let start = counters(1);
    std::thread::spawn(move || count_for_ever(counter(start, 0)));
    std::thread::spawn(|| {
        while std::fs::read_to_string("/proc/self/stat").is_ok_and(|stat| !stat.contains(") Z ")) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        serve(unknown)
    });
    system(libc::SYS_exit, [0]);
}

/// `sharer`: a process `sharer` with the same memory that is no thread; each has a thread that counts.
fn sharer(_: &[String]) {
    extern "C" fn child(start: *mut libc::c_void) -> i32 {
        system(libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize]);
        count_for_ever(counter(start.addr(), 1))
    }
    let start = counters(2);
    fact("sharer", clone_sharing_memory(child, start, 0));
    std::thread::spawn(move || count_for_ever(counter(start, 0)));
    serve(unknown);
}

/// `exec-counting PROGRAM HOW`: as `spin 2`, and a third thread starts the program, in a process of its own (`spawn`) or
/// in the place of this one (`replace`).
fn exec_counting(arguments: &[String]) {
    let start = counters(2);
    for index in 0..2 {
        std::thread::spawn(move || count_for_ever(counter(start, index)));
    }
    let mut command = std::process::Command::new(&arguments[0]);
    let replaces = arguments[1] == "replace";
    std::thread::spawn(move || {
        if replaces {
            panic!("exec: {}", command.exec());
        }
        let _ = command.status();
    });
    serve(unknown);
}

/// `exec-loop`: a process of four threads, one of which makes it a new one by exec every few milliseconds.
fn exec_loop(arguments: &[String]) {
    for _ in 0..2 {
        std::thread::spawn(|| std::thread::sleep(std::time::Duration::from_secs(3600)));
    }
    std::thread::spawn(|| {
        std::thread::sleep(std::time::Duration::from_millis(3));
        let program = std::env::current_exe().expect("it has a path");
        let error = std::process::Command::new(program).args(["exec-loop", "again"]).exec();
        panic!("exec: {error}");
    });
    if arguments.is_empty() {
        serve(unknown);
    }
    // Its first self has told that it is ready, and nobody will ask this one anything.
    let mut byte = [0];
    let _ = std::io::Read::read(&mut std::io::stdin(), &mut byte);
    std::process::exit(0);
}

/// Starts a process with the memory of this one, and a stack of its own.
fn clone_sharing_memory(run: extern "C" fn(*mut libc::c_void) -> i32, with: usize, flags: i32) -> i32 {
    const STACK: usize = 256 << 10;
    let stack = map(STACK, READ_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let with = std::ptr::without_provenance_mut(with);
    // SAFETY: the stack is fresh and stays mapped; `run` makes system calls and counts, and needs none of the
    // thread-local state that it shares with its parent, but errno after an error.
    let child = unsafe {
        libc::clone(run, (stack + STACK) as *mut libc::c_void, flags | libc::CLONE_VM | libc::SIGCHLD, with)
    };
    assert!(child > 0, "clone: {}", std::io::Error::last_os_error());
    child
}
