//! [`Memory`] for a process: the calls of [`super::target`] and [`super::reader`] within the time limit.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::process::Process;
use super::scan::PAGE;
use crate::address::{Address, Span};
use crate::error::Error;
use crate::memory::{Cause, Memory, PageRuns, Platform, ReadError};
use crate::region::RegionMap;

/// One job for a worker is at most so long: the buffer that it fills is its own, and copied from afterwards.
const CHUNK: usize = 512 << 10;

/// So many buffers are kept for further reads.
const MAX_BUFFERS: usize = 16;

/// The states come from the page table, without touching a page; shared memory that the process has not entered
/// there is looked for in the object behind it. An absent page of private anonymous memory counts as zero, as in
/// the kernel's own cores, also where a userfaultfd monitor would fill it otherwise on first touch.
///
/// An explicit read delivers whatever is asked for and can be had, also what is in swap. Where the kernel does
/// not answer in time, [`Memory::read_at`] gives a fault with [`Cause::TimedOut`] for the page that it is about,
/// and the other calls give [`Error::TimedOut`].
impl Memory for Process {
    fn platform(&self) -> &Platform {
        &self.target().platform
    }

    fn regions(&self) -> Result<RegionMap, Error> {
        self.run("list its mappings", |target| target.regions())?
    }

    fn pages(&self, span: Span) -> Result<PageRuns, Error> {
        self.run("list its pages", move |target| target.page_states(&target.regions()?, span))?
    }

    fn read_at(&self, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        let Some(limit) = self.limit() else { return self.target().read(at, buf) };
        let mut done = 0;
        for chunk in buf.chunks_mut(CHUNK) {
            let Some(here) = at.checked_add(done as u64) else { break };
            match self.read_chunk(limit, here, chunk) {
                Ok(read) => {
                    done += read;
                    if read < chunk.len() {
                        break;
                    }
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }
}

impl Process {
    /// Reads a chunk, by pages if it does not come back as a whole: one page whose fault is never answered must
    /// not hide those before it.
    fn read_chunk(&self, limit: Duration, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        let started = Instant::now();
        match self.read_on_worker(limit / 2, at, buf) {
            Err(ReadError::Fault(fault)) if fault.cause == Cause::TimedOut => {}
            result => return result,
        }
        let mut done = 0_usize;
        let span = Span::from_len(at, buf.len() as u64).unwrap_or(Span::empty_at(at));
        for page in span.pieces(PAGE) {
            let len = usize::try_from(page.len()).unwrap_or(usize::MAX);
            let Some(into) = done.checked_add(len).and_then(|end| buf.get_mut(done..end)) else { break };
            match self.read_on_worker(limit.saturating_sub(started.elapsed()), page.start(), into) {
                Ok(read) => {
                    done += read;
                    if read < len {
                        break;
                    }
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        if done == 0 { Err(ReadError::fault(at, Cause::TimedOut)) } else { Ok(done) }
    }

    /// The worker fills a buffer of its own: one that is given up on may write to it at any later time.
    fn read_on_worker(&self, limit: Duration, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        let buffers = || self.target().buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let len = buf.len();
        let mut bytes = buffers().pop().unwrap_or_else(|| vec![0; CHUNK]);
        let read = self.run_within(limit, "read the memory", move |target| {
            let read = target.read(at, bytes.get_mut(..len).unwrap_or_default());
            (bytes, read)
        });
        let (bytes, read) = match read {
            Ok(result) => result,
            Err(Error::TimedOut { .. }) => return Err(ReadError::fault(at, Cause::TimedOut)),
            Err(error) => return Err(error.into()),
        };
        if let Ok(read) = &read
            && let Some((into, from)) = buf.get_mut(..*read).zip(bytes.get(..*read))
        {
            into.copy_from_slice(from);
        }
        let mut kept = buffers();
        if kept.len() < MAX_BUFFERS {
            kept.push(bytes);
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use memfetch_sys::process::process_vm_readv;
    use memfetch_testkit::Target as Program;

    use super::*;

    #[test]
    fn a_kernel_call_that_never_comes_back_is_given_up_on() {
        let program = Program::spawn("uffd-missing", &[]);
        if program.number("registered") == 0 {
            eprintln!("skipped: needs userfaultfd");
            return;
        }
        let start = program.number("start");
        let process = Process::open(program.pid()).unwrap();
        let limit = Duration::from_millis(200);
        for _ in 0..3 {
            let started = Instant::now();
            // Through the mapping, which no public call does for a page like this one.
            let stuck = process.run_within(limit, "read the memory", move |target| {
                process_vm_readv(target.identity.pid(), &mut [0; 8], &[(start + PAGE, 8)])
            });
            assert!(matches!(stuck, Err(Error::TimedOut { .. })), "{stuck:?}");
            assert!(started.elapsed() < Duration::from_secs(5));
            // The others are read as before.
            let mut word = [0; 8];
            assert_eq!(process.read_at(Address::new(start), &mut word).unwrap(), 8);
            assert_eq!(u64::from_ne_bytes(word), start);
        }
    }

    #[test]
    fn without_a_working_process_vm_readv_reads_are_the_same() {
        let program = Program::spawn("private", &["4"]);
        let span = Span::from_len(Address::new(program.number("start")), program.number("bytes")).unwrap();
        let process = Process::open(program.pid()).unwrap().with_time_limit(None);
        let mut by_number = vec![0; 4 << 20];
        assert_eq!(process.read_at(span.start(), &mut by_number).unwrap(), by_number.len());
        process.target().no_vm_readv.store(true, std::sync::atomic::Ordering::Relaxed);
        let mut by_descriptor = vec![0; 4 << 20];
        assert_eq!(process.read_at(span.start(), &mut by_descriptor).unwrap(), by_descriptor.len());
        assert!(by_number == by_descriptor);
    }
}
