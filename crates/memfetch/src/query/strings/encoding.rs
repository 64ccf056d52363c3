//! [`Encoding`]: how text lies in memory, and which characters count as text.

use std::borrow::Cow;

use serde::Serialize;

use crate::memory::ByteOrder;
use crate::query::utf16;

/// How text lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// A byte a character, of 7 bits: a space, a tab, or a visible one.
    Ascii,
    /// UTF-8, of which ASCII is a part.
    Utf8,
    /// A byte a character, of 8 bits: ISO 8859-1, of which ASCII is a part.
    Latin1,
    /// UTF-16, the low byte first.
    Utf16Le,
    /// UTF-16, the high byte first.
    Utf16Be,
}

impl Encoding {
    /// The byte order of its units, where a unit has two bytes.
    #[must_use]
    pub const fn byte_order(self) -> Option<ByteOrder> {
        match self {
            Self::Utf16Le => Some(ByteOrder::Little),
            Self::Utf16Be => Some(ByteOrder::Big),
            Self::Ascii | Self::Utf8 | Self::Latin1 => None,
        }
    }

    /// The characters of what a scan found to be text in this encoding.
    pub(super) fn decode(self, bytes: &[u8]) -> Cow<'_, str> {
        match self.byte_order() {
            Some(order) => Cow::Owned(utf16::decode(bytes, order)),
            None if self == Self::Latin1 && !bytes.is_ascii() => {
                Cow::Owned(bytes.iter().map(|&byte| char::from(byte)).collect())
            }
            None => String::from_utf8_lossy(bytes),
        }
    }

    /// How many characters that are.
    pub(super) fn characters(self, bytes: &[u8]) -> usize {
        match self {
            Self::Ascii | Self::Latin1 => bytes.len(),
            Self::Utf8 => bytes.iter().filter(|&&byte| !is_continuation(byte)).count(),
            Self::Utf16Le => {
                utf16::units(bytes, ByteOrder::Little).filter(|unit| !is_low_surrogate(*unit)).count()
            }
            Self::Utf16Be => {
                utf16::units(bytes, ByteOrder::Big).filter(|unit| !is_low_surrogate(*unit)).count()
            }
        }
    }

    /// The last place up to `most`, in text of this encoding, at which a character begins.
    pub(super) fn boundary(self, bytes: &[u8], most: usize) -> usize {
        let begins = |at: usize| match (self, bytes.get(at..)) {
            (Self::Utf8, Some(&[byte, ..])) => !is_continuation(byte),
            (Self::Utf16Le, Some(&[low, high, ..])) => !is_low_surrogate(u16::from_le_bytes([low, high])),
            (Self::Utf16Be, Some(&[high, low, ..])) => !is_low_surrogate(u16::from_be_bytes([high, low])),
            _ => true,
        };
        let step = if self.byte_order().is_some() { 2 } else { 1 };
        (0..=most).rev().step_by(step).find(|&at| begins(at)).unwrap_or(most)
    }
}

/// Whether a byte stands inside a character of UTF-8.
pub(super) const fn is_continuation(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

/// Whether a unit is the second of a character of UTF-16.
pub(super) const fn is_low_surrogate(unit: u16) -> bool {
    unit & 0xfc00 == 0xdc00
}

/// Whether a unit is the first of two.
const fn is_high_surrogate(unit: u16) -> bool {
    unit & 0xfc00 == 0xd800
}

/// Whether a byte is text in ASCII. Line ends are not: they end a string.
pub(super) const fn is_ascii_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~')
}

/// Whether a byte is text in ISO 8859-1. The soft hyphen is none: it cannot be seen.
pub(super) const fn is_latin1_text(byte: u8) -> bool {
    is_ascii_text(byte) | ((byte >= 0xa0) & (byte != 0xad))
}

/// Whether a unit of UTF-16 is text of a Latin script, given as its two bytes: Latin-1, Latin Extended-A, the usual
/// dashes, quotation marks, ellipsis and bullet, the euro.
///
/// Of the punctuation from U+2010 on those are left out that two bytes of plain text often look like, such as a pair of
/// spaces (U+2020). Written without branches, so that the compiler can do it for many bytes at once.
pub(super) const fn is_latin_unit(low: u8, high: u8) -> bool {
    let punctuation = (low >= 0x10) & (low <= 0x1e) | (low == 0x22) | (low == 0x26) | (low == 0xac);
    ((high == 0) & is_latin1_text(low)) | ((high == 1) & (low < 0x80)) | ((high == 0x20) & punctuation)
}

/// Whether a character is text: no control and no line end but the tab, not for private use, none that is not meant for
/// interchange, and none of the planes in which nothing is assigned.
pub(super) const fn is_text(c: char) -> bool {
    match c as u32 {
        code @ 0..=0x7f => is_ascii_text(code as u8),
        0x80..=0x9f | 0xad | 0x2028 | 0x2029 | 0xe000..=0xf8ff | 0xfdd0..=0xfdef => false,
        0xfff0..=0xfffb | 0xfffd => false,
        code => code < 0x4_0000 && code & 0xfffe != 0xfffe,
    }
}

/// The length of the character of UTF-8 that `bytes` begin with, if it has several bytes and is text.
///
/// Source: table 3-7 of the Unicode Standard, well-formed UTF-8 byte sequences.
pub(super) fn multibyte_text(bytes: &[u8]) -> Option<usize> {
    let bits = |byte: u8| u32::from(byte & 0x3f);
    let (code, len, least) = match bytes {
        [a @ 0xc2..=0xdf, b, ..] if is_continuation(*b) => (u32::from(*a & 0x1f) << 6 | bits(*b), 2, 0x80),
        [a @ 0xe0..=0xef, b, c, ..] if is_continuation(*b) && is_continuation(*c) => {
            (u32::from(*a & 0x0f) << 12 | bits(*b) << 6 | bits(*c), 3, 0x800)
        }
        [a @ 0xf0..=0xf4, b, c, d, ..]
            if is_continuation(*b) && is_continuation(*c) && is_continuation(*d) =>
        {
            (u32::from(*a & 0x07) << 18 | bits(*b) << 12 | bits(*c) << 6 | bits(*d), 4, 0x1_0000)
        }
        _ => return None,
    };
    match char::from_u32(code) {
        Some(c) if code >= least && is_text(c) => Some(len),
        _ => None,
    }
}

/// Whether the unit at `at` is part of a character of UTF-16 that is text, of any script.
pub(super) fn is_unit_of_text(bytes: &[u8], at: usize, order: ByteOrder) -> bool {
    let unit = |at: usize| utf16::units(bytes.get(at..at.checked_add(2)?)?, order).next();
    let is_pair = |high: Option<u16>, low: Option<u16>| match (high, low) {
        (Some(high), Some(low)) => {
            char::decode_utf16([high, low]).next().is_some_and(|c| c.is_ok_and(is_text))
        }
        _ => false,
    };
    match unit(at) {
        None => false,
        Some(high) if is_high_surrogate(high) => is_pair(Some(high), unit(at.saturating_add(2))),
        Some(low) if is_low_surrogate(low) => {
            let high = at.checked_sub(2).and_then(unit).filter(|high| is_high_surrogate(*high));
            is_pair(high, Some(low))
        }
        Some(unit) => char::from_u32(unit.into()).is_some_and(is_text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multibyte_characters_are_those_of_the_standard_library() {
        for code in 0x80..=0x11_ffff_u32 {
            let Some(c) = char::from_u32(code) else { continue };
            let mut bytes = [0; 4];
            let len = c.encode_utf8(&mut bytes).len();
            assert_eq!(multibyte_text(&bytes), is_text(c).then_some(len), "{code:x}");
            assert_eq!(multibyte_text(&bytes[..len - 1]), None);
        }
        for overlong in [&b"\xc0\xaf"[..], b"\xc1\xbf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xed\xa0\x80"]
        {
            assert_eq!(multibyte_text(overlong), None);
        }
    }

    #[test]
    fn latin_units_are_text() {
        for unit in 0..=u16::MAX {
            let [low, high] = unit.to_le_bytes();
            let latin = is_latin_unit(low, high);
            let c = char::from_u32(unit.into());
            assert!(!latin || c.is_some_and(is_text), "{unit:x}");
            assert_eq!(is_unit_of_text(&[low, high], 0, ByteOrder::Little), c.is_some_and(is_text));
            // No text in plain ASCII is read as dashes.
            assert!(!latin || high != 0x20 || !(is_ascii_text(low) && low == high), "{unit:x}");
        }
    }

    #[test]
    fn pieces_end_between_characters() {
        assert_eq!(Encoding::Utf8.boundary("aé".as_bytes(), 2), 1);
        assert_eq!(Encoding::Utf8.boundary("aé".as_bytes(), 3), 3);
        let emoji = [0x61, 0, 0x3d, 0xd8, 0, 0xde, 0x62, 0];
        assert_eq!(Encoding::Utf16Le.boundary(&emoji, 4), 2);
        assert_eq!(Encoding::Utf16Le.boundary(&emoji, 6), 6);
        assert_eq!(Encoding::Utf16Le.characters(&emoji), 3);
    }
}
