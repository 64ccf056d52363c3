//! The process that has another one make a system call is killed, at each step of it: the other one runs on.

mod stopping;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use memfetch_testkit::{Target, target};
use stopping::{die_at, eventually, injector, states, userfaultfds, watchdog};

fn is_let_go(pid: i32) -> bool {
    target::status_of(pid, "TracerPid") == 0 && states(pid).iter().all(|state| *state == 'S')
}

/// Kills at every step, several times, and looks at all of the target after each; returns the steps after which it had a
/// descriptor more.
fn survive(threads: &[&str], rounds: usize) -> (usize, Vec<usize>) {
    watchdog();
    let mut target = Target::spawn("registers", threads);
    let pid = target.pid();
    let (steps, result) = die_at(pid, usize::MAX >> 32).expect("it comes to its end");
    assert!(result.starts_with("Ok("), "{result}");
    let mut leaking = Vec::new();
    let mut kills = 0;
    for _ in 0..rounds {
        for step in 0..steps {
            let before = userfaultfds(pid);
            assert_eq!(die_at(pid, step), None, "step {step}");
            kills += 1;
            eventually("the release", || is_let_go(pid));
            assert_eq!(target.ask("wake"), "ok", "after step {step}");
            if userfaultfds(pid) != before {
                leaking.push(step);
            }
        }
    }
    eprintln!("{threads:?}: {kills} injections killed at {steps} steps, descriptors left at {leaking:?}");
    leaking.sort_unstable();
    leaking.dedup();
    (kills, leaking)
}

#[test]
fn a_call_that_the_kernel_restarts_goes_on_wherever_we_die() {
    let (kills, leaking) = survive(&["read"], 10);
    assert!(kills >= 100, "{kills}");
    // From the moment that the call is under way to that at which its result is known.
    assert!(leaking.len() <= 2, "{leaking:?}");
}

#[test]
fn a_call_that_is_put_back_goes_on_wherever_we_die() {
    let (kills, leaking) = survive(&["epoll_wait"], 10);
    assert!(kills >= 100, "{kills}");
    assert!(leaking.len() <= 2, "{leaking:?}");
}

#[test]
fn a_process_lives_whenever_we_die() {
    const KILLS: u64 = 200;
    watchdog();
    let mut target = Target::spawn("registers", &["read", "epoll_wait"]);
    let pid = target.pid();
    for moment in 0..KILLS {
        let mut child =
            Command::new(injector()).arg(pid.to_string()).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        std::thread::sleep(Duration::from_micros(moment * 1229 % 4096));
        child.kill().expect("it can be killed");
        child.wait().expect("it is our child");
        eventually("the release", || is_let_go(pid));
        // A stop that was not mended yet can have interrupted epoll_wait, as without an injection.
        let told = target.ask("wake");
        assert!(told == "ok" || told == "returned:-4", "{told}");
    }
    let left = userfaultfds(pid);
    eprintln!("{KILLS} killed at any moment, {left} descriptors left");
    assert!(left < 20, "{left}");
}

/// Its filters are in force again as soon as we die, and kill it where they see the calls: at the two moments at which
/// one of these is about to be made, and at no other.
#[test]
fn a_sandboxed_process_lives_but_where_its_filter_sees_the_calls() {
    const ROUNDS: usize = 5;
    watchdog();
    let mut target = Target::spawn("sandboxed", &[]);
    let (steps, result) = die_at(target.pid(), usize::MAX >> 32).expect("it comes to its end");
    if result.starts_with("Err(Seccomp)") {
        return;
    }
    assert!(result.starts_with("Ok("), "{result}");
    let mut deadly = Vec::new();
    for step in (0..ROUNDS).flat_map(|_| 0..steps) {
        assert_eq!(die_at(target.pid(), step), None, "step {step}");
        if target.is_alive() {
            eventually("the release", || !target.is_alive() || is_let_go(target.pid()));
        }
        if target.is_alive() {
            assert!(target.ask("anybody?").starts_with("unknown"));
        } else {
            deadly.push(step);
            target = Target::spawn("sandboxed", &[]);
        }
    }
    eprintln!("sandboxed: {} killed at {steps} steps, the filter killed at {deadly:?}", ROUNDS * steps);
    deadly.sort_unstable();
    deadly.dedup();
    assert!(deadly.len() <= 2, "{deadly:?}");
}
