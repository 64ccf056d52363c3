//! What a snapshot holds was true at one instant, for all threads and pages: images of processes that write at full
//! speed, judged by what holds in them at every instant.
//!
//! `MEMFETCH_TEST_ROUNDS` is how many snapshots are taken of each process in each mode; 5 where it is not set.

use memfetch::error::InstantError;
use memfetch::{Error, Image, ModeChoice, Process, Snapshot, TrackerChoice};
use memfetch_testkit::Target;
use memfetch_testkit::invariants::{self, Counters, Judgement, Violation};
use memfetch_testkit::peers::skipped;

/// How a process is held still, and how it is told what it writes.
type Way = (ModeChoice, TrackerChoice);

const FREEZE: Way = (ModeChoice::Freeze, TrackerChoice::Auto);
const LIVE: Way = (ModeChoice::Live, TrackerChoice::Auto);
const WRITE_PROTECT: Way = (ModeChoice::Instant, TrackerChoice::WriteProtect);
const SOFT_DIRTY: Way = (ModeChoice::Instant, TrackerChoice::SoftDirty);

/// The ways whose images are consistent, as far as this kernel has them.
fn consistent() -> Vec<Way> {
    let mut ways = vec![FREEZE, WRITE_PROTECT, SOFT_DIRTY];
    let target = Target::spawn("private", &["1"]);
    let process = Process::open(target.pid()).unwrap();
    ways.retain(|&(mode, tracker)| {
        let tried = Snapshot::of(&process).mode(mode).tracker(tracker).write_core_to(&mut std::io::sink());
        match tried {
            Ok(_) => true,
            Err(Error::NoInstant {
                source: InstantError::Tracking(_) | InstantError::NoSoftDirty, ..
            }) => {
                skipped(&format!("consistent images by {tracker:?}"), "the kernel has no such tracking");
                false
            }
            Err(error) => panic!("{mode:?} {tracker:?}: {error}: {error:?}"),
        }
    });
    ways
}

fn rounds() -> usize {
    std::env::var("MEMFETCH_TEST_ROUNDS").map_or(5, |text| text.parse().expect("a number"))
}

/// Takes a snapshot, and has it judged once the file is opened.
fn judged<T>(target: &Target, way: Way, judge: impl FnOnce(&Image) -> T) -> T {
    judged_with(target, way, None, judge)
}

fn judged_with<T>(
    target: &Target,
    (mode, tracker): Way,
    memory: Option<u64>,
    judge: impl FnOnce(&Image) -> T,
) -> T {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("core");
    let process = Process::open(target.pid()).unwrap();
    let mut snapshot = Snapshot::of(&process).mode(mode).tracker(tracker);
    if let Some(bytes) = memory {
        snapshot = snapshot.spool_memory(bytes);
    }
    let report = snapshot.write_core(&path).unwrap();
    assert!(mode == ModeChoice::Live || report.outcome.gaps.is_empty(), "{:?}", report.outcome.gaps);
    judge(&Image::open(&path).unwrap())
}

/// Each image of a process in this role must hold; returns the judgements.
fn holds(role: &str, arguments: &[&str]) -> Vec<Judgement> {
    let mut target = Target::spawn(role, arguments);
    let invariant = invariants::of(role, &target);
    let mut judgements: Vec<Judgement> = Vec::new();
    for mode in consistent() {
        for round in 0..rounds() {
            let judgement = judged(&target, mode, |image| invariant.check(image));
            let judgement =
                judgement.unwrap_or_else(|violation| panic!("{role}, {mode:?}, round {round}: {violation}"));
            // It works before each of them and after it, and an image is none of an earlier instant.
            let last = judgements.last().map_or(0, |last| last.progress);
            assert!(judgement.progress > last, "{role}, {mode:?}, round {round}: {judgement:?} after {last}");
            judgements.push(judgement);
            assert!(target.is_alive());
        }
    }
    judgements
}

/// That some image taken without a stop is found to be torn, which shows that whoever judges can tell.
fn is_torn_without_a_stop(role: &str, arguments: &[&str]) {
    let target = Target::spawn(role, arguments);
    let invariant = invariants::of(role, &target);
    let torn = |_: &usize| judged(&target, LIVE, |image| invariant.check(image).is_err());
    assert!((0..50).any(|round| torn(&round)), "{role}: no image out of 50 is torn");
}

#[test]
fn rounds_of_counters_are_whole() {
    holds("counters", &[]);
}

#[test]
fn rounds_of_counters_in_huge_pages_are_whole() {
    holds("counters", &["8192", "2", "huge"]);
}

#[test]
fn what_threads_are_about_to_write_fits_what_they_have_written() {
    let target = Target::spawn("counters", &["512", "3"]);
    let counters = Counters::of(&target);
    for mode in consistent() {
        for round in 0..rounds() {
            let found: Result<u64, Violation> =
                judged(&target, mode, |image| counters.check_registers(image, image));
            assert_eq!(found, Ok(3), "{mode:?}, round {round}");
        }
    }
}

#[test]
fn transfers_between_accounts_are_whole() {
    holds("bank", &[]);
}

#[test]
fn transfers_under_a_lock_are_whole() {
    holds("bank", &["1024", "4", "locked"]);
}

#[test]
fn a_sequence_lock_tells_when_its_array_is_whole() {
    // Which of them could be judged is chance, so that a few more may be needed for one.
    for _ in 0..10 {
        let judgements = holds("seqlock", &[]);
        let complete = judgements.iter().filter(|judgement| judgement.complete).count();
        println!("{complete} of {} arrays were whole", judgements.len());
        if complete > 0 {
            return;
        }
    }
    panic!("in no image was the sequence even");
}

#[test]
fn lists_whose_nodes_move_can_be_walked() {
    holds("linked", &[]);
}

#[test]
fn an_epoch_is_in_memory_of_every_kind() {
    holds("mixed-writers", &[]);
}

#[test]
fn each_kind_of_memory_alone_has_its_epoch() {
    let mut target = Target::spawn("mixed-writers", &[]);
    let invariant = invariants::of("mixed-writers", &target);
    let pieces: Vec<String> = target.fact("pieces").split(',').map(str::to_owned).collect();
    for piece in &pieces {
        assert_eq!(target.ask(&format!("off {piece}")), "switched");
    }
    let ways = consistent();
    for piece in &pieces {
        assert_eq!(target.ask(&format!("on {piece}")), "switched");
        for &mode in &ways {
            let judgement = judged(&target, mode, |image| invariant.check(image));
            assert!(judgement.is_ok(), "{piece}, {mode:?}: {judgement:?}");
        }
        assert_eq!(target.ask(&format!("off {piece}")), "switched");
    }
}

#[test]
fn with_little_memory_images_are_whole_as_well() {
    // What is copied again goes to the image, and so does what is left to the stop.
    if !consistent().contains(&WRITE_PROTECT) {
        return;
    }
    for role in ["counters", "bank", "linked", "mixed-writers"] {
        let target = Target::spawn(role, &[]);
        let invariant = invariants::of(role, &target);
        for round in 0..rounds() {
            let judgement =
                judged_with(&target, WRITE_PROTECT, Some(1 << 20), |image| invariant.check(image));
            assert!(judgement.is_ok(), "{role}, round {round}: {judgement:?}");
        }
    }
}

#[test]
fn live_counters_are_torn() {
    is_torn_without_a_stop("counters", &[]);
}

#[test]
fn live_transfers_are_torn() {
    is_torn_without_a_stop("bank", &[]);
}

#[test]
fn live_arrays_are_torn() {
    is_torn_without_a_stop("seqlock", &[]);
}

#[test]
fn live_lists_are_torn() {
    is_torn_without_a_stop("linked", &[]);
}

#[test]
fn live_epochs_are_torn() {
    is_torn_without_a_stop("mixed-writers", &[]);
}

#[test]
fn the_meter_sees_how_long_a_process_was_held() {
    let mut target = Target::spawn("stall", &["128", "small", "hot", "20000"]);
    let answer = |target: &mut Target| {
        let answer = target.ask("stall");
        let number = |index: usize| answer.split(' ').nth(index).and_then(|text| text.parse::<u64>().ok());
        number(0).zip(number(1)).unwrap_or_else(|| panic!("{answer}"))
    };
    answer(&mut target);
    let folder = tempfile::tempdir().unwrap();
    let process = Process::open(target.pid()).unwrap();
    let snapshot = Snapshot::of(&process).mode(ModeChoice::Freeze);
    let report = snapshot.write_core(folder.path().join("core")).unwrap();
    let (longest_us, turns) = answer(&mut target);
    // Its own stop is shorter than that of all threads, by the time that the first waits for the last.
    assert!(
        longest_us * 1000 > report.outcome.pause_ns / 2,
        "{longest_us} us of {} ns",
        report.outcome.pause_ns
    );
    assert!(turns > 0);
}
