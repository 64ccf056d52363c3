//! Processes that no system call can be made by, each with its reason; and they live on.

mod stopping;

use std::os::unix::process::CommandExt;
use std::process::Command;

use memfetch::error::InjectionError;
use memfetch::threads::{Registers, Thread};
use memfetch_testkit::{Target, signals, target, userfault};
use stopping::{counter, eventually, states, stop, watchdog};

/// What comes of it; all threads are held before and afterwards, and run on then.
fn attempt(target: &mut Target) -> Result<(), InjectionError> {
    let pid = target.pid();
    let mut frozen = stop(pid);
    let result = frozen.userfaultfd();
    assert!(states(pid).iter().all(|state| "tTZ".contains(*state)), "{:?}", states(pid));
    assert!(!frozen.resume().ended);
    assert!(target.is_alive());
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    assert!(
        links.filter_map(|entry| entry.path().read_link().ok()).all(|link| !link.ends_with("[userfaultfd]"))
    );
    result.map(|file| assert!(userfault::greet(&file).is_ok()))
}

/// Waits until every thread of a process has run in user mode.
fn computing(target: &Target) {
    let has_computed = |thread: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap();
        let user_time = stat.rsplit_once(") ").unwrap().1.split(' ').nth(11).unwrap().to_owned();
        user_time.parse::<u64>().unwrap() > 2
    };
    let threads = format!("/proc/{}/task", target.pid());
    eventually("computing", || std::fs::read_dir(&threads).unwrap().flatten().all(has_computed));
}

/// The general registers of a thread, in the order of `struct user_regs_struct`.
fn words(thread: &Thread) -> Vec<u64> {
    let Registers::Complete(sets) = &thread.registers else { panic!("{thread:?}") };
    let words = sets[0].bytes.chunks_exact(8);
    words.map(|word| u64::from_ne_bytes(word.try_into().unwrap())).collect()
}

/// Whether this process has CAP_SYS_ADMIN.
fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let has = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(has.trim(), 16).unwrap() & 1 << 21 != 0
}

/// A target of an ordinary user, and what is said to that user who tries it; none where that user cannot reach the
/// programs.
fn as_ordinary_user(role: &str) -> Option<(Target, String)> {
    let (program, injector) = (target::program(), target::built("memfetch-testkit", "memfetch-injector"));
    let (mut theirs, mut attempt) = (Command::new(program), Command::new(injector));
    theirs.arg(role);
    if is_root() {
        if !Command::new(target::program())
            .uid(65_534)
            .gid(65_534)
            .output()
            .is_ok_and(|output| String::from_utf8_lossy(&output.stderr).contains("no role"))
        {
            return None;
        }
        theirs.uid(65_534).gid(65_534);
        attempt.uid(65_534).gid(65_534);
    }
    let target = Target::spawn_command(theirs);
    let output = attempt.args([target.pid().to_string(), u32::MAX.to_string()]).output().unwrap();
    Some((target, String::from_utf8(output.stdout).unwrap()))
}

#[test]
fn all_threads_nap() {
    watchdog();
    let mut target = Target::spawn("napping", &[]);
    eventually("sleep", || states(target.pid()) == ['S', 'S']);
    let result = attempt(&mut target);
    assert!(matches!(result, Err(InjectionError::RestartBlock)), "{result:?}");
}

#[test]
fn calls_would_become_signals() {
    watchdog();
    let mut target = Target::spawn("dispatched", &[]);
    let result = attempt(&mut target);
    assert_eq!(target.fact("on"), "true");
    assert!(matches!(result, Err(InjectionError::UserDispatch)), "{result:?}");
    assert!(target.ask("anybody?").starts_with("unknown"));
}

#[test]
fn no_descriptor_is_to_be_had() {
    watchdog();
    const TOO_MANY: i32 = 24;
    let mut target = Target::spawn("full-table", &[]);
    match attempt(&mut target) {
        Err(InjectionError::Call { call: "userfaultfd", error }) => {
            assert_eq!(error.raw_os_error(), Some(TOO_MANY));
        }
        other => panic!("{other:?}"),
    }
    assert!(target.ask("anybody?").starts_with("unknown"));
}

#[test]
fn whose_stack_it_is_is_not_known() {
    watchdog();
    let mut target = Target::spawn("own-stack", &[]);
    eventually("sleep", || states(target.pid()) == ['S']);
    let result = attempt(&mut target);
    assert!(matches!(result, Err(InjectionError::NoRoom)), "{result:?}");
    assert_eq!(target.ask("anybody?"), "anybody?");
}

/// Below it is what the signal interrupted, or anything else.
#[test]
fn a_handler_computes_on_a_stack_of_its_own() {
    watchdog();
    let mut target = Target::spawn("on-alternate-stack", &[]);
    computing(&target);
    let result = attempt(&mut target);
    assert!(matches!(result, Err(InjectionError::NoRoom)), "{result:?}");
}

/// It is interrupted by every stop, and to go on with it all the same would be wrong.
#[test]
fn in_a_restartable_sequence() {
    const RIP: usize = 16;
    watchdog();
    let target = Target::spawn("sequence", &["inside"]);
    let sequence = target.number("begin")..target.number("end");
    let pid = target.pid();
    let (mut inside, mut made) = (0, 0);
    let began = (counter(&target, pid, 0), counter(&target, pid, 1));
    for _ in 0..300 {
        let mut frozen = stop(pid);
        let is_inside = sequence.contains(&words(&frozen.threads()[0])[RIP]);
        match frozen.userfaultfd() {
            Err(InjectionError::InSequence) if is_inside => inside += 1,
            Ok(_) if !is_inside => made += 1,
            other => panic!("{other:?} {is_inside}"),
        }
        assert!(!frozen.resume().ended);
    }
    let interrupted = counter(&target, pid, 1) - began.1;
    eprintln!("in a sequence: {inside} refused, {made} made outside of it, {interrupted} times interrupted");
    assert!(inside >= 200 && interrupted >= inside, "{inside} {interrupted}");
    eventually("its next round", || counter(&target, pid, 0) > began.0);
}

#[test]
fn what_job_control_has_stopped_stays_stopped() {
    watchdog();
    let mut target = Target::spawn("blocked", &["epoll_wait"]);
    signals::send(target.pid(), 19);
    eventually("the stop", || states(target.pid()).iter().all(|state| *state == 'T'));
    assert!(matches!(attempt(&mut target), Err(InjectionError::JobControl)));
    eventually("the stop", || states(target.pid()).iter().all(|state| *state == 'T'));
    signals::send(target.pid(), 18);
    eventually("its going on", || states(target.pid()).iter().all(|state| *state == 'S'));
}

/// A filter that kills is suspended where that is allowed, and not put to the test where it is not.
#[test]
fn seccomp_does_not_kill() {
    watchdog();
    for role in ["sandboxed", "strict"] {
        let mut target = Target::spawn(role, &[]);
        for _ in 0..20 {
            let result = attempt(&mut target);
            match is_root() {
                true => assert!(result.is_ok(), "{role}: {result:?}"),
                false => assert!(matches!(result, Err(InjectionError::Seccomp)), "{role}: {result:?}"),
            }
        }
        assert!(target.ask("anybody?").contains("anybody?"));
        let Some((mut target, said)) = as_ordinary_user(role) else { continue };
        assert!(said.contains("Err(Seccomp)"), "{role}: {said}");
        assert!(target.ask("anybody?").contains("anybody?"));
    }
}

/// Filters are in force again afterwards.
#[test]
fn seccomp_is_suspended_for_no_longer_than_the_call() {
    watchdog();
    let mut target = Target::spawn("sandboxed", &[]);
    if attempt(&mut target).is_ok() {
        target.tell("escape");
        eventually("its end", || !target.is_alive());
    }
}

#[test]
fn an_ordinary_user_needs_nothing_more() {
    watchdog();
    if let Some((mut target, said)) = as_ordinary_user("blocked") {
        assert!(said.contains("Ok("), "{said}");
        assert_eq!(target.ask("returns"), "0");
    }
}

#[test]
fn code_of_32_bits() {
    watchdog();
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("narrow.c"), folder.path().join("narrow"));
    std::fs::write(
        &source,
        "#include <stdio.h>\nint main(void) { char line[99]; puts(\"ready\"); fflush(stdout);\n\
         while (fgets(line, 99, stdin)) { fputs(line, stdout); fflush(stdout); } return 0; }\n",
    )
    .unwrap();
    let built = Command::new("cc").args(["-m32", "-o"]).arg(&program).arg(&source).output();
    if !built.is_ok_and(|output| output.status.success()) {
        eprintln!("no 32-bit compiler here");
        return;
    }
    let mut target = Target::spawn_command(Command::new(&program));
    assert!(matches!(attempt(&mut target), Err(InjectionError::Foreign)));
    assert_eq!(target.ask("anybody?"), "anybody?");
}
