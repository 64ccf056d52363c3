//! A system call made by a thread of a held process: what comes of it, and that nothing is left of it.

mod stopping;

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use memfetch::error::InjectionError;
use memfetch::live::stop::{FreezeOptions, freeze};
use memfetch::threads::RegisterSet;
use memfetch_testkit::{Target, signals, userfault};
use stopping::{counter, eventually, states, stop, watchdog};

/// The descriptors of a process.
fn descriptors(pid: i32) -> Vec<String> {
    descriptors_of(pid, pid)
}

fn descriptors_of(pid: i32, tid: i32) -> Vec<String> {
    let links = std::fs::read_dir(format!("/proc/{pid}/task/{tid}/fd")).unwrap().flatten();
    let mut links: Vec<String> = links
        .filter_map(|entry| Some(format!("{:?} {:?}", entry.file_name(), entry.path().read_link().ok()?)))
        .collect();
    links.sort();
    links
}

/// The registers of all threads of a held process.
fn registers(pid: i32) -> Vec<(i32, Vec<RegisterSet>)> {
    let frozen = stop(pid);
    let mut threads: Vec<_> = frozen
        .threads()
        .iter()
        .map(|thread| match &thread.registers {
            memfetch::threads::Registers::Complete(sets) => (thread.tid, sets.clone()),
            other => panic!("{other:?}"),
        })
        .collect();
    threads.sort_by_key(|(tid, _)| *tid);
    threads
}

fn is_userfaultfd(file: &OwnedFd) -> bool {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    link.to_str() == Some("anon_inode:[userfaultfd]")
}

#[test]
fn it_is_a_userfaultfd_of_the_target_and_nothing_is_left_there() {
    watchdog();
    let mut target = Target::spawn("blocked", &["epoll_wait", "semop", "futex", "read-pipe"]);
    let before = (descriptors(target.pid()), registers(target.pid()));
    for _ in 0..50 {
        let mut frozen = stop(target.pid());
        let file = frozen.userfaultfd().unwrap();
        assert!(states(target.pid()).iter().all(|state| *state == 't'));
        let report = frozen.resume();
        assert_eq!((report.partial, report.unsettled), (0, 0), "{report:?}");
        assert!(is_userfaultfd(&file));
        assert!(userfault::greet(&file).is_ok());
    }
    assert_eq!((descriptors(target.pid()), registers(target.pid())), before);
    assert_eq!(target.ask("returns"), "0");
    eventually("sleep", || states(target.pid()).iter().all(|state| *state == 'S'));
}

/// Waits until all threads are in their calls again.
fn asleep(target: &Target) {
    eventually("sleep", || states(target.pid()).iter().all(|state| *state == 'S'));
}

/// Fetches a userfaultfd once.
fn inject(target: &Target) {
    let mut frozen = stop(target.pid());
    let file = frozen.userfaultfd().unwrap();
    assert!(is_userfaultfd(&file) && userfault::greet(&file).is_ok());
    let report = frozen.resume();
    assert_eq!((report.unsettled, report.ended), (0, false), "{report:?}");
    assert!(descriptors(target.pid()).iter().all(|link| !link.contains("userfaultfd")));
}

/// All kinds of calls that block but those that only the kernel can restart; and no thread notices anything.
#[test]
fn no_call_returns_because_of_it() {
    watchdog();
    let mut target = Target::spawn("blocked", &[]);
    for _ in 0..100 {
        inject(&target);
    }
    assert_eq!(target.ask("returns"), "0");
    // Alone, each is the one that is chosen, before the thread that takes orders.
    for kind in [
        "epoll_wait",
        "epoll_pwait",
        "semop",
        "sigtimedwait",
        "recv-rcvtimeo",
        "ppoll",
        "select",
        "futex",
        "pause",
        "sigsuspend",
        "accept",
        "write-pipe",
        "wait4",
    ] {
        let mut target = Target::spawn("blocked", &[kind]);
        let before = registers(target.pid());
        for _ in 0..10 {
            inject(&target);
        }
        assert_eq!(registers(target.pid()), before, "{kind}");
        assert_eq!(target.ask("returns"), "0", "{kind}");
        // It can still be interrupted, once for each signal.
        if kind != "wait4" {
            let tid = i32::try_from(target.number(&format!("tid.{kind}"))).unwrap();
            inject(&target);
            asleep(&target);
            signals::send_to_thread(target.pid(), tid, 10);
            eventually("the return", || target.ask("returns") == format!("1 {kind}:-4"));
        }
    }
}

#[test]
fn all_registers_are_as_before() {
    watchdog();
    let mut target = Target::spawn("registers", &["read", "epoll_wait"]);
    for _ in 0..50 {
        inject(&target);
        assert_eq!(target.ask("wake"), "ok");
    }
}

/// What lies below the stack pointers is nobody's, and nevertheless put back.
#[test]
fn memory_is_as_before() {
    watchdog();
    let target = Target::spawn("blocked", &["epoll_wait", "read-pipe"]);
    let stacks = || {
        let memory = std::fs::File::open(format!("/proc/{}/mem", target.pid())).unwrap();
        let threads = std::fs::read_dir(format!("/proc/{}/task", target.pid())).unwrap().flatten();
        let read = |thread: std::fs::DirEntry| {
            let call = std::fs::read_to_string(thread.path().join("syscall")).unwrap();
            let top = call.split_whitespace().rev().nth(1).unwrap().strip_prefix("0x").unwrap().to_owned();
            let mut bytes = vec![0; 16 << 10];
            let start = u64::from_str_radix(&top, 16).unwrap() - bytes.len() as u64;
            memory.read_exact_at(&mut bytes, start).unwrap();
            (start, bytes)
        };
        threads.map(read).collect::<Vec<_>>()
    };
    asleep(&target);
    let before = stacks();
    for _ in 0..10 {
        inject(&target);
    }
    asleep(&target);
    assert!(stacks() == before);
}

/// A thread whose stack has the pages already is preferred to one that would have to get them.
#[test]
fn no_page_is_added_where_a_thread_has_them() {
    watchdog();
    let mut target = Target::spawn("threads", &["3"]);
    asleep(&target);
    let rollup = || {
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", target.pid())).unwrap();
        let lines = text.lines().filter(|line| line.starts_with("Rss:") || line.starts_with("Anonymous:"));
        (lines.map(str::to_owned).collect::<Vec<_>>(), target.status("VmPTE"))
    };
    let before = rollup();
    for _ in 0..10 {
        inject(&target);
    }
    assert_eq!(rollup(), before);
    assert_eq!(target.ask("returns"), "0");
}

#[test]
fn a_process_whose_first_thread_has_exited() {
    watchdog();
    let target = Target::spawn("zombie-leader", &[]);
    for _ in 0..20 {
        let mut frozen = stop(target.pid());
        let file = frozen.userfaultfd().unwrap();
        let tids: Vec<_> = frozen.threads().iter().map(|thread| thread.tid).collect();
        drop(frozen);
        assert!(userfault::greet(&file).is_ok());
        assert!(descriptors_of(target.pid(), tids[0]).iter().all(|link| !link.contains("userfaultfd")));
        let before = counter(&target, tids[0], 0);
        eventually("counting", || counter(&target, tids[0], 0) > before);
    }
}

#[test]
fn a_thread_that_waits_for_a_vfork_child_is_left_alone() {
    watchdog();
    let target = Target::spawn("vfork-parent", &["1000"]);
    let mut frozen = stop(target.pid());
    let file = frozen.userfaultfd().unwrap();
    assert!(userfault::greet(&file).is_ok());
    assert_eq!(frozen.resume().partial, 1);
    eventually("the end of vfork", || counter(&target, target.pid(), 1) == 1);
}

#[test]
fn threads_that_compute_are_left_alone() {
    watchdog();
    let target = Target::spawn("spin", &["8"]);
    for _ in 0..20 {
        inject(&target);
    }
    let before = [0, 7].map(|index| counter(&target, target.pid(), index));
    eventually("counting", || [0, 7].map(|index| counter(&target, target.pid(), index)) > before);
}

#[test]
fn among_two_thousand_threads() {
    watchdog();
    let mut target = Target::spawn("threads", &["2000"]);
    for _ in 0..5 {
        inject(&target);
    }
    assert_eq!(target.ask("returns"), "0");
}

/// Where a step takes too long it is given up, and the thread goes back by itself.
#[test]
fn what_does_not_come_back_in_time_comes_back_later() {
    watchdog();
    let limit = Duration::from_millis(100);
    let mut target = Target::spawn("registers", &["read"]);
    let pid = target.pid();
    let (mut late, mut left) = (0, 0);
    for slow in (0..3).flat_map(|_| 0..20) {
        let mut frozen = freeze(pid, &FreezeOptions { deadline: limit, ..FreezeOptions::default() }).unwrap();
        let mut step = 0;
        let result = frozen.userfaultfd_observed(move |_| {
            if step == slow {
                std::thread::sleep(limit + Duration::from_millis(10));
            }
            step += 1;
        });
        match result {
            Err(InjectionError::TimedOut { .. }) => late += 1,
            Ok(_) => {}
            Err(error) => panic!("step {slow}: {error}"),
        }
        assert!(!frozen.resume().ended);
        assert_eq!(target.ask("wake"), "ok", "step {slow}");
        asleep(&target);
        let now = descriptors(pid).iter().filter(|link| link.contains("userfaultfd")).count();
        if now != left {
            eprintln!("step {slow}: a descriptor is left");
            left = now;
        }
    }
    eprintln!("{late} given up");
    assert!(late > 0);
}

#[test]
fn the_time_that_it_takes() {
    watchdog();
    let target = Target::spawn("blocked", &["read-pipe"]);
    let mut times: Vec<Duration> = (0..100)
        .map(|_| {
            let mut frozen = stop(target.pid());
            let began = Instant::now();
            let file = frozen.userfaultfd();
            let took = began.elapsed();
            assert!(file.is_ok());
            took
        })
        .collect();
    times.sort();
    eprintln!("a userfaultfd: median {:?}, longest {:?}", times[50], times[99]);
}
