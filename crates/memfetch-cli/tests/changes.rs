//! `memfetch diff` as it is started: what it says of a word that changed, and its exit codes.

use std::path::Path;
use std::process::Command;

use memfetch_testkit::Target;

fn memfetch(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_memfetch"));
    let output = command.args(arguments).current_dir(folder).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// A process whose memory is its own addresses, two cores of it, and what is given back between them is zero.
struct Two {
    folder: tempfile::TempDir,
    target: Target,
    start: String,
}

impl Two {
    fn taken() -> Self {
        let mut target = Target::spawn("private", &["1"]);
        let folder = tempfile::tempdir().unwrap();
        let pid = target.pid().to_string();
        let snap = |name: &str| {
            let (code, _, err) = memfetch(folder.path(), &["snap", &pid, "-q", "-o", name]);
            assert_eq!(code, 0, "{err}");
        };
        snap("a.core");
        assert_eq!(target.ask("discard"), "0");
        snap("b.core");
        let start = target.fact("start").to_owned();
        Self { folder, target, start }
    }

    fn diff(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut all = vec!["diff", "--only", &self.start];
        all.extend(arguments);
        memfetch(self.folder.path(), &all)
    }
}

#[test]
fn what_changed_is_told_in_every_view() {
    let two = Two::taken();
    let start = two.target.number("start");
    let pid = two.target.pid().to_string();
    // The second core, and the process as it still is.
    for after in ["b.core", &pid] {
        let (code, out, err) = two.diff(&["a.core", after]);
        assert_eq!(code, 1, "{err}");
        assert!(
            out.contains(&format!("\n- {start:012x}  ")) && out.contains(&format!("\n+ {start:012x}  00 00")),
            "{out}"
        );
        assert!(out.contains("more of this: --all shows them"), "{out}");
        assert!(err.contains("compared by address"), "{err}");

        let (code, out, _) = two.diff(&["a.core", after, "-t", "u64", "-n", "2"]);
        assert_eq!(code, 1);
        let lines: Vec<&str> = out.lines().skip(1).collect();
        let second = start + 8;
        let expected = [format!("  {start:012x}  {start} -> 0"), format!("  {second:012x}  {second} -> 0")];
        assert_eq!(lines.iter().take(2).collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());
        assert!(lines[2].starts_with("  ... and "), "{out}");

        let (code, out, _) = two.diff(&["a.core", after, "--json", "-t", "ptr"]);
        assert_eq!(code, 1);
        let events: Vec<serde_json::Value> =
            out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(events[0]["event"], "bytes");
        assert_eq!(events[0]["values"][1]["old"], format!("{second:#x}"));
        assert_eq!(events[0]["values"][1]["new"], "0x0");
        let summary = events.last().unwrap();
        assert_eq!((&summary["event"], &summary["different"]), (&"summary".into(), &true.into()));
        assert!(summary["different_bytes"].as_u64().unwrap() > 1 << 18, "{summary}");

        let (code, out, _) = two.diff(&["a.core", after, "--summary"]);
        assert_eq!((code, out.lines().count()), (1, 1), "{out}");
    }
}

#[test]
fn the_exit_code_tells_equal_different_and_unknown() {
    let two = Two::taken();
    for (arguments, code) in [
        (&["a.core", "a.core"][..], 0),
        (&["a.core", "b.core", "-q"], 1),
        (&["a.core", "a.core", "-q"], 0),
        (&["a.core", "nowhere.core"], 2),
        (&["a.core", "b.core", "--by-address", "--by-region"], 2),
        (&["a.core", "b.core", "-t", "u9"], 2),
    ] {
        let (got, out, err) = two.diff(arguments);
        assert_eq!(got, code, "{arguments:?}: {out}{err}");
        if arguments.contains(&"-q") {
            assert_eq!((out.as_str(), err.as_str()), ("", ""), "{arguments:?}");
        }
    }
    // One that was cut short is not known to be equal.
    let whole = std::fs::read(two.folder.path().join("a.core")).unwrap();
    std::fs::write(two.folder.path().join("short.core"), &whole[..whole.len() * 9 / 10]).unwrap();
    let (code, _, err) = memfetch(two.folder.path(), &["diff", "a.core", "short.core"]);
    assert_eq!(code, 3, "{err}");
    assert!(err.contains("short.core: INCOMPLETE: "), "{err}");
}

#[test]
fn two_runs_are_brought_together() {
    let one = Target::spawn("private", &["1"]);
    let other = Target::spawn("private", &["1"]);
    let folder = tempfile::tempdir().unwrap();
    let (pids, stack) = ([one.pid().to_string(), other.pid().to_string()], "stack");
    if one.fact("start") == other.fact("start") {
        return eprintln!("skipped: addresses are not random here");
    }
    let (code, out, err) = memfetch(
        folder.path(),
        &[
            "diff",
            &pids[0],
            &pids[1],
            "--only",
            "anon",
            "--skip",
            stack,
            "--ignore-moved-pointers",
            "--summary",
        ],
    );
    assert!(code == 1 || code == 0, "{err}");
    assert!(err.contains("compared by mapping"), "{err}");
    // Every word is its own address: a pointer into its own mapping.
    let pointers: u64 = err
        .lines()
        .find_map(|line| line.trim().split_once(" pointers differ only"))
        .and_then(|(number, _)| number.parse().ok())
        .unwrap_or_else(|| panic!("{err}"));
    assert!(pointers >= 1 << 17, "{out}{err}");
}
