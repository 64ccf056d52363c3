//! Other people's programs: debuggers that must open what memfetch makes, and servers to take it of.
//!
//! A check against a peer is never skipped silently: [`skipped`] puts a line into the file that
//! `MEMFETCH_SKIP_LOG` names, which `cargo xtask test` shows at the end, and onto standard error.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Says that a check did not run, and why.
pub fn skipped(what: &str, why: &str) {
    let line = format!("SKIPPED: {what}: {why}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os("MEMFETCH_SKIP_LOG")
        && let Ok(mut log) = std::fs::OpenOptions::new().append(true).create(true).open(path)
    {
        let _ = log.write_all(line.as_bytes());
    }
}

/// Where a program lies, by `PATH`; where it is not installed, that is said, and `None`.
#[must_use]
pub fn find(program: &str, check: &str) -> Option<PathBuf> {
    let found = std::env::var_os(format!("MEMFETCH_{}", program.to_uppercase()))
        .map(PathBuf::from)
        .or_else(|| on_path(program));
    if found.is_none() {
        skipped(check, &format!("{program} is not installed"));
    }
    found
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}

/// Runs a program to its end, with a time limit, and returns what it printed on both outputs.
///
/// # Panics
///
/// Where it cannot be started or does not end in time.
#[must_use]
pub fn run(command: &mut Command, limit: Duration) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut outputs = [
        Box::new(child.stdout.take().expect("piped")) as Box<dyn Read + Send>,
        Box::new(child.stderr.take().expect("piped")),
    ]
    .map(|mut output| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = output.read_to_end(&mut bytes);
            bytes
        })
    })
    .into_iter();
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("its state is known") {
            break status;
        }
        if begun.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{command:?} did not end within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let mut next = || outputs.next().and_then(|output| output.join().ok()).unwrap_or_default();
    Output { status, stdout: next(), stderr: next() }
}

/// What a program printed, both outputs, as text.
#[must_use]
pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

/// A real program that runs until this is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
}

impl Server {
    /// Starts `program` and waits until `ready` says so.
    ///
    /// # Panics
    ///
    /// Where it does not become ready within half a minute.
    #[must_use]
    pub fn start<A: AsRef<OsStr>>(
        program: &Path,
        arguments: &[A],
        mut ready: impl FnMut(i32) -> bool,
    ) -> Self {
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let mut server = Self { child };
        let begun = Instant::now();
        while !ready(server.pid()) {
            assert!(begun.elapsed() < Duration::from_secs(30), "{} is not ready", program.display());
            assert!(
                server.child.try_wait().is_ok_and(|status| status.is_none()),
                "{} ended",
                program.display()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// Its process number.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Holds a process still by job control, and lets it go when dropped, so that two tools see the same memory.
#[derive(Debug)]
pub struct Still(i32);

impl Still {
    /// Sends SIGSTOP and waits until every thread has stopped.
    ///
    /// # Panics
    ///
    /// Where it does not stop within five seconds.
    #[must_use]
    pub fn hold(pid: i32) -> Self {
        send(pid, libc::SIGSTOP);
        let begun = Instant::now();
        while !all_stopped(pid) {
            assert!(begun.elapsed() < Duration::from_secs(5), "{pid} does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
        Self(pid)
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        send(self.0, libc::SIGCONT);
    }
}

fn all_stopped(pid: i32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    tasks.flatten().all(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['T', 't', 'Z']))
    })
}

/// Sends a signal to a process by its number.
pub fn send(pid: i32, signal: i32) {
    // SAFETY: kill(2) touches no memory of this process.
    unsafe { libc::kill(pid, signal) };
}
