//! [`Type`]: how the bytes of a granule are read as a number.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::address::Address;
use crate::memory::{ByteOrder, Platform, WordSize};

/// A type of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// Unsigned, of 1, 2, 4 or 8 bytes.
    Unsigned(u8),
    /// Signed, in two's complement, of as many.
    Signed(u8),
    /// IEEE 754, of 4 or 8 bytes.
    Float(u8),
    /// An address of the platform's width.
    Pointer,
}

/// There is no type of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no type `{0}`: there are u8 to u64, i8 to i64, f32, f64, ptr")]
pub struct NoType(String);

impl FromStr for Type {
    type Err = NoType;

    fn from_str(text: &str) -> Result<Self, NoType> {
        Ok(match text {
            "u8" => Self::Unsigned(1),
            "u16" => Self::Unsigned(2),
            "u32" => Self::Unsigned(4),
            "u64" => Self::Unsigned(8),
            "i8" => Self::Signed(1),
            "i16" => Self::Signed(2),
            "i32" => Self::Signed(4),
            "i64" => Self::Signed(8),
            "f32" => Self::Float(4),
            "f64" => Self::Float(8),
            "ptr" => Self::Pointer,
            _ => return Err(NoType(text.to_owned())),
        })
    }
}

/// A number of some type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
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

impl fmt::Display for Value {
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

impl Serialize for Value {
    /// As a number; addresses, and floats that are no numbers, as text.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Unsigned(value) => serializer.serialize_u64(*value),
            Self::Signed(value) => serializer.serialize_i64(*value),
            Self::Float32(value) if value.is_finite() => serializer.serialize_f32(*value),
            Self::Float64(value) if value.is_finite() => serializer.serialize_f64(*value),
            Self::Float32(_) | Self::Float64(_) => serializer.collect_str(self),
            Self::Pointer(at) => at.serialize(serializer),
        }
    }
}

impl Type {
    /// How many bytes a value has.
    #[must_use]
    pub const fn len(self, platform: &Platform) -> u8 {
        match self {
            Self::Unsigned(len) | Self::Signed(len) | Self::Float(len) => len,
            Self::Pointer => match platform.word {
                WordSize::Bits32 => 4,
                WordSize::Bits64 => 8,
            },
        }
    }

    /// The value that `bytes` are, if they are as many as one has.
    #[must_use]
    pub fn value(self, bytes: &[u8], platform: &Platform) -> Option<Value> {
        if bytes.len() != usize::from(self.len(platform)) {
            return None;
        }
        let next = |all: u64, byte: &u8| (all << 8) | u64::from(*byte);
        let number = match platform.byte_order {
            ByteOrder::Little => bytes.iter().rev().fold(0, next),
            ByteOrder::Big => bytes.iter().fold(0, next),
        };
        Some(match self {
            Self::Unsigned(_) => Value::Unsigned(number),
            Self::Signed(len) => {
                let unused = 64_u32.saturating_sub(8 * u32::from(len));
                Value::Signed((number << unused).cast_signed() >> unused)
            }
            Self::Float(4) => Value::Float32(f32::from_bits(u32::try_from(number).ok()?)),
            Self::Float(_) => Value::Float64(f64::from_bits(number)),
            Self::Pointer => Value::Pointer(Address::new(number)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_type() {
        let bytes = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        for (name, shown) in [
            ("u8", "254"),
            ("i8", "-2"),
            ("u16", "65534"),
            ("i16", "-2"),
            ("u32", "4294967294"),
            ("i32", "-2"),
            ("u64", "18446744073709551614"),
            ("i64", "-2"),
            ("f32", "NaN"),
            ("ptr", "0xfffffffffffffffe"),
        ] {
            let kind: Type = name.parse().unwrap();
            let len = usize::from(kind.len(&Platform::X86_64));
            let value = kind.value(&bytes[..len], &Platform::X86_64).unwrap();
            assert_eq!(value.to_string(), shown, "{name}");
            assert_eq!(kind.value(&bytes[..len - 1], &Platform::X86_64), None);
        }
        let big = Platform { byte_order: ByteOrder::Big, ..Platform::X86_64 };
        assert_eq!(Type::Unsigned(2).value(&[1, 2], &big), Some(Value::Unsigned(0x102)));
        assert_eq!(
            Type::Float(8).value(&1.5_f64.to_le_bytes(), &Platform::X86_64),
            Some(Value::Float64(1.5))
        );
        assert!("u9".parse::<Type>().is_err());
    }
}
