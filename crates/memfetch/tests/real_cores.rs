//! Cores that gdb and the kernel wrote, read back and compared with what the process is known to have held.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use memfetch::image::{Completeness, Shortfall, Verdict, verify};
use memfetch::threads::Registers;
use memfetch::{Address, Backing, Cause, Image, Memory, PageState, ReadError, Span, Threads};
use memfetch_testkit::{Target, target};

const BYTES: u64 = 4 << 20;

/// What a target told of itself.
struct Facts {
    pid: i32,
    start: u64,
    maps: memfetch::RegionMap,
}

impl Facts {
    fn of(target: &Target) -> Self {
        let text = std::fs::read(format!("/proc/{}/maps", target.pid())).unwrap();
        assert_eq!(target.number("bytes"), BYTES);
        Self { pid: target.pid(), start: target.number("start"), maps: memfetch::maps::parse(&text).unwrap() }
    }

    /// How many bytes of the known memory are there and right, up to the first that is not there.
    fn known_bytes(&self, image: &Image) -> Result<u64, Cause> {
        let mut bytes = vec![0; BYTES as usize];
        let mut read = 0;
        while read < bytes.len() {
            match image.read_at(Address::new(self.start + read as u64), &mut bytes[read..]) {
                Ok(n) => read += n,
                Err(ReadError::Fault(fault)) if read == 0 => return Err(fault.cause),
                Err(ReadError::Fault(_)) => break,
                Err(other) => panic!("{other}"),
            }
        }
        for (index, word) in bytes[..read].chunks_exact(8).enumerate() {
            let at = self.start + 8 * index as u64;
            assert_eq!(u64::from_le_bytes(word.try_into().unwrap()), at, "at {at:#x}");
        }
        Ok(read as u64)
    }

    fn check(&self, core: &Path, signal: i32, notes_first: bool) {
        let image = Image::open(core).unwrap();
        assert_eq!(*image.completeness(), Completeness::Foreign);
        assert_eq!(self.known_bytes(&image), Ok(BYTES));
        let threads = image.threads().unwrap();
        assert_eq!(threads.iter().map(|thread| thread.tid).collect::<Vec<_>>(), [self.pid]);
        assert_eq!(threads[0].name, "memfetch-target");
        assert_eq!(threads[0].signal.as_ref().map_or(0, |signal| signal.number), signal);
        let Registers::Complete(sets) = &threads[0].registers else { panic!("no registers") };
        let sets: Vec<_> = sets.iter().map(|set| (set.note_type, set.bytes.len())).collect();
        assert!(sets.contains(&(1, 216)) && sets.contains(&(2, 512)), "{sets:?}");
        assert!(sets.iter().any(|&(kind, len)| kind == 0x202 && len > 512), "{sets:?}");
        let process = image.process().unwrap();
        assert_eq!(process.pid, self.pid);
        assert_eq!(process.name, "memfetch-target");
        // gdb has the first argument only, both cut it, and to the kernel the parent is a thread.
        assert!(process.arguments.to_string_lossy().starts_with('/') && process.parent > 0, "{process:?}");

        // Every region has the bounds, the permissions and the name that it had.
        let regions = image.regions().unwrap();
        for region in &regions {
            let was =
                self.maps.at(region.span.start()).unwrap_or_else(|| panic!("{region:?} was not mapped"));
            assert_eq!(region.span, was.span);
            // gdb leaves out the segments of clean file mappings: NT_FILE has them, without permissions.
            let known = !region.permissions.is_none();
            assert!(!known || region.permissions.write == was.permissions.write, "{region:?}");
            let label = matches!(was.backing, Backing::Anonymous { label: Some(_) });
            if !label {
                assert_eq!(region.name(), was.name(), "{region:?}");
            }
            if let (Some(file), Some(was)) = (region.file(), was.file()) {
                assert_eq!(file.offset, was.offset);
            }
        }
        assert!(regions.heap().is_some() && regions.stack().is_some());
        for was in self.maps.iter().filter(|was| was.name() != "[vvar]" && was.name() != "[vvar_vclock]") {
            let unread = was.permissions.is_none() || was.name() == "[vsyscall]";
            assert!(unread || regions.at(was.span.start()).is_some(), "{was:?} is missing");
        }
        let length = std::fs::metadata(core).unwrap().len();
        assert_eq!(verify(core, &mut |_, _| {}).unwrap(), Verdict::Unverifiable { bytes: length });
        self.check_cut(core, length, notes_first);
    }

    /// A core that was cut short still gives its threads and regions, and what is missing is said to be.
    fn check_cut(&self, core: &Path, length: u64, notes_first: bool) {
        let whole = Image::open(core).unwrap();
        let short = core.with_extension("short");
        for percent in [99, 50, 10] {
            let cut = length * percent / 100;
            std::fs::copy(core, &short).unwrap();
            std::fs::OpenOptions::new().write(true).open(&short).unwrap().set_len(cut).unwrap();
            let image = Image::open(&short).unwrap();
            let cut_regions = image.regions().unwrap();
            if notes_first {
                assert_eq!(cut_regions, whole.regions().unwrap());
                assert_eq!(image.threads().unwrap().len(), 1);
            }
            // Without the notes, the segments are still there.
            for region in &cut_regions {
                assert_eq!(region.span, self.maps.at(region.span.start()).unwrap().span);
            }
            assert!(cut_regions.at(Address::new(self.start)).is_some());
            let pages = image.pages(Span::ALL).unwrap();
            let missing = pages.bytes_where(|state| state == PageState::Unreadable(Cause::Truncated));
            assert!(missing > 0 && missing <= length - cut, "{missing} of {}", length - cut);
            match self.known_bytes(&image) {
                Ok(read) => assert!(read <= BYTES),
                Err(cause) => assert_eq!(cause, Cause::Truncated),
            }
            let verdict = verify(&short, &mut |_, _| {}).unwrap();
            let Verdict::Incomplete { why: Shortfall::Data, present_bytes, expected_bytes } = verdict else {
                panic!("{verdict:?}")
            };
            assert!(present_bytes == cut && expected_bytes <= length && expected_bytes > cut);
        }
    }
}

#[test]
fn gcore() {
    let target = Target::spawn("private", &["4"]);
    let facts = Facts::of(&target);
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("core");
    let mut gcore = Command::new("gcore");
    gcore.arg("-o").arg(&prefix).arg(facts.pid.to_string()).stdin(Stdio::null());
    let output = match gcore.output() {
        Ok(output) => output,
        Err(error) => return eprintln!("skipped: gcore does not start: {error}"),
    };
    let core = folder.path().join(format!("core.{}", facts.pid));
    if !core.exists() {
        return eprintln!("skipped: gcore wrote nothing: {}", String::from_utf8_lossy(&output.stderr));
    }
    let stopped = Image::open(&core).unwrap().threads().unwrap()[0].signal.clone();
    // gdb writes the notes behind the memory: they are the first to go.
    facts.check(&core, stopped.map_or(0, |signal| signal.number), false);
}

#[test]
fn the_kernel() {
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    if pattern.starts_with('|') || pattern.contains('/') || pattern.trim().is_empty() {
        return eprintln!("skipped: cores go elsewhere: core_pattern is {pattern:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command.arg("-c").arg(r#"ulimit -c unlimited && cd "$0" && exec "$1" private 4"#);
    command.arg(folder.path()).arg(target::program());
    let mut target = Target::spawn_command(command);
    let facts = Facts::of(&target);
    let sent = Command::new("kill").args(["-ABRT", &facts.pid.to_string()]).status();
    if !sent.is_ok_and(|status| status.success()) {
        return eprintln!("skipped: kill(1) cannot be run");
    }
    let begun = Instant::now();
    while target.is_alive() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the target outlives SIGABRT");
        std::thread::sleep(Duration::from_millis(5));
    }
    let files: Vec<PathBuf> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    match files.as_slice() {
        [core] => facts.check(core, 6, true),
        _ => eprintln!("skipped: the kernel wrote no core (its limits?): {files:?}"),
    }
}
