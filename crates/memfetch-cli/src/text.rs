//! Text for a terminal: nothing in a name may move the cursor, and long names are cut in the middle.

use std::ffi::OsStr;
use std::fmt::Write;
use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;

/// A name as it can be shown: control characters, those that turn the direction of writing, and bytes that are no
/// UTF-8 are escaped as `\n` or `\x1b`.
#[must_use]
pub fn printable(name: &OsStr) -> String {
    let mut shown = String::with_capacity(name.len());
    for chunk in name.as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => shown.push_str("\\n"),
                '\t' => shown.push_str("\\t"),
                '\0'..='\x1f' | '\x7f' => push_hex(&mut shown, c as u32),
                _ if c.is_control() || turns_writing(c) => {
                    let _ = write!(shown, "\\u{{{:x}}}", c as u32);
                }
                _ => shown.push(c),
            }
        }
        for &byte in chunk.invalid() {
            push_hex(&mut shown, byte.into());
        }
    }
    shown
}

fn push_hex(shown: &mut String, byte: u32) {
    let _ = write!(shown, "\\x{byte:02x}");
}

/// Bytes as hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let mut digits = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

/// Whether a character does nothing to a terminal but stand there.
#[must_use]
pub fn is_harmless(c: char) -> bool {
    !c.is_control() && !turns_writing(c)
}

/// Bidirectional controls, and line and paragraph separators.
const fn turns_writing(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}')
}

/// The name in at most `width` characters: its middle gives way, and its end is kept longer than its start.
#[must_use]
pub fn cut_middle(name: &str, width: usize) -> String {
    let length = name.chars().count();
    if length <= width {
        return name.to_owned();
    }
    let Some(kept) = width.checked_sub(1) else { return String::new() };
    let head = kept / 3;
    let tail = kept - head;
    name.chars().take(head).chain(['…']).chain(name.chars().skip(length - tail)).collect()
}

/// Whether and how a stream is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint {
    on: bool,
}

impl Paint {
    /// No colours.
    pub const OFF: Self = Self { on: false };
    /// Colours.
    #[cfg(test)]
    pub const ON: Self = Self { on: true };

    /// Colours where the stream is a terminal that knows them, and `NO_COLOR` is not set.
    #[must_use]
    pub fn of(stream: &impl IsTerminal) -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_none_or(|term| term == "dumb");
        if stream.is_terminal() && set("NO_COLOR").is_none() && !dumb { Self { on: true } } else { Self::OFF }
    }

    /// Faint.
    #[must_use]
    pub fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    /// Bold.
    #[must_use]
    pub fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    /// Bold and red.
    #[must_use]
    pub fn alarm(self, text: &str) -> String {
        self.with("1;31", text)
    }

    /// In the colour of this code of ECMA-48 (SGR).
    #[must_use]
    pub fn coloured(self, code: &str, text: &str) -> String {
        self.with(code, text)
    }

    /// Whether there are colours at all.
    #[must_use]
    pub const fn is_on(self) -> bool {
        self.on
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_name_reaches_the_terminal_as_a_control() {
        let name = OsStr::from_bytes(b"/tmp/\x1b[2Jx\n\xff\xc3\xa9\xe2\x80\xae");
        assert_eq!(printable(name), "/tmp/\\x1b[2Jx\\n\\xffé\\u{202e}");
    }

    #[test]
    fn names_give_way_in_the_middle() {
        assert_eq!(cut_middle("/usr/lib/libc.so.6", 18), "/usr/lib/libc.so.6");
        assert_eq!(cut_middle("/usr/lib/libc.so.6", 13), "/usr…ibc.so.6");
        assert_eq!(cut_middle("ééééé", 3), "…éé");
        assert_eq!(cut_middle("abc", 0), "");
    }
}
