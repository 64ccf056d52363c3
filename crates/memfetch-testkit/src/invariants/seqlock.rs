//! The role `seqlock`: an array under a sequence lock, with its checksum.

use memfetch::Memory;

use super::{Invariant, Judgement, PAGE, Violation, bytes, hold, words};
use crate::Target;

/// A page with the sequence and the checksum, and an array of words elsewhere. The sequence is odd while the array and
/// the checksum change.
#[derive(Clone, Copy, Debug)]
pub struct Seqlock {
    /// Where the sequence is, with the checksum behind it.
    pub head: u64,
    /// Where the array is.
    pub start: u64,
    /// How long it is, a multiple of a page.
    pub bytes: u64,
}

/// What a word adds to the checksum, which is the wrapping sum.
#[must_use]
pub const fn share(index: u64, word: u64) -> u64 {
    (word ^ index).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(2 * index + 1)
}

impl Seqlock {
    /// By the facts of a target.
    #[must_use]
    pub fn of(target: &Target) -> Self {
        Self { head: target.number("head"), start: target.number("start"), bytes: target.number("bytes") }
    }
}

impl Invariant for Seqlock {
    /// Where the sequence is odd the judgement is not complete.
    fn check(&self, memory: &dyn Memory) -> Result<Judgement, Violation> {
        let [sequence, checksum] = words(memory, self.head)?;
        if !sequence.is_multiple_of(2) {
            return Ok(Judgement { complete: false, progress: sequence });
        }
        let mut page = vec![0; PAGE as usize];
        let mut sum = 0_u64;
        for offset in (0..self.bytes).step_by(PAGE as usize) {
            let at = self.start + offset;
            hold!(bytes(memory, at, &mut page)?, "{at:#x} cannot be read");
            for (index, raw) in (offset / 8..).zip(page.as_chunks().0) {
                sum = sum.wrapping_add(share(index, u64::from_ne_bytes(*raw)));
            }
        }
        hold!(sum == checksum, "at {sequence} the checksum is {checksum:#x}, and the array has {sum:#x}");
        Ok(Judgement::complete(sequence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::tests::Words;

    const LOCK: Seqlock = Seqlock { head: 0x1000, start: 0x10000, bytes: 2 * PAGE };

    fn memory(sequence: u64) -> Words {
        let array: Vec<u64> = (0..1024).map(|index| index * 3).collect();
        let sum = (0..).zip(&array).fold(0_u64, |sum, (index, &word)| sum.wrapping_add(share(index, word)));
        Words::new().row(0x1000, &[sequence, sum]).row(0x10000, &array)
    }

    #[test]
    fn the_sequence_says_what_can_be_judged() {
        assert_eq!(LOCK.check(&memory(8)), Ok(Judgement::complete(8)));
        let torn = memory(9).set(0x10008, 77);
        assert_eq!(LOCK.check(&torn), Ok(Judgement { complete: false, progress: 9 }));
    }

    #[test]
    fn another_word_is_found() {
        assert!(LOCK.check(&memory(8).set(0x10008, 77)).is_err());
        assert!(
            LOCK.check(&memory(8).set(0x10008, 6).set(0x10010, 3)).is_err(),
            "two words in each other's place"
        );
        assert!(LOCK.check(&memory(8).without(0x11000)).is_err());
    }
}
