//! Formats beside the core, and the flags of 2002, as the program is started.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use memfetch_testkit::peers::{find, run};
use memfetch_testkit::{Target, signals, target};

const LIMIT: Duration = Duration::from_secs(60);

fn memfetch<A: AsRef<OsStr>>(folder: &Path, arguments: &[A]) -> (i32, String, String) {
    told(run(Command::new(env!("CARGO_BIN_EXE_memfetch")).args(arguments).current_dir(folder), LIMIT))
}

fn told(output: Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn names(folder: &Path) -> Vec<String> {
    let name = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().flatten().map(name).collect();
    names.sort();
    names
}

#[test]
fn a_directory_is_listed_verified_and_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::spawn("private", &["2"]);
    let pid = target.pid().to_string();
    let (code, out, err) = memfetch(folder.path(), &["snap", &pid, "--format", "dir", "-o", "dump"]);
    assert_eq!((code, out.as_str()), (0, ""), "{err}");
    assert!(err.starts_with("dump: "), "{err}");
    let (code, out, _) = memfetch(folder.path(), &["verify", "dump", "dump/mf-index.txt"]);
    assert_eq!((code, out.matches("whole and unaltered").count()), (0, 2), "{out}");
    // By its bare name as well: no process is called like that.
    for source in ["dump", "./dump", "dump/mf-index.txt", &pid] {
        let (code, out, err) =
            memfetch(folder.path(), &["maps", source, "--json", "--only", target.fact("start")]);
        assert_eq!((code, err.as_str()), (0, ""));
        let regions: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert!(regions[0]["dirty"].as_u64().unwrap() >= 2 << 20, "{source}: {out}");
    }
    let (code, _, err) = memfetch(folder.path(), &["snap", &pid, "--format", "dir", "-o", "dump"]);
    assert_eq!(code, 2);
    assert!(err.contains("Caused by: the directory exists\nHint: `--force`"), "{err}");
    let (code, _, err) = memfetch(folder.path(), &["snap", &pid, "--classic", "-q", "--force", "-o", "dump"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let (code, out, _) = memfetch(folder.path(), &["verify", "dump"]);
    assert_eq!(code, 2);
    assert!(out.contains("no digest"), "{out}");
    std::fs::remove_file(folder.path().join("dump/mem-000.bin")).ok();
    let first = names(&folder.path().join("dump")).remove(0);
    std::fs::remove_file(folder.path().join("dump").join(first)).unwrap();
    let (code, out, _) = memfetch(folder.path(), &["verify", "dump"]);
    assert_eq!(code, 1);
    assert!(out.contains("INCOMPLETE: its file "), "{out}");
    assert_eq!(memfetch(folder.path(), &["maps", "dump"]).0, 1);
    assert_eq!(names(folder.path()), ["dump"]);
}

#[test]
fn the_flags_of_2002_choose_and_show() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::spawn("private", &["1"]);
    let pid = target.pid().to_string();
    let address = target.fact("start").strip_prefix("0x").unwrap();
    let (code, out, _) =
        memfetch(folder.path(), &["--classic", "-w", "-m", "-S", address, "-o", "dump", &pid]);
    assert_eq!(code, 0);
    assert!(out.starts_with("[000] mem-000.bin:\n     Memory range 0x"), "{out}");
    assert_eq!(names(&folder.path().join("dump")), ["mem-000.bin", "mfetch.lst"]);
    let (code, _, err) = memfetch(folder.path(), &["-S", "10", &pid]);
    assert_eq!((code, err), (1, format!("no mapping of process {pid} holds 0x10\n")));
    assert_eq!(memfetch(folder.path(), &["-S", "0xzz", &pid]).0, 2);
    let (code, _, err) = memfetch(folder.path(), &["-aq", &pid, "-o", "anonymous.core"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let (_, out, _) = memfetch(folder.path(), &["maps", "./anonymous.core", "--json", "--only", "file"]);
    let regions: Vec<serde_json::Value> = serde_json::from_str(&out).unwrap();
    assert!(!regions.is_empty() && regions.iter().all(|region| region["resident"] == 0), "{out}");
    assert_eq!(names(folder.path()), ["anonymous.core", "dump"]);
}

#[test]
fn raw_memory_goes_to_a_pipe_and_its_index_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::spawn("private", &["1"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_memfetch"));
    let start = target.fact("start");
    command.args(["snap", &target.pid().to_string(), "--format", "raw", "--only", start, "-q"]);
    let output = run(command.args(["-o", "-", "--index", "%p.txt"]).current_dir(folder.path()), LIMIT);
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    assert_eq!(output.stdout[..8], target.number("start").to_ne_bytes());
    let text = std::fs::read_to_string(folder.path().join(format!("{}.txt", target.pid()))).unwrap();
    assert!(text.contains(&format!("\n0 {} {:08x}-", output.stdout.len(), target.number("start"))), "{text}");
}

/// A call of `-s` that waits, killed where the test fails.
struct Waiting(Child);

impl Waiting {
    fn on(target: &Target, folder: &Path, further: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_memfetch"));
        command.args(["-s", &target.pid().to_string()]).args(further).current_dir(folder);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let waiting = Self(child);
        // Before it waits it tries for a moment whether threads can be held at all, which is a trace too.
        let mut looks = 0;
        eventually("the watch", || {
            let watched = tracers(target.pid()).iter().all(|tracer| tracer != "0");
            looks = if watched { looks + 1 } else { 0 };
            looks == 50
        });
        waiting
    }

    fn code(mut self) -> Option<i32> {
        let begun = Instant::now();
        while self.0.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < LIMIT, "it does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
        self.0.wait().unwrap().code()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn tracers(pid: i32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let status = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok());
    let tracer = |status: String| status.split_once("TracerPid:\t")?.1.lines().next().map(str::to_owned);
    status.filter_map(tracer).collect()
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what} never comes");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_core_at_a_fault_names_the_thread_and_the_signal_in_gdb() {
    let folder = tempfile::tempdir().unwrap();
    let mut target = Target::spawn("faults", &[]);
    let waiting = Waiting::on(&target, folder.path(), &["-q", "-o", "fault.core"]);
    target.tell("read");
    assert_eq!(waiting.code(), Some(0));
    eventually("its end", || !target.is_alive());
    let Some(gdb) = find("gdb", "a core at a fault in gdb") else { return };
    let mut command = Command::new(gdb);
    command.args(["-nx", "-batch", "-iex", "set debuginfod enabled off", "-ex", "set language c"]);
    command.args(["-ex", "info threads"]);
    command.args(["-ex", "p $_siginfo.si_signo", "-ex", "p/x (long)$_siginfo._sifields._sigfault.si_addr"]);
    let (_, out, err) =
        told(run(command.arg(target::program()).arg(folder.path().join("fault.core")), LIMIT));
    assert!(out.contains("Program terminated with signal SIGSEGV"), "{out}{err}");
    assert!(out.contains("* 1 ") && out.contains("$1 = 11"), "{out}{err}");
    assert!(out.contains(&format!("= {}", target.fact("place"))), "{out}{err}");
}

#[test]
fn who_waits_can_be_ended_without_a_trace() {
    let folder = tempfile::tempdir().unwrap();
    // Not SIGINT: what a shell starts in the background ignores it, and so would memfetch.
    for signal in [15, 9] {
        let mut target = Target::spawn("faults", &["handled"]);
        let waiting = Waiting::on(&target, folder.path(), &["--format", "dir", "-o", "dump"]);
        signals::send(i32::try_from(waiting.0.id()).unwrap(), signal);
        assert_eq!(waiting.code(), None);
        eventually("the end of the trace", || tracers(target.pid()).iter().all(|tracer| tracer == "0"));
        assert_eq!(target.ask("count"), "0 0");
        assert!(names(folder.path()).is_empty());
    }
    let mut target = Target::spawn("faults", &[]);
    let waiting = Waiting::on(&target, folder.path(), &[]);
    target.tell("exit");
    assert_eq!(waiting.code(), Some(2));
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_directory_that_is_interrupted_halfway_is_taken_away() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::spawn("private", &["512"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_memfetch"));
    command.args(["snap", &target.pid().to_string(), "-q", "--format", "dir", "-o", "dump"]);
    let waiting = Waiting(command.current_dir(folder.path()).spawn().unwrap());
    eventually("the directory", || !names(folder.path()).is_empty());
    signals::send(i32::try_from(waiting.0.id()).unwrap(), 15);
    if waiting.code() == Some(0) {
        memfetch_testkit::peers::skipped("a directory that is interrupted", "it was written too fast");
        return;
    }
    assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
    assert!(tracers(target.pid()).iter().all(|tracer| tracer == "0"));
}
