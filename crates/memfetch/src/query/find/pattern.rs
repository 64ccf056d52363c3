//! [`Pattern`]: what is looked for, and how it is written.

use std::fmt;
use std::str::FromStr;

use crate::address::Span;
use crate::memory::ByteOrder;
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
    /// No number of that type.
    #[error("`{text}` is no {kind}")]
    Value {
        /// What was given.
        text: String,
        /// What it should be.
        kind: ValueType,
    },
    /// No type of that name.
    #[error("`{0}` is no type: u8, u16, u32, u64, i8, i16, i32, i64, f32, f64 are")]
    Type(String),
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

    /// A number of a type, at addresses that are multiples of `align`, or of its size.
    ///
    /// # Errors
    ///
    /// It is no number of that type.
    pub fn value(
        kind: ValueType,
        text: &str,
        order: ByteOrder,
        align: Option<u64>,
    ) -> Result<Self, PatternError> {
        let Value(bytes) = Value::parse(kind, text, order)?;
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
            Self::Utf16(ByteOrder::Little) => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            Self::Utf16(ByteOrder::Big) => text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
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

/// The type of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "they are what they are called")]
pub enum ValueType {
    U8,
    U16,
    U32,
    U64,
    I8,
    I16,
    I32,
    I64,
    F32,
    F64,
}

/// All types, with their names.
const TYPES: [(&str, ValueType); 10] = [
    ("u8", ValueType::U8),
    ("u16", ValueType::U16),
    ("u32", ValueType::U32),
    ("u64", ValueType::U64),
    ("i8", ValueType::I8),
    ("i16", ValueType::I16),
    ("i32", ValueType::I32),
    ("i64", ValueType::I64),
    ("f32", ValueType::F32),
    ("f64", ValueType::F64),
];

impl FromStr for ValueType {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let found = TYPES.iter().find(|(name, _)| *name == text);
        found.map(|(_, kind)| *kind).ok_or_else(|| PatternError::Type(text.to_owned()))
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = TYPES.iter().find(|(_, kind)| kind == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

/// A number as it lies in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value(pub Vec<u8>);

impl Value {
    /// Reads `1234`, `-5`, `0x4d2`, or `2.5`.
    ///
    /// # Errors
    ///
    /// It is no number of that type.
    pub fn parse(kind: ValueType, text: &str, order: ByteOrder) -> Result<Self, PatternError> {
        let wrong = || PatternError::Value { text: text.to_owned(), kind };
        let integer = |min: i128, max: i128| {
            integer(text).filter(|value| (min..=max).contains(value)).ok_or_else(wrong)
        };
        let mut bytes = match kind {
            ValueType::U8 => (integer(0, u8::MAX.into())? as u8).to_le_bytes().to_vec(),
            ValueType::U16 => (integer(0, u16::MAX.into())? as u16).to_le_bytes().to_vec(),
            ValueType::U32 => (integer(0, u32::MAX.into())? as u32).to_le_bytes().to_vec(),
            ValueType::U64 => (integer(0, u64::MAX.into())? as u64).to_le_bytes().to_vec(),
            ValueType::I8 => (integer(i8::MIN.into(), i8::MAX.into())? as i8).to_le_bytes().to_vec(),
            ValueType::I16 => (integer(i16::MIN.into(), i16::MAX.into())? as i16).to_le_bytes().to_vec(),
            ValueType::I32 => (integer(i32::MIN.into(), i32::MAX.into())? as i32).to_le_bytes().to_vec(),
            ValueType::I64 => (integer(i64::MIN.into(), i64::MAX.into())? as i64).to_le_bytes().to_vec(),
            ValueType::F32 => text.parse::<f32>().map_err(|_| wrong())?.to_le_bytes().to_vec(),
            ValueType::F64 => text.parse::<f64>().map_err(|_| wrong())?.to_le_bytes().to_vec(),
        };
        if order == ByteOrder::Big {
            bytes.reverse();
        }
        Ok(Self(bytes))
    }
}

fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let hexadecimal = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let digits = hexadecimal.unwrap_or(digits);
    if !digits.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let value = i128::from_str_radix(digits, if hexadecimal.is_some() { 16 } else { 10 }).ok()?;
    Some(if negative { -value } else { value })
}

/// Where a pointer may point to.
pub(super) fn spans_of(target: &Selector, map: &crate::region::RegionMap) -> Vec<Span> {
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
    fn values_keep_to_their_types() {
        let value = |kind: &str, text| Value::parse(kind.parse().unwrap(), text, ByteOrder::Little);
        assert_eq!(value("i32", "-2").unwrap().0, [0xfe, 0xff, 0xff, 0xff]);
        assert_eq!(value("u16", "0x1234").unwrap().0, [0x34, 0x12]);
        assert_eq!(value("i8", "-0x80").unwrap().0, [0x80]);
        assert_eq!(value("u64", "18446744073709551615").unwrap().0, [0xff; 8]);
        assert_eq!(value("f64", "1").unwrap().0, 1_f64.to_le_bytes());
        let big = Value::parse(ValueType::U32, "1", ByteOrder::Big).unwrap();
        assert_eq!(big.0, [0, 0, 0, 1]);
        for (kind, text) in [
            ("u8", "256"),
            ("u8", "-1"),
            ("i8", "128"),
            ("u32", ""),
            ("i32", "--1"),
            ("i32", "+1"),
            ("u32", "0x"),
            ("u64", "1.5"),
            ("f32", "x"),
            ("i64", "0x-1"),
        ] {
            assert!(value(kind, text).is_err(), "{kind} {text}");
        }
        assert!("u128".parse::<ValueType>().is_err());
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
