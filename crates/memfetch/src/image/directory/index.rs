//! [`Index`]: the text that tells what a region directory holds, `mf-index.txt`.
//!
//! A line is one thing, its words stand between single spaces, and names have no space in them (see
//! [`escape`](super::words::escape)), so that `awk` reads it as well as a person does:
//!
//! ```text
//! # memfetch region index, version 1
//! process 1234 redis-server
//! origin {"version":"0.1.0","pid":1234,...}
//! platform {"machine":62,"word":"64","byte_order":"little","page_size":4096}
//! # NNN FILE DIGEST START-END PERMISSIONS OFFSET DEVICE INODE NAME
//! 000 - - 55d0c0000000-55d0c0001000 r--p 00000000 08:02 173521 /usr/bin/redis-server
//! 001 mf-mem-001.bin 3f0c... 55d0c1000000-55d0c1021000 rw-p 00000000 00:00 0 [heap]
//! pages 000 -file-resident*1
//! pages 001 resident*12 absent*21
//! gap 55d0c1002000-55d0c1003000 vanished
//! outcome {"finished_ns":...}
//! end 9a41...
//! ```
//!
//! - A line that begins with `#` is for people.
//! - A region's line begins with its number; all regions are counted. FILE and DIGEST are `-` where nothing of it is
//!   saved. Its other words are those of `/proc/PID/maps`.
//! - `pages NNN`: the states of its pages from its start on, a run of so many pages of one state after the other. `-`
//!   ahead of a state: these pages are not in the file, though they have bytes. `~`: there are no such pages, the map
//!   and the page states being of two moments. A state is a word of [`super::words`]; `!` and a cause is a page that
//!   could not be read, and what the file has in its place is filler.
//! - `gap`: a range that was wanted and is missing.
//! - `end`: BLAKE3 of all bytes before this line. An index without it was cut short.
//!
//! DIGEST is BLAKE3 over the digests of the file's blocks, as [`super::super::trailer`] defines them: the file is cut
//! at multiples of 1 MiB, and each block of which a byte was written has one.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::words;
use crate::address::{Address, Span};
use crate::error::FormatError;
use crate::image::record::{Origin, Outcome};
use crate::memory::{PageRuns, PageState, Platform};
use crate::region::{Backing, Device, Permissions, Region};

/// The name of the index in its directory.
pub const NAME: &str = "mf-index.txt";
/// What an index begins with.
pub const MAGIC: &[u8] = b"# memfetch region index, version ";
const VERSION: &str = "1";
/// The columns of the table, for people.
const COLUMNS: &str = "# NNN FILE DIGEST START-END PERMISSIONS OFFSET DEVICE INODE NAME";

/// What a region directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// The name of the process.
    pub name: OsString,
    /// Where it came from.
    pub origin: Origin,
    /// The machine.
    pub platform: Platform,
    /// How it went; `None` where the index was cut short.
    pub outcome: Option<Outcome>,
    /// All regions, ascending.
    pub entries: Vec<Entry>,
    /// Whether it ends with the digest of its own bytes.
    pub ending: Ending,
}

/// How an index ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With its digest, which is right.
    Whole,
    /// With its digest, and its bytes are not what was written.
    Altered,
    /// Before its digest.
    Cut,
}

/// A region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The region.
    pub region: Region,
    /// Its file.
    pub file: Option<RegionFile>,
    /// The states of its pages in the process; empty where the index was cut short before.
    pub pages: PageRuns,
    /// What of it was written into the file: ascending, disjoint.
    pub written: Vec<Span>,
}

/// The file of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionFile {
    /// Its name.
    pub name: String,
    /// The digest of what was written.
    pub digest: [u8; 32],
}

/// The name of a region's file: `map` where the line of maps has a path, which is a `/` in the name.
#[must_use]
pub fn file_name(number: usize, region: &Region) -> String {
    format!("mf-{}-{number:03}.bin", kind(region))
}

pub(super) fn kind(region: &Region) -> &'static str {
    if region.name().as_bytes().contains(&b'/') { "map" } else { "mem" }
}

/// Whether a name is one that [`file_name`] may give: nothing else is ever opened, or taken away.
#[must_use]
pub fn is_file_name(name: &[u8]) -> bool {
    name.strip_prefix(b"mf-").is_some_and(super::classic::is_file_name)
}

impl Index {
    /// The text.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut text = String::from_utf8_lossy(MAGIC).into_owned();
        // Writing into a string cannot fail, nor can JSON of plain fields.
        let json = |value: serde_json::Result<String>| value.unwrap_or_default();
        let _ = writeln!(text, "{VERSION}");
        let _ = writeln!(text, "process {} {}", self.origin.pid, words::escape(&self.name));
        let _ = writeln!(text, "origin {}", json(serde_json::to_string(&self.origin)));
        let _ = writeln!(text, "platform {}", json(serde_json::to_string(&self.platform)));
        let _ = writeln!(text, "{COLUMNS}");
        for (number, entry) in self.entries.iter().enumerate() {
            let (file, digest) = match &entry.file {
                Some(file) => (file.name.as_str(), hex(&file.digest)),
                None => ("-", "-".to_owned()),
            };
            let _ = writeln!(text, "{number:03} {file} {digest} {}", region_words(&entry.region));
        }
        for (number, entry) in self.entries.iter().enumerate().filter(|(_, entry)| !entry.pages.is_empty()) {
            let _ = write!(text, "pages {number:03}");
            entry.put_pages(&mut text, self.platform.page_size);
            text.push('\n');
        }
        if let Some(outcome) = &self.outcome {
            let mut plain = outcome.clone();
            for gap in std::mem::take(&mut plain.gaps).iter() {
                let _ = writeln!(text, "gap {} {}", span_word(gap.span), words::of_cause(gap.cause));
            }
            let _ = writeln!(text, "outcome {}", json(serde_json::to_string(&plain)));
        }
        let digest = hex(blake3::hash(text.as_bytes()).as_bytes());
        let _ = writeln!(text, "end {digest}");
        text.into_bytes()
    }

    /// Reads the text. What a line that was cut off would have said is left out, and [`Index::ending`] tells.
    ///
    /// # Errors
    ///
    /// [`FormatError::Truncated`] where it ends ahead of the first region, [`FormatError::Nonsense`] at the first line
    /// that makes no sense, or where it is of another version.
    pub fn decode(text: &[u8]) -> Result<Self, FormatError> {
        let first = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let version = first.strip_prefix(MAGIC).ok_or(FormatError::NoIndex)?;
        if version != VERSION.as_bytes() {
            return Err(FormatError::Nonsense(format!(
                "its index is of version {}, which is not known here",
                String::from_utf8_lossy(version.get(..20).unwrap_or(version))
            )));
        }
        let mut reader = Reader::default();
        let mut ending = Ending::Cut;
        let mut at = 0_usize;
        for (number, line) in text.split_inclusive(|&byte| byte == b'\n').enumerate() {
            let begun = at;
            at = at.saturating_add(line.len());
            let Some(line) = line.strip_suffix(b"\n") else { break };
            let nonsense =
                || FormatError::Nonsense(format!("line {} of its index makes no sense", number + 1));
            if ending != Ending::Cut {
                return Err(FormatError::Nonsense("its index goes on behind its end".to_owned()));
            }
            let line = str::from_utf8(line).map_err(|_| nonsense())?;
            if let Some(digest) = line.strip_prefix("end ") {
                let digest = unhex(digest).ok_or_else(nonsense)?;
                let right = blake3::hash(text.get(..begun).unwrap_or_default()) == digest;
                ending = if right { Ending::Whole } else { Ending::Altered };
            } else if !line.starts_with('#') {
                reader.line(line).ok_or_else(nonsense)?;
            }
        }
        let Reader { name, origin, platform, mut outcome, entries, gaps } = reader;
        if let Some(outcome) = &mut outcome {
            outcome.gaps = gaps;
        }
        let (Some(origin), Some(platform)) = (origin, platform) else {
            return Err(FormatError::Truncated("index"));
        };
        Ok(Self { name, origin, platform, outcome, entries, ending })
    }
}

/// What has been understood of an index by now.
#[derive(Default)]
struct Reader {
    name: OsString,
    origin: Option<Origin>,
    platform: Option<Platform>,
    outcome: Option<Outcome>,
    entries: Vec<Entry>,
    gaps: crate::memory::Gaps,
}

impl Reader {
    fn line(&mut self, line: &str) -> Option<()> {
        let (first, rest) = line.split_once(' ')?;
        match first {
            "process" => {
                let (_, name) = rest.split_once(' ')?;
                self.name = OsString::from_vec(words::unescape(name.as_bytes())?);
            }
            "origin" => self.origin = Some(serde_json::from_str(rest).ok()?),
            "platform" => {
                let platform: Platform = serde_json::from_str(rest).ok()?;
                if !platform.page_size.is_power_of_two() || platform.page_size > 1 << 30 {
                    return None;
                }
                self.platform = Some(platform);
            }
            "outcome" => self.outcome = Some(serde_json::from_str(rest).ok()?),
            "gap" => {
                let (span, cause) = rest.split_once(' ')?;
                self.gaps.push(parse_span(span)?, words::cause(cause)?);
            }
            "pages" => {
                let (number, runs) = rest.split_once(' ')?;
                let page_size = self.platform?.page_size;
                self.entries.get_mut(parse_number(number)?)?.take_pages(runs, page_size)?;
            }
            number if parse_number(number)? == self.entries.len() => {
                let entry = parse_entry(rest)?;
                if self.entries.last().is_some_and(|last| last.region.span.end() > entry.region.span.start())
                {
                    return None;
                }
                self.entries.push(entry);
            }
            _ => return None,
        }
        Some(())
    }
}

impl Entry {
    /// Writes the runs, cut where what is in the file begins and ends.
    fn put_pages(&self, text: &mut String, page_size: u64) {
        let mut at = self.region.span.start();
        let mut put = |mark: &str, state: &str, bytes: u64| {
            if bytes > 0 {
                let _ = write!(text, " {mark}{state}*{}", bytes / page_size.max(1));
            }
        };
        let mut written = self.written.iter().copied().peekable();
        for run in &self.pages {
            put("~", "none", run.span.start().offset_from(at).unwrap_or(0));
            at = run.span.end();
            let state = words::of_state(run.state);
            if run.state.is_known_zero() {
                put("", &state, run.span.len());
                continue;
            }
            let mut rest = run.span;
            while let Some(part) = written.peek() {
                if let Some(inside) = part.intersection(rest) {
                    let (before, from) = rest.split_at(inside.start());
                    put("-", &state, before.len());
                    put("", &state, inside.len());
                    rest = from.split_at(inside.end()).1;
                }
                if part.end() > run.span.end() {
                    break;
                }
                written.next();
            }
            put("-", &state, rest.len());
        }
        put("~", "none", self.region.span.end().offset_from(at).unwrap_or(0));
    }

    fn take_pages(&mut self, runs: &str, page_size: u64) -> Option<()> {
        if !self.pages.is_empty() {
            return None;
        }
        let mut rest = self.region.span;
        for run in runs.split(' ') {
            let (state, pages) = run.split_once('*')?;
            let len =
                parse_decimal(pages)?.checked_mul(page_size).filter(|&len| len > 0 && len <= rest.len())?;
            let (span, behind) = rest.split_at(rest.start().checked_add(len)?);
            rest = behind;
            if state == "~none" {
                continue;
            }
            let (state, kept) = match state.strip_prefix('-') {
                Some(state) => (words::state(state)?, false),
                None => (words::state(state)?, true),
            };
            self.pages.push(span, state);
            if kept && !state.is_known_zero() {
                match self.written.last_mut() {
                    Some(last) if last.end() == span.start() => *last = Span::new(last.start(), span.end())?,
                    _ => self.written.push(span),
                }
            }
        }
        (rest.is_empty() && (self.file.is_some() || self.written.is_empty())).then_some(())
    }

    /// The state of each page of the region, as far as the index tells: what was read is in the file.
    pub(super) fn saved_pages(&self) -> impl Iterator<Item = (Span, PageState, bool)> + '_ {
        let mut first = 0;
        self.pages.iter().flat_map(move |run| {
            let mut rest = run.span;
            let mut parts = Vec::new();
            // Both ascend.
            while self.written.get(first).is_some_and(|span| span.end() <= run.span.start()) {
                first += 1;
            }
            let written = self.written.iter().skip(first).map_while(|span| span.intersection(run.span));
            for part in written {
                let (before, from) = rest.split_at(part.start());
                parts.push((before, run.state, false));
                parts.push((part, run.state, true));
                rest = from.split_at(part.end()).1;
            }
            parts.push((rest, run.state, false));
            parts.into_iter().filter(|(span, ..)| !span.is_empty())
        })
    }
}

/// A region in the words of `/proc/PID/maps`, the name escaped.
#[must_use]
pub fn region_words(region: &Region) -> String {
    let (offset, device, inode) =
        region.file().map_or_else(Default::default, |file| (file.offset, file.device, file.inode));
    let Device { major, minor } = device;
    let span = span_word(region.span);
    let mut text = format!("{span} {} {offset:08x} {major:02x}:{minor:02x} {inode}", region.permissions);
    let name = words::escape(&region.name());
    if !name.is_empty() {
        text.push(' ');
        text.push_str(&name);
    }
    text
}

/// A span as `/proc/PID/maps` writes it.
#[must_use]
pub fn span_word(span: Span) -> String {
    format!("{:08x}-{:08x}", span.start().get(), span.end().get())
}

fn parse_entry(text: &str) -> Option<Entry> {
    let mut split = text.split(' ');
    let mut word = || split.next();
    let (file, digest) = (word()?, word()?);
    let file = match (file, digest) {
        ("-", "-") => None,
        (name, digest) if is_file_name(name.as_bytes()) => {
            Some(RegionFile { name: name.to_owned(), digest: unhex(digest)? })
        }
        _ => return None,
    };
    let span = parse_span(word()?)?;
    let permissions = Permissions::parse(word()?.as_bytes())?;
    let offset = parse_hex(word()?)?;
    let (major, minor) = word()?.split_once(':')?;
    let device = Device {
        major: u32::try_from(parse_hex(major)?).ok()?,
        minor: u32::try_from(parse_hex(minor)?).ok()?,
    };
    let inode = parse_decimal(word()?)?;
    let name = words::unescape(word().unwrap_or_default().as_bytes())?;
    if span.is_empty() || word().is_some() {
        return None;
    }
    let region = Region { span, permissions, backing: Backing::from_maps(&name, offset, device, inode) };
    Some(Entry { region, file, pages: PageRuns::new(), written: Vec::new() })
}

pub(super) fn parse_span(text: &str) -> Option<Span> {
    let (start, end) = text.split_once('-')?;
    Span::new(Address::new(parse_hex(start)?), Address::new(parse_hex(end)?))
}

pub(super) fn parse_hex(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u64::from_str_radix(text, 16).ok())?
}

pub(super) fn parse_decimal(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn parse_number(text: &str) -> Option<usize> {
    usize::try_from(parse_decimal(text)?).ok().filter(|_| text.len() >= 3)
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let (pairs, odd) = text.as_bytes().as_chunks::<2>();
    let mut digest = [0; 32];
    if pairs.len() != digest.len() || !odd.is_empty() {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(pairs) {
        *byte = u8::try_from(parse_hex(str::from_utf8(pair).ok()?)?).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::record::{Contents, Mode};
    use crate::memory::{Cause, Touch};

    fn span(start: u64, end: u64) -> Span {
        Span::new(Address::new(start), Address::new(end)).unwrap()
    }

    fn entry(line: &str, file: bool, runs: &[(u64, u64, PageState)], written: &[(u64, u64)]) -> Entry {
        let region = crate::maps::parse(line.as_bytes()).unwrap().into_iter().next().unwrap();
        let mut pages = PageRuns::new();
        for (start, end, state) in runs {
            pages.push(span(*start, *end), *state);
        }
        let file = file.then(|| RegionFile { name: "mf-mem-000.bin".to_owned(), digest: [0xa5; 32] });
        Entry {
            region,
            file,
            pages,
            written: written.iter().map(|(start, end)| span(*start, *end)).collect(),
        }
    }

    fn index() -> Index {
        let gone = PageState::Unreadable(Cause::Vanished);
        let mut outcome = Outcome { pause_ns: 7, remarks: vec!["a remark".to_owned()], ..Outcome::default() };
        outcome.gaps.push(span(0x4000, 0x5000), Cause::Vanished);
        outcome.gaps.push(span(0x6000, 0x7000), Cause::Os(5));
        Index {
            name: "a (b)\n".into(),
            origin: Origin {
                version: "0.1.0".into(),
                pid: 42,
                started_ns: 1,
                host: "h".into(),
                kernel: "6.18".into(),
                mode: Mode::Live,
                contents: Contents::Default,
                touch: Touch::Stored,
                trailer_offset: 0,
            },
            platform: Platform::X86_64,
            outcome: Some(outcome),
            entries: vec![
                entry(
                    "1000-8000 rw-p 00003000 08:02 77 /tmp/a b\\012 (deleted)\n",
                    true,
                    &[
                        (0x1000, 0x3000, PageState::Absent),
                        (0x3000, 0x4000, PageState::FileClean),
                        (0x4000, 0x5000, gone),
                        (0x6000, 0x8000, PageState::FileClean),
                    ],
                    &[(0x4000, 0x5000), (0x7000, 0x8000)],
                ),
                entry(
                    "9000-a000 ---p 00000000 00:00 0 \n",
                    false,
                    &[(0x9000, 0xa000, PageState::Guard)],
                    &[],
                ),
                entry(
                    "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]\n",
                    false,
                    &[],
                    &[],
                ),
            ],
            ending: Ending::Whole,
        }
    }

    #[test]
    fn everything_comes_back() {
        let index = index();
        let text = index.encode();
        assert_eq!(Index::decode(&text).unwrap(), index);
        let text = String::from_utf8(text).unwrap();
        let digest = "a5".repeat(32);
        assert!(
            text.contains(&format!(
                "\n000 mf-mem-000.bin {digest} 00001000-00008000 rw-p 00003000 08:02 77 \
                 /tmp/a\\040b\\012\\040(deleted)\n\
                 001 - - 00009000-0000a000 ---p 00000000 00:00 0\n"
            )),
            "{text}"
        );
        let runs = "pages 000 absent*2 -file-clean*1 !vanished*1 ~none*1 -file-clean*1 file-clean*1\n";
        assert!(text.contains(runs), "{text}");
        assert!(text.contains("\ngap 00006000-00007000 errno-5\n"), "{text}");
    }

    #[test]
    fn cut_at_every_length_it_says_so_and_tells_the_rest() {
        let text = index().encode();
        let mut known = 0;
        for length in 0..text.len() {
            match Index::decode(&text[..length]) {
                Ok(cut) => {
                    assert_eq!(cut.ending, Ending::Cut, "{length}");
                    assert!(cut.entries.len() >= known);
                    known = cut.entries.len();
                }
                Err(FormatError::Truncated(_) | FormatError::NoIndex | FormatError::Nonsense(_)) => {
                    assert_eq!(known, 0, "{length}");
                }
                Err(other) => panic!("{length}: {other}"),
            }
        }
        assert_eq!(known, 3);
    }

    #[test]
    fn a_changed_byte_is_seen_and_nonsense_has_its_line() {
        let text = String::from_utf8(index().encode()).unwrap();
        let altered = text.replace("vanished*1", "secret*1");
        assert_eq!(Index::decode(altered.as_bytes()).unwrap().ending, Ending::Altered);
        for (from, to) in [
            ("mf-mem-000.bin", "../../etc/passwd"),
            ("mf-mem-000.bin", "mf-mem-0.bin"),
            ("\n001 ", "\n002 "),
            ("absent*2", "absent*3"),
            ("absent*2", "absent*18446744073709551615"),
            ("absent*2", "absent*0"),
            ("absent*2", "fresh*2"),
            ("00009000-0000a000", "00007000-0000a000"),
            ("\\040b", "\\4b"),
            ("\"page_size\":4096", "\"page_size\":0"),
            ("errno-5", "bad-luck"),
            ("version 1", "version 2"),
        ] {
            let bad = text.replace(from, to);
            assert_ne!(bad, text, "{from}");
            assert!(matches!(Index::decode(bad.as_bytes()), Err(FormatError::Nonsense(_))), "{from} {to}");
        }
        assert!(Index::decode((text.clone() + "# more\n").as_bytes()).is_err());
        assert!(matches!(Index::decode(b"\x7fELF"), Err(FormatError::NoIndex)));
    }
}
