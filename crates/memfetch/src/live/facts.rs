//! [`ProcessFacts`]: what the kernel tells of a process, beside its memory.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::target::Target;
use crate::error::Error;
use crate::memory::WordSize;
use crate::threads::Pid;

/// What the kernel tells of a process, as the notes of a core (`NT_PRPSINFO`, `NT_PRSTATUS`) need it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessFacts {
    /// Its number.
    pub pid: Pid,
    /// Its parent, 0 if that is outside of this PID namespace.
    pub ppid: Pid,
    /// Its process group.
    pub pgrp: Pid,
    /// Its session.
    pub session: Pid,
    /// The state letter of its first thread: `R`, `S`, `D`, `T`, `t`, `Z` ... (proc_pid_stat(5)).
    pub state: char,
    /// The nice value of its first thread.
    pub nice: i32,
    /// `PF_*` flags of its first thread.
    pub flags: u32,
    /// Real, effective, saved and file-system user.
    pub uid: [u32; 4],
    /// Real, effective, saved and file-system group.
    pub gid: [u32; 4],
    /// Its name (`comm`) now, at most 15 bytes.
    pub comm: OsString,
    /// Its arguments, each ended by a zero byte; empty where they cannot be seen.
    pub cmdline: Vec<u8>,
    /// Its program, in its own mount namespace, where that can be seen.
    pub exe: Option<PathBuf>,
    /// Which mappings a core of it should hold (core(5)); `None` where it cannot be seen.
    pub coredump_filter: Option<u64>,
    /// Who traces it.
    pub tracer: Option<Pid>,
    /// Its seccomp mode: 0 off, 1 strict, 2 filter.
    pub seccomp: u8,
    /// The width of its addresses.
    pub word: WordSize,
    /// Whether it is dumpable, as far as the owner of its files in `/proc` tells: nothing for root's processes.
    pub dumpable: Option<bool>,
}

/// Asks for the facts of a process.
pub fn of(target: &Target) -> Result<ProcessFacts, Error> {
    let identity = &target.identity;
    let fail = |error| identity.error("read the state", error);
    let stat = identity.stat().map_err(fail)?;
    let status = identity.status().map_err(fail)?;
    // Under the process' own name these are empty once the first thread has exited.
    let tid = identity.live_tid().map_err(fail)?;
    let of_live = |name: &str| identity.read(format!("task/{tid}/{name}")).ok();
    let filter = of_live("coredump_filter").or_else(|| identity.read("coredump_filter").ok());
    let exe = rustix::fs::readlinkat(identity.directory(), format!("task/{tid}/exe"), Vec::new());
    let owner = rustix::fs::statat(identity.directory(), "status", rustix::fs::AtFlags::empty());
    Ok(ProcessFacts {
        pid: identity.pid(),
        ppid: stat.ppid,
        pgrp: stat.pgrp,
        session: stat.session,
        state: char::from(stat.state),
        nice: stat.nice,
        flags: stat.flags,
        uid: status.uid,
        gid: status.gid,
        comm: OsStr::from_bytes(&stat.comm).to_owned(),
        cmdline: of_live("cmdline").unwrap_or_default(),
        exe: exe.ok().map(|path| OsStr::from_bytes(path.to_bytes()).into()),
        coredump_filter: filter.and_then(|text| hexadecimal(&text)),
        tracer: (status.tracer_pid > 0).then_some(status.tracer_pid),
        seccomp: status.seccomp,
        word: target.platform.word,
        dumpable: owner.ok().filter(|_| status.uid[1] != 0).map(|stat| stat.st_uid == status.uid[1]),
    })
}

fn hexadecimal(text: &[u8]) -> Option<u64> {
    u64::from_str_radix(str::from_utf8(text).ok()?.trim(), 16).ok()
}
