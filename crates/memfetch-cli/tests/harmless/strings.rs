//! `memfetch strings` leaves the process as it was.

use super::*;

/// Looks for strings in all of a process, which must stay as it is.
fn unharmed_by_strings(what: &str, target: &mut Target, arguments: &[&str]) {
    settle(target);
    let before = Footprint::of(target.pid());
    let mut command = Command::new(env!("CARGO_BIN_EXE_memfetch"));
    command.args(["strings", "-c", &target.pid().to_string()]).args(arguments);
    let begun = Instant::now();
    let output = peers::run(&mut command, Duration::from_secs(300));
    println!("{what}: {:?}, {}", begun.elapsed(), peers::text(&output));
    assert_eq!(output.status.code(), Some(0), "{}", peers::text(&output));
    before.assert_near(&Footprint::of(target.pid()), NOISE_KB, what);
}

#[test]
fn strings_of_a_reservation_of_a_tebibyte() {
    let _alone = alone();
    // As much again is PROT_NONE.
    let mut target = Target::spawn("reserved", &["2048", "4"]);
    unharmed_by_strings("strings of 1 TiB PROT_NONE", &mut target, &[]);
}

#[test]
fn strings_of_untouched_shared_memory() {
    let _alone = alone();
    let mut target = Target::spawn("shared-untouched", &["4096", "memfd"]);
    unharmed_by_strings("strings of 4 GiB of untouched memfd", &mut target, &[]);
}

#[test]
fn strings_of_a_cold_file() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let mut target = Target::spawn("cold-file", &["512", folder.path().to_str().unwrap()]);
    let is_cold = target.ask("cached") == "0";
    if !needs("strings of a cold file", "a file system that can drop its cache", is_cold) {
        return;
    }
    for touch in ["resident", "stored"] {
        unharmed_by_strings("strings of a cold file", &mut target, &["--touch", touch]);
        let cached: u64 = target.ask("cached").parse().unwrap();
        assert!(cached <= 1 << 20, "{touch}: {cached} bytes of the file are in the page cache");
    }
}
