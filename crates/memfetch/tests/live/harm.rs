//! Reading leaves the target as it was.

use std::os::fd::AsFd;

use memfetch_testkit::footprint::{rollup, settle};
use memfetch_testkit::{Footprint, Swap};

use super::*;

/// Reads everything that can be read, region by region.
fn read_everything(process: &Process, skip_absent_above: u64) -> u64 {
    let mut bytes = vec![0; 1 << 20];
    let mut total = 0;
    for region in &process.regions().unwrap() {
        for run in &process.pages(region.span).unwrap() {
            if run.state.refusal().is_some()
                || run.state.is_known_zero() && run.span.len() > skip_absent_above
            {
                continue;
            }
            for piece in run.span.pieces(1 << 20) {
                let len = usize::try_from(piece.len()).unwrap();
                total += process.read_at(piece.start(), &mut bytes[..len]).unwrap_or(0) as u64;
            }
        }
    }
    total
}

fn unharmed(role: &str, arguments: &[&str]) {
    let mut target = Target::spawn(role, arguments);
    settle(&mut target);
    let before = Footprint::of(target.pid());
    let process = Process::open(target.pid()).unwrap();
    assert!(read_everything(&process, 16 << 20) > 0);
    assert_eq!(Footprint::of(target.pid()), before, "{role} {arguments:?}");
}

#[test]
fn sixty_four_gigabytes_reserved() {
    unharmed("reserved", &["64"]);
}

#[test]
fn a_gigabyte_of_untouched_shared_memory() {
    unharmed("shared-untouched", &["1024", "anonymous"]);
    unharmed("shared-untouched", &["1024", "memfd"]);
}

#[test]
fn absent_pages_are_read_as_zeros_and_stay_absent() {
    let mut target = Target::spawn("reserved", &["1"]);
    settle(&mut target);
    let process = Process::open(target.pid()).unwrap();
    let before = Footprint::of(target.pid());
    let (half, reserved) = span_of(&target).split_at(span_of(&target).start().saturating_add(512 << 20));
    for part in [half, reserved] {
        assert_eq!(only_state(&process, part), PageState::Absent);
        let some = part.split_at(part.start().saturating_add(8 << 20)).0;
        assert_same(&read_all(&process, some), &vec![0; 8 << 20]);
    }
    assert_eq!(Footprint::of(target.pid()), before);
}

#[test]
fn a_cold_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut target = Target::spawn("cold-file", &["32", folder.path().to_str().unwrap()]);
    if !needs("a file system that can drop its cache", target.ask("cached") == "0") {
        return;
    }
    settle(&mut target);
    let before = Footprint::of(target.pid());
    let process = Process::open(target.pid()).unwrap();
    let span = span_of(&target);
    assert_eq!(only_state(&process, span), PageState::FileClean);
    let expected: Vec<u8> = (0..span.len()).step_by(8).flat_map(u64::to_ne_bytes).collect();
    assert_same(&read_all(&process, span), &expected);
    assert_eq!(Footprint::of(target.pid()), before);
    assert_eq!(target.ask("cached"), "0");
}

#[test]
fn memory_shared_since_a_fork_stays_shared() {
    for (role, mebibytes) in [("cow", "512"), ("cow-huge", "256")] {
        let mut target = Target::spawn(role, &[mebibytes]);
        settle(&mut target);
        let span = span_of(&target);
        let child = i32::try_from(target.number("child")).unwrap();
        for pid in [child, target.pid()] {
            let process = Process::open(pid).unwrap();
            // The copy that un-sharing makes is clean, by the page table.
            let private = || rollup(pid, "Private_Dirty") + rollup(pid, "Private_Clean");
            let before = private();
            let huge = rollup(pid, "AnonHugePages");
            if pid == target.pid() {
                for piece in span.pieces(16 << 20) {
                    assert_same(&read_all(&process, piece), &addresses(piece));
                }
            } else {
                read_everything(&process, 16 << 20);
            }
            let unshared = private().saturating_sub(before);
            assert!(unshared < 256, "{role}: {unshared} kB");
            assert_eq!(rollup(pid, "AnonHugePages"), huge, "{role}");
        }
    }
}

#[test]
fn swapped_pages_are_known_as_such_and_read_on_demand() {
    let swap = Swap::new(320);
    if !needs("root, for a swap file", swap.is_some()) {
        return;
    }
    let mut target = Target::spawn("swapped", &["256"]);
    settle(&mut target);
    let span = span_of(&target);
    let before = Footprint::of(target.pid());
    if !needs("memory that can be paged out", target.status("VmSwap") > 200 << 10) {
        return;
    }
    let process = Process::open(target.pid()).unwrap();
    let runs = process.pages(span).unwrap();
    let swapped = runs.bytes_where(|state| state == PageState::Swapped);
    assert!(swapped > 200 << 20, "{swapped}");
    assert_eq!(Footprint::of(target.pid()), before);
    // What reading brings into RAM goes back, up to a few pages that the kernel was busy with.
    for piece in span.pieces(16 << 20) {
        assert_same(&read_all(&process, piece), &addresses(piece));
    }
    before.assert_near(&Footprint::of(target.pid()), 8 << 10, "swapped");
}

#[test]
fn shared_memory_in_swap_is_there_again_after_reading() {
    let swap = Swap::new(160);
    if !needs("root, for a swap file", swap.is_some()) {
        return;
    }
    let target = Target::spawn("swapped-shared", &["48"]);
    let span = span_of(&target);
    let path = memfd_of(target.pid());
    let in_swap = || {
        let object = std::fs::File::open(&path).unwrap();
        let pages = usize::try_from(span.len() / 4096).unwrap();
        let pages = memfetch_sys::object::in_swap(object.as_fd(), 0, pages).unwrap();
        pages.iter().filter(|&&is| is).count() as u64 * 4096
    };
    let before = in_swap();
    if !needs("shared memory that can be paged out", before > 40 << 20) {
        return;
    }
    let process = Process::open(target.pid()).unwrap();
    for piece in span.pieces(1 << 20) {
        assert_same(&read_all(&process, piece), &addresses(piece));
    }
    // A page more or less, at odd places.
    for piece in span.pieces(4 << 20) {
        let part = Span::from_len(piece.start().saturating_add(4096 + 8), 8192).unwrap();
        assert_same(&read_all(&process, part), &addresses(part));
    }
    let after = in_swap();
    assert!(after + (1 << 20) >= before, "{before} bytes in swap before, {after} after");
}

/// The path to the memfd that the process has open.
fn memfd_of(pid: i32) -> std::path::PathBuf {
    let is_memfd = |path: &std::path::PathBuf| {
        std::fs::read_link(path).is_ok_and(|link| link.to_string_lossy().starts_with("/memfd:"))
    };
    let folder = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    folder.map(|entry| entry.unwrap().path()).find(is_memfd).unwrap()
}
