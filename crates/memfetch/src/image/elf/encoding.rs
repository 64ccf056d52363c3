//! [`Encoding`]: numbers of either width and either byte order.

use crate::memory::{ByteOrder, WordSize};

/// How a core writes its numbers. Nothing is read past the end of what is given.
#[derive(Clone, Copy, Debug)]
pub(in crate::image) struct Encoding {
    pub(in crate::image) word: WordSize,
    pub(in crate::image) order: ByteOrder,
}

impl Encoding {
    /// Whether words have eight bytes.
    pub(in crate::image) fn is_64(self) -> bool {
        self.word == WordSize::Bits64
    }

    /// How many bytes a word has.
    pub(in crate::image) fn word_bytes(self) -> usize {
        if self.is_64() { 8 } else { 4 }
    }

    /// The two-byte number at `at`.
    pub(in crate::image) fn u16(self, bytes: &[u8], at: usize) -> Option<u16> {
        let field = array(bytes, at)?;
        Some(match self.order {
            ByteOrder::Little => u16::from_le_bytes(field),
            ByteOrder::Big => u16::from_be_bytes(field),
        })
    }

    /// The four-byte number at `at`.
    pub(in crate::image) fn u32(self, bytes: &[u8], at: usize) -> Option<u32> {
        let field = array(bytes, at)?;
        Some(match self.order {
            ByteOrder::Little => u32::from_le_bytes(field),
            ByteOrder::Big => u32::from_be_bytes(field),
        })
    }

    /// The four-byte number with a sign at `at`.
    pub(in crate::image) fn i32(self, bytes: &[u8], at: usize) -> Option<i32> {
        self.u32(bytes, at).map(u32::cast_signed)
    }

    /// The eight-byte number at `at`.
    pub(in crate::image) fn u64(self, bytes: &[u8], at: usize) -> Option<u64> {
        let field = array(bytes, at)?;
        Some(match self.order {
            ByteOrder::Little => u64::from_le_bytes(field),
            ByteOrder::Big => u64::from_be_bytes(field),
        })
    }

    /// The number of the width of an address at `at`.
    pub(in crate::image) fn word(self, bytes: &[u8], at: usize) -> Option<u64> {
        if self.is_64() { self.u64(bytes, at) } else { self.u32(bytes, at).map(u64::from) }
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}
