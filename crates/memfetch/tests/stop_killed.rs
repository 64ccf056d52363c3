//! The process that stops another one is killed, at any moment: the other one runs on.

mod stopping;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use memfetch_testkit::{Target, signals, target};
use stopping::{counter, eventually, states, stop, watchdog};

/// Starts a process that stops the target over and over, and kills it after a while.
fn kill_in_the_midst(freezer: &Path, pid: i32, hold_microseconds: u64, after: Duration) {
    let mut freezer = Command::new(freezer)
        .args([pid.to_string(), hold_microseconds.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    BufReader::new(freezer.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    std::thread::sleep(after);
    freezer.kill().expect("it can be killed");
    freezer.wait().expect("it is our child");
}

/// Moments in microseconds, spread over 0..4096 without a pattern (a full-period generator).
fn moments() -> impl Iterator<Item = u64> {
    std::iter::successors(Some(1_u64), |moment| Some((moment * 1229 + 351) % 4096))
}

fn is_let_go(pid: i32) -> bool {
    target::status_of(pid, "TracerPid") == 0 && states(pid).iter().all(|state| !"tT".contains(*state))
}

/// Kills so often, half of the times while the target is held for longer, and returns what calls returned.
fn survive(target: &mut Target, kills: usize) -> Vec<String> {
    let freezer = target::built("memfetch-testkit", "memfetch-freezer");
    for (round, moment) in moments().take(kills).enumerate() {
        let hold = if round % 2 == 0 { 0 } else { 2000 };
        kill_in_the_midst(&freezer, target.pid(), hold, Duration::from_micros(moment));
        eventually("the release", || is_let_go(target.pid()));
    }
    let told = target.ask("returns");
    told.split(' ').skip(1).map(str::to_owned).collect()
}

#[test]
fn blocked_calls_go_on_when_the_tracer_is_killed() {
    const KILLS: usize = 300;
    watchdog();
    let mut target = Target::spawn("blocked", &["epoll_wait", "semop", "sigtimedwait", "nanosleep"]);
    let returns = survive(&mut target, KILLS);
    eprintln!("{KILLS} tracers killed: {} calls returned {returns:?}", returns.len());
    // Killed within the microseconds between a stop and its mending it is EINTR; how often that is hit depends
    // on what else the machine does.
    assert!(returns.iter().all(|returned| returned.ends_with(":-4")), "{returns:?}");
    assert!(returns.len() <= KILLS / 2, "{returns:?}");
    drop(stop(target.pid()));
}

#[test]
fn no_call_returns_when_the_tracer_is_killed_while_it_holds() {
    watchdog();
    let mut target = Target::spawn("blocked", &["epoll_wait", "semop", "sigtimedwait", "nanosleep"]);
    let freezer = target::built("memfetch-testkit", "memfetch-freezer");
    for _ in 0..100 {
        // Held for an hour, and killed well after the stop.
        let mut tracer = Command::new(&freezer)
            .args([target.pid().to_string(), "3600000000".to_owned()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(tracer.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "held"));
        assert!(states(target.pid()).iter().all(|state| *state == 't'));
        tracer.kill().expect("it can be killed");
        tracer.wait().expect("it is our child");
        eventually("the release", || is_let_go(target.pid()));
    }
    assert_eq!(target.ask("returns"), "0");
}

#[test]
fn signals_arrive_when_the_tracer_is_killed() {
    watchdog();
    for kind in ["nanosleep", "epoll_wait", "spin", "sigtimedwait"] {
        let mut target = Target::spawn("signal-storm", &[kind]);
        let freezer = target::built("memfetch-testkit", "memfetch-freezer");
        let pid = target.pid();
        let mut sent = 0;
        for moment in moments().take(40) {
            std::thread::scope(|scope| {
                scope.spawn(|| kill_in_the_midst(&freezer, pid, 0, Duration::from_micros(moment)));
                for _ in 0..50 {
                    sent += 1;
                    signals::queue(pid, 36, sent);
                    std::thread::sleep(Duration::from_micros(50));
                }
            });
        }
        eventually("the last signal", || target.ask("counts").contains(&format!("received={sent} ")));
        let counts = target.ask("counts");
        eprintln!("{kind}: {sent} signals, 40 tracers killed: {counts}");
        assert!(counts.contains("disorder=0 foreign=0"), "{counts}");
    }
}

#[test]
fn threads_run_on_when_the_tracer_is_killed() {
    watchdog();
    let freezer = target::built("memfetch-testkit", "memfetch-freezer");
    let target = Target::spawn("spin", &["2"]);
    for moment in moments().take(50) {
        kill_in_the_midst(&freezer, target.pid(), 500, Duration::from_micros(moment));
        eventually("the release", || is_let_go(target.pid()));
        let before = [0, 1].map(|index| counter(&target, target.pid(), index));
        eventually("counting", || {
            (0..2).all(|index| counter(&target, target.pid(), index) > before[index as usize])
        });
    }
}
