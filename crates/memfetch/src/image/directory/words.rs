//! Names, causes and page states as words without a space in them, for tables that people and `awk` read.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;

use crate::memory::{Cause, PageState};

/// A name in which everything but letters, digits and plain signs stands as `\ooo`, its bytes in octal, as in
/// `/proc/mounts`: it is one word, moves no cursor, and is undone without loss.
#[must_use]
pub fn escape(name: &OsStr) -> String {
    let mut word = String::with_capacity(name.len());
    for chunk in name.as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_alphanumeric() || (c.is_ascii_graphic() && c != '\\') {
                word.push(c);
            } else {
                octal(&mut word, c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        octal(&mut word, chunk.invalid());
    }
    word
}

fn octal(word: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(word, "\\{byte:03o}");
    }
}

/// The name that [`escape`] made a word of; `None` where a backslash is not followed by an octal byte.
#[must_use]
pub fn unescape(word: &[u8]) -> Option<Vec<u8>> {
    let mut name = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&first, behind)) = rest.split_first() {
        if first != b'\\' {
            name.push(first);
            rest = behind;
            continue;
        }
        let (digits, behind) = behind.split_at_checked(3)?;
        if !digits.iter().all(|digit| (b'0'..=b'7').contains(digit)) {
            return None;
        }
        name.push(u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok()?);
        rest = behind;
    }
    Some(name)
}

const CAUSES: [(&str, Cause); 13] = [
    ("not-mapped", Cause::NotMapped),
    ("vanished", Cause::Vanished),
    ("guard", Cause::Guard),
    ("beyond-file", Cause::BeyondFile),
    ("secret", Cause::Secret),
    ("device", Cause::Device),
    ("not-permitted", Cause::NotPermitted),
    ("shared-unknown", Cause::SharedUnknown),
    ("file-unavailable", Cause::FileUnavailable),
    ("not-saved", Cause::NotSaved),
    ("truncated", Cause::Truncated),
    ("timed-out", Cause::TimedOut),
    ("ended", Cause::Ended),
];

/// The word of a cause; that of another error is `errno-` and its number.
#[must_use]
pub fn of_cause(cause: Cause) -> String {
    match (cause, CAUSES.iter().find(|(_, known)| *known == cause)) {
        (_, Some((word, _))) => (*word).to_owned(),
        (Cause::Os(errno), None) => format!("errno-{errno}"),
        // All others are in the table.
        (_, None) => "not-saved".to_owned(),
    }
}

/// The cause that has this word.
#[must_use]
pub fn cause(word: &str) -> Option<Cause> {
    match CAUSES.iter().find(|(known, _)| *known == word) {
        Some((_, cause)) => Some(*cause),
        None => word.strip_prefix("errno-")?.parse().ok().map(Cause::Os),
    }
}

const STATES: [(&str, PageState); 8] = [
    ("absent", PageState::Absent),
    ("zero", PageState::Zero),
    ("resident", PageState::Resident),
    ("swapped", PageState::Swapped),
    ("backed", PageState::Backed),
    ("file-resident", PageState::FileResident),
    ("file-clean", PageState::FileClean),
    ("guard", PageState::Guard),
];

/// The word of a page state; that of one that cannot be read is `!` and the cause.
#[must_use]
pub fn of_state(state: PageState) -> String {
    match (state, STATES.iter().find(|(_, known)| *known == state)) {
        (_, Some((word, _))) => (*word).to_owned(),
        (PageState::Unreadable(cause), None) => format!("!{}", of_cause(cause)),
        // All others are in the table.
        (_, None) => "!not-saved".to_owned(),
    }
}

/// The page state that has this word.
#[must_use]
pub fn state(word: &str) -> Option<PageState> {
    match STATES.iter().find(|(known, _)| *known == word) {
        Some((_, state)) => Some(*state),
        None => word.strip_prefix('!').and_then(cause).map(PageState::Unreadable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn states_and_causes_have_words_of_their_own() {
        let causes = CAUSES.iter().map(|(_, cause)| *cause).chain([Cause::Os(5), Cause::Os(-1)]);
        for told in causes {
            assert_eq!(cause(&of_cause(told)), Some(told));
            let unreadable = PageState::Unreadable(told);
            assert_eq!(state(&of_state(unreadable)), Some(unreadable));
        }
        for (word, told) in STATES {
            assert_eq!((of_state(told).as_str(), state(word)), (word, Some(told)));
        }
        assert_eq!((state("!"), state("fresh"), cause("errno-x")), (None, None, None));
    }

    #[test]
    fn a_name_is_one_harmless_word() {
        let told = |name: &[u8]| escape(OsStr::from_bytes(name));
        assert_eq!(told(b"/usr/lib/x (deleted)"), r"/usr/lib/x\040(deleted)");
        assert_eq!(told("/größe\u{202e}\x1b[2J\n".as_bytes()), r"/größe\342\200\256\033[2J\012");
        assert_eq!(told(b"a\\b\xff"), r"a\134b\377");
        for bad in [&b"\\"[..], b"\\01", b"\\089", b"\\+12", b"\\777"] {
            assert_eq!(unescape(bad), None);
        }
    }

    proptest! {
        #[test]
        fn every_name_is_undone(name: Vec<u8>) {
            let word = escape(OsStr::from_bytes(&name));
            prop_assert!(!word.contains(|c: char| c.is_whitespace() || c.is_control()));
            prop_assert_eq!(unescape(word.as_bytes()), Some(name));
        }
    }
}
