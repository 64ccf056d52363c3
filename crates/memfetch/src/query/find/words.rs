//! Aligned words: numbers, and pointers into regions.
//!
//! Written so that the compiler turns the look at a block of words into a few vector instructions: most blocks have none of
//! what is looked for, and only in those that do each word is looked at for itself.

use std::ops::Range;

use crate::address::Span;
use crate::memory::ByteOrder;

/// So many bytes are looked at together.
const BLOCK: usize = 256;

/// Offsets in `range` of `bytes` at which one of the spans is pointed to by a word of `N` bytes. `base` is the address of
/// the first byte.
pub(super) fn pointers<const N: usize>(
    bytes: &[u8],
    range: Range<usize>,
    base: u64,
    align: u64,
    order: ByteOrder,
    spans: &[Span],
    found: &mut impl FnMut(usize),
) {
    let (Some(first), Some(last)) = (spans.first(), spans.last()) else { return };
    let (low, extent) = (first.start().get(), last.end().get().wrapping_sub(first.start().get()));
    let hits = |word: u64| {
        let index = spans.partition_point(|span| span.end().get() <= word);
        spans.get(index).is_some_and(|span| span.start().get() <= word)
    };
    let is_near = |word: &[u8; N]| number(word, order).wrapping_sub(low) < extent;
    words::<N>(bytes, range, base, align, is_near, &mut |offset, word| {
        if hits(number(word, order)) {
            found(offset);
        }
    });
}

/// Offsets in `range` of `bytes` at which this word lies.
pub(super) fn values<const N: usize>(
    bytes: &[u8],
    range: Range<usize>,
    base: u64,
    align: u64,
    value: [u8; N],
    found: &mut impl FnMut(usize),
) {
    let value_number = number(&value, ByteOrder::Little);
    let is_it = |word: &[u8; N]| number(word, ByteOrder::Little) == value_number;
    words::<N>(bytes, range, base, align, is_it, &mut |offset, _| found(offset));
}

#[inline(always)]
fn number<const N: usize>(word: &[u8; N], order: ByteOrder) -> u64 {
    let mut bytes = [0; 8];
    match order {
        ByteOrder::Little => {
            if let Some(low) = bytes.first_chunk_mut::<N>() {
                *low = *word;
            }
            u64::from_le_bytes(bytes)
        }
        ByteOrder::Big => {
            if let Some(low) = bytes.last_chunk_mut::<N>() {
                *low = *word;
            }
            u64::from_be_bytes(bytes)
        }
    }
}

/// Calls `found` for the words that `wanted` accepts.
#[inline(always)]
fn words<const N: usize>(
    bytes: &[u8],
    range: Range<usize>,
    base: u64,
    align: u64,
    wanted: impl Fn(&[u8; N]) -> bool,
    found: &mut impl FnMut(usize, &[u8; N]),
) {
    let skew = base.wrapping_add(range.start as u64).wrapping_neg() & (align - 1);
    let start = range.start.saturating_add(skew as usize);
    let Some(part) = bytes.get(start..range.end) else { return };
    if align == N as u64 {
        for (block_index, block) in part.chunks(BLOCK).enumerate() {
            let (block_words, _) = block.as_chunks::<N>();
            // No way out in between, so that it becomes vector instructions.
            let mut any = false;
            for word in block_words {
                any |= wanted(word);
            }
            if any {
                for (index, word) in block_words.iter().enumerate().filter(|(_, word)| wanted(word)) {
                    found(start + block_index * BLOCK + index * N, word);
                }
            }
        }
        return;
    }
    let step = usize::try_from(align).unwrap_or(usize::MAX);
    for offset in (0..part.len().saturating_sub(N - 1)).step_by(step) {
        let word = part.get(offset..).and_then(|rest| rest.first_chunk::<N>());
        if let Some(word) = word.filter(|word| wanted(word)) {
            found(start + offset, word);
        }
    }
}
