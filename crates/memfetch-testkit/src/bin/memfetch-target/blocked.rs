//! The role `blocked`: a thread in each kind of call that blocks, which tells every return.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::{Role, fact, serve, unknown};

/// The roles of this module.
pub const ROLES: &[Role] = &[("blocked", blocked)];

/// A call that blocks, made over and over; returns its result, negative errno for an error.
pub type Call = Box<dyn FnMut() -> i64 + Send>;

/// Where threads tell what their calls returned.
static RETURNS: Mutex<Vec<String>> = Mutex::new(Vec::new());
static PREPARED: AtomicUsize = AtomicUsize::new(0);

/// A child that outlives this process for a moment, for the wait4 thread and to remove what the kernel keeps.
static CHILD: AtomicUsize = AtomicUsize::new(0);

/// `blocked [NAME...]`: those kinds, or all. Facts `tid.NAME`; `returns` answers with the number of returns,
/// then each as `NAME:RESULT`. SIGUSR1 has a handler, SIGUSR2 is blocked and waited for.
fn blocked(arguments: &[String]) {
    catch(libc::SIGUSR1);
    block(libc::SIGUSR2);
    let semaphores = [system(libc::SYS_semget, [0, 1, 0o1600]), system(libc::SYS_semget, [0, 1, 0o1600])];
    let queues = [system(libc::SYS_msgget, [0, 0o1600]), system(libc::SYS_msgget, [0, 0o1600])];
    leave_a_caretaker(&semaphores, &queues);
    let kept = Kept { semaphores, queues };
    for (name, prepare) in CALLS {
        if arguments.is_empty() || arguments.iter().any(|wanted| wanted == name) {
            match start(name, move || {
                use_stack();
                prepare(&kept)
            }) {
                Some(tid) => fact(&format!("tid.{name}"), tid),
                None => fact(&format!("absent.{name}"), 1),
            }
        }
    }
    settle();
    serve(returns);
}

/// Answers to `returns`.
pub fn returns(order: &str) -> String {
    match order {
        "returns" => {
            let returns = RETURNS.lock().expect("no thread panics");
            format!("{} {}", returns.len(), returns.join(" "))
        }
        _ => unknown(order),
    }
}

/// Starts a thread that makes a call over and over; none where this system lacks the call.
pub fn start(name: &'static str, prepare: impl FnOnce() -> Option<Call> + Send + 'static) -> Option<i32> {
    let (told, hears) = std::sync::mpsc::channel();
    let body = move || {
        let Some(mut call) = prepare() else { return };
        let _ = told.send(i32::try_from(system(libc::SYS_gettid, [])).expect("a thread number"));
        loop {
            PREPARED.fetch_add(1, Ordering::SeqCst);
            let result = call();
            RETURNS.lock().expect("no thread panics").push(format!("{name}:{result}"));
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let short: String = name.chars().take(15).collect();
    std::thread::Builder::new().name(short).stack_size(128 << 10).spawn(body).expect("a thread starts");
    hears.recv().ok()
}

/// Has pages below the stack pointer that hold nothing any more: a thread with them is preferred for a call.
#[inline(never)]
pub fn use_stack() {
    std::hint::black_box([1_u8; 32 << 10]);
}

/// Waits until all threads of this process but the caller sleep.
pub fn settle() {
    let own = system(libc::SYS_gettid, []).to_string();
    for _ in 0..400 {
        std::thread::sleep(Duration::from_millis(5));
        let asleep = |entry: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            entry.file_name().to_string_lossy() == own || stat.contains(") S ")
        };
        let mut threads = std::fs::read_dir("/proc/self/task").expect("/proc is there").flatten();
        if threads.all(asleep) {
            return;
        }
    }
}

/// What the kernel keeps after the process that made it has ended.
#[derive(Clone, Copy)]
struct Kept {
    semaphores: [i64; 2],
    queues: [i64; 2],
}

fn leave_a_caretaker(semaphores: &[i64], queues: &[i64]) {
    let (reader, _writer) = pipe();
    // SAFETY: no other thread runs yet, and the child makes system calls only.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // All descriptors but the pipe's reading end, so that it ends when the parent has.
        system(libc::SYS_dup3, [reader, 0, 0]);
        system(libc::SYS_close_range, [1, u32::MAX as usize, 0]);
        let mut byte = 0_u8;
        system(libc::SYS_read, [0, std::ptr::from_mut(&mut byte).addr(), 1]);
        for id in semaphores {
            system(libc::SYS_semctl, [*id as usize, 0, libc::IPC_RMID as usize]);
        }
        for id in queues {
            system(libc::SYS_msgctl, [*id as usize, libc::IPC_RMID as usize]);
        }
        system(libc::SYS_exit_group, [0]);
    }
    CHILD.store(child as usize, Ordering::SeqCst);
}

type Prepare = fn(&Kept) -> Option<Call>;

const HOUR: libc::timespec = libc::timespec { tv_sec: 3600, tv_nsec: 0 };
const NEVER: usize = usize::MAX;

const CALLS: &[(&str, Prepare)] = &[
    ("epoll_wait", |_| again(libc::SYS_epoll_wait, [epoll(), room(), 1, NEVER])),
    ("epoll_wait-1h", |_| again(libc::SYS_epoll_wait, [epoll(), room(), 1, 3_600_000])),
    ("epoll_pwait", |_| again(libc::SYS_epoll_pwait, [epoll(), room(), 1, NEVER, keep(USR2), 8])),
    ("epoll_pwait2", |_| again(libc::SYS_epoll_pwait2, [epoll(), room(), 1, keep(HOUR), 0, 8])),
    ("semop", |kept| again(libc::SYS_semop, [kept.semaphores[0] as usize, keep([0_i16, -1, 0]), 1])),
    ("semtimedop", |kept| {
        again(libc::SYS_semtimedop, [kept.semaphores[1] as usize, keep([0_i16, -1, 0]), 1, keep(HOUR)])
    }),
    ("sigtimedwait", |_| again(libc::SYS_rt_sigtimedwait, [keep(USR2), 0, keep(HOUR), 8])),
    ("sigwaitinfo", |_| again(libc::SYS_rt_sigtimedwait, [keep(USR2), 0, 0, 8])),
    ("nanosleep", |_| again(libc::SYS_nanosleep, [keep(HOUR), 0])),
    ("clock_nanosleep", |_| {
        let far = libc::timespec { tv_sec: 4_000_000_000, tv_nsec: 0 };
        again(libc::SYS_clock_nanosleep, [1, 1, keep(far), 0])
    }),
    ("futex", |_| again(libc::SYS_futex, [keep(0_u32), 0, 0, 0])),
    ("futex-1h", |_| again(libc::SYS_futex, [keep(0_u32), 0, 0, keep(HOUR)])),
    ("futex_waitv", |_| again(libc::SYS_futex_waitv, [keep([0_u64, keep(0_u32) as u64, 2]), 1, 0, 0, 0])),
    ("poll", |_| again(libc::SYS_poll, [keep(poll_for(pipe().0)), 1, 3_600_000])),
    ("ppoll", |_| again(libc::SYS_ppoll, [keep(poll_for(pipe().0)), 1, keep(HOUR), keep(USR2), 8])),
    ("select", |_| again(libc::SYS_select, [0, 0, 0, 0, 0])),
    ("pselect", |_| again(libc::SYS_pselect6, [0, 0, 0, 0, keep(HOUR), keep([keep(USR2), 8])])),
    ("read-pipe", |_| again(libc::SYS_read, [pipe().0, room(), 1])),
    ("write-pipe", |_| {
        let (_, writer) = pipe();
        system(libc::SYS_fcntl, [writer, libc::F_SETFL as usize, libc::O_NONBLOCK as usize]);
        while system(libc::SYS_write, [writer, room(), 4096]) > 0 {}
        system(libc::SYS_fcntl, [writer, libc::F_SETFL as usize, 0]);
        again(libc::SYS_write, [writer, room(), 1])
    }),
    ("read-rcvtimeo", |_| again(libc::SYS_read, [patient(pair(), libc::SO_RCVTIMEO), room(), 1])),
    ("readv-rcvtimeo", |_| {
        again(libc::SYS_readv, [patient(pair(), libc::SO_RCVTIMEO), keep([room(), 1]), 1])
    }),
    ("read-socket", |_| again(libc::SYS_read, [pair(), room(), 1])),
    ("recv-rcvtimeo", |_| {
        again(libc::SYS_recvfrom, [patient(pair(), libc::SO_RCVTIMEO), room(), 1, 0, 0, 0])
    }),
    ("recv", |_| again(libc::SYS_recvfrom, [pair(), room(), 1, 0, 0, 0])),
    ("recvmsg-rcvtimeo", |_| {
        let message = keep([0_usize, 0, keep([room(), 1]), 1, 0, 0, 0]);
        again(libc::SYS_recvmsg, [patient(pair(), libc::SO_RCVTIMEO), message, 0])
    }),
    ("recvmmsg", |_| {
        let message = keep([0_usize, 0, keep([room(), 1]), 1, 0, 0, 0, 0]);
        again(libc::SYS_recvmmsg, [patient(pair(), libc::SO_RCVTIMEO), message, 1, 0, keep(HOUR)])
    }),
    ("accept-rcvtimeo", |_| again(libc::SYS_accept, [patient(listener().0, libc::SO_RCVTIMEO), 0, 0])),
    ("accept", |_| again(libc::SYS_accept4, [listener().0, 0, 0, 0])),
    ("connect-sndtimeo", |_| {
        let (_, address) = listener();
        let connect = |socket| system(libc::SYS_connect, [socket, address, 110]);
        let nonblocking = libc::SOCK_NONBLOCK as usize;
        while connect(system(libc::SYS_socket, [1, 1 | nonblocking, 0]) as usize) == 0 {}
        let socket = system(libc::SYS_socket, [1, 1, 0]) as usize;
        again(libc::SYS_connect, [patient(socket, libc::SO_SNDTIMEO), address, 110])
    }),
    ("send-sndtimeo", |_| again(libc::SYS_sendto, [stuffed(), room(), 4096, 0, 0, 0])),
    ("write-sndtimeo", |_| again(libc::SYS_write, [stuffed(), room(), 4096])),
    ("io_uring_enter", |_| {
        let ring = usize::try_from(system(libc::SYS_io_uring_setup, [8, keep([0_u8; 120])])).ok()?;
        again(libc::SYS_io_uring_enter, [ring, 0, 1, 1, 0, 0])
    }),
    ("io_getevents", |_| {
        let context = Box::leak(Box::new(0_usize));
        (system(libc::SYS_io_setup, [8, std::ptr::from_mut(context).addr()]) == 0).then_some(())?;
        again(libc::SYS_io_getevents, [*context, 1, 1, room(), 0])
    }),
    ("msgrcv", |kept| again(libc::SYS_msgrcv, [kept.queues[0] as usize, room(), 8000, 0, 0])),
    ("msgsnd", |kept| {
        let (queue, message) = (kept.queues[1] as usize, keep([1_u64; 1000]));
        while system(libc::SYS_msgsnd, [queue, message, 1000, libc::IPC_NOWAIT as usize]) == 0 {}
        again(libc::SYS_msgsnd, [queue, message, 1000, 0])
    }),
    ("mq_timedreceive", |_| {
        let name = keep(*b"memfetch-blocked\0");
        let queue = system(libc::SYS_mq_open, [name, (libc::O_RDWR | libc::O_CREAT) as usize, 0o600, 0]);
        system(libc::SYS_mq_unlink, [name]);
        let far = libc::timespec { tv_sec: 4_000_000_000, tv_nsec: 0 };
        again(libc::SYS_mq_timedreceive, [usize::try_from(queue).ok()?, room(), 65_536, 0, keep(far)])
    }),
    ("wait4", |_| again(libc::SYS_wait4, [CHILD.load(Ordering::SeqCst), 0, 0, 0])),
    ("flock", |_| {
        let [one, other] = twice_open();
        system(libc::SYS_flock, [one, libc::LOCK_EX as usize]);
        again(libc::SYS_flock, [other, libc::LOCK_EX as usize])
    }),
    ("fcntl-ofd", |_| {
        let [one, other] = twice_open();
        // struct flock: l_type F_WRLCK, the whole file.
        let lock = keep([1_u64, 0, 0, 0]);
        system(libc::SYS_fcntl, [one, libc::F_OFD_SETLK as usize, lock]);
        again(libc::SYS_fcntl, [other, libc::F_OFD_SETLKW as usize, lock])
    }),
    ("inotify", |_| again(libc::SYS_read, [system(libc::SYS_inotify_init1, [0]) as usize, room(), 4096])),
    ("eventfd", |_| again(libc::SYS_read, [system(libc::SYS_eventfd2, [0, 0]) as usize, room(), 8])),
    ("signalfd", |_| {
        let file = system(libc::SYS_signalfd4, [NEVER, keep(USR2), 8, 0]) as usize;
        again(libc::SYS_read, [file, room(), 128])
    }),
    ("timerfd", |_| {
        let file = system(libc::SYS_timerfd_create, [1, 0]) as usize;
        let once = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: HOUR };
        system(libc::SYS_timerfd_settime, [file, 0, keep(once), 0]);
        again(libc::SYS_read, [file, room(), 8])
    }),
    ("pause", |_| again(libc::SYS_pause, [])),
    ("sigsuspend", |_| again(libc::SYS_rt_sigsuspend, [keep(USR2), 8])),
];

/// The set of SIGUSR2.
const USR2: u64 = 1 << (libc::SIGUSR2 - 1);

/// One system call; a negative errno for an error.
///
/// Every pointer among the arguments is to memory that is never freed, or to a local of the caller.
pub fn system<const N: usize>(number: libc::c_long, arguments: [usize; N]) -> i64 {
    let mut all = [0_usize; 6];
    for (slot, argument) in all.iter_mut().zip(arguments) {
        *slot = argument;
    }
    let [a, b, c, d, e, f] = all;
    // SAFETY: as said above, the kernel finds live memory behind every pointer that it is given.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 {
        return -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(0));
    }
    result
}

fn again<const N: usize>(number: libc::c_long, arguments: [usize; N]) -> Option<Call> {
    Some(Box::new(move || system(number, arguments)))
}

/// The address of a value that is never freed.
fn keep<T>(value: T) -> usize {
    std::ptr::from_mut(Box::leak(Box::new(value))).addr()
}

fn room() -> usize {
    keep([0_u64; 65_536 / 8])
}

fn epoll() -> usize {
    system(libc::SYS_epoll_create1, [0]) as usize
}

fn pipe() -> (usize, usize) {
    let mut ends = [0_i32; 2];
    assert_eq!(system(libc::SYS_pipe2, [ends.as_mut_ptr().addr(), 0]), 0);
    (ends[0] as usize, ends[1] as usize)
}

fn poll_for(file: usize) -> libc::pollfd {
    libc::pollfd { fd: file as i32, events: libc::POLLIN, revents: 0 }
}

/// One end of a pair of stream sockets; the other stays open.
fn pair() -> usize {
    let mut ends = [0_i32; 2];
    assert_eq!(system(libc::SYS_socketpair, [1, 1, 0, ends.as_mut_ptr().addr()]), 0);
    ends[0] as usize
}

/// A socket, after it got a time limit of an hour.
fn patient(socket: usize, option: libc::c_int) -> usize {
    let hour = libc::timeval { tv_sec: 3600, tv_usec: 0 };
    assert_eq!(system(libc::SYS_setsockopt, [socket, 1, option as usize, keep(hour), 16]), 0);
    socket
}

/// A socket with a time limit whose buffers are full.
fn stuffed() -> usize {
    let socket = patient(pair(), libc::SO_SNDTIMEO);
    let no_wait = libc::MSG_DONTWAIT as usize;
    while system(libc::SYS_sendto, [socket, room(), 4096, no_wait, 0, 0]) > 0 {}
    socket
}

/// A listening socket with the shortest queue, and its address (an abstract one, 110 bytes).
fn listener() -> (usize, usize) {
    let mut address = [0_u8; 110];
    address[0] = 1;
    let name = format!("memfetch-{}-{}", std::process::id(), system(libc::SYS_gettid, []));
    address[3..3 + name.len()].copy_from_slice(name.as_bytes());
    let address = keep(address);
    let socket = system(libc::SYS_socket, [1, 1, 0]) as usize;
    assert_eq!(system(libc::SYS_bind, [socket, address, 110]), 0);
    assert_eq!(system(libc::SYS_listen, [socket, 0]), 0);
    (socket, address)
}

/// Two independent openings of one file.
fn twice_open() -> [usize; 2] {
    let file = system(libc::SYS_memfd_create, [keep([0_u8; 1]), 0]);
    let path = format!("/proc/self/fd/{file}\0").leak().as_ptr().addr();
    [0, 1].map(|_| system(libc::SYS_open, [path, libc::O_RDWR as usize, 0]) as usize)
}

/// Installs a handler that does nothing, without SA_RESTART.
pub fn catch(signal: i32) {
    extern "C" fn nothing(_: i32) {}
    // SAFETY: sigaction is plain data, for which zeros are valid; the handler touches nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(i32) as usize;
        assert_eq!(libc::sigaction(signal, &raw const action, std::ptr::null_mut()), 0);
    }
}

/// Blocks a signal in this thread and those that it will start.
pub fn block(signal: i32) {
    let set = 1_u64 << (signal - 1);
    let how = libc::SIG_BLOCK as usize;
    assert_eq!(system(libc::SYS_rt_sigprocmask, [how, std::ptr::from_ref(&set).addr(), 0, 8]), 0);
}
