//! The invisible stop: all threads of a process held at one instant, and let go again, without the process being
//! able to notice.
//!
//! # What it does to the target
//!
//! No SIGSTOP is sent, and no SIGCHLD reaches the target's parent (the *calling* process gets the SIGCHLD of
//! ptrace(2)). A thread that was asleep in a call which a stop makes return EINTR (epoll_wait, semop,
//! sigtimedwait, socket calls with a timeout, ...) is put back into that call, and sleeps on. Signals that come
//! meanwhile are passed on, each once, in order, with its `siginfo_t`.
//!
//! If the calling process is killed at any moment, the kernel lets the target run on, nothing stays stopped, and
//! no signal is lost. One window remains in which such a call then returns EINTR: from the moment that a thread
//! stops until its registers are set, some microseconds on an idle machine; and, for a call that changes the
//! signal mask or for which a signal waits, while the thread stands at its entry again.
//!
//! # What no stop can hide
//!
//! - A half-done transfer returns short: a write to a full pipe, send, sendfile, `MSG_WAITALL`
//!   ([`StopReport::shortened`]).
//! - The relative timeout of a call that was put back starts anew ([`StopReport::limits_restarted`]): a process
//!   should not be stopped at a period shorter than its timeouts.
//! - A signal that is handled within a microsecond of the thread's release counts as having come right before
//!   the call rather than within it (never for calls that change the signal mask, where the difference matters).
//! - A signal that a thread waits for by sigtimedwait *without blocking it* goes to its handler, if it comes
//!   while the thread is stopped. POSIX leaves that undefined.
//! - To a thread that is traced even a signal comes that is ignored, and wakes it. It is put back then as well,
//!   but where several threads are woken at the very moment of seizing, one can slip through (seen once in
//!   50,000 ignored signals, under stops without a pause between them).
//!
//! # What it does not do
//!
//! - A thread that sleeps uninterruptibly (a vfork parent, a dead file system) cannot be stopped, and cannot
//!   reach user mode either: it counts as stopped in the kernel, its registers are what `/proc` tells.
//! - A process that job control has stopped is held as it stands, and stays stopped afterwards.
//! - 32-bit threads are stopped, and not put back into calls.
//! - No thread of a process can be seized while another one of it is in exec and waits for a file system that
//!   does not answer. A process that shares the target's memory counts as loose then
//!   ([`StopReport::loose_sharers`]); it changes the memory no more, unless the exec fails. Where it is the
//!   target itself the stop fails with [`StopError::Busy`]. An exec that begins between the look for it and the
//!   seizing can make the stop fail late, with [`StopError::Stuck`].
//!
//! # What the caller must not do meanwhile
//!
//! Wait for children with `WSTOPPED` or, where the target is a child of the calling process, wait for it at all
//! (`Child::try_wait`): the kernel shows its stops to whichever thread of the process asks, as if the child had
//! ended, and a stop that was shown like this no longer keeps its signal should we be killed.

mod fault;
mod inject;
mod rewind;
mod states;
mod tasks;
mod tracee;
mod tracer;

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::{Duration, Instant};

use memfetch_sys::{signals, wait};

use self::tracer::Tracer;
use crate::error::{InjectionError, StopError};
use crate::memory::WordSize;
use crate::threads::{Pid, Thread, Tid};

/// How often a held target is looked after.
const TENDING: Duration = Duration::from_millis(20);

/// How to stop.
#[derive(Clone, Debug)]
pub struct FreezeOptions {
    /// How long to wait for all threads to stop. Those that have not by then count as stopped in the kernel.
    pub deadline: Duration,
    /// Whether to read registers, names and accounting; without them [`Frozen::threads`] has numbers only.
    pub registers: bool,
    /// The word size of the process, whose layout its registers get whatever mode a thread runs in just now: a
    /// thread of a 64-bit process may run 32-bit code, as Wine's do.
    pub word: WordSize,
    /// Whether to let it run under trace until one of its threads is about to take SIGSEGV, SIGBUS, SIGILL, SIGFPE or
    /// SIGPIPE, which it does not ignore. That thread is the first then, and has the signal, which it takes when it is
    /// let go. There is no limit to how long that may take.
    pub at_fault: bool,
}

impl Default for FreezeOptions {
    fn default() -> Self {
        let deadline = Duration::from_secs(1);
        Self { deadline, registers: true, word: WordSize::Bits64, at_fault: false }
    }
}

/// What a stop cost and met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopReport {
    /// The longest time that any thread was held: from the first request to stop until the last was let go.
    pub pause: Duration,
    /// Threads that were held, of all processes.
    pub threads: usize,
    /// Of these, threads that did not stop in time and count as stopped in the kernel.
    pub partial: usize,
    /// Calls that threads were put back into.
    pub rewound: usize,
    /// Of these, calls whose time limit started anew.
    pub limits_restarted: usize,
    /// Calls that return EINTR because of the stop: made by another way than the `syscall` instruction.
    pub interrupted: usize,
    /// Transfers that return short, as far as it can be told.
    pub shortened: usize,
    /// Signals that came while the target was traced, and were passed on.
    pub signals_forwarded: usize,
    /// Threads that were on their way back into a call when the deadline for that passed. They go on by
    /// themselves; a signal that comes before they arrive has the call restarted rather than interrupted.
    pub unsettled: usize,
    /// Processes that share the address space without being threads of the target, and were held too.
    pub sharers: Vec<Pid>,
    /// Processes that share the address space and could not be held.
    pub loose_sharers: Vec<Pid>,
    /// Job control had stopped the target before; it still is.
    pub already_stopped: bool,
    /// The target died while it was held.
    pub ended: bool,
}

/// A process whose threads are all held. They are let go by [`Frozen::resume`], and when it is dropped.
#[derive(Debug)]
pub struct Frozen {
    threads: Vec<Thread>,
    report: StopReport,
    orders: Sender<Order>,
    tracer: Option<Tracing>,
    watch: Arc<Watch>,
    patience: Duration,
}

#[derive(Debug)]
struct Tracing {
    tid: Tid,
    thread: JoinHandle<StopReport>,
}

enum Order {
    Userfaultfd { observer: Observer, outbox: Sender<Result<OwnedFd, InjectionError>> },
    Resume,
}

/// Hears of every step of an injection before it is taken.
type Observer = Box<dyn FnMut(&'static str) + Send>;

/// What the tracing thread lets the calling one see of its work, and the other way round.
#[derive(Debug, Default)]
struct Watch {
    /// The seized threads that are not the first of their process.
    seized: Mutex<HashSet<Tid>>,
    /// Grows as long as the tracing thread gets on.
    steps: AtomicU64,
    /// The target runs under trace, for as long as it likes.
    is_waiting: AtomicBool,
    /// Nobody waits for the result any more.
    is_abandoned: AtomicBool,
}

/// How long the tracing thread may be silent before the caller looks whether it is stuck.
const SILENCE: Duration = Duration::from_millis(10);

/// The same while the target runs until it meets a fault.
const LONG_SILENCE: Duration = Duration::from_millis(100);

/// How long the tracing thread may get on with nothing, beyond the deadline, before it is given up.
const STILLNESS: Duration = Duration::from_secs(2);

/// What the tracing thread tells once all stand.
type Held = Result<(Vec<Thread>, StopReport), StopError>;

/// Holds all threads of a process, and of those that share its memory.
///
/// ```no_run
/// use memfetch::live::stop::{FreezeOptions, freeze};
///
/// let frozen = freeze(1234, &FreezeOptions::default())?;
/// for thread in frozen.threads() {
///     println!("{} {:?}", thread.tid, thread.name);
/// }
/// println!("paused for {:?}", frozen.resume().pause);
/// # Ok::<(), memfetch::error::StopError>(())
/// ```
///
/// # Errors
///
/// [`StopError::Traced`], [`StopError::Refused`], [`StopError::NoThreads`] where it has died,
/// [`StopError::Itself`], [`StopError::Busy`]; [`StopError::NoFault`] where it ended while a fault was waited for,
/// [`StopError::FaultLost`]. After these the process runs on, as if nothing had been. After [`StopError::Stuck`] threads of it may stay under trace until the kernel answers, or the calling process ends.
pub fn freeze(pid: Pid, options: &FreezeOptions) -> Result<Frozen, StopError> {
    if u32::try_from(pid) == Ok(std::process::id()) {
        return Err(StopError::Itself);
    }
    let (orders, inbox) = channel();
    let (outbox, answers) = channel();
    let (births, born) = channel();
    let patience = options.deadline.saturating_add(STILLNESS);
    let options = options.clone();
    let watch = Arc::new(Watch::default());
    let for_tracer = Arc::clone(&watch);
    let body = move || {
        // A thread that takes a signal takes it for all of the process: what its caller holds back must not come in here.
        signals::hold_for_good();
        let _ = births.send(rustix::thread::gettid().as_raw_nonzero().get());
        trace(pid, &options, &for_tracer, &outbox, &inbox)
    };
    // A thread of its own: ptrace belongs to threads, and its end is what lets the target go.
    let thread = Builder::new()
        .name("memfetch-tracer".to_owned())
        .spawn(body)
        .map_err(|source| StopError::Os { action: "starting the tracing thread", source })?;
    let tracing = Tracing { tid: born.recv().unwrap_or_default(), thread };
    let mut stillness = Stillness::new(patience);
    let held = loop {
        let waits = watch.is_waiting.load(Ordering::Relaxed);
        match answers.recv_timeout(if waits { LONG_SILENCE } else { SILENCE }) {
            Ok(held) => break held,
            Err(RecvTimeoutError::Timeout) if waits => stillness = Stillness::new(patience),
            Err(RecvTimeoutError::Timeout) => {
                watch.reap_in_its_place();
                if stillness.is_over(watch.steps.load(Ordering::Relaxed)) {
                    watch.give_up(tracing);
                    return Err(StopError::Stuck);
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                let source = std::io::Error::other("it ended");
                break Err(StopError::Os { action: "the tracing thread", source });
            }
        }
    };
    match held {
        Ok((threads, report)) => {
            Ok(Frozen { threads, report, orders, tracer: Some(tracing), watch, patience })
        }
        Err(error) => {
            tracing.end();
            Err(error)
        }
    }
}

impl Frozen {
    /// The threads of the target, the first thread of the process in front.
    ///
    /// Dead ones are left out, a first thread that has exited before the others too. Registers are those of the
    /// moment of the stop, whatever was changed since to put the thread back into its call.
    #[must_use]
    pub fn threads(&self) -> &[Thread] {
        &self.threads
    }

    /// As [`Frozen::threads`], which has none any more afterwards.
    #[must_use]
    pub fn take_threads(&mut self) -> Vec<Thread> {
        std::mem::take(&mut self.threads)
    }

    /// What is known so far; the pause is the time that the stop itself took.
    #[must_use]
    pub fn report(&self) -> &StopReport {
        &self.report
    }

    /// A userfaultfd(2) of the held process' address space: `O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY`, before
    /// `UFFDIO_API`.
    ///
    /// One of its threads makes it, the descriptor is fetched from there (pidfd_getfd(2)) and closed there again. That
    /// thread stands at a system call, which goes on afterwards as if nothing had been, or, where all compute, in user mode,
    /// but in no restartable sequence (rseq(2)); its registers, its signal mask and its memory are what they were. All threads are held all the while. If this process is killed meanwhile
    /// the thread finds its way back by itself; in a window of some microseconds it would keep the descriptor.
    ///
    /// Where seccomp restricts the thread, its filters are suspended for these two calls, which needs `CAP_SYS_ADMIN`. If
    /// this process is killed meanwhile they are in force again: a filter that kills does so if it sees one of the calls
    /// (some microseconds each), or the rt_sigreturn(2) by which the thread goes back.
    ///
    /// A signal that comes for the thread is passed on as ever; a thread must stand at such a place after it as well.
    ///
    /// # Errors
    ///
    /// All of [`InjectionError`]. The process stays held, unless it died.
    pub fn userfaultfd(&mut self) -> Result<OwnedFd, InjectionError> {
        self.userfaultfd_observed(|_| {})
    }

    /// As [`Frozen::userfaultfd`], telling each step before it is taken: so that a test can die at each.
    #[doc(hidden)]
    pub fn userfaultfd_observed(
        &mut self,
        observer: impl FnMut(&'static str) + Send + 'static,
    ) -> Result<OwnedFd, InjectionError> {
        let (outbox, answers) = channel();
        let order = Order::Userfaultfd { observer: Box::new(observer), outbox };
        self.orders.send(order).map_err(|_| InjectionError::Died)?;
        match answers.recv_timeout(self.patience) {
            Ok(result) => result,
            Err(RecvTimeoutError::Disconnected) => Err(InjectionError::Died),
            Err(RecvTimeoutError::Timeout) => {
                // It is asleep in the kernel, on a lock of the target for instance, and lets go when it wakes up.
                if let Some(tracing) = self.tracer.take() {
                    Arc::clone(&self.watch).give_up(tracing);
                }
                Err(InjectionError::TimedOut { limit: self.patience })
            }
        }
    }

    /// Lets all threads go.
    #[must_use]
    pub fn resume(mut self) -> StopReport {
        let report = self.let_go();
        report.unwrap_or_else(|| self.report.clone())
    }

    fn let_go(&mut self) -> Option<StopReport> {
        let tracing = self.tracer.take()?;
        // Where the target has died the tracing thread has ended, and hears nothing.
        let _ = self.orders.send(Order::Resume);
        tracing.end()
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl Tracing {
    /// Waits until the kernel has let go of all tracees; none where the thread panicked.
    fn end(self) -> Option<StopReport> {
        let report = self.thread.join().ok();
        // A thread can be joined a moment before the kernel is done with it, and until then the target counts
        // as traced.
        let entry = format!("/proc/self/task/{}", self.tid);
        for _ in 0..10_000 {
            if !std::path::Path::new(&entry).exists() {
                break;
            }
            sleep(Duration::from_micros(20));
        }
        report
    }
}

/// How long a count has not changed.
struct Stillness {
    patience: Duration,
    count: u64,
    since: Instant,
}

impl Stillness {
    fn new(patience: Duration) -> Self {
        Self { patience, count: 0, since: Instant::now() }
    }

    /// Whether the count has been the same for too long.
    fn is_over(&mut self, count: u64) -> bool {
        if count != self.count {
            self.count = count;
            self.since = Instant::now();
        }
        self.since.elapsed() >= self.patience
    }
}

impl Watch {
    /// The tracing thread got on; whether somebody still waits for it.
    fn step(&self) -> bool {
        self.steps.fetch_add(1, Ordering::Relaxed);
        !self.is_abandoned.load(Ordering::Relaxed)
    }

    fn enter(&self, tid: Tid) {
        self.seized.lock().unwrap_or_else(PoisonError::into_inner).insert(tid);
    }

    /// A thread has died, or was let go: its number may be that of another one from here on.
    fn leave(&self, tid: Tid) {
        self.seized.lock().unwrap_or_else(PoisonError::into_inner).remove(&tid);
    }

    /// Takes note of the deaths of seized threads.
    ///
    /// A thread that calls exec waits, holding a lock that PTRACE_SEIZE needs, until the deaths of all others
    /// have been noticed. The tracing thread may be asleep on that lock; any thread of its process can notice
    /// them.
    fn reap_in_its_place(&self) {
        for tid in self.seized.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = wait::reap(*tid);
        }
    }

    /// Leaves a tracing thread that is asleep in the kernel to itself: when it wakes up it lets all go, and
    /// ends. Until then somebody has to take note of deaths, or it may never wake up.
    fn give_up(self: Arc<Self>, tracing: Tracing) {
        self.is_abandoned.store(true, Ordering::Relaxed);
        // Without this thread nothing is lost but what was said above.
        let _ = Builder::new().name("memfetch-reaper".to_owned()).spawn(move || {
            while !tracing.thread.is_finished() {
                self.reap_in_its_place();
                sleep(SILENCE);
            }
        });
    }
}

/// The life of the tracing thread.
fn trace(
    pid: Pid,
    options: &FreezeOptions,
    watch: &Arc<Watch>,
    outbox: &Sender<Held>,
    inbox: &Receiver<Order>,
) -> StopReport {
    let mut tracer = match Tracer::seize(pid, options, Arc::clone(watch)) {
        Ok(tracer) => tracer,
        Err(error) => {
            let _ = outbox.send(Err(error));
            return StopReport::default();
        }
    };
    let caught = if options.at_fault {
        watch.is_waiting.store(true, Ordering::Relaxed);
        let caught = tracer.await_fault();
        watch.is_waiting.store(false, Ordering::Relaxed);
        caught
    } else {
        Ok(())
    };
    if let Err(error) = caught.and_then(|()| tracer.hold()) {
        tracer.leave();
        let _ = outbox.send(Err(error));
        return tracer.report;
    }
    let threads = tracer.threads();
    if options.at_fault && threads.first().is_none_or(|thread| thread.signal.is_none()) {
        tracer.leave();
        let _ = outbox.send(Err(StopError::FaultLost));
        return tracer.report;
    }
    tracer.report.pause = tracer.held_for();
    if outbox.send(Ok((threads, tracer.report.clone()))).is_ok() {
        while !tracer.is_bereft() {
            match inbox.recv_timeout(TENDING) {
                Ok(Order::Userfaultfd { mut observer, outbox }) => {
                    let _ = outbox.send(tracer.userfaultfd(&mut *observer));
                }
                Ok(Order::Resume) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => tracer.tend(),
            }
        }
    }
    tracer.leave();
    tracer.report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_count_that_stands_still_uses_patience_up() {
        let mut stillness = Stillness::new(Duration::from_millis(30));
        for count in 0..5 {
            assert!(!stillness.is_over(count));
            sleep(Duration::from_millis(10));
        }
        let began = Instant::now();
        while !stillness.is_over(4) {
            assert!(began.elapsed() < Duration::from_secs(5));
            sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn who_is_given_up_learns_of_it_at_the_next_step() {
        let watch = Arc::new(Watch::default());
        assert!(watch.step());
        let (blocked, block) = channel::<()>();
        let (outbox, answers) = channel();
        let its = Arc::clone(&watch);
        let thread = std::thread::spawn(move || {
            let _ = block.recv();
            let _ = outbox.send(its.step());
            StopReport::default()
        });
        Arc::clone(&watch).give_up(Tracing { tid: 0, thread });
        drop(blocked);
        assert_eq!(answers.recv(), Ok(false));
        // The one who takes note of deaths ends with it.
        let began = Instant::now();
        while Arc::strong_count(&watch) > 1 {
            assert!(began.elapsed() < Duration::from_secs(5));
            sleep(Duration::from_millis(1));
        }
    }
}
