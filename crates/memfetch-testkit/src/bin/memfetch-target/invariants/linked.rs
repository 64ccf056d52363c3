//! The role `linked`.

use std::sync::{Arc, Barrier};

use memfetch_testkit::invariants::linked::{
    BUILDING, IDLE, INTENT, LINKING, MAGIC, NEXT, PREVIOUS, RELEASING, SEAL, seal,
};
use memfetch_testkit::invariants::next_random;

use super::{load, small_pages, store, thread};
use crate::memory::{PAGE, PRIVATE, READ_WRITE, advise, map_at, unmap};
use crate::{argument, fact, serve, unknown};

/// How many pages a list has beside its nodes.
const SPARE: usize = 256;

/// `linked [NODES [THREADS]]`: lists of so many nodes, each node a page, one list for each thread, which moves its
/// nodes into pages that were unmapped, given back by MADV_DONTNEED or mapped anew. The order `count` answers how many
/// moves are done.
pub fn linked(arguments: &[String]) {
    let nodes = argument(arguments, 0, 2048_usize);
    let threads = argument(arguments, 1, 2_usize);
    let pages = nodes + 1 + SPARE;
    let (start, intents) = (small_pages(pages * threads), small_pages(threads));
    fact("start", format_args!("{start:#x}"));
    fact("pages", pages);
    fact("nodes", nodes);
    fact("intents", format_args!("{intents:#x}"));
    fact("threads", threads);
    // No thread maps anything of its own once there are holes that only the lists may use.
    let begin = Arc::new(Barrier::new(threads));
    for index in 0..threads {
        let begin = Arc::clone(&begin);
        let (start, intent) = (start + index * pages * PAGE, intents + index * PAGE);
        thread("moving", move || {
            begin.wait();
            move_for_ever(start, nodes, intent, index as u64 + 1)
        });
    }
    let done = move |index: usize| load(intents + index * PAGE + (INTENT - 1) * 8);
    while (0..threads).any(|index| done(index) < 1000) {
        std::thread::yield_now();
    }
    serve(|order| match order {
        "count" => (0..threads).map(done).sum::<u64>().to_string(),
        _ => unknown(order),
    });
}

/// A page in no list.
#[derive(Clone, Copy)]
enum Free {
    Mapped(usize),
    Unmapped(usize),
}

fn build(at: usize, key: u64, moves: u64, next: u64, previous: u64) {
    for (index, word) in (0..).zip([MAGIC, key, moves, next, previous]) {
        store(at + index * 8, word);
    }
    store(at + SEAL as usize, seal(at as u64, key, moves));
}

fn move_for_ever(start: usize, nodes: usize, intent: usize, mut random: u64) -> ! {
    let place = |key: usize| start + key % (nodes + 1) * PAGE;
    for key in 0..=nodes {
        build(place(key), key as u64, 0, place(key + 1) as u64, place(key + nodes) as u64);
    }
    let mut used: Vec<usize> = (1..=nodes).map(place).collect();
    let mut free: Vec<Free> =
        (0..SPARE).map(|index| Free::Mapped(start + (nodes + 1 + index) * PAGE)).collect();
    loop {
        random = next_random(random);
        let node = &mut used[(random % nodes as u64) as usize];
        let spare = &mut free[((random >> 32) % SPARE as u64) as usize];
        let old = *node;
        let new = match *spare {
            Free::Mapped(at) | Free::Unmapped(at) => at,
        };
        store(intent + 8, old as u64);
        store(intent + 16, new as u64);
        store(intent, BUILDING);
        if let Free::Unmapped(at) = *spare {
            fresh(at);
        }
        let [key, moves, next, previous] = [1, 2, 3, 4].map(|word| load(old + word * 8));
        build(new, key, moves + 1, next, previous);
        store(intent, LINKING);
        store(previous as usize + NEXT as usize, new as u64);
        store(next as usize + PREVIOUS as usize, new as u64);
        store(intent, RELEASING);
        *spare = release(old, random >> 48);
        store(intent, IDLE);
        store(intent + 24, load(intent + 24) + 1);
        *node = new;
    }
}

/// Gives a page back in one of three ways.
fn release(at: usize, how: u64) -> Free {
    match how % 3 {
        0 => {
            unmap(at, PAGE);
            Free::Unmapped(at)
        }
        1 => {
            unmap(at, PAGE);
            fresh(at);
            Free::Mapped(at)
        }
        _ => {
            advise(at, PAGE, libc::MADV_DONTNEED);
            Free::Mapped(at)
        }
    }
}

fn fresh(at: usize) {
    map_at(at, PAGE, READ_WRITE, PRIVATE, -1);
}
