//! Comparisons of two sources, over spaces made of literals, against one that looks at every byte.

use std::ops::ControlFlow;

use memfetch::query::diff::{Alignment, Change, Diff, Event, LONGEST_RANGE, Report};
use memfetch::{Address, Backing, Cause, Memory, PageState, Platform, RegionMap, Selection, Selector, Touch};
use memfetch_testkit::Space;
use proptest::prelude::*;

const ANONYMOUS: Backing = Backing::Anonymous { label: None };

/// A changed range as it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Range {
    before_at: u64,
    after_at: u64,
    before: Vec<u8>,
    after: Vec<u8>,
}

/// A change of a region as it was told: where the parts lie, in the first and in the second.
type Told = (Change, Option<(u64, u64)>, Option<(u64, u64)>);

struct Outcome {
    regions: Vec<Told>,
    ranges: Vec<Range>,
    report: Report,
}

fn compare(diff: &Diff, before: &Space, after: &Space) -> Outcome {
    let (mut regions, mut ranges) = (Vec::new(), Vec::new());
    let compared = diff.run(before, after, |event| {
        match event {
            Event::Region(told) => {
                let bounds = |part: Option<(memfetch::Span, &memfetch::Region)>| {
                    part.map(|(span, _)| (span.start().get(), span.end().get()))
                };
                regions.push((told.change, bounds(told.before), bounds(told.after)));
            }
            Event::Bytes(told) => {
                assert!(told.before_region.span.contains(told.before_at));
                assert!(told.after_region.span.contains(told.after_at));
                ranges.push(Range {
                    before_at: told.before_at.get(),
                    after_at: told.after_at.get(),
                    before: told.before.to_vec(),
                    after: told.after.to_vec(),
                });
            }
        }
        ControlFlow::Continue(())
    });
    let compared = compared.unwrap();
    compared.result.unwrap();
    assert_eq!(compared.report.ranges, ranges.len() as u64);
    Outcome { regions, ranges, report: compared.report }
}

/// A part of a space: its distance from the last, its length, and its sort.
type Part = (u64, u64, u8);
/// What becomes of a part: its sort if that changes, how much longer it is, and which bytes of it change.
type Fate = (Option<u8>, u64, Vec<u64>);

fn parts() -> impl Strategy<Value = Vec<(Part, Fate)>> {
    let distance = prop_oneof![3 => Just(64_u64), 1 => 64..90_u64];
    let len = prop_oneof![8 => 1..60_u64, 1 => Just(70_000)];
    let sort = prop_oneof![Just(None), Just(None), Just(None), (0..7_u8).prop_map(Some)];
    let longer = prop_oneof![3 => Just(0_u64), 1 => 0..40_u64];
    let flips = prop_oneof![
        2 => prop::collection::vec(0..60_u64, 0..5),
        1 => (0..70_000_u64).prop_map(|from| (from..70_000).collect()),
    ];
    prop::collection::vec(((distance, len, 0..6_u8), (sort, longer, flips)), 1..10)
}

/// Both spaces. A part of sort 6 is not there at all.
fn spaces(parts: &[(Part, Fate)]) -> (Space, Space) {
    // A fault costs its page, and the parts here are no pages.
    let empty = || Space::new().on(Platform { page_size: 1, ..Platform::X86_64 });
    let (mut before, mut after) = (empty(), empty());
    let mut at = 0x10_0000;
    let add = |space: Space, at: u64, len: u64, sort: u8, flips: &[u64]| {
        let mut bytes: Vec<u8> = (0..len).map(|i| ((at + i) % 5) as u8).collect();
        for &flip in flips {
            if let Some(byte) = bytes.get_mut(flip as usize) {
                *byte ^= 0x40;
            }
        }
        match sort {
            0 => space.zeros(at, len),
            1 => space.unreadable(at, len, Cause::Vanished),
            2 => space.vanished(at, len),
            6 => space,
            _ => space.bytes(at, &bytes),
        }
    };
    for ((distance, len, sort), (other, longer, flips)) in parts {
        at += distance;
        before = add(before, at, *len, *sort, &[]);
        after = add(after, at, len + longer, other.unwrap_or(*sort), flips);
        at += len;
    }
    (before, after)
}

/// What a look at every byte finds: the ranges, and how many bytes are compared, differ, cannot be compared.
fn by_every_byte(before: &Space, after: &Space) -> (Vec<Range>, [u64; 3]) {
    let maps: [RegionMap; 2] = [before, after].map(|space| space.regions().unwrap());
    let mut counts = [0; 3];
    let mut ranges: Vec<Range> = Vec::new();
    let mut last: Option<(usize, usize)> = None;
    for region in &maps[0] {
        for at in region.span.start().get()..region.span.end().get() {
            let here = Address::new(at);
            let place = |map: &RegionMap| map.iter().position(|region| region.span.contains(here));
            let Some(place) = place(&maps[0]).zip(place(&maps[1])) else { continue };
            let byte = |space: &Space| {
                let mut byte = [0];
                space.read_at(here, &mut byte).map(|_| byte[0]).ok()
            };
            let Some((was, is)) = byte(before).zip(byte(after)) else {
                counts[2] += 1;
                continue;
            };
            counts[0] += 1;
            if was == is {
                continue;
            }
            counts[1] += 1;
            match ranges.last_mut() {
                Some(range)
                    if last == Some(place)
                        && range.before_at + range.before.len() as u64 == at
                        && range.before.len() < LONGEST_RANGE =>
                {
                    range.before.push(was);
                    range.after.push(is);
                }
                _ => {
                    ranges.push(Range { before_at: at, after_at: at, before: vec![was], after: vec![is] });
                }
            }
            last = Some(place);
        }
    }
    (ranges, counts)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn as_a_look_at_every_byte(parts in parts(), chunk in 4..18_u32, threads in 1..4_usize) {
        let (before, after) = spaces(&parts);
        let (ranges, [compared, different, gaps]) = by_every_byte(&before, &after);
        let diff = Diff::new().alignment(Alignment::ByAddress);
        let outcome = compare(&diff.clone().threads(threads).chunk(1 << chunk), &before, &after);
        prop_assert_eq!(&outcome.ranges, &ranges);
        let report = &outcome.report;
        prop_assert_eq!([report.compared_bytes, report.different_bytes, report.gap_bytes], [compared, different, gaps]);
        // The same once more, whatever the chunks and the granules.
        for granule in [1, 4, 16] {
            let diff = diff.clone().granule(granule);
            let one = compare(&diff.clone().threads(1), &before, &after);
            let other = compare(&diff.threads(threads).chunk(1 << chunk), &before, &after);
            prop_assert_eq!(&one.ranges, &other.ranges);
            prop_assert_eq!(&one.regions, &other.regions);
            prop_assert_eq!(&one.report, &other.report);
            prop_assert_eq!(one.report.different_bytes, different);
            // Every byte that differs is in a range.
            for range in &ranges {
                let at = range.before_at;
                let holds = |it: &&Range| it.before_at <= at && at < it.before_at + it.before.len() as u64;
                prop_assert!(one.ranges.iter().any(|it| holds(&it)));
            }
        }
        // Turned round it is the same, the other way.
        let turned = compare(&diff, &after, &before);
        prop_assert_eq!(turned.report.different_bytes, different);
        prop_assert_eq!(turned.report.only_after_bytes, report.only_before_bytes);
        let mapped = before.regions().unwrap().bytes();
        prop_assert_eq!(compared + gaps + report.only_before_bytes, mapped);
    }

    #[test]
    fn a_relocated_space_is_equal_to_itself(parts in parts(), distance in 1..1000_u64) {
        let (space, _) = spaces(&parts);
        let moved = relocated(&parts, distance * 4096);
        let diff = Diff::new().alignment(Alignment::ByRegion);
        let outcome = compare(&diff, &space, &moved);
        prop_assert_eq!(outcome.report.different_bytes, 0);
        prop_assert!(!outcome.report.is_different());
        let (_, [_, _, gaps]) = by_every_byte(&space, &space);
        prop_assert_eq!(outcome.report.compared_bytes + gaps, space.regions().unwrap().bytes());
        prop_assert!(outcome.regions.iter().all(|(change, ..)| *change == Change::Moved));
    }
}

/// The first space of `parts`, elsewhere and with the same bytes.
fn relocated(parts: &[(Part, Fate)], distance: u64) -> Space {
    let mut space = Space::new().on(Platform { page_size: 1, ..Platform::X86_64 });
    let mut at = 0x10_0000;
    for ((gap, len, sort), _) in parts {
        at += gap;
        let bytes: Vec<u8> = (0..*len).map(|i| ((at + i) % 5) as u8).collect();
        let there = at + distance;
        space = match sort {
            0 => space.zeros(there, *len),
            1 => space.unreadable(there, *len, Cause::Vanished),
            2 => space.vanished(there, *len),
            _ => space.bytes(there, &bytes),
        };
        at += len;
    }
    space
}

fn page(space: Space, at: u64, state: PageState, fill: u8) -> Space {
    space.region(at, 4096, "rw-p", ANONYMOUS).part(at, 4096, state, &[fill; 4096])
}

fn empty_page(space: Space, at: u64, state: PageState) -> Space {
    space.region(at, 4096, "rw-p", ANONYMOUS).part(at, 4096, state, &[])
}

#[test]
fn a_reservation_is_equal_without_being_read() {
    let space = |fill: u8| {
        Space::new().zeros(0x10_0000, 1 << 44).region(1 << 46, 8192, "rw-p", ANONYMOUS).part(
            1 << 46,
            8192,
            PageState::Resident,
            &[fill; 8192],
        )
    };
    let report = compare(&Diff::new(), &space(0), &space(0)).report;
    assert_eq!((report.compared_bytes, report.unread_bytes), ((1 << 44) + 8192, 1 << 44));
    assert!(!report.is_different());
    let outcome = compare(&Diff::new(), &space(0), &space(1));
    assert_eq!((outcome.report.different_bytes, outcome.report.ranges), (8192, 1));
}

#[test]
fn known_zeros_are_compared_with_what_is_there() {
    let zeros = Space::new().zeros(0x1000, 8192);
    let mut bytes = vec![0; 8192];
    bytes[5000] = 7;
    let written = Space::new().bytes(0x1000, &bytes);
    let outcome = compare(&Diff::new(), &zeros, &written);
    let expected =
        Range { before_at: 0x1000 + 5000, after_at: 0x1000 + 5000, before: vec![0], after: vec![7] };
    assert_eq!(outcome.ranges, [expected]);
    assert_eq!(outcome.report.compared_bytes, 8192);
    // A page that was written with zeros is not changed.
    let outcome = compare(&Diff::new(), &zeros, &Space::new().bytes(0x1000, &[0; 8192]));
    assert!(!outcome.report.is_different());
}

#[test]
fn what_cannot_be_compared_is_counted_by_why() {
    let mut before = Space::new();
    let mut after = Space::new();
    let states = [
        (PageState::Resident, PageState::Unreadable(Cause::NotSaved)),
        (PageState::Unreadable(Cause::NotSaved), PageState::Unreadable(Cause::NotSaved)),
        (PageState::Resident, PageState::Unreadable(Cause::Secret)),
        (PageState::Unreadable(Cause::Truncated), PageState::Resident),
        (PageState::Guard, PageState::Resident),
        (PageState::Guard, PageState::Guard),
        (PageState::Swapped, PageState::Resident),
    ];
    for (index, (was, is)) in states.into_iter().enumerate() {
        let at = 0x1_0000 * (index as u64 + 1);
        let add = |space: Space, state: PageState| match state.refusal() {
            Some(_) => empty_page(space, at, state),
            None => page(space, at, state, 1),
        };
        before = add(before, was);
        after = add(after, is);
    }
    let report = compare(&Diff::new(), &before, &after).report;
    assert_eq!((report.compared_bytes, report.different_bytes), (4096, 0));
    assert_eq!((report.left.unsaved_bytes, report.gap_bytes), (0, 5 * 4096));
    let causes = |gaps: &memfetch::Gaps| gaps.iter().map(|gap| gap.cause).collect::<Vec<_>>();
    assert_eq!(causes(&report.gaps_before), [Cause::NotSaved, Cause::Truncated, Cause::Guard]);
    assert_eq!(causes(&report.gaps_after), [Cause::NotSaved, Cause::Secret]);
    let report = compare(&Diff::new().touch(Touch::Resident), &before, &after).report;
    assert_eq!((report.compared_bytes, report.left.swapped_bytes), (0, 4096));
}

#[test]
fn values_are_told_whole() {
    let mut bytes = vec![0x11; 64];
    let before = Space::new().bytes(0x1000, &bytes);
    bytes[9] = 0x12;
    bytes[30..34].fill(0x13);
    let after = Space::new().bytes(0x1000, &bytes);
    let spans = |granule| {
        let outcome = compare(&Diff::new().granule(granule), &before, &after);
        outcome.ranges.iter().map(|range| (range.before_at, range.before.len())).collect::<Vec<_>>()
    };
    assert_eq!(spans(1), [(0x1009, 1), (0x101e, 4)]);
    assert_eq!(spans(4), [(0x1008, 4), (0x101c, 8)]);
    assert_eq!(spans(16), [(0x1000, 48)]);
}

#[test]
fn regions_are_told_by_what_became_of_them() {
    let region = |space: Space, at: u64, len: u64, permissions: &str| {
        space.region(at, len, permissions, ANONYMOUS).part(at, len, PageState::Absent, &[])
    };
    let before = region(Space::new(), 0x1000, 0x3000, "rw-p");
    let before = region(before, 0x8000, 0x1000, "rw-p");
    let before = region(before, 0xa000, 0x2000, "rw-p");
    let after = region(Space::new(), 0x1000, 0x1000, "r--p");
    let after = region(after, 0x2000, 0x1000, "rw-p");
    let after = region(after, 0xa000, 0x3000, "rw-p");
    let after = region(after, 0xf000, 0x1000, "rw-p");
    let diff = Diff::new().alignment(Alignment::ByAddress);
    let outcome = compare(&diff, &before, &after);
    let at = |start, end| Some((start, end));
    assert_eq!(
        outcome.regions,
        [
            (Change::Permissions, at(0x1000, 0x2000), at(0x1000, 0x2000)),
            (Change::Shrank, at(0x3000, 0x4000), None),
            (Change::Went, at(0x8000, 0x9000), None),
            (Change::Grew, None, at(0xc000, 0xd000)),
            (Change::Came, None, at(0xf000, 0x10000)),
        ]
    );
    assert!(outcome.report.is_different());
    let report = &outcome.report;
    assert_eq!((report.only_before_bytes, report.only_after_bytes), (0x2000, 0x2000));
    let one = Selection { only: vec!["0xa000".parse::<Selector>().unwrap()], skip: Vec::new() };
    let outcome = compare(&diff.selection(one), &before, &after);
    assert_eq!(outcome.regions, [(Change::Grew, None, at(0xc000, 0xd000))]);
    assert_eq!(outcome.report.compared_bytes, 0x2000);
}

#[test]
fn pointers_to_corresponding_places_are_equal_when_asked_for() {
    let space = |base: u64, words: [u64; 4]| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        Space::new()
            .region(base, 32, "rw-p", Backing::Heap)
            .part(base, 32, PageState::Resident, &bytes)
            .region(base + 0x1_0000, 4096, "rw-p", Backing::Stack)
            .part(base + 0x1_0000, 4096, PageState::Absent, &[])
    };
    let before = space(0x10_0000, [0x10_0010, 0x11_0020, 5, 0x10_0008]);
    // The last pointer leads elsewhere, and the number is another.
    let after = space(0x77_0000, [0x77_0010, 0x78_0020, 6, 0x77_0000]);
    let plain = compare(&Diff::new(), &before, &after);
    assert_eq!(plain.report.alignment, Alignment::ByRegion);
    assert_eq!((plain.report.moved_pointers, plain.ranges.len()), (0, 5));
    let outcome = compare(&Diff::new().granule(8).ignore_moved_pointers(true), &before, &after);
    assert_eq!(outcome.report.moved_pointers, 2);
    let told: Vec<_> =
        outcome.ranges.iter().map(|range| (range.before_at, range.after_at, range.before.len())).collect();
    assert_eq!(told, [(0x10_0010, 0x77_0010, 16)]);
}

#[test]
fn the_caller_ends_it_when_it_has_enough() {
    let space = |fill: u8| Space::new().bytes(0x10_0000, &vec![fill; 8 << 20]);
    for threads in [1, 3] {
        let mut told = 0;
        let diff = Diff::new().threads(threads);
        let compared = diff.run(&space(1), &space(2), |_| {
            told += 1;
            ControlFlow::Break(())
        });
        let compared = compared.unwrap();
        compared.result.unwrap();
        assert_eq!(told, 1);
        assert!(compared.report.compared_bytes < 8 << 20);
    }
}
