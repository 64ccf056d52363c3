//! The program by the name `gcore`, beside gdb's script.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use memfetch::{Image, Memory, PageState};
use memfetch_testkit::Target;
use memfetch_testkit::peers::{find, run};

fn gcore(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let link = folder.join("gcore");
    if !link.exists() {
        symlink(env!("CARGO_BIN_EXE_memfetch"), &link).unwrap();
    }
    told(run(Command::new(link).args(arguments).current_dir(folder), Duration::from_secs(60)))
}

fn told(output: Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn it_names_and_says_what_gdbs_script_does() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::spawn("private", &["1"]);
    let other = Target::spawn("private", &["1"]);
    let [pid, other_pid] = [target.pid().to_string(), other.pid().to_string()];
    let (code, out, err) = gcore(folder.path(), &[&pid]);
    assert_eq!((code, out, err.as_str()), (0, format!("Saved corefile core.{pid}\n"), ""));
    // It overwrites, and takes a prefix and several processes.
    std::fs::write(folder.path().join(format!("x.{pid}")), b"old").unwrap();
    let (code, out, _) = gcore(folder.path(), &["-a", "-o", "x", &pid, &other_pid]);
    assert_eq!((code, out), (0, format!("Saved corefile x.{pid}\nSaved corefile x.{other_pid}\n")));
    let saved = |name: String| {
        let pages = Image::open(folder.path().join(name)).unwrap().pages(memfetch::Span::ALL).unwrap();
        pages.bytes_where(|state| state == PageState::Resident)
    };
    assert!(saved(format!("x.{pid}")) > saved(format!("core.{pid}")), "`-a` takes everything");
    // The first that fails ends it.
    let (code, out, err) = gcore(folder.path(), &["-o", "y", "2147483647", &pid]);
    assert_eq!((code, out.as_str()), (1, "gcore: failed to create y.2147483647\n"));
    assert!(err.starts_with("Error: no process `2147483647`"), "{err}");
    assert!(!folder.path().join(format!("y.{pid}")).exists());
}

#[test]
fn usage_is_that_of_gdbs_script() {
    let folder = tempfile::tempdir().unwrap();
    let theirs = find("gcore", "the usage of gdb's gcore");
    for arguments in [&[][..], &["-a"], &["-x", "1"], &["--help"]] {
        let ours = gcore(folder.path(), arguments);
        assert_eq!((ours.0, ours.1.as_str()), (2, "usage:  gcore [-a] [-o prefix] pid1 [pid2...pidN]\n"));
        if let Some(theirs) = &theirs {
            let (code, out, _) = told(run(Command::new(theirs).args(arguments), Duration::from_secs(60)));
            // Newer ones know more options.
            if out.starts_with("usage:  gcore [-a] [-o prefix] pid1") {
                assert_eq!((ours.0, ours.1), (code, out));
            }
        }
    }
}
