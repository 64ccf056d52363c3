//! memfetch by the name `gcore`: the same names, words and exit codes as gdb's script.
//!
//! Exit codes: 0 all are saved, 1 one could not be, and those behind it were not tried, 2 usage. As with gdb, what could
//! not be read is a warning: the core says which bytes these are.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::PathBuf;

use memfetch::image::record::Contents;
use memfetch::{Error, ModeChoice, Process, Snapshot};

use crate::args::gcore::{GcoreArgs, USAGE};
use crate::ending::Ending;
use crate::failure::Failure;
use crate::report::{print, report};
use crate::summary;
use crate::text::printable;

/// Saves a core of each process, up to the first that cannot be saved.
pub fn run(args: Option<&GcoreArgs>) -> Result<Ending, Failure> {
    let Some(args) = args else {
        print(&format!("{USAGE}\n"))?;
        return Ok(Ending::Error);
    };
    for pid in &args.pids {
        let path = name_of(&args.prefix, pid);
        let shown = printable(path.as_os_str());
        if let Err(failure) = save(args, pid, &path) {
            report(&failure);
            print(&format!("gcore: failed to create {shown}\n"))?;
            return Ok(Ending::Different);
        }
        print(&format!("Saved corefile {shown}\n"))?;
    }
    Ok(Ending::Done)
}

/// `PREFIX.PID`.
fn name_of(prefix: &OsStr, pid: &OsStr) -> PathBuf {
    let mut name = OsString::from(prefix);
    name.push(".");
    name.push(pid);
    name.into()
}

fn save(args: &GcoreArgs, pid: &OsStr, path: &std::path::Path) -> Result<(), Failure> {
    let number = pid.to_str().and_then(|text| text.parse().ok());
    let number = number.ok_or_else(|| Error::NoSuchProcess(pid.to_string_lossy().into_owned()))?;
    let process = Process::open(number)?;
    // gdb attaches or fails: a core without registers is not what is meant by a gcore.
    let report = Snapshot::of(&process)
        .mode(ModeChoice::Freeze)
        .contents(if args.all { Contents::Full } else { Contents::Default })
        .replace(true)
        .write_core(path)?;
    let gaps = summary::gaps(&report.outcome.gaps);
    if !gaps.is_empty() {
        let _ = write!(io::stderr(), "warning: not all of it could be read\n{gaps}");
    }
    Ok(())
}
