//! [`Identity`]: one process and never another, whatever becomes of its number.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use memfetch_sys::process;
use rustix::fs::{Mode, OFlags};

use super::stat::{self, Stat};
use super::{refusal, status};
use crate::error::{Error, Refusal};
use crate::threads::{Pid, Tid};

/// A process by descriptors: a pidfd and its `/proc` directory, which belong to it alone.
#[derive(Debug)]
pub struct Identity {
    pid: Pid,
    pidfd: OwnedFd,
    directory: OwnedFd,
    start_ticks: u64,
    comm: Vec<u8>,
}

impl Identity {
    /// Takes hold of the process that has this number now.
    ///
    /// The pidfd first, then the directory, then a look whether the process behind the pidfd still lives: its
    /// number cannot have passed on to another before that, so that both name the same one.
    pub fn open(pid: Pid) -> Result<Self, Error> {
        let missing = || Error::NoSuchProcess(pid.to_string());
        let pidfd = process::pidfd_open(pid).map_err(|error| match error.raw_os_error() {
            // The number of a thread that is not the first of its process is EINVAL, or ENOENT since 6.9.
            Some(libc_errno::ESRCH | libc_errno::EINVAL | libc_errno::ENOENT) => missing(),
            _ => Error::Os { action: format!("open a descriptor for process {pid}"), source: error },
        })?;
        let directory = rustix::fs::open(
            format!("/proc/{pid}"),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let has_ended = || process::has_ended(pidfd.as_fd(), Duration::ZERO).unwrap_or(true);
        let directory = match directory {
            Ok(directory) => directory,
            Err(_) if has_ended() => return Err(missing()),
            Err(error) => {
                let source = io::Error::from(error);
                return Err(Error::Refused { pid, action: "see the files", reason: Refusal::Hidden, source });
            }
        };
        let ended = has_ended();
        let text = read_at(directory.as_fd(), "stat").map_err(|_| missing())?;
        let stat = stat::parse(&text).ok_or_else(|| Error::Os {
            action: format!("understand /proc/{pid}/stat"),
            source: io::ErrorKind::InvalidData.into(),
        })?;
        if stat.is_kernel_thread() {
            return Err(Error::NoMemory { pid, kind: "a kernel thread" });
        }
        if ended {
            return Err(Error::NoMemory { pid, kind: "a zombie" });
        }
        Ok(Self { pid, pidfd, directory, start_ticks: stat.start_ticks, comm: stat.comm })
    }

    pub const fn pid(&self) -> Pid {
        self.pid
    }

    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    pub const fn start_ticks(&self) -> u64 {
        self.start_ticks
    }

    pub fn comm(&self) -> &OsStr {
        OsStr::from_bytes(&self.comm)
    }

    /// Whether all its threads have ended, waiting a little for it.
    pub fn has_ended(&self, wait: Duration) -> bool {
        process::has_ended(self.pidfd(), wait).unwrap_or(false)
    }

    /// Opens a file below the process' directory for reading.
    pub fn open_file(&self, name: impl AsRef<Path>) -> io::Result<OwnedFd> {
        open_at(self.directory(), name.as_ref())
    }

    /// Reads a file below the process' directory.
    pub fn read(&self, name: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        read_at(self.directory(), name)
    }

    /// Reads `stat` of the first thread.
    pub fn stat(&self) -> io::Result<Stat> {
        stat::parse(&self.read("stat")?).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Reads `stat` of a thread.
    pub fn thread_stat(&self, tid: Tid) -> io::Result<Stat> {
        stat::parse(&self.read(format!("task/{tid}/stat"))?).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Reads `status` of the first thread.
    pub fn status(&self) -> io::Result<status::Status> {
        status::parse(&self.read("status")?).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The numbers of its threads, ascending.
    pub fn tids(&self) -> io::Result<Vec<Tid>> {
        let folder = rustix::fs::openat(
            self.directory(),
            "task",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut tids = Vec::new();
        for entry in rustix::fs::Dir::read_from(folder)? {
            tids.extend(entry?.file_name().to_str().ok().and_then(|name| name.parse::<Tid>().ok()));
        }
        tids.sort_unstable();
        Ok(tids)
    }

    /// A thread that still has the process' memory: the first one, unless that has exited before the others,
    /// which leaves an empty `maps` and `ESRCH` under the process' own name.
    pub fn live_tid(&self) -> io::Result<Tid> {
        if !self.stat()?.is_exiting() {
            return Ok(self.pid);
        }
        let live = |tid: &Tid| self.thread_stat(*tid).is_ok_and(|stat| !stat.is_exiting());
        self.tids()?.into_iter().find(live).ok_or_else(|| io::Error::from_raw_os_error(libc_errno::ESRCH))
    }

    /// Says what a failed call on the process as a whole means.
    pub fn error(&self, action: &'static str, source: io::Error) -> Error {
        let pid = self.pid;
        match source.raw_os_error() {
            Some(libc_errno::ESRCH | libc_errno::ENOENT) => Error::Ended { pid },
            Some(libc_errno::EACCES | libc_errno::EPERM) => {
                let reason = refusal::diagnose(self, action);
                Error::Refused { pid, action, reason, source }
            }
            _ => Error::Os { action: format!("{action} of process {pid}"), source },
        }
    }
}

/// The errno values that this module tells apart.
pub mod libc_errno {
    use rustix::io::Errno;

    pub const EPERM: i32 = Errno::PERM.raw_os_error();
    pub const ENOENT: i32 = Errno::NOENT.raw_os_error();
    pub const ESRCH: i32 = Errno::SRCH.raw_os_error();
    pub const EIO: i32 = Errno::IO.raw_os_error();
    pub const EACCES: i32 = Errno::ACCESS.raw_os_error();
    pub const EFAULT: i32 = Errno::FAULT.raw_os_error();
    pub const EINVAL: i32 = Errno::INVAL.raw_os_error();
    pub const ENOTTY: i32 = Errno::NOTTY.raw_os_error();
    pub const ENOSYS: i32 = Errno::NOSYS.raw_os_error();
}

pub fn open_at(directory: BorrowedFd<'_>, name: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(directory, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

pub fn read_at(directory: BorrowedFd<'_>, name: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    // Files of /proc have no size to go by, and a read that starts small asks the kernel many times.
    let mut text = Vec::with_capacity(64 << 10);
    std::fs::File::from(open_at(directory, name.as_ref())?).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_but_that_of_a_process() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(Identity::open(own).unwrap().live_tid().unwrap(), own);
        for nobody in [0, -1, i32::MIN, i32::MAX] {
            assert!(matches!(Identity::open(nobody), Err(Error::NoSuchProcess(_))), "{nobody}");
        }
        // The number of a thread is not that of a process.
        std::thread::spawn(move || {
            let tid = rustix::thread::gettid().as_raw_nonzero().get();
            assert!(matches!(Identity::open(tid), Err(Error::NoSuchProcess(_))));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn zombies_and_kernel_threads_have_no_memory() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let pidfd = process::pidfd_open(pid).unwrap();
        assert!(process::has_ended(pidfd.as_fd(), Duration::from_secs(10)).unwrap());
        assert!(matches!(Identity::open(pid), Err(Error::NoMemory { kind: "a zombie", .. })));
        child.wait().unwrap();
        assert!(matches!(Identity::open(pid), Err(Error::NoSuchProcess(_))));
        if std::fs::read("/proc/2/comm").is_ok_and(|comm| comm == b"kthreadd\n") {
            assert!(matches!(Identity::open(2), Err(Error::NoMemory { kind: "a kernel thread", .. })));
        }
    }

    #[test]
    fn what_was_opened_stays_dead_when_it_ends() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let identity = Identity::open(i32::try_from(child.id()).unwrap()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(identity.has_ended(Duration::ZERO));
        // Even if the number were given away at once, the directory stays that of the dead process.
        let error = identity.stat().unwrap_err();
        assert!(matches!(identity.error("read the state", error), Error::Ended { .. }));
    }
}
