//! What is known of each page of an image: from its segments, and from the trailer where there is one.

use crate::address::{Address, Span};
use crate::image::elf::Segment;
use crate::image::trailer::{Extent, Trailer};
use crate::memory::{Cause, PageRun, PageRuns, PageState};
use crate::region::RegionMap;

/// The pages of an image that has only its segments.
pub(super) fn by_segments(segments: &[Segment], file_bytes: u64) -> PageRuns {
    let mut pages = PageRuns::new();
    for segment in segments {
        for (span, state) in segment.parts(file_bytes) {
            pages.push(span, state);
        }
    }
    pages
}

/// The pages of an image that has its trailer.
///
/// What the trailer knows to be zero is so, and what it calls a gap is one, whatever the file has there. What
/// it says was read is there as far as the file has it. Of what it says nothing about, only what was written
/// is there.
pub(super) fn by_trailer(
    segments: &[Segment],
    file_bytes: u64,
    regions: &RegionMap,
    trailer: &Trailer,
) -> PageRuns {
    let mut pages = PageRuns::new();
    let mut segments = segments.iter().peekable();
    // Regions without a segment have no bytes, and still pages.
    let mut regions = regions.iter().map(|region| region.span).peekable();
    let mut end = Address::ZERO;
    loop {
        let segment = segments.peek().map(|segment| segment.span.start());
        let region = regions.peek().map(|region| region.start().max(end));
        match (region, segment) {
            (Some(start), segment) if segment.is_none_or(|segment| start < segment) => {
                let Some(region) = regions.peek().map(|region| region.split_at(start).1) else { break };
                let (bare, _) = region.split_at(segment.unwrap_or(region.end()));
                add(&mut pages, bare, PageState::Unreadable(Cause::NotSaved), None, trailer);
                end = end.max(bare.end());
                if region.end() <= end {
                    regions.next();
                }
            }
            (_, Some(_)) => {
                let Some(segment) = segments.next() else { break };
                for (span, state) in segment.parts(file_bytes) {
                    add(&mut pages, span, state, Some(segment), trailer);
                }
                end = end.max(segment.span.end());
                while regions.next_if(|region| region.end() <= end).is_some() {}
            }
            _ => break,
        }
    }
    pages
}

/// Adds `span`, of which the segment alone would say `base`.
fn add(pages: &mut PageRuns, span: Span, base: PageState, segment: Option<&Segment>, trailer: &Trailer) {
    let mut at = span.start();
    for run in trailer.pages.within(span) {
        add_unnamed(pages, at, run.span.start(), base, segment, trailer);
        let state = if run.state.is_known_zero() || run.state.refusal().is_some() { run.state } else { base };
        pages.push(run.span, state);
        at = run.span.end();
    }
    add_unnamed(pages, at, span.end(), base, segment, trailer);
}

/// Adds what the trailer has no run for: filler that was never written is not what the process had.
fn add_unnamed(
    pages: &mut PageRuns,
    start: Address,
    end: Address,
    base: PageState,
    segment: Option<&Segment>,
    trailer: &Trailer,
) {
    let Some(span) = Span::new(start, end).filter(|span| !span.is_empty()) else { return };
    let mut rest = span;
    if base == PageState::Resident
        && let Some(segment) = segment
        && let Some(offset) = segment.offset_of(start)
    {
        for PageRun { span: written, .. } in written(&trailer.extents, span, offset) {
            let (hole, from) = rest.split_at(written.start());
            pages.push(hole, PageState::Unreadable(Cause::NotSaved));
            let (written, behind) = from.split_at(written.end());
            pages.push(written, PageState::Resident);
            rest = behind;
        }
        pages.push(rest, PageState::Unreadable(Cause::NotSaved));
        return;
    }
    pages.push(rest, base);
}

/// The parts of `span` that extents cover, where the file has its first byte at `offset`.
fn written(extents: &[Extent], span: Span, offset: u64) -> impl Iterator<Item = PageRun> + '_ {
    let end = offset.saturating_add(span.len());
    let first = extents.partition_point(|extent| extent.end() <= offset);
    extents.iter().skip(first).take_while(move |extent| extent.offset < end).filter_map(move |extent| {
        let from = extent.offset.saturating_sub(offset);
        let to = extent.end().min(end).saturating_sub(offset);
        let part = Span::new(span.start().checked_add(from)?, span.start().checked_add(to)?)?;
        Some(PageRun { span: part, state: PageState::Resident })
    })
}
