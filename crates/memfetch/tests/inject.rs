//! A system call made by a thread of a held process: what comes of it, and that nothing is left of it.

mod stopping;

use std::os::fd::{AsRawFd, OwnedFd};

use memfetch::error::InjectionError;
use memfetch::threads::RegisterSet;
use memfetch_testkit::{Target, signals, userfault};
use stopping::{eventually, states, stop, watchdog};

/// The descriptors of a process.
fn descriptors(pid: i32) -> Vec<String> {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
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

#[test]
fn a_process_that_job_control_has_stopped_is_refused_and_stays_stopped() {
    watchdog();
    let mut target = Target::spawn("blocked", &["epoll_wait"]);
    signals::send(target.pid(), 19);
    eventually("the stop", || states(target.pid()).iter().all(|state| *state == 'T'));
    let mut frozen = stop(target.pid());
    assert!(matches!(frozen.userfaultfd(), Err(InjectionError::JobControl)));
    drop(frozen);
    eventually("the stop", || states(target.pid()).iter().all(|state| *state == 'T'));
    signals::send(target.pid(), 18);
    eventually("its going on", || states(target.pid()).iter().all(|state| *state == 'S'));
    assert!(target.is_alive());
}
