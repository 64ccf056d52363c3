//! Our own cores keep the promises of every source.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use memfetch::{Cause, Image};
use memfetch_testkit::conformance::check;
use memfetch_testkit::{Expected, Target};

use super::{MEMFETCH, snap, tell};

/// Takes the core into a file, and through a stream into another one.
fn both_ways(pid: i32, folder: &Path, further: &[&str], code: i32) -> [Image; 2] {
    let (whole, streamed) = (folder.join("whole.core"), folder.join("streamed.core"));
    snap(pid, &whole, &[further, &["--force"]].concat()).says(code, &[]);
    let mut command = Command::new("sh");
    let script = "out=$1; shift; exec \"$0\" snap -q -o - \"$@\" > \"$out\"";
    command.args(["-c", script, MEMFETCH]).arg(&streamed).arg(pid.to_string()).args(further);
    tell(&mut command).says(code, &[]);
    assert!(File::open(&streamed).unwrap().metadata().unwrap().len() > 0);
    [whole, streamed].map(|path| Image::open(path).unwrap())
}

#[test]
fn a_core_with_holes_of_all_kinds() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::spawn("holes", &[folder.path().to_str().unwrap()]);
    let page = |number: u64| target.number("start") + number * 4096;
    let secret = target.number("secret") == 1;
    for full in [true, false] {
        let further: &[&str] = if full { &["--contents", "full", "--touch", "all"] } else { &[] };
        let mut expected = Expected::new();
        for number in [0, 1, 3, 4, 5, 6, 15] {
            expected = expected.addresses(page(number), 4096);
        }
        expected = expected.part(page(7), vec![0; 4096]);
        for number in [2, 8, 14] {
            expected = expected.hole(page(number), 4096, Cause::NotMapped);
        }
        expected = if full {
            let mut bytes: Vec<u8> = (0..4096 + 100).map(|index: usize| (index % 251) as u8).collect();
            bytes.resize(2 * 4096, 0);
            expected.part(page(9), bytes)
        } else {
            expected.hole(page(9), 2 * 4096, Cause::NotSaved)
        };
        expected = expected.hole(page(11), 4096, Cause::BeyondFile);
        if secret {
            expected = expected.hole(page(12), 4096, Cause::Secret);
        }
        if target.number("guard") == 1 {
            expected = expected.hole(page(13), 4096, Cause::Guard);
        }
        for image in both_ways(target.pid(), folder.path(), further, if secret { 3 } else { 0 }) {
            check(&image, &expected);
        }
    }
}

#[test]
fn a_core_with_long_runs_that_were_never_touched() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::spawn("reserved", &["2"]);
    let (start, bytes) = (target.number("start"), target.number("bytes"));
    for image in both_ways(target.pid(), folder.path(), &[], 0) {
        // Wholly zero, in the file or not; and the reservation behind it.
        let zeros = |at: u64| (at, vec![0; 64 << 10]);
        let mut expected = Expected::new();
        for (at, bytes) in [zeros(start), zeros(start + bytes / 2 - (64 << 10)), zeros(start + bytes / 4)] {
            expected = expected.part(at, bytes);
        }
        check(&image, &expected);
    }
}

#[test]
fn a_core_of_many_mappings_and_threads() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::spawn("many-mappings", &["600"]);
    let start = target.number("start");
    for image in both_ways(target.pid(), folder.path(), &[], 0) {
        let mut expected = Expected::new();
        for number in 0..20 {
            let at = start + number * 4096;
            expected =
                if number % 2 == 0 { expected.addresses(at, 4096) } else { expected.part(at, vec![0; 4096]) };
        }
        check(&image, &expected);
    }
    let target = Target::spawn("threads", &["5", "3"]);
    for image in both_ways(target.pid(), folder.path(), &[], 0) {
        check(&image, &Expected::new().addresses(target.number("start"), 256 << 10));
    }
}
