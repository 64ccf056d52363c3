//! `memfetch read`.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::os::fd::AsFd;

use memfetch::query::atlas::{Atlas, Landmark};
use memfetch::query::place::Stretch;
use memfetch::query::reader::{Chunk, Reader};
use memfetch::query::values::{Type, Values};
use memfetch::{Address, Fault, Gaps, Platform, RegionMap, Span};

use crate::ending::Ending;
use crate::failure::Failure;
use crate::places::Place;
use crate::plan::{Read, View};
use crate::quantity::{Units, count, size};
use crate::report::report;
use crate::stdout::Stdout;
use crate::text::Paint;
use crate::views::{Hex, Json, Raw, Show, Subject, Typed};
use crate::{places, source, summary};

/// How much is shown where nothing says how much.
const DEFAULT_LEN: u64 = 256;

/// Shows what lies at a place.
pub fn run(plan: &Read) -> Result<Ending, Failure> {
    let source = source::open(&plan.source)?.with_time_limit(plan.time_limit);
    let memory = source.memory();
    let mut atlas = Atlas::new(memory, plan.touch)?;
    let stretch = plan.place.resolve(&mut atlas)?;
    let wanted = Wanted::new(plan, &stretch, atlas.regions(), memory.platform())?;
    let landmark = landmark(&stretch, &atlas);
    if let Some(paint) = plan.heading {
        // Standard output is for the data.
        let _ = writeln!(io::stderr(), "{}", heading(&wanted, landmark.as_ref(), plan.view.kind(), paint));
    }

    let out = || BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let subject = || Subject {
        span: wanted.span,
        within: landmark.as_ref().map(Place::from).unwrap_or_default(),
        place: landmark.as_ref().map(ToString::to_string),
        kind: plan.view.kind().map(Type::name),
    };
    let mut view: Box<dyn Show + '_> = match plan.view {
        View::Hex { layout, squeeze, paint } => Box::new(Hex::new(layout, squeeze, paint, out())),
        View::Json => Box::new(Json::new(subject(), out())),
        View::Raw { fill } => {
            let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
            Box::new(Raw::new(Stdout::new(stdout)?, fill))
        }
        View::Typed { kind, order, json, paint } => {
            let platform = memory.platform();
            let values = Values::new(kind, platform, order.unwrap_or(platform.byte_order), wanted.count);
            let unit = kind.unit(platform);
            if json {
                Box::new(Typed::json(values, kind, unit, &mut atlas, subject(), out()))
            } else {
                Box::new(Typed::lines(values, kind, unit, &mut atlas, paint, out()))
            }
        }
    };
    let mut told = Told { view: &mut *view, any: false, gaps: Gaps::new() };
    Reader::new(memory, plan.touch).read(wanted.span, &mut |chunk| told.take(chunk))?;
    let Told { any, gaps, .. } = told;
    if let Some(gap) = gaps.as_slice().first().filter(|_| !any) {
        return Err(Failure::Unread(Fault { at: gap.span.start(), cause: gap.cause }));
    }
    view.finish()?;
    let (stopped_at, note) = (view.stopped_at(), view.note());
    drop(view);
    let mut ending = if gaps.is_empty() { Ending::Done } else { Ending::Gaps };
    match stopped_at {
        Some(fault) => {
            report(&Failure::Unread(fault));
        }
        None => tell(&summary::gaps(&gaps)),
    }
    let notes = [
        note,
        source.doubt().map(|why| {
            ending = Ending::Gaps;
            summary::incomplete(&plan.source, &why, "what was lost may read as zero")
        }),
        Some(memory.left_in_ram()).filter(|&bytes| bytes > 0).map(|bytes| {
            format!(
                "{} that were in swap are in RAM now: paging out takes CAP_SYS_NICE",
                size(bytes, Units::Full)
            )
        }),
    ];
    for note in notes.into_iter().flatten() {
        tell(&format!("Note: {note}\n"));
    }
    Ok(ending)
}

/// Whoever does not listen has the data all the same, and the exit code.
fn tell(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// What is to be read.
struct Wanted {
    span: Span,
    /// How many elements at most.
    count: u64,
}

impl Wanted {
    fn new(
        plan: &Read,
        stretch: &Stretch,
        regions: &RegionMap,
        platform: &Platform,
    ) -> Result<Self, Failure> {
        let kind = plan.view.kind();
        let start = stretch.start;
        if let Some(span) = stretch.span() {
            if span.is_empty() {
                return Err(Failure::usage(
                    format!("`{}` is empty", plan.place),
                    "its end lies behind its last byte",
                ));
            }
            return Ok(Self { span, count: u64::MAX });
        }
        let unit = kind.map_or(1, |kind| kind.unit(platform));
        let symbol_len = stretch.symbol.as_ref().map_or(0, |symbol| symbol.size);
        if kind.is_some_and(Type::is_text) {
            // A byte more than there is, so that a text that does not end is seen to be cut off by that.
            let end = mapped_until(regions, start, u64::MAX).saturating_add(1);
            let span = Span::new(start, end).unwrap_or(Span::empty_at(start));
            return Ok(Self { span, count: plan.count.unwrap_or(1) });
        }
        let len = match (plan.count, kind) {
            (Some(count), _) => count.checked_mul(unit),
            (None, Some(_)) => Some((symbol_len / unit).max(1) * unit),
            (None, None) if symbol_len > 0 => Some(symbol_len),
            (None, None) => {
                let there = mapped_until(regions, start, DEFAULT_LEN).offset_from(start);
                there.filter(|&len| len > 0).or(Some(1))
            }
        };
        let span = len.and_then(|len| Span::from_len(start, len));
        let span = span.ok_or_else(|| {
            let what = format!("`{}` and the count reach past the end of the address space", plan.place);
            Failure::usage(what, "a smaller count")
        })?;
        Ok(Self { span, count: u64::MAX })
    }
}

/// Up to where there is no gap in what is mapped, at most `most` bytes on.
fn mapped_until(regions: &RegionMap, start: Address, most: u64) -> Address {
    let mut end = start;
    let all = Span::new(start, start.saturating_add(most)).unwrap_or(Span::empty_at(start));
    for region in regions.within(all) {
        if region.span.start() > end {
            break;
        }
        end = region.span.end().min(all.end());
    }
    end
}

/// What lies at the start; the symbol is the one that was named.
fn landmark(stretch: &Stretch, atlas: &Atlas<'_>) -> Option<Landmark> {
    let mut landmark = atlas.landmark(stretch.start)?;
    landmark.symbol = stretch.symbol.clone().map(|symbol| (symbol, 0));
    Some(landmark)
}

/// Where it is, how much, and what the process may do there.
fn heading(wanted: &Wanted, landmark: Option<&Landmark>, kind: Option<Type>, paint: Paint) -> String {
    let mut text = format!("{}", wanted.span.start());
    if let Some(landmark) = landmark {
        text = format!("{text}  {}  {}", places::words(landmark), landmark.permissions);
    }
    if !kind.is_some_and(Type::is_text) {
        text = match wanted.span.len() {
            len @ ..1024 => format!("{text}  {}", count(len, "byte")),
            len => format!("{text}  {}", size(len, Units::Full)),
        };
    }
    paint.dim(&text)
}

/// Holds back what is missing until there is a byte: where there is none at all nothing is shown.
struct Told<'a> {
    view: &'a mut dyn Show,
    any: bool,
    gaps: Gaps,
}

impl Told<'_> {
    fn take(&mut self, chunk: Chunk<'_>) -> Result<ControlFlow<()>, Failure> {
        if let Chunk::Missing(span, cause) = chunk {
            self.gaps.push(span, cause);
            return if self.any { self.view.show(chunk) } else { Ok(ControlFlow::Continue(())) };
        }
        if !self.any {
            self.any = true;
            for gap in self.gaps.iter() {
                if self.view.show(Chunk::Missing(gap.span, gap.cause))?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        self.view.show(chunk)
    }
}

#[cfg(test)]
mod tests {
    use memfetch::{Backing, Permissions, Region};

    use super::*;

    #[test]
    fn what_is_mapped_together() {
        let region = |start, end| Region {
            span: Span::new(Address::new(start), Address::new(end)).unwrap(),
            permissions: Permissions::default(),
            backing: Backing::Heap,
        };
        let regions = RegionMap::new(vec![region(10, 20), region(20, 30), region(31, 40)]);
        for (start, most, end) in [(15, 100, 30), (15, 3, 18), (30, 100, 30), (35, 100, 40), (50, 1, 50)] {
            assert_eq!(mapped_until(&regions, Address::new(start), most), Address::new(end), "{start}");
        }
    }
}
