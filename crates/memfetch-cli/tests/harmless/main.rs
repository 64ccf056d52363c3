//! `memfetch snap` leaves the process and the machine as they were, whatever their size; its own cost grows with
//! what is in RAM. The library's reads are tested like this where they are made; here the program runs as a whole.
//!
//! Times and sizes are printed (`--nocapture`), and nothing is asserted about times.

mod churn;
mod compared;
mod crowds;
mod files;
mod forked;
mod limits;
mod reading;
mod searching;
mod shared;
mod sparse;
mod swapped;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use memfetch::{Address, Image, Memory, Span};
use memfetch_testkit::footprint::settle;
use memfetch_testkit::{Footprint, Target, peers};

/// The modes that are tested.
const MODES: [&str; 2] = ["freeze", "live"];

/// The most RAM that memfetch itself may have, in kilobytes, whatever the size of the process.
const PEAK_KB: u64 = 64 << 10;

/// What a role does for itself meanwhile, in kilobytes.
const NOISE_KB: u64 = 64;

/// The tests of this program measure, and take memory: one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a call of `memfetch snap` came to. The core goes with it.
struct Taken {
    folder: tempfile::TempDir,
    code: i32,
    report: serde_json::Value,
    said: String,
    elapsed: Duration,
    /// The most kilobytes that memfetch had in RAM.
    peak_kb: u64,
}

impl Taken {
    fn core(&self) -> PathBuf {
        self.folder.path().join("core")
    }

    fn image(&self) -> Image {
        Image::open(self.core()).unwrap()
    }

    /// What the core takes on the disk.
    fn stored(&self) -> u64 {
        self.core().metadata().unwrap().blocks() * 512
    }

    fn print(&self, what: &str) {
        let megabytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        println!(
            "{what}: {:.0} ms, paused {:.1} ms, {:.1} MiB on disk, {:.1} MiB read, memfetch had {:.1} MiB",
            self.elapsed.as_secs_f64() * 1e3,
            self.report["outcome"]["pause_ns"].as_f64().unwrap_or(0.0) / 1e6,
            megabytes(self.report["stored_bytes"].as_u64().unwrap_or(0)),
            megabytes(self.report["outcome"]["read_bytes"].as_u64().unwrap_or(0)),
            megabytes(self.peak_kb << 10),
        );
    }
}

/// Who runs memfetch, and how.
#[derive(Clone, Debug, Default)]
struct Runner {
    /// What stands ahead of the command.
    wrapper: Vec<String>,
    /// Whether it runs as an ordinary user.
    as_nobody: bool,
}

const AS_NOBODY: [&str; 6] = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];

impl Runner {
    fn nobody() -> Self {
        Self { as_nobody: true, ..Self::default() }
    }

    fn snap(&self, pid: i32, arguments: &[&str]) -> Taken {
        let folder = open_folder();
        // The folder of the build may not be open to others.
        let program = if self.as_nobody {
            copied(Path::new(env!("CARGO_BIN_EXE_memfetch")), &folder, "memfetch")
        } else {
            PathBuf::from(env!("CARGO_BIN_EXE_memfetch"))
        };
        let outputs = folder.path().join("out");
        std::fs::create_dir(&outputs).unwrap();
        std::fs::set_permissions(&outputs, std::fs::Permissions::from_mode(0o777)).unwrap();
        let peak = folder.path().join("peak");
        let mut command = Command::new(memfetch_testkit::target::program());
        command.arg("measure").arg(&peak).args(&self.wrapper);
        if self.as_nobody {
            command.args(AS_NOBODY);
        }
        command.arg(program).args(["snap", "--json", &pid.to_string(), "-o"]).arg(outputs.join("core"));
        command.args(arguments);
        let begun = Instant::now();
        let output = peers::run(&mut command, Duration::from_secs(300));
        let elapsed = begun.elapsed();
        let said = peers::text(&output);
        let core = outputs.join("core");
        if core.exists() {
            std::fs::rename(core, folder.path().join("core")).unwrap();
        }
        assert_eq!(std::fs::read_dir(&outputs).unwrap().count(), 0, "something is left behind: {said}");
        let peak_kb = std::fs::read_to_string(&peak).unwrap().parse().unwrap();
        let code = output.status.code().unwrap_or(-1);
        let report = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let taken = Taken { folder, code, report, said, elapsed, peak_kb };
        assert!(peak_kb <= PEAK_KB, "memfetch had {peak_kb} kB in RAM");
        taken
    }
}

/// A folder that others may look into.
fn open_folder() -> tempfile::TempDir {
    tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(0o755))
        .prefix("memfetch-harmless-")
        .tempdir()
        .unwrap()
}

fn copied(program: &Path, folder: &tempfile::TempDir, name: &str) -> PathBuf {
    let copy = folder.path().join(name);
    std::fs::copy(program, &copy).unwrap();
    copy
}

/// Takes a snapshot that must be complete.
fn snap(pid: i32, arguments: &[&str]) -> Taken {
    let taken = Runner::default().snap(pid, arguments);
    assert_eq!(taken.code, 0, "{}", taken.said);
    taken
}

/// Takes snapshots in each mode with each kind of contents, and sees to it that the process stays as it is.
fn unharmed(what: &str, target: &mut Target, contents: &[&str], mut check: impl FnMut(&Taken)) {
    for mode in MODES {
        for contents in contents {
            settle(target);
            let before = Footprint::of(target.pid());
            let taken = snap(target.pid(), &["--mode", mode, "--contents", contents]);
            let what = format!("{what}, {mode}, {contents}");
            before.assert_near(&Footprint::of(target.pid()), NOISE_KB, &what);
            taken.print(&what);
            check(&taken);
        }
    }
}

/// Runs memfetch with these words, which must end with this code, and sees to it that the process stays as it is.
fn unharmed_by(what: &str, target: &mut Target, noise_kb: u64, words: &[&str], code: i32) -> Output {
    settle(target);
    let folder = open_folder();
    let peak = folder.path().join("peak");
    let before = Footprint::of(target.pid());
    let mut command = Command::new(memfetch_testkit::target::program());
    command.arg("measure").arg(&peak).arg(env!("CARGO_BIN_EXE_memfetch")).args(words);
    let begun = Instant::now();
    let output = peers::run(&mut command, Duration::from_secs(300));
    let elapsed = begun.elapsed();
    before.assert_near(&Footprint::of(target.pid()), noise_kb, what);
    let peak_kb: u64 = std::fs::read_to_string(&peak).unwrap().parse().unwrap();
    println!(
        "{what}: {:.0} ms, memfetch had {:.1} MiB",
        elapsed.as_secs_f64() * 1e3,
        peak_kb as f64 / 1024.0
    );
    assert!(peak_kb <= PEAK_KB, "memfetch had {peak_kb} kB in RAM");
    assert_eq!(output.status.code(), Some(code), "{what}: {}", peers::text(&output));
    output
}

fn span_of(target: &Target) -> Span {
    Span::from_len(Address::new(target.number("start")), target.number("bytes")).unwrap()
}

/// Every 8-byte word of `span` is what `word` says of its address.
fn assert_words(image: &Image, span: Span, word: impl Fn(u64) -> u64) {
    let mut bytes = vec![0xaa; 1 << 20];
    for piece in span.pieces(1 << 20) {
        let len = usize::try_from(piece.len()).unwrap();
        let mut done = 0;
        while done < len {
            let at = piece.start().saturating_add(done as u64);
            let read = image.read_at(at, &mut bytes[done..len]);
            done += read.unwrap_or_else(|error| panic!("{at}: {error:?}"));
        }
        for (at, found) in (piece.start().get()..).step_by(8).zip(bytes[..len].as_chunks::<8>().0) {
            let found = u64::from_ne_bytes(*found);
            assert!(found == word(at), "at {at:#x}: {found:#x} and not {:#x}", word(at));
        }
    }
}

fn part(span: Span, from: u64, len: u64) -> Span {
    Span::from_len(span.start().saturating_add(from), len).unwrap()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether a test can go on; says so where it cannot.
fn needs(what: &str, need: &str, met: bool) -> bool {
    if !met {
        peers::skipped(what, &format!("needs {need}"));
    }
    met
}
