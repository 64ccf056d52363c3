//! [`gather`]: hold the process still as far as the mode says, and learn all about it but its bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::instant::{Backing, Course, Spool};
use super::{ModeChoice, word};
use crate::address::Address;
use crate::error::{Error, StopError};
use crate::image::encode::notes::{NT_PRSTATUS, NT_X86_XSTATE, ProcessRecord};
use crate::image::encode::xstate::{Component, standard_layout};
use crate::image::record::Mode;
use crate::live::stop::{FreezeOptions, Frozen, StopReport, freeze};
use crate::live::{Process, ProcessFacts};
use crate::memory::{Memory, PageRuns, PageState, Platform, ReadError, WordSize};
use crate::region::{Region, RegionMap};
use crate::source::{PageSource, Source};
use crate::threads::{Registers, Thread, Threads};

/// Everything about a process but its bytes. While this lives, the process is held as the mode says.
pub(crate) struct Gathered {
    pub process: Process,
    pub platform: Platform,
    pub mode: Mode,
    pub facts: ProcessFacts,
    pub record: ProcessRecord,
    pub threads: Vec<Thread>,
    pub map: Arc<RegionMap>,
    pub pages: PageRuns,
    pub started_ns: u64,
    pub remarks: Vec<String>,
    pub hold: Arc<Hold>,
    /// The bytes, where they have been copied already.
    pub spooled: Option<Spooled>,
    /// Which regions were found to begin with an ELF header, or not.
    pub elf_headers: ElfHeaders,
}

/// By the start of a region, and the region that was looked into.
pub(crate) type ElfHeaders = Mutex<HashMap<Address, (Region, bool)>>;

/// Memory that was copied before it is written to its output.
pub(crate) struct Spooled {
    pub spool: Arc<Spool>,
    pub course: Course,
    /// The file that most of it is in, if it is large.
    pub backing: Option<Backing>,
}

/// The hold on a stopped process. It can be let go from any thread: who copies may be stuck just then.
#[derive(Default)]
pub(crate) struct Hold {
    frozen: Mutex<Option<Frozen>>,
    report: Mutex<Option<StopReport>>,
}

impl Hold {
    /// Lets the process run on, if it was stopped and is still held; returns whether it was.
    pub(crate) fn let_go(&self) -> bool {
        let frozen = self.frozen.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(frozen) = frozen else { return false };
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = Some(frozen.resume());
        true
    }

    /// Whether the process is held.
    pub(crate) fn is_held(&self) -> bool {
        self.frozen.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// What the stop cost, once the process has been let go.
    pub(crate) fn report(&self) -> Option<StopReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Gathered {
    /// Has the bytes come from a copy from here on.
    pub(crate) fn take_spool(&mut self, spool: Spool, course: Course, backing: Option<Backing>) {
        self.mode = Mode::Instant;
        self.spooled = Some(Spooled { spool: Arc::new(spool), course, backing });
    }

    /// Where the bytes come from.
    pub(crate) fn bytes(&self) -> Bytes {
        match &self.spooled {
            Some(spooled) => Bytes::Spooled(Arc::clone(&spooled.spool)),
            None => Bytes::Live(self.process.clone()),
        }
    }

    /// Reads a few bytes of a page in this state, within the time limit.
    pub(crate) fn peek(
        &self,
        region: &Region,
        state: PageState,
        at: Address,
        len: usize,
    ) -> Result<Vec<u8>, ReadError> {
        let Some(spooled) = &self.spooled else { return self.process.peek(region, state, at, len) };
        let mut bytes = vec![0; len];
        let read = spooled.spool.fetch(region, state, at, &mut bytes)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Where the stacks of the threads are in use, as far as their registers are known.
    pub(crate) fn stack_pointers(&self) -> Vec<Address> {
        self.threads.iter().filter_map(|thread| stack_pointer(self.platform.word, thread)).collect()
    }
}

/// What the bytes of an image are read from.
pub(crate) enum Bytes {
    Live(Process),
    Spooled(Arc<Spool>),
}

impl PageSource for Bytes {
    fn fetch(
        &self,
        region: &Region,
        state: PageState,
        at: Address,
        buf: &mut [u8],
    ) -> Result<usize, ReadError> {
        match self {
            Self::Live(process) => process.fetch(region, state, at, buf),
            Self::Spooled(spool) => spool.fetch(region, state, at, buf),
        }
    }

    fn touch(&self, region: &Region, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        match self {
            Self::Live(process) => process.touch(region, at, buf),
            Self::Spooled(spool) => spool.touch(region, at, buf),
        }
    }
}

/// Waits until a thread of the process is about to take a fault signal, and gathers it as it is then.
pub(crate) fn gather_at_fault(process: &Process) -> Result<Gathered, Error> {
    let frozen = stop(process, true)?;
    let process = match process.check() {
        // By exec it became another program since, which is the one that met the fault.
        Err(Error::Replaced { pid }) => Process::open(pid)?,
        checked => checked.map(|()| process.clone())?,
    };
    let started_ns = now_ns();
    let facts = ProcessFacts { state: 'R', tracer: None, ..process.facts()? };
    let remarks = frozen.threads().first().and_then(|thread| {
        let signal = thread.signal.as_ref()?;
        Some(format!("thread {} was about to take {}", thread.tid, signal_name(signal.number)))
    });
    gather_held(&process, Some(frozen), facts, started_ns, remarks.into_iter().collect())
}

fn signal_name(number: i32) -> String {
    let name = match number {
        4 => "SIGILL",
        7 => "SIGBUS",
        8 => "SIGFPE",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        _ => return format!("signal {number}"),
    };
    name.to_owned()
}

/// Holds a process for as long as it will take, or not at all.
pub(crate) fn gather(
    process: &Process,
    choice: ModeChoice,
    mut remarks: Vec<String>,
) -> Result<Gathered, Error> {
    let started_ns = now_ns();
    // Before the stop: a process that is held shows a state of its own for that.
    let facts = process.facts()?;
    let frozen = match choice {
        ModeChoice::Live => None,
        ModeChoice::Freeze => Some(stop(process, false)?),
        ModeChoice::Auto | ModeChoice::Instant => match stop(process, false) {
            Ok(frozen) => Some(frozen),
            Err(Error::CannotStop { source, .. }) => {
                remarks.push(format!(
                    "mode {}, since the process cannot be stopped: {source}",
                    word(Mode::Live)
                ));
                None
            }
            Err(error) => return Err(error),
        },
    };
    gather_held(process, frozen, facts, started_ns, remarks)
}

pub(super) fn gather_held(
    process: &Process,
    frozen: Option<Frozen>,
    facts: ProcessFacts,
    started_ns: u64,
    remarks: Vec<String>,
) -> Result<Gathered, Error> {
    gather_by(process, frozen, facts, started_ns, remarks, Source::regions_and_pages)
}

/// Learns all about a process; its map and page states by `look`.
pub(super) fn gather_by(
    process: &Process,
    mut frozen: Option<Frozen>,
    facts: ProcessFacts,
    started_ns: u64,
    remarks: Vec<String>,
    look: impl FnOnce(&Process) -> Result<(RegionMap, PageRuns), Error>,
) -> Result<Gathered, Error> {
    // A process number may have been given to another process between opening and stopping; while the stopped one
    // lives it cannot change any more.
    process.check()?;
    let mut threads = match &mut frozen {
        Some(frozen) => frozen.take_threads(),
        None => process.threads()?,
    };
    let processor = xsave_components();
    for set in threads.iter_mut().filter_map(|thread| match &mut thread.registers {
        Registers::Complete(sets) => sets.iter_mut().find(|set| set.note_type == NT_X86_XSTATE),
        _ => None,
    }) {
        set.bytes = standard_layout(&set.bytes, &processor);
    }
    let (map, pages) = look(process)?;
    let map = Arc::new(map);
    let record = ProcessRecord {
        pid: facts.pid,
        ppid: facts.ppid,
        pgrp: facts.pgrp,
        session: facts.session,
        state: u8::try_from(facts.state).unwrap_or(b'R'),
        nice: i8::try_from(facts.nice).unwrap_or(0),
        flags: u64::from(facts.flags),
        uid: facts.uid[0],
        gid: facts.gid[0],
        name: facts.comm.clone().into_encoded_bytes(),
        command_line: facts.cmdline.clone(),
        auxv: process.read_proc("auxv")?,
    };
    Ok(Gathered {
        process: process.clone(),
        platform: *process.platform(),
        mode: if frozen.is_some() { Mode::Freeze } else { Mode::Live },
        facts,
        record,
        threads,
        map,
        pages,
        started_ns,
        remarks,
        hold: Arc::new(Hold { frozen: Mutex::new(frozen), report: Mutex::default() }),
        spooled: None,
        elf_headers: Mutex::default(),
    })
}

fn stop(process: &Process, at_fault: bool) -> Result<Frozen, Error> {
    let pid = process.pid();
    if u32::try_from(pid) == Ok(std::process::id()) {
        return Err(Error::CannotStop { pid, source: StopError::Itself });
    }
    process.check()?;
    let options = FreezeOptions { word: process.platform().word, at_fault, ..FreezeOptions::default() };
    freeze(pid, &options).map_err(|source| match source {
        StopError::NoFault => Error::NoFault { pid },
        // Who may not attach mostly may not read either, and then it is no way out to go without a stop.
        source @ StopError::Refused(_) => {
            match process.run("open its memory", |target| target.mem().map(drop)) {
                Ok(Err(refused @ Error::Refused { .. })) => refused,
                _ => Error::CannotStop { pid, source },
            }
        }
        source => Error::CannotStop { pid, source },
    })
}

fn stack_pointer(word: WordSize, thread: &Thread) -> Option<Address> {
    match &thread.registers {
        Registers::Unknown => None,
        Registers::Partial(call) => Some(Address::new(call.stack_pointer)),
        Registers::Complete(_) => {
            let registers = thread.registers.set(NT_PRSTATUS)?;
            // `rsp` and `esp` in user_regs_struct (sys/user.h).
            let value = match word {
                WordSize::Bits64 => u64::from_le_bytes(registers.get(19 * 8..20 * 8)?.try_into().ok()?),
                WordSize::Bits32 => {
                    u64::from(u32::from_le_bytes(registers.get(15 * 4..16 * 4)?.try_into().ok()?))
                }
            };
            Some(Address::new(value))
        }
    }
}

fn xsave_components() -> Vec<Component> {
    let component = |component: memfetch_sys::xsave::Component| Component {
        bit: component.bit,
        offset: component.offset as usize,
        size: component.size as usize,
    };
    memfetch_sys::xsave::components().into_iter().map(component).collect()
}

/// The time in nanoseconds since 1970 UTC.
pub(crate) fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, nanoseconds)
}

/// A duration as the images write it.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
