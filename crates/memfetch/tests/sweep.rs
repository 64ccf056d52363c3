//! The engine behind find, strings and their kin, over spaces made of literals.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use memfetch::query::sweep::{Chunk, Coverage, Left, Scope, Survey, Sweep, Swept};
use memfetch::{
    Address, Backing, Cause, Error, Memory, PageRuns, PageSource, PageState, Platform, ReadError, Region,
    RegionMap, Source, Span,
};
use memfetch_testkit::Space;
use proptest::prelude::*;

const ANONYMOUS: Backing = Backing::Anonymous { label: None };

/// A space of parts that adjoin or do not: each a distance from the last, a length, and a sort.
fn space(parts: &[(u64, u64, u8)]) -> Space {
    // A fault costs its page, and the parts here are no pages.
    let mut space = Space::new().on(Platform { page_size: 1, ..Platform::X86_64 });
    let mut at = 0x10_0000;
    for &(distance, len, sort) in parts {
        at += distance;
        let bytes: Vec<u8> = (0..len).map(|i| ((at + i) % 251 + 1) as u8).collect();
        space = match sort {
            0 => space.zeros(at, len),
            1 => space.unreadable(at, len, Cause::Vanished),
            2 => space.vanished(at, len),
            _ => space.bytes(at, &bytes),
        };
        at += len;
    }
    space
}

fn parts() -> impl Strategy<Value = Vec<(u64, u64, u8)>> {
    let distance = prop_oneof![3 => Just(0_u64), 1 => 1..50_u64];
    let len = prop_oneof![8 => 1..60_u64, 1 => Just(66_000)];
    prop::collection::vec((distance, len, 0..6_u8), 1..12)
}

/// All bytes that cores have, with those that were shown around them checked against the source.
fn cores(space: &Space, sweep: &Sweep) -> (Vec<(u64, u8)>, Coverage) {
    let survey = Survey::of(space, &Scope::default()).unwrap();
    let mut seen = Vec::new();
    let look = |chunk: &Chunk| -> Vec<(u64, u8)> {
        let mut here = Vec::new();
        for segment in chunk.segments() {
            for index in segment.core() {
                here.push((segment.address_of(index).get(), segment.bytes()[index]));
            }
        }
        here
    };
    let swept = sweep.run(space, survey, look, |chunk, here| {
        for segment in chunk.segments() {
            let mut bytes = vec![0; segment.bytes().len()];
            let mut done = 0;
            while done < bytes.len() {
                done += space.read_at(segment.address_of(done), &mut bytes[done..]).unwrap();
            }
            assert!(bytes == segment.bytes());
        }
        seen.extend(here);
        ControlFlow::Continue(())
    });
    swept.result.unwrap();
    (seen, swept.coverage)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_byte_that_can_be_read_is_in_one_core(
        parts in parts(), core in 4..10_u32, behind in 0..40_u64, ahead in 0..40_u64, threads in 1..4_usize,
    ) {
        let space = space(&parts);
        let sweep = Sweep::new().threads(threads).core(1 << core).behind(behind).ahead(ahead);
        let (seen, coverage) = cores(&space, &sweep);
        prop_assert!(seen.is_sorted_by(|a, b| a.0 < b.0));
        let mut read = 0;
        for region in &space.regions().unwrap() {
            let state = space.pages(region.span).unwrap().as_slice()[0].state;
            for at in region.span.start().get()..region.span.end().get() {
                let mut byte = [0];
                if state.is_known_zero() || space.read_at(Address::new(at), &mut byte).is_err() {
                    continue;
                }
                read += 1;
                let found = seen.binary_search_by_key(&at, |(at, _)| *at);
                prop_assert_eq!(found.map(|index| seen[index].1), Ok(byte[0]));
            }
        }
        prop_assert_eq!(coverage.read_bytes, read);
        // Whatever else is in a core is zero and known to be.
        for (at, byte) in seen {
            let run = space.pages(Span::from_len(Address::new(at), 1).unwrap()).unwrap().as_slice()[0];
            prop_assert!(byte != 0 || run.state.is_known_zero());
        }
        let mapped: u64 = space.regions().unwrap().bytes();
        prop_assert_eq!(coverage.read_bytes + coverage.zero_bytes + coverage.gaps.bytes(), mapped);
    }
}

/// A space some of whose pages are read for as long as `gate` is held.
#[derive(Clone)]
struct Stuck {
    space: Space,
    stuck: Span,
    gate: Arc<Mutex<()>>,
}

impl Memory for Stuck {
    fn platform(&self) -> &Platform {
        self.space.platform()
    }

    fn regions(&self) -> Result<RegionMap, Error> {
        self.space.regions()
    }

    fn pages(&self, span: Span) -> Result<PageRuns, Error> {
        self.space.pages(span)
    }

    fn read_at(&self, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        let wanted = Span::from_len(at, buf.len() as u64).unwrap();
        if wanted.intersection(self.stuck).is_some() {
            drop(self.gate.lock());
        }
        self.space.read_at(at, buf)
    }
}

impl PageSource for Stuck {
    fn fetch(&self, _: &Region, _: PageState, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        self.read_at(at, buf)
    }

    fn touch(&self, _: &Region, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        self.read_at(at, buf)
    }
}

impl Source for Stuck {
    fn handle(&self) -> Arc<dyn Source> {
        Arc::new(self.clone())
    }

    fn time_limit(&self) -> Option<Duration> {
        Some(Duration::from_millis(100))
    }
}

fn stuck(pages: u64, stuck: std::ops::Range<u64>) -> (Stuck, Arc<Mutex<()>>) {
    let gate = Arc::new(Mutex::new(()));
    let base = 0x10_0000;
    let space = Space::new().bytes(base, &vec![7; (pages * 4096) as usize]);
    let span =
        Span::new(Address::new(base + stuck.start * 4096), Address::new(base + stuck.end * 4096)).unwrap();
    (Stuck { space, stuck: span, gate: Arc::clone(&gate) }, gate)
}

fn count(source: &Stuck, threads: usize) -> (u64, Swept) {
    let survey = Survey::of(source, &Scope::default()).unwrap();
    let mut sum = 0;
    let look = |chunk: &Chunk| chunk.segments().map(|segment| segment.core().len() as u64).sum::<u64>();
    let swept = Sweep::new().threads(threads).core(4096).run(source, survey, look, |_, found| {
        sum += found;
        ControlFlow::Continue(())
    });
    (sum, swept)
}

#[test]
fn a_page_that_never_comes_is_a_gap_and_holds_up_nobody() {
    let (source, gate) = stuck(40, 10..11);
    let held = gate.lock().unwrap();
    let (sum, swept) = count(&source, 1);
    swept.result.unwrap();
    assert_eq!(sum, 39 * 4096);
    let gaps = swept.coverage.gaps.as_slice();
    assert_eq!(
        gaps.iter().map(|gap| (gap.span, gap.cause)).collect::<Vec<_>>(),
        [(source.stuck, Cause::TimedOut)]
    );
    drop(held);
}

#[test]
fn a_source_that_is_stuck_all_over_is_given_up_on() {
    let (source, gate) = stuck(64, 0..64);
    let held = gate.lock().unwrap();
    let (sum, swept) = count(&source, 4);
    assert!(matches!(swept.result, Err(Error::Os { .. })), "{:?}", swept.result);
    assert_eq!(sum, 0);
    drop(held);
}

#[test]
fn the_caller_ends_it_when_it_has_enough() {
    let (source, _gate) = stuck(4096, 0..0);
    let survey = Survey::of(&source, &Scope::default()).unwrap();
    let mut delivered = 0;
    let swept = Sweep::new().threads(3).core(4096).run(
        &source,
        survey,
        |_| (),
        |_, ()| {
            delivered += 1;
            if delivered == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        },
    );
    swept.result.unwrap();
    assert_eq!((delivered, swept.coverage.read_bytes), (5, 5 * 4096));
}

#[test]
fn what_is_not_read_is_told_apart() {
    let file = |space: Space, at, state| space.region(at, 4096, "rw-p", ANONYMOUS).part(at, 4096, state, &[]);
    let page =
        |space: Space, at, state| space.region(at, 4096, "rw-p", ANONYMOUS).part(at, 4096, state, &[1; 4096]);
    let mut space = Space::new().zeros(0x1000, 8192);
    space = page(space, 0x1_0000, PageState::Resident);
    space = page(space, 0x2_0000, PageState::Swapped);
    space = page(space, 0x3_0000, PageState::FileClean);
    space = page(space, 0x4_0000, PageState::Backed);
    space = file(space, 0x5_0000, PageState::Guard);
    space = file(space, 0x6_0000, PageState::Unreadable(Cause::NotSaved));
    space = file(space, 0x7_0000, PageState::Unreadable(Cause::Secret));
    // A reservation is nothing that an image should have.
    space = space.region(0x8_0000, 4096, "---p", ANONYMOUS).part(
        0x8_0000,
        4096,
        PageState::Unreadable(Cause::NotSaved),
        &[],
    );
    let survey = |touch| Survey::of(&space, &Scope { touch, ..Scope::default() }).unwrap();
    let stored = survey(memfetch::Touch::Stored);
    assert_eq!((stored.bytes(), stored.coverage().zero_bytes), (4 * 4096, 8192));
    assert_eq!(stored.coverage().left, Left { unsaved_bytes: 4096, ..Left::default() });
    let causes: Vec<_> = stored.coverage().gaps.iter().map(|gap| gap.cause).collect();
    assert_eq!(causes, [Cause::NotSaved, Cause::Secret]);
    let resident = survey(memfetch::Touch::Resident);
    assert_eq!(resident.bytes(), 4096);
    assert_eq!(resident.coverage().left.bytes(), 4 * 4096);
}

#[test]
fn a_panic_of_the_looker_is_an_error_and_no_wait_without_end() {
    let (source, _gate) = stuck(64, 0..0);
    let survey = Survey::of(&source, &Scope::default()).unwrap();
    let look = |chunk: &Chunk| {
        let first = chunk.segments().next().unwrap().at();
        assert_ne!(first, Address::new(0x10_0000 + 5 * 4096), "this is what the test is about");
    };
    let swept =
        Sweep::new().threads(2).core(4096).run(&source, survey, look, |_, ()| ControlFlow::Continue(()));
    assert!(matches!(swept.result, Err(Error::Os { .. })), "{:?}", swept.result);
}
