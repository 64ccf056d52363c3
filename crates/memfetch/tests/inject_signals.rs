//! Signals that come while a process makes a system call for us: none is lost, added, reordered or changed.

mod stopping;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use memfetch::error::InjectionError;
use memfetch::live::stop::StopReport;
use memfetch_testkit::{Target, signals, userfault};
use stopping::{eventually, states, stop, watchdog};

const KILL: i32 = 9;
const USR1: i32 = 10;
const SEGV: i32 = 11;
const CONT: i32 = 18;
const STOP: i32 = 19;
const WINCH: i32 = 28;
const STORM: i32 = 36;
/// More than there are.
const STEPS: usize = 24;

fn holds_a_descriptor(pid: i32) -> bool {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let mut links = links.filter_map(|entry| entry.path().read_link().ok());
    links.any(|link| link.to_str() == Some("anon_inode:[userfaultfd]"))
}

/// Has a signal come right before a step of an injection; returns whether there was such a step.
fn send_at(
    pid: i32,
    step: usize,
    send: impl Fn() + Send + 'static,
) -> (bool, Result<(), InjectionError>, StopReport) {
    let mut frozen = stop(pid);
    let (told, hears) = std::sync::mpsc::channel();
    let mut count = 0;
    let result = frozen.userfaultfd_observed(move |_| {
        if count == step {
            send();
            let _ = told.send(());
        }
        count += 1;
    });
    let result = result.map(|file| assert!(userfault::greet(&file).is_ok()));
    let report = frozen.resume();
    (hears.try_recv().is_ok(), result, report)
}

fn is_asleep(pid: i32) -> bool {
    states(pid).iter().all(|state| *state == 'S')
}

#[test]
fn a_caught_signal_interrupts_once() {
    watchdog();
    let mut target = Target::spawn("blocked", &["epoll_wait"]);
    let pid = target.pid();
    let tid = i32::try_from(target.number("tid.epoll_wait")).unwrap();
    for step in 0..STEPS {
        let returns = step + 1;
        let (has_come, result, report) = send_at(pid, step, move || signals::send_to_thread(pid, tid, USR1));
        if !has_come {
            assert!(step > 15, "{step}");
            return;
        }
        assert!(result.is_ok(), "step {step}: {result:?} {report:?}");
        assert!(!holds_a_descriptor(pid));
        eventually("the return", || target.ask("returns").starts_with(&format!("{returns} ")));
        let told = target.ask("returns");
        assert!(told.split(' ').skip(1).all(|told| told == "epoll_wait:-4"), "step {step}: {told}");
        settle(pid, tid);
    }
}

#[test]
fn an_ignored_signal_interrupts_nothing() {
    watchdog();
    let mut target = Target::spawn("blocked", &["epoll_wait", "read-pipe"]);
    let pid = target.pid();
    let tid = i32::try_from(target.number("tid.epoll_wait")).unwrap();
    for step in 0..STEPS {
        for signal in [WINCH, CONT] {
            let (_, result, report) = send_at(pid, step, move || {
                signals::send_to_thread(pid, tid, signal);
                signals::send(pid, signal);
            });
            assert!(result.is_ok(), "step {step}: {result:?} {report:?}");
            assert!(!holds_a_descriptor(pid));
        }
        eventually("sleep", || is_asleep(pid));
    }
    assert_eq!(target.ask("returns"), "0");
}

/// It cannot be blocked, and is not: what is blocked and forced loses its handler.
#[test]
fn a_signal_that_is_never_blocked_is_delivered() {
    watchdog();
    let mut met = 0;
    for step in 0..STEPS {
        // The handler of the standard library takes the first one as a request to let the next one kill.
        let mut target = Target::spawn("blocked", &["epoll_wait"]);
        let pid = target.pid();
        let tid = i32::try_from(target.number("tid.epoll_wait")).unwrap();
        let (has_come, result, report) = send_at(pid, step, move || signals::send_to_thread(pid, tid, SEGV));
        if !has_come {
            break;
        }
        met += report.signals_forwarded;
        assert!(result.is_ok(), "step {step}: {result:?} {report:?}");
        assert!(!holds_a_descriptor(pid));
        eventually("the return", || target.ask("returns") == "1 epoll_wait:-4");
        signals::send_to_thread(pid, tid, SEGV);
        eventually("its end", || !target.is_alive());
    }
    assert!(met > 0);
}

#[test]
fn job_control_stops_it_and_leaves_no_descriptor() {
    watchdog();
    let mut target = Target::spawn("blocked", &["read-pipe"]);
    let pid = target.pid();
    let (mut refused, mut made) = (0, 0);
    for step in 0..STEPS {
        let (has_come, result, report) = send_at(pid, step, move || signals::send(pid, STOP));
        match result {
            Ok(()) => made += 1,
            Err(InjectionError::JobControl) => refused += 1,
            Err(error) => panic!("step {step}: {error} {report:?}"),
        }
        assert!(!holds_a_descriptor(pid), "step {step}");
        if has_come {
            eventually("the stop", || states(pid).iter().all(|state| *state == 'T'));
            signals::send(pid, CONT);
        }
        eventually("sleep", || is_asleep(pid));
    }
    eprintln!("stopped by job control: {refused} refused, {made} made nevertheless");
    assert_eq!(target.ask("returns"), "0");
}

#[test]
fn a_process_that_is_killed_meanwhile_is_told_to_have_died() {
    watchdog();
    // In the second it is the first thread that makes the call, whose death is told last.
    for role in [&["blocked", "epoll_wait"], &["spin", "3"]] {
        for step in 0..STEPS {
            let mut target = Target::spawn(role[0], &role[1..]);
            let pid = target.pid();
            let (has_come, result, _) = send_at(pid, step, move || {
                signals::send(pid, KILL);
                std::thread::sleep(Duration::from_millis(2));
            });
            if !has_come {
                break;
            }
            assert!(!matches!(result, Err(InjectionError::TimedOut { .. })), "step {step}: {result:?}");
            eventually("its end", || !target.is_alive());
        }
    }
}

/// Queues 3,000 signals while calls are made over and over.
fn storm(kind: &str) {
    const COUNT: usize = 3000;
    const CALLS: usize = 1000;
    watchdog();
    let mut target = Target::spawn("signal-storm", &[kind]);
    let pid = target.pid();
    let is_over = AtomicBool::new(false);
    let (mut made, mut forwarded) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for value in 1..=COUNT {
                signals::queue(pid, STORM, value);
                if value % 2 == 0 {
                    std::thread::sleep(Duration::from_micros(500));
                }
            }
            is_over.store(true, Ordering::SeqCst);
        });
        while made < CALLS || !is_over.load(Ordering::SeqCst) {
            let mut frozen = stop(pid);
            let file = frozen.userfaultfd().expect("a thread waits for orders");
            assert!(userfault::greet(&file).is_ok());
            let report = frozen.resume();
            assert_eq!((report.partial, report.interrupted), (0, 0), "{report:?}");
            forwarded += report.signals_forwarded;
            made += 1;
        }
    });
    eventually("the last signal", || target.ask("counts").contains(&format!("received={COUNT} ")));
    eprintln!("{kind}: {COUNT} signals under {made} calls, {forwarded} of them forwarded");
    assert_eq!(target.ask("counts"), format!("received={COUNT} disorder=0 foreign=0 stray=0"));
    assert!(!holds_a_descriptor(pid));
}

#[test]
fn no_signal_is_lost_by_a_thread_in_a_call_that_is_put_back() {
    storm("epoll_wait");
}

#[test]
fn no_signal_is_lost_by_a_thread_that_waits_for_it() {
    storm("sigtimedwait");
}

#[test]
fn no_signal_is_lost_by_a_thread_that_computes() {
    storm("spin");
}

/// Waits until a thread sleeps in its call again.
fn settle(pid: i32, tid: i32) {
    eventually("the call", || {
        let call = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")).unwrap();
        !call.starts_with("running") && !call.starts_with("230 ")
    });
}
