//! 32-bit programs, and 32-bit code in 64-bit programs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use memfetch::{Image, Memory, Platform, Threads};
use memfetch_testkit::peers::{Server, Still, find, run, skipped, text};

use super::{assert_runs, assert_whole, snap};

/// A C program of tests/programs that runs.
struct Program {
    server: Server,
    exe: PathBuf,
    folder: tempfile::TempDir,
}

impl Program {
    fn start(source: &str, flags: &[&str], threads: usize, what: &str) -> Option<Self> {
        let cc = find("cc", what)?;
        let folder = tempfile::tempdir().unwrap();
        let exe = folder.path().join("program");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(source);
        let mut command = Command::new(cc);
        command.args(["-g", "-O1", "-pthread", "-o"]).arg(&exe).arg(source).args(flags);
        let output = run(&mut command, Duration::from_secs(60));
        assert!(output.status.success(), "{}", text(&output));
        let count = |pid| std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        let server = Server::start::<&str>(&exe, &[], |pid| count(pid) >= threads);
        std::thread::sleep(Duration::from_millis(200));
        Some(Self { server, exe, folder })
    }

    fn core(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Whether the C compiler has what it takes for a 32-bit program, which is said where it has not.
fn compiles_for_32_bits(what: &str) -> bool {
    let Some(cc) = find("cc", what) else { return false };
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("a.c"), folder.path().join("a"));
    std::fs::write(&source, "#include <pthread.h>\nint main(void) { return 0; }\n").unwrap();
    let output =
        run(Command::new(cc).args(["-m32", "-o"]).arg(&program).arg(&source), Duration::from_secs(60));
    if !output.status.success() {
        skipped(what, "the C compiler has no 32-bit libraries (gcc-multilib)");
    }
    output.status.success()
}

/// Frames and general registers of each thread, as gdb sees them.
fn gdb(tool: &Path, exe: &Path, core: &Path) -> BTreeMap<String, String> {
    let script = "python\n\
        for t in sorted(gdb.selected_inferior().threads(), key=lambda t: t.ptid[1]):\n\
        \x20   t.switch()\n\
        \x20   print('@THREAD', t.ptid[1])\n\
        \x20   gdb.execute('bt 40')\n\
        \x20   gdb.execute('info registers')\n\
        \x20   gdb.execute('p $st0')\n\
        \x20   gdb.execute('p $xmm7')\n\
        \x20   gdb.execute('p $mxcsr')\n\
        end\n";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script).unwrap();
    let mut command = Command::new(tool);
    command.args(["-nx", "-batch", "-iex", "set debuginfod enabled off"]).arg(exe).arg(core);
    let output = run(command.arg("-x").arg(file.path()), Duration::from_secs(60));
    let mut parts: BTreeMap<String, String> = BTreeMap::new();
    let mut last = None;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some(key) = line.strip_prefix("@THREAD ") {
            last = Some(key.to_owned());
        } else if let Some(key) = &last {
            let part = parts.entry(key.clone()).or_default();
            part.push_str(line);
            part.push('\n');
        }
    }
    assert!(!parts.is_empty(), "{}", text(&output));
    parts
}

#[test]
fn a_32_bit_program_is_seen_by_gdb_as_in_gcores_core() {
    let what = "a core of a 32-bit program";
    if !compiles_for_32_bits(what) {
        return;
    }
    // The program has its numbers in a vector register, which i386 has only where it is told so.
    let Some(program) = Program::start("threads.c", &["-m32", "-msse2"], 4, what) else { return };
    let pid = program.server.pid();
    for (name, mode) in [("freeze", "freeze"), ("live", "live")] {
        let path = program.core(name);
        snap(pid, &path, &["--mode", mode]).says(0, &["4 threads"]);
        assert_whole(&path);
        let header = std::fs::read(&path).unwrap();
        // ELFCLASS32, ET_CORE, EM_386 (elf.h).
        assert_eq!((header[4], &header[16..20]), (1, &[4, 0, 3, 0][..]), "{mode}");
        let image = Image::open(&path).unwrap();
        assert_eq!(*image.platform(), Platform::I386);
        assert!(image.auxv().iter().any(|&(key, value)| key == 6 && value == 4096), "AT_PAGESZ");
        for thread in image.threads().unwrap() {
            let sets: Vec<_> = thread.registers.set(1).iter().map(|set| set.len()).collect();
            assert_eq!(sets, [68], "{mode}: {}", thread.tid);
        }
    }
    assert_runs(pid);
    let (Some(tool), Some(gcore)) = (find("gdb", what), find("gcore", what)) else { return };
    let still = Still::hold(pid);
    let output = run(
        Command::new(gcore).arg("-o").arg(program.core("theirs")).arg(pid.to_string()),
        Duration::from_secs(60),
    );
    let theirs = program.core(&format!("theirs.{pid}"));
    assert!(theirs.exists(), "{}", text(&output));
    let ours = program.core("ours");
    snap(pid, &ours, &["--mode", "freeze"]).says(0, &[]);
    drop(still);
    let (seen, right) = (gdb(&tool, &program.exe, &ours), gdb(&tool, &program.exe, &theirs));
    assert_eq!(right.len(), 4);
    assert!(right.values().any(|text| text.contains("innermost (number=number@entry=3)")), "{right:?}");
    for (thread, right) in &right {
        assert_eq!(seen.get(thread), Some(right), "{thread}");
    }
    // Without a stop a blocked thread has where it waits.
    let live = gdb(&tool, &program.exe, &program.core("live"));
    let first = live.get(&pid.to_string()).unwrap();
    assert!(first.contains("__kernel_vsyscall") || first.contains("main ()"), "{first}");
}

/// The kernel gives the registers in the layout of the mode that a thread runs in: taken for the other, they were
/// nonsense without a word.
#[test]
fn a_thread_of_a_64_bit_program_that_runs_32_bit_code() {
    let what = "32-bit code in a 64-bit program";
    let Some(program) = Program::start("mixed.c", &[], 2, what) else { return };
    let path = program.core("a.core");
    snap(program.server.pid(), &path, &["--mode", "freeze"]).says(0, &["2 threads"]);
    assert_whole(&path);
    let image = Image::open(&path).unwrap();
    assert_eq!(*image.platform(), Platform::X86_64);
    let threads = image.threads().unwrap();
    let thread = threads.iter().find(|thread| thread.tid != program.server.pid()).unwrap();
    let general = thread.registers.set(1).unwrap();
    assert_eq!(general.len(), 216);
    // The order of `user_regs_struct` (sys/user.h).
    let register = |index: usize| u64::from_le_bytes(general[index * 8..][..8].try_into().unwrap());
    assert_eq!(register(17), 0x23, "cs");
    assert_eq!(register(10), 0x1234_5678, "rax");
    assert_eq!(register(3), 0x1122_3344_5566_7788, "r12");
    let code = memfetch::Address::new(register(16)).align_down(4096);
    let mut bytes = [0; 4];
    assert_eq!(image.read_at(code, &mut bytes).unwrap(), 4);
    assert_eq!(bytes, [0xf3, 0x90, 0xeb, 0xfc]);
    assert_eq!(thread.registers.set(2).unwrap().len(), 512, "floating-point registers");
    assert_runs(program.server.pid());
}
