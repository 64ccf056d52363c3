//! Selectors: which regions an operation is about, in words.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;

use crate::address::{Address, Span};
use crate::region::{Backing, Region};

/// A choice of regions: `heap`, `stack`, `anon`, `file`, `exec`, a path or glob, an address, a span.
///
/// ```
/// use memfetch::Selector;
/// let libraries: Selector = "*.so*".parse()?;
/// let heap: Selector = "heap".parse()?;
/// let one: Selector = "0x7ffd1000".parse()?;
/// let part: Selector = "0x1000..0x3000".parse()?;
/// # Ok::<(), memfetch::selector::SelectorError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// The heap that `brk` grows.
    Heap,
    /// The stack of the first thread.
    Stack,
    /// Memory with no file behind it.
    Anonymous,
    /// Memory with a file behind it.
    FileBacked,
    /// Memory that may be executed.
    Executable,
    /// Memory that may be written.
    Writable,
    /// Memory that other processes may see (`MAP_SHARED`).
    Shared,
    /// A glob over the name column of `maps`: `*` and `?`; without a slash it is matched against the last part.
    Name(String),
    /// The region that holds this address.
    At(Address),
    /// The regions that have a byte in this span.
    In(Span),
}

impl Selector {
    /// Whether `region` is chosen.
    #[must_use]
    pub fn matches(&self, region: &Region) -> bool {
        match self {
            Self::Heap => region.backing == Backing::Heap,
            Self::Stack => region.backing == Backing::Stack,
            Self::Anonymous => !matches!(region.backing, Backing::File(_)) || region.is_shared_memory(),
            Self::FileBacked => matches!(region.backing, Backing::File(_)) && !region.is_shared_memory(),
            Self::Executable => region.permissions.execute,
            Self::Writable => region.permissions.write,
            Self::Shared => region.permissions.shared,
            Self::Name(glob) => name_matches(glob, &region.name()),
            Self::At(at) => region.span.contains(*at),
            Self::In(span) => region.span.intersection(*span).is_some(),
        }
    }
}

fn name_matches(glob: &str, name: &OsStr) -> bool {
    let name = name.as_bytes();
    if glob_matches(glob.as_bytes(), name) {
        return true;
    }
    let last = name.rsplit(|&byte| byte == b'/').next().unwrap_or(name);
    !glob.contains('/') && glob_matches(glob.as_bytes(), last)
}

/// Whether all of `text` matches `glob`, where `*` is any bytes and `?` is any one byte.
///
/// Linear in practice: only the last `*` is ever gone back to.
fn glob_matches(glob: &[u8], text: &[u8]) -> bool {
    let (mut g, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match glob.get(g) {
            Some(b'*') => {
                retry = Some((g + 1, t));
                g += 1;
            }
            Some(&c) if c == b'?' || text.get(t) == Some(&c) => {
                g += 1;
                t += 1;
            }
            _ => match retry {
                Some((after_star, from)) => {
                    retry = Some((after_star, from + 1));
                    g = after_star;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    glob.get(g..).is_some_and(|rest| rest.iter().all(|&c| c == b'*'))
}

/// Why a text is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// It says nothing.
    #[error("a selector is empty")]
    Empty,
    /// It looks like an address and is none.
    #[error("`{0}` is not an address: addresses are hexadecimal, such as 0x7ffd1000")]
    Address(String),
    /// Its end lies before its start.
    #[error("`{0}` ends before it starts, or passes the end of the address space")]
    Span(String),
}

/// Parses `0x7ffd1000`. Addresses are hexadecimal everywhere, with the prefix, so that nobody has to guess.
pub(crate) fn parse_address(text: &str) -> Option<Address> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))?;
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, 16).ok().map(Address::new)
}

fn parse_length(text: &str) -> Option<u64> {
    match parse_address(text) {
        Some(length) => Some(length.get()),
        None => text.parse().ok(),
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let address = |part: &str| parse_address(part).ok_or_else(|| SelectorError::Address(part.to_owned()));
        Ok(match text {
            "" => return Err(SelectorError::Empty),
            "heap" => Self::Heap,
            "stack" => Self::Stack,
            "anon" => Self::Anonymous,
            "file" => Self::FileBacked,
            "exec" => Self::Executable,
            "write" => Self::Writable,
            "shared" => Self::Shared,
            _ if text.starts_with("0x") || text.starts_with("0X") => {
                if let Some((start, end)) = text.split_once("..") {
                    let start = address(start)?;
                    let span = match end.strip_prefix('+') {
                        Some(length) => {
                            let length = parse_length(length);
                            Span::from_len(
                                start,
                                length.ok_or_else(|| SelectorError::Address(end.to_owned()))?,
                            )
                        }
                        None => Span::new(start, address(end)?),
                    };
                    Self::In(span.ok_or_else(|| SelectorError::Span(text.to_owned()))?)
                } else if let Some((start, length)) = text.split_once('+') {
                    let length =
                        parse_length(length).ok_or_else(|| SelectorError::Address(length.to_owned()))?;
                    let span = Span::from_len(address(start)?, length);
                    Self::In(span.ok_or_else(|| SelectorError::Span(text.to_owned()))?)
                } else {
                    Self::At(address(text)?)
                }
            }
            name => Self::Name(name.to_owned()),
        })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Heap => f.write_str("heap"),
            Self::Stack => f.write_str("stack"),
            Self::Anonymous => f.write_str("anon"),
            Self::FileBacked => f.write_str("file"),
            Self::Executable => f.write_str("exec"),
            Self::Writable => f.write_str("write"),
            Self::Shared => f.write_str("shared"),
            Self::Name(glob) => f.write_str(glob),
            Self::At(at) => at.fmt(f),
            Self::In(span) => span.fmt(f),
        }
    }
}

/// Regions that are wanted: those that `only` chooses (all, where it is empty) less those that `skip` does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// What is wanted; empty means everything.
    pub only: Vec<Selector>,
    /// What is left out all the same.
    pub skip: Vec<Selector>,
}

impl Selection {
    /// Whether `region` is wanted.
    #[must_use]
    pub fn wants(&self, region: &Region) -> bool {
        (self.only.is_empty() || self.only.iter().any(|selector| selector.matches(region)))
            && !self.skip.iter().any(|selector| selector.matches(region))
    }

    /// Whether every region is wanted.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.only.is_empty() && self.skip.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::{Device, Permissions};

    fn named(name: &str, permissions: &str) -> Region {
        let device = Device { major: 8, minor: 1 };
        let (device, inode) = if name.starts_with('/') { (device, 5) } else { (Device::default(), 0) };
        Region {
            span: Span::new(Address::new(0x1000), Address::new(0x3000)).unwrap(),
            permissions: Permissions::parse(permissions.as_bytes()).unwrap(),
            backing: Backing::from_maps(name.as_bytes(), 0, device, inode),
        }
    }

    fn chosen(selector: &str, region: &Region) -> bool {
        selector.parse::<Selector>().unwrap().matches(region)
    }

    #[test]
    fn words_choose_what_they_say() {
        let libc = named("/usr/lib/x86_64-linux-gnu/libc.so.6", "r-xp");
        assert!(chosen("file", &libc) && chosen("exec", &libc) && !chosen("anon", &libc));
        assert!(chosen("libc.so.6", &libc) && chosen("*.so*", &libc) && chosen("/usr/lib/*", &libc));
        assert!(!chosen("libc", &libc) && !chosen("/usr/bin/*", &libc));
        let heap = named("[heap]", "rw-p");
        assert!(chosen("heap", &heap) && chosen("anon", &heap) && chosen("write", &heap));
        let shared = named("/dev/zero (deleted)", "rw-s");
        assert!(chosen("anon", &shared) && chosen("shared", &shared) && !chosen("file", &shared));
    }

    #[test]
    fn addresses_and_spans() {
        let heap = named("[heap]", "rw-p");
        assert!(chosen("0x2fff", &heap) && !chosen("0x3000", &heap));
        assert!(chosen("0x0..0x1001", &heap) && !chosen("0x0..0x1000", &heap));
        assert!(chosen("0x2fff+1", &heap) && !chosen("0x3000+0x10", &heap));
        assert!(chosen("0x2fff..+1", &heap) && !chosen("0x3000..+0x10", &heap));
        assert!(chosen("0xff0..+17", &heap) && !chosen("0xff0..+16", &heap));
        for bad in ["", "0xzz", "0x2..0x1", "0x1..7", "0xffffffffffffffff+2", "0x+1", "0x1..+", "0x1..+x"] {
            assert!(bad.parse::<Selector>().is_err(), "{bad}");
        }
    }

    #[test]
    fn globs() {
        for (glob, text, want) in [
            ("*", "", true),
            ("a*b*c", "aXbbYc", true),
            ("a*b*c", "aXbbY", false),
            ("?", "", false),
            ("a?c", "abc", true),
            ("**", "x", true),
            ("*ab", "aab", true),
        ] {
            assert_eq!(glob_matches(glob.as_bytes(), text.as_bytes()), want, "{glob} {text}");
        }
    }
}
