//! [`Guardian`]: lets a held process go when the output that it is held for takes nothing any more.
//!
//! A pipe whose reader has stopped blocks the writer for ever, and nothing that the writer does can help it then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::gather::Hold;
use crate::error::{Error, OutputError};

/// How often the output is looked at.
const WATCH: Duration = Duration::from_millis(100);

/// Somebody who watches an output while a process is held for it.
pub(crate) struct Guardian {
    gave_up: Arc<AtomicBool>,
    limit: Duration,
    /// Its end ends the watch.
    _watching: Option<Sender<()>>,
}

impl Guardian {
    /// Watches until the process is let go or this is dropped; with no limit, or a process that is not held, not at all.
    pub(crate) fn watch(
        hold: &Arc<Hold>,
        position: Arc<AtomicU64>,
        limit: Option<Duration>,
    ) -> Result<Self, Error> {
        let gave_up = Arc::new(AtomicBool::new(false));
        let Some(limit) = limit.filter(|_| hold.is_held()) else {
            return Ok(Self { gave_up, limit: Duration::MAX, _watching: None });
        };
        let (watching, end) = channel();
        let (hold, told) = (Arc::clone(hold), Arc::clone(&gave_up));
        let body = move || {
            let mut last = (position.load(Ordering::Relaxed), Instant::now());
            while end.recv_timeout(WATCH) == Err(RecvTimeoutError::Timeout) && hold.is_held() {
                let now = position.load(Ordering::Relaxed);
                if now != last.0 {
                    last = (now, Instant::now());
                } else if last.1.elapsed() > limit {
                    told.store(hold.let_go(), Ordering::Relaxed);
                    return;
                }
            }
        };
        thread::Builder::new()
            .name("memfetch-guard".into())
            .spawn(body)
            .map_err(|source| Error::Os { action: "start a thread".into(), source })?;
        Ok(Self { gave_up, limit, _watching: Some(watching) })
    }

    /// Whether the process is still held, or was let go for a good reason.
    pub(crate) fn check(&self) -> Result<(), OutputError> {
        if self.gave_up.load(Ordering::Relaxed) {
            return Err(OutputError::Blocked { limit: self.limit });
        }
        Ok(())
    }
}
