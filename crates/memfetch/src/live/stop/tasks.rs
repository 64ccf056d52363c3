//! What `/proc` says about threads: who is there, how they stand to signals, where they are blocked.
//!
//! Everything goes by `/proc/PID/task/TID`, which works also where the first thread has exited.

use std::collections::HashMap;
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::{fs, io};

use super::super::stat;
use super::super::threads::blocked_call;
use crate::threads::{Accounting, BlockedCall, Pid, Tid};

/// A thread and the process that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Task {
    pub process: Pid,
    pub tid: Tid,
}

impl Task {
    /// Whether it is the first thread of its process.
    pub fn is_first(self) -> bool {
        self.process == self.tid
    }

    fn read(self, file: &str) -> io::Result<String> {
        // A name may be any bytes; none of the fields used here can be.
        let bytes = fs::read(format!("/proc/{}/task/{}/{file}", self.process, self.tid))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Its name.
    pub fn name(self) -> OsString {
        let mut name = fs::read(format!("/proc/{}/task/{}/comm", self.process, self.tid)).unwrap_or_default();
        if name.last() == Some(&b'\n') {
            name.pop();
        }
        OsString::from_vec(name)
    }

    /// Its signals and times.
    pub fn accounting(self) -> Accounting {
        let stat = self.read("stat").ok().and_then(|text| stat::parse(text.as_bytes()));
        let mut accounting = stat.map_or_else(Accounting::default, |stat| stat.times());
        if let Ok(status) = self.status() {
            accounting.pending = status.mask("SigPnd");
            accounting.blocked = status.mask("SigBlk");
        }
        accounting
    }

    /// Its state, the letter of proc(5); none where it is gone.
    pub fn state(self) -> Option<char> {
        let stat = self.read("stat").ok()?;
        stat.rsplit_once(')')?.1.trim_start().chars().next()
    }

    /// Its status file.
    pub fn status(self) -> io::Result<StatusFile> {
        self.read("status").map(|text| StatusFile::parse(&text))
    }

    /// The call that it is blocked in; none while it runs.
    pub fn blocked_call(self) -> Option<BlockedCall> {
        blocked_call(self.read("syscall").ok()?.as_bytes())
    }

    /// Whether it is in exec, and may have the lock of its process that PTRACE_SEIZE needs; none where it runs
    /// just now, be it in exec or not.
    fn is_in_exec(self) -> Option<bool> {
        // execve and execveat of x86-64, of i386, and of x32. What else 11 stands for (munmap) is soon over.
        const EXEC: [i64; 6] = [59, 322, 11, 358, 0x4000_0208, 0x4000_0221];
        match self.read("syscall") {
            Ok(text) if text.starts_with("running") => None,
            Ok(text) => Some(blocked_call(text.as_bytes()).is_some_and(|call| EXEC.contains(&call.number))),
            Err(_) => Some(false),
        }
    }

    /// Whether it is in a call that returns only when a child of it, to which it lent its memory, has called
    /// exec or exit.
    pub fn waits_for_vfork(self) -> bool {
        const CLONE_VFORK: u64 = 0x4000;
        let Some(BlockedCall { number, arguments: [first, ..], .. }) = self.blocked_call() else {
            return false;
        };
        match number {
            // clone
            56 => first & CLONE_VFORK != 0,
            // vfork
            58 => true,
            // clone3, whose flags are the first word of what it points to
            435 => self.word(first).is_some_and(|flags| flags & CLONE_VFORK != 0),
            _ => false,
        }
    }

    fn word(self, address: u64) -> Option<u64> {
        let mut word = [0; 8];
        let memory = fs::File::open(format!("/proc/{}/task/{}/mem", self.process, self.tid)).ok()?;
        memory.read_exact_at(&mut word, address).ok()?;
        Some(u64::from_ne_bytes(word))
    }

    /// Whether one of its descriptors is a socket.
    pub fn is_socket(self, descriptor: u64) -> bool {
        // The kernel takes the lower 32 bits of a descriptor argument.
        let path = format!("/proc/{}/task/{}/fd/{}", self.process, self.tid, descriptor as u32);
        fs::read_link(path).is_ok_and(|link| link.as_os_str().as_encoded_bytes().starts_with(b"socket:"))
    }
}

/// Whether one of these threads is in exec; where none sleeps there and some run, one that runs.
pub(super) fn exec_among(tasks: Vec<Task>) -> Result<bool, Task> {
    let mut running = None;
    for task in tasks {
        match task.is_in_exec() {
            Some(true) => return Ok(true),
            Some(false) => {}
            None => running = running.or(Some(task)),
        }
    }
    running.map_or(Ok(false), Err)
}

/// The threads of a process that are listed at this moment.
pub(super) fn threads_of(process: Pid) -> io::Result<Vec<Tid>> {
    numbers_in(Path::new(&format!("/proc/{process}/task")))
}

/// The processes that are listed at this moment.
pub(super) fn processes() -> io::Result<Vec<Pid>> {
    numbers_in(Path::new("/proc"))
}

fn numbers_in(folder: &Path) -> io::Result<Vec<i32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        if let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            numbers.push(number);
        }
    }
    Ok(numbers)
}

/// The number that the newest task of the machine got, as far as this process sees it: where it has not
/// changed, nobody was born.
pub(super) fn newest_task() -> Option<String> {
    Some(fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().last()?.to_owned())
}

/// Whether a thread is traced by this one.
pub(super) fn is_traced_by(task: Task, tracer: Tid) -> bool {
    task.status().is_ok_and(|status| status.get("TracerPid").and_then(|by| by.parse().ok()) == Some(tracer))
}

/// Another tracer that holds this thread, with its name.
pub(super) fn tracer_of(task: Task) -> Option<(Pid, String)> {
    let by: Pid = task.status().ok()?.get("TracerPid")?.parse().ok().filter(|by| *by > 0)?;
    // What is named is a thread; the process is wanted.
    let by = fs::read_to_string(format!("/proc/{by}/status"))
        .ok()
        .and_then(|status| StatusFile::parse(&status).get("Tgid")?.parse().ok())
        .unwrap_or(by);
    let name = fs::read(format!("/proc/{by}/comm")).unwrap_or_default();
    Some((by, String::from_utf8_lossy(&name).trim_end().to_owned()))
}

/// The lines of a `status` file.
pub(super) struct StatusFile(HashMap<String, String>);

impl StatusFile {
    fn parse(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        Self(lines.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect())
    }

    /// The value of a line.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    fn mask(&self, key: &str) -> u64 {
        self.get(key).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or_default()
    }

    /// Whether a signal would not even have woken this thread were it not traced: it is ignored, or nobody
    /// catches it and its default is to be ignored, or the process is an init, to which defaults do not apply.
    pub fn ignores(&self, signal: i32) -> bool {
        /// SIGCHLD, SIGCONT, SIGURG, SIGWINCH.
        const IGNORED_BY_DEFAULT: [i32; 4] = [17, 18, 23, 28];
        /// SIGKILL, SIGSTOP.
        const NEVER_IGNORED: [i32; 2] = [9, 19];
        let Ok(shift @ 0..64) = u32::try_from(signal - 1) else { return false };
        if NEVER_IGNORED.contains(&signal) {
            return false;
        }
        let bit = 1_u64 << shift;
        if self.mask("SigIgn") & bit != 0 {
            return true;
        }
        let is_init = self.get("NSpid").and_then(|pids| pids.split_whitespace().last()) == Some("1");
        self.mask("SigCgt") & bit == 0 && (is_init || IGNORED_BY_DEFAULT.contains(&signal))
    }

    /// Whether a signal that this thread takes ends its process.
    pub fn dies_of(&self, signal: i32) -> bool {
        /// SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU.
        const STOPS: RangeInclusive<i32> = 19..=22;
        let Ok(shift @ 0..64) = u32::try_from(signal - 1) else { return false };
        !self.ignores(signal) && self.mask("SigCgt") & 1 << shift == 0 && !STOPS.contains(&signal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_catches_is_ignored_only_where_that_is_its_default() {
        let status = |text: &str| StatusFile::parse(text);
        let plain = status("SigIgn:\t0000000000001000\nSigCgt:\t0000000008000200\nNSpid:\t44\n");
        for (signal, ignored) in [(13, true), (17, true), (28, false), (10, false), (15, false), (19, false)]
        {
            assert_eq!(plain.ignores(signal), ignored, "signal {signal}");
        }
        for (signal, dies) in
            [(13, false), (17, false), (28, false), (10, false), (15, true), (11, true), (20, false)]
        {
            assert_eq!(plain.dies_of(signal), dies, "signal {signal}");
        }
        let init = status("SigIgn:\t0\nSigCgt:\t4000\nNSpid:\t900\t1\n");
        assert!(init.ignores(10) && !init.ignores(15) && !init.ignores(9));
        assert!(!init.ignores(0) && !init.ignores(65) && !init.ignores(i32::MIN + 1));
    }
}
