//! Processes by name.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use super::identity::read_at;
use super::stat::{self, Stat};
use super::status;
use super::worker::Workers;
use crate::error::{Candidate, Error};
use crate::threads::Pid;

/// To read a command line takes the process' mmap_lock: one that is stuck must not hold up the search for another.
const PATIENCE: Duration = Duration::from_millis(500);

struct Seen {
    stat: Stat,
    exe: Option<Vec<u8>>,
    cmdline: Vec<u8>,
    uid: u32,
}

/// The one process with this name.
pub fn by_name(name: &str) -> Result<Pid, Error> {
    let own = Pid::try_from(std::process::id()).unwrap_or_default();
    let matches: Vec<Candidate> = all()?
        .into_iter()
        .filter(|(pid, seen)| *pid != own && is_named(seen, name.as_bytes()))
        .map(|(pid, seen)| seen.candidate(pid))
        .collect();
    match matches.as_slice() {
        [] => Err(Error::NoSuchProcess(name.to_owned())),
        [one] => Ok(one.pid),
        _ => Err(Error::Ambiguous { name: name.to_owned(), candidates: matches }),
    }
}

/// All processes that have memory.
pub fn list() -> Result<Vec<Candidate>, Error> {
    Ok(all()?.into_iter().map(|(pid, seen)| seen.candidate(pid)).collect())
}

impl Seen {
    fn candidate(self, pid: Pid) -> Candidate {
        let text = self.cmdline.strip_suffix(b"\0").unwrap_or(&self.cmdline);
        let text = if text.is_empty() { &self.stat.comm } else { text };
        let command = String::from_utf8_lossy(text).replace('\0', " ");
        Candidate { pid, uid: self.uid, command }
    }
}

fn all() -> Result<Vec<(Pid, Seen)>, Error> {
    let fail = |source: std::io::Error| Error::Os { action: "read /proc".into(), source };
    let folder = std::fs::read_dir("/proc").map_err(fail)?;
    let mut pids: Vec<Pid> = Vec::new();
    for entry in folder {
        pids.extend(entry.map_err(fail)?.file_name().to_str().and_then(|name| name.parse::<Pid>().ok()));
    }
    pids.sort_unstable();
    let workers = Workers::default();
    Ok(pids.into_iter().filter_map(|pid| Some((pid, look(&workers, pid)?))).collect())
}

/// What is seen of a process that has memory; nothing of others, or if it ends meanwhile.
fn look(workers: &Workers, pid: Pid) -> Option<Seen> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty()).ok()?;
    let read = |directory: BorrowedFd<'_>, name: &str| read_at(directory, name).ok();
    let stat = stat::parse(&read(directory.as_fd(), "stat")?)?;
    if stat.is_kernel_thread() || stat.is_dead() && !has_live_thread(pid) {
        return None;
    }
    let status = status::parse(&read(directory.as_fd(), "status")?)?;
    let exe = rustix::fs::readlinkat(&directory, "exe", Vec::new()).ok().map(|path| path.to_bytes().to_vec());
    let cmdline = workers.run(PATIENCE, move || read_at(directory.as_fd(), "cmdline").ok());
    Some(Seen { stat, exe, cmdline: cmdline.ok().flatten().unwrap_or_default(), uid: status.uid[1] })
}

/// Whether another thread lives on after the first one has exited.
fn has_live_thread(pid: Pid) -> bool {
    std::fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|threads| threads.count() > 1)
}

/// Whether this is the name of the process, of its program, or of what it was called as.
fn is_named(seen: &Seen, name: &[u8]) -> bool {
    let exe = seen.exe.as_deref().map(|path| path.strip_suffix(b" (deleted)").unwrap_or(path));
    let first = seen.cmdline.split(|&byte| byte == 0).next().unwrap_or_default();
    !name.is_empty()
        && (seen.stat.comm == name
            || exe.is_some_and(|exe| last_part(exe) == name)
            || last_part(first) == name)
}

fn last_part(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(comm: &str, exe: &str, cmdline: &str) -> Seen {
        let stat = Stat { comm: comm.into(), ..Stat::default() };
        Seen { stat, exe: Some(exe.into()), cmdline: cmdline.into(), uid: 0 }
    }

    #[test]
    fn a_name_is_one_of_three() {
        let redis = seen("worker-1", "/usr/bin/redis-server (deleted)", "bin/redis\0--port\0");
        for name in ["worker-1", "redis-server", "redis"] {
            assert!(is_named(&redis, name.as_bytes()), "{name}");
        }
        for name in ["", "--port", "worker", "usr", "redis-server (deleted)"] {
            assert!(!is_named(&redis, name.as_bytes()), "{name}");
        }
        assert_eq!(redis.candidate(7).command, "bin/redis --port");
        assert_eq!(seen("x", "", "").candidate(7).command, "x");
    }

    #[test]
    fn this_process_is_listed_and_kernel_threads_are_not() {
        let own = Pid::try_from(std::process::id()).unwrap();
        let list = list().unwrap();
        assert!(list.iter().any(|candidate| candidate.pid == own));
        assert!(!list.iter().any(|candidate| candidate.command == "kthreadd"));
    }
}
