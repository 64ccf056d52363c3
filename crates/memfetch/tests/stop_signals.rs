//! Signals that come while a process is stopped: none is lost, added, reordered or changed, and what a process
//! ignores does not interrupt it.

mod stopping;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use memfetch_testkit::{Target, signals};
use stopping::{eventually, states, stop, watchdog};

const USR1: i32 = 10;
const USR2: i32 = 12;
const STOP: i32 = 19;
const CONT: i32 = 18;
const STORM: i32 = 36;

/// Queues 3,000 signals while the target is stopped over and over.
fn storm(kind: &str) {
    const COUNT: usize = 3000;
    watchdog();
    let mut target = Target::spawn("signal-storm", &[kind]);
    let pid = target.pid();
    let is_over = AtomicBool::new(false);
    let (mut stops, mut forwarded) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for value in 1..=COUNT {
                signals::queue(pid, STORM, value);
                if value % 3 == 0 {
                    std::thread::sleep(Duration::from_micros(100));
                }
            }
            is_over.store(true, Ordering::SeqCst);
        });
        while !is_over.load(Ordering::SeqCst) {
            let report = stop(pid).resume();
            assert_eq!((report.partial, report.interrupted), (0, 0), "{report:?}");
            forwarded += report.signals_forwarded;
            stops += 1;
        }
    });
    eventually("the last signal", || target.ask("counts").contains(&format!("received={COUNT} ")));
    eprintln!("{kind}: {COUNT} signals under {stops} stops, {forwarded} of them forwarded");
    assert_eq!(target.ask("counts"), format!("received={COUNT} disorder=0 foreign=0 stray=0"));
    assert!(stops > 10, "{stops} stops");
}

#[test]
fn no_signal_is_lost_by_a_thread_that_sleeps() {
    storm("nanosleep");
}

#[test]
fn no_signal_is_lost_by_a_thread_that_computes() {
    storm("spin");
}

#[test]
fn no_signal_is_lost_by_a_thread_in_a_call_that_is_put_back() {
    storm("epoll_wait");
}

#[test]
fn no_signal_is_lost_by_a_thread_that_waits_for_it() {
    storm("sigtimedwait");
}

/// Kinds of call that are put back.
const PUT_BACK: &[&str] =
    &["epoll_wait", "epoll_pwait2", "semop", "sigtimedwait", "recv-rcvtimeo", "nanosleep"];

#[test]
fn ignored_signals_interrupt_nothing() {
    watchdog();
    let mut target = Target::spawn("blocked", PUT_BACK);
    let pid = target.pid();
    let is_over = AtomicBool::new(false);
    let mut forwarded = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // SIGWINCH, SIGCHLD, SIGURG and SIGCONT: nobody catches them.
            let tids: Vec<_> = PUT_BACK.iter().map(|name| target.number(&format!("tid.{name}"))).collect();
            for round in 0..2000 {
                let signal = [28, 17, 23, 18][round % 4];
                signals::send_to_thread(pid, i32::try_from(tids[round % tids.len()]).unwrap(), signal);
                signals::send(pid, signal);
                std::thread::sleep(Duration::from_micros(100));
            }
            is_over.store(true, Ordering::SeqCst);
        });
        while !is_over.load(Ordering::SeqCst) {
            let frozen = stop(pid);
            std::thread::sleep(Duration::from_micros(200));
            forwarded += frozen.resume().signals_forwarded;
        }
    });
    eprintln!("{forwarded} ignored signals met");
    // Seen once in 50,000 signals: several threads woken at the moment of seizing.
    let told = target.ask("returns");
    assert!(told == "0" || told.starts_with("1 ") || told.starts_with("2 "), "{told}");
}

#[test]
fn a_caught_signal_interrupts_once() {
    watchdog();
    for name in PUT_BACK {
        let mut target = Target::spawn("blocked", &[name]);
        let tid = i32::try_from(target.number(&format!("tid.{name}"))).unwrap();
        for round in 1..=20 {
            let frozen = stop(target.pid());
            signals::send_to_thread(target.pid(), tid, USR1);
            assert_eq!(frozen.resume().unsettled, 0);
            let returns = format!("{round} ");
            eventually("the return", || target.ask("returns").starts_with(&returns));
            let told = target.ask("returns");
            assert!(told.ends_with(&format!("{name}:-4")), "{told}");
            settle(&target, tid);
        }
    }
}

#[test]
fn a_signal_that_is_waited_for_is_taken() {
    watchdog();
    let mut target = Target::spawn("blocked", &["sigtimedwait"]);
    for round in 1..=20 {
        let frozen = stop(target.pid());
        signals::send(target.pid(), USR2);
        assert_eq!(frozen.resume().signals_forwarded, 0);
        eventually("the return", || target.ask("returns").starts_with(&format!("{round} ")));
        assert!(target.ask("returns").ends_with("sigtimedwait:12"));
        settle(&target, i32::try_from(target.number("tid.sigtimedwait")).unwrap());
    }
}

/// Job control interrupts these calls without us as well: what they return must not depend on us.
#[test]
fn job_control_works_while_it_is_frozen() {
    watchdog();
    let mut target = Target::spawn("blocked", &["epoll_wait", "nanosleep"]);
    for _ in 0..10 {
        let frozen = stop(target.pid());
        signals::send(target.pid(), STOP);
        drop(frozen);
        eventually("the stop", || states(target.pid()).iter().all(|state| *state == 'T'));
        signals::send(target.pid(), CONT);
        eventually("the end of the stop", || states(target.pid()).iter().all(|state| *state == 'S'));
    }
    assert!(!target.ask("returns").contains("nanosleep"));
}

#[test]
fn a_fatal_signal_kills_as_soon_as_it_is_resumed() {
    watchdog();
    let mut target = Target::spawn("blocked", &["epoll_wait", "futex"]);
    let frozen = stop(target.pid());
    signals::send(target.pid(), 15);
    std::thread::sleep(Duration::from_millis(20));
    // Not asked of the kernel by waiting: its parent, being the tracer as well, would see the stops.
    assert!(states(target.pid()).iter().all(|state| *state == 't'));
    let began = Instant::now();
    drop(frozen);
    eventually("its end", || !target.is_alive());
    assert!(began.elapsed() < Duration::from_secs(1));
}

/// Waits until a thread sleeps in its call again.
fn settle(target: &Target, tid: i32) {
    eventually("the call", || {
        let call = std::fs::read_to_string(format!("/proc/{}/task/{tid}/syscall", target.pid())).unwrap();
        // Between two calls it naps.
        !call.starts_with("running") && !call.starts_with("230 ")
    });
}
