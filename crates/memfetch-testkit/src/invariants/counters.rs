//! The role `counters`: a thread walks over its pages and writes the number of the round into each.

use memfetch::Memory;
use memfetch::threads::Threads;

use super::{Invariant, Judgement, PAGE, Violation, hold, word};
use crate::Target;

/// Where `r15`, `r14`, `r13` and `r12` stand in `struct user_regs_struct`: the start and end of the thread's pages,
/// the page that it is about to write, the round.
const R15_TO_R12: std::ops::Range<usize> = 0..32;

/// The note type of the general registers.
const NT_PRSTATUS: u32 = 1;

/// Spans of pages in a row, one for each thread; the first word of a page is the round in which it was last written:
/// `c[0] >= c[1] >= ... >= c[n-1] >= c[0] - 1`.
#[derive(Clone, Copy, Debug)]
pub struct Counters {
    /// Where the first span starts.
    pub start: u64,
    /// How many pages each has.
    pub pages: u64,
    /// How many there are.
    pub threads: u64,
}

impl Counters {
    /// By the facts of a target.
    #[must_use]
    pub fn of(target: &Target) -> Self {
        Self {
            start: target.number("start"),
            pages: target.number("pages"),
            threads: target.number("threads"),
        }
    }

    /// Judges the memory together with the registers of those who write it: what a thread is about to write must fit
    /// what it has written. Returns how many threads were judged.
    ///
    /// # Errors
    ///
    /// What does not hold, or could not be read.
    pub fn check_registers(&self, memory: &dyn Memory, threads: &dyn Threads) -> Result<u64, Violation> {
        let known = threads.threads().map_err(|error| Violation(format!("threads: {error}")))?;
        let mut judged = 0;
        for thread in &known {
            // A core does not tell the names of threads: those that count are known by their first register.
            let set = thread.registers.set(NT_PRSTATUS).and_then(|set| set.get(R15_TO_R12));
            let mut registers = [0; 4];
            for (register, raw) in registers.iter_mut().zip(set.unwrap_or_default().as_chunks().0) {
                *register = u64::from_ne_bytes(*raw);
            }
            let [start, end, next, round] = registers;
            let span = self.pages * PAGE;
            if !(self.start..self.start + self.threads * span).contains(&start) {
                continue;
            }
            hold!(
                end == start + span && (start..=end).contains(&next),
                "thread {} counts from {start:#x} to {end:#x} and is at {next:#x}",
                thread.tid
            );
            let first = word(memory, start)?;
            for at in (start..end).step_by(PAGE as usize) {
                let count = word(memory, at)?;
                let fits = if next == end {
                    // Behind the last page of this round, or before the first one of it.
                    count == first && (count == round || count + 1 == round)
                } else if at == next {
                    count == round || count + 1 == round
                } else {
                    count == if at < next { round } else { round - 1 }
                };
                hold!(
                    fits,
                    "thread {} is at {next:#x} in round {round}, and {at:#x} holds {count}",
                    thread.tid
                );
            }
            judged += 1;
        }
        hold!(judged == self.threads, "{judged} of {} threads are there", self.threads);
        Ok(judged)
    }
}

impl Invariant for Counters {
    fn check(&self, memory: &dyn Memory) -> Result<Judgement, Violation> {
        let mut progress = 0_u64;
        for thread in 0..self.threads {
            let start = self.start + thread * self.pages * PAGE;
            let first = word(memory, start)?;
            let mut last = first;
            for at in (start..start + self.pages * PAGE).step_by(PAGE as usize) {
                let count = word(memory, at)?;
                hold!(
                    count <= last && count + 1 >= first,
                    "thread {thread}: {at:#x} holds {count} behind {last}; the first is {first}"
                );
                last = count;
            }
            progress = progress.wrapping_add(first);
        }
        Ok(Judgement::complete(progress))
    }
}

#[cfg(test)]
mod tests {
    use memfetch::Error;
    use memfetch::threads::{RegisterSet, Registers, Thread};

    use super::*;
    use crate::invariants::tests::Words;

    const COUNTERS: Counters = Counters { start: 0x10000, pages: 4, threads: 2 };

    fn memory(counts: [u64; 8]) -> Words {
        (0..).zip(counts).fold(Words::new(), |memory, (page, count)| memory.set(0x10000 + page * PAGE, count))
    }

    #[test]
    fn a_round_under_way_holds() {
        for counts in [[5, 5, 5, 5, 0, 0, 0, 0], [5, 4, 4, 4, 1, 0, 0, 0], [5, 5, 5, 4, 7, 7, 7, 7]] {
            let judgement = COUNTERS.check(&memory(counts)).unwrap();
            assert_eq!(judgement, Judgement::complete(counts[0] + counts[4]));
        }
    }

    #[test]
    fn torn_rounds_are_found() {
        for counts in [
            [5, 4, 5, 4, 0, 0, 0, 0],
            [4, 5, 5, 5, 0, 0, 0, 0],
            [5, 5, 5, 3, 0, 0, 0, 0],
            [5, 5, 5, 5, 0, 0, 0, 1],
            [5, 5, 0, 5, 0, 0, 0, 0],
        ] {
            assert!(COUNTERS.check(&memory(counts)).is_err(), "{counts:?}");
        }
        let missing = Words::new().set(0x10000, 1);
        assert!(COUNTERS.check(&missing).is_err());
    }

    struct Two([[u64; 4]; 2]);

    impl Threads for Two {
        fn threads(&self) -> Result<Vec<Thread>, Error> {
            let thread = |registers: &[u64; 4]| {
                let bytes = registers.iter().flat_map(|register| register.to_ne_bytes()).collect();
                let registers = Registers::Complete(vec![RegisterSet { note_type: NT_PRSTATUS, bytes }]);
                Thread { registers, ..Thread::default() }
            };
            Ok(self.0.iter().map(thread).collect())
        }
    }

    #[test]
    fn registers_must_fit_the_memory() {
        let memory = memory([5, 5, 4, 4, 7, 7, 7, 7]);
        let (start, end) = (0x10000, 0x14000);
        let other = |next, round| [end, end + 0x4000, next, round];
        for next in [0x11000, 0x12000] {
            for last in
                [other(end + 0x4000, 7), other(end + 0x4000, 8), other(end, 8), other(end + 0x3000, 7)]
            {
                assert_eq!(COUNTERS.check_registers(&memory, &Two([[start, end, next, 5], last])), Ok(2));
            }
        }
        let good = other(end, 8);
        for bad in [
            [start, end, 0x13000, 5],
            [start, end, 0x10000, 5],
            [start, end, 0x12000, 6],
            [start, end, end, 5],
        ] {
            assert!(COUNTERS.check_registers(&memory, &Two([bad, good])).is_err(), "{bad:x?}");
        }
        assert!(COUNTERS.check_registers(&memory, &Two([[0, 0, 0, 0], good])).is_err());
    }
}
