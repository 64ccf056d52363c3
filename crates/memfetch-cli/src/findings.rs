//! [`Findings`]: how hits are told.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use memfetch::query::atlas::Atlas;
use memfetch::query::dump::{Cell, Layout, Line};
use memfetch::query::find::Sighting;
use memfetch::query::sweep::Coverage;
use memfetch::query::utf16;
use memfetch::query::values::{Number, Type};
use memfetch::{Address, Platform, Span};
use serde::Serialize;

use crate::coverage;
use crate::failure::Failure;
use crate::json;
use crate::places::{Place, Places};
use crate::plan::{Find, Report, Wanted};
use crate::text::{Paint, hex, printable};
use crate::views::painted;

/// Bytes of a line of a hexdump.
const WIDTH: u64 = 16;
/// So many bytes of a text are shown before a hit, and so many from its start.
const BEFORE: u64 = 24;
const SHOWN: u64 = 64;
/// So many bytes of a hit are shown where it is no text.
const SHOWN_BYTES: u64 = 16;

/// How much memory around a hit telling it takes.
pub fn around(report: Report) -> u64 {
    match report {
        Report::Lines { context: Some((before, after)), .. } => (u64::from(before.max(after)) + 1) * WIDTH,
        Report::Lines { .. } | Report::Json => SHOWN,
        _ => 0,
    }
}

/// Hits, told as they come.
pub struct Findings<'a, W> {
    plan: &'a Find,
    platform: Platform,
    places: Places<'a>,
    out: W,
    counts: Vec<u64>,
    /// The regions with hits, by their starts.
    mappings: BTreeMap<Address, (Span, String)>,
    line: Line,
}

/// A hit in JSON.
#[derive(Serialize)]
struct Entry<'a> {
    address: Address,
    length: u64,
    pattern: String,
    #[serde(flatten)]
    place: Place,
    #[serde(skip_serializing_if = "Option::is_none")]
    points_to: Option<Address>,
    bytes: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
}

impl<'a, W: Write> Findings<'a, W> {
    /// Tells what was found to `out`, as the plan says.
    pub fn new(plan: &'a Find, platform: Platform, atlas: Atlas<'a>, out: W) -> Self {
        let counts = vec![0; plan.wanted.len()];
        let places = Places::new(atlas);
        Self { plan, platform, places, out, counts, mappings: BTreeMap::new(), line: Line::default() }
    }

    /// How many hits were told.
    pub fn found(&self) -> usize {
        usize::try_from(self.counts.iter().sum::<u64>()).unwrap_or(usize::MAX)
    }

    /// Tells of one.
    pub fn tell(&mut self, sighting: &Sighting<'_>) -> Result<(), Failure> {
        if let Some(count) = self.counts.get_mut(sighting.hit.pattern) {
            *count += 1;
        }
        match self.plan.report {
            Report::Nothing | Report::Count => Ok(()),
            Report::Mappings => {
                if let Some(region) = self.places.atlas().regions().at(sighting.hit.at) {
                    let name = || printable(&region.name());
                    self.mappings.entry(region.span.start()).or_insert_with(|| (region.span, name()));
                }
                Ok(())
            }
            Report::OnlyMatching => Ok(writeln!(self.out, "{}", self.matched(sighting))?),
            Report::Json => self.json(sighting),
            Report::Lines { context: None, paint } => self.short(sighting, paint),
            Report::Lines { context: Some(lines), paint } => self.long(sighting, lines, paint),
        }
    }

    /// Tells what can be told only at the end, be it the end of the memory or not.
    pub fn finish(&mut self, coverage: &Coverage, complete: bool) -> Result<(), Failure> {
        match self.plan.report {
            Report::Count if self.counts.len() == 1 => writeln!(self.out, "{}", self.found())?,
            Report::Count => {
                for (count, wanted) in self.counts.iter().zip(&self.plan.wanted) {
                    writeln!(self.out, "{count:>8}  {}", printable(OsStr::new(&wanted.to_string())))?;
                }
            }
            Report::Mappings => {
                for (span, name) in self.mappings.values() {
                    writeln!(self.out, "{:012x}-{:012x}  {name}", span.start().get(), span.end().get())?;
                }
            }
            Report::Json => {
                json::write_line(&mut self.out, &coverage::Object { complete, coverage })?;
            }
            _ => {}
        }
        Ok(self.out.flush()?)
    }

    fn wanted(&self, sighting: &Sighting<'_>) -> Option<&'a Wanted> {
        self.plan.wanted.get(sighting.hit.pattern)
    }

    fn is_utf16(&self, sighting: &Sighting<'_>) -> bool {
        matches!(self.wanted(sighting), Some(Wanted::Text(_, true)))
    }

    /// What matched, on one line.
    fn matched(&self, sighting: &Sighting<'_>) -> String {
        if self.is_utf16(sighting) {
            self.utf16(sighting)
        } else {
            printable(OsStr::from_bytes(sighting.bytes()))
        }
    }

    /// Address, place, and what is there.
    fn short(&mut self, sighting: &Sighting<'_>, paint: Paint) -> Result<(), Failure> {
        let at = sighting.hit.at;
        let place = self.place(at);
        let shown = match self.wanted(sighting) {
            Some(Wanted::Text(_, true)) => paint.alarm(&self.utf16(sighting)),
            Some(Wanted::Text(..) | Wanted::Regex(_)) => line_of_text(sighting, paint),
            Some(Wanted::PointsTo(_)) => match self.pointer(sighting) {
                Some(to) => format!("-> {:012x}  {}", to.get(), self.place(to)),
                None => String::new(),
            },
            Some(Wanted::Hex(_) | Wanted::Value(..)) | None => row_of_bytes(sighting, paint),
        };
        let address = paint.dim(&format!("{:012x}", at.get()));
        Ok(writeln!(self.out, "{address}  {place:<24}  {shown}")?)
    }

    fn place(&mut self, at: Address) -> String {
        self.places.words(at).unwrap_or_else(|| "?".to_owned())
    }

    fn pointer(&self, sighting: &Sighting<'_>) -> Option<Address> {
        matches!(self.wanted(sighting), Some(Wanted::PointsTo(_))).then_some(())?;
        match Type::Pointer.number(sighting.bytes(), &self.platform, self.platform.byte_order)? {
            Number::Pointer(to) => Some(to),
            _ => None,
        }
    }

    /// UTF-16 as text on one line.
    fn utf16(&self, sighting: &Sighting<'_>) -> String {
        printable(OsStr::new(&utf16::decode(sighting.bytes(), self.platform.byte_order)))
    }

    /// The lines of a hexdump around it.
    fn long(
        &mut self,
        sighting: &Sighting<'_>,
        (before, after): (u16, u16),
        paint: Paint,
    ) -> Result<(), Failure> {
        if self.found() > 1 {
            writeln!(self.out)?;
        }
        let hit = sighting.hit.span();
        let (address, place) = (paint.bold(&format!("{:012x}", hit.start().get())), self.place(hit.start()));
        writeln!(self.out, "{address}  {place}")?;
        let first = hit.start().align_down(WIDTH).get().saturating_sub(u64::from(before) * WIDTH);
        let shown_end = hit.end().min(hit.start().saturating_add(SHOWN * WIDTH));
        let last = shown_end.align_up(WIDTH).saturating_add(u64::from(after) * WIDTH);
        let Some(all) = Span::new(Address::new(first), last) else { return Ok(()) };
        let (read, bytes) = sighting.around(all);
        for row in all.pieces(WIDTH) {
            let cell = |at: Address| {
                let offset = at.offset_from(read.start()).and_then(|offset| usize::try_from(offset).ok());
                offset.and_then(|offset| bytes.get(offset)).map_or(Cell::Outside, |&byte| Cell::Byte(byte))
            };
            let cells: Vec<_> = (0..WIDTH).map(|offset| cell(row.start().saturating_add(offset))).collect();
            if cells.iter().all(|cell| *cell == Cell::Outside) {
                continue;
            }
            let marked = |index: usize| hit.contains(row.start().saturating_add(index as u64));
            Layout::default().render(row.start(), &cells, marked, &mut self.line);
            if paint.is_on() {
                writeln!(self.out, "{}", painted(&self.line, paint))?;
            } else {
                writeln!(self.out, "{}", self.line.text())?;
            }
        }
        Ok(())
    }

    fn json(&mut self, sighting: &Sighting<'_>) -> Result<(), Failure> {
        let at = sighting.hit.at;
        let entry = Entry {
            address: at,
            length: sighting.hit.len,
            pattern: self.wanted(sighting).map(ToString::to_string).unwrap_or_default(),
            place: self.places.json(at),
            points_to: self.pointer(sighting),
            bytes: hex(sighting.bytes()),
            text: std::str::from_utf8(sighting.bytes()).ok().filter(|text| !text.contains(char::is_control)),
        };
        Ok(json::write_line(&mut self.out, &entry)?)
    }
}

/// The text in which it stands, from the last byte before it that is no text to the first behind it.
fn line_of_text(sighting: &Sighting<'_>, paint: Paint) -> String {
    let hit = sighting.hit.span();
    let from = Address::new(hit.start().get().saturating_sub(BEFORE));
    let all = Span::new(from, hit.end().max(hit.start().saturating_add(SHOWN))).unwrap_or(hit);
    let (read, bytes) = sighting.around(all);
    let split = hit.start().offset_from(read.start()).unwrap_or_default() as usize;
    let (before, from_hit) = bytes.split_at_checked(split).unwrap_or_default();
    let len = usize::try_from(hit.len()).unwrap_or(usize::MAX).min(from_hit.len());
    let (matched, behind) = from_hit.split_at(len);
    // A long match is shown by its beginning.
    let (matched, cut) = match matched.get(..4 * SHOWN as usize) {
        Some(head) if matched.len() > head.len() => (head, "…"),
        _ => (matched, ""),
    };
    let room = (SHOWN as usize).saturating_sub(matched.len());
    let behind = behind.get(..room).unwrap_or(behind);
    format!(
        "{}{}{cut}{}",
        printable(OsStr::new(text_up_to(before))),
        paint.alarm(&printable(OsStr::from_bytes(matched))),
        printable(OsStr::new(text_from(behind)))
    )
}

/// The text that `bytes` end with.
fn text_up_to(bytes: &[u8]) -> &str {
    let last = bytes.utf8_chunks().last().filter(|chunk| chunk.invalid().is_empty());
    let text = last.map_or("", |chunk| chunk.valid());
    text.rsplit(char::is_control).next().unwrap_or(text)
}

/// The text that `bytes` begin with.
fn text_from(bytes: &[u8]) -> &str {
    let text = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    text.split(char::is_control).next().unwrap_or(text)
}

/// The bytes from where it begins, and as characters.
fn row_of_bytes(sighting: &Sighting<'_>, paint: Paint) -> String {
    let hit = sighting.hit.span();
    let all = Span::from_len(hit.start(), SHOWN_BYTES).unwrap_or(hit);
    let (_, bytes) = sighting.around(all);
    let mut text = String::new();
    for (index, byte) in bytes.iter().enumerate() {
        let byte = format!("{byte:02x}");
        text.push_str(&if (index as u64) < hit.len() { paint.alarm(&byte) } else { byte });
        text.push(' ');
    }
    text.push_str(&"   ".repeat((SHOWN_BYTES as usize).saturating_sub(bytes.len())));
    let characters =
        bytes.iter().map(|&byte| if (0x20..0x7f).contains(&byte) { char::from(byte) } else { '.' });
    text + " |" + &characters.collect::<String>() + "|"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_ends_where_it_is_none() {
        assert_eq!(text_up_to(b"old\0key: "), "key: ");
        assert_eq!(text_up_to("\u{e9}t\u{e9}".as_bytes()), "\u{e9}t\u{e9}");
        assert_eq!((text_up_to(b"a\xff"), text_up_to(b"\xffa"), text_up_to(b"")), ("", "a", ""));
        assert_eq!((text_from(b"value\nnext"), text_from(b"v\xff"), text_from(b"\xff")), ("value", "v", ""));
    }
}
