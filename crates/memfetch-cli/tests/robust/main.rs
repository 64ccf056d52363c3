//! The program against everything that goes wrong: cores that were cut or altered, its own death at any moment,
//! outputs that fail, targets that are strange or forbidden.

mod altered;
mod conforming;
mod cut;
mod killed;
mod odd_targets;
mod outputs;
mod refused;
mod word_size;

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use memfetch_testkit::peers::{run, skipped};

/// How long one call of the program may take.
const LIMIT: Duration = Duration::from_secs(60);

/// The program.
const MEMFETCH: &str = env!("CARGO_BIN_EXE_memfetch");

/// How the program ended, and what it said.
#[derive(Debug)]
struct Told {
    /// None where a signal ended it.
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Told {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

impl Told {
    /// Checks the exit code, and that all these words were said.
    #[track_caller]
    fn says(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        let said = format!("{}{}", self.out, self.err);
        for word in words {
            assert!(said.contains(word), "no word of {word:?}: {self:?}");
        }
        assert!(!said.contains("panicked"), "{self:?}");
        self
    }
}

fn tell(command: &mut Command) -> Told {
    run(command, LIMIT).into()
}

/// Runs the program.
fn memfetch<A: AsRef<OsStr>>(arguments: &[A]) -> Told {
    tell(Command::new(MEMFETCH).args(arguments))
}

/// `memfetch snap PID -o PATH` with further arguments.
fn snap(pid: i32, path: &Path, further: &[&str]) -> Told {
    tell(Command::new(MEMFETCH).args(["snap", &pid.to_string(), "-o"]).arg(path).args(further))
}

/// Checks that the program calls a core whole.
#[track_caller]
fn assert_whole(path: &Path) {
    memfetch(&[OsStr::new("verify"), path.as_os_str()]).says(0, &["whole and unaltered"]);
}

/// The names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let name = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().flatten().map(name).collect();
    names.sort();
    names
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether a condition holds, which is said where it does not.
fn needs(what: &str, why: &str, holds: bool) -> bool {
    if !holds {
        skipped(what, why);
    }
    holds
}

/// Checks that no thread of a process is stopped or traced; a tracer that was killed may take a moment to be gone.
#[track_caller]
fn assert_runs(pid: i32) {
    let begun = Instant::now();
    loop {
        let held = held_threads(pid);
        if held.is_empty() {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "still held: {held:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn held_threads(pid: i32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process is there");
    let status = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok());
    status
        .filter(|status| {
            !status.contains("TracerPid:\t0\n") || state_of(status).is_none_or(|state| "tTZX".contains(state))
        })
        .collect()
}

fn state_of(status: &str) -> Option<char> {
    status.lines().find_map(|line| line.strip_prefix("State:\t"))?.chars().next()
}

/// A child process that ends when the test does.
struct Running(Child);

impl Running {
    fn spawn(command: &mut Command) -> Self {
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    /// Waits for its end; kills it where that takes too long.
    fn ended(mut self) -> Told {
        let begun = Instant::now();
        while self.0.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < LIMIT, "it does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut told = Told { code: self.0.wait().unwrap().code(), out: String::new(), err: String::new() };
        if let Some(mut err) = self.0.stderr.take() {
            let _ = std::io::Read::read_to_string(&mut err, &mut told.err);
        }
        told
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process in a mount namespace of its own, where a script has mounted something; both end with the test.
struct Mounts {
    holder: Running,
}

impl Mounts {
    /// Runs the script as root in a private mount namespace, with a folder to mount at as its first argument;
    /// nothing where it fails, which is said.
    fn by(script: &str, at: &Path, what: &str) -> Option<Self> {
        if !needs(what, "only root may mount", is_root()) {
            return None;
        }
        let script = format!("{{ {script}; }} >&2 && echo ready && read end");
        let mut holder = Running::spawn(
            Command::new("unshare")
                .args(["-m", "sh", "-c", &script, "sh"])
                .arg(at)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped()),
        );
        let mut answer = [0; 6];
        let ready = std::io::Read::read_exact(holder.0.stdout.as_mut().unwrap(), &mut answer);
        if ready.is_err() {
            drop(holder.0.stdin.take());
            skipped(what, &format!("it cannot be mounted: {}", holder.ended().err.trim()));
            return None;
        }
        Some(Self { holder })
    }

    /// The same path, as it is in there.
    fn path(&self, path: &Path) -> std::path::PathBuf {
        Path::new(&format!("/proc/{}/root", self.holder.pid())).join(path.strip_prefix("/").unwrap())
    }
}
