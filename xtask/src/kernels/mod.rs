//! `cargo xtask kernels`: the tests that go through the kernel's interfaces, on other kernels than this one, in
//! machines that QEMU emulates.

mod archive;
mod machine;
mod packages;
mod suite;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::check::Counts;
use crate::run::find;
use crate::tools;
use machine::{Event, Machine};
use packages::{SERIES, Series};
use suite::Programs;

/// Programs that this needs, and the packages of Debian that have them.
const NEEDS: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("dpkg-deb", "dpkg"),
    ("apt-get", "apt"),
    ("xz", "xz-utils"),
    ("setpriv", "util-linux"),
    ("ldd", "libc-bin"),
    ("/usr/sbin/mke2fs", "e2fsprogs"),
];

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    pub counts: Counts,
    /// What was skipped, or why none of it could run.
    pub skipped: Vec<String>,
    pub failures: Vec<String>,
}

impl Outcome {
    fn skip(&mut self, what: String) {
        self.skipped.push(format!("SKIPPED: {what}"));
        self.counts.skipped += 1;
    }
}

/// Runs the tests and prints the sums. The words are series of kernels, and parts of names of test programs;
/// without either, all run.
pub fn command(root: &Path, words: &[String]) -> Result<(), String> {
    let is_series = |word: &&str| SERIES.iter().any(|series| series.name == *word);
    let (series, programs): (Vec<&str>, Vec<&str>) = words.iter().map(String::as_str).partition(is_series);
    if let Some(name) = programs.iter().find(|name| !suite::has(name)) {
        let known: Vec<&str> = SERIES.iter().map(|series| series.name).collect();
        return Err(format!("neither a kernel ({}) nor tests: {name}", known.join(", ")));
    }
    let outcome = run(root, &series, &programs);
    println!();
    for line in &outcome.skipped {
        println!("{line}");
    }
    for failure in &outcome.failures {
        println!("FAILED: {failure}");
    }
    println!("{}", outcome.counts);
    if outcome.failures.is_empty() { Ok(()) } else { Err("the tests failed on other kernels".to_owned()) }
}

/// Runs the tests on the kernels of these series, or of all; only the programs with these names, if there are any.
pub fn run(root: &Path, series: &[&str], names: &[&str]) -> Outcome {
    let mut outcome = Outcome::default();
    let missing = tools::install_these(root, NEEDS);
    if !missing.is_empty() {
        outcome.skip(format!("other kernels: missing: {}", missing.join(", ")));
        return outcome;
    }
    let wanted = SERIES.iter().filter(|of| series.is_empty() || series.contains(&of.name));
    if let Err(message) = on_all(root, wanted.copied(), names, &mut outcome) {
        outcome.failures.push(message);
    }
    outcome.skipped.sort();
    outcome.skipped.dedup();
    outcome
}

fn on_all(
    root: &Path,
    wanted: impl Iterator<Item = Series>,
    names: &[&str],
    outcome: &mut Outcome,
) -> Result<(), String> {
    let bin = tools::folder(root);
    let program = |name: &str| find(name, &bin).ok_or_else(|| format!("there is no {name}"));
    let (qemu, busybox) = (program("qemu-system-x86_64")?, program("busybox")?);
    if suite::is_dynamic(&busybox) {
        // Nothing is there yet that it could be linked with.
        outcome.skip(format!("other kernels: {} is not static (package busybox-static)", busybox.display()));
        return Ok(());
    }
    let cache = root.join("target").join("kernels");
    std::fs::create_dir_all(&cache).map_err(|error| format!("{}: {error}", cache.display()))?;
    remove_leftovers(&cache);
    // Of this run alone: there may be another one.
    let run = RunFolder(cache.join(format!("run-{}", std::process::id())));
    std::fs::create_dir_all(&run.0).map_err(|error| format!("{}: {error}", run.0.display()))?;
    let disk = Programs::build(root, &bin)?.disk(root, names, &busybox, &run.0)?;
    for series in wanted {
        let kernel = match packages::kernel(series, &cache) {
            Ok(kernel) => kernel,
            Err(message) => {
                // Somebody else's system, or no network.
                outcome.skip(format!("Linux {}: {message}", series.name));
                continue;
            }
        };
        let archive = suite::first_files(&busybox, &kernel)?;
        for boot in suite::BOOTS.iter().filter(|boot| boot.is_for(series.name, names)) {
            let machine = Machine {
                qemu: &qemu,
                kernel: &kernel.image,
                archive: &archive,
                disk: &disk,
                parameters: format!("{} suite={}", boot.parameters, boot.suite),
                folder: cache.join(format!("{}-{}", series.name, boot.suite)),
            };
            let begun = Instant::now();
            let mut record = Record { name: format!("Linux {}", series.name), outcome, running: None };
            let done = machine.run(|event, at| record.add(event, at));
            record.ended_early();
            println!("Linux {}: {}: {:.1} s", series.name, boot.suite, begun.elapsed().as_secs_f32());
            if let Err(message) = done {
                outcome.failures.push(format!("Linux {}: {}: {message}", series.name, boot.suite));
            }
        }
    }
    Ok(())
}

/// Removes the folders of runs that were killed.
fn remove_leftovers(cache: &Path) {
    for entry in std::fs::read_dir(cache).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let run = name.to_str().and_then(|name| name.strip_prefix("run-"));
        if run.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// A folder that goes with the run.
struct RunFolder(PathBuf);

impl Drop for RunFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a machine tells, as it is told to people.
struct Record<'a> {
    name: String,
    outcome: &'a mut Outcome,
    running: Option<Running>,
}

struct Running {
    program: String,
    since: Duration,
    counts: Counts,
    output: Vec<String>,
}

impl Record<'_> {
    fn add(&mut self, event: Event, at: Duration) {
        match event {
            Event::Kernel(version) => {
                self.name = format!("Linux {version}");
                println!("{}: booted in {:.1} s", self.name, at.as_secs_f32());
            }
            Event::Begin(program) => {
                self.running =
                    Some(Running { program, since: at, counts: Counts::default(), output: Vec::new() });
            }
            Event::Line(line) => match &mut self.running {
                Some(running) if line.starts_with("SKIPPED: ") => {
                    running.counts.skipped += 1;
                    self.outcome.skipped.push(format!("{line} (on {})", self.name));
                }
                Some(running) => {
                    running.counts.add(&line);
                    running.output.push(line);
                }
                None => println!("{line}"),
            },
            Event::End(status) => {
                let Some(running) = self.running.take() else { return };
                let Running { program, since, counts, output } = running;
                let took = at.saturating_sub(since).as_secs_f32();
                println!("{}: {program}: {counts}, {took:.1} s", self.name);
                self.outcome.counts.sum(counts);
                if status != 0 {
                    for line in output {
                        println!("    {line}");
                    }
                    let how =
                        if status == 137 { "no end in time".to_owned() } else { format!("exit {status}") };
                    self.outcome.failures.push(format!("{}: {program}: {how}", self.name));
                }
            }
            Event::Broken(why) => self.outcome.failures.push(format!("{}: {why}", self.name)),
            Event::Done => {}
        }
    }

    /// What ran when the machine went off.
    fn ended_early(&mut self) {
        if let Some(running) = self.running.take() {
            for line in running.output {
                println!("    {line}");
            }
            self.outcome.failures.push(format!("{}: {}: it did not end", self.name, running.program));
        }
    }
}
