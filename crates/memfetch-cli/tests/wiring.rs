//! The program as it is started: exit codes, what goes to which output, names of files. What the commands do is
//! tested where it is done.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use memfetch_testkit::Target;

fn memfetch(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_memfetch"));
    command.args(arguments).current_dir(folder).output().unwrap()
}

fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_snapshot_is_verified_listed_and_not_overwritten() {
    let target = Target::spawn("private", &["2"]);
    let pid = target.pid().to_string();
    let folder = tempfile::tempdir().unwrap();
    let name = format!("memfetch-target.{pid}.core");
    let (code, out, err) = told(&memfetch(folder.path(), &[&pid]));
    assert_eq!((code, out.as_str()), (0, ""), "{err}");
    assert!(err.starts_with(&format!("{name}: ")), "{err}");

    let (code, out, err) = told(&memfetch(folder.path(), &["verify", &name]));
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("whole and unaltered"), "{out}");

    let start = target.fact("start").to_owned();
    for source in [pid.as_str(), &name] {
        let (code, out, err) = told(&memfetch(folder.path(), &["maps", source, "--json", "--only", &start]));
        assert_eq!((code, err.as_str()), (0, ""));
        let regions: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert!(regions[0]["dirty"].as_u64().unwrap() >= 2 << 20, "{source}: {out}");
    }
    // The ELF headers of libraries are saved, and were never written; what relocation wrote was.
    let (_, out, _) = told(&memfetch(folder.path(), &["maps", &name, "--json", "--only", "file"]));
    let regions: Vec<serde_json::Value> = serde_json::from_str(&out).unwrap();
    let figure = |region: &serde_json::Value, key: &str| region[key].as_u64().unwrap();
    let clean =
        |region: &&serde_json::Value| region["permissions"] == "r--p" && region["backing"]["offset"] == 0;
    assert!(regions.iter().filter(clean).any(|region| figure(region, "resident") > 0), "{out}");
    assert!(regions.iter().filter(clean).all(|region| figure(region, "dirty") == 0), "{out}");
    assert!(regions.iter().any(|region| figure(region, "dirty") > 0), "{out}");

    let (code, _, err) = told(&memfetch(folder.path(), &[&pid]));
    assert_eq!(code, 2);
    assert!(err.contains("Caused by: the file exists\nHint: `--force`"), "{err}");
    let (code, out, err) = told(&memfetch(folder.path(), &["snap", "--force", "--json", &pid]));
    assert_eq!((code, err.as_str()), (0, ""));
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["path"], name.as_str());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left behind");
}

#[test]
fn an_altered_core_is_found_out() {
    let target = Target::spawn("private", &["1"]);
    let folder = tempfile::tempdir().unwrap();
    let (code, _, err) =
        told(&memfetch(folder.path(), &["snap", &target.pid().to_string(), "-q", "-o", "x.core"]));
    assert_eq!((code, err.as_str()), (0, ""));
    let path = folder.path().join("x.core");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let (code, out, _) = told(&memfetch(folder.path(), &["verify", "x.core"]));
    assert_eq!(code, 1);
    assert!(out.starts_with("x.core: ALTERED in 1 place\n"), "{out}");
    bytes.truncate(middle);
    std::fs::write(&path, &bytes).unwrap();
    let (code, out, _) = told(&memfetch(folder.path(), &["verify", "--json", "x.core"]));
    assert_eq!(code, 1);
    let verdict: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(verdict["verdict"], "incomplete");
}

#[test]
fn the_core_goes_through_a_pipe_and_the_report_beside_it() {
    let target = Target::spawn("private", &["1"]);
    let folder = tempfile::tempdir().unwrap();
    let output = memfetch(folder.path(), &["snap", &target.pid().to_string(), "-o", "-", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.starts_with(b"\x7fELF"));
    let report: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert!(report["path"].is_null());
    std::fs::write(folder.path().join("x.core"), &output.stdout).unwrap();
    assert_eq!(memfetch(folder.path(), &["verify", "-q", "x.core"]).status.code(), Some(0));
}

#[test]
fn one_failure_does_not_stop_the_others_and_decides_the_exit_code() {
    let target = Target::spawn("private", &["1"]);
    let folder = tempfile::tempdir().unwrap();
    let pid = target.pid().to_string();
    let (code, _, err) = told(&memfetch(folder.path(), &["snap", "2147483647", &pid, "-o", "%p"]));
    assert_eq!(code, 2);
    assert!(err.starts_with("Error: no process `2147483647`\n"), "{err}");
    assert!(folder.path().join(&pid).exists());
}

#[test]
fn nothing_found_is_1_and_wrong_usage_2() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, code) in [
        (&["maps", "self", "--only", "no such name"][..], 1),
        (&["maps"], 2),
        (&["strings", "self", "--only", "no such name"], 1),
        (&["strings", "self", "-n", "0"], 2),
        (&["strings", "self", "-e", "x"], 2),
        (&["snap", "self", "--mode", "fast"], 2),
        (&["verify", "nowhere"], 2),
        (&["--version"], 0),
        (&["--man"], 0),
        (&["--completions", "bash"], 0),
        (&["snap", "--help"], 0),
    ] {
        assert_eq!(memfetch(folder.path(), arguments).status.code(), Some(code), "{arguments:?}");
    }
}

#[test]
fn a_broken_pipe_is_silent() {
    let strings = &["strings", "self", "-q"];
    for arguments in [&["maps", "self"][..], &["--man"], &["maps", "self", "--json"], strings] {
        let (code, _, err) = told(&unread(Path::new("."), arguments));
        assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}");
    }
}

/// Runs it with a standard output that nobody reads.
fn unread(folder: &Path, arguments: &[&str]) -> Output {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_memfetch"));
    let command = command.args(arguments).current_dir(folder).stdout(writer).stderr(Stdio::piped());
    command.spawn().unwrap().wait_with_output().unwrap()
}

#[test]
fn the_work_goes_on_and_the_exit_code_tells_where_nobody_reads_the_report() {
    let targets = [Target::spawn("private", &["1"]), Target::spawn("private", &["1"])];
    let folder = tempfile::tempdir().unwrap();
    let [one, two] = targets.each_ref().map(|target| target.pid().to_string());
    let (code, _, err) = told(&unread(folder.path(), &["snap", "--json", &one, &two, "-o", "%p"]));
    assert_eq!((code, err.as_str()), (0, ""));
    for name in [&one, &two] {
        assert_eq!(memfetch(folder.path(), &["verify", "-q", name]).status.code(), Some(0), "{name}");
    }
    let (code, _, err) =
        told(&unread(folder.path(), &["snap", "--json", "--force", &one, "2147483647", "-o", "%p"]));
    assert_eq!(code, 2);
    assert!(err.starts_with("Error: no process `2147483647`\n"), "{err}");

    let path = folder.path().join(&one);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    for flags in [&["verify", "--json"][..], &["verify"]] {
        let arguments = |images: &[&'static str]| [flags, images].concat();
        std::fs::copy(&path, folder.path().join("cut.core")).unwrap();
        let (code, _, err) = told(&unread(folder.path(), &arguments(&["cut.core"])));
        assert_eq!((code, err.as_str()), (1, ""));
        let (code, _, err) = told(&unread(folder.path(), &arguments(&["cut.core", "nowhere"])));
        assert_eq!(code, 2);
        assert!(err.contains("nowhere"), "{err}");
    }
    let (code, _, err) = told(&unread(folder.path(), &["maps", "./cut.core"]));
    assert_eq!(code, 1);
    assert!(err.contains("INCOMPLETE"), "{err}");
    // A core that nobody has whole is an error, as ever without a message.
    let (code, _, err) = told(&unread(folder.path(), &["snap", &two, "-q", "-o", "-"]));
    assert_eq!((code, err.as_str()), (2, ""));
}

#[test]
fn a_link_to_a_pipe_is_not_overwritten_and_force_is_not_what_the_hint_says() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/proc/self/fd/1", folder.path().join("link")).unwrap();
    for flags in [&["snap", "self", "-o", "link"][..], &["snap", "self", "-o", "link", "--force"]] {
        let (code, _, err) = told(&memfetch(folder.path(), flags));
        assert_eq!(code, 2);
        assert!(
            err.contains("a link to a pipe") && err.contains("`-o -`") && !err.contains("--force"),
            "{err}"
        );
        assert!(folder.path().join("link").is_symlink());
    }
}

/// An ELF core with one segment of a page, of which the file has `present` bytes.
fn foreign_core(present: usize) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let put = |bytes: &mut Vec<u8>, number: u64, len: usize| bytes.extend(&number.to_le_bytes()[..len]);
    // e_type, e_machine, e_version, e_entry, e_phoff, e_shoff, e_flags, e_ehsize, e_phentsize, e_phnum, sections.
    for (number, len) in
        [(4, 2), (62, 2), (1, 4), (0, 8), (64, 8), (0, 8), (0, 4), (64, 2), (56, 2), (1, 2), (0, 6)]
    {
        put(&mut bytes, number, len);
    }
    // p_type, p_flags, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align.
    for (number, len) in [(1, 4), (6, 4), (4096, 8), (0x10000, 8), (0, 8), (4096, 8), (4096, 8), (4096, 8)] {
        put(&mut bytes, number, len);
    }
    bytes.resize(4096 + present, 7);
    bytes
}

#[test]
fn a_core_of_others_that_was_cut_short_is_listed_as_incomplete() {
    let folder = tempfile::tempdir().unwrap();
    for (present, expected) in [(4096, 0), (1000, 1)] {
        std::fs::write(folder.path().join("their.core"), foreign_core(present)).unwrap();
        let (code, out, err) = told(&memfetch(folder.path(), &["maps", "their.core"]));
        assert_eq!(code, expected, "{err}");
        assert!(out.contains("000000010000-000000011000"), "{out}");
        assert_eq!(
            err.contains("their.core: INCOMPLETE: it ends before its data does"),
            expected == 1,
            "{err}"
        );
    }
}

const MARK: &str = "a mark\tin the environment, with an \u{e9}";

#[test]
fn strings_are_told_of_a_process_and_of_its_image_alike() {
    let mut command = Command::new(memfetch_testkit::target::program());
    command.args(["private", "1"]).env("MARK", MARK);
    let target = Target::spawn_command(command);
    let pid = target.pid().to_string();
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(memfetch(folder.path(), &["snap", &pid, "-q", "-o", "x.core"]).status.code(), Some(0));
    let mut seen = Vec::new();
    for source in [pid.as_str(), "x.core"] {
        let stack = ["strings", source, "--only", "stack"];
        let (code, out, err) = told(&memfetch(folder.path(), &stack));
        assert_eq!(code, 0, "{err}");
        let line = out.lines().find(|line| line.contains("MARK=")).unwrap();
        assert!(line.ends_with("  u  MARK=a mark\\tin the environment, with an \u{e9}"), "{line}");
        assert!(err.contains(" read"), "{err}");

        let (code, json, err) = told(&memfetch(folder.path(), &[&stack[..], &["--json"]].concat()));
        assert_eq!((code, err.as_str()), (0, ""));
        let objects: Vec<serde_json::Value> =
            json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let (last, strings) = objects.split_last().unwrap();
        assert_eq!(last["complete"], true);
        assert!(last["coverage"]["read_bytes"].as_u64().unwrap() > 0, "{last}");
        let mark = strings.iter().find(|entry| entry["text"] == format!("MARK={MARK}")).unwrap();
        assert_eq!((&mark["encoding"], &mark["region"]["name"]), (&"utf8".into(), &"[stack]".into()));
        let address = mark["address"].as_str().unwrap().trim_start_matches("0x");
        assert!(line.starts_with(address), "{line}");

        let (code, count, err) = told(&memfetch(folder.path(), &[&stack[..], &["-c", "-q"]].concat()));
        assert_eq!((code, err.as_str()), (0, ""));
        assert_eq!(count.trim().parse::<usize>().unwrap(), strings.len());
        let (_, few, err) = told(&memfetch(folder.path(), &[&stack[..], &["-m", "3"]].concat()));
        assert!(err.contains("was not looked at"), "{err}");
        assert_eq!(few.lines().collect::<Vec<_>>(), out.lines().take(3).collect::<Vec<_>>());
        seen.push(out);
    }
    assert!(seen[0] == seen[1]);
}

#[test]
fn strings_of_a_process_that_ends_halfway_are_told_and_the_exit_code_is_2() {
    let target = Target::spawn("private", &["256"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_memfetch"));
    command.args(["strings", &target.pid().to_string(), "-n", "1", "--threads", "1"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It waits for its reader, with most of the memory ahead of it.
    let mut out = child.stdout.take().unwrap();
    let mut first = [0; 1000];
    std::io::Read::read_exact(&mut out, &mut first).unwrap();
    drop(target);
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut out, &mut rest).unwrap();
    let (code, _, err) = told(&child.wait_with_output().unwrap());
    assert_eq!(code, 2, "{err}");
    assert!(err.contains(" read") && err.contains("has ended"), "{err}");
    assert!(rest.ends_with(b"\n"));
}

#[test]
fn strings_of_a_core_that_was_cut_short_have_gaps() {
    let folder = tempfile::tempdir().unwrap();
    let mut core = foreign_core(1000);
    core[4200..4210].copy_from_slice(b"\0\x1b[2Jword\0");
    std::fs::write(folder.path().join("their.core"), core).unwrap();
    let (code, out, err) = told(&memfetch(folder.path(), &["strings", "their.core"]));
    assert_eq!((code, out.as_str()), (3, "00000001006a     [2Jword\n"), "{err}");
    assert!(err.contains("their.core: INCOMPLETE: ") && err.contains("1 gap"), "{err}");
}
