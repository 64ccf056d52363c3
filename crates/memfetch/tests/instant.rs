//! Mode instant: what it leaves behind in the process, which is nothing; what becomes of what is too large, too fast or
//! cannot be tracked.

use std::path::Path;
use std::time::Duration;

use memfetch::error::{InjectionError, InstantError};
use memfetch::image::record::{Mode, Tracked};
use memfetch::image::verify::{Verdict, verify};
use memfetch::query::diff::Diff;
use memfetch::{Address, Error, Image, Memory, ModeChoice, PageState, Process, Report, Sharing, Snapshot};
use memfetch_testkit::Target;
use memfetch_testkit::footprint::{Footprint, rollup, settle};

const PAGE: u64 = 4096;

/// What tracking would leave in a process, were it not ended.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    mappings: usize,
    /// Mappings that are registered with a userfaultfd (`uw` among the VmFlags of proc(5)).
    registered: usize,
    descriptors: usize,
    tracer: u64,
}

impl Traces {
    fn of(target: &Target) -> Self {
        let pid = target.pid();
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
        let flags = read("smaps");
        let flags = flags.lines().filter(|line| line.starts_with("VmFlags:"));
        Self {
            mappings: read("maps").lines().count(),
            registered: flags.filter(|line| line.split(' ').any(|flag| flag == "uw")).count(),
            descriptors: std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
            tracer: target.status("TracerPid"),
        }
    }
}

fn instant(target: &Target, path: &Path) -> Report {
    let process = Process::open(target.pid()).unwrap();
    Snapshot::of(&process).mode(ModeChoice::Instant).replace(true).write_core(path).unwrap()
}

fn tracked(report: &Report) -> Tracked {
    assert_eq!(report.origin.mode, Mode::Instant);
    report.outcome.tracked.clone().unwrap()
}

fn assert_whole(path: &Path) {
    let verdict = verify(path, &mut |_, _| {}).unwrap();
    assert!(matches!(verdict, Verdict::Whole { .. }), "{verdict:?}");
}

/// That an image holds what the process, which does not change it, has in its memory.
fn assert_same(path: &Path, target: &Target, span: &str) {
    let image = Image::open(path).unwrap();
    let process = Process::open(target.pid()).unwrap();
    let selection = memfetch::Selection { only: vec![span.parse().unwrap()], skip: Vec::new() };
    let compared =
        Diff::new().selection(selection).run(&image, &process, |_| std::ops::ControlFlow::Break(()));
    let compared = compared.unwrap();
    compared.result.unwrap();
    assert!(!compared.report.is_different() && !compared.report.has_gaps(), "{:?}", compared.report);
    assert!(compared.report.compared_bytes > 0);
}

#[test]
fn nothing_is_left_in_the_process() {
    let mut target = Target::spawn("private", &["64"]);
    settle(&mut target);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("core");
    let (footprint, traces) = (Footprint::of(target.pid()), Traces::of(&target));
    assert_eq!(traces.registered, 0);
    for _ in 0..3 {
        let report = instant(&target, &path);
        assert_eq!(report.outcome.stops, 2);
        assert!(report.outcome.gaps.is_empty());
        assert!(tracked(&report).stopped_ns >= report.outcome.pause_ns);
        assert_eq!(Traces::of(&target), traces);
        Footprint::of(target.pid()).assert_near(&footprint, 128, "instant");
        assert_whole(&path);
        assert_same(&path, &target, &format!("{:#x}", target.number("start")));
    }
}

#[test]
fn a_reservation_costs_no_page_tables() {
    let target = Target::spawn("reserved", &["4096"]);
    let footprint = Footprint::of(target.pid());
    let folder = tempfile::tempdir().unwrap();
    let report = instant(&target, &folder.path().join("core"));
    assert!(report.outcome.absent_bytes > 1 << 30, "{:?}", report.outcome);
    Footprint::of(target.pid()).assert_near(&footprint, 128, "a reservation");
}

#[test]
fn a_large_process_lies_in_its_image_from_the_start() {
    let target = Target::spawn("private", &["300"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("core");
    let report = instant(&target, &path);
    assert_whole(&path);
    assert_same(&path, &target, &format!("{:#x}", target.number("start")));
    assert!(report.stored_bytes < 320 << 20, "{report:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    // The other forms, of which one is a stream: through a file of their own.
    let process = Process::open(target.pid()).unwrap();
    let raw = folder.path().join("raw");
    let report = Snapshot::of(&process).mode(ModeChoice::Instant).write_raw(&raw).unwrap();
    assert_eq!(std::fs::metadata(&raw).unwrap().len(), report.apparent_bytes);
    let directory = folder.path().join("regions");
    Snapshot::of(&process).mode(ModeChoice::Instant).write_directory(&directory).unwrap();
    assert_whole(&directory);
    assert_same(&directory, &target, &format!("{:#x}", target.number("start")));
    let mut bytes = Vec::new();
    let spool = folder.path().join("spool");
    std::fs::create_dir(&spool).unwrap();
    Snapshot::of(&process)
        .mode(ModeChoice::Instant)
        .spool_directory(&spool)
        .write_core_to(&mut bytes)
        .unwrap();
    assert_eq!(std::fs::read_dir(&spool).unwrap().count(), 0);
    let stream = folder.path().join("stream");
    std::fs::write(&stream, bytes).unwrap();
    assert_whole(&stream);
    assert_same(&stream, &target, &format!("{:#x}", target.number("start")));
}

#[test]
fn what_is_written_meanwhile_is_copied_again() {
    for megabytes in ["64", "300"] {
        let target = Target::spawn("stall", &[megabytes, "small", "random", "20000"]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("core");
        let report = instant(&target, &path);
        let tracked = tracked(&report);
        assert!(tracked.rounds > 0 && tracked.again_bytes + tracked.stop_bytes > 0, "{tracked:?}");
        assert_whole(&path);
        let image = Image::open(&path).unwrap();
        let start = Address::new(target.number("start"));
        let mut bytes = vec![0; PAGE as usize];
        assert_eq!(image.read_at(start, &mut bytes).unwrap(), bytes.len());
        assert_eq!(Traces::of(&target).registered, 0);
    }
}

#[test]
fn with_little_memory_what_is_copied_again_goes_to_the_file() {
    let target = Target::spawn("stall", &["64", "small", "random", "0"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("core");
    let process = Process::open(target.pid()).unwrap();
    for form in ["core", "raw", "stream"] {
        let snapshot = Snapshot::of(&process)
            .mode(ModeChoice::Instant)
            .spool_memory(8 << 20)
            .spool_directory(folder.path())
            .replace(true);
        let report = match form {
            "core" => snapshot.write_core(&path),
            "raw" => snapshot.write_raw(folder.path().join("raw")),
            _ => snapshot.write_core_to(&mut std::fs::File::create(&path).unwrap()),
        };
        let report = report.unwrap();
        let tracked = tracked(&report);
        assert!(tracked.again_bytes > 8 << 20, "{form}: {tracked:?}");
        assert!(report.outcome.gaps.is_empty());
        if form != "raw" {
            assert_whole(&path);
        }
    }
    assert_eq!(Traces::of(&target).registered, 0);
}

#[test]
fn what_is_given_back_meanwhile_is_zero_again() {
    let mut target = Target::spawn("private", &["64"]);
    let (start, bytes) = (target.number("start"), target.number("bytes"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("core");
    let process = Process::open(target.pid()).unwrap();
    let mut is_given_back = false;
    // Told of while it is copied for the first time: all of that goes to the file.
    let report = Snapshot::of(&process)
        .mode(ModeChoice::Instant)
        .spool_memory(8 << 20)
        .progress(|progress| {
            if !is_given_back && progress.done_bytes > progress.total_bytes / 2 {
                is_given_back = true;
                assert_eq!(target.ask("discard"), "0");
            }
        })
        .write_core(&path)
        .unwrap();
    assert!(is_given_back);
    assert!(report.outcome.gaps.is_empty());
    assert_whole(&path);
    let image = Image::open(&path).unwrap();
    let mut at = start;
    let mut page = vec![1; PAGE as usize];
    while at < start + bytes {
        assert_eq!(image.read_at(Address::new(at), &mut page).unwrap(), page.len());
        assert!(page.iter().all(|byte| *byte == 0), "{at:#x} holds what was given back");
        at += PAGE;
    }
    assert!(report.stored_bytes < 16 << 20, "{report:?}");
}

#[test]
fn huge_pages_are_put_together_again() {
    let target = Target::spawn("stall", &["128", "huge", "random", "20000"]);
    let before = rollup(target.pid(), "AnonHugePages");
    if before == 0 {
        eprintln!("skipped: there are no huge pages to be had");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let report = instant(&target, &folder.path().join("core"));
    let split = tracked(&report).split_bytes >> 10;
    let after = rollup(target.pid(), "AnonHugePages");
    assert!(after + split >= before, "{before} kB before, {after} kB after, {split} kB told of");
    if rustix::process::geteuid().is_root() {
        assert_eq!((split, after), (0, before));
    } else {
        assert!(report.outcome.remarks.iter().any(|remark| remark.contains("huge pages")) || split == 0);
    }
}

#[test]
fn who_writes_too_fast_for_a_pause_is_told_of() {
    let target = Target::spawn("stall", &["64", "small", "random", "0"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("core");
    let process = Process::open(target.pid()).unwrap();
    let limit = Some(Duration::from_nanos(1));
    let result = Snapshot::of(&process).mode(ModeChoice::Instant).max_pause(limit).write_core(&path);
    let Err(Error::NoInstant { source: InstantError::TooFast { bytes, .. }, .. }) = result else {
        panic!("{result:?}")
    };
    assert!(bytes > 0);
    assert!(!path.exists());
    let report = Snapshot::of(&process).max_pause(limit).write_core(&path).unwrap();
    assert_eq!((report.origin.mode, report.outcome.stops), (Mode::Live, 0));
    assert!(report.outcome.remarks.iter().any(|remark| remark.contains("writes too fast")), "{report:?}");
    assert_eq!(Traces::of(&target).registered, 0);
}

#[test]
fn where_it_cannot_be_done_the_next_best_is() {
    let target = Target::spawn("dispatched", &[]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("core");
    let process = Process::open(target.pid()).unwrap();
    let result = Snapshot::of(&process).mode(ModeChoice::Instant).write_core(&path);
    assert!(
        matches!(
            result,
            Err(Error::NoInstant { source: InstantError::Injection(InjectionError::UserDispatch), .. })
        ),
        "{result:?}"
    );
    let report = Snapshot::of(&process).write_core(&path).unwrap();
    assert_eq!(report.origin.mode, Mode::Freeze);
    let reason =
        "mode freeze, since its writes cannot be tracked: it has its system calls turned into signals";
    assert!(report.outcome.remarks.iter().any(|remark| remark.starts_with(reason)), "{report:?}");
}

#[test]
fn shared_memory_is_copied_in_the_stop_or_tracked() {
    let target = Target::spawn("shared", &["16"]);
    let folder = tempfile::tempdir().unwrap();
    let process = Process::open(target.pid()).unwrap();
    let take = |sharing| {
        let path = folder.path().join("core");
        let report = Snapshot::of(&process)
            .mode(ModeChoice::Instant)
            .sharing(sharing)
            .replace(true)
            .write_core(&path)
            .unwrap();
        assert_whole(&path);
        assert_same(&path, &target, &format!("{:#x}", target.number("start")));
        (tracked(&report), report)
    };
    let (stop, _) = take(Sharing::Stop);
    assert!(stop.shared_in_stop && stop.stop_bytes >= 8 << 20, "{stop:?}");
    let (auto, _) = take(Sharing::Auto);
    assert!(auto.shared_in_stop, "{auto:?}");
    let (tracked, report) = take(Sharing::Tracked);
    assert!(!tracked.shared_in_stop && tracked.stop_bytes < 8 << 20, "{tracked:?}");
    assert!(report.outcome.remarks.iter().any(|remark| remark.contains("shared memory")), "{report:?}");
}

#[test]
fn what_was_never_touched_is_known_to_be_zero() {
    let target = Target::spawn("holes", &[]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("core");
    instant(&target, &path);
    assert_whole(&path);
    let image = Image::open(&path).unwrap();
    let start = Address::new(target.number("start"));
    let span = image.regions().unwrap().at(start).unwrap().span;
    let live = Process::open(target.pid()).unwrap().pages(span).unwrap();
    let saved = image.pages(span).unwrap();
    let zero = |state: PageState| state.is_known_zero();
    assert_eq!(saved.bytes_where(zero), live.bytes_where(zero));
}
