//! Cores of real programs, opened by the debuggers that people use, side by side with gcore's.
//!
//! Each program is held still by job control, so that both tools see the same bytes; what a peer makes of our core
//! must be what it makes of gcore's, and it must not complain where it does not complain of gcore's.

mod programs;
mod rules;
mod views;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use memfetch::{Image, Memory, PageState, Process, Span};
use memfetch_testkit::peers::{Still, find, run, skipped, text};

/// Takes both snapshots of a process that stands still.
struct Pair {
    folder: tempfile::TempDir,
    pid: i32,
}

impl Pair {
    fn take(pid: i32, gcore: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let _still = Still::hold(pid);
        let pair = Self { folder, pid };
        let output = run(
            Command::new(gcore).arg("-o").arg(pair.folder.path().join("theirs")).arg(pid.to_string()),
            Duration::from_secs(120),
        );
        assert!(pair.theirs().exists(), "gcore made no core: {}", text(&output));
        pair.snap("default", &pair.ours());
        pair.snap("minimal", &pair.minimal());
        pair.compare_memory();
        pair.compare_live();
        pair
    }

    fn snap(&self, contents: &str, path: &Path) {
        let output = run(
            Command::new(env!("CARGO_BIN_EXE_memfetch"))
                .args(["snap", &self.pid.to_string(), "--mode", "freeze", "--contents", contents, "-o"])
                .arg(path),
            Duration::from_secs(60),
        );
        assert!(output.status.success(), "{}", text(&output));
    }

    fn minimal(&self) -> std::path::PathBuf {
        self.folder.path().join("minimal.core")
    }

    fn ours(&self) -> std::path::PathBuf {
        self.folder.path().join("ours.core")
    }

    fn theirs(&self) -> std::path::PathBuf {
        self.folder.path().join(format!("theirs.{}", self.pid))
    }

    /// Every byte that gcore saved is the same in ours, but for what ours leaves to the mapped files.
    fn compare_memory(&self) {
        let (ours, theirs) = (Image::open(self.ours()).unwrap(), Image::open(self.theirs()).unwrap());
        let map = ours.regions().unwrap();
        let pages = ours.pages(Span::ALL).unwrap();
        let mut compared = 0;
        for run in &theirs.pages(Span::ALL).unwrap() {
            if run.state != PageState::Resident {
                continue;
            }
            for piece in run.span.pieces(1 << 16) {
                let mut expected = vec![0; piece.len() as usize];
                assert_eq!(theirs.read_at(piece.start(), &mut expected).unwrap(), expected.len());
                let mut at = piece.start();
                while at < piece.end() {
                    let offset = at.offset_from(piece.start()).unwrap() as usize;
                    let mut bytes = vec![0; expected.len() - offset];
                    match ours.read_at(at, &mut bytes) {
                        Ok(n) => {
                            assert!(bytes[..n] == expected[offset..offset + n], "bytes differ at {at}");
                            compared += n;
                            at = at.checked_add(n as u64).unwrap();
                        }
                        Err(_) => {
                            let region = map.at(at).unwrap_or_else(|| panic!("{at} is in no region of ours"));
                            let name = region.name().to_string_lossy().into_owned();
                            let may_lack = region.file().is_some() || name.starts_with("[v");
                            assert!(may_lack, "{at} in {name:?} is not saved: {:?}", pages.at(at));
                            at = at.checked_add(4096).unwrap();
                        }
                    }
                }
            }
        }
        assert!(compared > 100_000, "only {compared} bytes were compared");
    }

    /// Every byte that is in our core is what the process, which still stands, has there.
    fn compare_live(&self) {
        let image = Image::open(self.ours()).unwrap();
        let process = Process::open(self.pid).unwrap();
        let mut compared = 0;
        for run in &image.pages(Span::ALL).unwrap() {
            if run.state != PageState::Resident {
                continue;
            }
            for piece in run.span.pieces(1 << 16) {
                let mut saved = vec![0; piece.len() as usize];
                let Ok(n) = image.read_at(piece.start(), &mut saved) else { continue };
                let mut live = vec![0; n];
                let m = process.read_at(piece.start(), &mut live).unwrap();
                assert!(live[..m] == saved[..m], "core and process differ in {piece}");
                compared += m;
            }
        }
        assert!(compared > 100_000, "only {compared} bytes were compared");
    }
}

fn check(program: Option<programs::Running>) {
    let Some(program) = program else { return };
    let Some(gcore) = find("gcore", &format!("core of {} against gcore's", program.name)) else { return };
    let pair = Pair::take(program.server.pid(), &gcore);
    let exe = std::fs::read_link(format!("/proc/{}/exe", program.server.pid())).unwrap();
    for view in views::ALL {
        let what = format!("core of {} in {}", program.name, view.program);
        let Some(tool) = find(view.program, &what) else { continue };
        if program.skip.contains(&view.program) {
            skipped(&what, "it takes minutes on this program, with gcore's core too");
            continue;
        }
        let ours = (view.show)(&tool, &pair.ours(), &exe);
        let theirs = (view.show)(&tool, &pair.theirs(), &exe);
        if view.needs_only_stacks {
            let minimal = (view.show)(&tool, &pair.minimal(), &exe);
            assert_eq!(minimal.facts, theirs.facts, "{what}, with minimal contents");
        }
        for complaint in &ours.complaints {
            assert!(
                theirs.complaints.contains(complaint),
                "{what}: {complaint:?}; of gcore's it says {:?}",
                theirs.complaints
            );
        }
        for (key, value) in &theirs.facts {
            let seen = ours.facts.get(key).map_or("nothing at all", String::as_str);
            let differing = seen.lines().zip(value.lines()).find(|(ours, theirs)| ours != theirs);
            assert!(seen == value, "{what}: {key}: of ours and of gcore's it says\n{differing:#?}");
        }
        assert!(!theirs.facts.is_empty(), "{what}: nothing was seen\n{}", theirs.raw);
    }
}

#[test]
fn a_c_program_with_threads() {
    check(programs::threads());
}

#[test]
fn redis() {
    check(programs::redis());
}

#[test]
fn python() {
    check(programs::python());
}

#[test]
fn node() {
    check(programs::node());
}

#[test]
fn java() {
    check(programs::java());
}
