//! What a snapshot holds was true at one instant, for all threads and pages: images of processes that write at full
//! speed, judged by what holds in them at every instant.
//!
//! `MEMFETCH_TEST_ROUNDS` is how many snapshots are taken of each process in each mode; 5 where it is not set.

use memfetch::image::record::Contents;
use memfetch::{Image, ModeChoice, Process, Snapshot};
use memfetch_testkit::Target;
use memfetch_testkit::invariants::{self, Counters, Judgement, Violation};

/// The modes whose images are consistent.
const CONSISTENT: &[ModeChoice] = &[ModeChoice::Freeze];

fn rounds() -> usize {
    std::env::var("MEMFETCH_TEST_ROUNDS").map_or(5, |text| text.parse().expect("a number"))
}

/// Takes a snapshot, and has it judged once the file is opened.
fn judged<T>(target: &Target, mode: ModeChoice, judge: impl FnOnce(&Image) -> T) -> T {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("core");
    let process = Process::open(target.pid()).unwrap();
    let snapshot = Snapshot::of(&process).mode(mode).contents(Contents::Default);
    let report = snapshot.write_core(&path).unwrap();
    assert!(mode == ModeChoice::Live || report.outcome.gaps.is_empty(), "{:?}", report.outcome.gaps);
    judge(&Image::open(&path).unwrap())
}

/// Each image of a process in this role must hold; returns the judgements.
fn holds(role: &str, arguments: &[&str]) -> Vec<Judgement> {
    let mut target = Target::spawn(role, arguments);
    let invariant = invariants::of(role, &target);
    let mut judgements: Vec<Judgement> = Vec::new();
    for &mode in CONSISTENT {
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
    let torn = |_: &usize| judged(&target, ModeChoice::Live, |image| invariant.check(image).is_err());
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
    for &mode in CONSISTENT {
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
    let judgements = holds("seqlock", &[]);
    let complete = judgements.iter().filter(|judgement| judgement.complete).count();
    println!("{complete} of {} arrays were whole", judgements.len());
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
fn live_counters_are_torn() {
    is_torn_without_a_stop("counters", &[]);
}

#[test]
fn live_transfers_are_torn() {
    is_torn_without_a_stop("bank", &[]);
}

#[test]
fn live_epochs_are_torn() {
    is_torn_without_a_stop("mixed-writers", &[]);
}
