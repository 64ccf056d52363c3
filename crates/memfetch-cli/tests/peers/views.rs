//! What each debugger makes of a core, as facts that can be compared.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use memfetch_testkit::peers::{run, text};

/// What was seen.
pub struct Seen {
    /// Facts by name: they must be those of gcore's core.
    pub facts: BTreeMap<String, String>,
    /// Lines that complain.
    pub complaints: Vec<String>,
    /// All that was printed.
    pub raw: String,
}

/// One way to look at a core.
pub struct View {
    /// The program.
    pub program: &'static str,
    /// Runs it over a core of an executable.
    pub show: fn(&Path, &Path, &Path) -> Seen,
    /// Whether it tells the same of a core with minimal contents.
    pub needs_only_stacks: bool,
}

/// All ways.
pub const ALL: &[View] = &[
    View { program: "gdb", show: gdb, needs_only_stacks: false },
    View { program: "lldb", show: lldb, needs_only_stacks: false },
    View { program: "eu-readelf", show: eu_readelf, needs_only_stacks: false },
    View { program: "eu-stack", show: eu_stack, needs_only_stacks: true },
    View { program: "eu-unstrip", show: eu_unstrip, needs_only_stacks: true },
    View { program: "drgn", show: drgn, needs_only_stacks: false },
];

const LIMIT: Duration = Duration::from_secs(180);

/// Text with the core's own name taken out, and the lines that complain.
fn seen(output: &Output, core: &Path) -> Seen {
    let name = core.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let raw = text(output).replace(&core.display().to_string(), "CORE").replace(&name, "CORE");
    let complains = |line: &&str| {
        let lower = line.to_lowercase();
        ["warning", "error", "cannot", "can't", "failed", "truncated", "invalid", "unable", "corrupt"]
            .iter()
            .any(|word| lower.contains(word))
    };
    let mut complaints: Vec<String> = raw.lines().filter(complains).map(str::to_owned).collect();
    if !output.status.success() {
        complaints.push(format!("exit: {}", output.status));
    }
    Seen { facts: BTreeMap::new(), complaints, raw }
}

/// Splits text at lines that begin with a word, and keys each part by the rest of its first line.
fn keyed(raw: &str, word: &str) -> BTreeMap<String, String> {
    let mut parts = BTreeMap::new();
    let mut key = String::new();
    for line in raw.lines() {
        if let Some(rest) = line.strip_prefix(word) {
            key = rest.trim().to_owned();
            parts.insert(key.clone(), String::new());
        } else if let Some(part) = parts.get_mut(&key) {
            part.push_str(line);
            part.push('\n');
        }
    }
    parts
}

/// Backtrace and all registers of every thread.
fn gdb(tool: &Path, core: &Path, exe: &Path) -> Seen {
    let script = "python\n\
        threads = sorted(gdb.selected_inferior().threads(), key=lambda t: t.ptid[1])\n\
        for t in threads:\n\
        \x20   t.switch()\n\
        \x20   print('@THREAD', t.ptid[1])\n\
        \x20   gdb.execute('bt 40')\n\
        \x20   gdb.execute('info all-registers')\n\
        end\n";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script).unwrap();
    let output = run(
        Command::new(tool)
            .args(["-nx", "-batch", "-iex", "set debuginfod enabled off", "-ex", "set pagination off"])
            .arg(exe)
            .arg(core)
            .arg("-x")
            .arg(file.path()),
        LIMIT,
    );
    let mut seen = seen(&output, core);
    let comparable = |line: &&str| has_intels_layout() || !is_avx512(line);
    let raw: String = seen.raw.lines().filter(comparable).flat_map(|line| [line, "\n"]).collect();
    seen.facts = keyed(&raw, "@THREAD");
    seen
}

/// Whether this processor keeps the AVX-512 registers where gdb 13 looks for them, as Intel's do.
///
/// On others that gdb, and so its gcore, takes bytes of one register for another's; ours moves them.
fn has_intels_layout() -> bool {
    std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("GenuineIntel"))
}

/// Whether a line shows a register that only AVX-512 has, or a part of one.
fn is_avx512(line: &str) -> bool {
    let name = line.split_whitespace().next().unwrap_or_default();
    let number = |prefix: &str| name.strip_prefix(prefix).and_then(|rest| rest.parse::<u32>().ok());
    number("zmm").is_some()
        || number("k").is_some()
        || [number("xmm"), number("ymm")].into_iter().flatten().any(|number| number > 15)
}

/// Backtraces and the general registers of every thread.
fn lldb(tool: &Path, core: &Path, exe: &Path) -> Seen {
    let output = run(
        Command::new(tool)
            .args(["--no-lldbinit", "--batch", "-o", "thread backtrace all", "-o", "image list", "-c"])
            .arg(core)
            .arg(exe),
        LIMIT,
    );
    let mut seen = seen(&output, core);
    // Threads are numbered in the order of the core, which is ours to choose: compare the frames themselves.
    let mut frames: Vec<&str> = seen
        .raw
        .lines()
        .filter(|line| line.contains("frame #"))
        .map(|line| line.trim_start_matches([' ', '*']))
        .collect();
    frames.sort_unstable();
    let count = frames.iter().filter(|line| line.starts_with("frame #0")).count();
    let facts = [("threads".to_owned(), count.to_string()), ("frames".to_owned(), frames.join("\n"))];
    seen.facts = facts.into();
    seen
}

/// The notes, as far as both have them.
fn eu_readelf(tool: &Path, core: &Path, _: &Path) -> Seen {
    let output = run(Command::new(tool).arg("-n").arg(core), LIMIT);
    let mut seen = seen(&output, core);
    // A field may well be called error; what elfutils finds wrong is said on standard error.
    seen.complaints = String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned).collect();
    let threads = seen.raw.matches("PRSTATUS").count();
    seen.facts.insert("threads".into(), threads.to_string());
    let files: Vec<&str> =
        seen.raw.lines().filter(|line| line.contains("/lib/") && line.contains('-')).collect();
    seen.facts.insert("some files".into(), (!files.is_empty()).to_string());
    seen
}

/// The frames of every thread.
fn eu_stack(tool: &Path, core: &Path, exe: &Path) -> Seen {
    let output = run(Command::new(tool).arg("--core").arg(core).arg("--executable").arg(exe), LIMIT);
    let mut seen = seen(&output, core);
    seen.facts = keyed(&seen.raw, "TID ");
    seen
}

/// The modules with their build-ids.
fn eu_unstrip(tool: &Path, core: &Path, exe: &Path) -> Seen {
    let output =
        run(Command::new(tool).arg("-n").arg("--core").arg(core).arg("--executable").arg(exe), LIMIT);
    let mut seen = seen(&output, core);
    for line in seen.raw.lines() {
        let words: Vec<&str> = line.split_whitespace().take(2).collect();
        if let [place, build_id] = words.as_slice() {
            seen.facts.insert((*place).to_owned(), (*build_id).to_owned());
        }
    }
    seen
}

/// The threads, and the first words of each stack.
fn drgn(tool: &Path, core: &Path, _: &Path) -> Seen {
    let script = "for t in sorted(prog.threads(), key=lambda t: t.tid):\n\
        \x20   print('@THREAD', t.tid)\n\
        \x20   trace = t.stack_trace()\n\
        \x20   sp = trace[0].register('rsp')\n\
        \x20   print(hex(trace[0].pc), hex(sp), prog.read(sp, 64).hex())\n";
    let file = tempfile::NamedTempFile::with_suffix(".py").unwrap();
    std::fs::write(file.path(), script).unwrap();
    let output =
        run(Command::new(tool).args(["-q", "--no-default-symbols", "-c"]).arg(core).arg(file.path()), LIMIT);
    let mut seen = seen(&output, core);
    seen.facts = keyed(&seen.raw, "@THREAD");
    seen
}
