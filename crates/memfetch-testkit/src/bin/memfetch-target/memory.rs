//! Roles that are about what is mapped.
//!
//! Where the bytes are known to the test, every 8-byte word is its own address ([`fill`]), or for a shared object
//! mapped at several places its offset plus a tag.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Role, argument, fact, serve, unknown};

/// The roles of this module.
pub const ROLES: &[Role] = &[
    ("private", private),
    ("holes", holes),
    ("reserved", reserved),
    ("shared", shared),
    ("shared-untouched", shared_untouched),
    ("cow", cow),
    ("cow-huge", cow_huge),
    ("swapped", swapped),
    ("cold-file", cold_file),
    ("written-file", written_file),
    ("many-mappings", many_mappings),
    ("many-memfds", many_memfds),
    ("swapped-shared", swapped_shared),
    ("uffd-missing", uffd_missing),
    ("churn", churn),
    ("names", names),
    ("exec", exec),
    ("leader-exits", leader_exits),
];

pub const PAGE: usize = 4096;
pub const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
pub const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// `private MIB`: so much private anonymous memory, every 8-byte word of it its own address. `unmap` takes it away,
/// `discard` (MADV_DONTNEED) makes it zero again.
fn private(arguments: &[String]) {
    let bytes = argument(arguments, 0, 4_usize) << 20;
    let start = map(bytes, READ_WRITE, PRIVATE);
    fill(start, bytes);
    fact("start", format_args!("{start:#x}"));
    fact("bytes", bytes);
    serve(|order| {
        let memory = start as *mut libc::c_void;
        let done = match order {
            // SAFETY: the mapping is this role's own, and nothing refers to it but by its number.
            "unmap" => unsafe { libc::munmap(memory, bytes) },
            // SAFETY: as above.
            "discard" => unsafe { libc::madvise(memory, bytes, libc::MADV_DONTNEED) },
            _ => return unknown(order),
        };
        done.to_string()
    });
}

/// `holes FOLDER`: 16 pages in a row with nothing mapped before and behind, of each sort one or two:
/// filled pages 0, 1, 3, 5, 6, 13, 15; unmapped 2, 8, 14; `PROT_NONE` with data 4; never touched 7; a private file
/// page 9, the file's last page (100 bytes) 10, and behind its end 11; secret memory or else unmapped 12.
/// Page 13 may be a guard page: the fact `guard` says so.
fn holes(arguments: &[String]) {
    let folder = PathBuf::from(argument(arguments, 0, "/tmp".to_owned()));
    let around = map(18 * PAGE, libc::PROT_NONE, PRIVATE);
    let start = around + PAGE;
    unmap(around, 18 * PAGE);
    for page in [0, 1, 3, 4, 5, 6, 13, 15] {
        map_at(start + page * PAGE, PAGE, READ_WRITE, PRIVATE, -1);
        fill(start + page * PAGE, PAGE);
    }
    protect(start + 4 * PAGE, PAGE, libc::PROT_NONE);
    map_at(start + 7 * PAGE, PAGE, READ_WRITE, PRIVATE, -1);
    let file = temporary_file(&folder, "holes");
    let mut bytes = vec![0; PAGE + 100];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::try_from(index % 251).unwrap_or(0);
    }
    file.write_all_at(&bytes, 0).expect("the file can be written");
    map_at(start + 9 * PAGE, 3 * PAGE, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd());
    // SAFETY: a system call that takes a number.
    let secret = unsafe { libc::syscall(libc::SYS_memfd_secret, 0) };
    if let Ok(secret @ 0..) = i32::try_from(secret) {
        // SAFETY: the descriptor is new and owned by nobody else.
        let secret = unsafe { OwnedFd::from_raw_fd(secret) };
        resize(secret.as_raw_fd(), PAGE);
        map_at(start + 12 * PAGE, PAGE, READ_WRITE, libc::MAP_SHARED, secret.as_raw_fd());
        fill(start + 12 * PAGE, PAGE);
        fact("secret", 1);
    } else {
        fact("secret", 0);
    }
    const MADV_GUARD_INSTALL: i32 = 102;
    // SAFETY: the page is this role's own, and nothing refers to it.
    let guard = unsafe { libc::madvise((start + 13 * PAGE) as *mut libc::c_void, PAGE, MADV_GUARD_INSTALL) };
    fact("guard", i32::from(guard == 0));
    fact("start", format_args!("{start:#x}"));
    serve(unknown);
}

/// `reserved GIB [MIB [STRIDE]]`: so much private memory reserved, its upper half `PROT_NONE`. So many mebibytes
/// from its start on are filled, and a page every STRIDE gibibytes of the lower half.
fn reserved(arguments: &[String]) {
    let bytes = argument(arguments, 0, 64_usize) << 30;
    let start = map(bytes, libc::PROT_NONE, PRIVATE | libc::MAP_NORESERVE);
    protect(start, bytes / 2, READ_WRITE);
    advise(start, bytes, libc::MADV_NOHUGEPAGE);
    fill(start, argument(arguments, 1, 0_usize) << 20);
    let stride = argument(arguments, 2, 0_usize) << 30;
    if stride > 0 {
        for at in (start..start + bytes / 2).step_by(stride) {
            fill(at, PAGE);
        }
    }
    fact("start", format_args!("{start:#x}"));
    fact("bytes", bytes);
    serve(unknown);
}

/// `shared MIB SORT`: a child of a process that filled shared memory, none of which the child has in its page
/// table; its second half is a hole. `SORT` is `anonymous`, `memfd`, `sysv` or a folder for a file. The child serves.
fn shared(arguments: &[String]) {
    let bytes = argument(arguments, 0, 8_usize) << 20;
    let sort = argument(arguments, 1, "anonymous".to_owned());
    let start = match sort.as_str() {
        "anonymous" => map(bytes, READ_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS),
        "memfd" => {
            let fd = memfd("a name");
            resize(fd.as_raw_fd(), bytes);
            let start = map_at(0, bytes, READ_WRITE, libc::MAP_SHARED, fd.as_raw_fd());
            // It stays open: that is the way in for an ordinary user.
            std::mem::forget(fd);
            start
        }
        "sysv" => system_v(bytes),
        folder => {
            let file = temporary_file(Path::new(folder), "shared");
            resize(file.as_raw_fd(), bytes);
            map_at(0, bytes, READ_WRITE, libc::MAP_SHARED, file.as_raw_fd())
        }
    };
    fill(start, bytes / 2);
    fact("start", format_args!("{start:#x}"));
    fact("bytes", bytes);
    serve_in_child(|_| ());
}

/// `shared-untouched MIB SORT`: so much shared memory that nobody has touched.
fn shared_untouched(arguments: &[String]) {
    let bytes = argument(arguments, 0, 1024_usize) << 20;
    let start = match argument(arguments, 1, "anonymous".to_owned()).as_str() {
        "memfd" => {
            let fd = memfd("untouched");
            resize(fd.as_raw_fd(), bytes);
            map_at(0, bytes, READ_WRITE, libc::MAP_SHARED, fd.as_raw_fd())
        }
        _ => map(bytes, READ_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS),
    };
    fact("start", format_args!("{start:#x}"));
    fact("bytes", bytes);
    serve(unknown);
}

/// `cow MIB`: private memory in small pages that parent and child share since a fork. The parent serves.
fn cow(arguments: &[String]) {
    share_with_child(argument(arguments, 0, 64_usize) << 20, libc::MADV_NOHUGEPAGE, |_, _| ());
}

/// `cow-huge MIB`: the same in huge pages, of each of which the child has unmapped the first half.
fn cow_huge(arguments: &[String]) {
    share_with_child(argument(arguments, 0, 64_usize) << 20, libc::MADV_HUGEPAGE, |start, bytes| {
        for at in (start..start + bytes).step_by(2 << 20) {
            unmap(at, 1 << 20);
        }
    });
}

fn share_with_child(bytes: usize, advice: i32, in_child: fn(usize, usize)) -> ! {
    let start = map(bytes + (2 << 20), READ_WRITE, PRIVATE).next_multiple_of(2 << 20);
    advise(start, bytes, advice);
    fill(start, bytes);
    fact("start", format_args!("{start:#x}"));
    fact("bytes", bytes);
    let (mut done, mut ready) = std::io::pipe().expect("a pipe");
    let child = fork();
    if child == 0 {
        die_with_parent();
        in_child(start, bytes);
        std::io::Write::write_all(&mut ready, b"x").expect("the parent listens");
        loop {
            // SAFETY: waits for a signal.
            unsafe { libc::pause() };
        }
    }
    std::io::Read::read_exact(&mut done, &mut [0]).expect("the child answers");
    fact("child", child);
    serve(unknown);
}

/// `swapped MIB`: so much private memory, paged out. The fact `swapped` is how many kilobytes went.
fn swapped(arguments: &[String]) {
    let bytes = argument(arguments, 0, 64_usize) << 20;
    let start = map(bytes, READ_WRITE, PRIVATE);
    advise(start, bytes, libc::MADV_NOHUGEPAGE);
    fill(start, bytes);
    advise(start, bytes, libc::MADV_PAGEOUT);
    fact("start", format_args!("{start:#x}"));
    fact("bytes", bytes);
    serve(unknown);
}

/// `cold-file MIB FOLDER`: a file mapped privately and never touched, none of it in the page cache; every 8-byte
/// word is its offset.
fn cold_file(arguments: &[String]) {
    let bytes = argument(arguments, 0, 16_usize) << 20;
    let folder = PathBuf::from(argument(arguments, 1, "/tmp".to_owned()));
    let file = temporary_file(&folder, "cold");
    for at in (0..bytes as u64).step_by(1 << 20) {
        let content: Vec<u8> = (at..at + (1 << 20)).step_by(8).flat_map(u64::to_ne_bytes).collect();
        file.write_all_at(&content, at).expect("the file can be written");
    }
    file.sync_all().expect("the file reaches the disk");
    // SAFETY: the descriptor is open; the advice changes no byte.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    let start = map_at(0, bytes, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd());
    std::mem::forget(file);
    fact("start", format_args!("{start:#x}"));
    fact("bytes", bytes);
    serve(|order| match order {
        "cached" => cached_bytes(start, bytes).to_string(),
        other => unknown(other),
    });
}

/// `written-file FOLDER`: 64 pages of a file of 8-byte offsets, mapped privately: page 0 read (which may enter
/// its neighbours as well), page 1 written with its addresses, the upper half untouched; then the same shared and
/// writable: page 0 read, 42 written to the start of page 2.
fn written_file(arguments: &[String]) {
    let folder = PathBuf::from(argument(arguments, 0, "/tmp".to_owned()));
    let file = temporary_file(&folder, "written");
    let content: Vec<u8> = (0..64 * PAGE as u64).step_by(8).flat_map(u64::to_ne_bytes).collect();
    file.write_all_at(&content, 0).expect("the file can be written");
    for (name, flags) in [("private", libc::MAP_PRIVATE), ("shared", libc::MAP_SHARED)] {
        let start = map_at(0, 64 * PAGE, READ_WRITE, flags, file.as_raw_fd());
        // SAFETY: the page is mapped and readable.
        unsafe { std::ptr::read_volatile(start as *const u64) };
        if name == "private" {
            fill(start + PAGE, PAGE);
        } else {
            // SAFETY: the page is mapped writable, and nothing else refers to it.
            unsafe { std::ptr::write_volatile((start + 2 * PAGE) as *mut u64, 42) };
        }
        fact(name, format_args!("{start:#x}"));
    }
    serve(unknown);
}

/// `many-mappings N`: so many mappings of one page, of two kinds of permission in turn so that none merge.
fn many_mappings(arguments: &[String]) {
    let count = argument(arguments, 0, 1000_usize);
    let start = map(count * PAGE, READ_WRITE, PRIVATE);
    // A huge page would fill the pages between as well.
    advise(start, count * PAGE, libc::MADV_NOHUGEPAGE);
    for page in (0..count).step_by(2) {
        fill(start + page * PAGE, PAGE);
        protect(start + page * PAGE, PAGE, libc::PROT_READ);
    }
    fact("start", format_args!("{start:#x}"));
    fact("count", count);
    serve(unknown);
}

/// `many-memfds COUNT`: so many memfds of a page each, open and mapped, every 8-byte word of them its own address.
fn many_memfds(arguments: &[String]) {
    let count = argument(arguments, 0, 1000_usize);
    // SAFETY: `limit` is the structure that both calls take.
    unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
    }
    let start = map(count * PAGE, libc::PROT_NONE, PRIVATE);
    unmap(start, count * PAGE);
    for at in (start..start + count * PAGE).step_by(PAGE) {
        let fd = memfd("one of many");
        resize(fd.as_raw_fd(), PAGE);
        map_at(at, PAGE, READ_WRITE, libc::MAP_SHARED, fd.as_raw_fd());
        fill(at, PAGE);
        std::mem::forget(fd);
    }
    fact("start", format_args!("{start:#x}"));
    fact("bytes", count * PAGE);
    serve(unknown);
}

/// `swapped-shared MIB`: a memfd, open and mapped, paged out; every 8-byte word of it is its own address.
fn swapped_shared(arguments: &[String]) {
    let bytes = argument(arguments, 0, 48_usize) << 20;
    let fd = memfd("swapped");
    resize(fd.as_raw_fd(), bytes);
    let start = map_at(0, bytes, READ_WRITE, libc::MAP_SHARED, fd.as_raw_fd());
    fill(start, bytes);
    advise(start, bytes, libc::MADV_PAGEOUT);
    fact("start", format_args!("{start:#x}"));
    fact("bytes", bytes);
    std::mem::forget(fd);
    serve(unknown);
}

/// `uffd-missing`: two filled pages and one between them whose fault is never answered, at `start`. The fact
/// `registered` is 0 where that is not allowed here.
fn uffd_missing(_: &[String]) {
    let start = map(3 * PAGE, READ_WRITE, PRIVATE);
    advise(start, 3 * PAGE, libc::MADV_NOHUGEPAGE);
    fill(start, PAGE);
    fill(start + 2 * PAGE, PAGE);
    let open = || -> std::io::Result<OwnedFd> {
        // SAFETY: a system call that takes numbers and returns a new descriptor.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(std::io::Error::last_os_error)?;
        // SAFETY: the descriptor is new and owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut api = [0xaa_u64, 0, 0];
        let mut register = [start as u64, 3 * PAGE as u64, 1, 0];
        // SAFETY: UFFDIO_API and UFFDIO_REGISTER with structures of their sizes, 24 and 32 bytes.
        let results = unsafe {
            [
                libc::ioctl(fd.as_raw_fd(), 0xc018_aa3f, api.as_mut_ptr()),
                libc::ioctl(fd.as_raw_fd(), 0xc020_aa00, register.as_mut_ptr()),
            ]
        };
        if results == [0, 0] { Ok(fd) } else { Err(std::io::Error::last_os_error()) }
    };
    let uffd = open();
    fact("registered", i32::from(uffd.is_ok()));
    fact("start", format_args!("{start:#x}"));
    std::mem::forget(uffd);
    serve(unknown);
}

/// `churn MIB`: filled memory beside a thread that maps, touches and unmaps in a loop. The order `count` answers
/// how many rounds it has done, `worst` how many microseconds the longest took since the last such order.
fn churn(arguments: &[String]) {
    static ROUNDS: AtomicU64 = AtomicU64::new(0);
    static WORST: AtomicU64 = AtomicU64::new(0);
    let bytes = argument(arguments, 0, 64_usize) << 20;
    let start = filled(bytes);
    std::thread::spawn(|| {
        loop {
            let started = std::time::Instant::now();
            churn_once();
            ROUNDS.fetch_add(1, Ordering::Relaxed);
            let took = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
            WORST.fetch_max(took, Ordering::Relaxed);
        }
    });
    fact("start", format_args!("{start:#x}"));
    fact("bytes", bytes);
    serve(|order| match order {
        "count" => ROUNDS.load(Ordering::Relaxed).to_string(),
        "worst" => WORST.swap(0, Ordering::Relaxed).to_string(),
        other => unknown(other),
    });
}

/// One round of it.
pub fn churn_once() {
    let at = map(64 * PAGE, READ_WRITE, PRIVATE);
    fill(at, 8 * PAGE);
    unmap(at, 64 * PAGE);
}

/// Maps and fills private memory, and returns its address.
pub fn filled(bytes: usize) -> usize {
    let start = map(bytes, READ_WRITE, PRIVATE);
    fill(start, bytes);
    start
}

/// `names FOLDER`: one-page mappings of files in a folder with a space, a newline and ` (deleted)` in their names;
/// the process' own name is `) R 1 (`. The facts are their addresses.
fn names(arguments: &[String]) {
    let folder = PathBuf::from(argument(arguments, 0, "/tmp".to_owned()));
    for (key, name) in
        [("space", "a b"), ("newline", "a\nb\\c"), ("deleted", "a (deleted)"), ("gone", "gone")]
    {
        let path = folder.join(name);
        let file = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let file = file.expect("the file can be made");
        file.write_all_at(key.as_bytes(), 0).expect("the file can be written");
        let start = map_at(0, PAGE, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd());
        if key == "gone" {
            std::fs::remove_file(&path).expect("the file can be removed");
        }
        fact(key, format_args!("{start:#x}"));
    }
    // SAFETY: PR_SET_NAME reads a string that ends in a zero byte.
    unsafe { libc::prctl(libc::PR_SET_NAME, c") R 1 (".as_ptr()) };
    serve(unknown);
}

/// `exec MIB`: a page of addresses, or so much; the order `exec` makes the process call exec: it goes on in the role `private`,
/// and its facts and `ready` follow.
fn exec(arguments: &[String]) {
    let bytes = (argument(arguments, 0, 0_usize) << 20).max(PAGE);
    let start = map(bytes, READ_WRITE, PRIVATE);
    fill(start, bytes);
    fact("start", format_args!("{start:#x}"));
    serve(|order| match order {
        "exec" => {
            let own = std::env::current_exe().expect("the program has a path");
            let failed = std::os::unix::process::CommandExt::exec(
                std::process::Command::new(own).args(["private", "1"]),
            );
            format!("exec: {failed}")
        }
        other => unknown(other),
    });
}

/// `leader-exits`: a page of addresses; the first thread exits, and another one serves.
fn leader_exits(_: &[String]) {
    let start = map(PAGE, READ_WRITE, PRIVATE);
    fill(start, PAGE);
    fact("start", format_args!("{start:#x}"));
    std::thread::spawn(|| {
        let stat = format!("/proc/self/task/{}/stat", std::process::id());
        while !std::fs::read_to_string(&stat).is_ok_and(|text| text.contains(") Z ")) {
            std::thread::yield_now();
        }
        serve(unknown)
    });
    // SAFETY: ends this thread only; its stack is never unmapped while the process lives.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
}

/// Forks; the child runs `first`, serves, and ends with its parent, the parent waits for it. The fact `child` is its number.
fn serve_in_child(first: fn(usize)) -> ! {
    let child = fork();
    if child == 0 {
        die_with_parent();
        first(0);
        fact("child", std::process::id());
        serve(unknown);
    }
    // SAFETY: waits for the child that was just made.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    std::process::exit(0);
}

fn fork() -> libc::pid_t {
    std::io::Write::flush(&mut std::io::stdout()).expect("the test listens");
    // SAFETY: the roles that fork run a single thread.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork: {}", std::io::Error::last_os_error());
    child
}

fn die_with_parent() {
    // SAFETY: PR_SET_PDEATHSIG takes a number.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

fn system_v(bytes: usize) -> usize {
    // SAFETY: a new segment, attached at a place of the kernel's choice, and marked to go with its last user.
    unsafe {
        let id = libc::shmget(libc::IPC_PRIVATE, bytes, 0o600 | libc::IPC_CREAT);
        assert!(id >= 0, "shmget: {}", std::io::Error::last_os_error());
        let start = libc::shmat(id, std::ptr::null(), 0);
        libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut());
        assert!(start as isize != -1, "shmat: {}", std::io::Error::last_os_error());
        start as usize
    }
}

pub fn memfd(name: &str) -> OwnedFd {
    let name = CString::new(name).expect("no zero byte");
    // SAFETY: the name ends in a zero byte; the descriptor is new and owned by nobody else.
    unsafe {
        let fd = libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    }
}

/// A file with no name left, in `folder`.
pub fn temporary_file(folder: &Path, name: &str) -> std::fs::File {
    let path = folder.join(format!("memfetch-target-{name}-{}", std::process::id()));
    let file = std::fs::File::options().read(true).write(true).create_new(true).open(&path);
    let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let c_path = CString::new(path.as_os_str().as_bytes()).expect("no zero byte");
    // SAFETY: the path ends in a zero byte.
    unsafe { libc::unlink(c_path.as_ptr()) };
    file
}

fn cached_bytes(start: usize, bytes: usize) -> usize {
    let mut pages = vec![0_u8; bytes / PAGE];
    // SAFETY: the vector has a byte for each page of the mapping.
    let result = unsafe { libc::mincore(start as *mut libc::c_void, bytes, pages.as_mut_ptr()) };
    assert!(result == 0, "mincore: {}", std::io::Error::last_os_error());
    pages.iter().filter(|&&page| page & 1 != 0).count() * PAGE
}

/// Sets the length of a file.
pub fn resize(fd: i32, bytes: usize) {
    // SAFETY: ftruncate takes numbers.
    let result = unsafe { libc::ftruncate(fd, i64::try_from(bytes).expect("a size")) };
    assert!(result == 0, "ftruncate: {}", std::io::Error::last_os_error());
}

pub fn protect(start: usize, bytes: usize, protection: i32) {
    // SAFETY: the range is a role's own mapping, and nothing refers to it.
    let result = unsafe { libc::mprotect(start as *mut libc::c_void, bytes, protection) };
    assert!(result == 0, "mprotect: {}", std::io::Error::last_os_error());
}

/// Gives advice on a role's own mapping that loses no bytes.
pub fn advise(start: usize, bytes: usize, advice: i32) {
    // SAFETY: the advice that roles give loses no bytes.
    unsafe { libc::madvise(start as *mut libc::c_void, bytes, advice) };
}

pub fn unmap(start: usize, bytes: usize) {
    // SAFETY: the range is a role's own mapping, and nothing refers to it.
    let result = unsafe { libc::munmap(start as *mut libc::c_void, bytes) };
    assert!(result == 0, "munmap: {}", std::io::Error::last_os_error());
}

/// Maps at an address where nothing is mapped, or anywhere for 0, and returns the address.
pub fn map_at(at: usize, bytes: usize, protection: i32, flags: i32, fd: i32) -> usize {
    let fixed = if at == 0 { 0 } else { libc::MAP_FIXED_NOREPLACE };
    // SAFETY: MAP_FIXED_NOREPLACE fails where something is mapped.
    let got = unsafe { libc::mmap(at as *mut libc::c_void, bytes, protection, flags | fixed, fd, 0) };
    assert!(got != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
    got as usize
}

/// Maps memory with no file behind it and returns its address.
pub fn map(bytes: usize, protection: i32, flags: i32) -> usize {
    map_at(0, bytes, protection, flags, -1)
}

/// Makes every 8-byte word of a mapping its own address, so that a test knows what must be read anywhere.
pub fn fill(start: usize, bytes: usize) {
    for at in (start..start + bytes).step_by(8) {
        // SAFETY: the caller mapped `start..start + bytes` writable, and nothing else refers to it.
        unsafe { std::ptr::write_volatile(at as *mut usize, at) };
    }
}
