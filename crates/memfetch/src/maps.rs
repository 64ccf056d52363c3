//! The text of `/proc/PID/maps`, read and written.
//!
//! Apart from any input or output, so that it can be fuzzed, and so that an image can carry its map as the text
//! that everybody knows. Source: `show_map_vma` in fs/proc/task_mmu.c, proc_pid_maps(5).

use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use crate::address::{Address, Span};
use crate::region::{Backing, Device, Permissions, Region, RegionMap};

/// A line that is none of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the map is not understood: `{text}`")]
pub struct MapsError {
    /// Its number, from 1.
    pub line: usize,
    /// The line, cut to 200 bytes.
    pub text: String,
}

/// Reads a map. A last line without its newline is cut off text, and an error like any other that makes no sense.
///
/// # Errors
///
/// The first line that is not understood.
pub fn parse(text: &[u8]) -> Result<RegionMap, MapsError> {
    let mut regions = Vec::new();
    for (index, line) in text.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let region = line.strip_suffix(b"\n").and_then(parse_line).ok_or_else(|| MapsError {
            line: index + 1,
            text: String::from_utf8_lossy(line.get(..200).unwrap_or(line)).trim_end().to_owned(),
        })?;
        regions.push(region);
    }
    Ok(RegionMap::new(regions))
}

/// `start-end perms offset major:minor inode name`, the name padded to column 73 and possibly empty.
fn parse_line(line: &[u8]) -> Option<Region> {
    let mut rest = line;
    let mut field = || {
        let at = rest.iter().position(|&byte| byte == b' ');
        let (field, behind) = match at {
            Some(at) => (rest.get(..at)?, rest.get(at + 1..)?),
            None => (rest, &[][..]),
        };
        rest = behind;
        Some(field)
    };
    let (start, end) = split_once(field()?, b'-')?;
    let permissions = Permissions::parse(field()?)?;
    let offset = hexadecimal(field()?)?;
    let (major, minor) = split_once(field()?, b':')?;
    let inode = number(field()?, 10)?;
    let name = unescape(rest.trim_ascii_start());
    let device = Device {
        major: u32::try_from(hexadecimal(major)?).ok()?,
        minor: u32::try_from(hexadecimal(minor)?).ok()?,
    };
    Some(Region {
        span: Span::new(Address::new(hexadecimal(start)?), Address::new(hexadecimal(end)?))?,
        permissions,
        backing: Backing::from_maps(&name, offset, device, inode),
    })
}

fn split_once(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&byte| byte == separator)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

fn hexadecimal(text: &[u8]) -> Option<u64> {
    number(text, 16)
}

fn number(text: &[u8], radix: u32) -> Option<u64> {
    if text.is_empty() || text.first() == Some(&b'+') {
        return None;
    }
    u64::from_str_radix(str::from_utf8(text).ok()?, radix).ok()
}

/// The kernel escapes the newline, and nothing else, as `\012`: a backslash in a name stands for itself.
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&first, behind)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(b"\\012") {
            plain.push(b'\n');
            rest = after;
        } else {
            plain.push(first);
            rest = behind;
        }
    }
    plain
}

/// Writes a map as the kernel does, so that [`parse`] gives the same regions again.
#[must_use]
pub fn print(map: &RegionMap) -> Vec<u8> {
    let mut text = Vec::new();
    for region in map {
        let (offset, device, inode) =
            region.file().map_or_else(Default::default, |file| (file.offset, file.device, file.inode));
        let start = text.len();
        // Writing to a vector cannot fail.
        let _ = write!(
            text,
            "{:08x}-{:08x} {} {offset:08x} {:02x}:{:02x} {inode} ",
            region.span.start().get(),
            region.span.end().get(),
            region.permissions,
            device.major,
            device.minor
        );
        let name = region.name();
        if !name.is_empty() {
            while text.len() - start < 73 {
                text.push(b' ');
            }
            for &byte in name.as_bytes() {
                if byte == b'\n' {
                    text.extend_from_slice(b"\\012");
                } else {
                    text.push(byte);
                }
            }
        }
        text.push(b'\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::FileKind;

    #[test]
    fn lines_of_every_sort() {
        let text = b"00400000-00452000 r-xp 00001000 08:02 173521 /usr/bin/a b\\012c\\x (deleted)\n\
            7f00-8f00 rw-p 00000000 00:00 0 \n\
            9000-a000 rw-p 00000000 00:00 0                          [heap]\n\
            b000-c000 rw-s 00000000 00:01 1024                       /dev/zero (deleted)\n\
            c000-d000 rw-p 00000000 00:00 0                          [anon: my heap]\n\
            ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0  [vsyscall]\n";
        let map = parse(text).unwrap();
        let backings: Vec<_> = map.iter().map(|region| &region.backing).collect();
        let file = map.iter().find_map(|region| region.file().filter(|f| f.inode == 173_521)).unwrap();
        assert_eq!(file.path.as_bytes(), b"/usr/bin/a b\nc\\x");
        assert!(file.deleted);
        assert_eq!(file.offset, 0x1000);
        assert_eq!(backings[1], &Backing::Heap);
        assert_eq!(map.as_slice()[2].file().unwrap().kind, FileKind::SharedAnonymous);
        assert_eq!(backings[3], &Backing::Anonymous { label: Some(" my heap".into()) });
        assert_eq!(parse(&print(&map)).unwrap(), map);
    }

    #[test]
    fn what_the_kernel_printed_is_printed_again() {
        let text = std::fs::read("/proc/self/maps").unwrap();
        let map = parse(&text).unwrap();
        assert_eq!(String::from_utf8_lossy(&print(&map)), String::from_utf8_lossy(&text));
    }

    #[test]
    fn nonsense_is_an_error_with_its_line() {
        for bad in [
            "x",
            "1-2",
            "2-1 rw-p 0 0:0 0 \n",
            "1-2 rw-p 0 0:0 \n",
            "1-2 rw-p 0 00 0 \n",
            "1-2 rw 0 0:0 0 \n",
            "+1-2 rw-p 0 0:0 0 \n",
        ] {
            let text = format!("1000-2000 rw-p 0 0:0 0 \n{bad}");
            assert_eq!(parse(text.as_bytes()).unwrap_err().line, 2, "{bad}");
        }
    }

    #[test]
    fn a_hundred_thousand_mappings() {
        use std::fmt::Write as _;
        let mut text = String::new();
        for n in 0..100_000_u64 {
            let start = n * 0x2000;
            let _ = writeln!(text, "{start:08x}-{:08x} rw-p 00000000 00:00 0 ", start + 0x1000);
        }
        assert_eq!(parse(text.as_bytes()).unwrap().len(), 100_000);
    }
}
