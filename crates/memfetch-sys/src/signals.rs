//! Signals that must wait while somebody else's process depends on this one.

use std::marker::PhantomData;

/// Signals held back from the calling thread, and from threads that it starts, until this is dropped.
#[derive(Debug)]
struct Held {
    before: libc::sigset_t,
    /// The mask is one thread's, so that the value must stay there.
    _of_this_thread: PhantomData<*const ()>,
}

impl Held {
    /// Holds them back (pthread_sigmask(3)).
    fn new(signals: &[i32]) -> Self {
        // SAFETY: all zero bytes are a valid sigset_t on Linux, and the calls below fill both.
        let (mut held, mut before): (libc::sigset_t, libc::sigset_t) = unsafe { std::mem::zeroed() };
        // SAFETY: both point to sets that live across the calls; the numbers are those of signals, and SIG_BLOCK with
        // valid pointers cannot fail.
        unsafe {
            libc::sigemptyset(&raw mut held);
            for signal in signals {
                libc::sigaddset(&raw mut held, *signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const held, &raw mut before);
        }
        Self { before, _of_this_thread: PhantomData }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: the set was filled by `new` on this thread, which the value cannot have left.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut()) };
    }
}

/// SIGTSTP, SIGTTIN and SIGTTOU held back from the calling thread, and from threads that it starts, until this is
/// dropped.
///
/// ^Z would stop this process, and with it a process that it holds by ptrace, for as long as its user likes.
#[derive(Debug)]
pub struct JobControlHeld(#[expect(dead_code, reason = "its end is what it is for")] Held);

impl JobControlHeld {
    /// Holds them back (pthread_sigmask(3)).
    #[must_use]
    pub fn new() -> Self {
        Self(Held::new(&[libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU]))
    }
}

impl Default for JobControlHeld {
    fn default() -> Self {
        Self::new()
    }
}

/// The signals by which others end a process.
const ENDING: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// SIGINT, SIGTERM, SIGHUP and SIGQUIT held back from the calling thread, and from threads that it starts, until this is
/// dropped: there is something that has to be taken away first.
#[derive(Debug)]
pub struct EndHeld(#[expect(dead_code, reason = "its end is what it is for")] Held);

impl EndHeld {
    /// Holds them back (pthread_sigmask(3)).
    #[must_use]
    pub fn new() -> Self {
        Self(Held::new(&ENDING))
    }

    /// Whether one of them waits that this process does not ignore (sigpending(2), sigaction(2)).
    #[must_use]
    pub fn is_due(&self) -> bool {
        // SAFETY: all zero bytes are a valid sigset_t on Linux, which the call fills.
        let mut waiting: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: it points to a set that lives across the call.
        if unsafe { libc::sigpending(&raw mut waiting) } != 0 {
            return false;
        }
        ENDING.iter().any(|&signal| {
            // SAFETY: the set was filled above, and the number is that of a signal.
            let waits = unsafe { libc::sigismember(&raw const waiting, signal) } == 1;
            waits && !is_ignored(signal)
        })
    }
}

/// Holds all of these signals back from the calling thread to its end, at which nothing is let in either: a thread that
/// takes a signal takes it for all of the process.
pub fn hold_for_good() {
    std::mem::forget((JobControlHeld::new(), EndHeld::new()));
}

impl Default for EndHeld {
    fn default() -> Self {
        Self::new()
    }
}

fn is_ignored(signal: i32) -> bool {
    // SAFETY: all zero bytes are a valid sigaction on Linux.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: with no new action the call only fills in the old one, which lives across it.
    let result = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
    result == 0 && action.sa_sigaction == libc::SIG_IGN
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocked() -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap()
    }

    #[test]
    fn the_mask_is_put_back() {
        let before = blocked();
        {
            let _held = JobControlHeld::new();
            assert_ne!(blocked() & 1 << (libc::SIGTSTP - 1), 0);
        }
        assert_eq!(blocked(), before);
    }

    #[test]
    fn a_signal_that_would_end_us_is_seen_unless_it_is_ignored() {
        let held = EndHeld::new();
        assert!(!held.is_due());
        for (signal, handler) in [(libc::SIGHUP, libc::SIG_IGN), (libc::SIGQUIT, libc::SIG_DFL)] {
            // SAFETY: neither disposition runs code; the signal goes to this thread, which holds it back.
            unsafe {
                libc::signal(signal, handler);
                libc::pthread_kill(libc::pthread_self(), signal);
            }
            assert_eq!(held.is_due(), handler == libc::SIG_DFL);
        }
        // SAFETY: as above; what is ignored is discarded, waiting or not.
        unsafe { libc::signal(libc::SIGQUIT, libc::SIG_IGN) };
        assert!(!held.is_due());
        drop(held);
        // SAFETY: as above.
        unsafe {
            libc::signal(libc::SIGHUP, libc::SIG_DFL);
            libc::signal(libc::SIGQUIT, libc::SIG_DFL);
        }
    }
}
