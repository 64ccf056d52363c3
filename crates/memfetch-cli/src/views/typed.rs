//! [`Typed`]: values, one a line.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::Write;
use std::ops::ControlFlow;

use memfetch::query::atlas::Atlas;
use memfetch::query::reader::Chunk;
use memfetch::query::values::{Ending, Item, Type, Value, Values};
use memfetch::{Address, Gaps};
use serde_json::json;

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
            Item::Value(_, Value::Pointer(to)) => self.target(*to),
            _ => None,
        };
        match (item, &mut self.form) {
            (Item::Rest(_, rest), _) => self.rest = rest,
            (Item::Value(at, value), Form::Text(out)) => {
                let address = self.paint.dim(&format!("{:012x}", at.get()));
                let mut line = format!("{address}  {}", shown(&value));
                let beside = match &value {
                    Value::Pointer(_) => target.map(|target| printable(OsStr::new(&target))),
                    value => hexadecimal(value, self.unit),
                };
                if let Some(beside) = beside {
                    let _ = write!(line, "  {}", self.paint.dim(&beside));
                }
                writeln!(out, "{line}")?;
            }
            (Item::Value(at, value), Form::Json(list)) => {
                let mut element = json!({ "at": at, "value": in_json(&value) });
                if let (Some(element), Some(target)) = (element.as_object_mut(), target) {
                    element.insert("to".to_owned(), target.into());
                }
                if let (Some(element), Value::Text(_, ending) | Value::Utf16(_, ending)) =
                    (element.as_object_mut(), &value)
                    && *ending != Ending::Zero
                {
                    element.insert("cut".to_owned(), true.into());
                }
                list.push(&element)?;
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
                        list.push(&json!({ "at": span.start(), "end": span.end(), "cause": cause }))?;
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
        Value::Unsigned(number) => number.to_string(),
        Value::Signed(number) => number.to_string(),
        Value::Float32(number) => format!("{number:?}"),
        Value::Float64(number) => format!("{number:?}"),
        Value::Pointer(to) => to.to_string(),
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

/// A number in the digits of its bytes.
fn hexadecimal(value: &Value, unit: u64) -> Option<String> {
    let bits = match value {
        Value::Unsigned(number) => *number,
        Value::Signed(number) => number.cast_unsigned() & (u64::MAX >> (64 - 8 * unit.clamp(1, 8))),
        _ => return None,
    };
    Some(format!("{bits:#x}"))
}

/// Numbers of 8 bytes are strings: many readers lose their last bits. Floats that JSON has no words for are strings as
/// well.
fn in_json(value: &Value) -> serde_json::Value {
    let float = |number: f64| {
        serde_json::Number::from_f64(number).map_or_else(|| format!("{number:?}").into(), Into::into)
    };
    match value {
        Value::Unsigned(number) if u32::try_from(*number).is_err() => number.to_string().into(),
        Value::Signed(number) if i32::try_from(*number).is_err() => number.to_string().into(),
        Value::Unsigned(number) => (*number).into(),
        Value::Signed(number) => (*number).into(),
        Value::Float32(number) => float(f64::from(*number)),
        Value::Float64(number) => float(*number),
        Value::Pointer(to) => to.to_string().into(),
        Value::Text(text, _) => String::from_utf8_lossy(text).into(),
        Value::Utf16(units, _) => String::from_utf16_lossy(units).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_so_that_nothing_reaches_the_terminal() {
        for (value, expected) in [
            (Value::Unsigned(7), "7"),
            (Value::Signed(-7), "-7"),
            (Value::Float32(0.1), "0.1"),
            (Value::Float64(1e300), "1e300"),
            (Value::Float64(f64::NAN), "NaN"),
            (Value::Pointer(Address::new(0x10)), "0x10"),
            (Value::Text(b"a\"\\n\x1b\xff".to_vec(), Ending::Zero), "\"a\\\"\\\\n\\x1b\\xff\""),
            (Value::Text(b"long".to_vec(), Ending::Cut), "\"long\"..."),
            (Value::Utf16(vec![0xe9, 0x202e], Ending::Missing(memfetch::Cause::Guard)), "\"é\\u{202e}\" --"),
        ] {
            assert_eq!(shown(&value), expected);
        }
        assert_eq!(hexadecimal(&Value::Signed(-2), 2).unwrap(), "0xfffe");
        assert_eq!(hexadecimal(&Value::Signed(-2), 8).unwrap(), "0xfffffffffffffffe");
    }

    #[test]
    fn json_loses_no_bits() {
        assert_eq!(in_json(&Value::Unsigned(u64::MAX)), "18446744073709551615");
        assert_eq!(in_json(&Value::Unsigned(7)), 7);
        assert_eq!(in_json(&Value::Signed(i64::MIN)), i64::MIN.to_string());
        assert_eq!(in_json(&Value::Float64(f64::INFINITY)), "inf");
        assert_eq!(in_json(&Value::Float32(0.5)), 0.5);
    }
}
