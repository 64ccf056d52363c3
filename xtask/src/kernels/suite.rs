//! What runs in the machine, and the first file system that it lies in.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::archive::Archive;
use super::packages::{self, Kernel};
use crate::run::{cargo, find, output, show};

const INIT: &[u8] = include_bytes!("init");
const MACHINE: &[u8] = include_bytes!("machine.sh");

/// Programs of the system that tests start, beside those of busybox.
const TOOLS: &[&str] = &["setpriv", "unshare", "true"];

/// Programs that tests start, and that cargo does not build with them.
const HELPERS: &[&str] = &["memfetch-target", "memfetch-freezer", "memfetch-injector"];

/// Whose tests they are, on the machine.
const ROOT: &str = "root";
const ORDINARY: &str = "1000";

/// A program of tests.
#[derive(Clone, Copy, Debug)]
pub struct Tests {
    package: &'static str,
    name: &'static str,
    user: &'static str,
    /// What libtest is told: parts of names, and which of them are left out.
    arguments: &'static str,
}

impl Tests {
    fn is_wanted(&self, names: &[&str]) -> bool {
        names.is_empty() || names.iter().any(|name| self.name.contains(name))
    }
}

const fn tests(package: &'static str, name: &'static str, user: &'static str) -> Tests {
    Tests { package, name, user, arguments: "" }
}

/// What each kernel runs: all that goes through the kernel's interfaces, and needs no program of others. Left out are
/// tests of files alone, those that only load the machine, and what counts on the speed of a real processor.
const MAIN: &[Tests] = &[
    tests("memfetch-sys", "memfetch_sys", ROOT),
    Tests { arguments: "live:: capture:: sink::", ..tests("memfetch", "memfetch", ROOT) },
    Tests { arguments: SLOW, ..tests("memfetch", "live", ROOT) },
    Tests { arguments: "states:: rules::", ..tests("memfetch", "live", ORDINARY) },
    Tests { arguments: SLOW_STOPS, ..tests("memfetch", "stop", ROOT) },
    Tests { arguments: "no_blocked_call_returns", ..tests("memfetch", "stop", ORDINARY) },
    Tests {
        arguments: "--skip thread_that_computes --skip thread_that_sleeps",
        ..tests("memfetch", "stop_signals", ORDINARY)
    },
    tests("memfetch", "stop_fault", ROOT),
    Tests { arguments: SLOW_IMAGES, ..tests("memfetch", "consistent", ROOT) },
    Tests { arguments: "--skip large", ..tests("memfetch", "instant", ROOT) },
    Tests { arguments: "meanwhile", ..tests("memfetch", "snapshot", ROOT) },
    Tests { arguments: "live::track", ..tests("memfetch", "memfetch", ORDINARY) },
    Tests { arguments: "--skip yama", ..tests("memfetch-cli", "gates", ROOT) },
    // The last: nobody may read anybody after it.
    Tests { arguments: "yama", ..tests("memfetch-cli", "gates", ROOT) },
];

/// The suite of holes at each offset, and the larger memories, which take minutes on an emulated processor.
const SLOW: &str =
    "--skip contract:: --skip harm::swapped --skip harm::memory_shared --skip a_target_that_maps_and_unmaps";

/// Without a stop nothing has to be shown, since a kernel makes no difference to that; and huge pages take long.
const SLOW_IMAGES: &str = "--skip live_ --skip huge --skip the_meter";

/// The one needs a time that it has here by luck only, the others run by themselves or take long.
const SLOW_STOPS: &str =
    "--skip exec_does_not_wait --skip no_blocked_call_returns --skip two_thousand_threads";

/// What is restricted by a boot parameter.
const FORCE: &[Tests] =
    &[Tests { arguments: "the_force_of_proc_mem", ..tests("memfetch-cli", "gates", ROOT) }];

/// One time that a kernel is booted.
#[derive(Clone, Copy, Debug)]
pub struct Boot {
    /// The name of its suite.
    pub suite: &'static str,
    /// Parameters for the kernel.
    pub parameters: &'static str,
    /// The only series that it is for, if there is one.
    pub series: Option<&'static str>,
}

impl Boot {
    /// Whether it is one of this series, with a test that has one of `names` in its name, if there are any.
    pub fn is_for(&self, series: &str, names: &[&str]) -> bool {
        let of_suite = SUITES.iter().filter(|(name, _)| *name == self.suite);
        self.series.is_none_or(|only| only == series)
            && of_suite.flat_map(|(_, suite)| *suite).any(|tests| tests.is_wanted(names))
    }
}

/// What each kernel is booted for.
pub const BOOTS: &[Boot] = &[
    Boot { suite: "main", parameters: "", series: None },
    // Since 6.12.
    Boot { suite: "force-ptrace", parameters: "proc_mem.force_override=ptrace", series: Some("6.12") },
    Boot { suite: "force-never", parameters: "proc_mem.force_override=never", series: Some("6.12") },
];

/// What a machine can be told to run, by name.
const SUITES: &[(&str, &[Tests])] = &[("main", MAIN), ("force-ptrace", FORCE), ("force-never", FORCE)];

/// A program of tests gets this long.
const LIMIT_SECONDS: u32 = 180;

/// Whether there are tests with this in their name.
pub fn has(part: &str) -> bool {
    SUITES.iter().any(|(_, suite)| suite.iter().any(|tests| tests.is_wanted(&[part])))
}

/// Whether a program needs others to be there.
pub fn is_dynamic(program: &Path) -> bool {
    let libraries = Command::new("ldd").arg(program).stderr(Stdio::null()).output();
    libraries
        .is_ok_and(|done| String::from_utf8_lossy(&done.stdout).lines().any(|line| library(line).is_some()))
}

/// The programs, built.
#[derive(Debug)]
pub struct Programs {
    built: Vec<(String, String, PathBuf)>,
    helpers: Vec<PathBuf>,
    tools: Vec<PathBuf>,
}

impl Programs {
    /// Builds the tests, as `cargo test` does, so that both share what is built.
    pub fn build(root: &Path, tools: &Path) -> Result<Self, String> {
        let mut command =
            cargo(root, &["test", "--workspace", "--no-run", "--message-format=json", "--quiet"]);
        eprintln!("+ {}", show(&command));
        let built = output(&mut command)?.lines().filter_map(executable).collect();
        for name in HELPERS {
            // As the tests themselves would.
            let arguments = ["build", "--quiet", "--package", "memfetch-testkit", "--bin", name];
            crate::run::must(&mut cargo(root, &arguments))?;
        }
        let profile = root.join("target").join("debug");
        let helpers = HELPERS.iter().chain(&["memfetch"]).map(|name| profile.join(name)).collect();
        let tools = TOOLS.iter().map(|tool| find(tool, tools).ok_or(format!("{tool} is not installed")));
        Ok(Self { built, helpers, tools: tools.collect::<Result<_, _>>()? })
    }

    fn path(&self, tests: &Tests) -> Result<&Path, String> {
        let is_it = |(package, name, _): &&(String, String, PathBuf)| {
            package.as_str() == tests.package && name.as_str() == tests.name
        };
        let found = self.built.iter().find(is_it).map(|(_, _, path)| path.as_path());
        found.ok_or_else(|| format!("cargo built no tests {} of {}", tests.name, tests.package))
    }

    /// Makes the disk of the machines: everything lies where it lies here, since paths are compiled in.
    /// Of the tests, only those whose program has one of `names` in its name, if there are any.
    pub fn disk(
        &self,
        root: &Path,
        names: &[&str],
        busybox: &Path,
        folder: &Path,
    ) -> Result<PathBuf, String> {
        let stage = Stage(folder.join("disk"));
        stage.file(Path::new("/bin/busybox"), &read(busybox)?)?;
        stage.file(Path::new("/machine"), MACHINE)?;
        for part in ["proc", "sys", "dev", "tmp"] {
            stage.folder(Path::new(part))?;
        }
        stage.folder(&root.join("crates").join("memfetch-testkit"))?;
        let mut programs: BTreeSet<&Path> = self.helpers.iter().map(PathBuf::as_path).collect();
        for (name, suite) in SUITES {
            let mut script = format!("export CARGO=true SETPRIV={}\n", self.tool("setpriv")?.display());
            for tests in suite.iter().filter(|tests| tests.is_wanted(names)) {
                let path = self.path(tests)?;
                programs.insert(path);
                let Tests { package, name, user, arguments } = tests;
                let as_user = if *user == ROOT { "" } else { " as an ordinary user" };
                let _ = writeln!(
                    script,
                    "program '{package}/{name}{as_user}' {LIMIT_SECONDS} {user} '{}' {arguments}",
                    path.display()
                );
            }
            stage.file(Path::new(name), script.as_bytes())?;
        }
        let mut libraries = BTreeSet::new();
        for path in programs.iter().copied().chain(self.tools.iter().map(PathBuf::as_path)) {
            stage.file(path, &stripped(path)?)?;
            libraries.extend(shared_libraries(path)?);
        }
        for library in libraries {
            stage.file(&library, &read(&library)?)?;
        }
        let image = folder.join("disk.ext4");
        let mut make = Command::new("mke2fs");
        make.args(["-q", "-t", "ext4", "-E", "root_owner=0:0", "-d"]).arg(&stage.0).arg(&image).arg("3G");
        // Where the shell of an ordinary user does not look.
        crate::run::must(make.env("PATH", crate::run::path_with(Path::new("/usr/sbin"))))?;
        Ok(image)
    }

    fn tool(&self, name: &str) -> Result<&Path, String> {
        let found = self.tools.iter().find(|path| path.ends_with(name));
        found.map(PathBuf::as_path).ok_or_else(|| format!("there is no {name}"))
    }
}

/// The first file system of a machine, from which it goes over to the disk.
pub fn first_files(busybox: &Path, kernel: &Kernel) -> Result<Vec<u8>, String> {
    let mut archive = Archive::default();
    archive.file(Path::new("/init"), INIT);
    archive.file(Path::new("/bin/busybox"), &read(busybox)?);
    for (number, module) in kernel.modules.iter().enumerate() {
        archive.file(Path::new(&format!("/modules/{number}")), &packages::module(module)?);
    }
    Ok(archive.into_bytes())
}

/// The files of the disk, before there is one.
struct Stage(PathBuf);

impl Stage {
    fn path(&self, path: &Path) -> PathBuf {
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn folder(&self, path: &Path) -> Result<(), String> {
        let path = self.path(path);
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn file(&self, path: &Path, contents: &[u8]) -> Result<(), String> {
        if let Some(folder) = path.parent() {
            self.folder(folder)?;
        }
        let path = self.path(path);
        let write = std::fs::write(&path, contents)
            .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)));
        write.map_err(|error| format!("{}: {error}", path.display()))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The program without what only debuggers need, which is most of it; as it is where there is no strip.
fn stripped(path: &Path) -> Result<Vec<u8>, String> {
    let strip = Command::new("strip")
        .args(["--strip-debug", "-o", "/dev/stdout"])
        .arg(path)
        .stderr(Stdio::null())
        .output();
    match strip {
        Ok(done) if done.status.success() && done.stdout.starts_with(b"\x7fELF") => Ok(done.stdout),
        _ => read(path),
    }
}

/// What a program is linked with, by ldd.
fn shared_libraries(path: &Path) -> Result<Vec<PathBuf>, String> {
    let text = output(Command::new("ldd").arg(path))?;
    Ok(text.lines().filter_map(library).collect())
}

/// The path in a line such as `libc.so.6 => /lib/libc.so.6 (0x7f...)` or `/lib64/ld-linux-x86-64.so.2 (0x7f...)`.
fn library(line: &str) -> Option<PathBuf> {
    let file = line.rsplit_once(" (")?.0;
    let path = file.rsplit_once(" => ").map_or(file, |(_, path)| path).trim();
    path.starts_with('/').then(|| PathBuf::from(path))
}

/// Package, name and path of an executable that a message of cargo tells of.
fn executable(message: &str) -> Option<(String, String, PathBuf)> {
    let path = field(message, "\"executable\":\"")?;
    // path+file:///folder/crates/NAME#VERSION
    let package = field(message, "\"package_id\":\"")?.rsplit_once('#')?.0.rsplit_once('/')?.1;
    let name = field(message, "\"name\":\"")?;
    // A program itself comes in the same messages as its tests.
    message
        .contains("\"test\":true},\"features\"")
        .then(|| (package.to_owned(), name.to_owned(), path.into()))
}

fn field<'a>(message: &'a str, key: &str) -> Option<&'a str> {
    message.split_once(key)?.1.split_once('"').map(|(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_of_a_program() {
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007ff5d0a21000)"), None);
        assert_eq!(library("\tlibc.so.6 => /lib/libc.so.6 (0x00007ff5)"), Some("/lib/libc.so.6".into()));
        assert_eq!(library("\t/lib64/ld.so.2 (0x00007ff5)"), Some("/lib64/ld.so.2".into()));
        assert_eq!(library("\tstatically linked"), None);
    }
}
