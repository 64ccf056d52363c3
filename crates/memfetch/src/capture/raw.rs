//! The index of a raw output: which memory stands where in it.
//!
//! ```text
//! # memfetch raw index, version 1
//! process 1234 redis-server
//! origin {"version":"0.1.0","pid":1234,...}
//! # POSITION LENGTH START-END PERMISSIONS OFFSET DEVICE INODE NAME
//! 0 135168 55d0c1000000-55d0c1021000 rw-p 00000000 00:00 0 [heap]
//! gap 55d0c1002000-55d0c1003000 vanished
//! outcome {"finished_ns":...}
//! # end
//! ```
//!
//! Its words are those of [`crate::image::directory::index`]. A region of which a part is left out has several lines.

use std::fmt::Write;

use super::arrangement::Arrangement;
use super::gather::Gathered;
use super::plan::Plan;
use super::prepare::Prepared;
use crate::address::Span;
use crate::image::directory::index::{region_words, span_word};
use crate::image::directory::words;
use crate::image::record::Outcome;
use crate::memory::PageRuns;
use crate::region::{Backing, Region};

/// The text.
pub(super) fn index(gathered: &Gathered, prepared: &Prepared, outcome: &Outcome) -> Vec<u8> {
    let mut text = String::from("# memfetch raw index, version 1\n");
    // Writing into a string cannot fail, nor can JSON of plain fields.
    let json = |value: serde_json::Result<String>| value.unwrap_or_default();
    let name = words::escape(&gathered.facts.comm);
    let _ = writeln!(text, "process {} {name}", gathered.facts.pid);
    let _ = writeln!(text, "origin {}", json(serde_json::to_string(&prepared.origin)));
    text.push_str("# POSITION LENGTH START-END PERMISSIONS OFFSET DEVICE INODE NAME\n");
    for stretch in &prepared.arrangement.saved {
        let Some(region) = gathered.map.at(stretch.span.start()) else { continue };
        let words = region_words(&part_of(region, stretch.span));
        let _ = writeln!(text, "{} {} {words}", stretch.offset, stretch.span.len());
    }
    let mut plain = outcome.clone();
    for gap in std::mem::take(&mut plain.gaps).iter() {
        let _ = writeln!(text, "gap {} {}", span_word(gap.span), words::of_cause(gap.cause));
    }
    let _ = writeln!(text, "outcome {}", json(serde_json::to_string(&plain)));
    text.push_str("# end\n");
    text.into_bytes()
}

/// A region as if only this part of it were mapped.
fn part_of(region: &Region, span: Span) -> Region {
    let mut part = Region { span, ..region.clone() };
    if let Backing::File(file) = &mut part.backing {
        let into = span.start().offset_from(region.span.start()).unwrap_or(0);
        file.offset = file.offset.saturating_add(into);
    }
    part
}

/// What is to be said of memory that is known to be zero, and is not in the output.
pub(super) fn remark(arrangement: &Arrangement, plan: &Plan, pages: &PageRuns) -> Option<String> {
    let held: u64 = arrangement
        .saved
        .iter()
        .flat_map(|stretch| pages.within(stretch.span))
        .filter(|run| run.state.is_known_zero())
        .map(|run| run.span.len())
        .sum();
    let left_out = plan.zero_bytes.checked_sub(held).filter(|&bytes| bytes > 0)?;
    Some(format!(
        "{left_out} bytes that were never touched are left out; an index tells which memory stands where"
    ))
}
