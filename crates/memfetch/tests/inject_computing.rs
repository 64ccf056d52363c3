//! A system call made by a thread that computes, where no other thread could make it: it notices nothing, whoever dies
//! and whatever comes meanwhile.

mod stopping;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use memfetch::error::InjectionError;
use memfetch::live::stop::{FreezeOptions, Frozen, freeze};
use memfetch::threads::Registers;
use memfetch_testkit::{Target, signals, target, userfault};
use stopping::{counter, die_at, eventually, injector, states, stop, userfaultfds, watchdog};

const KILL: i32 = 9;
const CONT: i32 = 18;
const STOP: i32 = 19;
const WINCH: i32 = 28;
const COUNTED: i32 = 36;
/// More than there are.
const STEPS: usize = 24;

/// Counters of the roles `compute` and, but for the last two, `touching`.
const ROUNDS: u64 = 0;
const WRONG: u64 = 1;
const TAKEN: u64 = 2;
const DISORDER: u64 = 3;

/// Waits for a whole round, and another one that was begun after it; then nothing was ever wrong.
fn goes_on(target: &Target, when: &str) {
    let pid = target.pid();
    eventually("the release", || target.status("TracerPid") == 0);
    let rounds = counter(target, pid, ROUNDS);
    eventually("its rounds", || counter(target, pid, ROUNDS) >= rounds + 2);
    assert_eq!(counter(target, pid, WRONG), 0, "{when}");
}

/// A word of the registers of the first thread, in the order of `struct user_regs_struct`.
fn register(frozen: &Frozen, index: usize) -> u64 {
    let Registers::Complete(sets) = &frozen.threads()[0].registers else { panic!("no registers") };
    u64::from_ne_bytes(sets[0].bytes[index * 8..][..8].try_into().unwrap())
}

/// Where the first thread stands.
fn instruction(frozen: &Frozen) -> u64 {
    register(frozen, 16)
}

#[test]
fn all_threads_compute() {
    watchdog();
    let mut target = Target::spawn("busy", &[]);
    for _ in 0..50 {
        let mut frozen = stop(target.pid());
        let file = frozen.userfaultfd().unwrap();
        assert!(states(target.pid()).iter().all(|state| *state == 't'));
        let report = frozen.resume();
        assert_eq!((report.partial, report.unsettled, report.ended), (0, 0, false), "{report:?}");
        assert!(userfault::greet(&file).is_ok());
        assert_eq!(userfaultfds(target.pid()), 0);
    }
    assert!(target.is_alive());
}

#[test]
fn all_that_it_computes_with_is_as_before() {
    const CALLS: u64 = 300;
    watchdog();
    let target = Target::spawn("compute", &[]);
    let pid = target.pid();
    let live = target.number("begin")..target.number("end");
    let mut midst = 0;
    for call in 0..CALLS {
        let mut frozen = stop(pid);
        midst += u64::from(live.contains(&instruction(&frozen)));
        let file = frozen.userfaultfd().unwrap_or_else(|error| panic!("call {call}: {error}"));
        let report = frozen.resume();
        assert_eq!((report.partial, report.unsettled, report.ended), (0, 0, false), "{report:?}");
        assert!(userfault::greet(&file).is_ok());
        goes_on(&target, "after a call");
        assert_eq!(userfaultfds(pid), 0);
    }
    eprintln!("{CALLS} calls, {midst} of them where all registers are in use");
    assert!(midst >= CALLS / 2, "{midst}");
}

/// A page fault sets the resume flag, which a signal frame holds as well.
#[test]
fn in_the_midst_of_an_instruction() {
    const FLAGS: usize = 18;
    watchdog();
    let target = Target::spawn("touching", &[]);
    let pid = target.pid();
    let mut midst = 0;
    for call in 0..200 {
        let mut frozen = stop(pid);
        midst += usize::from(register(&frozen, FLAGS) & 1 << 16 != 0);
        let file = frozen.userfaultfd().unwrap_or_else(|error| panic!("call {call}: {error}"));
        assert!(!frozen.resume().ended);
        assert!(userfault::greet(&file).is_ok());
        goes_on(&target, "after a call");
    }
    eprintln!("200 calls, {midst} of them in the midst of an instruction");
    assert!(midst > 0);
    let kills = kill_at_all_steps(&target, 5);
    assert!(kills >= 50, "{kills}");
}

/// A C library that registers no area for restartable sequences.
#[test]
fn without_restartable_sequences() {
    watchdog();
    let mut command = Command::new(target::program());
    command.arg("compute").env("GLIBC_TUNABLES", "glibc.pthread.rseq=0");
    let target = Target::spawn_command(command);
    for _ in 0..20 {
        assert!(stop(target.pid()).userfaultfd().is_ok());
        goes_on(&target, "after a call");
    }
}

/// What a thread has announced stands there until the kernel sees it elsewhere.
#[test]
fn behind_a_restartable_sequence() {
    watchdog();
    let target = Target::spawn("sequence", &["behind"]);
    let pid = target.pid();
    let sequence = target.number("begin")..target.number("end");
    let announced = || {
        use std::os::unix::fs::FileExt;
        let mut word = [0; 8];
        let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
        memory.read_exact_at(&mut word, target.number("announced")).unwrap();
        u64::from_ne_bytes(word)
    };
    let (mut left, mut inside) = (0, 0);
    for _ in 0..100 {
        let mut frozen = stop(pid);
        left += usize::from(announced() != 0);
        match frozen.userfaultfd() {
            Ok(_) => {}
            Err(InjectionError::InSequence) if sequence.contains(&instruction(&frozen)) => inside += 1,
            other => panic!("{other:?}"),
        }
        drop(frozen);
        let rounds = counter(&target, pid, 0);
        eventually("its next round", || counter(&target, pid, 0) > rounds);
    }
    eprintln!("behind a sequence: announced still in {left}, inside {inside}");
    assert!(left > 0 && inside < 10);
}

/// Kills at every step, several times; returns how often.
fn kill_at_all_steps(target: &Target, rounds: usize) -> usize {
    let pid = target.pid();
    let (steps, result) = die_at(pid, usize::MAX >> 32).expect("it comes to its end");
    assert!(result.starts_with("Ok("), "{result}");
    let mut leaking = Vec::new();
    let mut kills = 0;
    for step in (0..rounds).flat_map(|_| 0..steps) {
        let before = userfaultfds(pid);
        assert_eq!(die_at(pid, step), None, "step {step}");
        kills += 1;
        goes_on(target, &format!("after step {step}"));
        if userfaultfds(pid) != before {
            leaking.push(step);
        }
    }
    leaking.sort_unstable();
    leaking.dedup();
    eprintln!("computing: {kills} injections killed at {steps} steps, descriptors left at {leaking:?}");
    // From the moment that the call is under way to that at which its result is known.
    assert!(leaking.len() <= 2, "{leaking:?}");
    kills
}

#[test]
fn it_goes_on_wherever_we_die() {
    watchdog();
    let target = Target::spawn("compute", &[]);
    let kills = kill_at_all_steps(&target, 10);
    assert!(kills >= 100, "{kills}");
}

#[test]
fn it_goes_on_whenever_we_die() {
    const KILLS: u64 = 200;
    watchdog();
    let target = Target::spawn("compute", &[]);
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
        goes_on(&target, "after a kill");
    }
    let left = userfaultfds(pid);
    eprintln!("computing: {KILLS} killed at any moment, {left} descriptors left");
    assert!(left < 20, "{left}");
}

#[test]
fn what_does_not_come_back_in_time_comes_back_later() {
    watchdog();
    let limit = Duration::from_millis(100);
    let target = Target::spawn("compute", &[]);
    let mut late = 0;
    for slow in (0..3).flat_map(|_| 0..20) {
        let options = FreezeOptions { deadline: limit, ..FreezeOptions::default() };
        let mut frozen = freeze(target.pid(), &options).unwrap();
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
        goes_on(&target, &format!("step {slow}"));
    }
    eprintln!("computing: {late} given up, {} descriptors left", userfaultfds(target.pid()));
    assert!(late > 0);
}

/// Has something come right before a step of an injection; returns whether there was such a step, and what came of it.
fn come_at(pid: i32, step: usize, come: impl Fn() + Send + 'static) -> (bool, Result<(), InjectionError>) {
    let mut frozen = stop(pid);
    let (told, hears) = std::sync::mpsc::channel();
    let mut count = 0;
    let result = frozen.userfaultfd_observed(move |_| {
        if count == step {
            come();
            let _ = told.send(());
        }
        count += 1;
    });
    let result = result.map(|file| assert!(userfault::greet(&file).is_ok()));
    let _ = frozen.resume();
    (hears.try_recv().is_ok(), result)
}

#[test]
fn signals_that_come_at_any_step_are_taken_once() {
    watchdog();
    let target = Target::spawn("compute", &[]);
    let pid = target.pid();
    let mut sent = 0;
    for step in (0..5).flat_map(|_| 0..STEPS) {
        let value = sent + 1;
        let (has_come, result) = come_at(pid, step, move || {
            signals::queue(pid, COUNTED, value);
            signals::send(pid, WINCH);
        });
        assert!(result.is_ok(), "step {step}: {result:?}");
        sent += usize::from(has_come);
        eventually("the signal", || counter(&target, pid, TAKEN) == sent as u64);
        assert_eq!((counter(&target, pid, DISORDER), userfaultfds(pid)), (0, 0), "step {step}");
        goes_on(&target, &format!("step {step}"));
    }
    eprintln!("computing: {sent} signals at steps");
    assert!(sent >= 75);
}

#[test]
fn job_control_stops_it_and_leaves_no_descriptor() {
    watchdog();
    let target = Target::spawn("compute", &[]);
    let pid = target.pid();
    let (mut refused, mut made) = (0, 0);
    for step in 0..STEPS {
        let (has_come, result) = come_at(pid, step, move || signals::send(pid, STOP));
        match result {
            Ok(()) => made += 1,
            Err(InjectionError::JobControl) => refused += 1,
            Err(error) => panic!("step {step}: {error}"),
        }
        assert_eq!(userfaultfds(pid), 0, "step {step}");
        if has_come {
            eventually("the stop", || states(pid).iter().all(|state| *state == 'T'));
            signals::send(pid, CONT);
        }
        goes_on(&target, &format!("step {step}"));
    }
    eprintln!("computing, stopped by job control: {refused} refused, {made} made nevertheless");
}

#[test]
fn a_process_that_is_killed_meanwhile_is_told_to_have_died() {
    watchdog();
    for step in 0..STEPS {
        let mut target = Target::spawn("compute", &[]);
        let pid = target.pid();
        let (has_come, result) = come_at(pid, step, move || {
            signals::send(pid, KILL);
            std::thread::sleep(Duration::from_millis(2));
        });
        if !has_come {
            assert!(step > 15, "{step}");
            return;
        }
        assert!(!matches!(result, Err(InjectionError::TimedOut { .. })), "step {step}: {result:?}");
        eventually("its end", || !target.is_alive());
    }
}

#[test]
fn no_signal_is_lost() {
    const COUNT: usize = 3000;
    const CALLS: usize = 1000;
    watchdog();
    let target = Target::spawn("compute", &[]);
    let pid = target.pid();
    let is_over = AtomicBool::new(false);
    let (mut made, mut forwarded) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for value in 1..=COUNT {
                signals::queue(pid, COUNTED, value);
                if value % 2 == 0 {
                    std::thread::sleep(Duration::from_micros(500));
                }
            }
            is_over.store(true, Ordering::SeqCst);
        });
        while made < CALLS || !is_over.load(Ordering::SeqCst) {
            let mut frozen = stop(pid);
            let file = frozen.userfaultfd().unwrap_or_else(|error| panic!("call {made}: {error}"));
            assert!(userfault::greet(&file).is_ok());
            let report = frozen.resume();
            assert_eq!((report.partial, report.interrupted), (0, 0), "{report:?}");
            forwarded += report.signals_forwarded;
            made += 1;
        }
    });
    eventually("the last signal", || counter(&target, pid, TAKEN) == COUNT as u64);
    goes_on(&target, "after the storm");
    assert_eq!((counter(&target, pid, DISORDER), userfaultfds(pid)), (0, 0));
    eprintln!("computing: {COUNT} signals under {made} calls, {forwarded} of them forwarded");
}
