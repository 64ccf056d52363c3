//! The promises of [`Memory`], over live processes.

use memfetch_testkit::{Expected, conformance};

use super::*;

const PAGE: u64 = 4096;

#[test]
fn holes_of_every_sort() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::spawn("holes", &[folder.path().to_str().unwrap()]);
    let start = target.number("start");
    let file: Vec<u8> = (0..PAGE + 100).map(|n| u8::try_from(n % 251).unwrap()).chain([0; 3996]).collect();
    let mut expected = Expected::new()
        .addresses(start, 2 * PAGE)
        .hole(start + 2 * PAGE, PAGE, Cause::NotMapped)
        .addresses(start + 3 * PAGE, PAGE)
        // PROT_NONE, and readable all the same.
        .addresses(start + 4 * PAGE, PAGE)
        .addresses(start + 5 * PAGE, 2 * PAGE)
        .part(start + 7 * PAGE, [0; 4096])
        .hole(start + 8 * PAGE, PAGE, Cause::NotMapped)
        .part(start + 9 * PAGE, file)
        .hole(start + 11 * PAGE, PAGE, Cause::BeyondFile)
        .hole(start + 14 * PAGE, PAGE, Cause::NotMapped)
        .addresses(start + 15 * PAGE, PAGE)
        .hole(start + 16 * PAGE, PAGE, Cause::NotMapped);
    if target.number("secret") == 1 {
        expected = expected.hole(start + 12 * PAGE, PAGE, Cause::Secret);
    }
    if target.number("guard") == 1 {
        expected = expected.hole(start + 13 * PAGE, PAGE, Cause::Guard);
    }
    let process = Process::open(target.pid()).unwrap();
    conformance::check(&process.with_time_limit(None), &expected);
    // On workers, with less of it: a read takes several times as long.
    let few =
        Expected::new().addresses(start + 15 * PAGE, PAGE).hole(start + 16 * PAGE, 16, Cause::NotMapped);
    conformance::check(&process, &few);
}

#[test]
fn neighbours_and_sparse_memory() {
    let target = Target::spawn("many-mappings", &["6"]);
    let start = target.number("start");
    let mut expected = Expected::new();
    for page in 0..6 {
        expected = if page % 2 == 0 {
            expected.addresses(start + page * PAGE, PAGE)
        } else {
            expected.part(start + page * PAGE, [0; 4096])
        };
    }
    conformance::check(&Process::open(target.pid()).unwrap().with_time_limit(None), &expected);
}

#[test]
fn shared_memory() {
    let parent = Target::spawn("shared", &["1", "memfd"]);
    let child = i32::try_from(parent.number("child")).unwrap();
    let (start, half) = (parent.number("start"), parent.number("bytes") / 2);
    let expected = Expected::new().addresses(start, half).part(start + half, vec![0; 512 << 10]);
    conformance::check(&Process::open(child).unwrap().with_time_limit(None), &expected);
}
