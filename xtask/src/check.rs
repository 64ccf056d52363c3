//! `cargo xtask test`: everything that must hold. Every step runs, whatever became of the others.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::run::{cargo, must, path_with, show};
use crate::{kernels, rules, tools};

/// Tests that passed, failed, and did not run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
}

/// Runs all checks, on other kernels as well if that is asked for, and prints what was skipped, and the sums, at the
/// end.
pub fn everything(root: &Path, on_other_kernels: bool) -> Result<(), String> {
    let begun = Instant::now();
    let missing = tools::install(root);
    let mut failures = Vec::new();
    let mut note = |step: Result<(), String>| failures.extend(step.err());
    note(must(&mut cargo(root, &["fmt", "--all", "--check"])));
    note(must(&mut cargo(
        root,
        &["clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"],
    )));
    note(rules::check(root));
    let skip_log = root.join("target").join("skipped.log");
    // An old log would tell of another run.
    if let Err(error) = std::fs::write(&skip_log, "") {
        note(Err(format!("{}: {error}", skip_log.display())));
    }
    let mut tests = cargo(root, &["test", "--workspace", "--no-fail-fast"]);
    tests.env("MEMFETCH_SKIP_LOG", &skip_log).env("PATH", path_with(&tools::folder(root)));
    let (mut counts, done) = count_tests(&mut tests);
    note(done);
    let mut documentation = cargo(root, &["doc", "--workspace", "--no-deps", "--quiet"]);
    note(must(documentation.env("RUSTDOCFLAGS", "--deny warnings")));

    let mut skipped: Vec<String> =
        std::fs::read_to_string(&skip_log).unwrap_or_default().lines().map(str::to_owned).collect();
    counts.skipped += skipped.len() as u64;
    if on_other_kernels {
        let mut elsewhere = kernels::run(root, &[], &[]);
        counts.sum(elsewhere.counts);
        skipped.append(&mut elsewhere.skipped);
        failures.append(&mut elsewhere.failures);
    }

    println!();
    for program in missing {
        println!("missing: {program}");
    }
    skipped.sort();
    skipped.dedup();
    for line in skipped {
        println!("{line}");
    }
    for failure in &failures {
        println!("FAILED: {failure}");
    }
    println!("after {} s", begun.elapsed().as_secs());
    println!("{counts}");
    match failures.len() {
        0 => Ok(()),
        1 => Err("a step failed".to_owned()),
        steps => Err(format!("{steps} steps failed")),
    }
}

/// Runs tests, shows what they print, and sums up their results.
fn count_tests(command: &mut Command) -> (Counts, Result<(), String>) {
    let shown = show(command);
    eprintln!("+ {shown}");
    let mut counts = Counts::default();
    let failed = |why: String| Err(format!("`{shown}`: {why}"));
    let mut child = match command.stdout(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => return (counts, failed(error.to_string())),
    };
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            counts.add(&line);
        }
    }
    match child.wait() {
        Ok(status) if status.success() => (counts, Ok(())),
        Ok(status) => (counts, failed(status.to_string())),
        Err(error) => (counts, failed(error.to_string())),
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { passed, failed, skipped } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

impl Counts {
    /// Adds other tests.
    pub fn sum(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// Adds a line such as `test result: ok. 17 passed; 0 failed; 1 ignored; ...`; others count nothing.
    pub fn add(&mut self, line: &str) {
        let Some((_, numbers)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for part in numbers.split("; ") {
            match part.trim().split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse::<u64>().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse::<u64>().unwrap_or(0),
                Some((number, "ignored")) => self.skipped += number.parse::<u64>().unwrap_or(0),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_runs_are_summed() {
        let mut counts = Counts::default();
        for line in [
            "running 3 tests",
            "test result: ok. 17 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.1s",
            "test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.1s",
        ] {
            counts.add(line);
        }
        assert_eq!(counts, Counts { passed: 19, failed: 3, skipped: 1 });
    }
}
