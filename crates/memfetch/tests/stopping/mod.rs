//! What the tests of the stop share.
#![allow(dead_code, reason = "every test program uses a part of it")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use memfetch::live::stop::{FreezeOptions, Frozen, freeze};
use memfetch_testkit::Target;

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
