//! [`Scanner`]: where text lies in a segment. 64 bytes are looked at together, as the bits of a word.
//!
//! Which bytes can be text is worked out without branches, so that the compiler uses vector instructions for it; the
//! runs of at least so many are then found among the bits by shifts, whose number grows with the logarithm of that
//! length. What is shorter costs nothing further, and random bytes are full of what is shorter.

use std::ops::Range;

use super::encoding::{
    Encoding, is_ascii_text, is_continuation, is_latin_unit, is_latin1_text, is_unit_of_text, multibyte_text,
};
use super::rules::Rules;
use crate::memory::ByteOrder;

const BLOCK: usize = 64;

/// Text, or what may be a part of it with what lies in the next chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Run {
    /// Indices into the bytes of the segment. Units of two bytes may end one byte behind the core.
    pub start: usize,
    pub encoding: Encoding,
    pub end: usize,
}

/// Finds the runs in the core of `bytes`, and adds them in the order of their starts. `at` is the address of the first
/// byte, as far as it matters whether that is even.
pub(super) fn scan(rules: &Rules, bytes: &[u8], core: Range<usize>, at: u64, runs: &mut Vec<Run>) {
    let first = runs.len();
    for &encoding in &rules.encodings {
        let mut found = |start: usize, end: usize| {
            let run = Run { start, encoding, end };
            // What touches an edge of the core may be longer than it looks.
            let at_an_edge = start < core.start + 2 || end >= core.end;
            let text = bytes.get(start..end).unwrap_or_default();
            if at_an_edge || rules.wants(encoding, text) {
                runs.push(run);
            }
        };
        match encoding.byte_order() {
            None => scan_bytes(encoding, rules.min_length, bytes, core.clone(), &mut found),
            Some(order) => scan_units(rules, order, bytes, core.clone(), at, &mut found),
        }
    }
    if rules.encodings.len() > 1 || rules.encodings.iter().any(|encoding| encoding.byte_order().is_some()) {
        // Not the unstable one: runs of each encoding are in order, and only have to be merged.
        runs.get_mut(first..).unwrap_or_default().sort();
    }
}

fn scan_bytes(
    encoding: Encoding,
    least: usize,
    bytes: &[u8],
    core: Range<usize>,
    found: &mut impl FnMut(usize, usize),
) {
    let mut runs = BitRuns::<1>::new(least);
    // Bits of characters that began before the block.
    let mut carried = 0_u64;
    if encoding == Encoding::Utf8 {
        for start in core.start.saturating_sub(3)..core.start {
            let len = bytes.get(start..).and_then(multibyte_text).unwrap_or(0);
            carried |= ones((start + len).saturating_sub(core.start));
        }
    }
    for at in core.clone().step_by(BLOCK) {
        let block = block_at(bytes, at);
        if carried == 0 && is_zero(&block) {
            runs.take(at, 0, found);
            continue;
        }
        let text = match encoding {
            Encoding::Latin1 => bits(&block, is_latin1_text),
            _ => bits(&block, is_ascii_text),
        };
        let mut covered = u128::from(carried);
        if encoding == Encoding::Utf8 {
            let high = bits(&block, |byte| byte >= 0x80);
            if high != 0 {
                let inner = bits(&block, is_continuation);
                // Nearly all of two bytes are text, and random bytes are full of them: they are taken together, but for
                // those of which this block shows only half.
                let pairs = bits(&block, |byte| matches!(byte, 0xc3..=0xdf)) & inner >> 1;
                covered |= u128::from(pairs | pairs << 1);
                // The others have continuations behind them, as far as this block shows it.
                let behind = |bytes: u32| !(!inner >> bytes);
                let three = bits(&block, |byte| byte >= 0xe0);
                let mut leads = high & !inner & !pairs & behind(1) & (!three | behind(2));
                while leads != 0 {
                    let index = leads.trailing_zeros() as usize;
                    leads &= leads - 1;
                    let len = bytes.get(at + index..).and_then(multibyte_text).unwrap_or(0);
                    covered |= u128::from(ones(len)) << index;
                }
            }
        }
        carried = (covered >> BLOCK) as u64;
        runs.take(at, (text | covered as u64) | !ones(core.end - at), found);
    }
    runs.finish(&core, found);
}

fn scan_units(
    rules: &Rules,
    order: ByteOrder,
    bytes: &[u8],
    core: Range<usize>,
    at: u64,
    found: &mut impl FnMut(usize, usize),
) {
    let mut runs = BitRuns::<2>::new(rules.min_length);
    // Where any two bytes are some character, each text would be another one shifted by a byte.
    let odd = (at & 1) ^ (core.start as u64 & 1);
    let places = match rules.all_scripts {
        true => EVEN << odd,
        false => u64::MAX,
    };
    for at in core.clone().step_by(BLOCK) {
        let first = block_at(bytes, at);
        if is_zero(&first) && bytes.get(at + BLOCK).is_none_or(|&byte| byte == 0) {
            runs.take(at, 0, found);
            continue;
        }
        let mut text = if rules.all_scripts {
            (0..BLOCK)
                .filter(|index| places >> index & 1 == 1)
                .fold(0, |text, index| text | u64::from(is_unit_of_text(bytes, at + index, order)) << index)
        } else {
            let second = block_at(bytes, at + 1);
            match order {
                ByteOrder::Little => bits2(&first, &second, is_latin_unit),
                ByteOrder::Big => bits2(&second, &first, is_latin_unit),
            }
        };
        // A unit needs both of its bytes.
        text &= ones(bytes.len().saturating_sub(at + 1));
        runs.take(at, text | (places & !ones(core.end - at)), found);
    }
    runs.finish(&core, found);
}

/// Every second bit.
const EVEN: u64 = u64::MAX / 3;

/// Runs among bits that are `STRIDE` apart, from block to block.
///
/// Bits behind the end of the core are set, so that what reaches it is never too short.
struct BitRuns<const STRIDE: usize> {
    least: usize,
    open: [Option<usize>; 2],
    /// The last bits of the block before, as those of a block before this.
    before: u64,
    begun: bool,
}

impl<const STRIDE: usize> BitRuns<STRIDE> {
    const PLACES: u64 = if STRIDE == 1 { u64::MAX } else { EVEN };

    fn new(least: usize) -> Self {
        // What is no shorter than a block reaches over its end.
        Self { least: least.min(BLOCK / STRIDE), open: [None; 2], before: 0, begun: false }
    }

    #[inline]
    fn take(&mut self, at: usize, bits: u64, found: &mut impl FnMut(usize, usize)) {
        if !self.begun {
            self.begun = true;
            // Of whatever length: it may have begun in the chunk before.
            for (phase, open) in self.open.iter_mut().enumerate().take(STRIDE) {
                *open = (bits >> phase & 1 == 1).then_some(at + phase);
            }
            self.before = u64::MAX;
        }
        if self.open != [None; 2] {
            for (phase, open) in self.open.iter_mut().enumerate().take(STRIDE) {
                let Some(start) = *open else { continue };
                let end = (!bits & Self::PLACES << phase).trailing_zeros() as usize;
                if end < BLOCK {
                    found(start, at + end);
                    *open = None;
                }
            }
        }
        let mut starts = 0;
        if bits != 0 {
            starts = self.long(bits) & !(bits << STRIDE | self.before >> (BLOCK - STRIDE));
        }
        while starts != 0 {
            let start = starts.trailing_zeros() as usize;
            starts &= starts - 1;
            let end = start + ((!bits >> start) & Self::PLACES).trailing_zeros() as usize;
            if end < BLOCK {
                found(at + start, at + end);
            } else if let Some(open) = self.open.get_mut(start % STRIDE) {
                *open = Some(at + start);
            }
        }
        self.before = bits;
    }

    /// The bits with which at least so many begin, or with which all begin up to the end of the block.
    #[inline]
    fn long(&self, bits: u64) -> u64 {
        let mut long = bits;
        let mut sure = 1;
        while sure < self.least {
            let more = sure.min(self.least - sure);
            // Beyond the end all bits count as set.
            long &= !(!long >> (more * STRIDE));
            sure += more;
        }
        long
    }

    fn finish(self, core: &Range<usize>, found: &mut impl FnMut(usize, usize)) {
        for start in self.open.into_iter().flatten().filter(|&start| start < core.end) {
            found(start, start + (core.end - start).next_multiple_of(STRIDE));
        }
    }
}

/// A word with so many bits set, from the lowest on.
const fn ones(count: usize) -> u64 {
    if count >= BLOCK { u64::MAX } else { (1 << count) - 1 }
}

/// The bytes from `at` on, with zeros behind the last.
#[inline]
fn block_at(bytes: &[u8], at: usize) -> [u8; BLOCK] {
    let rest = bytes.get(at..).unwrap_or_default();
    match rest.first_chunk() {
        Some(block) => *block,
        None => {
            let mut block = [0; BLOCK];
            for (to, from) in block.iter_mut().zip(rest) {
                *to = *from;
            }
            block
        }
    }
}

#[inline]
fn is_zero(block: &[u8; BLOCK]) -> bool {
    block.iter().fold(0, |all, &byte| all | byte) == 0
}

/// A bit for each byte of which `is` holds.
#[inline(always)]
fn bits(block: &[u8; BLOCK], is: impl Fn(u8) -> bool) -> u64 {
    gathered(&block.map(|byte| u8::from(is(byte))))
}

/// A bit for each pair of bytes of which `is` holds.
#[inline(always)]
fn bits2(first: &[u8; BLOCK], second: &[u8; BLOCK], is: impl Fn(u8, u8) -> bool) -> u64 {
    let mut flags = [0; BLOCK];
    for ((flag, &one), &two) in flags.iter_mut().zip(first).zip(second) {
        *flag = u8::from(is(one, two));
    }
    gathered(&flags)
}

/// The lowest bits of 64 bytes as one word. Eight at a time, by a multiplication that moves each to a place of its own
/// in the highest byte.
#[inline(always)]
fn gathered(flags: &[u8; BLOCK]) -> u64 {
    let mut bits = 0;
    for (index, flags) in flags.as_chunks::<8>().0.iter().enumerate() {
        let eight = u64::from_le_bytes(*flags).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        bits |= eight << (8 * index);
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_stand_where_their_bytes_do() {
        for index in 0..BLOCK {
            let mut block = [b'a'; BLOCK];
            block[index] = 0;
            assert_eq!(bits(&block, is_ascii_text), !(1 << index));
            assert_eq!(bits2(&block, &block, |one, two| one == 0 && two == 0), 1 << index);
            assert!(!is_zero(&block));
        }
        assert!(is_zero(&[0; BLOCK]));
        assert_eq!((ones(0), ones(3), ones(64), ones(99)), (0, 7, u64::MAX, u64::MAX));
    }
}
