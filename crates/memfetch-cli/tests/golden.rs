//! What every command that reads says of every committed core, word for word.
//!
//! The outputs stand in tests/golden/COMMAND/CORE.txt. `cargo xtask golden` writes them anew; what changed is then seen
//! in the diff, and is part of the commit that changed it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Cores, and what is asked of each.
struct Group {
    /// Where they lie, from the folder of this crate.
    folder: &'static str,
    /// Their names.
    cores: &'static [&'static str],
    /// Command lines; CORE stands for one.
    lines: &'static [&'static str],
}

/// Those of the fuzz targets, made by the encoder of the tests: each word size and byte order.
const MADE: Group = Group {
    folder: "../../fuzz/seeds/core",
    cores: &["32-big", "32-little", "64-big", "64-little", "counted-by-section", "own"],
    lines: &[
        "maps CORE",
        "maps CORE --only file",
        "maps CORE --json",
        "read CORE 0x10000 -n 64",
        "read CORE 0x10000..0x13000",
        "read CORE 0x10000..0x10030 -v -w 8 -g 2",
        "read CORE 0x10000 -t u32 -n 4",
        "read CORE 0x10000 -t ptr -n 3",
        "read CORE 0x10000 -t i16 -n 2 --endian big",
        "read CORE 0x10000 -t str",
        "read CORE 0x10010..0x10020 --json",
        "read CORE 0x10000 -t f64 -n 4 --json",
        "read CORE 0x10000 -t u64 -n 2 --json",
        "read CORE heap -n 16",
        "read CORE stack -n 16",
        "read CORE program+0x1000 -n 16",
        "read CORE 0x100 -n 16",
        "find CORE ui]QC",
        "find CORE -x 75??5d --json",
        "find CORE -x 75??5d -C 1",
        "find CORE -t i16 499 -3327 -c",
        "find CORE --utf16 畩",
        "find CORE --utf16 極",
        "find CORE nothing -q",
        "strings CORE -n 3",
        "strings CORE -n 3 --json",
        "diff CORE ./64-little",
        "diff CORE ./own --by-address --summary",
        "diff CORE CORE",
        "diff CORE ./own --by-address -t u32 -n 2",
        "verify CORE",
        "verify CORE --json",
    ],
};

/// Those of tests/cores: a process of which the content is known, as different programs saw it.
const REAL: Group = Group {
    folder: "tests/cores",
    cores: &["classic", "directory", "full", "gdb", "kernel", "memfetch"],
    lines: &[
        "maps CORE",
        "maps CORE --skip file",
        "maps CORE --json",
        "read CORE tiny -n 64",
        "read CORE 0x403060..+0x40",
        "read CORE 0x403060 -t ptr -n 3",
        "read CORE 0x403060 -t ptr -n 3 --json",
        "read CORE 0x403080 -t f64 -n 2",
        "read CORE 0x403090 -t i32 -n 4",
        "read CORE 0x403090 -t i32 -n 4 --json",
        "read CORE 0x403040 -t str",
        "read CORE 0x403020 -t utf16",
        "read CORE 0x404000..0x406000",
        "read CORE 0x100000000..0x100005000",
        "read CORE 0x100000ff0..0x100001010 --json",
        "read CORE 0x100003ff0..0x100004010 --json",
        "read CORE 0x100000ff0..0x100001010 --raw",
        "read CORE 0x401000 -n 16",
        "read CORE !numbers",
        "read CORE stack -n 32",
        "find CORE fox",
        "find CORE fox --json",
        "find CORE text --utf16",
        "find CORE MEMORY -i -o",
        "find CORE -e [a-z]{5,}.fox -C 1",
        "find CORE -t i32 4660 -2",
        "find CORE -t f64 -- -2.25",
        "find CORE --points-to file --skip stack",
        "find CORE --points-to 0x403040 --json --skip stack",
        "find CORE fox brown -c",
        "find CORE o -l",
        "find CORE nothing",
        "find CORE --rules tiny.yar",
        "find CORE --rules tiny.yar --json",
        "strings CORE",
        "strings CORE --region -n 8",
        "strings CORE --only write --json -n 8",
        "strings CORE -c -e utf16le",
        "diff CORE ./kernel --skip stack",
        "diff CORE ./kernel --skip stack -t i32",
        "diff CORE ./kernel --skip stack --json -t u64",
        "diff ./full CORE --summary",
        "diff CORE ./full -q",
        "diff CORE ./full -t str",
        "verify CORE",
        "verify CORE --json",
    ],
};

#[test]
fn every_command_over_every_core() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden = root.join("tests/golden");
    let write = std::env::var_os("MEMFETCH_GOLDEN").is_some_and(|word| word == "write");
    let mut expected_files = BTreeSet::new();
    let mut differences = String::new();
    for group in [MADE, REAL] {
        assert_eq!(
            cores_in(&root.join(group.folder)),
            group.cores.iter().map(|it| (*it).to_owned()).collect()
        );
        for core in group.cores {
            for command in ["maps", "read", "find", "strings", "diff", "verify"] {
                let text = told(command, core, &group);
                let file = golden.join(command).join(format!("{core}.txt"));
                if write {
                    fs::create_dir_all(golden.join(command)).unwrap();
                    fs::write(&file, &text).unwrap();
                }
                let expected = fs::read_to_string(&file).unwrap_or_default();
                if text != expected {
                    let _ = writeln!(differences, "{}", file.display());
                    let (now, then) = first_difference(&text, &expected);
                    let _ = writeln!(differences, "  was: {then}\n  is:  {now}");
                }
                expected_files.insert(file);
            }
        }
    }
    assert!(differences.is_empty(), "`cargo xtask golden` writes them anew:\n{differences}");
    for file in files_below(&golden) {
        let is_expected = expected_files.contains(&file);
        if write && !is_expected {
            fs::remove_file(&file).unwrap();
        }
        assert!(write || is_expected, "no command line has this output: {}", file.display());
    }
}

/// What one command says of a core: its lines, what it printed, and how it ended.
fn told(command: &str, core: &str, group: &Group) -> String {
    let mut text = String::new();
    for line in group.lines {
        let line = line.replace("CORE", &format!("./{core}"));
        if !line.starts_with(&format!("{command} ")) {
            continue;
        }
        let mut program = Command::new(env!("CARGO_BIN_EXE_memfetch"));
        // A folder of its own makes all names short, and the environment does not matter.
        program
            .args(line.split(' '))
            .env_clear()
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(group.folder));
        let output = program.output().unwrap();
        let shown = |bytes: &[u8]| {
            let text = bytes.utf8_chunks().map(|chunk| {
                let invalid: String = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")).collect();
                chunk.valid().replace('\0', "\\0") + &invalid
            });
            text.collect::<String>()
        };
        let code = output.status.code().unwrap();
        let (out, err) = (shown(&output.stdout), shown(&output.stderr));
        text.push_str(&format!("$ memfetch {line}\n{out}{err}[{code}]\n\n"));
    }
    text
}

/// The first line that is not the same, in both; after the end of one lines are empty.
fn first_difference<'a>(one: &'a str, other: &'a str) -> (&'a str, &'a str) {
    let equal = one.lines().zip(other.lines()).take_while(|(one, other)| one == other).count();
    let line = |text: &'a str| text.lines().nth(equal).unwrap_or_default();
    (line(one), line(other))
}

/// The cores in a folder, where other files have a name with a dot.
fn cores_in(folder: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.contains('.')).collect()
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}
