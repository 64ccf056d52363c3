//! Text in spaces made of literals, against a search that looks at one character after the other.

use std::ops::ControlFlow;

use memfetch::query::strings::{Encoding, PIECE, Strings};
use memfetch::query::sweep::{Scope, Survey, Sweep};
use memfetch::{Address, Backing, Cause, PageState, Platform};
use memfetch_testkit::Space;
use proptest::prelude::*;

/// A string that was told: where, in which encoding, its bytes, and whether it goes on from and into others.
type Told = (u64, Encoding, Vec<u8>, bool, bool);

const ALL: [Encoding; 4] = [Encoding::Utf8, Encoding::Latin1, Encoding::Utf16Le, Encoding::Utf16Be];

fn told(strings: &Strings, space: &Space) -> Vec<Told> {
    let mut all = Vec::new();
    let survey = Survey::of(space, &Scope::default()).unwrap();
    let swept = strings.run(space, survey, |text| {
        assert!(text.bytes.len() <= PIECE);
        assert!(!text.text().contains(char::REPLACEMENT_CHARACTER));
        all.push((text.at.get(), text.encoding, text.bytes.to_vec(), text.continued, text.continues));
        ControlFlow::Continue(())
    });
    swept.result.unwrap();
    all
}

/// The texts without their pieces' marks.
fn texts(strings: &Strings, space: &Space) -> Vec<(u64, String)> {
    let mut all = Vec::new();
    let survey = Survey::of(space, &Scope::default()).unwrap();
    let swept = strings.run(space, survey, |text| {
        all.push((text.at.get(), text.text().into_owned()));
        ControlFlow::Continue(())
    });
    swept.result.unwrap();
    all
}

fn is_text(c: char) -> bool {
    let code = c as u32;
    let private = (0xe000..0xf900).contains(&code);
    let no_character = (0xfdd0..0xfdf0).contains(&code) || code & 0xfffe == 0xfffe;
    let unseen = matches!(code, 0xad | 0x2028 | 0x2029 | 0xfff0..=0xfffb | 0xfffd);
    c == '\t' || !(c.is_control() || private || no_character || unseen || code >= 0x40000)
}

fn is_latin(c: char) -> bool {
    matches!(c, '\t' | ' '..='~' | '\u{a0}'..='\u{ac}' | '\u{ae}'..='\u{17f}')
        || matches!(c, '\u{2010}'..='\u{201e}' | '\u{2022}' | '\u{2026}' | '\u{20ac}')
}

/// The character at the start of `bytes`, and its length, where it is text.
fn character(encoding: Encoding, bytes: &[u8], all_scripts: bool) -> Option<(char, usize)> {
    let unit = |at: usize| {
        let pair: [u8; 2] = bytes.get(at..at + 2)?.try_into().unwrap();
        Some(if encoding == Encoding::Utf16Le { u16::from_le_bytes(pair) } else { u16::from_be_bytes(pair) })
    };
    let found = match encoding {
        Encoding::Ascii => (char::from(*bytes.first()?), 1),
        Encoding::Latin1 => (char::from(*bytes.first()?), 1),
        Encoding::Utf8 => {
            let len = (1..=bytes.len().min(4)).find(|&len| std::str::from_utf8(&bytes[..len]).is_ok())?;
            (std::str::from_utf8(&bytes[..len]).unwrap().chars().next()?, len)
        }
        Encoding::Utf16Le | Encoding::Utf16Be => {
            let units: Vec<u16> = [unit(0), unit(2)].into_iter().flatten().collect();
            let c = char::decode_utf16(units).next()?.ok()?;
            if !all_scripts && !is_latin(c) {
                return None;
            }
            (c, c.len_utf16() * 2)
        }
    };
    let seven_bits = encoding == Encoding::Ascii;
    (is_text(found.0) && (!seven_bits || found.0.is_ascii())).then_some(found)
}

/// What should be told of bytes that adjoin.
fn naive(encodings: &[Encoding], least: usize, all_scripts: bool, at: u64, bytes: &[u8]) -> Vec<Told> {
    let mut all: Vec<Told> = Vec::new();
    for &encoding in encodings {
        let wide = matches!(encoding, Encoding::Utf16Le | Encoding::Utf16Be);
        let step = if wide { 2 } else { 1 };
        for phase in 0..step {
            if wide && all_scripts && (at as usize + phase) % 2 == 1 {
                continue;
            }
            let mut here = phase;
            while here < bytes.len() {
                let start = here;
                let mut text: Vec<(char, usize)> = Vec::new();
                while let Some(found) = character(encoding, &bytes[here..], all_scripts) {
                    text.push(found);
                    here += found.1;
                }
                pieces(encoding, least, all_scripts, at + start as u64, &bytes[start..here], &text, &mut all);
                here += step;
            }
        }
    }
    all.sort();
    let mut last: Option<(Encoding, u64)> = None;
    all.retain(|(at, encoding, bytes, ..)| {
        if all_scripts || !matches!(encoding, Encoding::Utf16Le | Encoding::Utf16Be) {
            return true;
        }
        if last.is_some_and(|(other, end)| other != *encoding && *at < end) {
            return false;
        }
        let end = last.map_or(0, |(_, end)| end).max(at + bytes.len() as u64);
        last = Some((*encoding, end));
        true
    });
    all
}

fn pieces(
    encoding: Encoding,
    least: usize,
    all_scripts: bool,
    mut at: u64,
    mut bytes: &[u8],
    mut text: &[(char, usize)],
    all: &mut Vec<Told>,
) {
    let mut continued = false;
    while !text.is_empty() {
        let mut len = 0;
        let fits = text.iter().take_while(|(_, bytes)| {
            len += bytes;
            len <= PIECE
        });
        let count = fits.count();
        let (now, later) = text.split_at(count);
        let len = now.iter().map(|(_, len)| len).sum::<usize>();
        if !continued {
            let wide = matches!(encoding, Encoding::Utf16Le | Encoding::Utf16Be);
            let ascii = now.iter().filter(|(c, _)| c.is_ascii()).count();
            let is_text = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~');
            let sane = if all_scripts { !bytes[..len].iter().all(is_text) } else { 2 * ascii >= now.len() };
            if now.len() < least || (wide && !sane) {
                return;
            }
        }
        all.push((at, encoding, bytes[..len].to_vec(), continued, !later.is_empty()));
        at += len as u64;
        bytes = &bytes[len..];
        text = later;
        continued = true;
    }
}

/// A space of parts, and the runs of bytes that adjoin in it.
fn space(parts: &[(u64, u8, Vec<u8>)]) -> (Space, Vec<(u64, Vec<u8>)>) {
    let mut space = Space::new().on(Platform { page_size: 1, ..Platform::X86_64 });
    let mut joined: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut at = 0x10_0000;
    for (distance, sort, bytes) in parts {
        at += distance;
        let len = bytes.len() as u64;
        let state = match sort {
            0 => PageState::Absent,
            1 => PageState::Swapped,
            2 => PageState::FileClean,
            _ => PageState::Resident,
        };
        if *sort == 9 {
            space = space.vanished(at, len);
            at += len;
            continue;
        }
        let shown = if *sort == 0 { vec![0; bytes.len()] } else { bytes.clone() };
        space = space.region(at, len, "rw-p", Backing::Anonymous { label: None });
        space = space.part(at, len, state, if *sort == 0 { &[] } else { bytes });
        match joined.last_mut().filter(|(start, bytes)| start + bytes.len() as u64 == at) {
            Some((_, joined)) => joined.extend(shown),
            None => joined.push((at, shown)),
        }
        at += len;
    }
    (space, joined)
}

/// Bytes that have much to do with text.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        4 => "[a-z \t]{1,12}".prop_map(String::into_bytes),
        2 => "[aé€😀\u{85}\u{e000}жх漢字]{1,6}".prop_map(String::into_bytes),
        2 => "[a-zéł…]{1,9}".prop_map(|s| s.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        2 => "[a-zéł…]{1,9}".prop_map(|s| s.encode_utf16().flat_map(u16::to_be_bytes).collect()),
        1 => "[a😀漢字ж\u{e000}]{1,6}".prop_map(|s| s.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        2 => prop::collection::vec(any::<u8>(), 1..9),
        1 => prop::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(b'a'), Just(0xd8), Just(0xdc)], 1..9),
        1 => (1..90_usize).prop_map(|len| vec![0; len]),
        1 => (1..200_usize).prop_map(|len| vec![b'x'; len]),
    ];
    prop::collection::vec(word, 1..12).prop_map(|words| words.concat())
}

fn parts() -> impl Strategy<Value = Vec<(u64, u8, Vec<u8>)>> {
    let distance = prop_oneof![3 => Just(0_u64), 1 => 1..20_u64];
    prop::collection::vec((distance, 0..10_u8, bytes()), 1..10)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_is_told_is_what_a_naive_search_finds(
        parts in parts(), core in 4..9_u32, threads in 1..4_usize, least in 1..9_usize, all_scripts in any::<bool>(),
        encodings in prop::sample::subsequence(&ALL[..], 1..=4),
    ) {
        let (space, joined) = space(&parts);
        let strings = Strings::new()
            .encodings(encodings.iter().copied())
            .min_length(least)
            .all_scripts(all_scripts)
            .sweep(Sweep::new().threads(threads).core(1 << core));
        let found = told(&strings, &space);
        let naive: Vec<Told> =
            joined.iter().flat_map(|(at, bytes)| naive(&encodings, least, all_scripts, *at, bytes)).collect();
        prop_assert_eq!(found, naive);
    }
}

/// Long text of 1 to 4 bytes a character, and of both byte orders.
#[test]
fn long_strings_come_in_pieces_that_do_not_depend_on_the_chunks() {
    let long = |text: &str, times: usize| text.repeat(times);
    let mixed = long("aé€😀b", 40_000);
    let wide: Vec<u8> = long("wide text ", 9_000).encode_utf16().flat_map(u16::to_le_bytes).collect();
    let scripts: Vec<u8> = long("漢字😀ж", 30_000).encode_utf16().flat_map(u16::to_be_bytes).collect();
    let mut bytes = [b"\0short\0", mixed.as_bytes(), b"\0\0\0", &wide, b"\0\0\0"].concat();
    bytes.extend(&scripts);
    bytes.extend(vec![b'a'; 3 * PIECE]);
    bytes.extend(b"\n");
    bytes.extend(vec![b'b'; PIECE]);
    let base = 0x10_0001;
    let half = bytes.len() / 2;
    let space = Space::new()
        .on(Platform { page_size: 1, ..Platform::X86_64 })
        .bytes(base, &bytes[..half])
        .bytes(base + half as u64, &bytes[half..]);
    for all_scripts in [false, true] {
        let expected = naive(&ALL, 4, all_scripts, base, &bytes);
        assert!(expected.iter().any(|(.., continued, continues)| *continued && *continues));
        for (core, threads) in [(1 << 8, 3), (1 << 14, 2), (1 << 17, 1), (1 << 20, 2)] {
            let strings = Strings::new()
                .encodings(ALL)
                .all_scripts(all_scripts)
                .sweep(Sweep::new().core(core).threads(threads));
            assert!(told(&strings, &space) == expected, "core {core}, all scripts {all_scripts}");
        }
    }
}

#[test]
fn a_gap_ends_a_string_and_a_border_of_mappings_does_not() {
    let space = Space::new()
        .bytes(0x1000, b"the begin")
        .bytes(0x1009, b"ning of it\0")
        .unreadable(0x2000, 0x1000, Cause::Secret)
        .bytes(0x3000, b"after")
        .zeros(0x3005, 5)
        .bytes(0x300a, b"behind zeros")
        .bytes(0x4000, b"abc");
    let found = texts(&Strings::new(), &space);
    let found: Vec<_> = found.iter().map(|(at, text)| (*at, text.as_str())).collect();
    assert_eq!(found, [(0x1000, "the beginning of it"), (0x3000, "after"), (0x300a, "behind zeros")]);
}

#[test]
fn utf16_is_latin_unless_all_scripts_are_wanted() {
    let le = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let space = Space::new()
        .bytes(0x1000, &le("naïve café…"))
        // Accented letters, as small numbers are.
        .bytes(0x2000, &[1; 64])
        // Spaces, as daggers are.
        .bytes(0x3000, &[b' '; 64])
        .bytes(0x4000, &le("你好世界"))
        .bytes(0x5001, &le("odd address"));
    let only = |all| Strings::new().encodings([Encoding::Utf16Le]).all_scripts(all);
    let latin = texts(&only(false), &space);
    assert_eq!(latin, [(0x1000, "naïve café…".to_owned()), (0x5001, "odd address".to_owned())]);
    let all = texts(&only(true), &space);
    assert!(all.contains(&(0x4000, "你好世界".to_owned())), "{all:?}");
    assert!(!all.iter().any(|(at, _)| *at == 0x3000), "{all:?}");
}

#[test]
fn latin_text_is_told_in_one_byte_order() {
    let text = "shifted by a byte";
    let be: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let space = Space::new().bytes(0x1000, &[&be[..], &[0, 0]].concat());
    let both = Strings::new().encodings([Encoding::Utf16Le, Encoding::Utf16Be]);
    assert_eq!(texts(&both, &space), [(0x1000, text.to_owned())]);
}

#[test]
fn the_caller_ends_it_and_nothing_more_is_told() {
    let space = Space::new().bytes(0x1000, &b"word\0".repeat(1000));
    let mut count = 0;
    let survey = Survey::of(&space, &Scope::default()).unwrap();
    let swept = Strings::new().sweep(Sweep::new().core(64)).run(&space, survey, |text| {
        count += 1;
        assert_eq!(text.at, Address::new(0x1000 + 5 * (count - 1)));
        if count == 7 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    swept.result.unwrap();
    assert_eq!(count, 7);
}
