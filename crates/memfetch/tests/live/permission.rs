//! What other users may do.

use std::process::Command;

use memfetch::Error;
use memfetch::error::Refusal;

use super::*;

const NOBODY: &str = "65534";

/// Runs one test of this program again as an ordinary user, with an argument in its environment.
fn as_nobody(test: &str, argument: &str) -> bool {
    // The folder of the build may not be open to others.
    let folder =
        tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir();
    let folder = folder.unwrap();
    let program = folder.path().join("test");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]).arg(program);
    command.args(["--exact", "--ignored", "--nocapture", test]).env("MEMFETCH_TEST_PID", argument);
    let output = command.current_dir("/").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text.contains("1 passed")
}

fn argument() -> i32 {
    std::env::var("MEMFETCH_TEST_PID").unwrap().parse().unwrap()
}

fn spawn_as_nobody(role: &str, arguments: &[&str]) -> (tempfile::TempDir, Target) {
    let folder =
        tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir();
    let folder = folder.unwrap();
    let program = folder.path().join("memfetch-target");
    std::fs::copy(memfetch_testkit::target::program(), &program).unwrap();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"])
        .arg(program)
        .arg(role)
        .args(arguments);
    (folder, Target::spawn_command(command))
}

#[test]
fn a_process_of_another_user_is_refused_by_that_name() {
    if !needs("root, to become another user", is_root()) {
        return;
    }
    let target = Target::spawn("private", &["1"]);
    assert!(as_nobody("permission::refused_as_other_user", &target.pid().to_string()));
}

#[test]
#[ignore = "run by another test, as an ordinary user"]
fn refused_as_other_user() {
    let error = Process::open(argument()).unwrap_err();
    let is_right = matches!(error, Error::Refused { reason: Refusal::OtherUser { uid: 0 }, .. });
    assert!(is_right, "{error:?}");
    assert!(
        Process::list().unwrap().iter().any(|candidate| candidate.pid == argument() && candidate.uid == 0)
    );
}

#[test]
fn an_ordinary_user_reads_processes_of_its_own() {
    if !needs("root, to become another user", is_root()) {
        return;
    }
    let (_folder, mut target) = spawn_as_nobody("private", &["4"]);
    target.ask("nothing");
    assert!(as_nobody("permission::read_as_owner", &target.pid().to_string()));
}

#[test]
#[ignore = "run by another test, as an ordinary user"]
fn read_as_owner() {
    let process = Process::open(argument()).unwrap();
    let regions = process.regions().unwrap();
    let before = memfetch_testkit::target::status_of(process.pid(), "VmRSS");
    let mut unreadable = Vec::new();
    let mut total = 0;
    for region in &regions {
        for run in &process.pages(region.span).unwrap() {
            if run.state.refusal().is_some() {
                unreadable.push(region.name());
                continue;
            }
            total += read_all(&process, run.span).len();
        }
    }
    assert!(total > 4 << 20);
    unreadable.retain(|name| !name.to_string_lossy().starts_with("[v"));
    assert_eq!(unreadable, [""; 0].map(std::ffi::OsString::from));
    assert_eq!(memfetch_testkit::target::status_of(process.pid(), "VmRSS"), before);
}

#[test]
fn an_ordinary_user_reads_more_memfds_than_are_kept_open() {
    if !needs("root, to become another user", is_root()) {
        return;
    }
    let (_folder, target) = spawn_as_nobody("many-memfds", &["1500"]);
    let span = span_of(&target);
    let argument = format!("{} {:#x} {}", target.pid(), span.start().get(), span.len());
    assert!(as_nobody("permission::read_many_memfds", &argument));
}

#[test]
#[ignore = "run by another test, as an ordinary user"]
fn read_many_memfds() {
    let argument = std::env::var("MEMFETCH_TEST_PID").unwrap();
    let words: Vec<&str> = argument.split(' ').collect();
    let [pid, start, len] = words[..] else { panic!("{argument}") };
    let start = u64::from_str_radix(start.trim_start_matches("0x"), 16).unwrap();
    let span = Span::from_len(Address::new(start), len.parse().unwrap()).unwrap();
    let process = Process::open(pid.parse().unwrap()).unwrap();
    assert_same(&read_all(&process, span), &addresses(span));
    let states = process.pages(span).unwrap();
    assert_eq!(states.bytes_where(|state| state == PageState::Resident), span.len());
}
