//! [`Pattern`]: what is looked for, and how it is written.

use crate::address::Span;
use crate::memory::{ByteOrder, Platform};
use crate::query::utf16;
use crate::query::values::{NotOfType, Type, encode};
use crate::region::RegionMap;
use crate::selector::Selector;

/// The longest pattern of bytes.
const LONGEST: usize = 1 << 20;

/// What is looked for.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// Bytes, each with the bits that count. As many masks as bytes.
    Bytes {
        /// What the bits are.
        bytes: Vec<u8>,
        /// Which bits count.
        mask: Vec<u8>,
    },
    /// A regular expression over bytes.
    Regex(Box<regex::bytes::Regex>),
    /// A number at an aligned address.
    Value {
        /// As it lies in memory, in 1 to 8 bytes.
        bytes: Vec<u8>,
        /// Addresses are multiples of this, a power of two.
        align: u64,
    },
    /// An aligned word that is an address in one of the regions.
    PointsTo {
        /// Which regions.
        target: Selector,
        /// Addresses are multiples of this; the width of a word unless told otherwise.
        align: Option<u64>,
    },
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// Nothing to look for.
    #[error("a pattern has at least one byte that is not arbitrary")]
    Empty,
    /// Longer than a pattern can be.
    #[error("a pattern has at most 1 MiB")]
    TooLong,
    /// A digit that is none.
    #[error("`{0}` is no hexadecimal digit; a byte is two of them, and ? stands for any")]
    HexDigit(char),
    /// Half a byte.
    #[error("the last byte has one digit only")]
    HalfByte,
    /// No regular expression.
    #[error("{0}")]
    Regex(String),
    /// No value of its type.
    #[error(transparent)]
    Value(#[from] NotOfType),
}

impl Pattern {
    /// These bytes.
    #[must_use]
    pub fn bytes(bytes: &[u8]) -> Self {
        Self::Bytes { bytes: bytes.to_vec(), mask: vec![0xff; bytes.len()] }
    }

    /// A text, in UTF-8 or UTF-16, with upper and lower case alike where that is wanted.
    ///
    /// # Errors
    ///
    /// It is empty or too long.
    pub fn text(text: &str, encoding: Encoding, ignore_case: bool) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if !ignore_case {
            return Ok(Self::bytes(&checked(encoding.encode(text))?));
        }
        if text.is_ascii() {
            let bytes = checked(encoding.encode(text))?;
            let folds = |byte: &u8| if byte.is_ascii_alphabetic() { 0xdf } else { 0xff };
            return Ok(Self::Bytes { mask: bytes.iter().map(folds).collect(), bytes });
        }
        // The cases of other letters may differ in their length.
        let mut expression = String::new();
        for c in text.chars() {
            let cases = std::iter::once(c).chain(one(c.to_lowercase())).chain(one(c.to_uppercase()));
            let mut cases: Vec<String> =
                cases.map(|c| escaped(&encoding.encode(c.encode_utf8(&mut [0; 4])))).collect();
            cases.sort();
            cases.dedup();
            expression.push_str(&format!("(?:{})", cases.join("|")));
        }
        Self::regex(&expression, false)
    }

    /// Hexadecimal bytes, such as `de ad ?? e?`; white space is where one likes.
    ///
    /// # Errors
    ///
    /// It is not that.
    pub fn hex(text: &str) -> Result<Self, PatternError> {
        let mut bytes = Vec::new();
        let mut mask = Vec::new();
        let mut digits = text.chars().filter(|c| !c.is_whitespace());
        while let Some(high) = digits.next() {
            let low = digits.next().ok_or(PatternError::HalfByte)?;
            let (high, low) = (nibble(high)?, nibble(low)?);
            bytes.push(high.0 << 4 | low.0);
            mask.push(high.1 << 4 | low.1);
        }
        if mask.iter().all(|&bits| bits == 0) {
            return Err(PatternError::Empty);
        }
        Ok(Self::Bytes { bytes: checked(bytes)?, mask })
    }

    /// A regular expression over bytes, in the syntax of the crate `regex`: `.` is any byte but a newline, `\xff` a
    /// byte, classes are those of ASCII unless `(?u)` asks for others.
    ///
    /// # Errors
    ///
    /// It is none, or compiles to more than is reasonable.
    pub fn regex(expression: &str, ignore_case: bool) -> Result<Self, PatternError> {
        let regex = regex::bytes::RegexBuilder::new(expression)
            .unicode(false)
            .case_insensitive(ignore_case)
            .size_limit(64 << 20)
            .build()
            .map_err(|error| PatternError::Regex(error.to_string()))?;
        Ok(Self::Regex(Box::new(regex)))
    }

    /// A value of a type, as [`encode`] reads it: a number at addresses that are multiples of `align`, or of its size; a
    /// text anywhere.
    ///
    /// # Errors
    ///
    /// It is none of that type.
    pub fn value(
        kind: Type,
        text: &str,
        platform: &Platform,
        order: ByteOrder,
        align: Option<u64>,
    ) -> Result<Self, PatternError> {
        let bytes = encode(kind, text, platform, order)?;
        if kind.is_text() {
            return if bytes.is_empty() {
                Err(PatternError::Empty)
            } else {
                Ok(Self::bytes(&checked(bytes)?))
            };
        }
        let align = align.unwrap_or(bytes.len() as u64).max(1).next_power_of_two();
        Ok(Self::Value { bytes, align })
    }

    /// A pointer to somewhere in the regions that `target` chooses.
    #[must_use]
    pub const fn points_to(target: Selector, align: Option<u64>) -> Self {
        Self::PointsTo { target, align }
    }
}

/// How a text is written in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// UTF-8, which has ASCII in it.
    #[default]
    Utf8,
    /// UTF-16 in this byte order.
    Utf16(ByteOrder),
}

impl Encoding {
    fn encode(self, text: &str) -> Vec<u8> {
        match self {
            Self::Utf8 => text.as_bytes().to_vec(),
            Self::Utf16(order) => utf16::encode(text, order),
        }
    }
}

/// The only character of a case mapping, if it is one.
fn one(mut cases: impl Iterator<Item = char>) -> Option<char> {
    cases.next().filter(|_| cases.next().is_none())
}

fn escaped(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
}

fn checked(bytes: Vec<u8>) -> Result<Vec<u8>, PatternError> {
    if bytes.len() > LONGEST { Err(PatternError::TooLong) } else { Ok(bytes) }
}

/// The bits of a digit, and which of them count.
fn nibble(digit: char) -> Result<(u8, u8), PatternError> {
    match digit {
        '?' => Ok((0, 0)),
        _ => match digit.to_digit(16).and_then(|value| u8::try_from(value).ok()) {
            Some(value) => Ok((value, 0xf)),
            None => Err(PatternError::HexDigit(digit)),
        },
    }
}

/// Where a pointer may point to.
pub(super) fn spans_of(target: &Selector, map: &RegionMap) -> Vec<Span> {
    match target {
        // An address that is written out means itself, and not the mapping that has it.
        Selector::In(span) => vec![*span],
        _ => Span::union(map.iter().filter(|region| target.matches(region)).map(|region| region.span)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(pattern: Pattern) -> (Vec<u8>, Vec<u8>) {
        match pattern {
            Pattern::Bytes { bytes, mask } => (bytes, mask),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn hex_has_wildcards_for_bytes_and_nibbles() {
        let (bytes, mask) = bytes_of(Pattern::hex("de AD?? d? ?e").unwrap());
        assert_eq!(bytes, [0xde, 0xad, 0, 0xd0, 0x0e]);
        assert_eq!(mask, [0xff, 0xff, 0, 0xf0, 0x0f]);
        for (text, error) in [
            ("", PatternError::Empty),
            ("????", PatternError::Empty),
            ("abc", PatternError::HalfByte),
            ("0x41", PatternError::HexDigit('x')),
            ("é0", PatternError::HexDigit('é')),
        ] {
            assert_eq!(Pattern::hex(text).unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn texts_are_encoded_and_folded() {
        let utf16 = Encoding::Utf16(ByteOrder::Little);
        assert_eq!(bytes_of(Pattern::text("aé", utf16, false).unwrap()).0, [0x61, 0, 0xe9, 0]);
        let (_, mask) = bytes_of(Pattern::text("a1", utf16, true).unwrap());
        assert_eq!(mask, [0xdf, 0xff, 0xff, 0xff]);
        let Pattern::Regex(regex) = Pattern::text("Éa", Encoding::Utf8, true).unwrap() else { panic!() };
        assert!(regex.is_match("éA".as_bytes()) && !regex.is_match("ea".as_bytes()));
        assert!(Pattern::text("", Encoding::Utf8, false).is_err());
    }
}
