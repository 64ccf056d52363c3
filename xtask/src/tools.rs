//! The programs of others that tests compare with: found, installed where that is possible, else named.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::run::{find, must, show};

/// Programs and the packages of Debian and its kin that have them.
const PEERS: &[(&str, &str)] = &[
    ("cc", "gcc"),
    ("gcore", "gdb"),
    ("gdb", "gdb"),
    ("lldb", "lldb"),
    ("eu-readelf", "elfutils"),
    ("eu-stack", "elfutils"),
    ("readelf", "binutils"),
    ("redis-server", "redis-server"),
    ("redis-cli", "redis-tools"),
    ("java", "default-jdk-headless"),
    ("javac", "default-jdk-headless"),
    ("node", "nodejs"),
    ("python3", "python3"),
    ("yara", "yara"),
];

/// Where programs go that are installed for the tests only.
pub fn folder(root: &Path) -> PathBuf {
    root.join("target").join("tools").join("bin")
}

/// Installs what is missing, as root on a system with apt. What stays missing is returned: tests that need it
/// say so themselves, and go on.
pub fn install(root: &Path) -> Vec<String> {
    let bin = folder(root);
    let mut rest = install_these(root, PEERS);
    if !compiles_for_32_bits(&bin) {
        if may_install(&bin) {
            let mut apt = Command::new("apt-get");
            apt.args(["install", "-qq", "--yes", "--no-install-recommends", "gcc-multilib"]);
            tell(must(apt.env("DEBIAN_FRONTEND", "noninteractive")));
        }
        if !compiles_for_32_bits(&bin) {
            rest.push("a compiler for 32-bit programs (package gcc-multilib)".to_owned());
        }
    }
    if find("drgn", &bin).is_none()
        && let Err(message) = install_drgn(root, &bin)
    {
        rest.push(format!("drgn (pip install drgn): {message}"));
    }
    rest
}

/// Installs what is missing of these programs, each with its package, and returns what stays missing.
pub fn install_these(root: &Path, programs: &[(&'static str, &'static str)]) -> Vec<String> {
    let bin = folder(root);
    let mut wanted = missing(programs, &bin);
    if !wanted.is_empty() && may_install(&bin) {
        let apt = |arguments: &[&str]| {
            let mut command = Command::new("apt-get");
            command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
            tell(must(&mut command));
        };
        apt(&["update", "-qq"]);
        let mut packages: Vec<&str> = wanted.iter().map(|(_, package)| *package).collect();
        packages.dedup();
        // One by one: a package that this system does not have must not keep the others out.
        for package in packages {
            apt(&["install", "-qq", "--yes", "--no-install-recommends", package]);
        }
        wanted = missing(programs, &bin);
    }
    wanted.into_iter().map(|(program, package)| format!("{program} (package {package})")).collect()
}

/// Whether the C compiler makes programs for 32-bit x86, of which there are tests too.
fn compiles_for_32_bits(bin: &Path) -> bool {
    let Some(cc) = find("cc", bin) else { return false };
    let mut child = match Command::new(cc)
        .args(["-m32", "-x", "c", "-fsyntax-only", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
    {
        Ok(child) => child,
        Err(_) => return false,
    };
    if let Some(mut program) = child.stdin.take() {
        // What it says of a program that it did not get is answer enough.
        let _ = program.write_all(b"#include <stdio.h>\nint main(void) { return puts(\"\") == 7; }\n");
    }
    child.wait().is_ok_and(|status| status.success())
}

fn missing(programs: &[(&'static str, &'static str)], bin: &Path) -> Vec<(&'static str, &'static str)> {
    programs.iter().copied().filter(|(program, _)| find(program, bin).is_none()).collect()
}

/// Whether this is root on a system with apt.
pub fn may_install(bin: &Path) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let is_root = status.lines().any(|line| line.starts_with("Uid:\t0\t0\t"));
    is_root && find("apt-get", bin).is_some()
}

/// Into a virtual environment below target, so that the system stays as it was.
fn install_drgn(root: &Path, bin: &Path) -> Result<(), String> {
    let python = find("python3", bin).ok_or("there is no python3")?;
    let environment = root.join("target").join("tools");
    let mut venv = Command::new(&python);
    venv.args(["-m", "venv"]).arg(&environment);
    if must(&mut venv).is_err() && may_install(bin) {
        let mut apt = Command::new("apt-get");
        must(apt.args(["install", "-qq", "--yes", "--no-install-recommends", "python3-venv"]))?;
        must(&mut venv)?;
    }
    must(Command::new(bin.join("pip")).args(["install", "--quiet", "--only-binary=:all:", "drgn"]))?;
    if find("drgn", bin).is_some() { Ok(()) } else { Err(format!("`{}` made none", show(&venv))) }
}

fn tell(done: Result<(), String>) {
    if let Err(message) = done {
        eprintln!("xtask: {message}");
    }
}
