//! Cores that were cut short still tell what they can, and say that they are cut.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use memfetch::{Cause, Image, Memory, PageState, ReadError, Span, Threads};
use memfetch_testkit::Target;
use memfetch_testkit::peers::{Server, find, run, text};

use super::{memfetch, snap};

const PERCENT: [u64; 3] = [10, 50, 99];

/// A core, and its beginnings.
struct Cut {
    _folder: tempfile::TempDir,
    whole: PathBuf,
    parts: Vec<PathBuf>,
    exe: PathBuf,
    threads: usize,
}

impl Cut {
    fn of(pid: i32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let whole = folder.path().join("whole.core");
        snap(pid, &whole, &["--mode", "freeze"]).says(0, &["frozen"]);
        let bytes = std::fs::read(&whole).unwrap();
        let parts = PERCENT.map(|percent| {
            let part = folder.path().join(format!("{percent}.core"));
            let length = bytes.len() as u64 * percent / 100;
            std::fs::write(&part, &bytes[..length as usize]).unwrap();
            part
        });
        let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
        Self { _folder: folder, whole, parts: parts.into(), exe, threads }
    }

    fn check(&self, name: &str) {
        for part in &self.parts {
            self.tells_that_it_is_cut(part);
        }
        if let Some(tool) = find("gdb", &format!("cut cores of {name} in gdb")) {
            self.same_frames(|core| self.gdb(&tool, core));
        }
        if let Some(tool) = find("eu-stack", &format!("cut cores of {name} in eu-stack")) {
            self.same_frames(|core| self.eu_stack(&tool, core));
        }
        if let Some(tool) = find("drgn", &format!("cut cores of {name} in drgn")) {
            self.same_frames(|core| drgn(&tool, core));
        }
        if let Some(tool) = find("eu-unstrip", &format!("cut cores of {name} in eu-unstrip")) {
            let whole = self.modules(&tool, &self.whole);
            assert!(whole.len() > 3, "{whole:?}");
            for part in &self.parts {
                assert_eq!(self.modules(&tool, part), whole, "{}", part.display());
            }
        }
    }

    fn tells_that_it_is_cut(&self, part: &Path) {
        memfetch(&[OsStr::new("verify"), part.as_os_str()])
            .says(1, &["INCOMPLETE", "ends before its data", "of at least"]);
        let told = memfetch(&[OsStr::new("maps"), part.as_os_str()]).says(1, &["[stack]"]);
        assert!(told.err.contains("INCOMPLETE") && told.out.contains("TOTAL"), "{told:?}");
        let length = part.metadata().unwrap().len();
        let (image, whole) = (Image::open(part).unwrap(), Image::open(&self.whole).unwrap());
        assert_eq!(image.threads().unwrap().len(), self.threads);
        let (mut lost, mut kept) = (0, 0);
        for run in &whole.pages(Span::ALL).unwrap() {
            if run.state.refusal().is_some() {
                continue;
            }
            for page in run.span.pieces(4096) {
                let (mut ours, mut right) = ([0xaa; 4096], [0; 4096]);
                assert_eq!(whole.read_at(page.start(), &mut right).unwrap(), 4096);
                match image.read_at(page.start(), &mut ours) {
                    Ok(read) => {
                        assert_eq!(ours[..read], right[..read], "{page}");
                        kept += read as u64;
                    }
                    // A reservation that nothing was put into has no bytes in the file: that it is zero only the
                    // trailer knows.
                    Err(ReadError::Fault(fault)) if fault.cause == Cause::NotSaved => {
                        assert!(run.state.is_known_zero(), "{page}");
                    }
                    Err(ReadError::Fault(fault)) => {
                        assert_eq!(fault.cause, Cause::Truncated, "{page}");
                        let state = image.pages(page).unwrap().at(page.start()).unwrap().state;
                        assert_eq!(state, PageState::Unreadable(Cause::Truncated), "{page}");
                        lost += 4096;
                    }
                    Err(error) => panic!("{page}: {error}"),
                }
            }
        }
        assert!(kept <= length && kept + (1 << 20) > length, "{kept} of {length} bytes are readable");
        assert!(lost > 0, "nothing is lost");
    }

    /// Each thread has the frames of the whole core.
    fn same_frames(&self, frames: impl Fn(&Path) -> BTreeMap<String, String>) {
        let whole = frames(&self.whole);
        assert_eq!(whole.len(), self.threads, "{whole:?}");
        for part in &self.parts {
            let ours = frames(part);
            assert_eq!(ours.len(), self.threads, "{}: {ours:?}", part.display());
            for (thread, right) in &whole {
                assert!(!right.trim().is_empty(), "{thread} has no frames");
                assert_eq!(ours.get(thread), Some(right), "{}: {thread}", part.display());
            }
        }
    }

    fn gdb(&self, tool: &Path, core: &Path) -> BTreeMap<String, String> {
        let script = "python\n\
            for t in gdb.selected_inferior().threads():\n\
            \x20   t.switch()\n\
            \x20   print('@THREAD', t.ptid[1])\n\
            \x20   gdb.execute('bt 40')\n\
            end\n";
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), script).unwrap();
        let mut command = Command::new(tool);
        command.args(["-nx", "-batch", "-iex", "set debuginfod enabled off"]).arg(&self.exe).arg(core);
        keyed(&printed(command.arg("-x").arg(file.path())), "@THREAD")
    }

    fn eu_stack(&self, tool: &Path, core: &Path) -> BTreeMap<String, String> {
        keyed(&printed(Command::new(tool).arg("--core").arg(core).arg("--executable").arg(&self.exe)), "TID ")
    }

    /// Places and build-ids.
    fn modules(&self, tool: &Path, core: &Path) -> BTreeSet<String> {
        let lines =
            printed(Command::new(tool).arg("-n").arg("--core").arg(core).arg("--executable").arg(&self.exe));
        let words = |line: &str| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        lines.lines().map(words).filter(|words| words.starts_with("0x")).collect()
    }
}

fn drgn(tool: &Path, core: &Path) -> BTreeMap<String, String> {
    let script = "for t in prog.threads():\n\
        \x20   print('@THREAD', t.tid)\n\
        \x20   trace = t.stack_trace()\n\
        \x20   sp = trace[0].register('rsp')\n\
        \x20   print(hex(trace[0].pc), hex(sp), prog.read(sp, 64).hex())\n";
    let file = tempfile::NamedTempFile::with_suffix(".py").unwrap();
    std::fs::write(file.path(), script).unwrap();
    let mut command = Command::new(tool);
    command.args(["-q", "--no-default-symbols", "-c"]).arg(core).arg(file.path());
    keyed(&printed(&mut command), "@THREAD")
}

/// What a program prints on standard output: warnings are no frames.
fn printed(command: &mut Command) -> String {
    String::from_utf8_lossy(&run(command, Duration::from_secs(60)).stdout).into_owned()
}

/// The lines behind each line that begins with a word, by the rest of that line.
fn keyed(text: &str, word: &str) -> BTreeMap<String, String> {
    let mut parts = BTreeMap::new();
    let mut key = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix(word) {
            key = Some(rest.trim().to_owned());
            parts.insert(rest.trim().to_owned(), String::new());
        } else if let Some(part) = key.as_ref().and_then(|key| parts.get_mut(key)) {
            part.push_str(line);
            part.push('\n');
        }
    }
    parts
}

#[test]
fn a_cut_core_of_blocked_threads_still_has_their_frames() {
    let target = Target::spawn("threads", &["12", "60"]);
    Cut::of(target.pid()).check("blocked threads");
}

#[test]
fn a_cut_core_of_a_c_program_still_has_its_frames() {
    let Some(cc) = find("cc", "cut cores of a C program") else { return };
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("threads");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/threads.c");
    let mut command = Command::new(cc);
    let output =
        run(command.args(["-g", "-O1", "-pthread", "-o"]).arg(&program).arg(source), Duration::from_secs(60));
    assert!(output.status.success(), "{}", text(&output));
    let threads = |pid| std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    let server = Server::start::<&str>(&program, &[], |pid| threads(pid) >= 4);
    std::thread::sleep(Duration::from_millis(200));
    Cut::of(server.pid()).check("a C program");
}
