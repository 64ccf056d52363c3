//! Threads that run kernel calls which may never come back.
//!
//! A target that is stuck with its mmap_lock held, or a page whose fault nobody answers, blocks whoever reads it,
//! for ever. So the caller hands the call to a worker and waits for it as long as it likes; a worker that is
//! given up on ends by itself when, and if, the kernel lets it go.

use std::io;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use memfetch_sys::signals;

/// So many workers may be stuck before further calls are turned down at once.
const MAX_STUCK: usize = 64;

type Job = Box<dyn FnOnce() + Send>;

/// Why a job gave no result.
#[derive(Debug)]
pub enum NoResult {
    /// It did not end in time.
    TimedOut,
    /// No thread could be had to run it, or the thread died.
    NoWorker(io::Error),
}

/// A pool of workers, each of which runs one job at a time.
#[derive(Debug, Default)]
pub struct Workers {
    idle: Mutex<Vec<Sender<Job>>>,
    stuck: Arc<AtomicUsize>,
}

const RUNNING: u8 = 0;
const DONE: u8 = 1;
const GIVEN_UP: u8 = 2;

impl Workers {
    /// Runs `job` and waits for its result, at most for `limit`.
    ///
    /// What the job owns stays its own after that: it must write to nothing that the caller goes on using.
    pub fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoResult> {
        if self.stuck.load(Ordering::Relaxed) >= MAX_STUCK {
            return Err(NoResult::TimedOut);
        }
        let (result, results) = channel();
        let state = Arc::new(AtomicU8::new(RUNNING));
        let job: Job = Box::new({
            let (state, stuck) = (Arc::clone(&state), Arc::clone(&self.stuck));
            move || {
                let _ = result.send(job());
                if state.swap(DONE, Ordering::AcqRel) == GIVEN_UP {
                    stuck.fetch_sub(1, Ordering::Relaxed);
                }
            }
        });
        let worker = self.submit(job).map_err(NoResult::NoWorker)?;
        match wait(&results, limit) {
            Ok(value) => {
                self.idle().push(worker);
                Ok(value)
            }
            Err(RecvTimeoutError::Disconnected) => {
                Err(NoResult::NoWorker(io::Error::other("the thread that asked the kernel ended")))
            }
            Err(RecvTimeoutError::Timeout) => {
                self.stuck.fetch_add(1, Ordering::Relaxed);
                if state.compare_exchange(RUNNING, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire).is_err() {
                    // It came back just now.
                    self.stuck.fetch_sub(1, Ordering::Relaxed);
                    if let Ok(value) = results.try_recv() {
                        self.idle().push(worker);
                        return Ok(value);
                    }
                }
                Err(NoResult::TimedOut)
            }
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Sender<Job>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the job to an idle worker, or to a new one.
    fn submit(&self, mut job: Job) -> io::Result<Sender<Job>> {
        loop {
            let worker = self.idle().pop();
            let (worker, is_new) = match worker {
                Some(worker) => (worker, false),
                None => (start()?, true),
            };
            match worker.send(job) {
                Ok(()) => return Ok(worker),
                Err(_) if is_new => return Err(io::Error::other("a new thread ended at once")),
                Err(returned) => job = returned.0,
            }
        }
    }
}

/// Waits in small steps: time in which this whole process stood still (SIGSTOP, a debugger) is a step at the most, and not
/// time that the kernel took.
fn wait<T>(results: &Receiver<T>, limit: Duration) -> Result<T, RecvTimeoutError> {
    const STEP: Duration = Duration::from_millis(100);
    let mut left = limit;
    loop {
        let step = left.min(STEP);
        match results.recv_timeout(step) {
            Err(RecvTimeoutError::Timeout) if left > step => left -= step,
            result => return result,
        }
    }
}

fn start() -> io::Result<Sender<Job>> {
    let (sender, jobs): (_, Receiver<Job>) = channel();
    std::thread::Builder::new().name("memfetch-read".into()).spawn(move || {
        // A thread that takes a signal takes it for all of the process: what a capture holds back must not come in here.
        signals::hold_for_good();
        while let Ok(job) = jobs.recv() {
            job();
        }
    })?;
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_stuck_worker_holds_up_nobody() {
        let workers = Workers::default();
        let (release, gate) = channel::<()>();
        let started = Instant::now();
        let stuck = workers.run(Duration::from_millis(50), move || gate.recv().is_ok());
        assert!(matches!(stuck, Err(NoResult::TimedOut)));
        assert!(started.elapsed() < Duration::from_secs(5));
        assert_eq!(workers.run(Duration::from_secs(10), || 7).unwrap(), 7);
        assert_eq!(workers.stuck.load(Ordering::Relaxed), 1);
        drop(release);
        let deadline = Instant::now() + Duration::from_secs(10);
        while workers.stuck.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(workers.stuck.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn workers_are_used_again() {
        let workers = Workers::default();
        let first = workers.run(Duration::from_secs(10), || std::thread::current().id()).unwrap();
        // The worker goes back into the pool before its caller goes on.
        let second = workers.run(Duration::from_secs(10), || std::thread::current().id()).unwrap();
        assert_eq!(first, second);
    }

    #[test]
    fn too_many_stuck_workers_are_the_end() {
        let workers = Workers::default();
        workers.stuck.store(MAX_STUCK, Ordering::Relaxed);
        assert!(matches!(workers.run(Duration::from_secs(1), || ()), Err(NoResult::TimedOut)));
    }
}
