//! Commands that go through all of a process' memory leave it, and the machine, as they were.

use memfetch_testkit::Swap;
use memfetch_testkit::footprint::rollup;

use super::*;

/// What goes through all of the memory, and how it ends where there is nothing to be found.
const COMMANDS: [(&[&str], i32); 3] = [
    (&["find", "PID", "a text that is nowhere", "-e", "a.* text that is nowhere [0-9]+"], 1),
    (&["strings", "PID", "-n", "10000"], 1),
    (
        &[
            "find",
            "PID",
            "--points-to",
            "0x6b6b6b6b6b6b0000..0x6b6b6b6b6b6c0000",
            "-x",
            "ab ad ?? ba be 00 11 22 33",
        ],
        1,
    ),
];

/// Runs each command on a process, and sees to it that the process stays as it is.
fn unharmed_by_searching(what: &str, target: &mut Target, noise_kb: u64) {
    let pid = target.pid().to_string();
    for (words, code) in COMMANDS {
        let words: Vec<_> =
            words.iter().map(|word| if *word == "PID" { pid.as_str() } else { word }).collect();
        unharmed_by(&format!("{what}, {}", words[0]), target, noise_kb, &words, code);
    }
}

#[test]
fn searching_untouched_shared_memory() {
    let _alone = alone();
    let mut target = Target::spawn("shared-untouched", &["4096", "memfd"]);
    unharmed_by_searching("4 GiB of untouched memfd", &mut target, NOISE_KB);
}

#[test]
fn searching_a_reservation() {
    let _alone = alone();
    let mut target = Target::spawn("reserved", &["2048", "4"]);
    unharmed_by_searching("2 TiB, half of it PROT_NONE", &mut target, NOISE_KB);
}

#[test]
fn searching_a_cold_file() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let mut target = Target::spawn("cold-file", &["2048", folder.path().to_str().unwrap()]);
    let is_cold = target.ask("cached") == "0";
    if !needs("searching a cold file", "a file system that can drop its cache", is_cold) {
        return;
    }
    unharmed_by_searching("2 GiB of a cold file", &mut target, NOISE_KB);
    let cached: u64 = target.ask("cached").parse().unwrap();
    assert!(cached <= 2 << 20, "{cached} bytes of the file are in the page cache");
}

#[test]
fn searching_what_is_in_swap() {
    let _alone = alone();
    let what = "searching memory in swap";
    let swap = Swap::new(160);
    if !needs(what, "root, for a swap file", swap.is_some()) {
        return;
    }
    let mut target = Target::spawn("swapped", &["128"]);
    if !needs(what, "memory that can be paged out", target.status("VmSwap") > 100 << 10) {
        return;
    }
    unharmed_by_searching("128 MiB in swap", &mut target, 4 << 10);
}

#[test]
fn searching_what_a_fork_shares() {
    let _alone = alone();
    let mut target = Target::spawn("cow", &["1024"]);
    let child = i32::try_from(target.number("child")).unwrap();
    // The copy that un-sharing makes is clean, by the page table.
    let private = || {
        let of = |pid| rollup(pid, "Private_Dirty") + rollup(pid, "Private_Clean");
        of(child) + of(target.pid())
    };
    let before = private();
    let pids = [child, target.pid()];
    for pid in pids {
        let output = Command::new(env!("CARGO_BIN_EXE_memfetch"))
            .args(["find", &pid.to_string(), "a text that is nowhere"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", peers::text(&output));
    }
    let unshared = private().saturating_sub(before);
    assert!(unshared < 512, "{unshared} kB are no longer shared");
    unharmed_by_searching("1 GiB shared with a child", &mut target, NOISE_KB);
}
