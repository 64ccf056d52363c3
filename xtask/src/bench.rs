//! `cargo xtask bench`: runs the release binary and other programs in turns over the same target, and writes
//! medians and ratios into docs/benchmarks.md.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::benchmarks;
use crate::pauses::{self, Pause};
use crate::run::{cargo, find, must, show};
use crate::tools;

/// How often each contestant runs, after once to warm up.
pub const RUNS: usize = 5;

/// A comparison.
pub struct Benchmark {
    /// Its name on the command line and in the file.
    pub name: &'static str,
    /// What is compared, in a sentence.
    pub about: &'static str,
    /// Starts the target, and returns it with those that compete over it.
    pub prepare: fn(&Scene) -> Result<Contest, String>,
}

/// What is compared.
enum Kind {
    /// How long the contestants take.
    Time(&'static Benchmark),
    /// How long a client of their target waits.
    Pause(&'static Pause),
}

/// A target, unless each contestant brings its own, and those that compete.
pub type Contest = (Option<Target>, Vec<Contestant>);

/// A folder that goes with the benchmark.
pub struct Folder(pub PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Where a benchmark takes place.
pub struct Scene {
    /// The release binary.
    pub memfetch: PathBuf,
    /// The program that takes the roles of targets.
    pub roles: PathBuf,
    /// The example that reads all of a process and does nothing with it.
    pub reader: PathBuf,
    /// An empty folder for outputs, on the disk that the target folder of the build is on.
    pub outputs: PathBuf,
    /// Where programs for the tests are installed.
    pub tools: PathBuf,
}

impl Scene {
    /// The path of a program, or why the benchmark cannot be had.
    pub fn program(&self, name: &str) -> Result<PathBuf, String> {
        find(name, &self.tools).ok_or_else(|| format!("{name} is not installed"))
    }
}

/// A process that runs for as long as the benchmark does.
pub struct Target {
    /// The process.
    pub child: std::process::Child,
    /// Files that the contestants read.
    pub files: Option<Folder>,
}

impl Target {
    /// A process without files.
    pub const fn new(child: std::process::Child) -> Self {
        Self { child, files: None }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One that competes.
pub struct Contestant {
    /// Its name in the table.
    pub name: String,
    /// What it runs; outputs go into the folder of the scene, which is emptied after each run.
    pub command: Command,
}

/// Runs the benchmarks with these names, or all.
pub fn compare(root: &Path, names: &[String]) -> Result<(), String> {
    let pauses = pauses::ALL.iter().map(|pause| (pause.name, Kind::Pause(pause)));
    let known = benchmarks::ALL.iter().map(|benchmark| (benchmark.name, Kind::Time(benchmark))).chain(pauses);
    if let Some(name) = names.iter().find(|name| known.clone().all(|(known, _)| known != **name)) {
        let known: Vec<_> = known.map(|(name, _)| name).collect();
        return Err(format!("no benchmark `{name}`; there are {}", known.join(", ")));
    }
    must(&mut cargo(
        root,
        &["build", "--quiet", "--release", "--package", "memfetch-cli", "--package", "memfetch-testkit"],
    ))?;
    must(&mut cargo(
        root,
        &["build", "--quiet", "--release", "--package", "memfetch", "--example", "sweep"],
    ))?;
    let outputs = root.join("target/bench");
    empty(&outputs)?;
    let memfetch = root.join("target/release/memfetch");
    let roles = root.join("target/release/memfetch-target");
    let reader = root.join("target/release/examples/sweep");
    let scene = Scene { memfetch, roles, reader, outputs, tools: tools::folder(root) };
    let file = root.join("docs/benchmarks.md");
    let mut text = fs::read_to_string(&file).unwrap_or_else(|_| HEAD.to_owned());
    let mut failures = Vec::new();
    for (name, kind) in known {
        if !names.is_empty() && names.iter().all(|wanted| wanted != name) {
            continue;
        }
        let section = match kind {
            Kind::Time(benchmark) => run(benchmark, &scene),
            Kind::Pause(pause) => pauses::run(pause, &scene),
        };
        match section {
            Ok(section) => {
                print!("{section}");
                text = with_section(&text, name, &section);
            }
            Err(message) => failures.push(format!("{name}: {message}")),
        }
    }
    fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
}

const HEAD: &str = "\
# Benchmarks

Written by `cargo xtask bench`. Each program runs over the same target, in turns, after a run to warm up; the
median counts. The ratio is that to memfetch: 2.0 takes twice as long.
";

fn run(benchmark: &Benchmark, scene: &Scene) -> Result<String, String> {
    let (_target, mut contestants) = (benchmark.prepare)(scene)?;
    let mut times = vec![Vec::new(); contestants.len()];
    let mut peaks = vec![0; contestants.len()];
    for round in 0..=RUNS {
        for ((contestant, times), peak) in contestants.iter_mut().zip(&mut times).zip(&mut peaks) {
            eprintln!("+ {}: {} ({round} of {RUNS})", benchmark.name, contestant.name);
            let (time, kibibytes) = timed(&mut contestant.command)?;
            *peak = kibibytes.max(*peak);
            if round > 0 {
                times.push(time);
            }
            empty(&scene.outputs)?;
        }
    }
    let mut text = format!("## {}\n\n{}\n\n{}\n\n", benchmark.name, benchmark.about, machine());
    text.push_str(
        "| program | median | fastest | slowest | ratio | peak memory |\n|---|---:|---:|---:|---:|---:|\n",
    );
    let reference = times.first_mut().map(|times| median(times)).unwrap_or_default();
    for ((contestant, times), peak) in contestants.iter().zip(&mut times).zip(peaks) {
        let median = median(times);
        let (first, last) = (times.first().copied(), times.last().copied());
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {:.2} | {:.0} MiB |",
            contestant.name,
            shown(median),
            shown(first.unwrap_or_default()),
            shown(last.unwrap_or_default()),
            median.as_secs_f64() / reference.as_secs_f64().max(f64::MIN_POSITIVE),
            f64::from(peak) / 1024.0
        );
    }
    Ok(text)
}

/// Runs a command; returns how long it took, and the most memory that it had, in KiB.
pub fn timed(command: &mut Command) -> Result<(Duration, u32), String> {
    let failed = |error: std::io::Error, command: &Command| format!("`{}`: {error}", show(command));
    let begun = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let child = child.map_err(|error| failed(error, command))?;
    let pid = child.id();
    let (ended, end) = channel::<()>();
    // The high-water mark only rises, so that the last look before the end is as good as all of them.
    let watch = thread::spawn(move || {
        let mut peak = 0;
        loop {
            peak = high_water(pid).unwrap_or(peak);
            if end.recv_timeout(Duration::from_millis(5)) != Err(RecvTimeoutError::Timeout) {
                return peak;
            }
        }
    });
    let output = child.wait_with_output().map_err(|error| failed(error, command))?;
    let time = begun.elapsed();
    drop(ended);
    let peak = watch.join().unwrap_or_default();
    if output.status.success() {
        return Ok((time, peak));
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("`{}`: {}: {said}", show(command), output.status))
}

/// VmHWM of `/proc/PID/status`, in KiB.
fn high_water(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// The median; sorts.
pub fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    let middle = times.len() / 2;
    match (times.get(middle.wrapping_sub(1)), times.get(middle)) {
        (Some(&below), Some(&above)) if times.len().is_multiple_of(2) => (below + above) / 2,
        (_, Some(&middle)) => middle,
        _ => Duration::ZERO,
    }
}

pub fn shown(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 1.0 { format!("{:.1} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}

/// The machine in a line: figures of another are not to be compared with these.
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key));
        line.and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    };
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let gibibytes = memory.trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / f64::from(1 << 20);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    format!(
        "Linux {}, {cores} cores ({}), {gibibytes:.0} GiB of RAM.",
        read("/proc/sys/kernel/osrelease").split('-').next().unwrap_or_default().trim(),
        field(&read("/proc/cpuinfo"), "model name")
    )
}

/// The file with this section in the place of the one that had its name, or at the end.
fn with_section(text: &str, name: &str, section: &str) -> String {
    let title = format!("## {name}\n");
    let Some(start) = text.find(&title) else {
        return format!("{}\n\n{section}", text.trim_end());
    };
    let (before, old) = text.split_at(start);
    let behind = old[title.len()..].find("\n## ").map_or("", |at| &old[title.len() + at..]);
    format!("{before}{section}{behind}")
}

/// Makes a folder that is empty.
pub fn empty(folder: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(failed)?;
    }
    fs::create_dir_all(folder).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let times = |seconds: &[u64]| seconds.iter().map(|&s| Duration::from_secs(s)).collect::<Vec<_>>();
        assert_eq!(median(&mut times(&[9, 1, 2])), Duration::from_secs(2));
        assert_eq!(median(&mut times(&[1, 2, 4, 9])), Duration::from_secs(3));
        assert_eq!(median(&mut []), Duration::ZERO);
    }

    #[test]
    fn a_section_takes_the_place_of_the_old_one() {
        let one = with_section(HEAD, "a", "## a\n\n1\n");
        let two = with_section(&one, "b", "## b\n\n2\n");
        let three = with_section(&two, "a", "## a\n\n3\n");
        assert_eq!(three, format!("{}\n\n## a\n\n3\n\n## b\n\n2\n", HEAD.trim_end()));
    }
}
