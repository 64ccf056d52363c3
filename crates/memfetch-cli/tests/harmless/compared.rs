//! A comparison of an image with the process that it is of, and of two processes, leaves them as they were.

use memfetch_testkit::footprint::{cached_bytes, rollup};

use super::*;

/// Runs `memfetch diff`, and returns its exit code and the last line of its JSON.
fn diff(folder: &Path, before: &str, after: &str) -> (i32, serde_json::Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_memfetch"));
    command.args(["diff", "--json", before, after]).current_dir(folder);
    let output = peers::run(&mut command, Duration::from_secs(300));
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let last = text.lines().last().unwrap_or_else(|| panic!("{}", peers::text(&output)));
    (output.status.code().unwrap_or(-1), serde_json::from_str(last).unwrap())
}

#[test]
fn an_image_and_its_process() {
    let _alone = alone();
    for (role, arguments) in
        [("private", &["256"][..]), ("reserved", &["128", "4"]), ("shared-untouched", &["1024", "memfd"])]
    {
        let mut target = Target::spawn(role, arguments);
        settle(&mut target);
        let taken = snap(target.pid(), &["--contents", "default"]);
        let core = taken.core();
        let cached_before = cached_bytes(&core);
        let before = Footprint::of(target.pid());
        let pid = target.pid().to_string();
        let (_, report) = diff(taken.folder.path(), core.to_str().unwrap(), &pid);
        before.assert_near(&Footprint::of(target.pid()), NOISE_KB, role);
        let bytes = target.number("bytes");
        assert!(report["compared_bytes"].as_u64().unwrap() >= bytes, "{role}: {report}");
        assert!(report["different_bytes"].as_u64().unwrap() < 64 << 10, "{role}: {report}");
        let cached = cached_bytes(&core).saturating_sub(cached_before);
        println!("{role}: {cached} bytes of the core came into the page cache");
    }
}

#[test]
fn a_process_and_its_fork() {
    let _alone = alone();
    let mut target = Target::spawn("cow", &["256"]);
    settle(&mut target);
    let child = i32::try_from(target.number("child")).unwrap();
    let both = || [child, target.pid()].map(Footprint::of);
    let private = || rollup(target.pid(), "Private_Dirty") + rollup(target.pid(), "Private_Clean");
    let (before, private_before) = (both(), private());
    let folder = tempfile::tempdir().unwrap();
    let (_, report) = diff(folder.path(), &target.pid().to_string(), &child.to_string());
    assert!(report["compared_bytes"].as_u64().unwrap() >= 256 << 20, "{report}");
    assert!(report["different_bytes"].as_u64().unwrap() < 64 << 10, "{report}");
    let unshared = private().saturating_sub(private_before);
    assert!(unshared < 256, "{unshared} kB are no longer shared");
    for (before, after) in before.iter().zip(&both()) {
        before.assert_near(after, NOISE_KB, "cow");
    }
}
