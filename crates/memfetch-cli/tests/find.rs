//! `memfetch find` as it is started: what is printed where, and how it ends. What is found is tested by the library.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Output, Stdio};

use memfetch_testkit::Target;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_memfetch"));
    command.arg("find").args(arguments);
    command
}

fn find(arguments: &[&str]) -> (i32, String, String) {
    told(&command(arguments).output().unwrap())
}

fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// A process with words that hold their own addresses, its number, and the address of the first.
fn target() -> (Target, String, u64) {
    let target = Target::spawn("private", &["2"]);
    let (pid, start) = (target.pid().to_string(), target.number("start"));
    (target, pid, start)
}

#[test]
fn a_word_is_found_where_it_is() {
    let (_target, pid, start) = target();
    let at = start + 4096 * 3 + 8;
    let value = format!("{at:#x}");
    let only = format!("{start:#x}");
    let (code, out, err) = find(&[&pid, "-t", "u64", &value, "--only", &only]);
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with(&format!("{at:012x}  ")) && out.lines().count() == 1, "{out}");
    assert!(err.starts_with("2 MiB read.") && err.lines().count() == 1, "{err}");
    // The same as bytes, with the low nibble of the page left open.
    let bytes: Vec<String> = at.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let (code, out, _) = find(&[&pid, "--only", &only, "-c", "-x", &bytes.join(" ")]);
    assert_eq!((code, out.as_str()), (0, "1\n"));
    let wild = format!("{} ?{}", bytes[0], &bytes[1][1..]) + &bytes[2..].concat();
    let (_, out, _) = find(&[&pid, "--only", &only, "-c", "-x", &wild]);
    assert_eq!(out, "16\n", "{wild}");
    // By what it points to.
    let span = format!("{at:#x}..{:#x}", at + 1);
    let (code, out, _) = find(&[&pid, "--only", &only, "--points-to", &span]);
    assert_eq!(code, 0);
    assert!(out.starts_with(&format!("{at:012x}  ")) && out.contains(&format!("-> {at:012x}")), "{out}");
}

#[test]
fn reports_are_those_of_grep() {
    let (_target, pid, start) = target();
    let only = format!("{start:#x}");
    let page = format!("{:#x}", start + 4096);
    let json = |arguments: &[&str]| -> Vec<serde_json::Value> {
        let (code, out, err) = find(arguments);
        assert_eq!((code, err.as_str()), (0, ""));
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let lines = json(&[&pid, "--json", "-t", "ptr", &page, "--only", &only]);
    assert_eq!(lines[0]["address"], page.as_str());
    assert_eq!((&lines[0]["length"], &lines[0]["pattern"]), (&8.into(), &page.as_str().into()));
    assert_eq!(lines[1]["coverage"]["read_bytes"], 2 << 20);
    // Two patterns, counted each for itself.
    let (code, out, _) = find(&[&pid, "-c", "-t", "ptr", &page, "0x10", "--only", &only]);
    assert_eq!(code, 0);
    assert_eq!(out, format!("       1  {page}\n       0  0x10\n"));
    let (_, out, _) = find(&[&pid, "-l", "-t", "ptr", &page, "--only", &only]);
    assert!(out.starts_with(&format!("{start:012x}-")) && out.lines().count() == 1, "{out}");
    // Every word has the byte 0x7f in the same place.
    let (_, out, _) = find(&[&pid, "-m", "5", "-x", "7f 00 00", "--only", &only]);
    assert_eq!(out.lines().count(), 5);
    let (code, out, err) = find(&[&pid, "-q", "-x", "7f 00 00", "--only", &only]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "", ""));
    let (code, out, err) = find(&[&pid, "-q", "a text that is nowhere", "--only", &only]);
    assert_eq!((code, out.as_str(), err.as_str()), (1, "", ""));
    // Context: a line before, one with it, two behind.
    let (_, out, _) = find(&[&pid, "-B", "1", "-A", "2", "-t", "ptr", &page, "--only", &only]);
    let rows: Vec<_> = out.lines().skip(1).map(|line| line.split(' ').next().unwrap()).collect();
    let expected: Vec<_> = (0..4).map(|row| format!("{:012x}", start + 4096 - 16 + 16 * row)).collect();
    assert_eq!(rows, expected);
}

#[test]
fn a_core_is_searched_as_the_process_is() {
    let (_target, pid, start) = target();
    let folder = tempfile::tempdir().unwrap();
    let core = folder.path().join("core").to_str().unwrap().to_owned();
    let mut snap = Command::new(env!("CARGO_BIN_EXE_memfetch"));
    assert!(snap.args(["snap", "-q", &pid, "-o", &core]).status().unwrap().success());
    let only = format!("{start:#x}");
    let search = |source: &str| {
        let (code, out, _) =
            find(&[source, "-e", r"\x7f\x00\x00[\x00-\x0f]", "--only", &only, "--threads", "2"]);
        assert_eq!(code, 0);
        out
    };
    let (of_process, of_core) = (search(&pid), search(&core));
    assert!(of_process.lines().count() > 10_000);
    assert!(of_process == of_core);
    // What it does not have is told, and is not a failure.
    let (code, _, err) = find(&[&core, "a text that is nowhere"]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("not saved in the image"), "{err}");
    // A core that was cut short cannot say that something is not in it.
    let whole = std::fs::read(&core).unwrap();
    std::fs::write(&core, &whole[..whole.len() - 100]).unwrap();
    let (code, _, err) = find(&[&core, "a text that is nowhere"]);
    assert_eq!(code, 3, "{err}");
    assert!(err.contains("INCOMPLETE"), "{err}");
}

#[test]
fn what_cannot_be_read_is_not_called_absent() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::spawn("holes", &[folder.path().to_str().unwrap()]);
    if target.number("secret") == 0 {
        memfetch_testkit::peers::skipped("searching secret memory", "needs memfd_secret");
        return;
    }
    let only = format!("{:#x}", target.number("start") + 12 * 4096);
    let (code, out, err) = find(&[&target.pid().to_string(), "a text that is nowhere", "--only", &only]);
    assert_eq!((code, out.as_str()), (3, ""), "{err}");
    assert!(err.contains("secret memory"), "{err}");
}

#[test]
fn a_process_that_ends_halfway_leaves_what_was_found() {
    let target = Target::spawn("private", &["8"]);
    let only = format!("{:#x}", target.number("start"));
    // So much is found that the pipe is full long before the end.
    let mut command = command(&[&target.pid().to_string(), "-x", "7f 00 00", "--only", &only]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    drop(target);
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(2), "{said}");
    assert!(said.contains("has ended"), "{said}");
    assert!(rest.ends_with('\n') && rest.lines().count() > 100);
}

#[test]
fn whoever_has_read_enough_is_not_an_error() {
    let (_target, pid, _) = target();
    let mut child =
        command(&[&pid, "-x", "7f 00 00"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{said}");
    assert!(!said.contains("Error"), "{said}");
}

#[test]
fn what_is_no_pattern_is_told_so() {
    for (arguments, words) in [
        (&["self"][..], "nothing to find"),
        (&["self", ""], "a pattern has at least one byte"),
        (&["self", "-x", "abc"], "one digit only"),
        (&["self", "-x", "????"], "at least one byte"),
        (&["self", "-e", "("], "unclosed group"),
        (&["self", "-t", "u8", "256"], "`256` is no u8"),
        (&["self", "-t", "u33", "1"], "there is no type `u33`"),
        (&["self", "--points-to", "0xzz"], "addresses are hexadecimal"),
        (&["self", "--align", "3", "-t", "u8", "1"], "an alignment is"),
    ] {
        let (code, out, err) = find(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}");
        assert!(err.contains(words), "{arguments:?}: {err}");
    }
}

#[test]
fn rules_are_evaluated_over_a_process() {
    let (_target, pid, start) = target();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("words.yar").to_str().unwrap().to_owned();
    let at = start + 4096 * 3 + 8;
    let bytes: Vec<String> = at.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let rules = format!(
        "rule here : tagged {{ strings: $word = {{ {} }} condition: $word at {at:#x} and level == 3 }}\n\
         rule nowhere {{ strings: $text = \"a text that is nowhere\" condition: $text }}",
        bytes.join(" ")
    );
    std::fs::write(&file, rules).unwrap();
    let only = format!("{start:#x}");
    let base = [pid.as_str(), "--rules", &file, "-d", "level=3", "--only", &only];
    let with = |more: &[&str]| find(&[&base[..], more].concat());
    let (code, out, err) = with(&[]);
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with(&format!("here [tagged]\n{at:#x}:$word: ")), "{out}");
    assert!(err.starts_with("2 MiB read."), "{err}");
    assert_eq!(with(&["-l"]).1, "here [tagged]\n");
    assert_eq!(with(&["-c"]).1, "1\n");
    assert_eq!(with(&["-q"]), (0, String::new(), String::new()));
    assert_eq!(with(&["-q", "--tag", "other"]).0, 1);
    let (_, out, _) = with(&["--json"]);
    let rule: serde_json::Value = serde_json::from_str(out.lines().next().unwrap()).unwrap();
    assert_eq!(rule["strings"][0]["address"], format!("{at:#x}"));
    let (code, _, err) = find(&[&pid, "--rules", &file]);
    assert_eq!(code, 2);
    assert!(err.contains("words.yar:1:") && err.contains("Hint: a variable"), "{err}");
}
