//! `memfetch snap`.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime};

use memfetch::{Connection, Memory, ModeChoice, Process, Report, Snapshot};

use crate::args::ModeWord;
use crate::ending::Ending;
use crate::failure::Failure;
use crate::json;
use crate::plan::{Output, Shape, Snap, Telling};
use crate::progress::Bar;
use crate::report::{print, print_bytes, report};
use crate::stdout::Stdout;
use crate::template::{Facts, Template};
use crate::text::printable;
use crate::{source, summary};

/// How long a peer may take to connect, and for each next byte, where nothing else is said.
const PEER_LIMIT: Duration = Duration::from_secs(10);

/// Takes a snapshot of each process; one that fails does not stop the others.
pub fn run(plan: &Snap) -> Result<Ending, Failure> {
    let mut worst = Ending::Done;
    for word in &plan.sources {
        match snap(word, plan) {
            Ok(ending) => worst = worst.max(ending),
            Err(failure) => worst = worst.max(report(&failure)),
        }
    }
    Ok(worst)
}

fn snap(word: &OsStr, plan: &Snap) -> Result<Ending, Failure> {
    let mut process = source::process(word)?;
    if plan.time_limit.is_some() {
        process = process.with_time_limit(plan.time_limit);
    }
    // Later mappings may hold it where the snapshot is taken later.
    if let Some(at) = plan.address.filter(|_| !plan.at_fault)
        && process.regions()?.at(at).is_none()
    {
        let _ = writeln!(io::stderr(), "no mapping of process {} holds {at}", process.pid());
        return Ok(Ending::Different);
    }
    if plan.at_fault && plan.telling == Telling::Summary {
        let name = printable(process.name());
        let _ = writeln!(io::stderr(), "waiting for a fault signal in process {} ({name})", process.pid());
    }
    let report = take(&process, plan)?;
    if plan.shows_index {
        print_bytes(&report.index)?;
    }
    let peer = match &plan.output {
        Output::Tcp(endpoint) => Some(format!("tcp://{endpoint}")),
        Output::Files(_) | Output::Stdout => None,
    };
    let told = summary::Snapshot { name: process.name(), peer: peer.as_deref(), report: &report };
    tell(&told, plan)?;
    Ok(if report.outcome.gaps.is_empty() { Ending::Done } else { Ending::Gaps })
}

fn take(process: &Process, plan: &Snap) -> Result<Report, Failure> {
    let label = format!("{} ({})", process.pid(), printable(process.name()));
    let bar = Bar::new(plan.telling == Telling::Summary, label);
    let mut snapshot = Snapshot::of(process)
        .mode(match plan.mode {
            ModeWord::Auto => ModeChoice::Auto,
            ModeWord::Instant => ModeChoice::Instant,
            ModeWord::Freeze => ModeChoice::Freeze,
            ModeWord::Live => ModeChoice::Live,
        })
        .max_pause(plan.max_pause)
        .sharing(plan.sharing)
        .tracker(plan.tracker)
        .spool_directory(std::env::temp_dir())
        .contents(plan.contents)
        .touch(plan.touch)
        .selection(plan.selection.clone())
        .replace(plan.overwrite)
        .at_fault(plan.at_fault)
        .progress(|progress| bar.update(progress.done_bytes, progress.total_bytes));
    if let Some(bytes) = plan.max_apparent_size {
        snapshot = snapshot.max_apparent_size(bytes);
    }
    if let Some(limit) = plan.time_limit {
        snapshot = snapshot.time_limit(Some(limit));
    }
    if let Some(template) = &plan.index {
        snapshot = snapshot.index_file(file_name(template, process));
    }
    let path = match &plan.output {
        Output::Files(template) => file_name(template, process),
        Output::Stdout => {
            // Not through the standard library's handle, which looks for newlines in what it is given.
            let mut stdout = Stdout::new(File::from(io::stdout().as_fd().try_clone_to_owned()?))?;
            return Ok(match plan.shape {
                Shape::Raw => snapshot.write_raw_to(&mut stdout)?,
                Shape::Core | Shape::Directory { .. } => snapshot.write_core_to(&mut stdout)?,
            });
        }
        Output::Tcp(endpoint) => {
            // Before the process is stopped: a peer that is not there should not cost it a pause.
            let peer = Connection::open(endpoint, Some(plan.time_limit.unwrap_or(PEER_LIMIT)))?;
            return Ok(peer.send(|to| match plan.shape {
                Shape::Raw => snapshot.write_raw_to(to),
                Shape::Core | Shape::Directory { .. } => snapshot.write_core_to(to),
            })?);
        }
    };
    Ok(match plan.shape {
        Shape::Core => snapshot.write_core(path)?,
        Shape::Directory { classic } => snapshot.classic(classic).write_directory(path)?,
        Shape::Raw => snapshot.write_raw(path)?,
    })
}

fn file_name(template: &Template, process: &Process) -> std::path::PathBuf {
    let system = rustix::system::uname();
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    template.name_for(Facts {
        pid: process.pid(),
        name: process.name(),
        host: OsStr::from_bytes(system.nodename().to_bytes()),
        time: since_1970.as_secs(),
    })
}

/// Standard output is for the core or the index where one goes there, and else for JSON.
fn tell(told: &summary::Snapshot<'_>, plan: &Snap) -> Result<(), Failure> {
    let text = match plan.telling {
        Telling::Nothing => return Ok(()),
        Telling::Summary => told.paragraph(),
        Telling::Json => json::line(told)?,
    };
    if plan.telling == Telling::Json && plan.output != Output::Stdout && !plan.shows_index {
        print(&text)?;
    } else {
        // The snapshot is taken and safe, whether anybody listens or not.
        let _ = io::stderr().write_all(text.as_bytes());
    }
    Ok(())
}
