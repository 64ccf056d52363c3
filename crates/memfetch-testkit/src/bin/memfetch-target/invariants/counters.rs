//! The role `counters`.

use std::arch::asm;

use super::{load, thread};
use crate::memory::{PAGE, PRIVATE, READ_WRITE, advise, map};
use crate::{argument, fact, serve, unknown};

/// `counters [PAGES [THREADS [SIZE]]]`: each thread has so many pages, in a row with those of the others, and writes
/// the number of its round into the first word of each, one page after the other, over and over. `SIZE` is `small`
/// or `huge`, the pages of the page table. The order `count` answers the sum of the rounds.
pub fn counters(arguments: &[String]) {
    let pages = argument(arguments, 0, 4096_usize);
    let threads = argument(arguments, 1, 4_usize);
    let huge = argument(arguments, 2, "small".to_owned()) == "huge";
    let bytes = pages * threads * PAGE;
    let start = map(bytes + (2 << 20), READ_WRITE, PRIVATE).next_multiple_of(2 << 20);
    advise(start, bytes, if huge { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE });
    fact("start", format_args!("{start:#x}"));
    fact("pages", pages);
    fact("threads", threads);
    let span = move |index: usize| start + index * pages * PAGE;
    for index in 0..threads {
        thread("counting", move || rounds(span(index), pages * PAGE));
    }
    let sum = move || (0..threads).map(|index| load(span(index))).sum::<u64>();
    while (0..threads).any(|index| load(span(index)) < 2) {
        std::thread::yield_now();
    }
    serve(|order| match order {
        "count" => sum().to_string(),
        _ => unknown(order),
    });
}

/// Counts, with all that it knows in registers that whoever judges can tell by their names: what they say is part of
/// the invariant.
fn rounds(start: usize, bytes: usize) {
    // SAFETY: writes the first word of each page of `start..start + bytes`, which is mapped for good and which nothing
    // refers to; touches no stack, and never returns.
    unsafe {
        asm!(
            "2:",
            "inc r12",
            "mov r13, r15",
            "3:",
            "mov qword ptr [r13], r12",
            "add r13, 4096",
            "cmp r13, r14",
            "jne 3b",
            "jmp 2b",
            in("r12") 0_u64,
            in("r13") start + bytes,
            in("r14") start + bytes,
            in("r15") start,
            options(noreturn, nostack),
        )
    }
}
