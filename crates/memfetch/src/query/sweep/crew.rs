//! Threads that read chunks and look at them, and the one that takes what they found, in order.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Swept;
use super::chunk::{Chunk, Cut, Cutter, Order};
use super::survey::Survey;
use crate::error::Error;
use crate::memory::Cause;
use crate::source::{Heartbeat, RunReader, Source};

/// So often somebody looks whether a thread is stuck.
const WATCH: Duration = Duration::from_millis(50);
/// So many threads are left behind in reads that do not come back before the source counts as lost.
const MAX_STUCK: usize = 8;
/// For so long the threads may take over the chunks that they have, once the source is lost.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What the threads of one sweep share.
struct Shared<L> {
    source: Arc<dyn Source>,
    survey: Survey,
    page_size: u64,
    look: Arc<L>,
    queue: Mutex<Queue>,
    /// A buffer came back, or the end has come.
    changed: Condvar,
    cancelled: AtomicBool,
}

struct Queue {
    cutter: Cutter,
    /// Buffers that may be filled. Who has none waits: so much is under way at once and no more.
    buffers: Vec<Chunk>,
}

impl<L> Shared<L> {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next order and a buffer for it. Both are taken together, so that the lowest chunk that is not delivered is
    /// always one that some thread has.
    fn take(&self) -> Option<(Order, Chunk)> {
        let mut queue = self.queue();
        loop {
            if self.cancelled.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(buffer) = queue.buffers.pop() {
                return match queue.cutter.next(&self.survey.runs) {
                    Some(order) => Some((order, buffer)),
                    None => {
                        queue.buffers.push(buffer);
                        None
                    }
                };
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn give_back(&self, buffer: Chunk) {
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

enum Event<T> {
    Done {
        index: u64,
        chunk: Chunk,
        found: T,
    },
    Failed {
        index: u64,
        error: Error,
    },
    /// A thread has no more to do.
    Left {
        worker: usize,
    },
}

/// A thread, as the one that watches sees it.
struct Worker {
    beat: Arc<Heartbeat>,
    /// What it is at.
    order: Arc<Mutex<Option<Order>>>,
    gone: bool,
}

/// Cancels the sweep whichever way its function is left.
struct Cancel<'a, L>(&'a Shared<L>);

impl<L> Drop for Cancel<'_, L> {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

pub(super) fn run<T, L>(
    source: &dyn Source,
    survey: Survey,
    cut: Cut,
    threads: usize,
    look: Arc<L>,
    each: impl FnMut(&Chunk, T) -> ControlFlow<()>,
) -> Swept
where
    T: Send + 'static,
    L: Fn(&Chunk) -> T + Send + Sync + 'static,
{
    let before = source.left_in_ram();
    let mut coverage = survey.coverage.clone();
    let buffers = (0..2 * threads + 1).map(|_| Chunk::default()).collect();
    let shared = Arc::new(Shared {
        source: source.handle(),
        page_size: source.platform().page_size,
        survey,
        look,
        queue: Mutex::new(Queue { cutter: Cutter::new(cut), buffers }),
        changed: Condvar::new(),
        cancelled: AtomicBool::new(false),
    });
    let _cancel = Cancel(&shared);
    let (events, inbox) = channel();
    let mut delivery =
        Delivery { coverage: &mut coverage, each, waiting: BTreeMap::new(), next: 0, over: false };
    let result = supervise(&shared, threads, source.time_limit(), (events, inbox), &mut delivery);
    let result = result.and_then(|()| source.check());
    coverage.gaps.sort();
    coverage.left_in_ram_bytes = source.left_in_ram().saturating_sub(before);
    Swept { coverage, result }
}

/// Starts the threads, and takes what they send until all is delivered.
fn supervise<T, L, E>(
    shared: &Arc<Shared<L>>,
    threads: usize,
    limit: Option<Duration>,
    (events, inbox): (Sender<Event<T>>, Receiver<Event<T>>),
    delivery: &mut Delivery<'_, T, E>,
) -> Result<(), Error>
where
    T: Send + 'static,
    L: Fn(&Chunk) -> T + Send + Sync + 'static,
    E: FnMut(&Chunk, T) -> ControlFlow<()>,
{
    let mut workers = Vec::new();
    for _ in 0..threads {
        workers.push(start(shared, workers.len(), &events)?);
    }
    let mut failed: Option<Error> = None;
    let mut stuck = 0;
    while workers.iter().any(|worker: &Worker| !worker.gone) {
        let wait = if failed.is_some() { LAST_WORDS } else { WATCH };
        match inbox.recv_timeout(wait) {
            Ok(Event::Done { index, chunk, found }) => {
                delivery.settle(index, Some((chunk, found)), |chunk| shared.give_back(chunk));
                if delivery.over {
                    return Ok(());
                }
            }
            Ok(Event::Failed { index, error }) => {
                delivery.settle(index, None, |chunk| shared.give_back(chunk));
                failed.get_or_insert(error);
                // The others may have found something, and are let finish what they have.
                shared.cancel();
            }
            Ok(Event::Left { worker }) => {
                if let Some(worker) = workers.get_mut(worker) {
                    worker.gone = true;
                }
            }
            Err(RecvTimeoutError::Timeout) if failed.is_some() => break,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        let Some(limit) = limit.filter(|_| failed.is_none()) else { continue };
        for index in 0..workers.len() {
            let Some(worker) = workers.get_mut(index).filter(|worker| !worker.gone) else { continue };
            if worker.beat.stuck_for() < limit {
                continue;
            }
            worker.gone = true;
            let order = worker.order.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(order) = order {
                for piece in &order.pieces {
                    delivery.coverage.gaps.push(piece.core, Cause::TimedOut);
                }
                // Its buffer is lost with it, and another takes its place.
                delivery.settle(order.index, None, |chunk| shared.give_back(chunk));
                shared.give_back(Chunk::default());
            }
            stuck += 1;
            if stuck >= MAX_STUCK {
                let source = std::io::ErrorKind::TimedOut.into();
                return Err(Error::Os { action: "read the memory".to_owned(), source });
            }
            workers.push(start(shared, workers.len(), &events)?);
        }
    }
    delivery.flush();
    failed.map_or(Ok(()), Err)
}

/// What has come, and what of it is delivered.
struct Delivery<'a, T, E> {
    coverage: &'a mut super::Coverage,
    each: E,
    waiting: BTreeMap<u64, Option<(Chunk, T)>>,
    next: u64,
    /// Whether the caller has enough.
    over: bool,
}

impl<T, E: FnMut(&Chunk, T) -> ControlFlow<()>> Delivery<'_, T, E> {
    /// Notes what a chunk came to, and delivers all that is in order now.
    fn settle(&mut self, index: u64, result: Option<(Chunk, T)>, mut give_back: impl FnMut(Chunk)) {
        // A thread that was given up on may come back in the end; its chunk has been told of as a gap.
        if index < self.next || self.waiting.contains_key(&index) {
            return;
        }
        self.waiting.insert(index, result);
        while let Some(entry) = self.waiting.remove(&self.next) {
            self.next += 1;
            if let Some((chunk, found)) = entry {
                self.deliver(&chunk, found);
                give_back(chunk);
            }
        }
    }

    /// Delivers what is left once nothing more can come, though something before it is missing.
    fn flush(&mut self) {
        for (chunk, found) in std::mem::take(&mut self.waiting).into_values().flatten() {
            self.deliver(&chunk, found);
        }
    }

    fn deliver(&mut self, chunk: &Chunk, found: T) {
        if self.over {
            return;
        }
        chunk.count(self.coverage);
        self.over = (self.each)(chunk, found).is_break();
    }
}

fn start<T, L>(shared: &Arc<Shared<L>>, number: usize, events: &Sender<Event<T>>) -> Result<Worker, Error>
where
    T: Send + 'static,
    L: Fn(&Chunk) -> T + Send + Sync + 'static,
{
    let beat = Arc::new(Heartbeat::new());
    let order = Arc::new(Mutex::new(None));
    let worker = Worker { beat: Arc::clone(&beat), order: Arc::clone(&order), gone: false };
    let shared = Arc::clone(shared);
    let events = events.clone();
    std::thread::Builder::new()
        .name("memfetch-look".into())
        .spawn(move || {
            work(&shared, &beat, &order, &events);
            let _ = events.send(Event::Left { worker: number });
        })
        .map_err(|source| Error::Os { action: "start a thread to read with".to_owned(), source })?;
    Ok(worker)
}

fn work<T, L: Fn(&Chunk) -> T>(
    shared: &Shared<L>,
    beat: &Heartbeat,
    at: &Mutex<Option<Order>>,
    events: &Sender<Event<T>>,
) {
    let reader = RunReader {
        source: shared.source.as_ref(),
        map: &shared.survey.map,
        touch: shared.survey.touch,
        page_size: shared.page_size,
        cancelled: &shared.cancelled,
        beat,
    };
    while let Some((order, mut chunk)) = shared.take() {
        let index = order.index;
        *at.lock().unwrap_or_else(PoisonError::into_inner) = Some(order.clone());
        let filled = chunk.fill(&order, &shared.survey, &reader);
        // Whoever took the order away has given up on this thread.
        if at.lock().unwrap_or_else(PoisonError::into_inner).take().is_none() {
            return;
        }
        let event = match filled {
            // Half a chunk is none.
            Ok(()) if shared.cancelled.load(Ordering::Relaxed) => return,
            Ok(()) => Event::Done { index, found: (shared.look)(&chunk), chunk },
            Err(error) => Event::Failed { index, error },
        };
        if events.send(event).is_err() {
            return;
        }
    }
}
