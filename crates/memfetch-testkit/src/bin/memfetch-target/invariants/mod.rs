//! Roles that write at full speed and keep something true at every instant, which [`memfetch_testkit::invariants`]
//! judges.

mod bank;
mod counters;
mod linked;
mod mixed;
mod pieces;
mod seqlock;

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Role;
use crate::memory::{PAGE, PRIVATE, READ_WRITE, advise, map};

/// The roles of this module.
pub const ROLES: &[Role] = &[
    ("counters", counters::counters),
    ("bank", bank::bank),
    ("seqlock", seqlock::seqlock),
    ("linked", linked::linked),
    ("mixed-writers", mixed::mixed_writers),
];

/// Stores a word: behind all stores before it, and before all behind it.
fn store(at: usize, value: u64) {
    shared(at).store(value, Ordering::Release);
}

/// Loads a word.
fn load(at: usize) -> u64 {
    shared(at).load(Ordering::Acquire)
}

/// The word at an address of a mapping of a role, as others may see it meanwhile.
fn shared<'a>(at: usize) -> &'a AtomicU64 {
    // SAFETY: the roles pass multiples of 8 in what they have mapped for reading and writing, to which nothing refers
    // but by its number, and do not keep the reference.
    unsafe { AtomicU64::from_ptr(std::ptr::with_exposed_provenance_mut(at)) }
}

/// Private memory in small pages.
fn small_pages(pages: usize) -> usize {
    let start = map(pages * PAGE, READ_WRITE, PRIVATE);
    advise(start, pages * PAGE, libc::MADV_NOHUGEPAGE);
    start
}

/// Starts a thread with a name.
fn thread(name: &str, work: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).expect("a thread starts");
}
