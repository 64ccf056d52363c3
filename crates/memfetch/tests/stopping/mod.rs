//! What the tests of the stop share.
#![allow(dead_code, reason = "every test program uses a part of it")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use memfetch::live::stop::{FreezeOptions, Frozen, freeze};
use memfetch_testkit::{Target, target};

/// Ends the whole test program if it takes too long: a test of stopping must not be able to hang. Targets end
/// with it.
pub fn watchdog() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        std::thread::spawn(|| {
            std::thread::sleep(Duration::from_secs(60));
            eprintln!("the tests hang");
            std::process::exit(101);
        });
    });
}

pub fn stop(pid: i32) -> Frozen {
    freeze(pid, &FreezeOptions::default()).expect("it can be stopped")
}

/// A counter of a target that tells where its counters are, read through `pid`.
pub fn counter(target: &Target, pid: i32, index: u64) -> u64 {
    let memory = File::open(format!("/proc/{pid}/mem")).expect("its memory can be read");
    let mut bytes = [0; 8];
    memory.read_exact_at(&mut bytes, target.number("counters") + 64 * index).expect("it is mapped");
    u64::from_ne_bytes(bytes)
}

/// Waits until a condition holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(10), "{what} never comes");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The state of every thread of a process, the letter of proc(5).
pub fn states(pid: i32) -> Vec<char> {
    let stat = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("stat")).ok();
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it is there").flatten();
    threads.filter_map(stat).filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next()).collect()
}

/// The program that injects.
pub fn injector() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| target::built("memfetch-testkit", "memfetch-injector"))
}

/// Runs an injection that is killed before a step; returns what it said if it came to its end before that.
pub fn die_at(pid: i32, step: usize) -> Option<(usize, String)> {
    let output =
        Command::new(injector()).args([pid.to_string(), step.to_string()]).output().expect("it starts");
    let said = String::from_utf8(output.stdout).unwrap();
    let (steps, result) = said.strip_prefix("up\n").unwrap().trim_end().split_once(' ')?;
    Some((steps.parse().unwrap(), result.to_owned()))
}

/// How many userfaultfds a process has.
pub fn userfaultfds(pid: i32) -> usize {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    links
        .filter(|entry| {
            entry.path().read_link().is_ok_and(|link| link.to_str() == Some("anon_inode:[userfaultfd]"))
        })
        .count()
}
