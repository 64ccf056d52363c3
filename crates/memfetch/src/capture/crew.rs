//! [`run`]: workers that copy blocks, and the loop that feeds and watches them.
//!
//! A read of another process' memory can block for ever in the kernel, and nothing can interrupt it. So the
//! workers own all that they touch, and the loop that waits for them can give them up: the capture then fails in
//! time, and the threads are left to the end of this process.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use memfetch_sys::buffer::Buffer;

use super::blocks::Block;
use super::copy::{Copied, Copier, Heartbeat, PageSource};
use crate::error::{Error, OutputError};
use crate::image::trailer::BLOCK;
use crate::memory::Gaps;

/// How often the loop looks whether a worker is stuck.
const WATCH: Duration = Duration::from_millis(100);

/// How a crew works.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// How many blocks are copied at once. With one, they are done in the order in which they are given.
    pub workers: usize,
    /// How many blocks are in memory at once.
    pub buffers: usize,
    /// Whether everything is read before anything goes to the output, so that who waits for the end of the reading
    /// does not wait for the disk. All of it is in memory then, whatever `buffers` says.
    pub read_first: bool,
    /// For how long a read may take.
    pub time_limit: Option<Duration>,
}

/// What a crew came to.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    /// Digests of blocks, by number, in no order.
    pub digests: Vec<(u64, [u8; 32])>,
    pub read_bytes: u64,
    pub file_bytes: u64,
    pub gaps: Gaps,
}

/// Why a crew stopped early.
pub(crate) enum Failure {
    /// The source or the output failed.
    Error(Error),
    /// A read did not come back within this time.
    Stuck(Duration),
}

/// What happens in a crew, as its caller sees it.
pub(crate) enum Step<'a> {
    /// A block is copied: its bytes, and how many of them came from the process.
    Block { block: &'a Block, bytes: &'a Buffer, copied: &'a Copied },
    /// All memory has been read; some of it may still have to be written.
    AllRead,
}

struct Job {
    block: Block,
    buffer: Buffer,
}

enum Event {
    Read,
    Done(Box<(Block, Buffer, Copied)>),
    Failed(Error),
}

/// What a worker does with a block that it has read, beside digesting it.
pub(crate) type Finish = dyn Fn(&Block, &Buffer) -> Result<(), Error> + Send + Sync;

/// Copies `blocks`. `finish` runs on the workers, `step` here.
pub(crate) fn run<S: PageSource>(
    copier: &Arc<Copier<S>>,
    blocks: impl Iterator<Item = Block>,
    rules: Rules,
    finish: Arc<Finish>,
    mut step: impl FnMut(Step<'_>) -> Result<(), Error>,
) -> Result<Totals, Failure> {
    let (jobs, queue) = channel();
    let queue = Arc::new(Mutex::new(queue));
    let (events, inbox) = channel();
    let mut beats = Vec::new();
    for _ in 0..rules.workers {
        let beat = Arc::new(Heartbeat::new());
        beats.push(Arc::clone(&beat));
        let worker = Worker {
            copier: Arc::clone(copier),
            queue: Arc::clone(&queue),
            events: events.clone(),
            finish: Arc::clone(&finish),
            beat,
            read_first: rules.read_first,
        };
        thread::Builder::new()
            .name("memfetch-copy".into())
            .spawn(move || worker.work())
            .map_err(|source| Failure::Error(Error::Os { action: "start a thread".into(), source }))?;
    }
    drop(events);

    // Whatever way this function is left, the workers stop at the next page.
    let _cancel = Cancel(copier);
    let most = if rules.read_first { usize::MAX } else { rules.buffers };
    let mut loop_state =
        Loop { jobs: Some(jobs), idle: Vec::new(), made: 0, blocks, in_flight: 0, unread: 0 };
    let mut totals = Totals::default();
    let mut all_read = false;
    loop {
        let exhausted = loop_state.feed(most).map_err(Failure::Error)?;
        if exhausted && rules.read_first {
            // The workers see that there is no more to read.
            loop_state.jobs = None;
        }
        if exhausted && loop_state.unread == 0 && !all_read {
            all_read = true;
            step(Step::AllRead).map_err(Failure::Error)?;
        }
        if exhausted && loop_state.in_flight == 0 {
            return Ok(totals);
        }
        match inbox.recv_timeout(WATCH) {
            Ok(Event::Read) => loop_state.unread -= 1,
            Ok(Event::Done(done)) => {
                let (block, buffer, copied) = *done;
                loop_state.in_flight -= 1;
                step(Step::Block { block: &block, bytes: &buffer, copied: &copied })
                    .map_err(Failure::Error)?;
                if !rules.read_first {
                    loop_state.idle.push(buffer);
                }
                totals.add(copied);
            }
            Ok(Event::Failed(error)) => return Err(Failure::Error(error)),
            Err(RecvTimeoutError::Timeout) => {
                if let Some(limit) = rules.time_limit
                    && beats.iter().any(|beat| beat.stuck_for() > limit)
                {
                    return Err(Failure::Stuck(limit));
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                let source = std::io::Error::other("the copying threads ended");
                return Err(Failure::Error(Error::Os { action: "copy memory".into(), source }));
            }
        }
    }
}

struct Cancel<'a, S>(&'a Copier<S>);

impl<S> Drop for Cancel<'_, S> {
    fn drop(&mut self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }
}

struct Loop<B> {
    jobs: Option<Sender<Job>>,
    idle: Vec<Buffer>,
    made: usize,
    blocks: B,
    in_flight: usize,
    unread: usize,
}

impl<B: Iterator<Item = Block>> Loop<B> {
    /// Hands out blocks while there are buffers; returns whether there are no more blocks.
    fn feed(&mut self, most: usize) -> Result<bool, Error> {
        while self.in_flight < most {
            let Some(block) = self.blocks.next() else { return Ok(true) };
            let buffer = match self.idle.pop() {
                Some(buffer) => buffer,
                None => {
                    self.made += 1;
                    Buffer::new(BLOCK as usize)
                        .map_err(|source| Error::Os { action: "allocate a buffer".into(), source })?
                }
            };
            debug_assert!(self.made <= most);
            self.in_flight += 1;
            self.unread += 1;
            // Fails only where all workers are gone, which the next receive reports.
            let _ = self.jobs.as_ref().map(|jobs| jobs.send(Job { block, buffer }));
        }
        Ok(false)
    }
}

impl Totals {
    fn add(&mut self, copied: Copied) {
        self.digests.push((copied.index, copied.digest));
        self.read_bytes += copied.read_bytes;
        self.file_bytes += copied.file_bytes;
        self.gaps.extend(copied.gaps.iter().copied());
    }
}

struct Worker<S> {
    copier: Arc<Copier<S>>,
    queue: Arc<Mutex<Receiver<Job>>>,
    events: Sender<Event>,
    finish: Arc<Finish>,
    beat: Arc<Heartbeat>,
    read_first: bool,
}

impl<S: PageSource> Worker<S> {
    fn work(&self) {
        let mut kept = Vec::new();
        loop {
            let job = self.queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(Job { block, mut buffer }) = job else { break };
            let event = match self.copier.read(&block, &mut buffer, &self.beat) {
                Ok(copied) => {
                    // The loop is gone where nobody listens; the next send finds that out.
                    let _ = self.events.send(Event::Read);
                    if self.read_first {
                        kept.push((block, buffer, copied));
                        continue;
                    }
                    self.finish(block, buffer, copied)
                }
                Err(error) => Event::Failed(error),
            };
            if self.events.send(event).is_err() {
                return;
            }
        }
        for (block, buffer, copied) in kept {
            if self.events.send(self.finish(block, buffer, copied)).is_err() {
                return;
            }
        }
    }

    fn finish(&self, block: Block, buffer: Buffer, mut copied: Copied) -> Event {
        copied.digest = Copier::<S>::digest(&block, &buffer);
        if !self.copier.cancelled.load(Ordering::Relaxed)
            && let Err(error) = (self.finish)(&block, &buffer)
        {
            return Event::Failed(error);
        }
        Event::Done(Box::new((block, buffer, copied)))
    }
}

/// Where an output error happened.
pub(crate) fn at_path(path: &std::path::Path) -> impl Fn(OutputError) -> Error + '_ {
    move |source| Error::Output { path: path.to_owned(), source }
}

#[cfg(test)]
#[path = "crew_tests.rs"]
mod tests;
