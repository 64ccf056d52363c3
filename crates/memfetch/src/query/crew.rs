//! Threads that read chunks and look at them, and the one that takes what they found, in order.
//!
//! What a chunk is, how it is read and what is looked for is the [`Job`]'s; what becomes of it the [`Taker`]'s.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::Error;
use crate::source::Heartbeat;

/// So often somebody looks whether a thread is stuck.
const WATCH: Duration = Duration::from_millis(50);
/// So many threads are left behind in reads that do not come back before the source counts as lost.
const MAX_STUCK: usize = 8;
/// For so long the threads may take over the chunks that they have, once the source is lost.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What the threads do.
pub(super) trait Job: Send + Sync + 'static {
    /// Where the orders come from.
    type Cutter: Send + 'static;
    /// What one chunk is to hold.
    type Order: Clone + Send + 'static;
    /// Memory that was read. A default one is empty, and grows to what its first order needs.
    type Chunk: Default + Send + 'static;
    /// What was found in it.
    type Found: Send + 'static;

    /// The next order, one after the other.
    fn cut(&self, cutter: &mut Self::Cutter) -> Option<Self::Order>;

    /// Reads what is ordered in place of what was there.
    fn fill(&self, order: &Self::Order, chunk: &mut Self::Chunk, watched: &Watched<'_>) -> Result<(), Error>;

    /// Looks at what was read.
    fn look(&self, chunk: &Self::Chunk) -> Self::Found;
}

/// Who takes the chunks, in the order in which they were cut, on the caller's thread.
pub(super) trait Taker<J: Job> {
    /// A chunk, and what was found in it.
    fn take(&mut self, chunk: &J::Chunk, found: J::Found) -> ControlFlow<()>;

    /// A chunk whose reading did not come back.
    fn lost(&mut self, order: &J::Order);
}

/// How a reading thread is watched.
#[derive(Clone, Copy)]
pub(super) struct Watched<'a> {
    /// Set when the work is given up.
    pub cancelled: &'a AtomicBool,
    pub beat: &'a Heartbeat,
}

/// What the threads of one crew share.
struct Shared<J: Job> {
    job: J,
    queue: Mutex<Queue<J>>,
    /// A buffer came back, or the end has come.
    changed: Condvar,
    cancelled: AtomicBool,
}

struct Queue<J: Job> {
    cutter: J::Cutter,
    /// The number of the next order.
    next: u64,
    /// Buffers that may be filled. Who has none waits: so much is under way at once and no more.
    buffers: Vec<J::Chunk>,
}

/// An order and its number.
type Numbered<J> = (u64, <J as Job>::Order);

impl<J: Job> Shared<J> {
    fn queue(&self) -> MutexGuard<'_, Queue<J>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next order and a buffer for it. Both are taken together, so that the lowest chunk that is not delivered is
    /// always one that some thread has.
    fn take(&self) -> Option<(Numbered<J>, J::Chunk)> {
        let mut queue = self.queue();
        loop {
            if self.cancelled.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(buffer) = queue.buffers.pop() {
                return match self.job.cut(&mut queue.cutter) {
                    Some(order) => {
                        let index = queue.next;
                        queue.next += 1;
                        Some(((index, order), buffer))
                    }
                    None => {
                        queue.buffers.push(buffer);
                        None
                    }
                };
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn give_back(&self, buffer: J::Chunk) {
        self.queue().buffers.push(buffer);
        self.changed.notify_one();
    }

    fn cancel(&self) {
        // Under the lock: between a thread's look at the flag and its sleep there must be no gap.
        let _queue = self.queue();
        self.cancelled.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }
}

enum Event<J: Job> {
    Done {
        index: u64,
        chunk: J::Chunk,
        found: J::Found,
    },
    Failed {
        index: u64,
        error: Error,
    },
    /// A thread has no more to do.
    Left {
        worker: usize,
        panicked: bool,
    },
}

/// A thread, as the one that watches sees it.
struct Worker<J: Job> {
    beat: Arc<Heartbeat>,
    /// What it is at.
    order: Arc<Mutex<Option<Numbered<J>>>>,
    gone: bool,
}

impl<J: Job> Worker<J> {
    /// What it is at, if it has been in one read for so long; it counts as gone then.
    fn give_up(&mut self, limit: Duration) -> Option<Numbered<J>> {
        if self.beat.stuck_for() < limit {
            return None;
        }
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have come back just now, and have another order.
        if self.beat.stuck_for() < limit {
            return None;
        }
        let lost = order.take()?;
        self.gone = true;
        Some(lost)
    }
}

/// Cancels the work whichever way its function is left.
struct Cancel<'a, J: Job>(&'a Shared<J>);

impl<J: Job> Drop for Cancel<'_, J> {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Has `job` done by so many threads, a read of which may take until `limit`.
pub(super) fn run<J: Job>(
    job: J,
    cutter: J::Cutter,
    threads: usize,
    limit: Option<Duration>,
    taker: &mut impl Taker<J>,
) -> Result<(), Error> {
    let buffers = (0..2 * threads + 1).map(|_| J::Chunk::default()).collect();
    let shared = Arc::new(Shared {
        job,
        queue: Mutex::new(Queue { cutter, next: 0, buffers }),
        changed: Condvar::new(),
        cancelled: AtomicBool::new(false),
    });
    let _cancel = Cancel(&shared);
    let mut delivery = Delivery { taker, waiting: BTreeMap::new(), next: 0, over: false };
    supervise(&shared, threads, limit, channel(), &mut delivery)
}

/// Starts the threads, and takes what they send until all is delivered.
fn supervise<J: Job, T: Taker<J>>(
    shared: &Arc<Shared<J>>,
    threads: usize,
    limit: Option<Duration>,
    (events, inbox): (Sender<Event<J>>, Receiver<Event<J>>),
    delivery: &mut Delivery<'_, J, T>,
) -> Result<(), Error> {
    let mut workers: Vec<Worker<J>> = Vec::new();
    for _ in 0..threads {
        workers.push(start(shared, workers.len(), &events)?);
    }
    let mut failed: Option<Error> = None;
    let mut stuck = 0;
    while workers.iter().any(|worker| !worker.gone) {
        let wait = if failed.is_some() { LAST_WORDS } else { WATCH };
        match inbox.recv_timeout(wait) {
            Ok(Event::Done { index, chunk, found }) => {
                delivery.settle(index, Outcome::Done(chunk, found), |chunk| shared.give_back(chunk));
                if delivery.over {
                    return Ok(());
                }
            }
            Ok(Event::Failed { index, error }) => {
                delivery.settle(index, Outcome::Failed, |chunk| shared.give_back(chunk));
                failed.get_or_insert(error);
                // The others may have found something, and are let finish what they have.
                shared.cancel();
            }
            Ok(Event::Left { worker, panicked }) => {
                if let Some(worker) = workers.get_mut(worker) {
                    worker.gone = true;
                }
                if panicked {
                    let source = std::io::Error::other("a thread panicked");
                    failed.get_or_insert(Error::Os { action: "look at what was read".to_owned(), source });
                    shared.cancel();
                }
            }
            Err(RecvTimeoutError::Timeout) if failed.is_some() => break,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        let Some(limit) = limit.filter(|_| failed.is_none()) else { continue };
        for index in 0..workers.len() {
            let Some(worker) = workers.get_mut(index).filter(|worker| !worker.gone) else { continue };
            let Some((index, order)) = worker.give_up(limit) else { continue };
            // Its buffer is lost with it, and another takes its place.
            delivery.settle(index, Outcome::Lost(order), |chunk| shared.give_back(chunk));
            shared.give_back(J::Chunk::default());
            stuck += 1;
            if stuck >= MAX_STUCK {
                delivery.flush();
                let source = std::io::ErrorKind::TimedOut.into();
                return Err(Error::Os { action: "read the memory".to_owned(), source });
            }
            workers.push(start(shared, workers.len(), &events)?);
        }
    }
    let missing = delivery.next < shared.queue().next;
    delivery.flush();
    match failed {
        Some(error) => Err(error),
        None if missing => Err(ended()),
        None => Ok(()),
    }
}

/// A thread ended and left its order undone.
fn ended() -> Error {
    Error::Os {
        action: "go on reading".to_owned(),
        source: std::io::Error::other("a thread ended by a panic"),
    }
}

/// What became of an order.
enum Outcome<J: Job> {
    Done(J::Chunk, J::Found),
    Lost(J::Order),
    /// The source is lost, and with it all that follows.
    Failed,
}

/// What has come, and what of it is delivered.
struct Delivery<'a, J: Job, T> {
    taker: &'a mut T,
    waiting: BTreeMap<u64, Outcome<J>>,
    next: u64,
    /// Whether the caller has enough.
    over: bool,
}

impl<J: Job, T: Taker<J>> Delivery<'_, J, T> {
    /// Notes what became of an order, and delivers all that is in order now.
    fn settle(&mut self, index: u64, outcome: Outcome<J>, mut give_back: impl FnMut(J::Chunk)) {
        // A thread that was given up on may come back in the end; its chunk has been told of as lost.
        if index < self.next || self.waiting.contains_key(&index) {
            return;
        }
        self.waiting.insert(index, outcome);
        while let Some(outcome) = self.waiting.remove(&self.next) {
            self.next += 1;
            if let Some(chunk) = self.deliver(outcome) {
                give_back(chunk);
            }
        }
    }

    /// Delivers what is left once nothing more can come, though something before it is missing.
    fn flush(&mut self) {
        for outcome in std::mem::take(&mut self.waiting).into_values() {
            self.deliver(outcome);
        }
    }

    /// Delivers, and returns the buffer.
    fn deliver(&mut self, outcome: Outcome<J>) -> Option<J::Chunk> {
        match outcome {
            Outcome::Done(chunk, found) => {
                if !self.over {
                    self.over = self.taker.take(&chunk, found).is_break();
                }
                Some(chunk)
            }
            Outcome::Lost(order) => {
                if !self.over {
                    self.taker.lost(&order);
                }
                None
            }
            Outcome::Failed => None,
        }
    }
}

fn start<J: Job>(
    shared: &Arc<Shared<J>>,
    number: usize,
    events: &Sender<Event<J>>,
) -> Result<Worker<J>, Error> {
    let beat = Arc::new(Heartbeat::new());
    let order = Arc::new(Mutex::new(None));
    let worker = Worker { beat: Arc::clone(&beat), order: Arc::clone(&order), gone: false };
    let shared = Arc::clone(shared);
    let events = events.clone();
    std::thread::Builder::new()
        .name("memfetch-look".into())
        .spawn(move || {
            // Also where what looks at the bytes panics: whoever waits for this thread must not do so for ever.
            let leaving = Leaving { events: &events, number };
            work(&shared, &beat, &order, &events);
            drop(leaving);
        })
        .map_err(|source| Error::Os { action: "start a thread to read with".to_owned(), source })?;
    Ok(worker)
}

/// Tells that a thread ends, whichever way it does.
struct Leaving<'a, J: Job> {
    events: &'a Sender<Event<J>>,
    number: usize,
}

impl<J: Job> Drop for Leaving<'_, J> {
    fn drop(&mut self) {
        let left = Event::Left { worker: self.number, panicked: std::thread::panicking() };
        let _ = self.events.send(left);
    }
}

fn work<J: Job>(
    shared: &Shared<J>,
    beat: &Heartbeat,
    at: &Mutex<Option<Numbered<J>>>,
    events: &Sender<Event<J>>,
) {
    let watched = Watched { cancelled: &shared.cancelled, beat };
    while let Some(((index, order), mut chunk)) = shared.take() {
        *at.lock().unwrap_or_else(PoisonError::into_inner) = Some((index, order.clone()));
        let filled = shared.job.fill(&order, &mut chunk, &watched);
        // Whoever took the order away has given up on this thread.
        if at.lock().unwrap_or_else(PoisonError::into_inner).take().is_none() {
            return;
        }
        let event = match filled {
            // Half a chunk is none.
            Ok(()) if shared.cancelled.load(Ordering::Relaxed) => return,
            Ok(()) => Event::Done { index, found: shared.job.look(&chunk), chunk },
            Err(error) => Event::Failed { index, error },
        };
        if events.send(event).is_err() {
            return;
        }
    }
}
