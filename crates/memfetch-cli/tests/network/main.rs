//! `snap -o tcp://` and `recv`, as they are started: over both protocols, against each other and against plain peers, and
//! through everything that happens to a connection. What the ends do is tested in the library.

mod broken;
mod plain;
mod whole;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use memfetch_testkit::Target;

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(60);

/// The program at work; it ends when the test does.
struct Running {
    child: Child,
    err: BufReader<ChildStderr>,
    /// What it said before it was waited for.
    said: String,
}

impl Running {
    fn spawn(folder: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_memfetch"))
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let err = BufReader::new(child.stderr.take().unwrap());
        Self { child, err, said: String::new() }
    }

    /// `memfetch recv` of loopback, and the address that it says.
    fn recv(folder: &Path, further: &[&str]) -> (Self, String) {
        Self::recv_at("0", folder, further)
    }

    fn recv_at(endpoint: &str, folder: &Path, further: &[&str]) -> (Self, String) {
        let mut running = Self::spawn(folder, &[&["recv", endpoint, "-o", "a.core"], further].concat());
        running.err.read_line(&mut running.said).unwrap();
        let address = running.said.strip_prefix("Listening on ").and_then(|rest| rest.split(' ').next());
        let address = address.unwrap_or_else(|| panic!("{}", running.said)).to_owned();
        (running, address)
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Its exit code (none where a signal ended it), and what it said on standard output and standard error. None of
    /// these is more than a pipe holds.
    fn ended(mut self) -> (Option<i32>, String, String) {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < LIMIT, "it does not end");
            std::thread::sleep(Duration::from_millis(1));
        };
        let mut out = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        let mut err = std::mem::take(&mut self.said);
        self.err.read_to_string(&mut err).unwrap();
        assert!(!err.contains("panicked"), "{err}");
        (status.code(), out, err)
    }

    /// Checks how it ended, and that it said these words; returns all that it said.
    #[track_caller]
    fn says(self, code: i32, words: &[&str]) -> String {
        let (ended, out, err) = self.ended();
        let said = out + &err;
        assert_eq!(ended, Some(code), "{said}");
        for word in words {
            assert!(said.contains(word), "no word of {word:?}: {said}");
        }
        said
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `memfetch snap PID -o tcp://ADDRESS`.
fn snap(target: &Target, address: &str, further: &[&str]) -> Running {
    let arguments = ["snap", &target.pid().to_string(), "-o", &format!("tcp://{address}")];
    Running::spawn(Path::new("."), &[&arguments, further].concat())
}

/// The names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    std::fs::read_dir(folder).unwrap().map(name).collect()
}

/// Checks that the target is neither traced nor stopped; a tracer that was killed may take a moment to be gone.
#[track_caller]
fn assert_runs(target: &Target) {
    let begun = Instant::now();
    loop {
        let status = std::fs::read_to_string(format!("/proc/{}/status", target.pid())).unwrap();
        let state = status.lines().find_map(|line| line.strip_prefix("State:\t")).unwrap();
        if target.status("TracerPid") == 0 && !state.starts_with(['t', 'T', 'Z', 'X']) {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "{status}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
