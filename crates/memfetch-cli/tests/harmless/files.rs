//! The page cache of the machine stays as it was.

use memfetch_testkit::footprint::{cached_bytes, machine};

use super::*;

#[test]
fn a_cold_file_stays_cold() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let mut target = Target::spawn("cold-file", &["1024", folder.path().to_str().unwrap()]);
    let is_cold = target.ask("cached") == "0";
    if !needs("a snapshot of a cold file", "a file system that can drop its cache", is_cold) {
        return;
    }
    let span = span_of(&target);
    for (contents, saved) in [("default", false), ("full", true)] {
        unharmed("1 GiB of a cold file", &mut target, &[contents], |taken| {
            let image = taken.image();
            if saved {
                assert_words(&image, part(span, 512 << 20, 16 << 20), |at| at - span.start().get());
            } else {
                assert!(taken.stored() < 16 << 20, "{} bytes", taken.stored());
                assert!(image.read_at(span.start(), &mut [0]).is_err());
            }
        });
        let cached: u64 = target.ask("cached").parse().unwrap();
        assert!(cached <= 1 << 20, "{contents}: {cached} bytes of the file are in the page cache");
    }
}

#[test]
fn a_gigabyte_written_is_not_in_the_page_cache() {
    const EXT4: i64 = 0xef53;
    let _alone = alone();
    let kind = rustix::fs::statfs(std::env::temp_dir()).unwrap().f_type;
    if !needs("the page cache after a snapshot", "ext4", kind == EXT4) {
        return;
    }
    let mut target = Target::spawn("private", &["1024"]);
    settle(&mut target);
    for mode in MODES {
        let before = machine("Cached");
        let taken = snap(target.pid(), &["--mode", mode]);
        let after = machine("Cached");
        taken.print(&format!("1 GiB in RAM, {mode}"));
        println!("  Cached of the machine: {before} kB before, {after} kB after");
        // The machine's figure is everybody's; how much of it is the core's can be told exactly.
        let cached = cached_bytes(&taken.core());
        assert!(cached <= 4 << 20, "{mode}: {cached} bytes of the core are in the page cache");
    }
}
