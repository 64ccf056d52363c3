//! Stopping processes of all kinds: what stands, what runs, and what is known of it.

mod stopping;

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use memfetch::error::StopError;
use memfetch::live::stop::{FreezeOptions, freeze};
use memfetch::threads::{Registers, Thread};
use memfetch_testkit::{Target, signals, target};
use stopping::{counter, eventually, states, stop, watchdog};

const NT_PRSTATUS: u32 = 1;

fn register(thread: &Thread, index: usize) -> u64 {
    let set = thread.registers.set(NT_PRSTATUS).expect("it stood");
    u64::from_ne_bytes(set[index * 8..index * 8 + 8].try_into().unwrap())
}

#[test]
fn no_blocked_call_returns() {
    watchdog();
    let mut target = Target::spawn("blocked", &[]);
    let mut longest = Duration::ZERO;
    let mut rewound = 0;
    for round in 0..300 {
        let frozen = stop(target.pid());
        if round % 10 == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
        let report = frozen.resume();
        assert_eq!((report.partial, report.interrupted, report.unsettled), (0, 0, 0), "{report:?}");
        longest = longest.max(report.pause);
        rewound = rewound.max(report.rewound);
    }
    assert_eq!(target.ask("returns"), "0");
    // All 19 of a 6.18 kernel, unless a stop came before the calls had started again; some may be switched off.
    assert!(rewound >= 15, "{rewound} calls were put back");
    eprintln!("300 stops, longest {longest:?}, up to {rewound} calls put back in each");
}

#[test]
fn registers_are_those_of_the_stop() {
    watchdog();
    let target = Target::spawn("blocked", &["epoll_wait", "nanosleep"]);
    let frozen = stop(target.pid());
    assert_eq!(frozen.threads().first().unwrap().tid, target.pid());
    assert_eq!(frozen.threads().len(), 3);
    for thread in frozen.threads() {
        for (note_type, at_least) in [(1, 216), (2, 512), (0x202, 576)] {
            assert!(thread.registers.set(note_type).unwrap().len() >= at_least, "set {note_type:#x}");
        }
        assert_ne!(thread.accounting.blocked & 1 << (12 - 1), 0, "SIGUSR2 is blocked");
    }
    let named = |name: &str| frozen.threads().iter().find(|thread| thread.name == name).unwrap();
    let epoll = named("epoll_wait");
    assert_eq!(u64::try_from(epoll.tid).unwrap(), target.number("tid.epoll_wait"));
    assert_eq!((register(epoll, 15), register(epoll, 10).cast_signed()), (232, -4));
    let sleeper = named("nanosleep");
    assert_eq!((register(sleeper, 15), register(sleeper, 10).cast_signed()), (35, -516));
    assert_eq!(frozen.report().rewound, 1);
}

#[test]
fn nothing_moves_while_it_is_frozen() {
    watchdog();
    let target = Target::spawn("spin", &["3"]);
    for _ in 0..20 {
        let frozen = stop(target.pid());
        let read = || [0, 1, 2].map(|index| counter(&target, target.pid(), index));
        let before = read();
        std::thread::sleep(Duration::from_millis(3));
        assert_eq!(read(), before);
        drop(frozen);
        eventually("counting", || read().iter().zip(before).all(|(now, then)| *now > then));
    }
    assert!(states(target.pid()).iter().all(|state| !"tT".contains(*state)));
    assert_eq!(target.status("TracerPid"), 0);
}

#[test]
fn threads_that_are_born_meanwhile_are_held_too() {
    watchdog();
    let target = Target::spawn("thread-churn", &["4"]);
    let mut longest = Duration::ZERO;
    for _ in 0..100 {
        let frozen = stop(target.pid());
        let before = counter(&target, target.pid(), 0);
        std::thread::sleep(Duration::from_micros(500));
        assert!(states(target.pid()).iter().all(|state| "tZX".contains(*state)));
        assert_eq!(counter(&target, target.pid(), 0), before);
        let report = frozen.resume();
        assert_eq!((report.partial, report.unsettled), (0, 0), "{report:?}");
        longest = longest.max(report.pause);
        eventually("a birth", || counter(&target, target.pid(), 0) > before);
    }
    eprintln!("thread churn: longest pause {longest:?}, 500 us of it on purpose");
}

#[test]
fn two_thousand_threads_stop_quickly() {
    watchdog();
    let mut target = Target::spawn("threads", &["2000"]);
    let bare = freeze(target.pid(), &FreezeOptions { registers: false, ..FreezeOptions::default() }).unwrap();
    eprintln!("2,001 threads without registers: {:?} until frozen", bare.report().pause);
    eprintln!("whole: {:?}", bare.resume().pause);
    let mut pauses: Vec<(Duration, Duration)> = (0..5)
        .map(|_| {
            let frozen = stop(target.pid());
            assert_eq!(frozen.threads().len(), 2001);
            let stop = frozen.report().pause;
            let report = frozen.resume();
            assert_eq!((report.threads, report.partial, report.unsettled), (2001, 0, 0), "{report:?}");
            (report.pause, stop)
        })
        .collect();
    pauses.sort();
    eprintln!("2,001 threads: pauses (whole, until frozen) {pauses:?}");
    assert!(pauses[0].0 < Duration::from_secs(1), "{pauses:?}");
    assert_eq!(target.ask("returns"), "0");
}

#[test]
fn a_vfork_parent_counts_as_stopped_in_the_kernel() {
    watchdog();
    let target = Target::spawn("vfork-parent", &["2000"]);
    let began = Instant::now();
    let frozen = stop(target.pid());
    assert!(began.elapsed() < Duration::from_millis(900), "it waited for the child");
    let partial: Vec<_> = frozen
        .threads()
        .iter()
        .filter_map(|thread| match thread.registers {
            Registers::Partial(call) => Some(call),
            _ => None,
        })
        .collect();
    assert_eq!(partial.len(), 1, "{:?}", frozen.threads());
    assert!([56, 58, 435].contains(&partial[0].number), "{partial:?}");
    assert_ne!(partial[0].stack_pointer, 0);
    // The child has the same memory and is no thread.
    assert_eq!(frozen.report().sharers.len(), 1);
    let report = frozen.resume();
    assert_eq!(report.partial, 1);
    eventually("the end of vfork", || counter(&target, target.pid(), 1) == 1);
}

#[test]
fn a_process_that_shares_the_memory_is_held_too() {
    watchdog();
    let target = Target::spawn("sharer", &[]);
    let sharer = i32::try_from(target.number("sharer")).unwrap();
    for pid in [target.pid(), sharer] {
        let frozen = stop(pid);
        let read = || [0, 1].map(|index| counter(&target, target.pid(), index));
        let before = read();
        std::thread::sleep(Duration::from_millis(3));
        assert_eq!(read(), before);
        let report = frozen.resume();
        assert_eq!(report.sharers, [target.pid() + sharer - pid]);
        assert!(report.loose_sharers.is_empty());
        eventually("counting", || read().iter().zip(before).all(|(now, then)| *now > then));
    }
}

#[test]
fn a_process_whose_first_thread_has_exited_is_held() {
    watchdog();
    let target = Target::spawn("zombie-leader", &[]);
    let began = Instant::now();
    let frozen = stop(target.pid());
    assert!(began.elapsed() < Duration::from_millis(900), "it waited for the dead");
    let tids: Vec<_> = frozen.threads().iter().map(|thread| thread.tid).collect();
    assert_eq!(tids.len(), 2);
    assert!(!tids.contains(&target.pid()));
    let before = counter(&target, tids[0], 0);
    std::thread::sleep(Duration::from_millis(3));
    assert_eq!(counter(&target, tids[0], 0), before);
    assert_eq!(frozen.resume().partial, 0);
    eventually("counting", || counter(&target, tids[0], 0) > before);
}

#[test]
fn what_job_control_has_stopped_stays_stopped() {
    watchdog();
    let target = Target::spawn("spin", &["2"]);
    let read = || [0, 1].map(|index| counter(&target, target.pid(), index));
    signals::send(target.pid(), 19);
    eventually("the stop", || states(target.pid()).iter().all(|state| *state == 'T'));
    let before = read();
    for _ in 0..5 {
        let frozen = stop(target.pid());
        assert!(frozen.threads().iter().all(|thread| thread.registers.set(NT_PRSTATUS).is_some()));
        let report = frozen.resume();
        assert!(report.already_stopped);
        assert_eq!(report.partial, 0);
        eventually("the stop", || states(target.pid()).iter().all(|state| *state == 'T'));
    }
    assert_eq!(read(), before);
    signals::send(target.pid(), 18);
    eventually("counting", || read().iter().zip(before).all(|(now, then)| *now > then));
    assert!(!stop(target.pid()).resume().already_stopped);
}

#[test]
fn a_stop_that_comes_while_it_is_frozen_holds_afterwards() {
    watchdog();
    let target = Target::spawn("spin", &["2"]);
    for _ in 0..10 {
        let frozen = stop(target.pid());
        signals::send(target.pid(), 19);
        assert!(!frozen.resume().already_stopped);
        eventually("the stop", || states(target.pid()).iter().all(|state| *state == 'T'));
        let frozen = stop(target.pid());
        let before = counter(&target, target.pid(), 0);
        signals::send(target.pid(), 18);
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(counter(&target, target.pid(), 0), before, "SIGCONT does not end the freeze");
        assert!(frozen.resume().already_stopped);
        eventually("counting", || counter(&target, target.pid(), 0) > before);
    }
}

/// A thread in exec waits until all others are dead *and* their tracer has taken note of it.
#[test]
fn exec_does_not_wait_for_us() {
    watchdog();
    let mut target = Target::spawn("exec-loop", &[]);
    let mut longest = Duration::ZERO;
    for round in 0..200 {
        let began = Instant::now();
        match freeze(target.pid(), &FreezeOptions::default()) {
            Ok(frozen) => {
                std::thread::sleep(Duration::from_micros(round % 5 * 300));
                let states = states(target.pid());
                let report = frozen.resume();
                assert!(states.iter().all(|state| "tZX".contains(*state)), "{states:?} {report:?}");
                assert!(!report.ended, "{report:?}");
            }
            // All threads that were listed died before they could be seized.
            Err(StopError::NoThreads) => {}
            Err(error) => panic!("{error:?}"),
        }
        longest = longest.max(began.elapsed());
        std::thread::sleep(Duration::from_micros(round % 7 * 500));
    }
    eprintln!("stops of a process that calls exec: the longest took {longest:?}");
    assert!(longest < Duration::from_millis(900), "{longest:?}");
    assert!(target.is_alive());
}

/// A script, and its interpreter that nobody can open while the handle is there: exec of it waits like exec of a
/// program on a file system that does not answer.
fn endless_exec(folder: &Path) -> Option<(PathBuf, File)> {
    let [script, interpreter] = ["script", "interpreter"].map(|name| folder.join(name));
    std::fs::copy("/bin/true", &interpreter).unwrap();
    std::fs::write(&script, format!("#!{}\n", interpreter.display())).unwrap();
    std::fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    Some((script, signals::lease(&interpreter)?))
}

/// Whether a thread of the process or of a child of it is in execve.
fn is_in_exec(pid: i32) -> bool {
    let children = format!("/proc/{pid}/task");
    let threads = std::fs::read_dir(children).unwrap().flatten();
    threads.map(|entry| entry.path()).any(|thread| {
        let in_exec = |call: PathBuf| std::fs::read_to_string(call).is_ok_and(|call| call.starts_with("59 "));
        let children = std::fs::read_to_string(thread.join("children")).unwrap_or_default();
        in_exec(thread.join("syscall"))
            || children.split_whitespace().any(|child| in_exec(format!("/proc/{child}/syscall").into()))
    })
}

#[test]
fn a_sharer_whose_exec_does_not_end_is_loose() {
    watchdog();
    let folder = tempfile::tempdir().unwrap();
    let Some((script, lease)) = endless_exec(folder.path()) else { return };
    let target = Target::spawn("exec-counting", &[script.to_str().unwrap(), "spawn"]);
    eventually("exec", || is_in_exec(target.pid()));
    let read = || [0, 1].map(|index| counter(&target, target.pid(), index));
    let options = FreezeOptions { deadline: Duration::from_millis(200), ..FreezeOptions::default() };
    let began = Instant::now();
    let frozen = freeze(target.pid(), &options).unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let before = read();
    std::thread::sleep(Duration::from_millis(3));
    assert_eq!(read(), before);
    let report = frozen.resume();
    assert_eq!((report.loose_sharers.len(), report.sharers.len()), (1, 0), "{report:?}");
    eventually("counting", || read().iter().zip(before).all(|(now, then)| *now > then));
    assert!(is_in_exec(target.pid()));
    // Once it ends all is as ever.
    drop(lease);
    eventually("the end of exec", || !is_in_exec(target.pid()));
    assert!(stop(target.pid()).resume().loose_sharers.is_empty());
}

#[test]
fn a_process_whose_exec_does_not_end_is_not_stopped() {
    watchdog();
    let folder = tempfile::tempdir().unwrap();
    let Some((script, lease)) = endless_exec(folder.path()) else { return };
    let target = Target::spawn("exec-counting", &[script.to_str().unwrap(), "replace"]);
    eventually("exec", || is_in_exec(target.pid()));
    let options = FreezeOptions { deadline: Duration::from_millis(200), ..FreezeOptions::default() };
    let began = Instant::now();
    assert!(matches!(freeze(target.pid(), &options), Err(StopError::Busy)));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(!states(target.pid()).contains(&'t'));
    let before = [0, 1].map(|index| counter(&target, target.pid(), index));
    eventually("counting", || {
        [0, 1].iter().all(|index| counter(&target, target.pid(), *index) > before[*index as usize])
    });
    drop(lease);
}

#[test]
fn a_process_that_is_killed_while_it_is_frozen_dies() {
    watchdog();
    for role in [&["spin", "3"], &["threads", "50"]] {
        let mut target = Target::spawn(role[0], &role[1..]);
        let frozen = stop(target.pid());
        signals::send(target.pid(), 9);
        // Its parent learns of it although nobody has resumed anything.
        eventually("its end", || states(target.pid()) == ['Z']);
        let report = frozen.resume();
        assert!(report.ended, "{report:?}");
        assert!(!target.is_alive());
    }
}

#[test]
fn a_process_that_is_traced_is_refused() {
    watchdog();
    let target = Target::spawn("spin", &["1"]);
    let frozen = stop(target.pid());
    match freeze(target.pid(), &FreezeOptions::default()) {
        Err(StopError::Traced { by, name }) => {
            assert_eq!(u32::try_from(by), Ok(std::process::id()));
            assert!(!name.is_empty());
        }
        other => panic!("{other:?}"),
    }
    drop(frozen);
    drop(stop(target.pid()));
}

#[test]
fn oneself_and_nobody_are_refused() {
    watchdog();
    let options = FreezeOptions::default();
    let own = i32::try_from(std::process::id()).unwrap();
    assert!(matches!(freeze(own, &options), Err(StopError::Itself)));
    assert!(matches!(freeze(i32::MAX, &options), Err(StopError::NoThreads)));
    assert!(matches!(freeze(-1, &options), Err(StopError::NoThreads)));
}

#[test]
fn another_users_process_is_refused() {
    watchdog();
    let freezer = target::built("memfetch-testkit", "memfetch-freezer");
    let mine = Target::spawn("spin", &["1"]);
    let is_root = std::fs::read_link("/proc/1/exe").is_ok();
    let mut command = Command::new(freezer);
    if is_root {
        command.uid(65_534).gid(65_534).arg(mine.pid().to_string());
    } else {
        command.arg("1");
    }
    // Where that user cannot even reach the program there is nothing to see.
    let Ok(output) = command.args(["0", "1"]).output() else { return };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("Refused"), "{said}");
}
