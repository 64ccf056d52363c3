//! Snapshots through the library: what must hold however the target and the output behave.

use std::io::Write;
use std::time::Duration;

use memfetch::error::OutputError;
use memfetch::{Address, Cause, Error, Image, Memory, ModeChoice, Process, ReadError, Selection, Snapshot};
use memfetch_testkit::Target;

const PAGE: u64 = 4096;

/// Keeps what is written, and does something before the first byte is taken.
struct Interrupted<F: FnMut()> {
    bytes: Vec<u8>,
    before: F,
}

impl<F: FnMut()> Write for Interrupted<F> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.bytes.is_empty() {
            (self.before)();
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A live core of 96 MiB of which most is gone, by this order, before it is read; each page is counted as its own
/// bytes, as zeros, or as missing with a cause.
fn counted(order: &str) -> (u64, u64, u64, memfetch::Report) {
    let mut target = Target::spawn("private", &["96"]);
    let (start, bytes) = (target.number("start"), target.number("bytes"));
    let process = Process::open(target.pid()).unwrap();
    let only = Selection { only: vec![format!("{start:#x}").parse().unwrap()], skip: Vec::new() };
    let mut output = Interrupted { bytes: Vec::new(), before: || assert_eq!(target.ask(order), "0") };
    let report =
        Snapshot::of(&process).mode(ModeChoice::Live).selection(only).write_core_to(&mut output).unwrap();
    let image = Image::from_bytes(output.bytes).unwrap();
    let (mut own, mut zero, mut missing) = (0, 0, 0);
    for at in (start..start + bytes).step_by(PAGE as usize) {
        let mut word = [0; 8];
        match image.read_at(Address::new(at), &mut word) {
            Ok(8) if u64::from_ne_bytes(word) == at => own += 1,
            Ok(8) if word == [0; 8] => zero += 1,
            Err(ReadError::Fault(fault)) if fault.cause == Cause::Vanished => missing += 1,
            other => panic!("{at:#x}: {other:?} {word:?}"),
        }
    }
    (own, zero, missing, report)
}

#[test]
fn what_is_unmapped_meanwhile_is_a_gap_and_never_zeros() {
    let (own, zero, missing, report) = counted("unmap");
    assert_eq!(zero, 0);
    assert!(own > 0 && missing > 1000, "{own} pages are there, {missing} missing");
    assert_eq!(report.outcome.gaps.bytes(), missing * PAGE);
    assert!(report.outcome.read_bytes < 96 << 20);
}

#[test]
fn what_is_given_back_meanwhile_is_zero_and_no_gap() {
    let (own, zero, missing, report) = counted("discard");
    assert_eq!(missing, 0);
    assert!(own > 0 && zero > 1000, "{own} pages are as they were, {zero} zero");
    assert!(report.outcome.gaps.is_empty());
}

#[test]
fn a_process_is_not_held_for_an_output_that_takes_nothing() {
    let target = Target::spawn("private", &["96"]);
    let process = Process::open(target.pid()).unwrap();
    let mut held = Vec::new();
    let mut output = Interrupted {
        bytes: Vec::new(),
        before: || {
            for _ in 0..3 {
                held.push(target.status("TracerPid") != 0);
                std::thread::sleep(Duration::from_secs(1));
            }
            held.push(target.status("TracerPid") != 0);
        },
    };
    let result = Snapshot::of(&process)
        .mode(ModeChoice::Freeze)
        .time_limit(Some(Duration::from_millis(500)))
        .write_core_to(&mut output);
    let Err(Error::Output { source: OutputError::Blocked { .. }, .. }) = result else {
        panic!("{result:?}");
    };
    assert_eq!((held.first(), held.last()), (Some(&true), Some(&false)));
}
