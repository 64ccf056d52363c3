//! YARA rules over spaces made of literals, beside a naive search and beside the engine over joined bytes.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;

use memfetch::query::rules::{
    External, MetadataValue, RuleMatch, RuleOptions, RuleReport, RuleText, Rules, RulesError,
};
use memfetch::query::sweep::{Scope, Survey};
use memfetch::{Backing, Cause, Memory, PageState, Platform, Source, Span};
use memfetch_testkit::Space;
use proptest::prelude::*;

fn file(text: &str) -> RuleText {
    RuleText { name: "test.yar".to_owned(), namespace: "default".to_owned(), text: text.to_owned() }
}

fn no_include(_: &str, _: &str) -> io::Result<(String, String)> {
    Err(io::ErrorKind::NotFound.into())
}

fn compile(text: &str) -> Rules {
    Rules::compile(&[file(text)], &[], &mut no_include).unwrap()
}

fn run_with(rules: &Rules, source: &dyn Source, options: &RuleOptions) -> (Vec<RuleMatch>, RuleReport) {
    let survey = Survey::of(source, &Scope::default()).unwrap();
    let mut matches = Vec::new();
    let report = rules.run(source, &survey, options, |rule| {
        matches.push(rule);
        ControlFlow::Continue(())
    });
    (matches, report)
}

fn run(text: &str, source: &dyn Source) -> Vec<RuleMatch> {
    let (matches, report) = run_with(&compile(text), source, &small(2, 64));
    assert!(report.is_whole(), "{report:?}");
    matches
}

fn small(threads: usize, core: u64) -> RuleOptions {
    RuleOptions { threads: Some(threads), core: Some(core), ..RuleOptions::default() }
}

fn names(matches: &[RuleMatch]) -> Vec<&str> {
    matches.iter().map(|rule| rule.rule.as_str()).collect()
}

fn addresses(rule: &RuleMatch, identifier: &str) -> Vec<(u64, u64)> {
    let same = rule.strings.iter().filter(|string| string.identifier == identifier);
    same.map(|string| (string.at.get(), string.length)).collect()
}

/// A space whose parts may begin and end at any byte.
fn fine() -> Space {
    Space::new().on(Platform { page_size: 1, ..Platform::X86_64 })
}

const ANONYMOUS: Backing = Backing::Anonymous { label: None };

#[test]
fn a_string_is_found_across_mappings_and_page_states() {
    let space = fine()
        .bytes(0x1000, b"..secr")
        .region(0x1006, 21, "rw-p", ANONYMOUS)
        .part(0x1006, 3, PageState::Swapped, b"et!")
        .part(0x1009, 4, PageState::Absent, &[])
        .part(0x100d, 14, PageState::Resident, b"\x01 secret! gone")
        .bytes(0x2000, b"sec")
        .bytes(0x2004, b"ret!");
    let text = r#"rule a { strings: $a = "secret!" $b = { 21 00 00 00 00 01 }
        condition: #a == 2 and $a at 0x1002 and @a[2] == 0x100f and !a[1] == 7 and #b == 1
            and #a in (0x1000..0x1008) == 1 and not $a in (0x2000..0x3000) }"#;
    let matches = run(text, &space);
    assert_eq!(names(&matches), ["a"]);
    assert_eq!(addresses(&matches[0], "$a"), [(0x1002, 7), (0x100f, 7)]);
    assert_eq!(addresses(&matches[0], "$b"), [(0x1008, 6)]);
    assert_eq!(matches[0].strings[0].bytes, b"secret!");
}

#[test]
fn a_match_reaches_into_long_runs_of_zeros_and_no_further_than_they_are() {
    let space =
        Space::new().bytes(0x10000, b"head").zeros(0x10004, 1 << 30).bytes(0x1_0000 + 4 + (1 << 30), b"tail");
    let text = r#"rule a { strings: $a = { 68 65 61 64 00 00 00 } $b = { 00 00 74 61 69 6c }
        condition: #a == 1 and #b == 1 }"#;
    assert_eq!(names(&run(text, &space)), ["a"]);
}

#[test]
fn conditions_read_memory_at_any_address() {
    let space = fine()
        .bytes(0x1000, b"\x7fELF\x01\x02\x03\x04")
        .bytes(0x1008, b"\x05\x06\x07\x08")
        .zeros(0x100c, 64 << 20)
        .bytes(0x100c + (64 << 20), b"\xaa\xbb")
        .unreadable(0x900_0000, 8, Cause::Vanished);
    let text = r#"
        rule whole { condition: uint32be(0x1000) == 0x7f454c46 }
        rule across { condition: uint32(0x1006) == 0x06050403 }
    "#;
    assert_eq!(names(&run(text, &space)), ["whole", "across"]);
    let zeros = r#"rule from_zeros { condition: uint32be(0x100a + 64 * 1024 * 1024) == 0x0000aabb
        and uint8(0x2000000) == 0 }
        rule no_memory { condition: defined uint8(0x9000000) or defined uint8(0x9500000) or defined filesize }"#;
    assert_eq!(names(&run(zeros, &space)), ["from_zeros"]);
    let hash = r#"import "hash" rule h { condition: hash.crc32(0x1000, 12) == hash.crc32("\x7fELF\x01\x02\x03\x04\x05\x06\x07\x08") }"#;
    assert_eq!(names(&run(hash, &space)), ["h"]);
}

#[test]
fn a_fragment_makes_no_word_that_memory_does_not_have() {
    // What is cut out of memory ends somewhere; the engine must not take that for the end of a word.
    let mut bytes = vec![b'x'; 4000];
    bytes.extend_from_slice(b"foobar foo ");
    bytes.extend(std::iter::repeat_n(b'x', 4000));
    let space = fine().bytes(0x1000, &bytes);
    let text = r#"rule a { strings: $a = "foo" fullword $b = /x+\b/ $c = /\bfoobar\b/ $d = "xxxx" fullword
            $e = /foo$/ $f = /^foo/
        condition: any of them }"#;
    let (matches, _) = run_with(&compile(text), &space, &small(1, 512));
    let at = 0x1000 + 4000 + 7;
    assert_eq!(addresses(&matches[0], "$a"), [(at, 3)]);
    for none in ["$c", "$d", "$e", "$f"] {
        assert_eq!(addresses(&matches[0], none), [], "{none}");
    }
}

#[test]
fn private_rules_and_strings_count_and_are_not_told_of() {
    let space = Space::new().bytes(0x1000, b"one two three");
    let text = r#"private rule hidden { strings: $a = "one" condition: $a }
        rule open : tag other { meta: author = "me" level = 3 live = true
            strings: $a = "private" private $b = "two" private /* private */ $c = "three"
            condition: hidden and $b and $c and not $a }
        rule never : other { condition: false }
        rule last { condition: true }"#;
    let rules = compile(text);
    let (matches, _) = run_with(&rules, &space, &RuleOptions::default());
    assert_eq!(names(&matches), ["open", "last"]);
    assert_eq!(matches[0].tags, ["tag", "other"]);
    assert_eq!(matches[0].strings.len(), 1);
    assert_eq!(matches[0].metadata[1], ("level".to_owned(), MetadataValue::Integer(3)));
    let tagged = RuleOptions { tags: vec!["tag".into()], ..RuleOptions::default() };
    assert_eq!(names(&run_with(&rules, &space, &tagged).0), ["open"]);
    let named = RuleOptions { names: vec!["last".into()], ..RuleOptions::default() };
    assert_eq!(names(&run_with(&rules, &space, &named).0), ["last"]);
}

#[test]
fn modules_see_an_executable_that_lies_among_others() {
    let mut header = vec![0; 128];
    header[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    header[16..20].copy_from_slice(&[2, 0, 62, 0]);
    header[52] = 64;
    header.extend_from_slice(b"marker");
    let space = fine().bytes(0x1000, b"MARKE mark").bytes(0x100a, &header);
    let text = r#"import "elf"
        rule e { strings: $a = "marker" $b = "mark\x7fELF" condition: elf.machine == elf.EM_X86_64 and #a == 1 and #b == 1 }"#;
    assert_eq!(names(&run(text, &space)), ["e"]);
    let nothing = Space::new().bytes(0x1000, b"marker mark\x7fELF");
    assert!(run(text, &nothing).is_empty());
}

#[test]
fn a_string_that_matches_too_often_is_named() {
    let space = Space::new().bytes(0x1000, &[b'a'; 5000]);
    let rules = compile(r#"rule many { strings: $x = "aa" $y = "b" condition: #x == 100 and not $y }"#);
    let options = RuleOptions { max_matches: 100, ..small(2, 256) };
    let (matches, report) = run_with(&rules, &space, &options);
    assert_eq!(names(&matches), ["many"]);
    assert_eq!(report.capped, ["many:$x"]);
    assert!(!report.is_whole());
}

#[test]
fn a_match_that_goes_on_behind_what_is_shown_is_said_to() {
    let space = Space::new().bytes(0x1000, &vec![b'7'; 11_000]);
    let (matches, report) =
        run_with(&compile(r"rule long { strings: $x = /\d+/ condition: $x }"), &space, &small(1, 1024));
    assert_eq!(names(&matches), ["long"]);
    assert!(report.cut_short > 0);
    let space = Space::new().bytes(0x1000, &vec![b'7'; 2_000]);
    let (_, report) =
        run_with(&compile(r"rule long { strings: $x = /\d+/ condition: $x }"), &space, &small(1, 1024));
    assert_eq!(report.cut_short, 0);
}

#[test]
fn what_is_wrong_with_a_rule_is_said_with_its_place() {
    let error = |text: &str| match Rules::compile(&[file(text)], &[], &mut no_include) {
        Err(RulesError::Rule(remark)) => (remark.line, remark.message),
        other => panic!("{other:?}"),
    };
    assert_eq!(error("rule a { condition: true }\nrule b { condition: }").0, 2);
    let (line, message) = error("\n\nrule a {\n condition: filename == \"x\" }");
    assert_eq!(line, 4);
    assert!(message.contains("filename"), "{message}");
    let (line, message) = error("rule a { strings:\n $a = \"x\"\n $b = \"y\"\n condition: $a }");
    assert!(line == 3 && message.contains("$b"), "{line} {message}");
    assert_eq!(error("import \"nothing\"").0, 1);
    assert_eq!(error("rule a { strings: $a = /(/ condition: $a }").0, 1);
    let deep = format!("rule a {{ condition: {}true{} }}", "(".repeat(10_000), ")".repeat(10_000));
    assert_eq!(error(&deep).0, 1);
}

#[test]
fn variables_come_from_outside() {
    let text = r#"rule a { condition: count == 3 and live and name == "x" and ratio > 0.5 }"#;
    let values = [("count", "3"), ("live", "true"), ("name", "x"), ("ratio", "0.75")];
    let mut externals: Vec<(String, External)> =
        values.iter().map(|(name, value)| ((*name).to_owned(), External::parse(value))).collect();
    let rules = Rules::compile(&[file(text)], &externals, &mut no_include).unwrap();
    assert_eq!(names(&run_with(&rules, &Space::new(), &RuleOptions::default()).0), ["a"]);
    externals.push(("count".to_owned(), External::Integer(4)));
    let twice = Rules::compile(&[file(text)], &externals, &mut no_include);
    assert!(matches!(twice, Err(RulesError::DefinedTwice(name)) if name == "count"));
    assert_eq!(External::parse("inf"), External::Text("inf".into()));
    assert_eq!(External::parse("-1.5"), External::Float(-1.5));
}

#[test]
fn includes_are_found_from_the_file_that_has_them() {
    let disk: BTreeMap<&str, &str> = [
        ("a/x.yar", "include \"common.yar\"\nrule x { condition: from_a }"),
        ("a/common.yar", "include \"../b/y.yar\" rule from_a { condition: true }"),
        ("b/y.yar", "include \"common.yar\"\nrule y { condition: from_b }"),
        ("b/common.yar", "\nrule from_b { strings: $ = \"x\" condition: none of them }"),
        ("loop.yar", "include \"loop.yar\""),
        ("broken.yar", "\ninclude \"bad.yar\""),
        ("bad.yar", "\n\nrule bad { condition: 1 + }"),
    ]
    .into();
    let mut read = |from: &str, path: &str| {
        let folder = from.rsplit_once('/').map_or("", |(folder, _)| folder);
        let joined = match path.strip_prefix("../") {
            Some(path) => path.to_owned(),
            None if folder.is_empty() => path.to_owned(),
            None => format!("{folder}/{path}"),
        };
        let text = disk.get(joined.as_str()).ok_or(io::ErrorKind::NotFound)?;
        Ok((joined, (*text).to_owned()))
    };
    let top = |name: &str, text: &str| RuleText { name: name.to_owned(), ..file(text) };
    let rules = Rules::compile(&[top("top.yar", "include \"a/x.yar\"")], &[], &mut read).unwrap();
    let (matches, _) = run_with(&rules, &Space::new().bytes(0x1000, b"nothing"), &RuleOptions::default());
    assert_eq!(names(&matches), ["from_b", "y", "from_a", "x"]);
    let mut error = |text: &str| Rules::compile(&[top("top.yar", text)], &[], &mut read).unwrap_err();
    match error("include \"loop.yar\"") {
        RulesError::Rule(remark) => assert_eq!((remark.file.as_str(), remark.line), ("loop.yar", 1)),
        other => panic!("{other:?}"),
    }
    match error("include \"broken.yar\"") {
        RulesError::Rule(remark) => assert_eq!((remark.file.as_str(), remark.line), ("bad.yar", 3)),
        other => panic!("{other:?}"),
    }
    match error("\ninclude \"missing.yar\"") {
        RulesError::Include { place, .. } => assert_eq!(place.line, 2),
        other => panic!("{other:?}"),
    }
}

/// The stretches of a space: bytes that adjoin, whatever their mappings and states.
fn stretches(space: &Space) -> Vec<(u64, Vec<u8>)> {
    let mut stretches: Vec<(u64, Vec<u8>)> = Vec::new();
    for run in &space.pages(Span::ALL).unwrap() {
        for at in run.span.start().get()..run.span.end().get() {
            let mut byte = [0];
            if space.read_at(memfetch::Address::new(at), &mut byte).is_err() {
                continue;
            }
            match stretches.last_mut().filter(|(start, bytes)| start + bytes.len() as u64 == at) {
                Some((_, bytes)) => bytes.push(byte[0]),
                None => stretches.push((at, byte.to_vec())),
            }
        }
    }
    stretches
}

/// Each part: a distance from the last, bytes, and a sort.
fn parts() -> impl Strategy<Value = Vec<(u64, Vec<u8>, u8)>> {
    let bytes = prop::collection::vec(prop::sample::select(b"aabbc \0\n".to_vec()), 1..120);
    prop::collection::vec((prop_oneof![3 => Just(0_u64), 1 => 1..9_u64], bytes, 0..8_u8), 1..14)
}

fn space(parts: &[(u64, Vec<u8>, u8)]) -> Space {
    let mut space = fine();
    let mut at = 0x10_0000;
    for (distance, bytes, sort) in parts {
        at += distance;
        let len = bytes.len() as u64;
        space = match sort {
            0 => space.zeros(at, len),
            1 => space.vanished(at, len),
            2 => space.region(at, len, "rw-p", ANONYMOUS).part(at, len, PageState::Swapped, bytes),
            _ => space.bytes(at, bytes),
        };
        at += len;
    }
    space
}

const STRINGS: &str = r#"rule every { strings:
    $a = "ab" $b = "a" nocase fullword $c = "ba" wide ascii $d = { 61 ?? 62 [0-4] 20 } $e = { 61 ( 62 | 63 20 ) 6? }
    $f = /a.{0,5}b/ $g = /[ab]+c/ $h = /b\b/ $i = /^a[bc]*/ $j = /c a?$/ $k = /\w{2,}/ $l = "abc" fullword wide
    $m = /a.*c/s $n = "b a" private
    condition: any of them or true }"#;

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_matches_is_what_the_engine_finds_in_all_bytes_at_once(
        parts in parts(), core in 4..9_u32, threads in 1..4_usize,
    ) {
        let space = space(&parts);
        let mut compiler = boreal::Compiler::new();
        compiler.add_rules_str(STRINGS).unwrap();
        let mut scanner = compiler.finalize();
        scanner.set_scan_params(boreal::scanner::ScanParams::default().compute_full_matches(true));
        let mut expected = Vec::new();
        for (start, bytes) in stretches(&space) {
            let result = scanner.scan_mem(&bytes).unwrap();
            for string in &result.rules[0].matches {
                for one in &string.matches {
                    expected.push((format!("${}", string.name), start + one.offset as u64, one.length as u64));
                }
            }
        }
        expected.sort();
        let (matches, report) = run_with(&compile(STRINGS), &space, &small(threads, 1 << core));
        let mut found: Vec<_> = matches[0]
            .strings
            .iter()
            .map(|string| (string.identifier.clone(), string.at.get(), string.length))
            .collect();
        found.sort();
        prop_assert_eq!(report.doubtful, 0);
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn literals_are_found_where_a_naive_search_finds_them(parts in parts(), core in 4..9_u32) {
        let space = space(&parts);
        let rules = compile(r#"rule n { strings: $a = "ab" $b = "\n\x00b" $c = "bb b" condition: any of them or true }"#);
        let (matches, _) = run_with(&rules, &space, &small(2, 1 << core));
        for (name, literal) in [("$a", &b"ab"[..]), ("$b", b"\n\0b"), ("$c", b"bb b")] {
            let expected: Vec<(u64, u64)> = stretches(&space)
                .iter()
                .flat_map(|(start, bytes)| {
                    let starts = bytes.windows(literal.len()).enumerate().filter(|(_, window)| *window == literal);
                    starts.map(|(at, _)| (start + at as u64, literal.len() as u64)).collect::<Vec<_>>()
                })
                .collect();
            prop_assert_eq!(addresses(&matches[0], name), expected);
        }
    }
}

#[test]
fn what_a_condition_could_not_read_is_a_gap() {
    let space = Space::new().bytes(0x1000, &[7; 4096]).vanished(0x20_0000, 4096);
    let run = |text: &str| {
        let (matches, report) = run_with(&compile(text), &space, &RuleOptions::default());
        (matches.len(), report.coverage)
    };
    let (found, coverage) = run("rule there { condition: uint8(0x1000) == 7 }");
    assert_eq!((found, coverage.gaps.len()), (1, 0));
    assert!(coverage.read_bytes > 0);
    let (found, coverage) = run("rule gone { condition: uint8(0x200000) == 7 }");
    assert_eq!((found, coverage.gaps.bytes()), (0, 4096), "{coverage:?}");
}
