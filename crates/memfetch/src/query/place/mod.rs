//! Places in an address space, in words: [`Where`].
//!
//! ```text
//! WHERE   PLACE            there; how much is left to the reader
//!         PLACE..PLACE     from the first up to, and without, the second
//!         PLACE..+LENGTH   so many bytes: 64, 0x40, 4K, 1M
//!         PLACE..          up to the end of the region
//! PLACE   BASE             with any number of +OFFSET and -OFFSET behind it
//! BASE    0x7ffd1000       an address: hexadecimal, and always with 0x
//!         heap, stack      the region that brk grows; the stack of the first thread
//!         main             the program itself
//!         libc.so.6        the base of a module by its path or the last part of that
//!         [vdso]           any region by its name
//!         libc.so.6!environ, main!counter, libc.so.6!memcpy@GLIBC_2.14   a symbol
//!         !environ         the symbol in the one module that has it
//! ```
//!
//! `+` and `-` always move, `..` always spans. Offsets and lengths are decimal, or hexadecimal with 0x. Names may hold
//! any of these characters: `libstdc++.so.6+0x10` is what it looks like, and where a text could mean two things that are
//! there it is an error that names both. A number and a number, `0x1000+0x100`, is an offset here, while a
//! [`Selector`](crate::Selector) takes it for a length: [`Where::if_a_length`] tells, so that a caller need not let
//! it pass for either.

mod resolve;

use std::fmt;
use std::str::FromStr;

use crate::address::Address;
use crate::selector::parse_address;

pub use resolve::{PlaceError, Stretch};

/// The most characters that a text may have.
const LONGEST: usize = 8192;
/// The most offsets behind a base.
const MOST_OFFSETS: usize = 16;

/// A place, or a span between two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Where {
    start: Place,
    extent: Extent,
    /// What it is if its `..` is part of a name.
    unsplit: Option<Place>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Extent {
    /// Nothing is said.
    Open,
    /// Up to a place.
    To(Place),
    /// So many bytes.
    Length(u64),
    /// To the end of the region.
    Rest,
}

/// A base and what is added to it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    base: Base,
    offsets: Vec<Offset>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Base {
    At(Address),
    Heap,
    Stack,
    Name(String),
    Symbol { module: Option<String>, symbol: String },
}

/// An offset as it was typed, which may yet turn out to be part of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Offset {
    text: String,
    by: i128,
}

/// Why a text is no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WhereError {
    /// There is nothing.
    #[error("a place is empty")]
    Empty,
    /// Too much of it.
    #[error("a place has at most {LONGEST} bytes and {MOST_OFFSETS} offsets")]
    TooLong,
    /// It begins like an address and is none.
    #[error("`{0}` is not an address: addresses are hexadecimal, such as 0x7ffd1000")]
    Address(String),
    /// A number without `0x` in the place of an address.
    #[error("`{0}` is not an address: addresses are hexadecimal and begin with 0x")]
    NoPrefix(String),
    /// Behind `..+` stands no number.
    #[error("`{0}` is not a length: lengths are such as 64, 0x40, 4K or 1M")]
    Length(String),
    /// Before or behind the `!` is nothing.
    #[error("`{0}` names no symbol: a symbol is MODULE!NAME, or !NAME")]
    Symbol(String),
}

impl Where {
    /// Where it is a number and a number with nothing said of a length, as `0x1000+0x100`, which is an offset by the
    /// rules here and a length to a [`Selector`](crate::Selector): the sum, and the span, in words that mean only that.
    #[must_use]
    pub fn if_a_length(&self) -> Option<(Address, String)> {
        let (Base::At(at), Extent::Open) = (&self.start.base, &self.extent) else { return None };
        let [offset] = self.start.offsets.as_slice() else { return None };
        let by = u64::try_from(offset.by).ok()?;
        Some((at.checked_add(by)?, format!("{at}..{}", offset.text)))
    }

    /// Whether it tells where it ends.
    #[must_use]
    pub const fn has_end(&self) -> bool {
        !matches!(self.extent, Extent::Open)
    }
}

/// Parses a number that may be an offset or a length.
fn parse_number(text: &str) -> Option<u64> {
    match parse_address(text) {
        Some(number) => Some(number.get()),
        None if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        None => None,
    }
}

/// Parses a length: a number, or a decimal one with K, M, G or T (of 1024) behind it.
fn parse_length(text: &str) -> Option<u64> {
    let units = [("K", 10), ("M", 20), ("G", 30), ("T", 40)];
    for (unit, power) in units.iter().filter(|_| !text.starts_with("0x")) {
        if let Some(number) = text.strip_suffix(unit) {
            return parse_number(number)?.checked_mul(1 << power);
        }
    }
    parse_number(text)
}

impl FromStr for Where {
    type Err = WhereError;

    fn from_str(text: &str) -> Result<Self, WhereError> {
        if text.len() > LONGEST {
            return Err(WhereError::TooLong);
        }
        let Some((start, end)) = text.rsplit_once("..") else {
            return Ok(Self { start: text.parse()?, extent: Extent::Open, unsplit: None });
        };
        // Only a name can hold `..`.
        let unsplit = text.parse().ok().filter(|place: &Place| !matches!(place.base, Base::At(_)));
        let extent = match (end, end.strip_prefix('+')) {
            ("", _) => Extent::Rest,
            (_, Some(length)) => {
                Extent::Length(parse_length(length).ok_or_else(|| WhereError::Length(length.to_owned()))?)
            }
            (end, None) => Extent::To(end.parse()?),
        };
        Ok(Self { start: start.parse()?, extent, unsplit })
    }
}

impl FromStr for Place {
    type Err = WhereError;

    fn from_str(text: &str) -> Result<Self, WhereError> {
        let (mut rest, mut offsets) = (text, Vec::new());
        while let Some((base, offset)) = last_offset(rest) {
            if offsets.len() >= MOST_OFFSETS {
                return Err(WhereError::TooLong);
            }
            rest = base;
            offsets.push(offset);
        }
        offsets.reverse();
        Ok(Self { base: base(rest)?, offsets })
    }
}

/// Cuts the last `+NUMBER` or `-NUMBER` off, if the text ends in one and has something before it.
fn last_offset(text: &str) -> Option<(&str, Offset)> {
    let at = text.rfind(['+', '-']).filter(|&at| at > 0)?;
    let (base, offset) = text.split_at(at);
    let (sign, number) = offset.split_at(1);
    let number = i128::from(parse_number(number)?);
    let by = if sign == "-" { -number } else { number };
    Some((base, Offset { text: offset.to_owned(), by }))
}

fn base(text: &str) -> Result<Base, WhereError> {
    if let Some((module, symbol)) = text.rsplit_once('!') {
        if symbol.is_empty() || symbol.starts_with('@') {
            return Err(WhereError::Symbol(text.to_owned()));
        }
        let module = Some(module).filter(|module| !module.is_empty()).map(str::to_owned);
        return Ok(Base::Symbol { module, symbol: symbol.to_owned() });
    }
    match text {
        "" => Err(WhereError::Empty),
        "heap" => Ok(Base::Heap),
        "stack" => Ok(Base::Stack),
        _ if text.starts_with("0x") || text.starts_with("0X") => {
            parse_address(text).map(Base::At).ok_or_else(|| WhereError::Address(text.to_owned()))
        }
        _ if text.bytes().all(|byte| byte.is_ascii_digit()) => Err(WhereError::NoPrefix(text.to_owned())),
        name => Ok(Base::Name(name.to_owned())),
    }
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.start.fmt(f)?;
        match &self.extent {
            Extent::Open => Ok(()),
            Extent::To(end) => write!(f, "..{end}"),
            Extent::Length(length) => write!(f, "..+{length:#x}"),
            Extent::Rest => f.write_str(".."),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.base.fmt(f)?;
        self.offsets.iter().try_for_each(|offset| f.write_str(&offset.text))
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(at) => at.fmt(f),
            Self::Heap => f.write_str("heap"),
            Self::Stack => f.write_str("stack"),
            Self::Name(name) => f.write_str(name),
            Self::Symbol { module, symbol } => {
                write!(f, "{}!{symbol}", module.as_deref().unwrap_or_default())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Where {
        let parsed: Where = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(parsed.to_string().parse::<Where>().unwrap().to_string(), parsed.to_string());
        parsed
    }

    fn place(text: &str) -> (String, i128) {
        let Where { start, extent: Extent::Open, .. } = parsed(text) else { panic!("{text}") };
        (start.base.to_string(), start.offsets.iter().map(|offset| offset.by).sum())
    }

    #[test]
    fn bases_and_offsets() {
        for (text, base, by) in [
            ("0x7ffd1000", "0x7ffd1000", 0),
            ("0X10-8", "0x10", -8),
            ("heap", "heap", 0),
            ("stack+0x10", "stack", 16),
            ("libc.so.6+0x1234", "libc.so.6", 0x1234),
            ("libstdc++.so.6", "libstdc++.so.6", 0),
            ("libstdc++.so.6+16-0x8+1", "libstdc++.so.6", 9),
            ("ld-linux-x86-64.so.2", "ld-linux-x86-64.so.2", 0),
            ("[vdso]", "[vdso]", 0),
            ("[anon:a b]+1", "[anon:a b]", 1),
            ("/usr/lib/libc.so.6", "/usr/lib/libc.so.6", 0),
            ("libc.so.6!environ@@GLIBC_2.2.5+8", "libc.so.6!environ@@GLIBC_2.2.5", 8),
            ("!environ", "!environ", 0),
            ("/a!b!c", "/a!b!c", 0),
            ("x+", "x+", 0),
            ("x+0x", "x+0x", 0),
            ("+5", "+5", 0),
            ("a+18446744073709551615+18446744073709551615", "a", 2 * u64::MAX as i128),
        ] {
            assert_eq!(place(text), (base.to_owned(), by), "{text}");
        }
    }

    #[test]
    fn spans() {
        let end = |text: &str| match parsed(text).extent {
            Extent::Open => "open".to_owned(),
            Extent::To(place) => place.to_string(),
            Extent::Length(length) => format!("{length} bytes"),
            Extent::Rest => "rest".to_owned(),
        };
        for (text, expected) in [
            ("0x1000..0x2000", "0x2000"),
            ("heap+0x10..heap+32", "heap+32"),
            ("heap..+0x20", "32 bytes"),
            ("main!table..+100", "100 bytes"),
            ("heap..+4K", "4096 bytes"),
            ("heap..", "rest"),
            ("a..b..c", "c"),
        ] {
            assert_eq!(end(text), expected, "{text}");
            assert!(parsed(text).has_end());
        }
        assert_eq!(parsed("/tmp/a..b").unsplit.unwrap().to_string(), "/tmp/a..b");
        assert_eq!(parsed("0x1..0x2").unsplit, None);
    }

    #[test]
    fn a_number_and_a_number_may_be_meant_as_a_length() {
        for (text, expected) in [
            ("0x1000+0x100", true),
            ("0x1000+8", true),
            ("0x1000-8", false),
            ("0x1000+1+1", false),
            ("0x1000+8..", false),
            ("0x1000..+8", false),
            ("heap+8", false),
            ("0x1000", false),
        ] {
            assert_eq!(parsed(text).if_a_length().is_some(), expected, "{text}");
        }
        let expected = (Address::new(0x1008), "0x1000..+8".to_owned());
        assert_eq!(parsed("0x1000+8").if_a_length(), Some(expected));
    }

    #[test]
    fn what_is_no_place() {
        for bad in [
            "",
            "..",
            "0x",
            "0xzz",
            "0x+1",
            "0x10000000000000000",
            "4096",
            "4096+1",
            "heap..+",
            "heap..+x",
            "heap..+K",
            "heap..+99999999T",
            "heap..12",
            "lib!",
            "!",
            "lib!@V1",
            "..+5",
        ] {
            assert!(bad.parse::<Where>().is_err(), "{bad}");
        }
        assert_eq!("x".repeat(9000).parse::<Where>(), Err(WhereError::TooLong));
        assert_eq!(format!("x{}", "+1".repeat(20)).parse::<Where>(), Err(WhereError::TooLong));
    }
}
