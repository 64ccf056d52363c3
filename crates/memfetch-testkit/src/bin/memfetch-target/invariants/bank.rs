//! The role `bank`.

use std::sync::atomic::Ordering;

use memfetch_testkit::invariants::bank::{JOURNAL, OPENING, UNDER_WAY};
use memfetch_testkit::invariants::next_random;

use super::{load, shared, small_pages, store, thread};
use crate::memory::PAGE;
use crate::{argument, fact, serve, unknown};

/// `bank [ACCOUNTS [THREADS [HOW]]]`: so many accounts on a page each, between which the threads transfer random
/// amounts; each thread keeps a journal. `HOW` is `apart`, where each thread has accounts of its own, or `locked`,
/// where a lock is taken for each transfer between any two. The order `count` answers how many transfers are done.
pub fn bank(arguments: &[String]) {
    let accounts = argument(arguments, 0, 4096_usize);
    let threads = argument(arguments, 1, 4_usize);
    let locked = argument(arguments, 2, "apart".to_owned()) == "locked";
    let (start, journals) = (small_pages(accounts), small_pages(threads));
    let lock = if locked { small_pages(1) } else { 0 };
    for number in 0..accounts {
        store(start + number * PAGE, OPENING);
    }
    fact("start", format_args!("{start:#x}"));
    fact("accounts", accounts);
    fact("journals", format_args!("{journals:#x}"));
    fact("threads", threads);
    fact("lock", format_args!("{lock:#x}"));
    for index in 0..threads {
        let (first, step) = if locked { (0, 1) } else { (index, threads) };
        let own = (first..accounts).step_by(step).map(|number| start + number * PAGE).collect::<Vec<_>>();
        let journal = journals + index * PAGE;
        thread("transferring", move || {
            let mut random = next_random(index as u64 + 1);
            loop {
                random = transfer(&own, journal, (lock, index as u64 + 1), random);
            }
        });
    }
    let done = move |index: usize| load(journals + index * PAGE + (JOURNAL - 1) * 8);
    while (0..threads).any(|index| done(index) < 2) {
        std::thread::yield_now();
    }
    serve(|order| match order {
        "count" => (0..threads).map(done).sum::<u64>().to_string(),
        _ => unknown(order),
    });
}

/// Makes a transfer between two of these accounts.
fn transfer(own: &[usize], journal: usize, (lock, name): (usize, u64), random: u64) -> u64 {
    let count = own.len() as u64;
    let first = random % count;
    let second = (first + 1 + (random >> 20) % (count - 1)) % count;
    let (from, to) = (own[first as usize], own[second as usize]);
    if lock != 0 {
        while shared(lock).compare_exchange_weak(0, name, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            std::thread::yield_now();
        }
    }
    let (had, other_had) = (load(from), load(to));
    let amount = (random >> 40) % (had / 2 + 1);
    for (index, word) in (1..).zip([from as u64, to as u64, had, other_had, amount]) {
        store(journal + index * 8, word);
    }
    store(journal, UNDER_WAY);
    store(from, had - amount);
    store(to, other_had + amount);
    store(journal, 0);
    if lock != 0 {
        store(lock, 0);
    }
    let done = journal + (JOURNAL - 1) * 8;
    store(done, load(done) + 1);
    next_random(random)
}
