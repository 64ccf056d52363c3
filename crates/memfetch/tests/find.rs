//! Searches, against ones that look at every byte.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use memfetch::memory::ByteOrder;
use memfetch::query::find::{Encoding, Hit, Pattern, Search};
use memfetch::query::values::Type;
use memfetch::{Address, Memory, PageState, Platform, Selector, Span};
use memfetch_testkit::Space;
use proptest::prelude::*;

/// A part of a space: how far from the last, how it reads, and its bytes.
type Part = (u64, u8, Vec<u8>);

fn space(parts: &[Part]) -> Space {
    let mut space = Space::new().on(Platform { page_size: 1, ..Platform::X86_64 });
    let mut at = 0x1000;
    for (distance, sort, bytes) in parts {
        at += distance;
        let len = bytes.len() as u64;
        space = match sort {
            0 => space.zeros(at, len),
            1 => space.vanished(at, len),
            _ => space.bytes(at, bytes),
        };
        at += len;
    }
    space
}

/// Letters from so few that patterns repeat, overlap and begin in zeros.
fn letters() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(b"\0aAb1".to_vec()), 1..40)
}

fn parts() -> impl Strategy<Value = Vec<Part>> {
    let distance = prop_oneof![4 => Just(0_u64), 1 => 1..9_u64];
    prop::collection::vec((distance, 0..9_u8, letters()), 1..10)
}

/// Stretches without a gap: their start, their bytes, and which of those were read.
fn stretches(space: &Space) -> Vec<(u64, Vec<u8>, Vec<bool>)> {
    let mut stretches: Vec<(u64, Vec<u8>, Vec<bool>)> = Vec::new();
    for region in &space.regions().unwrap() {
        for at in region.span.start().get()..region.span.end().get() {
            let mut byte = [0];
            if space.read_at(Address::new(at), &mut byte).is_err() {
                continue;
            }
            let one = Span::from_len(Address::new(at), 1).unwrap();
            let is_read = !space.pages(one).unwrap().as_slice()[0].state.is_known_zero();
            match stretches.last_mut() {
                Some((start, bytes, read)) if *start + bytes.len() as u64 == at => {
                    bytes.push(byte[0]);
                    read.push(is_read);
                }
                _ => stretches.push((at, vec![byte[0]], vec![is_read])),
            }
        }
    }
    stretches
}

/// What a look at each byte finds.
fn naive(space: &Space, patterns: &[Pattern]) -> Vec<Hit> {
    let mut hits = BTreeSet::new();
    for (start, bytes, read) in stretches(space) {
        for (pattern, what) in patterns.iter().enumerate() {
            let mut hit = |offset: usize, len: usize| {
                if read[offset..offset + len].iter().any(|&read| read) {
                    hits.insert(Hit { at: Address::new(start + offset as u64), pattern, len: len as u64 });
                }
            };
            let offsets = 0..bytes.len();
            let word = |offset: usize, len: usize| bytes.get(offset..offset + len);
            match what {
                Pattern::Bytes { bytes: wanted, mask } => {
                    for offset in offsets {
                        let there = word(offset, wanted.len());
                        if there.is_some_and(|there| {
                            there.iter().zip(wanted).zip(mask).all(|((a, b), mask)| a & mask == b & mask)
                        }) {
                            hit(offset, wanted.len());
                        }
                    }
                }
                Pattern::Regex(regex) => {
                    for found in regex.find_iter(&bytes).filter(|found| !found.is_empty()) {
                        hit(found.start(), found.len());
                    }
                }
                Pattern::Value { bytes: value, align } => {
                    for offset in offsets.filter(|&offset| (start + offset as u64).is_multiple_of(*align)) {
                        if word(offset, value.len()) == Some(value) {
                            hit(offset, value.len());
                        }
                    }
                }
                Pattern::PointsTo { target, align } => {
                    let align = align.unwrap_or(8);
                    for offset in offsets.filter(|&offset| (start + offset as u64).is_multiple_of(align)) {
                        let Some(word) = word(offset, 8) else { continue };
                        let to = Address::new(u64::from_le_bytes(word.try_into().unwrap()));
                        let regions = space.regions().unwrap();
                        if regions.at(to).is_some_and(|region| target.matches(region)) {
                            hit(offset, 8);
                        }
                    }
                }
            }
        }
    }
    hits.into_iter().collect()
}

fn search(space: &Space, patterns: &[Pattern], core: u64, threads: usize) -> Vec<Hit> {
    let search = Search::new(patterns.to_vec()).core(core).threads(threads).around(3);
    let mut hits = Vec::new();
    let survey = search.survey(space).unwrap();
    let swept = search.run(space, survey, |sighting| {
        let mut bytes = vec![0; sighting.hit.len as usize];
        let mut done = 0;
        while done < bytes.len() {
            done += space.read_at(sighting.hit.at.saturating_add(done as u64), &mut bytes[done..]).unwrap();
        }
        assert_eq!(sighting.bytes(), bytes);
        hits.push(sighting.hit);
        ControlFlow::Continue(())
    });
    swept.result.unwrap();
    hits
}

fn many() -> Vec<Pattern> {
    let texts = ["a", "ab", "aa", "ba", "b1", "1a", "aaa", "A1", "bb1"];
    texts.iter().map(|text| Pattern::bytes(text.as_bytes())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_are_found_once_wherever_they_lie(
        parts in parts(), wanted in prop::collection::vec(letters(), 1..4), open in any::<u64>(), core in 4..8_u32,
    ) {
        let space = space(&parts);
        let patterns: Vec<_> = wanted.iter().enumerate().map(|(index, bytes)| {
            let mask = |at: usize| match open >> (at * 2 + index) & 7 { 0 => 0, 1 => 0xdf, 2 => 0xf0, _ => 0xff };
            let bytes = &bytes[..bytes.len().min(5)];
            Pattern::Bytes { bytes: bytes.to_vec(), mask: (0..bytes.len()).map(mask).collect() }
        }).collect();
        let expected = naive(&space, &patterns);
        for threads in 1..4 {
            prop_assert_eq!(&search(&space, &patterns, 1 << core, threads), &expected);
        }
    }

    #[test]
    fn many_literals_are_found_as_each_of_them(parts in parts(), core in 4..8_u32) {
        let space = space(&parts);
        prop_assert_eq!(search(&space, &many(), 1 << core, 2), naive(&space, &many()));
    }

    #[test]
    fn expressions_match_as_over_the_joined_bytes(parts in parts(), core in 4..8_u32) {
        let space = space(&parts);
        for expression in ["a+", "ab|b1a|1", "a[^a]*a", r"\ba", "^.a", r"(?s).{1,9}1", "b*", "aab?", r"\x00a\B"] {
            let patterns = [Pattern::regex(expression, false).unwrap(), Pattern::bytes(b"b")];
            let expected = naive(&space, &patterns);
            for threads in 1..3 {
                prop_assert_eq!(&search(&space, &patterns, 1 << core, threads), &expected, "{}", expression);
            }
        }
    }

    #[test]
    fn values_are_found_where_they_are_aligned(parts in parts(), core in 4..8_u32, align in 0..4_u32) {
        let space = space(&parts);
        let value = |kind, text| Pattern::value(kind, text, &Platform::X86_64, ByteOrder::Little, Some(1 << align)).unwrap();
        let patterns = [
            value(Type::Unsigned(1), "0x61"), value(Type::Unsigned(2), "0x6161"), value(Type::Unsigned(4), "0x61"),
            value(Type::Unsigned(8), "0x6161"), value(Type::Unsigned(2), "0"),
        ];
        prop_assert_eq!(search(&space, &patterns, 1 << core, 2), naive(&space, &patterns));
    }

    #[test]
    fn pointers_into_regions_are_found(words in prop::collection::vec(0xff0..0x1100_u64, 1..80), shift in 0..8_u64) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let space = Space::new().bytes(0x1000, b"target").bytes(0x1020, b"other").bytes(0x2000 + shift, &bytes);
        for align in [None, Some(1), Some(4)] {
            let patterns = [
                Pattern::points_to(Selector::Anonymous, align),
                Pattern::points_to("0x1022".parse().unwrap(), align),
            ];
            prop_assert_eq!(search(&space, &patterns, 64, 2), naive(&space, &patterns));
        }
    }
}

#[test]
fn what_begins_in_untouched_memory_is_found_and_what_lies_in_it_is_not() {
    let space = Space::new().zeros(0x10_0000, 1 << 20).bytes(0x20_0000, b"\0\0end").zeros(0x20_0005, 1 << 20);
    let found = Search::new([Pattern::hex("00 00 00 65").unwrap(), Pattern::hex("64 00 00").unwrap()]);
    let hits: Vec<_> = found.over(&space).unwrap().into_iter().map(|hit| hit.at.get()).collect();
    assert_eq!(hits, [0x1f_ffff, 0x20_0004]);
    let zeros = Search::new([Pattern::hex("0000").unwrap()]).over(&space).unwrap();
    let at: Vec<_> = zeros.hits.iter().map(|hit| hit.at.get()).collect();
    assert_eq!(at, [0x1f_ffff, 0x20_0000]);
    assert_eq!((zeros.coverage.read_bytes, zeros.coverage.zero_bytes), (5, 2 << 20));
}

#[test]
fn matches_that_never_fall_into_step_take_no_longer() {
    // Three does not divide a chunk: each one hides others in the next.
    let space = Space::new().bytes(0x1000, &vec![b'a'; 3 << 20]);
    let found = Search::new([Pattern::regex("aaa", false).unwrap()]).over(&space).unwrap();
    assert_eq!(found.hits.len(), 1 << 20);
    assert!(found.hits.iter().zip(0..).all(|(hit, index)| hit.at.get() == 0x1000 + 3 * index));
}

#[test]
fn a_match_does_not_lead_on_into_zeros_that_were_not_read() {
    let mut bytes = vec![b'x'; 0x1000];
    bytes[0xfff] = 0;
    for base in [0xf_f000, 0x10_0000] {
        let space = Space::new()
            .bytes(base, &bytes)
            .zeros(base + 0x1000, 64 << 10)
            .bytes(base + 0x1000 + (64 << 10), b"end");
        for (expression, hits) in [(r"\x00{3}", 1), (r"\x00+", 1)] {
            for core in [None, Some(16), Some(1 << 24)] {
                let mut search = Search::new([Pattern::regex(expression, false).unwrap()]);
                search = core.into_iter().fold(search, Search::core);
                assert_eq!(search.over(&space).unwrap().hits.len(), hits, "{base:x} {expression} {core:?}");
            }
        }
    }
}

#[test]
fn a_match_has_an_end() {
    let long = vec![b'x'; 300_000];
    let space = Space::new().bytes(0x1000, &long);
    let found = Search::new([Pattern::regex("x+", false).unwrap()]).over(&space).unwrap();
    let lengths: Vec<_> = found.hits.iter().map(|hit| hit.len).collect();
    assert_eq!(lengths, [65_536, 65_536, 65_536, 65_536, 300_000 - 4 * 65_536]);
}

#[test]
fn text_has_cases_and_encodings() {
    let mut bytes = "Session ÉTÉ été ".as_bytes().to_vec();
    bytes.extend("sESSION Été".encode_utf16().flat_map(u16::to_le_bytes));
    let space = Space::new().bytes(0x1000, &bytes);
    let count = |text: &str, encoding, ignore_case| {
        let pattern = Pattern::text(text, encoding, ignore_case).unwrap();
        Search::new([pattern]).over(&space).unwrap().hits.len()
    };
    let utf16 = Encoding::Utf16(ByteOrder::Little);
    assert_eq!(count("session", Encoding::Utf8, false), 0);
    assert_eq!(count("session", Encoding::Utf8, true), 1);
    assert_eq!(count("session", utf16, true), 1);
    assert_eq!(count("été", Encoding::Utf8, true), 2);
    assert_eq!(count("ÉTÉ", utf16, true), 1);
}

#[test]
fn swapped_pages_are_searched_unless_they_are_to_be_left_alone() {
    let anonymous = memfetch::Backing::Anonymous { label: None };
    let space =
        Space::new().region(0x1000, 4, "rw-p", anonymous).part(0x1000, 4, PageState::Swapped, b"find");
    let search = Search::text("find");
    assert_eq!(search.over(&space).unwrap().hits.len(), 1);
    let left = search.touch(memfetch::Touch::Resident).over(&space).unwrap();
    assert_eq!((left.hits.len(), left.coverage.left.swapped_bytes), (0, 4));
}
