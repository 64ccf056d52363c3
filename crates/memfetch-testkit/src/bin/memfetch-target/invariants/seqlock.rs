//! The role `seqlock`.

use std::sync::atomic::{Ordering, fence};

use memfetch_testkit::invariants::next_random;
use memfetch_testkit::invariants::seqlock::share;

use super::{load, shared, small_pages, store, thread};
use crate::memory::PAGE;
use crate::{argument, fact, serve, unknown};

/// How many words a change writes.
const STRETCH: u64 = 64;

/// `seqlock [BYTES [WRITERS]]`: an array under a sequence lock, of which the writers change a stretch, and the
/// checksum with it. Between two changes a writer does something else for longer, so that the sequence is even
/// often enough. The order `count` answers how many changes there were.
pub fn seqlock(arguments: &[String]) {
    let bytes = argument(arguments, 0, 16_usize << 20).next_multiple_of(PAGE);
    let writers = argument(arguments, 1, 2_usize);
    let (head, start) = (small_pages(1), small_pages(bytes / PAGE));
    let mut sum = 0_u64;
    for (index, at) in (0..).zip((start..start + bytes).step_by(8)) {
        store(at, index * 3);
        sum = sum.wrapping_add(share(index, index * 3));
    }
    store(head + 8, sum);
    fact("head", format_args!("{head:#x}"));
    fact("start", format_args!("{start:#x}"));
    fact("bytes", bytes);
    for index in 0..writers {
        thread("changing", move || {
            let mut random = next_random(index as u64 + 1);
            loop {
                random = change(head, start, bytes as u64 / 8, random);
                for _ in 0..writers as u64 * STRETCH * 32 {
                    random = std::hint::black_box(next_random(random));
                }
            }
        });
    }
    while load(head) < 4 {
        std::thread::yield_now();
    }
    serve(|order| match order {
        "count" => (load(head) / 2).to_string(),
        _ => unknown(order),
    });
}

/// Changes a stretch of the array.
fn change(head: usize, start: usize, count: u64, mut random: u64) -> u64 {
    let sequence = loop {
        let sequence = load(head);
        let taken = || {
            shared(head).compare_exchange_weak(sequence, sequence + 1, Ordering::AcqRel, Ordering::Relaxed)
        };
        if sequence.is_multiple_of(2) && taken().is_ok() {
            break sequence;
        }
        std::thread::yield_now();
    };
    // The stores that follow stay behind that of the sequence.
    fence(Ordering::Release);
    // Words far from each other, on many pages.
    let (first, step) = (random % count, count / STRETCH + 1);
    let mut sum = load(head + 8);
    for turn in 0..STRETCH {
        let index = (first + turn * step) % count;
        let at = start + usize::try_from(index).unwrap_or(0) * 8;
        random = next_random(random);
        sum = sum.wrapping_sub(share(index, load(at))).wrapping_add(share(index, random));
        store(at, random);
    }
    store(head + 8, sum);
    store(head, sequence + 2);
    random
}
