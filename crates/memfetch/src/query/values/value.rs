//! [`Type`] and [`Value`]: how bytes are read, and what they are then.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::address::Address;
use crate::memory::{ByteOrder, Cause, Platform};

/// Beyond this many readers of JSON lose the last bits of integers (RFC 7493, 2.2).
const LARGEST_IN_JSON: u64 = (1 << 53) - 1;

/// How bytes are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// An unsigned number of 1, 2, 4 or 8 bytes.
    Unsigned(u8),
    /// A signed number of as many, in two's complement.
    Signed(u8),
    /// An IEEE 754 number of 4 or 8 bytes.
    Float(u8),
    /// An address of the platform's width.
    Pointer,
    /// Bytes up to a zero.
    Text,
    /// Two-byte units of UTF-16 up to a zero.
    Utf16,
}

impl Type {
    /// All of them by their names.
    pub const NAMES: [(&'static str, Self); 13] = [
        ("u8", Self::Unsigned(1)),
        ("u16", Self::Unsigned(2)),
        ("u32", Self::Unsigned(4)),
        ("u64", Self::Unsigned(8)),
        ("i8", Self::Signed(1)),
        ("i16", Self::Signed(2)),
        ("i32", Self::Signed(4)),
        ("i64", Self::Signed(8)),
        ("f32", Self::Float(4)),
        ("f64", Self::Float(8)),
        ("ptr", Self::Pointer),
        ("str", Self::Text),
        ("utf16", Self::Utf16),
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, it)| *it == self).map_or("", |(name, _)| name)
    }

    /// The length of an element in bytes; of a text, that of a character.
    #[must_use]
    pub fn unit(self, platform: &Platform) -> u64 {
        match self {
            Self::Unsigned(len) | Self::Signed(len) | Self::Float(len) => len.into(),
            Self::Pointer => platform.word.bytes().into(),
            Self::Text => 1,
            Self::Utf16 => 2,
        }
    }

    /// Whether its elements are of different lengths.
    #[must_use]
    pub const fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::Utf16)
    }

    /// The number that `bytes` are: nothing for a text, or if they are not as many as an element has.
    #[must_use]
    pub fn number(self, bytes: &[u8], platform: &Platform, order: ByteOrder) -> Option<Number> {
        if bytes.len() as u64 != self.unit(platform) {
            return None;
        }
        let add = |number: u64, &byte: &u8| number << 8 | u64::from(byte);
        let number = match order {
            ByteOrder::Little => bytes.iter().rev().fold(0, add),
            ByteOrder::Big => bytes.iter().fold(0, add),
        };
        Some(match self {
            Self::Unsigned(_) => Number::Unsigned(number),
            Self::Signed(len) => {
                let unused = 64_u32.saturating_sub(8 * u32::from(len));
                Number::Signed((number << unused).cast_signed() >> unused)
            }
            Self::Float(4) => Number::Float32(f32::from_bits(u32::try_from(number).ok()?)),
            Self::Float(_) => Number::Float64(f64::from_bits(number)),
            Self::Pointer => Number::Pointer(Address::new(number)),
            Self::Text | Self::Utf16 => return None,
        })
    }
}

/// There is no type of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no type `{0}`: there are u8 to u64, i8 to i64, f32, f64, ptr, str, utf16")]
pub struct NoType(String);

impl FromStr for Type {
    type Err = NoType;

    fn from_str(text: &str) -> Result<Self, NoType> {
        let found = Self::NAMES.iter().find(|(name, _)| *name == text);
        found.map(|(_, it)| *it).ok_or_else(|| NoType(text.to_owned()))
    }
}

/// The value of an element that is no text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// Of an unsigned type.
    Unsigned(u64),
    /// Of a signed type.
    Signed(i64),
    /// Of a float of 4 bytes.
    Float32(f32),
    /// Of a float of 8 bytes.
    Float64(f64),
    /// An address.
    Pointer(Address),
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(value) => value.fmt(f),
            Self::Signed(value) => value.fmt(f),
            // As short as tells it apart from all others: never dozens of zeros.
            Self::Float32(value) => write!(f, "{value:?}"),
            Self::Float64(value) => write!(f, "{value:?}"),
            Self::Pointer(at) => at.fmt(f),
        }
    }
}

impl Serialize for Number {
    /// As a number. As text: addresses, integers beyond 2⁵³ - 1, which many readers would round, and floats that are no
    /// numbers, for which JSON has no words.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Unsigned(value) if *value <= LARGEST_IN_JSON => serializer.serialize_u64(*value),
            Self::Signed(value) if value.unsigned_abs() <= LARGEST_IN_JSON => {
                serializer.serialize_i64(*value)
            }
            Self::Float32(value) if value.is_finite() => serializer.serialize_f32(*value),
            Self::Float64(value) if value.is_finite() => serializer.serialize_f64(*value),
            Self::Pointer(at) => at.serialize(serializer),
            Self::Unsigned(_) | Self::Signed(_) | Self::Float32(_) | Self::Float64(_) => {
                serializer.collect_str(self)
            }
        }
    }
}

/// The value of an element.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number or an address.
    Number(Number),
    /// The bytes of a text, without its zero, and how it ends.
    Text(Vec<u8>, Ending),
    /// The units of a UTF-16 text, without its zero, and how it ends.
    Utf16(Vec<u16>, Ending),
}

/// How a text ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With its zero.
    Zero,
    /// It goes on: it is longer than a text may be, or than what was asked for.
    Cut,
    /// What follows could not be read.
    Missing(Cause),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_type() {
        let bytes = [0xfe, 0xff, 0xff, 0xff, 0, 0, 0xf0, 0x3f];
        let all = [
            ("u8", Number::Unsigned(0xfe), Number::Unsigned(0xfe)),
            ("u16", Number::Unsigned(0xfffe), Number::Unsigned(0xfeff)),
            ("u32", Number::Unsigned(0xffff_fffe), Number::Unsigned(0xfeff_ffff)),
            ("u64", Number::Unsigned(0x3ff0_0000_ffff_fffe), Number::Unsigned(0xfeff_ffff_0000_f03f)),
            ("i8", Number::Signed(-2), Number::Signed(-2)),
            ("i16", Number::Signed(-2), Number::Signed(-257)),
            ("i32", Number::Signed(-2), Number::Signed(-0x0100_0001)),
            ("i64", Number::Signed(0x3ff0_0000_ffff_fffe), Number::Signed(-0x0100_0000_ffff_0fc1)),
            (
                "f64",
                Number::Float64(f64::from_bits(0x3ff0_0000_ffff_fffe)),
                Number::Float64(f64::from_bits(0xfeff_ffff_0000_f03f)),
            ),
            (
                "ptr",
                Number::Pointer(Address::new(0x3ff0_0000_ffff_fffe)),
                Number::Pointer(Address::new(0xfeff_ffff_0000_f03f)),
            ),
        ];
        for (name, little, big) in all {
            let kind: Type = name.parse().unwrap();
            let len = usize::try_from(kind.unit(&Platform::X86_64)).unwrap();
            let number = |len, order| kind.number(&bytes[..len], &Platform::X86_64, order);
            assert_eq!(number(len, ByteOrder::Little), Some(little), "{name}");
            assert_eq!(number(len, ByteOrder::Big), Some(big), "{name}");
            assert_eq!(number(len - 1, ByteOrder::Little), None, "{name}");
        }
        let float = Type::Float(4).number(&1.5_f32.to_be_bytes(), &Platform::X86_64, ByteOrder::Big);
        assert_eq!(float, Some(Number::Float32(1.5)));
        let pointer = Type::Pointer.number(&[1, 0, 0, 0], &Platform::I386, ByteOrder::Little);
        assert_eq!(pointer, Some(Number::Pointer(Address::new(1))));
        assert_eq!(Type::Text.number(b"a", &Platform::X86_64, ByteOrder::Little), None);
    }

    #[test]
    fn numbers_are_shown_short_and_json_loses_no_bits() {
        let largest = i64::try_from(LARGEST_IN_JSON).unwrap();
        for (number, shown, json) in [
            (Number::Unsigned(7), "7", "7"),
            (Number::Signed(-7), "-7", "-7"),
            (Number::Unsigned(LARGEST_IN_JSON), "9007199254740991", "9007199254740991"),
            (Number::Unsigned(LARGEST_IN_JSON + 1), "9007199254740992", "\"9007199254740992\""),
            (Number::Signed(-largest), "-9007199254740991", "-9007199254740991"),
            (Number::Signed(i64::MIN), "-9223372036854775808", "\"-9223372036854775808\""),
            (Number::Float32(0.1), "0.1", "0.1"),
            (Number::Float64(1e300), "1e300", "1e300"),
            (Number::Float64(f64::INFINITY), "inf", "\"inf\""),
            (Number::Float32(f32::NAN), "NaN", "\"NaN\""),
            (Number::Pointer(Address::new(0x10)), "0x10", "\"0x10\""),
        ] {
            assert_eq!(number.to_string(), shown);
            assert_eq!(serde_json::to_string(&number).unwrap().replace("e+", "e"), json);
        }
    }

    #[test]
    fn names_lead_to_types_and_back() {
        for (name, kind) in Type::NAMES {
            assert_eq!(kind.name(), name);
            assert_eq!(name.parse(), Ok(kind));
        }
        assert!("u128".parse::<Type>().is_err());
    }
}
