//! Roles that are about what is seldom met: strange mappings, and processes that are kept from things.

use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::memory::{PAGE, advise, fill, map, map_at, resize, temporary_file};
use crate::{Role, argument, fact, serve, unknown};

/// The roles of this module.
pub const ROLES: &[Role] = &[
    ("odd-mappings", odd_mappings),
    ("undumpable", undumpable),
    ("any-tracer", any_tracer),
    ("sandboxed", sandboxed),
    ("without", without),
    ("symbols", symbols),
];

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// What the role `symbols` has under a name: 7, its own address, and the address of `environ`'s strings.
#[unsafe(no_mangle)]
#[used]
static MEMFETCH_MARK: [AtomicU64; 3] = [AtomicU64::new(7), AtomicU64::new(0), AtomicU64::new(0)];

/// `symbols`: the symbol `MEMFETCH_MARK` of the program is three words: 7, the fact `mark`, which is its own address,
/// and the fact `environ`, which is what the C library's variable of that name points at.
fn symbols(_: &[String]) {
    unsafe extern "C" {
        static environ: *const *const libc::c_char;
    }
    let mark = MEMFETCH_MARK.as_ptr() as u64;
    // SAFETY: the C library's variable is set before main, and only this thread runs.
    let strings = unsafe { environ } as u64;
    MEMFETCH_MARK[1].store(mark, Ordering::Relaxed);
    MEMFETCH_MARK[2].store(strings, Ordering::Relaxed);
    fact("mark", format_args!("{mark:#x}"));
    fact("environ", format_args!("{strings:#x}"));
    serve(unknown);
}

/// `odd-mappings FOLDER`: mappings at the addresses of the facts, pages filled with their addresses:
///
/// - `dontdump`: two pages that a core should leave out (MADV_DONTDUMP);
/// - `none`: two pages with bytes in them that may not be read;
/// - `zero`: two pages of `/dev/zero`, mapped privately;
/// - `truncated`: four pages of a file mapped privately, the first two written, whose file was then cut to one;
/// - `deleted`: four pages of a file with no name left, mapped privately, the first one written;
/// - `ring`: the submission ring of an io_uring; `perf`: a ring of perf events. 0 where that is not allowed here.
fn odd_mappings(arguments: &[String]) {
    let folder = PathBuf::from(argument(arguments, 0, "/tmp".to_owned()));
    let told = |name: &str, start: usize| fact(name, format_args!("{start:#x}"));

    let start = map(2 * PAGE, READ_WRITE, PRIVATE);
    fill(start, 2 * PAGE);
    advise(start, 2 * PAGE, libc::MADV_DONTDUMP);
    told("dontdump", start);

    let start = map(2 * PAGE, READ_WRITE, PRIVATE);
    fill(start, 2 * PAGE);
    // SAFETY: the range is this role's own, and nothing refers to it.
    unsafe { libc::mprotect(start as *mut libc::c_void, 2 * PAGE, libc::PROT_NONE) };
    told("none", start);

    let zero = std::fs::File::options().read(true).write(true).open("/dev/zero").expect("/dev/zero is there");
    let start = map_at(0, 2 * PAGE, READ_WRITE, libc::MAP_PRIVATE, zero.as_raw_fd());
    fill(start, 2 * PAGE);
    told("zero", start);

    for (name, written, left) in [("truncated", 2, 1), ("deleted", 1, 4)] {
        let file = temporary_file(&folder, name);
        let content: Vec<u8> = (0..4 * PAGE as u64).step_by(8).flat_map(u64::to_ne_bytes).collect();
        file.write_all_at(&content, 0).expect("the file can be written");
        let start = map_at(0, 4 * PAGE, READ_WRITE, libc::MAP_PRIVATE, file.as_raw_fd());
        fill(start, written * PAGE);
        resize(file.as_raw_fd(), left * PAGE);
        told(name, start);
    }
    told("ring", ring());
    told("perf", perf());
    serve(unknown);
}

/// Maps the submission ring of an io_uring (io_uring_setup(2)).
fn ring() -> usize {
    let mut parameters = [0_u8; 120];
    // SAFETY: `struct io_uring_params` is 120 bytes, and zeros ask for nothing special.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, parameters.as_mut_ptr()) };
    i32::try_from(fd)
        .ok()
        .filter(|fd| *fd >= 0)
        .map_or(0, |fd| map_at(0, PAGE, READ_WRITE, libc::MAP_SHARED, fd))
}

/// Maps a ring of perf events (perf_event_open(2)) of this thread's page faults.
fn perf() -> usize {
    let mut attributes = [0_u8; 64];
    // PERF_TYPE_SOFTWARE, the size of the first version of the structure, PERF_COUNT_SW_PAGE_FAULTS.
    for (at, value) in [(0, 1), (4, 64), (8, 2)] {
        if let Some(byte) = attributes.get_mut(at) {
            *byte = value;
        }
    }
    // SAFETY: the structure is as long as it says.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, attributes.as_ptr(), 0, -1, -1, 0) };
    let ring = |fd| map_at(0, 2 * PAGE, READ_WRITE, libc::MAP_SHARED, fd);
    i32::try_from(fd).ok().filter(|fd| *fd >= 0).map_or(0, ring)
}

/// `undumpable`: a page of addresses in a process that asked not to be looked at (PR_SET_DUMPABLE).
fn undumpable(_: &[String]) {
    let start = map(PAGE, READ_WRITE, PRIVATE);
    fill(start, PAGE);
    // SAFETY: PR_SET_DUMPABLE takes a number.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) };
    fact("start", format_args!("{start:#x}"));
    serve(unknown);
}

/// `any-tracer`: a page of addresses in a process that lets everybody trace it that Yama would not (PR_SET_PTRACER).
fn any_tracer(_: &[String]) {
    let start = map(PAGE, READ_WRITE, PRIVATE);
    fill(start, PAGE);
    // SAFETY: PR_SET_PTRACER takes a number. It fails where there is no Yama.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY) };
    fact("start", format_args!("{start:#x}"));
    serve(unknown);
}

/// `sandboxed`: a page of addresses in a process that a seccomp filter kills by any call that it does not need; the order
/// `escape` has it make one.
fn sandboxed(_: &[String]) {
    let start = map(PAGE, READ_WRITE, PRIVATE);
    fill(start, PAGE);
    fact("start", format_args!("{start:#x}"));
    let needed = [
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_exit_group,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_brk,
        libc::SYS_futex,
        libc::SYS_sigaltstack,
        libc::SYS_rt_sigreturn,
        libc::SYS_restart_syscall,
    ];
    let mut program = vec![load(0)];
    for (index, call) in (0_u8..).zip(needed) {
        let behind_the_verdict = u8::try_from(needed.len()).unwrap_or(u8::MAX) - index;
        program.push(equal(u32::try_from(call).unwrap_or(0), behind_the_verdict));
    }
    program.push(verdict(libc::SECCOMP_RET_KILL_PROCESS));
    program.push(verdict(libc::SECCOMP_RET_ALLOW));
    confine(&program);
    serve(|order| match order {
        // SAFETY: getppid takes and touches nothing.
        "escape" => unsafe { libc::getppid() }.to_string(),
        _ => unknown(order),
    });
}

/// `without WHAT PROGRAM ARGUMENT...`: becomes that program where files without names (`tmpfile`) or direct I/O
/// (`direct`) are not to be had, as on some file systems.
fn without(arguments: &[String]) {
    let (what, command) = arguments.split_first().expect("a word");
    let (call, field, flag, answer) = match what.as_str() {
        // The flag that O_TMPFILE has beside O_DIRECTORY.
        "tmpfile" => (libc::SYS_openat, 2, 0o20_000_000, libc::EOPNOTSUPP),
        "direct" => (libc::SYS_fcntl, 2, libc::O_DIRECT, libc::EINVAL),
        _ => panic!("without {what}?"),
    };
    confine(&[
        load(0),
        equal(u32::try_from(call).unwrap_or(0), 1),
        verdict(libc::SECCOMP_RET_ALLOW),
        load(16 + 8 * field),
        // BPF_JMP | BPF_JSET | BPF_K
        libc::sock_filter { code: 0x45, jt: 1, jf: 0, k: flag.cast_unsigned() },
        verdict(libc::SECCOMP_RET_ALLOW),
        verdict(libc::SECCOMP_RET_ERRNO | answer.cast_unsigned()),
    ]);
    let (program, rest) = command.split_first().expect("a program");
    panic!("exec: {}", std::process::Command::new(program).args(rest).exec());
}

/// Loads 32 bits of `struct seccomp_data` (BPF_LD | BPF_W | BPF_ABS).
const fn load(offset: u32) -> libc::sock_filter {
    libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: offset }
}

/// Skips so many instructions where the loaded number is this one (BPF_JMP | BPF_JEQ | BPF_K).
const fn equal(number: u32, skip: u8) -> libc::sock_filter {
    libc::sock_filter { code: 0x15, jt: skip, jf: 0, k: number }
}

/// Ends the filter (BPF_RET | BPF_K).
const fn verdict(value: u32) -> libc::sock_filter {
    libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: value }
}

/// Puts a seccomp filter on this process.
fn confine(program: &[libc::sock_filter]) {
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).expect("a short program"),
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the filter is read during the call only, and is as long as it says.
    let results = unsafe {
        [
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter, 0, 0),
        ]
    };
    assert_eq!(results, [0, 0], "seccomp: {}", std::io::Error::last_os_error());
}
