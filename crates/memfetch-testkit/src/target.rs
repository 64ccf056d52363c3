//! [`Target`]: the program `memfetch-target` in one of its roles, which ends when the test does.
//!
//! A role prints facts about itself, one `key=value` a line, then `ready`; from then on it is in the state that
//! the role is named for. Lines that it is sent on standard input are its orders, and it answers each with one
//! line. It dies with its standard input, so that a test that is killed leaves nothing behind.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

/// A running `memfetch-target`.
#[derive(Debug)]
pub struct Target {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    facts: HashMap<String, String>,
}

impl Target {
    /// Starts the program in this role, with arguments, and waits until it is ready.
    ///
    /// # Panics
    ///
    /// Where it does not become ready: a test cannot go on without it.
    #[must_use]
    pub fn spawn(role: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program());
        command.arg(role).args(arguments);
        Self::spawn_command(command)
    }

    /// Starts a prepared command (another user, limits, a wrapper) that ends in `memfetch-target ROLE`.
    ///
    /// # Panics
    ///
    /// As for [`Target::spawn`].
    #[must_use]
    pub fn spawn_command(mut command: Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("memfetch-target starts");
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("its standard output is a pipe"));
        let mut target = Self { child, orders, answers, facts: HashMap::new() };
        loop {
            let line = target.line();
            if line == "ready" {
                return target;
            }
            let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("not a fact: {line:?}"));
            target.facts.insert(key.to_owned(), value.to_owned());
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line).expect("the target's output can be read");
        assert!(read > 0, "the target ended before it answered");
        line.trim_end().to_owned()
    }

    /// Its process number.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid is positive")
    }

    /// A fact that it printed before it was ready.
    ///
    /// # Panics
    ///
    /// Where it printed no such fact.
    #[must_use]
    pub fn fact(&self, key: &str) -> &str {
        self.facts.get(key).unwrap_or_else(|| panic!("no fact {key} among {:?}", self.facts))
    }

    /// A fact that is a number, in hexadecimal with `0x` or in decimal.
    ///
    /// # Panics
    ///
    /// Where there is none.
    #[must_use]
    pub fn number(&self, key: &str) -> u64 {
        let text = self.fact(key);
        match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => text.parse(),
        }
        .unwrap_or_else(|_| panic!("{key}={text} is not a number"))
    }

    /// Sends an order and returns the answer.
    ///
    /// # Panics
    ///
    /// Where the target does not answer.
    pub fn ask(&mut self, order: &str) -> String {
        self.tell(order);
        self.line()
    }

    /// Sends an order without waiting for the answer, which [`Target::answer`] returns.
    ///
    /// # Panics
    ///
    /// Where the target does not listen.
    pub fn tell(&mut self, order: &str) {
        let orders = self.orders.as_mut().expect("the target listens");
        writeln!(orders, "{order}").expect("the target listens");
    }

    /// Waits for the next answer.
    ///
    /// # Panics
    ///
    /// Where none comes.
    pub fn answer(&mut self) -> String {
        self.line()
    }

    /// Whether it still runs.
    ///
    /// # Panics
    ///
    /// Where the kernel does not know.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("its state is known").is_none()
    }

    /// The line of `/proc/PID/status` with this key, as a number (kilobytes for the `Vm` lines).
    ///
    /// # Panics
    ///
    /// Where there is no such line.
    #[must_use]
    pub fn status(&self, key: &str) -> u64 {
        status_of(self.pid(), key)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A number from `/proc/PID/status`.
///
/// # Panics
///
/// Where there is no such process or line.
#[must_use]
pub fn status_of(pid: i32, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process exists");
    status
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("no {key} in the status of {pid}"))
}

/// Where `memfetch-target` lies; built on the first call, since cargo builds no other package's programs for a
/// test.
///
/// # Panics
///
/// Where it cannot be built.
#[must_use]
pub fn program() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| built("memfetch-testkit", "memfetch-target")).clone()
}

/// Builds a program of the workspace with the profile of the test that runs, and returns where it lies.
///
/// # Panics
///
/// Where it cannot be built.
#[must_use]
pub fn built(package: &str, name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test has a path");
    let profile = test
        .ancestors()
        .find(|folder| folder.join("deps").is_dir())
        .expect("the test lies below a profile folder of the target directory");
    let release = profile.file_name().is_some_and(|name| name == "release");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", package, "--bin", name]);
    cargo.arg("--target-dir").arg(profile.parent().expect("a profile folder lies in the target directory"));
    if release {
        cargo.arg("--release");
    }
    let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo starts");
    assert!(status.success(), "{name} cannot be built");
    profile.join(name)
}
