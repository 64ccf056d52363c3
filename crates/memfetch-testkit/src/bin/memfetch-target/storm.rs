//! The role `signal-storm`: counts the signals that it is sent, and whether any was lost, added or changed.

use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use crate::blocked::{block, system};
use crate::{Role, argument, serve, unknown};

/// The roles of this module.
pub const ROLES: &[Role] = &[("signal-storm", signal_storm)];

/// The signal that is counted: SIGRTMIN + 2 of the C library.
const STORM: i32 = 36;

static RECEIVED: AtomicI64 = AtomicI64::new(0);
/// Signals whose value was not the next one.
static DISORDER: AtomicI64 = AtomicI64::new(0);
/// Signals with another sender or code than sigqueue of the parent.
static FOREIGN: AtomicI64 = AtomicI64::new(0);
/// Calls that were interrupted although no signal had come.
static STRAY: AtomicI64 = AtomicI64::new(0);

/// `signal-storm KIND`: one thread takes signal 36 of its parent, with the values 1, 2, 3, ...; KIND is where it
/// is meanwhile: `nanosleep`, `epoll_wait` or `spin` with a handler, or `sigtimedwait`.
///
/// `counts` answers `received=N disorder=N foreign=N stray=N`.
fn signal_storm(arguments: &[String]) {
    let kind: String = argument(arguments, 0, "nanosleep".to_owned());
    block(STORM);
    handle();
    std::thread::spawn(move || match kind.as_str() {
        "sigtimedwait" => take_by_waiting(),
        "spin" => {
            unblock();
            loop {
                std::hint::spin_loop();
            }
        }
        "epoll_wait" => {
            let epoll = system(libc::SYS_epoll_create1, [0]) as usize;
            let mut event = [0_u8; 16];
            let event = event.as_mut_ptr().addr();
            take_by_handler(|| system(libc::SYS_epoll_wait, [epoll, event, 1, usize::MAX]));
        }
        _ => {
            let hour = libc::timespec { tv_sec: 3600, tv_nsec: 0 };
            let hour = std::ptr::from_ref(&hour).addr();
            take_by_handler(|| system(libc::SYS_nanosleep, [hour, 0]));
        }
    });
    std::thread::sleep(std::time::Duration::from_millis(20));
    serve(|order| match order {
        "counts" => format!(
            "received={} disorder={} foreign={} stray={}",
            RECEIVED.load(SeqCst),
            DISORDER.load(SeqCst),
            FOREIGN.load(SeqCst),
            STRAY.load(SeqCst)
        ),
        _ => unknown(order),
    });
}

/// Lets the handler take them, in the midst of a call that each of them interrupts.
fn take_by_handler(mut call: impl FnMut() -> i64) {
    let mut before = RECEIVED.load(SeqCst);
    unblock();
    loop {
        call();
        let after = RECEIVED.load(SeqCst);
        if after == before {
            STRAY.fetch_add(1, SeqCst);
        }
        before = after;
    }
}

fn take_by_waiting() {
    let set = 1_u64 << (STORM - 1);
    let hour = libc::timespec { tv_sec: 3600, tv_nsec: 0 };
    loop {
        // SAFETY: a siginfo_t is plain data, for which zeros are valid.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let arguments = [
            std::ptr::from_ref(&set).addr(),
            std::ptr::from_mut(&mut info).addr(),
            std::ptr::from_ref(&hour).addr(),
            8,
        ];
        if system(libc::SYS_rt_sigtimedwait, arguments) == i64::from(STORM) {
            count(&info);
        } else {
            STRAY.fetch_add(1, SeqCst);
        }
    }
}

fn count(info: &libc::siginfo_t) {
    let received = RECEIVED.fetch_add(1, SeqCst) + 1;
    // SAFETY: what sigqueue sends has a sender and a value; of anything else these are merely other bytes of
    // the same siginfo_t.
    let (value, sender) = unsafe { (info.si_value().sival_ptr.addr(), info.si_pid()) };
    // SAFETY: getppid takes and touches nothing.
    let parent = unsafe { libc::getppid() };
    if i64::try_from(value) != Ok(received) {
        DISORDER.fetch_add(1, SeqCst);
    }
    if info.si_code != libc::SI_QUEUE || info.si_signo != STORM || sender != parent {
        FOREIGN.fetch_add(1, SeqCst);
    }
}

/// How many came, and how many of them with another value than the next one, or from somebody else.
pub fn counted() -> [i64; 2] {
    [RECEIVED.load(SeqCst), DISORDER.load(SeqCst) + FOREIGN.load(SeqCst)]
}

/// Has the thread that takes one count it.
pub fn handle() {
    extern "C" fn handler(_: i32, info: *const libc::siginfo_t, _: *const libc::c_void) {
        // SAFETY: with SA_SIGINFO the kernel passes a siginfo_t that lives as long as the handler runs.
        count(unsafe { &*info });
    }
    // SAFETY: sigaction is plain data, for which zeros are valid; the handler touches atomics only.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction =
            handler as extern "C" fn(i32, *const libc::siginfo_t, *const libc::c_void) as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(STORM, &raw const action, std::ptr::null_mut()), 0);
    }
}

fn unblock() {
    let set = 1_u64 << (STORM - 1);
    let how = libc::SIG_UNBLOCK as usize;
    system(libc::SYS_rt_sigprocmask, [how, std::ptr::from_ref(&set).addr(), 0, 8]);
}
