//! UTF-16 as it lies in memory: units of two bytes in the byte order of a platform.

use crate::memory::ByteOrder;

/// The bytes of a text.
#[must_use]
pub fn encode(text: &str, order: ByteOrder) -> Vec<u8> {
    let bytes = |unit: u16| match order {
        ByteOrder::Little => unit.to_le_bytes(),
        ByteOrder::Big => unit.to_be_bytes(),
    };
    text.encode_utf16().flat_map(bytes).collect()
}

/// The text that the bytes are; what is none is replaced.
#[must_use]
pub fn decode(bytes: &[u8], order: ByteOrder) -> String {
    char::decode_utf16(units(bytes, order)).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

/// The units, without an odd byte at the end.
pub(super) fn units(bytes: &[u8], order: ByteOrder) -> impl Iterator<Item = u16> + '_ {
    bytes.as_chunks::<2>().0.iter().map(move |&unit| match order {
        ByteOrder::Little => u16::from_le_bytes(unit),
        ByteOrder::Big => u16::from_be_bytes(unit),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_there_and_back() {
        for order in [ByteOrder::Little, ByteOrder::Big] {
            assert_eq!(decode(&encode("aé\u{1f600}", order), order), "aé\u{1f600}");
        }
        assert_eq!(encode("a", ByteOrder::Big), b"\0a");
        assert_eq!(decode(b"a\0\x3d\xd8b\0c", ByteOrder::Little), "a\u{fffd}b");
    }
}
