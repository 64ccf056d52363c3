//! [`run`]: workers that copy blocks, and the loop that feeds and watches them.
//!
//! A worker reads while there is a buffer to read into, and digests and writes otherwise: the process may be held until
//! its memory has been read, and not for longer. A small one is read whole before the first byte is written.
//!
//! A read of another process' memory can block for ever in the kernel, and nothing can interrupt it. So the
//! workers own all that they touch, and the loop that waits for them can give them up: the capture then fails in
//! time, and the threads are left to the end of this process.

use std::collections::VecDeque;
use std::iter::Peekable;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use memfetch_sys::buffer::Buffer;

use super::blocks::Block;
use super::copy::{Copied, Copier};
use crate::error::{Error, OutputError};
use crate::image::trailer::BLOCK;
use crate::memory::Gaps;
use crate::source::{Heartbeat, PageSource};
use crate::threads::Pid;

/// So many blocks may be in memory at once, however little is in them.
const MANY: usize = 1024;

/// How often the loop looks whether a worker is stuck.
const WATCH: Duration = Duration::from_millis(100);

/// How a crew works.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// How many blocks are copied at once. With one, they are done in the order in which they are given.
    pub workers: usize,
    /// How many full blocks are in memory at once; more of those that are not full.
    pub buffers: usize,
    /// For how long a read may take, and a write while the process is held for it.
    pub time_limit: Option<Duration>,
    /// Whether the process is held until all of it has been read.
    pub held: bool,
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
    /// The output took nothing for this time, and the process was held meanwhile.
    Blocked(Duration),
}

impl Failure {
    /// As an error about the process that was read, or the output that was written.
    pub(crate) fn into_error(self, pid: Pid, path: &Path) -> Error {
        match self {
            Self::Error(error) => error,
            Self::Stuck(limit) => Error::TimedOut { pid, action: "read its memory", limit },
            Self::Blocked(limit) => at_path(path)(OutputError::Blocked { limit }),
        }
    }
}

/// What happens in a crew, as its caller sees it.
pub(crate) enum Step<'a> {
    /// A block is copied: its bytes, and how many of them came from the process.
    Block { block: &'a Block, bytes: &'a Buffer, copied: &'a Copied },
    /// All memory has been read; some of it may still have to be written.
    AllRead,
}

/// A block to read.
struct Reading {
    block: Block,
    buffer: Buffer,
}

/// A block that was read, to be digested and written.
struct Writing {
    block: Block,
    buffer: Buffer,
    copied: Copied,
}

enum Event {
    Read,
    Done(Box<Writing>),
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
    let queue = Arc::new(Queue::default());
    // Whatever way this function is left, also where only some of the workers could be started, they stop at the next page.
    let _cancel = Cancel { copier, queue: &queue };
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
        };
        thread::Builder::new()
            .name("memfetch-copy".into())
            .spawn(move || worker.work())
            .map_err(|source| Failure::Error(Error::Os { action: "start a thread".into(), source }))?;
    }
    drop(events);

    let mut loop_state = Loop {
        queue: &queue,
        idle: Vec::new(),
        made: 0,
        blocks: blocks.peekable(),
        in_flight: 0,
        held_bytes: 0,
        unread: 0,
    };
    let mut totals = Totals::default();
    let mut all_read = false;
    let mut last = Instant::now();
    loop {
        let exhausted = loop_state.feed(rules.buffers).map_err(Failure::Error)?;
        if exhausted && loop_state.unread == 0 && !all_read {
            all_read = true;
            step(Step::AllRead).map_err(Failure::Error)?;
        }
        if exhausted && loop_state.in_flight == 0 {
            return Ok(totals);
        }
        if let Some(limit) = rules.time_limit
            && beats.iter().any(|beat| beat.stuck_for() > limit)
        {
            return Err(Failure::Stuck(limit));
        }
        match inbox.recv_timeout(WATCH) {
            Ok(Event::Read) => loop_state.unread -= 1,
            Ok(Event::Done(done)) => {
                let Writing { block, buffer, copied } = *done;
                loop_state.in_flight -= 1;
                loop_state.held_bytes -= bytes_of(&block);
                step(Step::Block { block: &block, bytes: &buffer, copied: &copied })
                    .map_err(Failure::Error)?;
                if loop_state.made > rules.buffers {
                    // Used again for other blocks they would fill up.
                    loop_state.made -= 1;
                } else {
                    loop_state.idle.push(buffer);
                }
                totals.add(copied);
            }
            Ok(Event::Failed(error)) => return Err(Failure::Error(error)),
            Err(RecvTimeoutError::Timeout) => {
                if let Some(limit) = rules.time_limit
                    && rules.held
                    && !all_read
                    && last.elapsed() > limit
                {
                    return Err(Failure::Blocked(limit));
                }
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => {
                let source = std::io::Error::other("the copying threads ended");
                return Err(Failure::Error(Error::Os { action: "copy memory".into(), source }));
            }
        }
        last = Instant::now();
    }
}

struct Cancel<'a, S> {
    copier: &'a Copier<S>,
    queue: &'a Queue,
}

impl<S> Drop for Cancel<'_, S> {
    fn drop(&mut self) {
        self.copier.cancelled.store(true, Ordering::Relaxed);
        self.queue.close();
    }
}

/// What there is to do: reading comes first.
#[derive(Default)]
struct Queue {
    state: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    to_read: VecDeque<Reading>,
    to_write: VecDeque<Writing>,
    closed: bool,
}

enum Job {
    Read(Reading),
    Write(Writing),
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, jobs: Vec<Reading>) {
        if !jobs.is_empty() {
            self.lock().to_read.extend(jobs);
            self.changed.notify_all();
        }
    }

    fn write(&self, job: Writing) {
        self.lock().to_write.push_back(job);
        self.changed.notify_one();
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits for something to do; `None` once the queue is closed.
    fn next(&self) -> Option<Job> {
        let mut waiting = self.lock();
        loop {
            if waiting.closed {
                return None;
            }
            if let Some(job) = waiting.to_read.pop_front() {
                return Some(Job::Read(job));
            }
            if let Some(job) = waiting.to_write.pop_front() {
                return Some(Job::Write(job));
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

struct Loop<'a, B: Iterator<Item = Block>> {
    queue: &'a Queue,
    idle: Vec<Buffer>,
    made: usize,
    blocks: Peekable<B>,
    in_flight: usize,
    /// The bytes of the blocks that are in flight.
    held_bytes: u64,
    unread: usize,
}

impl<B: Iterator<Item = Block>> Loop<'_, B> {
    /// Hands out blocks while there are buffers; returns whether there are no more blocks.
    fn feed(&mut self, most: usize) -> Result<bool, Error> {
        // All at once, so that no worker finds nothing to read in between and begins to write. Of a block with little
        // in it, little of its buffer is in RAM.
        let mut jobs = Vec::new();
        while self.held_bytes < most as u64 * BLOCK
            && self.in_flight < most.max(MANY)
            && let Some(block) = self.blocks.next()
        {
            let buffer = match self.idle.pop() {
                Some(buffer) => buffer,
                None => {
                    self.made += 1;
                    Buffer::new(BLOCK as usize)
                        .map_err(|source| Error::Os { action: "allocate a buffer".into(), source })?
                }
            };
            self.in_flight += 1;
            self.held_bytes += bytes_of(&block);
            self.unread += 1;
            jobs.push(Reading { block, buffer });
        }
        self.queue.read(jobs);
        Ok(self.blocks.peek().is_none())
    }
}

fn bytes_of(block: &Block) -> u64 {
    block.parts.iter().map(|part| part.len).sum()
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
    queue: Arc<Queue>,
    events: Sender<Event>,
    finish: Arc<Finish>,
    beat: Arc<Heartbeat>,
}

impl<S: PageSource> Worker<S> {
    fn work(&self) {
        while let Some(job) = self.queue.next() {
            let done = match job {
                Job::Read(job) => self.read(job),
                Job::Write(job) => self.write(job),
            };
            // Where nobody listens any more, the queue is closed as well.
            if let Err(error) = done {
                let _ = self.events.send(Event::Failed(error));
            }
        }
    }

    fn read(&self, Reading { block, mut buffer }: Reading) -> Result<(), Error> {
        let copied = self.copier.read(&block, &mut buffer, &self.beat)?;
        // Told before anybody can have written it, so that the last block read is known as such.
        let _ = self.events.send(Event::Read);
        self.queue.write(Writing { block, buffer, copied });
        Ok(())
    }

    fn write(&self, mut job: Writing) -> Result<(), Error> {
        job.copied.digest = Copier::<S>::digest(&job.block, &job.buffer);
        (self.finish)(&job.block, &job.buffer)?;
        let _ = self.events.send(Event::Done(Box::new(job)));
        Ok(())
    }
}

/// Where an output error happened.
pub(crate) fn at_path(path: &Path) -> impl Fn(OutputError) -> Error + '_ {
    move |source| Error::Output { path: path.to_owned(), source }
}

#[cfg(test)]
#[path = "crew_tests.rs"]
mod tests;
