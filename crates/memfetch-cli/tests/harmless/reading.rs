//! `memfetch read` changes nothing either, however much it is asked for.

use memfetch_testkit::Swap;

use super::*;

const GIB: u64 = 1 << 30;

/// Reads a span of a process, and sees to it that the process stays as it is. Returns the lines that were printed.
fn unharmed_by_reading(what: &str, target: &mut Target, span: Span, noise_kb: u64, flags: &[&str]) -> usize {
    let (pid, span) = (target.pid().to_string(), span.to_string());
    let words = [&["read", &pid, &span], flags].concat();
    let output = unharmed_by(what, target, noise_kb, &words, 0);
    output.stdout.iter().filter(|&&byte| byte == b'\n').count()
}

/// A line, a star, and the address of the end.
const ALL_ALIKE: usize = 3;

#[test]
fn reading_untouched_shared_memory() {
    let _alone = alone();
    let mut target = Target::spawn("shared-untouched", &["4096", "memfd"]);
    let span = span_of(&target);
    let lines = unharmed_by_reading("4 GiB of untouched memfd", &mut target, span, NOISE_KB, &[]);
    assert_eq!(lines, ALL_ALIKE);
    let json = unharmed_by_reading("the same as JSON", &mut target, span, NOISE_KB, &["--json"]);
    assert!(json < 10, "{json} lines");
}

#[test]
fn reading_a_terabyte_of_reservation() {
    let _alone = alone();
    let mut target = Target::spawn("reserved", &["2048", "4"]);
    let all = span_of(&target);
    let (used, reserved) = all.split_at(all.start().saturating_add(4 << 20));
    let fenced = part(all, 1024 * GIB, 1024 * GIB);
    assert_eq!(unharmed_by_reading("1 TiB of PROT_NONE", &mut target, fenced, NOISE_KB, &[]), ALL_ALIKE);
    assert_eq!(unharmed_by_reading("2 TiB untouched", &mut target, reserved, NOISE_KB, &[]), ALL_ALIKE);
    let lines = unharmed_by_reading("4 MiB in use", &mut target, used, NOISE_KB, &[]);
    assert_eq!(lines, (4 << 20) / 16);
}

#[test]
fn reading_a_cold_file() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let mut target = Target::spawn("cold-file", &["2048", folder.path().to_str().unwrap()]);
    let is_cold = target.ask("cached") == "0";
    if !needs("reading a cold file", "a file system that can drop its cache", is_cold) {
        return;
    }
    let span = span_of(&target);
    // All of it by its bytes, and a part of it as lines.
    let what = "2 GiB of a cold file";
    unharmed_by_reading(what, &mut target, part(span, GIB, 16 << 20), NOISE_KB, &[]);
    let folder = open_folder();
    settle(&mut target);
    let before = Footprint::of(target.pid());
    let mut command = Command::new("sh");
    command.args(["-c", "\"$0\" read \"$1\" \"$2\" --raw | tail -c 8 > \"$3\""]);
    command.args([env!("CARGO_BIN_EXE_memfetch"), &target.pid().to_string(), &span.to_string()]);
    command.arg(folder.path().join("out"));
    let output = peers::run(&mut command, Duration::from_secs(300));
    assert!(output.status.success(), "{}", peers::text(&output));
    before.assert_near(&Footprint::of(target.pid()), NOISE_KB, what);
    let last = std::fs::read(folder.path().join("out")).unwrap();
    assert_eq!(last, (span.len() - 8).to_ne_bytes());
    let cached: u64 = target.ask("cached").parse().unwrap();
    assert!(cached <= 1 << 20, "{cached} bytes of the file are in the page cache");
    // Nothing is read that is not in RAM, and all of it is missing.
    let mut command = Command::new(env!("CARGO_BIN_EXE_memfetch"));
    command.args(["read", &target.pid().to_string(), &span.to_string(), "--touch", "resident"]);
    let output = peers::run(&mut command, Duration::from_secs(60));
    let said = peers::text(&output);
    assert!(output.status.code() == Some(2) && said.contains("only pages in RAM were to be read"), "{said}");
}

#[test]
fn reading_what_is_in_swap() {
    let _alone = alone();
    let what = "reading memory in swap";
    let swap = Swap::new(96);
    if !needs(what, "root, for a swap file", swap.is_some()) {
        return;
    }
    let mut target = Target::spawn("swapped", &["64"]);
    if !needs(what, "memory that can be paged out", target.status("VmSwap") > 48 << 10) {
        return;
    }
    let span = span_of(&target);
    let lines = unharmed_by_reading("64 MiB in swap", &mut target, span, 4 << 10, &["-w", "64"]);
    assert_eq!(lines, (64 << 20) / 64);
}

#[test]
fn reading_what_a_fork_shares() {
    let _alone = alone();
    let mut target = Target::spawn("cow", &["256"]);
    let span = span_of(&target);
    let shared = |target: &Target| memfetch_testkit::footprint::rollup(target.pid(), "Shared_Dirty");
    let before = shared(&target);
    unharmed_by_reading("256 MiB shared with a child", &mut target, span, NOISE_KB, &["-w", "256"]);
    let after = shared(&target);
    assert!(before.abs_diff(after) <= NOISE_KB, "{before} kB shared before, {after} after");
}
