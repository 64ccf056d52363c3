//! [`Typed`]: values, one a line.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::Write;
use std::ops::ControlFlow;

use memfetch::query::atlas::Atlas;
use memfetch::query::reader::Chunk;
use memfetch::query::values::{Ending, Item, Number, Type, Value, Values};
use memfetch::{Address, Cause, Gaps, Span};
use serde::Serialize;

use super::Show;
use super::json::{List, Subject};
use crate::failure::Failure;
use crate::quantity::count;
use crate::text::{Paint, printable};

/// Values, one a line.
pub struct Typed<'a, 'b, W> {
    values: Values,
    lines: Lines<'a, 'b, W>,
}

struct Lines<'a, 'b, W> {
    kind: Type,
    /// The length of an element.
    unit: u64,
    atlas: &'a mut Atlas<'b>,
    paint: Paint,
    form: Form<W>,
    gaps: Gaps,
    rest: u64,
}

enum Form<W> {
    Text(W),
    Json(List<W>),
}

impl<'a, 'b, W: Write> Typed<'a, 'b, W> {
    /// Lines of text. `unit` is the length of an element in bytes.
    pub const fn lines(
        values: Values,
        kind: Type,
        unit: u64,
        atlas: &'a mut Atlas<'b>,
        paint: Paint,
        out: W,
    ) -> Self {
        let form = Form::Text(out);
        Self { values, lines: Lines { kind, unit, atlas, paint, form, gaps: Gaps::new(), rest: 0 } }
    }

    /// A JSON object.
    pub const fn json(
        values: Values,
        kind: Type,
        unit: u64,
        atlas: &'a mut Atlas<'b>,
        subject: Subject,
        out: W,
    ) -> Self {
        let form = Form::Json(List::new(subject, "values", out));
        Self {
            values,
            lines: Lines { kind, unit, atlas, paint: Paint::OFF, form, gaps: Gaps::new(), rest: 0 },
        }
    }
}

impl<W: Write> Show for Typed<'_, '_, W> {
    fn show(&mut self, chunk: Chunk<'_>) -> Result<ControlFlow<()>, Failure> {
        let Self { values, lines } = self;
        values.take(chunk, &mut |item| lines.write(item))
    }

    fn finish(&mut self) -> Result<(), Failure> {
        let Self { values, lines } = self;
        values.finish(&mut |item| lines.write(item))?;
        match &mut lines.form {
            Form::Text(out) => Ok(out.flush()?),
            Form::Json(list) => list.finish(&lines.gaps),
        }
    }

    fn note(&self) -> Option<String> {
        let Lines { rest, kind, .. } = self.lines;
        (rest > 0)
            .then(|| format!("the last {} are no whole {}, and not shown", count(rest, "byte"), kind.name()))
    }
}

impl<W: Write> Lines<'_, '_, W> {
    fn write(&mut self, item: Item) -> Result<(), Failure> {
        let target = match &item {
            Item::Value(_, Value::Number(Number::Pointer(to))) => self.target(*to),
            _ => None,
        };
        match (item, &mut self.form) {
            (Item::Rest(_, rest), _) => self.rest = rest,
            (Item::Value(at, value), Form::Text(out)) => {
                let address = self.paint.dim(&format!("{:012x}", at.get()));
                let mut line = format!("{address}  {}", shown(&value));
                let beside = match &value {
                    Value::Number(Number::Pointer(_)) => target.map(|target| printable(OsStr::new(&target))),
                    value => hexadecimal(value, self.unit),
                };
                if let Some(beside) = beside {
                    let _ = write!(line, "  {}", self.paint.dim(&beside));
                }
                writeln!(out, "{line}")?;
            }
            (Item::Value(at, value), Form::Json(list)) => {
                list.push(&Element::new(at, &value, target))?;
            }
            (Item::Missing(span, cause), form) => {
                self.gaps.push(span, cause);
                match form {
                    Form::Text(out) => {
                        let address = self.paint.dim(&format!("{:012x}", span.start().get()));
                        let missing = self.paint.alarm("--");
                        let many = if self.kind.is_text() { 1 } else { span.len() / self.unit };
                        let many = if many > 1 { format!("  {many} of them") } else { String::new() };
                        writeln!(out, "{address}  {missing}{many}")?;
                    }
                    Form::Json(list) => {
                        list.push(&Element::Missing { span, cause })?;
                    }
                }
            }
        }
        Ok(())
    }

    /// What lies where a pointer points.
    fn target(&mut self, to: Address) -> Option<String> {
        self.atlas.landmark_with_symbol(to).map(|landmark| landmark.to_string())
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        Value::Text(text, ending) => {
            quoted(std::os::unix::ffi::OsStrExt::from_bytes(text.as_slice()), *ending)
        }
        Value::Utf16(units, ending) => quoted(OsStr::new(&String::from_utf16_lossy(units)), *ending),
    }
}

/// A text between quotes; what does not end with its zero goes on behind them.
fn quoted(text: &OsStr, ending: Ending) -> String {
    // What escapes is a backslash, so that one in the text is two.
    let text = printable_quoted(text);
    match ending {
        Ending::Zero => format!("\"{text}\""),
        Ending::Cut => format!("\"{text}\"..."),
        Ending::Missing(_) => format!("\"{text}\" --"),
    }
}

fn printable_quoted(text: &OsStr) -> String {
    let bytes = std::os::unix::ffi::OsStrExt::as_bytes(text);
    let parts = bytes.split_inclusive(|&byte| byte == b'"' || byte == b'\\');
    let mut shown = String::new();
    for part in parts {
        match part.split_last() {
            Some((&special @ (b'"' | b'\\'), before)) => {
                shown.push_str(&printable(std::os::unix::ffi::OsStrExt::from_bytes(before)));
                shown.push('\\');
                shown.push(special.into());
            }
            _ => shown.push_str(&printable(std::os::unix::ffi::OsStrExt::from_bytes(part))),
        }
    }
    shown
}

/// An element in JSON.
#[derive(Serialize)]
#[serde(untagged)]
enum Element {
    Value {
        address: Address,
        value: Shown,
        /// What lies where it points.
        #[serde(skip_serializing_if = "Option::is_none")]
        to: Option<String>,
        /// The text goes on.
        #[serde(skip_serializing_if = "Option::is_none")]
        cut: Option<bool>,
    },
    Missing {
        #[serde(flatten)]
        span: Span,
        cause: Cause,
    },
}

/// A value in JSON. What of a text is none is replaced.
#[derive(Serialize)]
#[serde(untagged)]
enum Shown {
    Number(Number),
    Text(String),
}

impl Element {
    fn new(address: Address, value: &Value, to: Option<String>) -> Self {
        let (value, ending) = match value {
            Value::Number(number) => (Shown::Number(*number), Ending::Zero),
            Value::Text(text, ending) => (Shown::Text(String::from_utf8_lossy(text).into_owned()), *ending),
            Value::Utf16(units, ending) => (Shown::Text(String::from_utf16_lossy(units)), *ending),
        };
        Self::Value { address, value, to, cut: (ending != Ending::Zero).then_some(true) }
    }
}

/// A number in the digits of its bytes.
fn hexadecimal(value: &Value, unit: u64) -> Option<String> {
    let bits = match value {
        Value::Number(Number::Unsigned(number)) => *number,
        Value::Number(Number::Signed(number)) => {
            number.cast_unsigned() & (u64::MAX >> (64 - 8 * unit.clamp(1, 8)))
        }
        _ => return None,
    };
    Some(format!("{bits:#x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_so_that_nothing_reaches_the_terminal() {
        for (value, expected) in [
            (Value::Number(Number::Signed(-7)), "-7"),
            (Value::Text(b"a\"\\n\x1b\xff".to_vec(), Ending::Zero), "\"a\\\"\\\\n\\x1b\\xff\""),
            (Value::Text(b"long".to_vec(), Ending::Cut), "\"long\"..."),
            (Value::Utf16(vec![0xe9, 0x202e], Ending::Missing(Cause::Guard)), "\"é\\u{202e}\" --"),
        ] {
            assert_eq!(shown(&value), expected);
        }
        assert_eq!(hexadecimal(&Value::Number(Number::Signed(-2)), 2).unwrap(), "0xfffe");
        assert_eq!(hexadecimal(&Value::Number(Number::Signed(-2)), 8).unwrap(), "0xfffffffffffffffe");
    }

    #[test]
    fn elements_in_json() {
        let at = Address::new(0x10);
        let text = |ending| Value::Text(b"a\xff".to_vec(), ending);
        for (element, expected) in [
            (
                Element::new(at, &Value::Number(Number::Float32(0.1)), None),
                r#"{"address":"0x10","value":0.1}"#,
            ),
            (
                Element::new(at, &Value::Number(Number::Pointer(at)), Some("[heap]".to_owned())),
                r#"{"address":"0x10","value":"0x10","to":"[heap]"}"#,
            ),
            (Element::new(at, &text(Ending::Zero), None), "{\"address\":\"0x10\",\"value\":\"a\u{fffd}\"}"),
            (
                Element::new(at, &text(Ending::Cut), None),
                "{\"address\":\"0x10\",\"value\":\"a\u{fffd}\",\"cut\":true}",
            ),
            (
                Element::Missing { span: Span::from_len(at, 4).unwrap(), cause: Cause::Guard },
                r#"{"start":"0x10","end":"0x14","cause":"guard"}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&element).unwrap(), expected);
        }
    }
}
