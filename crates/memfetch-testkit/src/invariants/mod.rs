//! What holds at every instant in the roles that write at full speed, and who judges it: an image in which it does
//! not hold was not taken at one instant.
//!
//! Each role of `memfetch-target` in its module `invariants` has an [`Invariant`] here, which is made from the facts
//! that the role prints ([`of`]), and then judges any [`Memory`]: the process itself while it is held, or an image.
//!
//! The stores of a thread become visible in the order of its program on the machines that memfetch runs on, so that
//! "written before" in what follows means that no instant shows the later store without the earlier one.

pub mod bank;
pub mod counters;
pub mod linked;
#[cfg(test)]
mod literal;
pub mod mixed;
pub mod seqlock;

use std::fmt;

use memfetch::{Address, Memory, ReadError};

use crate::Target;

pub use bank::Bank;
pub use counters::Counters;
pub use linked::Linked;
pub use mixed::Mixed;
pub use seqlock::Seqlock;

/// The distance of what should lie on pages of its own.
pub const PAGE: u64 = 4096;

/// Something that holds at every instant of a process.
pub trait Invariant {
    /// Judges a memory.
    ///
    /// # Errors
    ///
    /// What does not hold, or could not be read.
    fn check(&self, memory: &dyn Memory) -> Result<Judgement, Violation>;
}

/// What a memory in which nothing was violated shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whether everything could be judged; it cannot where a change is under way that only its writer understands.
    pub complete: bool,
    /// A number that rises as the process works.
    pub progress: u64,
}

impl Judgement {
    const fn complete(progress: u64) -> Self {
        Self { complete: true, progress }
    }
}

/// What does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Violation {}

macro_rules! hold {
    ($holds:expr, $($what:tt)+) => {
        if !$holds {
            return Err($crate::invariants::Violation(format!($($what)+)));
        }
    };
}
use hold;

/// The invariant of a target in one of these roles.
///
/// # Panics
///
/// Where there is no such role.
#[must_use]
pub fn of(role: &str, target: &Target) -> Box<dyn Invariant> {
    match role {
        "counters" => Box::new(Counters::of(target)),
        "bank" => Box::new(Bank::of(target)),
        "seqlock" => Box::new(Seqlock::of(target)),
        "linked" => Box::new(Linked::of(target)),
        "mixed-writers" => Box::new(Mixed::of(target)),
        _ => panic!("no invariant of a role {role:?}"),
    }
}

/// Numbers that are hard to guess but the same each time: a step of xorshift64.
#[must_use]
pub const fn next_random(mut state: u64) -> u64 {
    state ^= state << 13;
    state ^= state >> 7;
    state ^ state << 17
}

/// Reads `buf.len()` bytes, or says that not even the first can be read.
fn bytes(memory: &dyn Memory, at: u64, buf: &mut [u8]) -> Result<bool, Violation> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let here = at.wrapping_add(done as u64);
        match memory.read_at(Address::new(here), rest) {
            Ok(read) if read > 0 => done += read,
            Err(ReadError::Fault(_)) if done == 0 => return Ok(false),
            other => return Err(Violation(format!("{here:#x} cannot be read: {other:?}"))),
        }
    }
    Ok(true)
}

/// Words in a row, or nothing where the first cannot be read.
fn words_or_hole<const N: usize>(memory: &dyn Memory, at: u64) -> Result<Option<[u64; N]>, Violation> {
    let mut raw = vec![0; N * 8];
    if !bytes(memory, at, &mut raw)? {
        return Ok(None);
    }
    let mut words = [0; N];
    for (word, raw) in words.iter_mut().zip(raw.as_chunks().0) {
        *word = u64::from_ne_bytes(*raw);
    }
    Ok(Some(words))
}

/// Words in a row.
fn words<const N: usize>(memory: &dyn Memory, at: u64) -> Result<[u64; N], Violation> {
    words_or_hole(memory, at)?.ok_or_else(|| Violation(format!("{at:#x} cannot be read")))
}

/// One word.
fn word(memory: &dyn Memory, at: u64) -> Result<u64, Violation> {
    words(memory, at).map(|[word]| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A memory of words at addresses; nothing else of it can be read.
    pub(super) use crate::invariants::literal::Words;

    #[test]
    fn what_cannot_be_read_is_no_word() {
        let memory = Words::new().set(0x1000, 7).set(0x1008, 8);
        assert_eq!(words::<2>(&memory, 0x1000), Ok([7, 8]));
        assert_eq!(words_or_hole::<1>(&memory, 0x2000), Ok(None));
        assert!(words::<1>(&memory, 0x2000).is_err());
        assert!(words_or_hole::<3>(&memory, 0x1000).is_err(), "half of it is there");
    }
}
