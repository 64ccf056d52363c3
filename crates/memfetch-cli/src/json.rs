//! JSON as it can be shown on a terminal: what would move the cursor or turn the direction of writing is escaped, which
//! says the same to every reader of JSON.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::{CompactFormatter, Formatter};

use crate::text::is_harmless;

/// Writes a value on one line, without a newline.
pub fn write(out: impl Write, value: &impl Serialize) -> io::Result<()> {
    value.serialize(&mut Serializer::with_formatter(out, Escaping)).map_err(io::Error::from)
}

/// Writes a value on a line of its own.
pub fn write_line(mut out: impl Write, value: &impl Serialize) -> io::Result<()> {
    write(&mut out, value)?;
    out.write_all(b"\n")
}

/// A value on one line, without a newline: a part of a larger one.
pub fn text(value: &impl Serialize) -> io::Result<String> {
    let mut bytes = Vec::new();
    write(&mut bytes, value)?;
    String::from_utf8(bytes).map_err(io::Error::other)
}

/// A value on a line of its own.
pub fn line(value: &impl Serialize) -> io::Result<String> {
    Ok(text(value)? + "\n")
}

struct Escaping;

impl Formatter for Escaping {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| !is_harmless(*c)) {
            let (before, from) = rest.split_at(at);
            CompactFormatter.write_string_fragment(out, before)?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}")?;
            }
            rest = from.get(c.len_utf8()..).unwrap_or_default();
        }
        CompactFormatter.write_string_fragment(out, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_json_reaches_the_terminal_as_a_control() {
        let name = "a\u{9b}2J \u{202e}b\u{7f}\n\u{e9}\"";
        let shown = text(&[name]).unwrap();
        assert_eq!(shown, "[\"a\\u009b2J \\u202eb\\u007f\\n\u{e9}\\\"\"]");
        assert_eq!(serde_json::from_str::<Vec<String>>(&shown).unwrap(), [name]);
    }
}
