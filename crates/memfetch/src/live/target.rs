//! [`Target`]: the descriptors of one address space, and the calls on it that may block.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use memfetch_sys::{pagemap, process};

use super::files::BackingFiles;
use super::identity::Identity;
use super::worker::Workers;
use crate::address::Span;
use crate::error::Error;
use crate::maps;
use crate::memory::Platform;
use crate::region::RegionMap;
use crate::threads::Tid;

/// A process, and the address space that it had when it was opened.
#[derive(Debug)]
pub struct Target {
    pub identity: Identity,
    pub platform: Platform,
    pub files: BackingFiles,
    pub workers: Workers,
    /// Buffers that workers filled, to be used again: new ones would be paged in each time.
    pub buffers: Mutex<Vec<Vec<u8>>>,
    /// How page states are asked for: see [`super::scan`].
    pub scan_method: AtomicU8,
    /// process_vm_readv(2) is missing, or refused, or would go to the wrong address space.
    pub no_vm_readv: AtomicBool,
    /// Bytes that reads brought in from swap and could not send back, beside those that are tried again.
    pub left_in_ram: AtomicU64,
    /// What was brought in from swap and could not be sent back yet.
    pub staying: Mutex<Vec<Span>>,
    /// The last map that was read to see what has gone, if that was needed.
    pub latest_map: Mutex<Option<RegionMap>>,
    pagemap: OwnedFd,
    mem: OnceLock<OwnedFd>,
}

impl Target {
    /// Opens the address space that the process has now.
    pub fn open(identity: Identity) -> Result<Self, Error> {
        let tid = identity.live_tid().map_err(|error| identity.error("read the state", error))?;
        let pagemap = identity
            .open_file(format!("task/{tid}/pagemap"))
            .map_err(|error| identity.error("read the map", error))?;
        if !pagemap::is_live(pagemap.as_fd()) {
            // It is being taken down, and its pidfd does not know yet.
            return Err(Error::Ended { pid: identity.pid() });
        }
        let platform = if is_32_bit(&identity) { Platform::I386 } else { Platform::X86_64 };
        // A child that has not yet called exec after vfork runs in its parent's memory, which lives on when the
        // child's own number stands for another. process_vm_readv goes by the number, the descriptors do not.
        let parent = identity.stat().map_or(0, |stat| stat.ppid);
        let shared = parent > 0 && process::share_memory(parent, identity.pid()).unwrap_or(false);
        // The same for a first thread that has exited: its number has no memory.
        let by_number = tid == identity.pid() && !shared;
        Ok(Self {
            identity,
            platform,
            files: BackingFiles::default(),
            workers: Workers::default(),
            buffers: Mutex::default(),
            scan_method: AtomicU8::new(0),
            no_vm_readv: AtomicBool::new(!by_number),
            left_in_ram: AtomicU64::new(0),
            staying: Mutex::default(),
            latest_map: Mutex::new(None),
            pagemap,
            mem: OnceLock::new(),
        })
    }

    pub fn pagemap(&self) -> BorrowedFd<'_> {
        self.pagemap.as_fd()
    }

    /// `/proc/PID/mem`, opened on first use: it needs the right to attach, which looking at the map does not.
    pub fn mem(&self) -> Result<BorrowedFd<'_>, Error> {
        if let Some(mem) = self.mem.get() {
            return Ok(mem.as_fd());
        }
        let open = |tid: Tid| self.identity.open_file(format!("task/{tid}/mem"));
        let mem =
            self.identity.live_tid().and_then(open).map_err(|error| self.error("read the memory", error))?;
        // Bound to the address space of this moment: only if that of `pagemap` still lives is it the same one.
        self.check()?;
        Ok(self.mem.get_or_init(|| mem).as_fd())
    }

    /// Whether the address space that was opened is still there.
    ///
    /// This takes no lock of the target's.
    pub fn check(&self) -> Result<(), Error> {
        if pagemap::is_live(self.pagemap()) && !self.identity.has_ended(Duration::ZERO) {
            return Ok(());
        }
        Err(self.lost())
    }

    /// What became of an address space that is gone.
    pub fn lost(&self) -> Error {
        let pid = self.identity.pid();
        let live_thread = || self.identity.live_tid().is_ok();
        // Memory goes before the process is seen to end, so give it a moment, unless all its threads are exiting.
        if self.identity.has_ended(Duration::ZERO)
            || !live_thread()
            || self.identity.has_ended(Duration::from_millis(20))
            || !live_thread()
        {
            return Error::Ended { pid };
        }
        Error::Replaced { pid }
    }

    /// Says what a failed call means: the end of the target goes before all else.
    pub fn error(&self, action: &'static str, source: io::Error) -> Error {
        self.check().err().unwrap_or_else(|| self.identity.error(action, source))
    }

    /// Reads the map.
    pub fn regions(&self) -> Result<RegionMap, Error> {
        let read = |error| self.error("read the map", error);
        let mut text = self.identity.read("maps").map_err(read)?;
        if text.is_empty() {
            let tid = self.identity.live_tid().map_err(read)?;
            text = self.identity.read(format!("task/{tid}/maps")).map_err(read)?;
        }
        // The file belongs to the address space of the moment of its opening.
        self.check()?;
        maps::parse(&text).map_err(|error| Error::Os {
            action: format!("understand the map of process {}", self.identity.pid()),
            source: io::Error::new(io::ErrorKind::InvalidData, error),
        })
    }
}

/// Whether the program is a 32-bit one, by the header of its file.
fn is_32_bit(identity: &Identity) -> bool {
    let mut header = [0_u8; 5];
    let read = identity.open_file("exe").and_then(|exe| Ok(rustix::io::pread(exe, &mut header[..], 0)?));
    read.is_ok_and(|read| read == header.len()) && header == *b"\x7fELF\x01"
}
