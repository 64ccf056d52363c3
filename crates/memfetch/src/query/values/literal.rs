//! [`encode`]: a value as a person writes it, as the bytes that it is in memory.

use super::Type;
use crate::memory::{ByteOrder, Platform};
use crate::query::utf16;

/// A text is no value of a type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {}", kind.name())]
pub struct NotOfType {
    /// The text.
    pub text: String,
    /// The type.
    pub kind: Type,
}

/// The bytes of `1234`, `-5`, `0x4d2`, `2.5`, or of a text (without a zero behind it), in a platform's widths.
///
/// # Errors
///
/// It is no value of that type, or too large for it.
pub fn encode(kind: Type, text: &str, platform: &Platform, order: ByteOrder) -> Result<Vec<u8>, NotOfType> {
    let wrong = || NotOfType { text: text.to_owned(), kind };
    let len = usize::try_from(kind.unit(platform)).unwrap_or(8);
    let bits = 8 * len as u32;
    let mut bytes = match kind {
        Type::Unsigned(_) | Type::Pointer => {
            let value = integer(text).filter(|value| (0..1 << bits).contains(value)).ok_or_else(wrong)?;
            value.to_le_bytes()[..len].to_vec()
        }
        Type::Signed(_) => {
            let range = -(1 << (bits - 1))..1 << (bits - 1);
            let value = integer(text).filter(|value| range.contains(value)).ok_or_else(wrong)?;
            value.to_le_bytes()[..len].to_vec()
        }
        Type::Float(4) => text.parse::<f32>().map_err(|_| wrong())?.to_le_bytes().to_vec(),
        Type::Float(_) => text.parse::<f64>().map_err(|_| wrong())?.to_le_bytes().to_vec(),
        Type::Text => return Ok(text.as_bytes().to_vec()),
        Type::Utf16 => return Ok(utf16::encode(text, order)),
    };
    if order == ByteOrder::Big {
        bytes.reverse();
    }
    Ok(bytes)
}

fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let hexadecimal = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let digits = hexadecimal.unwrap_or(digits);
    // A second sign is none.
    if !digits.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let value = i128::from_str_radix(digits, if hexadecimal.is_some() { 16 } else { 10 }).ok()?;
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn little(kind: &str, text: &str) -> Result<Vec<u8>, NotOfType> {
        encode(kind.parse().unwrap(), text, &Platform::X86_64, ByteOrder::Little)
    }

    #[test]
    fn values_keep_to_their_types() {
        for (kind, text, bytes) in [
            ("i32", "-2", &[0xfe, 0xff, 0xff, 0xff][..]),
            ("u16", "0x1234", &[0x34, 0x12]),
            ("i8", "-0x80", &[0x80]),
            ("u64", "18446744073709551615", &[0xff; 8]),
            ("ptr", "0x7f", &[0x7f, 0, 0, 0, 0, 0, 0, 0]),
            ("f32", "1", &1_f32.to_le_bytes()),
            ("f64", "-2.5", &(-2.5_f64).to_le_bytes()),
            ("str", "aé", "aé".as_bytes()),
            ("utf16", "a", b"a\0"),
        ] {
            assert_eq!(little(kind, text).unwrap(), bytes, "{kind} {text}");
        }
        let big = encode(Type::Unsigned(4), "1", &Platform::X86_64, ByteOrder::Big);
        assert_eq!(big.unwrap(), [0, 0, 0, 1]);
        assert_eq!(encode(Type::Pointer, "1", &Platform::I386, ByteOrder::Little).unwrap().len(), 4);
        assert!(encode(Type::Pointer, "0x100000000", &Platform::I386, ByteOrder::Little).is_err());
        for (kind, text) in [
            ("u8", "256"),
            ("u8", "-1"),
            ("i8", "128"),
            ("i8", "-129"),
            ("u32", ""),
            ("i32", "--1"),
            ("i32", "+1"),
            ("u32", "0x"),
            ("u64", "1.5"),
            ("u64", "99999999999999999999999999999999999999999"),
            ("f32", "x"),
            ("i64", "0x-1"),
        ] {
            assert!(little(kind, text).is_err(), "{kind} {text}");
        }
    }
}
