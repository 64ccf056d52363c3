//! Signals that must wait while somebody else's process depends on this one.

use std::marker::PhantomData;

/// SIGTSTP, SIGTTIN and SIGTTOU held back from the calling thread, and from threads that it starts, until this is
/// dropped.
///
/// ^Z would stop this process, and with it a process that it holds by ptrace, for as long as its user likes.
#[derive(Debug)]
pub struct JobControlHeld {
    before: libc::sigset_t,
    /// The mask is one thread's, so that the value must stay there.
    _of_this_thread: PhantomData<*const ()>,
}

impl JobControlHeld {
    /// Holds them back (pthread_sigmask(3)).
    #[must_use]
    pub fn new() -> Self {
        // SAFETY: all zero bytes are a valid sigset_t on Linux, and the calls below fill both.
        let (mut held, mut before): (libc::sigset_t, libc::sigset_t) = unsafe { std::mem::zeroed() };
        // SAFETY: both point to sets that live across the calls; the numbers are those of signals, and SIG_BLOCK with
        // valid pointers cannot fail.
        unsafe {
            libc::sigemptyset(&raw mut held);
            for signal in [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU] {
                libc::sigaddset(&raw mut held, signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const held, &raw mut before);
        }
        Self { before, _of_this_thread: PhantomData }
    }
}

impl Default for JobControlHeld {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for JobControlHeld {
    fn drop(&mut self) {
        // SAFETY: the set was filled by `new` on this thread, which the value cannot have left.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut()) };
    }
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
}
