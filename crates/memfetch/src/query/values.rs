//! [`Values`]: memory as numbers, pointers and texts.
//!
//! An element that is not there as a whole has no value: it is told as missing, with the cause of its first byte that
//! could not be read. Texts end at their zero; one that does not end within [`LONGEST_TEXT`] bytes is cut there, and
//! the next begins behind the cut.

use std::ops::ControlFlow;
use std::str::FromStr;

use crate::address::{Address, Span};
use crate::memory::{ByteOrder, Cause, Platform, WordSize};
use crate::query::reader::Chunk;

/// What is longer is no text.
pub const LONGEST_TEXT: usize = 64 << 10;

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
            Self::Pointer => match platform.word {
                WordSize::Bits32 => 4,
                WordSize::Bits64 => 8,
            },
            Self::Text => 1,
            Self::Utf16 => 2,
        }
    }

    /// Whether its elements are of different lengths.
    #[must_use]
    pub const fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::Utf16)
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

/// The value of an element.
#[derive(Clone, Debug, PartialEq)]
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

/// What elements are told as.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// One that is there.
    Value(Address, Value),
    /// Neighbours that are not, and why the first is not. The span holds whole elements.
    Missing(Span, Cause),
    /// So many bytes at the end are no whole element.
    Rest(Address, u64),
}

/// Makes elements of the parts that a [`Reader`](super::reader::Reader) tells.
#[derive(Debug)]
pub struct Values {
    kind: Type,
    order: ByteOrder,
    /// The length of an element, or of a unit of a text.
    unit: u64,
    /// How many are still wanted.
    left: u64,
    /// The bytes of the element that is not yet whole, or of the text that has not yet ended.
    bytes: Vec<u8>,
    /// Where it begins.
    start: Address,
    /// The first cause why it cannot be whole.
    broken: Option<Cause>,
    /// How much of it is known or missing.
    seen: u64,
}

/// What takes elements.
pub type EachItem<'f, E> = dyn FnMut(Item) -> Result<(), E> + 'f;

impl Values {
    /// At most `count` elements of this type.
    #[must_use]
    pub fn new(kind: Type, platform: &Platform, order: ByteOrder, count: u64) -> Self {
        Self {
            kind,
            order,
            unit: kind.unit(platform),
            left: count,
            bytes: Vec::new(),
            start: Address::ZERO,
            broken: None,
            seen: 0,
        }
    }

    /// Takes the next part. [`ControlFlow::Break`]: there are as many elements as were wanted.
    ///
    /// # Errors
    ///
    /// What `each` gave.
    pub fn take<E>(&mut self, chunk: Chunk<'_>, each: &mut EachItem<'_, E>) -> Result<ControlFlow<()>, E> {
        match chunk {
            Chunk::Bytes(at, bytes) => {
                let mut at = at;
                for &byte in bytes {
                    self.byte(at, byte, each)?;
                    if self.left == 0 {
                        return Ok(ControlFlow::Break(()));
                    }
                    at = at.saturating_add(1);
                }
            }
            Chunk::Zeros(span) => {
                let mut at = span.start();
                while at < span.end() {
                    self.byte(at, 0, each)?;
                    if self.left == 0 {
                        return Ok(ControlFlow::Break(()));
                    }
                    at = at.saturating_add(1);
                }
            }
            Chunk::Missing(span, cause) if self.kind.is_text() => self.text_broken(span, cause, each)?,
            Chunk::Missing(span, cause) => self.missing(span, cause, each)?,
        }
        Ok(if self.left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    /// There are no more parts.
    ///
    /// # Errors
    ///
    /// What `each` gave.
    pub fn finish<E>(&mut self, each: &mut EachItem<'_, E>) -> Result<(), E> {
        if self.left == 0 || self.seen == 0 {
            return Ok(());
        }
        let rest = if self.kind.is_text() { self.seen % self.unit } else { self.seen };
        let start = self.start.saturating_add(self.seen - rest);
        if self.kind.is_text() && self.seen > rest {
            self.text(Ending::Cut, each)?;
        }
        if rest > 0 { each(Item::Rest(start, rest)) } else { Ok(()) }
    }

    fn byte<E>(&mut self, at: Address, byte: u8, each: &mut EachItem<'_, E>) -> Result<(), E> {
        if self.seen == 0 {
            self.start = at;
            self.bytes.clear();
            self.broken = None;
        }
        self.bytes.push(byte);
        self.seen += 1;
        if !self.seen.is_multiple_of(self.unit) {
            return Ok(());
        }
        if !self.kind.is_text() {
            return self.whole(each);
        }
        let unit = usize::try_from(self.unit).unwrap_or(1);
        let last = self.bytes.len().saturating_sub(unit);
        if self.bytes.get(last..).is_some_and(|unit| unit.iter().all(|&byte| byte == 0)) {
            self.bytes.truncate(last);
            return self.text(Ending::Zero, each);
        }
        if self.bytes.len() >= LONGEST_TEXT { self.text(Ending::Cut, each) } else { Ok(()) }
    }

    /// An element of a fixed length has been seen to its end.
    fn whole<E>(&mut self, each: &mut EachItem<'_, E>) -> Result<(), E> {
        self.left -= 1;
        let item = match self.broken {
            Some(cause) => Item::Missing(span(self.start, self.seen), cause),
            None => Item::Value(self.start, self.value()),
        };
        self.seen = 0;
        each(item)
    }

    fn value(&self) -> Value {
        let number = number(&self.bytes, self.order);
        match self.kind {
            Type::Signed(len) => {
                let unused = 64_u32.saturating_sub(8 * u32::from(len));
                Value::Signed((number << unused).cast_signed() >> unused)
            }
            // Four bytes make a number of 32 bits.
            Type::Float(4) => Value::Float32(f32::from_bits(number as u32)),
            Type::Float(_) => Value::Float64(f64::from_bits(number)),
            Type::Pointer => Value::Pointer(Address::new(number)),
            Type::Unsigned(_) | Type::Text | Type::Utf16 => Value::Unsigned(number),
        }
    }

    /// Elements of a fixed length that have missing bytes.
    fn missing<E>(&mut self, gap: Span, cause: Cause, each: &mut EachItem<'_, E>) -> Result<(), E> {
        let mut rest = gap;
        if self.seen > 0 {
            let (part, later) = rest.split_at(rest.start().saturating_add(self.unit - self.seen));
            self.seen += part.len();
            self.broken = self.broken.or(Some(cause));
            rest = later;
            if self.seen == self.unit {
                self.whole(each)?;
            }
        }
        // As many whole ones as are wanted, in one go.
        let whole = (rest.len() / self.unit).min(self.left);
        if whole > 0 {
            self.left -= whole;
            let (part, later) = rest.split_at(rest.start().saturating_add(whole * self.unit));
            each(Item::Missing(part, cause))?;
            rest = later;
        }
        if self.left > 0 && !rest.is_empty() && self.seen == 0 {
            self.start = rest.start();
            self.bytes.clear();
            self.broken = Some(cause);
            self.seen = rest.len();
        }
        Ok(())
    }

    /// What is missing ends a text, or stands for one.
    fn text_broken<E>(&mut self, gap: Span, cause: Cause, each: &mut EachItem<'_, E>) -> Result<(), E> {
        if self.seen > 0 {
            return self.text(Ending::Missing(cause), each);
        }
        self.left -= 1;
        each(Item::Missing(gap, cause))
    }

    fn text<E>(&mut self, ending: Ending, each: &mut EachItem<'_, E>) -> Result<(), E> {
        self.left -= 1;
        self.seen = 0;
        let bytes = std::mem::take(&mut self.bytes);
        let value = match self.kind {
            Type::Utf16 => {
                let units = bytes.chunks_exact(2).map(|unit| number(unit, self.order) as u16);
                Value::Utf16(units.collect(), ending)
            }
            _ => Value::Text(bytes, ending),
        };
        each(Item::Value(self.start, value))
    }
}

fn span(start: Address, len: u64) -> Span {
    Span::from_len(start, len).unwrap_or(Span::empty_at(start))
}

fn number(bytes: &[u8], order: ByteOrder) -> u64 {
    let add = |number: u64, &byte: &u8| number << 8 | u64::from(byte);
    match order {
        ByteOrder::Little => bytes.iter().rev().fold(0, add),
        ByteOrder::Big => bytes.iter().fold(0, add),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn items(kind: &str, order: ByteOrder, count: u64, chunks: &[Chunk<'_>]) -> Vec<Item> {
        let mut values = Values::new(kind.parse().unwrap(), &Platform::X86_64, order, count);
        let mut items = Vec::new();
        let mut each = |item: Item| -> Result<(), Infallible> {
            items.push(item);
            Ok(())
        };
        for &chunk in chunks {
            let Ok(flow) = values.take(chunk, &mut each);
            if flow.is_break() {
                break;
            }
        }
        let Ok(()) = values.finish(&mut each);
        items
    }

    fn at(value: u64) -> Address {
        Address::new(value)
    }

    fn gap(start: u64, end: u64) -> Span {
        Span::new(at(start), at(end)).unwrap()
    }

    #[test]
    fn numbers_of_every_type() {
        let bytes = [0xfe, 0xff, 0xff, 0xff, 0, 0, 0xf0, 0x3f];
        let one = |kind, order| match items(kind, order, 1, &[Chunk::Bytes(at(16), &bytes)]).remove(0) {
            Item::Value(place, value) if place == at(16) => value,
            other => panic!("{other:?}"),
        };
        for (kind, little, big) in [
            ("u8", Value::Unsigned(0xfe), Value::Unsigned(0xfe)),
            ("u16", Value::Unsigned(0xfffe), Value::Unsigned(0xfeff)),
            ("u32", Value::Unsigned(0xffff_fffe), Value::Unsigned(0xfeff_ffff)),
            ("u64", Value::Unsigned(0x3ff0_0000_ffff_fffe), Value::Unsigned(0xfeff_ffff_0000_f03f)),
            ("i8", Value::Signed(-2), Value::Signed(-2)),
            ("i16", Value::Signed(-2), Value::Signed(-257)),
            ("i32", Value::Signed(-2), Value::Signed(-0x0100_0001)),
            ("i64", Value::Signed(0x3ff0_0000_ffff_fffe), Value::Signed(-0x0100_0000_ffff_0fc1)),
            (
                "f64",
                Value::Float64(f64::from_bits(0x3ff0_0000_ffff_fffe)),
                Value::Float64(f64::from_bits(0xfeff_ffff_0000_f03f)),
            ),
            ("ptr", Value::Pointer(at(0x3ff0_0000_ffff_fffe)), Value::Pointer(at(0xfeff_ffff_0000_f03f))),
        ] {
            assert_eq!(one(kind, ByteOrder::Little), little, "{kind}");
            assert_eq!(one(kind, ByteOrder::Big), big, "{kind}");
        }
        let float = items("f32", ByteOrder::Little, 1, &[Chunk::Bytes(at(0), &1.5_f32.to_le_bytes())]);
        assert_eq!(float, [Item::Value(at(0), Value::Float32(1.5))]);
    }

    #[test]
    fn elements_lie_across_parts() {
        let chunks =
            [Chunk::Bytes(at(0), &[1, 0, 2]), Chunk::Zeros(gap(3, 5)), Chunk::Bytes(at(5), &[1, 0xff])];
        let value = |place, number| Item::Value(at(place), Value::Unsigned(number));
        assert_eq!(
            items("u16", ByteOrder::Little, 9, &chunks),
            [value(0, 1), value(2, 2), value(4, 0x100), Item::Rest(at(6), 1)]
        );
        assert_eq!(items("u16", ByteOrder::Little, 2, &chunks), [value(0, 1), value(2, 2)]);
    }

    #[test]
    fn an_element_with_a_missing_byte_has_no_value() {
        let chunks = [
            Chunk::Bytes(at(0), &[1, 0, 2]),
            Chunk::Missing(gap(3, 9), Cause::Guard),
            Chunk::Bytes(at(9), &[1, 7, 0]),
        ];
        assert_eq!(
            items("u16", ByteOrder::Little, 9, &chunks),
            [
                Item::Value(at(0), Value::Unsigned(1)),
                Item::Missing(gap(2, 4), Cause::Guard),
                Item::Missing(gap(4, 8), Cause::Guard),
                Item::Missing(gap(8, 10), Cause::Guard),
                Item::Value(at(10), Value::Unsigned(7)),
            ]
        );
        let huge = [Chunk::Missing(gap(0, 1 << 60), Cause::NotMapped)];
        assert_eq!(items("u32", ByteOrder::Little, 3, &huge), [Item::Missing(gap(0, 12), Cause::NotMapped)]);
    }

    #[test]
    fn texts_end_at_their_zero() {
        let text = |place, text: &[u8], ending| Item::Value(at(place), Value::Text(text.to_vec(), ending));
        let chunks = [Chunk::Bytes(at(0), b"a=1\0b"), Chunk::Zeros(gap(5, 6)), Chunk::Bytes(at(6), b"cut")];
        assert_eq!(
            items("str", ByteOrder::Little, 9, &chunks),
            [text(0, b"a=1", Ending::Zero), text(4, b"b", Ending::Zero), text(6, b"cut", Ending::Cut)]
        );
        assert_eq!(items("str", ByteOrder::Little, 1, &chunks), [text(0, b"a=1", Ending::Zero)]);
        let broken = [Chunk::Bytes(at(0), b"ab"), Chunk::Missing(gap(2, 8), Cause::NotMapped)];
        assert_eq!(
            items("str", ByteOrder::Little, 2, &broken),
            [text(0, b"ab", Ending::Missing(Cause::NotMapped))]
        );
        let long = vec![b'x'; LONGEST_TEXT + 1];
        let found = items("str", ByteOrder::Little, 9, &[Chunk::Bytes(at(0), &long)]);
        assert_eq!(found[0], text(0, &long[1..], Ending::Cut));
        assert_eq!(found[1], text(LONGEST_TEXT as u64, b"x", Ending::Cut));
    }

    #[test]
    fn wide_texts_have_zeros_in_them() {
        let units = |text: &str, ending| Value::Utf16(text.encode_utf16().collect(), ending);
        let bytes: Vec<u8> = "hé\0x".encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert_eq!(
            items("utf16", ByteOrder::Big, 9, &[Chunk::Bytes(at(2), &bytes), Chunk::Bytes(at(10), &[0])]),
            [
                Item::Value(at(2), units("hé", Ending::Zero)),
                Item::Value(at(8), units("x", Ending::Cut)),
                Item::Rest(at(10), 1),
            ]
        );
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
