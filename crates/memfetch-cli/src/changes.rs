//! Changes as `memfetch diff` shows them: lines of dumps, values, a line for each mapping, JSON.

use std::io::Write;

use memfetch::query::diff::{Change, Difference, Event, RegionChange, Report};
use memfetch::query::dump::{Cell, Layout, Line, Style};
use memfetch::query::values::{Number, Type};
use memfetch::{Address, Permissions, Platform, Region, Span};
use serde::Serialize;

use crate::failure::Failure;
use crate::json;
use crate::plan::ChangeView;
use crate::quantity::{Units, count, size};
use crate::text::{Paint, hex, printable};

/// Writes changes as they come.
#[derive(Debug)]
pub struct Writer<W> {
    view: ChangeView,
    platform: Platform,
    out: W,
    line: Line,
    /// The mapping that the last changes were of.
    current: Option<Current>,
}

/// What is known of the changes of one mapping.
#[derive(Debug)]
struct Current {
    before: Span,
    after: Span,
    permissions: Permissions,
    name: String,
    /// How many of its changes are shown.
    shown: u64,
    /// How many are not, and how many bytes those are.
    hidden: u64,
    hidden_bytes: u64,
    ranges: u64,
    different_bytes: u64,
}

/// A place in JSON.
#[derive(Debug, Serialize)]
struct Place<'a> {
    #[serde(flatten)]
    span: Span,
    permissions: Permissions,
    name: std::borrow::Cow<'a, str>,
}

/// A line of JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
enum Entry<'a> {
    Region {
        change: Change,
        before: Option<Place<'a>>,
        after: Option<Place<'a>>,
    },
    Bytes {
        before: Place<'a>,
        after: Place<'a>,
        old: String,
        new: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        values: Option<Vec<Pair>>,
    },
    Summary {
        different: bool,
        complete: bool,
        #[serde(flatten)]
        report: &'a Report,
    },
}

/// A value on both sides, in JSON.
#[derive(Debug, Serialize)]
struct Pair {
    before_at: Address,
    after_at: Address,
    old: Number,
    new: Number,
}

impl<W: Write> Writer<W> {
    /// Nothing yet.
    pub fn new(view: ChangeView, platform: Platform, out: W) -> Self {
        Self { view, platform, out, line: Line::default(), current: None }
    }

    /// Writes a change.
    pub fn event(&mut self, event: Event<'_>) -> Result<(), Failure> {
        match (event, self.view) {
            (_, ChangeView::Nothing) => Ok(()),
            (Event::Region(told), ChangeView::Json(_)) => self.json(&Entry::Region {
                change: told.change,
                before: told.before.map(|(span, region)| Place::new(span, region)),
                after: told.after.map(|(span, region)| Place::new(span, region)),
            }),
            (Event::Bytes(told), ChangeView::Json(kind)) => self.json(&entry(&told, kind, &self.platform)),
            (
                Event::Region(told),
                ChangeView::Summary { paint }
                | ChangeView::Dump { paint, .. }
                | ChangeView::Values { paint, .. },
            ) => self.region(&told, paint),
            (Event::Bytes(told), ChangeView::Summary { paint }) => {
                self.enter(&told, None, paint)?;
                Ok(())
            }
            (Event::Bytes(told), ChangeView::Dump { limit, paint }) => {
                self.enter(&told, Some(1), paint)?;
                if self.has_room(limit, told.before.len() as u64, 1) {
                    self.dump(&told, limit, paint)
                } else {
                    Ok(())
                }
            }
            (Event::Bytes(told), ChangeView::Values { kind, limit, paint }) => {
                self.enter(&told, Some(1), paint)?;
                self.values(&told, kind, limit, paint)
            }
        }
    }

    /// Writes what is known only at the end.
    pub fn finish(&mut self, report: &Report) -> Result<(), Failure> {
        self.leave()?;
        if let ChangeView::Json(_) = self.view {
            let complete = !report.has_gaps();
            self.json(&Entry::Summary { different: report.is_different(), complete, report })?;
        }
        Ok(self.out.flush()?)
    }

    fn json(&mut self, entry: &Entry<'_>) -> Result<(), Failure> {
        Ok(json::write_line(&mut self.out, entry)?)
    }

    fn region(&mut self, told: &RegionChange<'_>, paint: Paint) -> Result<(), Failure> {
        let word = match told.change {
            Change::Came => "came",
            Change::Went => "went",
            Change::Grew => "grew",
            Change::Shrank => "shrank",
            Change::Moved => "moved",
            Change::Permissions => "access",
            Change::Replaced => "replaced",
        };
        let Some((span, region)) = told.before.or(told.after) else { return Ok(()) };
        let mut text = format!("{word:<8} {}", bounds(span));
        let other = told.after.filter(|(other, _)| told.before.is_some() && *other != span);
        if let Some((other, _)) = other {
            text.push_str(&format!(" -> {}", bounds(other)));
        }
        text.push_str(&format!("  {}", region.permissions));
        if let Some((_, after)) = told.after.filter(|(_, after)| {
            told.before.is_some() && after.permissions != region.permissions && told.change != Change::Moved
        }) {
            text.push_str(&format!(" -> {}", after.permissions));
        }
        text.push_str(&format!("  {:>8}  {}", size(span.len(), Units::Full), printable(&region.name())));
        if let (Change::Replaced, Some((_, after))) = (told.change, told.after) {
            text.push_str(&format!(" -> {}", printable(&after.name())));
        }
        let text = text.trim_end();
        // Most of it is expected.
        let text = if told.change == Change::Moved { paint.dim(text) } else { text.to_owned() };
        Ok(writeln!(self.out, "{text}")?)
    }

    /// Begins with a mapping, if the last change was of another.
    fn enter(&mut self, told: &Difference<'_>, heading: Option<u64>, paint: Paint) -> Result<(), Failure> {
        let (before, after) = (told.before_region.span, told.after_region.span);
        if self.current.as_ref().is_none_or(|it| (it.before, it.after) != (before, after)) {
            self.leave()?;
            let current = Current {
                before,
                after,
                permissions: told.after_region.permissions,
                name: printable(&told.after_region.name()),
                shown: 0,
                hidden: 0,
                hidden_bytes: 0,
                ranges: 0,
                different_bytes: 0,
            };
            if heading.is_some() {
                writeln!(self.out, "{}", paint.bold(&current.heading()))?;
            }
            self.current = Some(current);
        }
        if let Some(current) = &mut self.current {
            current.ranges += 1;
            let differ = told.before.iter().zip(told.after).filter(|(old, new)| old != new);
            current.different_bytes += differ.count() as u64;
        }
        Ok(())
    }

    /// Ends with a mapping.
    fn leave(&mut self) -> Result<(), Failure> {
        let Some(current) = self.current.take() else { return Ok(()) };
        if let ChangeView::Summary { .. } = self.view {
            let ranges = count(current.ranges, "range");
            let bytes = size(current.different_bytes, Units::Full);
            let (bounds, permissions) = (current.bounds(), current.permissions);
            let text =
                format!("changed  {bounds}  {permissions}  {bytes:>8}  in {ranges:<13}  {}", current.name);
            writeln!(self.out, "{}", text.trim_end())?;
        }
        if current.hidden > 0 {
            let (more, bytes) = (current.hidden, size(current.hidden_bytes, Units::Full));
            writeln!(self.out, "  ... and {more} more, {bytes}: --all shows them")?;
        }
        Ok(())
    }

    /// Whether one more change of so many bytes is shown; else it is counted.
    fn has_room(&mut self, limit: Option<u64>, bytes: u64, changes: u64) -> bool {
        let Some(current) = &mut self.current else { return false };
        if limit.is_some_and(|limit| current.shown >= limit) {
            current.hidden += changes;
            current.hidden_bytes += bytes;
            return false;
        }
        current.shown += changes;
        true
    }

    /// Lines of the dumps of both sides, one under the other.
    fn dump(&mut self, told: &Difference<'_>, limit: Option<u64>, paint: Paint) -> Result<(), Failure> {
        let layout = Layout::default();
        let width = layout.width as u64;
        let mut done = 0_usize;
        let mut lines = 0;
        while done < told.before.len() {
            if limit.is_some_and(|limit| lines >= limit) {
                let rest = size((told.before.len() - done) as u64, Units::Full);
                writeln!(self.out, "  ... {rest} more of this: --all shows them")?;
                break;
            }
            let at = told.before_at.saturating_add(done as u64);
            let after_at = told.after_at.saturating_add(done as u64);
            // Lines begin at multiples of their width, as in other dumps.
            let into_line = at.get() % width;
            let len = usize::try_from(width - into_line).unwrap_or(16).min(told.before.len() - done);
            let (old, new) = (told.before.get(done..done + len), told.after.get(done..done + len));
            let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
            let differs = |index: usize| old.get(index) != new.get(index);
            for (sign, at, bytes) in [('-', at, old), ('+', after_at, new)] {
                let mut cells = [Cell::Outside; 16];
                let room = cells.iter_mut().skip(usize::try_from(into_line).unwrap_or(0));
                room.zip(bytes).for_each(|(cell, byte)| *cell = Cell::Byte(*byte));
                let first = Address::new(at.get().saturating_sub(into_line));
                let marked = |index: usize| {
                    usize::try_from(into_line)
                        .is_ok_and(|skipped| index >= skipped && differs(index - skipped))
                };
                layout.render(first, &cells, marked, &mut self.line);
                self.write_line(sign, paint)?;
            }
            done += len;
            lines += 1;
        }
        Ok(())
    }

    /// The line that was rendered, with what differs in the colour of its side.
    fn write_line(&mut self, sign: char, paint: Paint) -> Result<(), Failure> {
        let code = if sign == '-' { "31" } else { "32" };
        let mut text = format!("{} ", paint.coloured(code, &sign.to_string()));
        for (run, part) in self.line.parts() {
            match run.style {
                _ if run.marked => text.push_str(&paint.coloured(code, part)),
                Style::Frame | Style::Blank => text.push_str(part),
                _ => text.push_str(&paint.dim(part)),
            }
        }
        Ok(writeln!(self.out, "{text}")?)
    }

    fn values(
        &mut self,
        told: &Difference<'_>,
        kind: Type,
        limit: Option<u64>,
        paint: Paint,
    ) -> Result<(), Failure> {
        let platform = self.platform;
        for (before_at, after_at, old, new) in elements(told, kind, &platform) {
            if !self.has_room(limit, old.len() as u64, 1) {
                continue;
            }
            let shown = |bytes: &[u8]| match kind.number(bytes, &platform, platform.byte_order) {
                Some(value) => value.to_string(),
                // Its other bytes could not be compared.
                None => format!("bytes {}", hex(bytes)),
            };
            let places = if before_at == after_at {
                format!("{before_at:012x}")
            } else {
                format!("{before_at:012x} {after_at:012x}")
            };
            let (old, new) = (paint.coloured("31", &shown(old)), paint.coloured("32", &shown(new)));
            writeln!(self.out, "  {places}  {old} -> {new}")?;
        }
        Ok(())
    }
}

impl Current {
    /// Where it lies, on both sides if that is not the same.
    fn bounds(&self) -> String {
        let before = bounds(self.before);
        if self.before.start() == self.after.start() {
            before
        } else {
            format!("{before} -> {}", bounds(self.after))
        }
    }

    fn heading(&self) -> String {
        format!("{}  {}  {}", self.bounds(), self.permissions, self.name).trim_end().to_owned()
    }
}

impl<'a> Place<'a> {
    fn new(span: Span, region: &'a Region) -> Self {
        // The name is of this call only.
        let name = region.name().to_string_lossy().into_owned();
        Self { span, permissions: region.permissions, name: name.into() }
    }
}

fn bounds(span: Span) -> String {
    format!("{:012x}-{:012x}", span.start(), span.end())
}

/// The values that differ in a range, where they lie, and their bytes on both sides.
fn elements<'a>(
    told: &Difference<'a>,
    kind: Type,
    platform: &Platform,
) -> impl Iterator<Item = (Address, Address, &'a [u8], &'a [u8])> {
    let (before_at, after_at, before, after) = (told.before_at, told.after_at, told.before, told.after);
    let len = usize::try_from(kind.unit(platform)).unwrap_or(8);
    let mut done = 0_usize;
    std::iter::from_fn(move || {
        let at = before_at.saturating_add(done as u64);
        // One whose beginning could not be compared is shorter.
        let to_grid = len - usize::try_from(at.get() % len as u64).unwrap_or(0);
        let end = before.len().min(done + to_grid);
        let (old, new) = (before.get(done..end)?, after.get(done..end)?);
        let item = (at, after_at.saturating_add(done as u64), old, new);
        done = end;
        (!old.is_empty()).then_some(item)
    })
}

fn entry<'a>(told: &Difference<'a>, kind: Option<Type>, platform: &Platform) -> Entry<'a> {
    let place = |at: Address, region: &'a Region| {
        let span = Span::from_len(at, told.before.len() as u64).unwrap_or(Span::empty_at(at));
        Place::new(span, region)
    };
    let values = kind.map(|kind| {
        let all = elements(told, kind, platform);
        let pairs = all.filter_map(|(before_at, after_at, old, new)| {
            let number = |bytes: &[u8]| kind.number(bytes, platform, platform.byte_order);
            let (old, new) = (number(old)?, number(new)?);
            Some(Pair { before_at, after_at, old, new })
        });
        pairs.collect()
    });
    Entry::Bytes {
        before: place(told.before_at, told.before_region),
        after: place(told.after_at, told.after_region),
        old: hex(told.before),
        new: hex(told.after),
        values,
    }
}
