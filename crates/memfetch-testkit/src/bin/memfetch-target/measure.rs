//! Roles that run another program: to watch it, or to be watched by it.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::memory::{churn_once, filled};
use crate::{Role, argument};

/// The roles of this module.
pub const ROLES: &[Role] = &[("measure", measure), ("churn-under", churn_under)];

/// `measure FILE PROGRAM [ARGUMENT...]`: runs a program, writes the most kilobytes of RAM that it had into a
/// file, and exits as it did. A program counts what its parent had when it was started, so that a test of any
/// size cannot tell this by itself; this process is small.
fn measure(arguments: &[String]) {
    let [file, program, rest @ ..] = arguments else {
        eprintln!("memfetch-target measure FILE PROGRAM [ARGUMENT...]");
        std::process::exit(2);
    };
    let mut command = Command::new(program);
    command.args(rest);
    // SAFETY: prctl(2) may be called between fork and exec, and takes numbers.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    let child = command.spawn();
    let child = child.unwrap_or_else(|error| panic!("{program}: {error}"));
    let pid = libc::pid_t::try_from(child.id()).expect("a pid is positive");
    let mut status = 0;
    // SAFETY: all zeros are a `struct rusage`.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: waits for the child that was just started, with room for both answers.
    let waited = unsafe { libc::wait4(pid, &mut status, 0, &mut usage) };
    assert!(waited == pid, "wait4: {}", std::io::Error::last_os_error());
    std::fs::write(file, usage.ru_maxrss.to_string()).expect("the file can be written");
    let code = if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) };
    std::process::exit(code);
}

/// `churn-under ROUNDS [PROGRAM [ARGUMENT...]]`: beside 256 MiB of filled memory it maps, touches and unmaps so many
/// times, and ends. Meanwhile the program is started once a second, or when it has ended; the argument `PID` stands
/// for this process. So the time that this takes tells what the program costs it. Its exit code may be 3: memory
/// that is unmapped under a snapshot is a gap.
fn churn_under(arguments: &[String]) {
    filled(256 << 20);
    // The process group of the program that runs; none once no more is to be started.
    static RUNNING: Mutex<Option<libc::pid_t>> = Mutex::new(Some(0));
    let running = || RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((program, rest)) = arguments.get(1..).and_then(<[String]>::split_first) {
        let own = std::process::id().to_string();
        let rest = rest.iter().map(|word| if word == "PID" { own.clone() } else { word.clone() });
        let mut command = Command::new(program);
        command.args(rest).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        std::thread::spawn(move || {
            loop {
                let begun = Instant::now();
                let mut child = {
                    let mut running = running();
                    let Some(group) = running.as_mut() else { return };
                    let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
                    *group = libc::pid_t::try_from(child.id()).expect("a pid is positive");
                    child
                };
                let status = child.wait().expect("it was started");
                if let Some(group) = running().as_mut() {
                    *group = 0;
                    if !matches!(status.code(), Some(0 | 3)) {
                        eprintln!("{command:?}: {status}");
                        std::process::exit(1);
                    }
                }
                std::thread::sleep(Duration::from_secs(1).saturating_sub(begun.elapsed()));
            }
        });
    }
    for _ in 0..argument(arguments, 0, 100_000_u64) {
        churn_once();
    }
    if let Some(group @ 1..) = running().take() {
        // SAFETY: kill(2) touches no memory of this process; the group is one that it made, and holds still.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
    std::process::exit(0);
}
