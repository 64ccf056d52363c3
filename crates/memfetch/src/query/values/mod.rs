//! [`Values`]: memory as numbers, pointers and texts.
//!
//! An element that is not there as a whole has no value: it is told as missing, with the cause of its first byte that
//! could not be read. Texts end at their zero; one that does not end within [`LONGEST_TEXT`] bytes is cut there, and
//! the next begins behind the cut.

mod literal;
mod value;

use std::ops::ControlFlow;

pub use literal::{NotOfType, encode};
pub use value::{Ending, NoType, Number, Type, Value};

use crate::address::{Address, Span};
use crate::memory::{ByteOrder, Cause, Platform};
use crate::query::reader::Chunk;
use crate::query::utf16;

/// What is longer is no text.
pub const LONGEST_TEXT: usize = 64 << 10;

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
    platform: Platform,
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
            platform: *platform,
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
        let number = self.kind.number(&self.bytes, &self.platform, self.order);
        let item = match (self.broken, number) {
            (Some(cause), _) => Item::Missing(span(self.start, self.seen), cause),
            (None, Some(number)) => Item::Value(self.start, Value::Number(number)),
            (None, None) => Item::Rest(self.start, self.seen),
        };
        self.seen = 0;
        each(item)
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
            Type::Utf16 => Value::Utf16(utf16::units(&bytes, self.order).collect(), ending),
            _ => Value::Text(bytes, ending),
        };
        each(Item::Value(self.start, value))
    }
}

fn span(start: Address, len: u64) -> Span {
    Span::from_len(start, len).unwrap_or(Span::empty_at(start))
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
    fn elements_lie_across_parts() {
        let chunks =
            [Chunk::Bytes(at(0), &[1, 0, 2]), Chunk::Zeros(gap(3, 5)), Chunk::Bytes(at(5), &[1, 0xff])];
        let value = |place, number| Item::Value(at(place), Value::Number(Number::Unsigned(number)));
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
                Item::Value(at(0), Value::Number(Number::Unsigned(1))),
                Item::Missing(gap(2, 4), Cause::Guard),
                Item::Missing(gap(4, 8), Cause::Guard),
                Item::Missing(gap(8, 10), Cause::Guard),
                Item::Value(at(10), Value::Number(Number::Unsigned(7))),
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
}
