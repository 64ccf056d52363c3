//! `memfetch read` over processes whose memory is known, and over cores of them.

use std::path::Path;
use std::process::{Command, Output};

use memfetch_testkit::Target;

const PAGE: u64 = 4096;

fn read(source: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_memfetch"));
    command.args(["read", source]).args(arguments).output().unwrap()
}

fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// The fields of a line.
fn fields(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

fn core_of(target: &Target, folder: &Path) -> String {
    let core = folder.join("core").to_str().unwrap().to_owned();
    let pid = target.pid().to_string();
    let mut snap = Command::new(env!("CARGO_BIN_EXE_memfetch"));
    let taken = snap.args(["snap", "-q", "--contents", "full", &pid, "-o", &core]).output().unwrap();
    assert!(matches!(taken.status.code(), Some(0 | 3)), "{taken:?}");
    core
}

#[test]
fn symbols_of_a_process_and_of_its_core() {
    let target = Target::spawn("symbols", &[]);
    let folder = tempfile::tempdir().unwrap();
    let (mark, environ) = (target.fact("mark"), target.fact("environ"));
    for source in [target.pid().to_string(), core_of(&target, folder.path())] {
        for program in ["main", "memfetch-target", ""] {
            let place = format!("{program}!MEMFETCH_MARK");
            let (code, out, err) = told(&read(&source, &[&place, "-t", "ptr"]));
            assert_eq!((code, err.as_str()), (0, ""), "{source} {place}");
            // As many as the symbol is long.
            let lines: Vec<_> = out.lines().map(fields).collect();
            assert_eq!(lines.len(), 3, "{out}");
            assert_eq!(lines[0][..], [&format!("{:012x}", target.number("mark")), "0x7"]);
            assert_eq!(lines[1][1..], [mark, "memfetch-target!MEMFETCH_MARK"]);
            assert_eq!(lines[2][1], environ);
            assert!(lines[2][2].starts_with("[stack]+0x"), "{out}");
        }
        let (code, out, err) = told(&read(&source, &["libc.so.6!environ", "-t", "ptr"]));
        assert_eq!((code, err.as_str()), (0, ""), "{source}");
        assert_eq!(fields(&out)[1], environ);
        // The variables of the environment, by the first of those pointers.
        let place = format!("{environ}..+8");
        let (_, out, _) = told(&read(&source, &[&place, "-t", "ptr"]));
        let (code, out, _) = told(&read(&source, &[fields(&out)[1], "-t", "str", "-n", "2"]));
        assert_eq!(code, 0);
        assert!(out.lines().count() == 2 && out.lines().all(|line| line.contains('=')), "{out}");

        let (code, out, err) = told(&read(&source, &["main", "-n", "4"]));
        assert_eq!((code, err.as_str()), (0, ""));
        assert!(out.contains("7f 45 4c 46") && out.ends_with("|.ELF|\n"), "{out}");
        for (place, words) in [
            ("main!NO_SUCH_SYMBOL", "`NO_SUCH_SYMBOL` is no symbol of main"),
            ("MEMFETCH_MARK", "a symbol is `!MEMFETCH_MARK`"),
            ("libc.so.7", "no mapping is called `libc.so.7`"),
        ] {
            let (code, out, err) = told(&read(&source, &[place]));
            assert_eq!((code, out.as_str()), (2, ""));
            assert!(err.contains(words), "{err}");
        }
    }
}

#[test]
fn what_cannot_be_read_is_shown_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::spawn("holes", &[folder.path().to_str().unwrap()]);
    let start = target.number("start");
    let page = |number: u64| format!("{:#x}", start + number * PAGE);
    let pid = target.pid().to_string();
    let core = core_of(&target, folder.path());
    for source in [&pid, &core] {
        // Page 1 is filled, page 2 is not mapped, page 3 is filled.
        let place = format!("{}..{}", page(2), page(3));
        let (code, out, err) = told(&read(source, &[&place]));
        assert_eq!((code, out.as_str()), (2, ""), "nothing of it is there");
        assert!(err.contains("nothing is mapped there\nHint: `memfetch maps`"), "{err}");

        let from = start + 2 * PAGE - 16;
        let place = format!("{from:#x}..{:#x}", start + 3 * PAGE + 16);
        let (code, out, err) = told(&read(source, &[&place, "-g", "8"]));
        assert_eq!(code, 3);
        let word = |at: u64| at.to_le_bytes().map(|byte| format!("{byte:02x}")).concat();
        let lines: Vec<_> = out.lines().map(fields).collect();
        assert_eq!(lines[0][1..3], [word(from), word(from + 8)]);
        assert_eq!(lines[1][1..3], ["-".repeat(16), "-".repeat(16)]);
        assert_eq!((lines[2][..].as_ref(), lines.len()), (&["*"][..], 4));
        assert_eq!(lines[3][1..3], [word(start + 3 * PAGE), word(start + 3 * PAGE + 8)]);
        assert!(err.contains("1 gap, 4 KiB: nothing is mapped there"), "{err}");

        // Bytes alone end before the first that is missing.
        let output = read(source, &[&place, "--raw"]);
        assert_eq!(output.status.code(), Some(3));
        assert_eq!(output.stdout, [from.to_le_bytes(), (from + 8).to_le_bytes()].concat());
        let (_, _, err) = told(&output);
        assert!(err.contains(&format!("cannot read memory at {}", page(2))), "{err}");
        let output = read(source, &[&place, "--raw", "--fill", "0xee"]);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(3), 4096 + 32));
        assert!(output.stdout[16..4096 + 16].iter().all(|&byte| byte == 0xee));

        let (code, out, _) = told(&read(source, &[&place, "--json"]));
        let value: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(code, 3);
        assert_eq!(value["parts"][1]["cause"], "not-mapped");
        assert_eq!(value["parts"][1]["start"], page(2).as_str());
        assert_eq!(value["gaps"].as_array().map(Vec::len), Some(1));
        let (code, out, _) = told(&read(source, &[&place, "-t", "u64"]));
        assert_eq!(code, 3);
        let lines: Vec<_> = out.lines().map(fields).collect();
        assert_eq!(lines[1][1], (from + 8).to_string());
        assert_eq!(lines[2][1..], ["--", "512", "of", "them"]);
    }
    // What was never touched is zero, and no gap.
    let (code, out, err) = told(&read(&pid, &[&page(7), "-n", "4K"]));
    assert_eq!((code, out.lines().count(), err.as_str()), (0, 3, ""), "{out}");
}

#[test]
fn a_terabyte_is_three_lines_or_a_hole() {
    let target = Target::spawn("reserved", &["2048", "1"]);
    let pid = target.pid().to_string();
    let place = format!("{:#x}..+{}", target.number("start"), target.number("bytes"));
    let (code, out, err) = told(&read(&pid, &[&place]));
    assert_eq!((code, err.as_str()), (0, ""));
    // A mebibyte of addresses, then zeros to the end.
    assert_eq!(out.lines().count(), (1 << 20) / 16 + 3);
    assert_eq!(out.lines().rev().nth(1), Some("*"));

    let folder = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(folder.path().join("raw")).unwrap();
    let place = format!("{:#x}..+{}", target.number("start"), 64_u64 << 30);
    let mut command = Command::new(env!("CARGO_BIN_EXE_memfetch"));
    command.args(["read", &pid, &place, "--raw"]).stdout(file.try_clone().unwrap());
    assert!(command.status().unwrap().success());
    let metadata = file.metadata().unwrap();
    assert_eq!(metadata.len(), 64 << 30);
    assert!(std::os::unix::fs::MetadataExt::blocks(&metadata) * 512 < 4 << 20);
}

#[test]
fn arguments_that_say_two_things() {
    for (arguments, words) in [
        (&["0x1000+0x10"][..], "`0x1000+0x10` may be an offset or a length\nHint: `0x1010`"),
        (&["heap..", "-n", "3"], "tells where it ends, and so does `--count`"),
        (&["0x2000..0x1000"], "ends before it starts"),
        (&["0x1000..0x1000"], "is empty"),
        (&["12"], "begin with 0x"),
        (&["heap", "-t", "u128"], "there is no type `u128`"),
        (&["heap", "--fill", "0"], "--raw"),
    ] {
        let (code, out, err) = told(&read("self", arguments));
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}");
        assert!(err.contains(words), "{err}");
    }
}
