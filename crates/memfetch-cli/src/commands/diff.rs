//! `memfetch diff`.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;

use memfetch::Platform;
use memfetch::image::Shortfall;
use memfetch::query::diff::{self, Alignment, Change, Event, Report};

use crate::changes::Writer;
use crate::ending::Ending;
use crate::failure::Failure;
use crate::plan::{ChangeView, Diff};
use crate::quantity::{Units, count, size};
use crate::text::printable;
use crate::{source, summary};

/// A line of a dump.
const LINE_BYTES: u64 = 16;

/// Compares two sources; what was found before something went wrong is told.
pub fn run(plan: &Diff) -> Result<Ending, Failure> {
    let (before, after) = (source::open(&plan.before)?, source::open(&plan.after)?);
    let platform = *before.memory().platform();
    let mut writer = Writer::new(plan.view, platform, BufWriter::with_capacity(1 << 16, io::stdout().lock()));
    let mut written = Ok(());
    let mut told_any = false;
    let compared = diff::Diff::new()
        .alignment(plan.alignment)
        .granule(granule(plan.view, &platform))
        .ignore_moved_pointers(plan.ignore_moved_pointers)
        .selection(plan.selection.clone())
        .touch(plan.touch)
        .run(before.memory(), after.memory(), |event| {
            if !matches!(event, Event::Region(told) if told.change == Change::Moved) {
                told_any = true;
            }
            written = writer.event(event);
            let enough = plan.view == ChangeView::Nothing && told_any;
            if written.is_err() || enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
    let shortfalls = [&plan.before, &plan.after].into_iter().zip([before.shortfall(), after.shortfall()]);
    let shortfalls: Vec<_> = shortfalls.filter_map(|(name, why)| Some((name.as_os_str(), why?))).collect();
    match written.and_then(|()| writer.finish(&compared.report)) {
        // Whoever has read enough of the changes still learns how it ended.
        Err(failure) if failure.is_broken_pipe() => {}
        written => written?,
    }
    if !matches!(plan.view, ChangeView::Nothing | ChangeView::Json(_)) {
        let text = paragraph(plan, &compared.report);
        let _ = io::stderr().write_all(text.as_bytes());
    }
    tell_shortfalls(&shortfalls);
    compared.result?;
    Ok(ending(plan.view, &compared.report, !shortfalls.is_empty()))
}

fn tell_shortfalls(shortfalls: &[(&OsStr, Shortfall)]) {
    for (name, why) in shortfalls {
        let text = summary::incomplete(name, why, "what was lost is not compared");
        let _ = writeln!(io::stderr(), "{text}");
    }
}

/// Changes are looked for in units of what is shown.
fn granule(view: ChangeView, platform: &Platform) -> u64 {
    match view {
        ChangeView::Nothing | ChangeView::Summary { .. } | ChangeView::Json(None) => 1,
        ChangeView::Dump { .. } => LINE_BYTES,
        ChangeView::Json(Some(kind)) | ChangeView::Values { kind, .. } => kind.unit(platform),
    }
}

/// Something that could not be compared outweighs a difference, since then the list is not whole; but who asks only
/// whether there is one has the answer.
fn ending(view: ChangeView, report: &Report, is_cut_short: bool) -> Ending {
    let different = if report.is_different() { Ending::Different } else { Ending::Done };
    match different {
        Ending::Different if view == ChangeView::Nothing => different,
        _ if report.has_gaps() || is_cut_short => Ending::Gaps,
        _ => different,
    }
}

/// What it came to, in words.
fn paragraph(plan: &Diff, report: &Report) -> String {
    let (before, after) = (printable(&plan.before), printable(&plan.after));
    let bytes = |bytes: u64| size(bytes, Units::Full);
    let mut text = format!("{before} and {after}: ");
    let mut differing = Vec::new();
    if report.different_bytes > 0 {
        differing.push(format!("{} in {}", exact(report.different_bytes), count(report.ranges, "range")));
    }
    if report.region_changes > 0 {
        differing.push(count(report.region_changes, "mapping"));
    }
    if differing.is_empty() {
        text.push_str("no difference");
    } else {
        let _ = write!(text, "different: {}", differing.join(", "));
    }
    let how = match report.alignment {
        Alignment::ByRegion => "by mapping",
        Alignment::ByAddress | Alignment::Auto => "by address",
    };
    let _ = write!(text, "; {} compared {how}", bytes(report.compared_bytes));
    if report.unread_bytes > 0 {
        let _ = write!(text, ", {} of it known without reading", bytes(report.unread_bytes));
    }
    text.push_str(".\n");
    if report.moved_pointers > 0 {
        let _ = writeln!(
            text,
            "  {} differ only in what they point to having moved.",
            count(report.moved_pointers, "pointer")
        );
    }
    let left = report.left;
    let apart = [
        (report.only_before_bytes, format!("mapped in {before} only")),
        (report.only_after_bytes, format!("mapped in {after} only")),
        (left.unsaved_bytes, "not saved in an image".to_owned()),
        (left.swapped_bytes, "in swap and left there".to_owned()),
        (left.backed_bytes + left.file_bytes, "not in RAM and left alone".to_owned()),
        (report.gap_bytes, "could not be had".to_owned()),
        (report.left_in_ram_bytes, "came from swap and could not be sent back".to_owned()),
    ];
    let apart: Vec<_> =
        apart.iter().filter(|(it, _)| *it > 0).map(|(it, what)| format!("{} {what}", bytes(*it))).collect();
    if !apart.is_empty() {
        let _ = writeln!(text, "  Not compared: {}.", apart.join(", "));
    }
    for (name, gaps) in [(&before, &report.gaps_before), (&after, &report.gaps_after)] {
        if !gaps.is_empty() {
            let _ = write!(text, "  Missing from {name}:\n{}", summary::gaps(gaps));
        }
    }
    text
}

/// Few bytes as a number, many as a size.
fn exact(bytes: u64) -> String {
    if bytes < 10_000 { count(bytes, "byte") } else { size(bytes, Units::Full) }
}
