//! Live processes as sources, over target programs in known states.

mod contract;
mod harm;
mod lifetime;
mod permission;
mod rules;
mod states;

use memfetch::{Address, Cause, Memory, PageRun, PageState, Process, Span};
use memfetch_testkit::Target;

fn span_of(target: &Target) -> Span {
    Span::from_len(Address::new(target.number("start")), target.number("bytes")).unwrap()
}

/// Every 8-byte word is its own address.
fn addresses(span: Span) -> Vec<u8> {
    (span.start().get()..span.end().get()).step_by(8).flat_map(u64::to_ne_bytes).collect()
}

/// Reads all of `span`, and takes it from a short read on.
fn read_all(memory: &dyn Memory, span: Span) -> Vec<u8> {
    let mut bytes = vec![0xaa; usize::try_from(span.len()).unwrap()];
    let mut done = 0;
    while done < bytes.len() {
        let at = span.start().saturating_add(done as u64);
        done += memory.read_at(at, &mut bytes[done..]).unwrap_or_else(|error| panic!("{at}: {error:?}"));
    }
    bytes
}

/// Compares without printing megabytes.
fn assert_same(found: &[u8], expected: &[u8]) {
    assert_eq!(found.len(), expected.len());
    let differs = found.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!(differs, None, "the first byte that differs");
}

fn states(process: &Process, span: Span) -> Vec<PageRun> {
    process.pages(span).unwrap().as_slice().to_vec()
}

fn only_state(process: &Process, span: Span) -> PageState {
    match states(process, span).as_slice() {
        [run] if run.span == span => run.state,
        runs => panic!("several runs: {runs:?}"),
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether the test can go on; says why not where it cannot.
fn needs(what: &str, met: bool) -> bool {
    if !met {
        eprintln!("skipped: needs {what}");
    }
    met
}
