//! Shared memory that a parent filled, and of which its child has nothing in its page table.

use memfetch::PageState;
use memfetch_testkit::target::status_of;

use super::*;

/// 256 MiB are filled, and as much is a hole.
const MEBIBYTES: &str = "512";
const FILLED: u64 = 256 << 20;

/// The child, and where its memory lies.
fn child_of(target: &Target) -> (i32, Span) {
    (i32::try_from(target.number("child")).unwrap(), span_of(target))
}

fn assert_complete(taken: &Taken, span: Span) {
    let image = taken.image();
    assert_words(&image, part(span, 0, FILLED), |at| at);
    assert_words(&image, part(span, FILLED, FILLED), |_| 0);
    let runs = image.pages(span).unwrap();
    let missing = runs.bytes_where(|state| matches!(state, PageState::Unreadable(_)));
    assert_eq!(missing, 0, "{:?}", runs.as_slice());
}

#[test]
fn the_child_s_core_holds_what_the_parent_wrote() {
    let _alone = alone();
    if !needs("a core of shared memory", "root, to open what is behind a mapping", is_root()) {
        return;
    }
    for sort in ["anonymous", "memfd", "sysv"] {
        let mut target = Target::spawn("shared", &[MEBIBYTES, sort]);
        settle(&mut target);
        let (child, span) = child_of(&target);
        for mode in MODES {
            let before = Footprint::of(child);
            let taken = snap(child, &["--mode", mode]);
            let what = format!("256 MiB of shared memory, {sort}, {mode}");
            before.assert_near(&Footprint::of(child), NOISE_KB, &what);
            taken.print(&what);
            assert_complete(&taken, span);
        }
    }
}

#[test]
fn what_an_ordinary_user_may_not_open_is_a_gap_or_is_touched_if_asked_for() {
    let _alone = alone();
    if !needs("shared memory as an ordinary user", "root, to become another user", is_root()) {
        return;
    }
    let folder = open_folder();
    let program = copied(&memfetch_testkit::target::program(), &folder, "memfetch-target");
    for (sort, can_be_opened) in [("anonymous", false), ("memfd", true), ("sysv", false)] {
        let [setpriv, rest @ ..] = AS_NOBODY;
        let mut command = Command::new(setpriv);
        command.args(rest).arg(&program).args(["shared", MEBIBYTES, sort]);
        let mut target = Target::spawn_command(command);
        settle(&mut target);
        let (child, span) = child_of(&target);
        for mode in MODES {
            let what = format!("256 MiB of shared memory, {sort}, {mode}, as an ordinary user");
            let before = Footprint::of(child);
            let taken = Runner::nobody().snap(child, &["--mode", mode]);
            before.assert_near(&Footprint::of(child), NOISE_KB, &what);
            taken.print(&what);
            if can_be_opened {
                assert_eq!(taken.code, 0, "{}", taken.said);
                assert_complete(&taken, span);
                continue;
            }
            assert_eq!(taken.code, 3, "{}", taken.said);
            let gaps = taken.report["outcome"]["gaps"].as_array().unwrap();
            assert!(gaps.iter().all(|gap| gap["cause"] == "shared-unknown"), "{gaps:?}");
            let image = taken.image();
            let missing = image
                .pages(span)
                .unwrap()
                .bytes_where(|state| state == PageState::Unreadable(memfetch::Cause::SharedUnknown));
            assert_eq!(missing, span.len());
            assert!(image.read_at(span.start(), &mut [0]).is_err());
        }
        let shared_before = status_of(child, "RssShmem");
        let taken = Runner::nobody().snap(child, &["--mode", "live", "--touch", "all"]);
        taken.print(&format!("256 MiB of shared memory, {sort}, --touch all"));
        assert_eq!(taken.code, 0, "{}", taken.said);
        assert_complete(&taken, span);
        let touched = status_of(child, "RssShmem") - shared_before;
        // What could be opened need not be touched for it.
        assert_eq!(touched >= FILLED >> 10, !can_be_opened, "{touched} kB");
    }
}

#[test]
fn a_file_that_is_gone_is_a_gap_or_is_touched_if_asked_for() {
    let _alone = alone();
    if !needs("a deleted file as an ordinary user", "root, to become another user", is_root()) {
        return;
    }
    let folder = open_folder();
    let program = copied(&memfetch_testkit::target::program(), &folder, "memfetch-target");
    let files = folder.path().join("files");
    std::fs::create_dir(&files).unwrap();
    std::fs::set_permissions(&files, std::fs::Permissions::from_mode(0o777)).unwrap();
    let [setpriv, rest @ ..] = AS_NOBODY;
    let mut command = Command::new(setpriv);
    command.args(rest).arg(&program).arg("names").arg(&files);
    let mut target = Target::spawn_command(command);
    settle(&mut target);
    let gone = Address::new(target.number("gone"));
    let full = ["--mode", "live", "--contents", "full"];

    let before = Footprint::of(target.pid());
    let taken = Runner::nobody().snap(target.pid(), &full);
    assert_eq!(taken.code, 3, "{}", taken.said);
    let gaps = taken.report["outcome"]["gaps"].as_array().unwrap();
    assert!(gaps.iter().any(|gap| gap["cause"] == "file-unavailable"), "{gaps:?}");
    // What stands in the file in its place is never shown as if it were the bytes.
    let read = taken.image().read_at(gone, &mut [0; 4]);
    assert!(read.is_err(), "{read:?}");
    assert_eq!(Footprint::of(target.pid()), before);

    let taken = Runner::nobody().snap(target.pid(), &[&full[..], &["--touch", "all"]].concat());
    assert_eq!(taken.code, 0, "{}", taken.said);
    let mut bytes = [0; 4];
    assert_eq!(taken.image().read_at(gone, &mut bytes).unwrap(), 4);
    assert_eq!(&bytes, b"gone");
}
