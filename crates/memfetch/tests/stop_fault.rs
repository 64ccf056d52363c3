//! Waiting for a fault: which signal counts, whose it is, what becomes of it, and that nothing else is disturbed.

mod stopping;

use std::io::Write;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use memfetch::error::StopError;
use memfetch::live::stop::{FreezeOptions, Frozen, freeze};
use memfetch::{Error, Image, Process, Snapshot, Threads};
use memfetch_testkit::target::status_of;
use memfetch_testkit::{Target, signals};
use stopping::{eventually, states, watchdog};

const SEGV: i32 = 11;

/// Waits for a fault on a thread of its own, and returns when all threads of the target are traced.
fn watch(pid: i32) -> JoinHandle<Result<Frozen, StopError>> {
    let options = FreezeOptions { at_fault: true, ..FreezeOptions::default() };
    let waiting = std::thread::spawn(move || freeze(pid, &options));
    eventually("the watch", || is_traced(pid));
    waiting
}

fn is_traced(pid: i32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let status = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("status")).ok();
    tasks.filter_map(status).all(|status| !status.contains("TracerPid:\t0\n"))
}

fn number(info: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(info[at..at + 8].try_into().unwrap())
}

#[test]
fn the_thread_that_meets_a_fault_stands_first_and_takes_its_signal_afterwards() {
    watchdog();
    let mut target = Target::spawn("faults", &["handled"]);
    let place = target.number("place");
    let waiting = watch(target.pid());
    // It runs, and other signals reach it.
    assert_eq!(target.ask("count"), "0 0");
    target.ask("raise 10");
    eventually("SIGUSR1", || target.ask("count") == "0 1");
    assert!(!waiting.is_finished());
    // Not asked: it may be held before it answers.
    target.tell("read");
    let frozen = waiting.join().unwrap().unwrap();
    let [first, rest @ ..] = frozen.threads() else { panic!("no threads") };
    assert_eq!((first.name.to_str(), rest.len()), (Some("worker"), 1));
    assert_ne!(first.tid, target.pid());
    let signal = first.signal.as_ref().unwrap();
    // si_addr of sigaction(2) stands behind three numbers and a gap.
    assert_eq!((signal.number, signal.bytes.len(), number(&signal.bytes, 16)), (SEGV, 128, place));
    assert_eq!(rest[0].signal, None);
    assert!(states(target.pid()).iter().all(|state| *state == 't'));
    drop(frozen);
    assert_eq!(target.answer(), "told");
    eventually("the handler", || target.ask("count") == "1 1");
    assert_eq!(target.status("TracerPid"), 0);
}

#[test]
fn a_thread_that_was_born_meanwhile_is_followed() {
    watchdog();
    let mut target = Target::spawn("faults", &["handled"]);
    let waiting = watch(target.pid());
    let born: i32 = target.ask("born").parse().unwrap();
    target.tell("read");
    let frozen = waiting.join().unwrap().unwrap();
    assert_eq!(frozen.threads().first().map(|thread| thread.tid), Some(born));
    assert_eq!(frozen.threads().len(), 3);
    drop(frozen);
    assert_eq!(target.answer(), "told");
    eventually("the handler", || target.ask("count") == "1 0");
}

#[test]
fn a_signal_without_a_handler_ends_it_after_the_core() {
    watchdog();
    let folder = tempfile::tempdir().unwrap();
    let mut target = Target::spawn("faults", &[]);
    let path = folder.path().join("core");
    let process = Process::open(target.pid()).unwrap();
    let core = path.clone();
    let waiting = std::thread::spawn(move || Snapshot::of(&process).at_fault(true).write_core(core));
    eventually("the watch", || is_traced(target.pid()));
    target.tell("read");
    let report = waiting.join().unwrap().unwrap();
    let remark = report.outcome.remarks.iter().find(|remark| remark.contains("about to take SIGSEGV"));
    assert!(remark.is_some(), "{:?}", report.outcome.remarks);
    eventually("its end", || !target.is_alive());
    let image = Image::open(&path).unwrap();
    let threads = image.threads().unwrap();
    let signal = threads[0].signal.as_ref().unwrap();
    assert_eq!((signal.number, number(&signal.bytes, 16)), (SEGV, target.number("place")));
    assert_ne!(threads[0].tid, target.pid());
    assert_eq!(threads[1].signal, None);
}

#[test]
fn what_is_ignored_is_no_fault_and_interrupts_nothing() {
    watchdog();
    let mut target = Target::spawn("faults", &["handled"]);
    let waiting = watch(target.pid());
    target.ask("raise 13");
    // What follows it has come through.
    target.ask("raise 10");
    eventually("SIGUSR1", || target.ask("count") == "0 1");
    assert!(!waiting.is_finished());
    target.tell("exit");
    assert!(matches!(waiting.join().unwrap(), Err(StopError::NoFault)));

    let calls = ["epoll_wait", "semop", "sigtimedwait", "nanosleep"];
    let mut target = Target::spawn("blocked", &calls);
    let waiting = watch(target.pid());
    for _ in 0..50 {
        for name in calls {
            let tid = i32::try_from(target.number(&format!("tid.{name}"))).unwrap();
            // SIGWINCH, which nobody catches.
            signals::send_to_thread(target.pid(), tid, 28);
        }
    }
    assert_eq!(target.ask("returns"), "0");
    assert!(!waiting.is_finished());
    target.tell("exit");
    assert!(matches!(waiting.join().unwrap(), Err(StopError::NoFault)));
}

#[test]
fn a_process_that_runs_can_be_told_to_continue() {
    watchdog();
    let calls = ["epoll_wait", "epoll_wait-1h", "semop", "sigtimedwait"];
    let mut target = Target::spawn("blocked", &calls);
    let waiting = watch(target.pid());
    for _ in 0..50 {
        signals::send(target.pid(), 18);
        eventually("its sleep", || states(target.pid()).iter().all(|state| *state == 'S'));
    }
    assert_eq!(target.ask("returns"), "0");
    target.tell("exit");
    assert!(matches!(waiting.join().unwrap(), Err(StopError::NoFault)));
}

#[test]
fn threads_that_meet_a_fault_together_end_it_only_afterwards() {
    const THREADS: usize = 8;
    watchdog();
    for _ in 0..20 {
        let mut target = Target::spawn("fault-together", &[&THREADS.to_string()]);
        let waiting = watch(target.pid());
        target.tell("go");
        let frozen = waiting.join().unwrap().unwrap();
        assert_eq!(frozen.threads().len(), THREADS + 1);
        let signal = frozen.threads()[0].signal.as_ref().unwrap();
        assert_eq!((signal.number, number(&signal.bytes, 16)), (SEGV, 0));
        assert!(states(target.pid()).iter().all(|state| *state == 't'));
        drop(frozen);
        eventually("its end", || !target.is_alive());
    }
}

#[test]
fn job_control_works_meanwhile() {
    watchdog();
    let mut target = Target::spawn("faults", &["handled"]);
    let waiting = watch(target.pid());
    for _ in 0..5 {
        signals::send(target.pid(), 19);
        eventually("the stop", || states(target.pid()).iter().all(|state| "tT".contains(*state)));
        signals::send(target.pid(), 18);
        eventually("the end of the stop", || states(target.pid()).iter().all(|state| *state == 'S'));
        assert_eq!(target.ask("count"), "0 0");
    }
    target.tell("read");
    drop(waiting.join().unwrap().unwrap());
    assert_eq!(target.answer(), "told");
    eventually("the handler", || target.ask("count") == "1 0");
}

#[test]
fn a_process_is_followed_through_exec() {
    watchdog();
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new("sh")
        .args(["-c", "read word; exec sh -c 'read word; kill -SEGV $$; sleep 60'"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let process = Process::open(pid).unwrap();
    let path = folder.path().join("core");
    let core = path.clone();
    let waiting = std::thread::spawn(move || Snapshot::of(&process).at_fault(true).write_core(core));
    eventually("the watch", || is_traced(pid));
    child.stdin.as_mut().unwrap().write_all(b"one\n").unwrap();
    let command = || std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    eventually("exec", || command().starts_with("sh\0-c\0read word; kill"));
    assert!(!waiting.is_finished());
    child.stdin.as_mut().unwrap().write_all(b"two\n").unwrap();
    let result = waiting.join().unwrap();
    // Where it has the signal already it may still be on its way to die of it.
    if result.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().unwrap();
    result.unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(SEGV));
    let image = Image::open(&path).unwrap();
    assert_eq!(image.threads().unwrap()[0].signal.as_ref().unwrap().number, SEGV);
    assert!(image.process().unwrap().arguments.to_string_lossy().contains("kill -SEGV"));
}

#[test]
fn a_process_that_shares_the_memory_is_let_go_at_its_exec() {
    watchdog();
    let mut target = Target::spawn("vfork-exec", &[]);
    let child = i32::try_from(target.number("child")).unwrap();
    let waiting = watch(target.pid());
    eventually("the watch of the child", || is_traced(child));
    target.ask("exec");
    let command = || std::fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default();
    eventually("exec", || command().starts_with("sleep"));
    eventually("its release", || status_of(child, "TracerPid") == 0);
    // Its fault is its own.
    signals::send(child, SEGV);
    eventually("its end", || states(child) == ['Z']);
    assert!(!waiting.is_finished());
    assert!(is_traced(target.pid()));
    target.tell("exit");
    assert!(matches!(waiting.join().unwrap(), Err(StopError::NoFault)));
}

#[test]
fn a_fault_of_a_process_that_shares_the_memory_counts() {
    watchdog();
    let target = Target::spawn("vfork-exec", &[]);
    let child = i32::try_from(target.number("child")).unwrap();
    let waiting = watch(target.pid());
    eventually("the watch of the child", || is_traced(child));
    // More than once: a probe before the wait traces it for a moment as well.
    eventually("the catch", || {
        signals::send(child, SEGV);
        std::thread::sleep(std::time::Duration::from_millis(20));
        waiting.is_finished()
    });
    let frozen = waiting.join().unwrap().unwrap();
    let [first, rest @ ..] = frozen.threads() else { panic!("no threads") };
    assert_eq!((first.tid, first.signal.as_ref().map(|signal| signal.number)), (child, Some(SEGV)));
    assert_eq!(rest.len(), 2);
}

#[test]
fn an_end_without_a_fault_is_told() {
    watchdog();
    let mut target = Target::spawn("faults", &[]);
    let process = Process::open(target.pid()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dump");
    let waiting = std::thread::spawn(move || Snapshot::of(&process).at_fault(true).write_directory(path));
    eventually("the watch", || is_traced(target.pid()));
    target.tell("exit");
    let error = waiting.join().unwrap().unwrap_err();
    assert!(matches!(error, Error::NoFault { .. }), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
