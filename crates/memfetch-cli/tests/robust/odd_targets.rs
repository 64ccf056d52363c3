//! Targets that end, change, hide things, or stand still for reasons of their own.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use memfetch::{Address, Cause, Image, Memory, Process, ReadError, Threads};
use memfetch_testkit::peers::Still;
use memfetch_testkit::target::{self, built};
use memfetch_testkit::{Target, signals};

use super::{
    MEMFETCH, Running, Told, assert_runs, assert_whole, is_root, memfetch, names, needs, snap, state_of, tell,
};

/// A folder, and the core in it.
struct Core {
    folder: tempfile::TempDir,
}

impl Core {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("a.core")
    }

    /// Takes a snapshot, which must be whole, and opens it.
    #[track_caller]
    fn take(&self, pid: i32, further: &[&str], code: i32, words: &[&str]) -> Image {
        snap(pid, &self.path(), &[further, &["--force"]].concat()).says(code, words);
        assert_whole(&self.path());
        Image::open(self.path()).unwrap()
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        assert_eq!(names(self.folder.path()), Vec::<String>::new());
    }
}

/// Checks that so many pages hold their own addresses.
#[track_caller]
fn assert_addresses(image: &Image, start: u64, pages: u64) {
    for at in (start..start + pages * 4096).step_by(8) {
        assert_eq!(word(image, at), Ok(at));
    }
}

fn word(memory: &dyn Memory, at: u64) -> Result<u64, Cause> {
    let mut bytes = [0; 8];
    match memory.read_at(Address::new(at), &mut bytes) {
        Ok(8) => Ok(u64::from_le_bytes(bytes)),
        Ok(read) => panic!("{read} bytes at {at:#x}"),
        Err(ReadError::Fault(fault)) => Err(fault.cause),
        Err(error) => panic!("{at:#x}: {error}"),
    }
}

/// A snapshot that is stopped halfway by a pipe that nobody reads, and what it says once the pipe is read.
fn interrupted_halfway(pid: i32, mode: &str, meanwhile: impl FnOnce()) -> Told {
    let mut command = Command::new(MEMFETCH);
    command.args(["snap", &pid.to_string(), "-o", "-", "--mode", mode]);
    let mut running = Running::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let mut out = running.0.stdout.take().unwrap();
    out.read_exact(&mut vec![0; 1 << 20]).unwrap();
    meanwhile();
    std::io::copy(&mut out, &mut std::io::sink()).unwrap();
    running.ended()
}

#[test]
fn a_target_that_ends_halfway() {
    for mode in ["freeze", "live"] {
        let mut target = Target::spawn("private", &["64"]);
        let pid = target.pid();
        let told = interrupted_halfway(pid, mode, || signals::send(pid, 9));
        let told = told.says(2, &[&format!("Error: process {pid} has ended")]);
        assert!(!told.err.contains("written"), "{told:?}");
        // Its memory goes before its parent hears of it.
        let began = Instant::now();
        while target.is_alive() {
            assert!(began.elapsed() < Duration::from_secs(5), "it is held");
        }
    }
    // The same into a file, at any moment.
    let core = Core::new();
    let mut ended = 0;
    for round in 0..12 {
        let target = Target::spawn("private", &["48"]);
        let mut command = Command::new(MEMFETCH);
        command.args([
            "snap",
            &target.pid().to_string(),
            "-q",
            "--mode",
            ["freeze", "live"][round % 2],
            "-o",
        ]);
        let running = Running::spawn(command.arg(core.path()).stderr(Stdio::piped()));
        std::thread::sleep(Duration::from_millis(5 * round as u64));
        signals::send(target.pid(), 9);
        let told = running.ended();
        if told.code == Some(0) {
            assert_whole(&core.path());
            std::fs::remove_file(core.path()).unwrap();
        } else {
            // Dying, it has no memory left; a moment later, it is a zombie.
            let words = ["has ended", "no memory: it is a zombie", "no thread of it is left"];
            assert!(told.code == Some(2) && words.iter().any(|word| told.err.contains(word)), "{told:?}");
            ended += 1;
        }
        core.assert_nothing_left();
    }
    assert!(ended > 0, "all were through before the target ended");
}

#[test]
fn a_target_that_becomes_another_program_halfway() {
    let mut target = Target::spawn("exec", &["64"]);
    let pid = target.pid();
    let told = interrupted_halfway(pid, "live", || {
        target.tell("exec");
        while target.answer() != "ready" {}
    });
    told.says(2, &[&format!("process {pid} became another program (exec)"), "Hint: run the command again"]);
    assert!(target.is_alive());
    assert_runs(pid);
    // Over and over, into files: an error or the core of one of them, and nothing else.
    let target = Target::spawn("exec-loop", &[]);
    let core = Core::new();
    for round in 0..20 {
        let told = snap(target.pid(), &core.path(), &["--mode", ["freeze", "live", "auto"][round % 3]]);
        match told.code {
            Some(0) => {
                assert_whole(&core.path());
                std::fs::remove_file(core.path()).unwrap();
            }
            Some(2) => assert!(told.err.starts_with("Error: "), "{told:?}"),
            // A page that went with its program in the last moment.
            _ => panic!("{told:?}"),
        }
        core.assert_nothing_left();
    }
    assert_runs(target.pid());
}

#[test]
fn holes_of_all_kinds() {
    let core = Core::new();
    let target = Target::spawn("holes", &[core.folder.path().to_str().unwrap()]);
    let page = |number: u64| target.number("start") + number * 4096;
    let secret = target.number("secret") == 1;
    let gap = format!("secret memory (memfd_secret): the kernel hands it to nobody else ({:#x}..", page(12));
    let words = if secret { vec!["1 gap, 4 KiB: ", gap.as_str()] } else { vec![] };
    for mode in ["freeze", "live"] {
        let image = core.take(target.pid(), &["--mode", mode], if secret { 3 } else { 0 }, &words);
        for number in [0, 1, 3, 5, 6, 15] {
            assert_addresses(&image, page(number), 1);
        }
        // PROT_NONE, and full of data.
        assert_addresses(&image, page(4), 1);
        assert_eq!(word(&image, page(7)), Ok(0));
        assert_eq!(word(&image, page(2)), Err(Cause::NotMapped));
        if secret {
            assert_eq!(word(&image, page(12)), Err(Cause::Secret));
            memfetch(&["verify".as_ref(), core.path().as_os_str()])
                .says(0, &["missing since it was taken", "secret"]);
        }
        if target.number("guard") == 1 {
            assert_eq!(word(&image, page(13)), Err(Cause::Guard));
        }
        assert_eq!(image.outcome().unwrap().gaps.len(), usize::from(secret));
    }
}

#[test]
fn odd_mappings_are_saved_or_left_alone() {
    let core = Core::new();
    let target = Target::spawn("odd-mappings", &[core.folder.path().to_str().unwrap()]);
    for further in
        [&["--mode", "freeze"][..], &["--mode", "live"], &["--contents", "full"], &["--touch", "all"]]
    {
        let began = Instant::now();
        // Whoever wants everything is told that the memory of devices cannot be had.
        let rings = ["ring", "perf"].iter().filter(|name| target.number(name) != 0).count();
        let (code, words) = match further {
            ["--contents", "full"] if rings > 0 => {
                (3, &["device memory: the kernel does not let others read it"][..])
            }
            _ => (0, &[][..]),
        };
        let image = core.take(target.pid(), further, code, words);
        assert!(began.elapsed() < Duration::from_secs(5), "{further:?}");
        assert_addresses(&image, target.number("dontdump"), 2);
        assert_addresses(&image, target.number("none"), 2);
        assert_addresses(&image, target.number("zero"), 2);
        assert_addresses(&image, target.number("deleted"), 1);
        assert_eq!(word(&image, target.number("deleted") + 4096), Ok(4096));
        // Truncation takes private copies as well (truncate(2), mmap(2)).
        let truncated = target.number("truncated");
        assert_addresses(&image, truncated, 1);
        for page in 1..4 {
            assert_eq!(word(&image, truncated + page * 4096), Err(Cause::BeyondFile), "{page}");
        }
        // What the kernel maps for itself is no memory of the process, and no gap either.
        let map = image.regions().unwrap();
        for name in ["[vsyscall]", "[vvar]"] {
            if let Some(region) = map.iter().find(|region| region.name() == name) {
                let run = image.pages(region.span).unwrap().at(region.span.start()).unwrap();
                assert!(run.state.refusal().is_some(), "{name}: {:?}", run.state);
            }
        }
    }
    for name in ["ring", "perf"] {
        needs(&format!("a mapped {name}"), "the kernel does not allow it here", target.number(name) != 0);
    }
    memfetch(&["maps", &target.pid().to_string()]).says(0, &["[vsyscall]", "/dev/zero", "(deleted)"]);
}

#[test]
fn a_page_that_a_monitor_never_fills() {
    let target = Target::spawn("uffd-missing", &[]);
    if !needs("a page that is never filled", "userfaultfd is not allowed", target.number("registered") == 1) {
        return;
    }
    let core = Core::new();
    for further in [&["--mode", "freeze"][..], &["--mode", "live"], &["--contents", "full", "--touch", "all"]]
    {
        let began = Instant::now();
        let image = core.take(target.pid(), further, 0, &[]);
        assert!(began.elapsed() < Duration::from_secs(5), "{further:?}");
        let start = target.number("start");
        assert_addresses(&image, start, 1);
        assert_eq!(word(&image, start + 4096), Ok(0));
        assert_addresses(&image, start + 8192, 1);
    }
    memfetch(&["maps", &target.pid().to_string()]).says(0, &[]);
}

#[test]
fn a_vfork_parent_is_not_waited_for() {
    let target = Target::spawn("vfork-parent", &["4000"]);
    let core = Core::new();
    let began = Instant::now();
    let image = core.take(
        target.pid(),
        &["--mode", "freeze"],
        0,
        &["frozen for", "(1 with part of their registers only)"],
    );
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let threads = image.threads().unwrap();
    assert_eq!(threads.len(), 3);
    assert_runs(target.pid());
}

#[test]
fn a_process_whose_first_thread_has_exited() {
    let target = Target::spawn("leader-exits", &[]);
    let core = Core::new();
    let pid = target.pid().to_string();
    for mode in ["freeze", "live", "auto"] {
        let image = core.take(target.pid(), &["--mode", mode], 0, &[]);
        assert_addresses(&image, target.number("start"), 1);
        assert_eq!(image.process().unwrap().pid, target.pid());
        assert!(image.threads().unwrap().iter().any(|thread| thread.tid != target.pid()));
        assert!(!image.auxv().is_empty(), "{mode}");
    }
    memfetch(&["maps", &pid, "--only", target.fact("start")]).says(0, &["4 KiB"]);
}

fn state(pid: i32) -> char {
    state_of(&std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap()).unwrap()
}

#[test]
fn a_process_that_job_control_has_stopped_stays_stopped() {
    let target = Target::spawn("spin", &["2"]);
    let process = Process::open(target.pid()).unwrap();
    let counters = || [0, 64].map(|at| word(&process, target.number("counters") + at).unwrap());
    let core = Core::new();
    let still = Still::hold(target.pid());
    let before = counters();
    for mode in ["freeze", "live", "auto"] {
        let image = core.take(target.pid(), &["--mode", mode], 0, &[]);
        assert_eq!(state(target.pid()), 'T', "{mode}");
        assert_eq!(image.threads().unwrap().len(), 3);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(counters(), before, "it ran meanwhile");
    }
    drop(still);
    let began = Instant::now();
    while counters() == before {
        assert!(began.elapsed() < Duration::from_secs(5), "it does not run on");
    }
    assert_runs(target.pid());
}

#[test]
fn a_process_that_another_program_traces() {
    let target = Target::spawn("private", &["2"]);
    let pid = target.pid().to_string();
    let mut command = Command::new(built("memfetch-testkit", "memfetch-freezer"));
    let mut tracer = Running::spawn(command.args([&pid, "60000000"]).stdout(Stdio::piped()));
    let mut said = [0; 8];
    tracer.0.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(&said, b"up\nheld\n");
    let core = Core::new();
    let by = format!("it is traced by process {} (memfetch-freeze)", tracer.pid());
    let image = core.take(target.pid(), &[], 0, &["live: never stopped", "Note: mode live", &by]);
    assert_addresses(&image, target.number("start"), 512);
    assert!(image.outcome().unwrap().remarks.iter().any(|remark| remark.contains(&by)));
    std::fs::remove_file(core.path()).unwrap();
    let told = snap(target.pid(), &core.path(), &["--mode", "freeze"]).says(
        2,
        &[
            &format!("Error: cannot stop process {pid}\nCaused by: {by}\nHint: end memfetch-freeze ("),
            "`--mode live`",
        ],
    );
    assert_eq!(told.out, "");
    core.assert_nothing_left();
    drop(tracer);
    assert_runs(target.pid());
}

#[test]
fn what_has_no_memory_or_is_no_process() {
    let core = Core::new();
    let refused = |arguments: &[&str], words: &[&str]| {
        let path = core.path();
        let output = [std::ffi::OsStr::new("-o"), path.as_os_str()];
        let arguments: Vec<_> = arguments.iter().map(std::ffi::OsStr::new).collect();
        memfetch(&[&[std::ffi::OsStr::new("snap")], &output[..], &arguments[..]].concat()).says(2, words);
        memfetch(&[&[std::ffi::OsStr::new("maps")], &arguments[..]].concat()).says(2, words);
        core.assert_nothing_left();
    };
    for nobody in ["0", "2147483647", "99999999999999999999"] {
        refused(&[nobody], &[&format!("Error: no process `{nobody}`")]);
    }
    refused(&["--", "-1"], &["Error: no process `-1`"]);
    refused(&["-1"], &["unexpected argument '-1'"]);
    refused(&[""], &["Error: "]);
    refused(
        &["no such name"],
        &["Error: no process `no such name`", "Hint: a process is given by its number"],
    );
    if std::fs::read("/proc/2/comm").is_ok_and(|name| name == b"kthreadd\n") {
        refused(&["2"], &["Error: process 2 has no memory: it is a kernel thread"]);
    }
    let zombie = Running::spawn(&mut Command::new("true"));
    let began = Instant::now();
    while state(zombie.pid()) != 'Z' {
        assert!(began.elapsed() < Duration::from_secs(5));
        std::thread::yield_now();
    }
    refused(
        &[&zombie.pid().to_string()],
        &[&format!("process {} has no memory: it is a zombie", zombie.pid())],
    );
}

#[test]
fn itself_and_its_own_parent() {
    let core = Core::new();
    let path = core.path();
    let own =
        |further: &[&str]| tell(Command::new(MEMFETCH).args(["snap", "self", "-o"]).arg(&path).args(further));
    own(&[]).says(
        0,
        &["live", "Note: mode live, since the process cannot be stopped: it is the process that asks"],
    );
    assert_whole(&path);
    std::fs::remove_file(&path).unwrap();
    own(&["--mode", "freeze"])
        .says(2, &["cannot stop process", "it is the process that asks", "Hint: ", "--mode live"]);
    core.assert_nothing_left();
    memfetch(&["maps", "self"]).says(0, &["[stack]", "memfetch"]);
    // The shell waits for us meanwhile.
    for mode in ["freeze", "live", "auto"] {
        let script = format!("\"$0\" snap $$ -q --force --mode {mode} -o \"$1\"; echo went on with $?");
        tell(Command::new("sh").args(["-c", &script, MEMFETCH]).arg(&path)).says(0, &["went on with 0"]);
        assert_whole(&path);
    }
}

#[test]
fn a_process_in_namespaces_of_its_own() {
    if !needs("a process in other namespaces", "only root may make them", is_root()) {
        return;
    }
    let core = Core::new();
    for arguments in [
        &["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"][..],
        &["--pid", "--fork", "--mount", "--net", "--ipc", "--uts", "--kill-child"],
    ] {
        let mut command = Command::new("unshare");
        command.args(arguments).arg(target::program()).args(["private", "2"]);
        let target = Target::spawn_command(command);
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", target.pid())).unwrap();
        let pid: i32 = children.trim().parse().unwrap();
        for mode in ["freeze", "live"] {
            let image = core.take(pid, &["--mode", mode], 0, &["1 thread"]);
            assert_addresses(&image, target.number("start"), 512);
            assert_eq!(image.process().unwrap().pid, pid);
            assert_eq!(image.threads().unwrap()[0].tid, pid);
        }
        assert_runs(pid);
    }
}

#[test]
fn a_process_with_a_filter_that_kills() {
    let mut target = Target::spawn("sandboxed", &[]);
    let core = Core::new();
    for mode in ["freeze", "live", "auto"] {
        let image = core.take(target.pid(), &["--mode", mode], 0, &[]);
        assert_addresses(&image, target.number("start"), 1);
        assert!(target.ask("well?").contains("unknown order"));
    }
    assert!(target.is_alive());
}

/// A name that another file of the same folder has, a name that looks deleted, a name with a newline.
#[test]
fn names_that_are_not_plain() {
    let core = Core::new();
    let files = tempfile::tempdir().unwrap();
    let target = Target::spawn("names", &[files.path().to_str().unwrap()]);
    let image = core.take(target.pid(), &["--contents", "full"], 0, &[") R 1 ("]);
    for (key, text) in [("space", b"space"), ("gone", b"gone\0")] {
        let mut bytes = [0; 5];
        image.read_at(Address::new(target.number(key)), &mut bytes).unwrap();
        assert_eq!(&bytes, text);
    }
    for source in [Path::new(&target.pid().to_string()), &core.path()] {
        let told = memfetch(&["maps".as_ref(), source.as_os_str()]).says(0, &["a b", "(deleted)"]);
        assert!(told.out.lines().all(|line| !line.starts_with('b')), "a newline breaks the table: {told:?}");
    }
}
