//! `memfetch verify`.

use std::fmt::Write as _;
use std::path::Path;

use memfetch::Image;
use memfetch::image::verify::{Alteration, Part, Verdict, verify};
use serde::Serialize;

use crate::ending::Ending;
use crate::failure::Failure;
use crate::json;
use crate::plan::{Telling, Verify};
use crate::progress::Bar;
use crate::quantity::{Units, count, size};
use crate::report::{print, report};
use crate::summary;
use crate::text::printable;

/// How many altered ranges are named.
const RANGES_SHOWN: usize = 10;

/// Checks each image; one that cannot be read does not stop the others.
pub fn run(plan: &Verify) -> Result<Ending, Failure> {
    let mut worst = Ending::Done;
    for path in &plan.images {
        match check(path, plan.telling) {
            Ok(ending) => worst = worst.max(ending),
            Err(failure) => worst = worst.max(report(&failure)),
        }
    }
    Ok(worst)
}

/// A verdict in JSON.
#[derive(Debug, Serialize)]
struct Entry<'a> {
    path: std::borrow::Cow<'a, str>,
    #[serde(flatten)]
    verdict: &'a Verdict,
}

fn check(path: &Path, telling: Telling) -> Result<Ending, Failure> {
    let name = printable(path.as_os_str());
    let bar = Bar::new(telling == Telling::Summary, name.clone());
    let verdict = verify(path, &mut |done, total| bar.update(done, total))?;
    drop(bar);
    let mut text = match telling {
        Telling::Nothing => String::new(),
        Telling::Json => {
            let entry = Entry { path: path.to_string_lossy(), verdict: &verdict };
            json::line(&entry)?
        }
        Telling::Summary => format!("{name}: {}", sentence(&verdict)),
    };
    if telling == Telling::Summary
        && matches!(verdict, Verdict::Whole { .. })
        && let Some(outcome) = Image::open(path)?.outcome()
        && !outcome.gaps.is_empty()
    {
        let _ = write!(text, "  missing since it was taken:\n{}", summary::gaps(&outcome.gaps));
    }
    print(&text)?;
    Ok(match verdict {
        Verdict::Whole { .. } => Ending::Done,
        Verdict::Altered { .. } | Verdict::Incomplete { .. } => Ending::Different,
        Verdict::Unverifiable { .. } => Ending::Error,
    })
}

/// The verdict in words; its lines end in newlines.
fn sentence(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Whole { bytes } => format!("whole and unaltered, {}\n", size(*bytes, Units::Full)),
        Verdict::Altered { ranges } => {
            let mut text = format!("ALTERED in {}\n", count(ranges.len() as u64, "place"));
            for range in ranges.iter().take(RANGES_SHOWN) {
                let _ = writeln!(text, "  {}", place(range));
            }
            if let Some(more) = ranges.len().checked_sub(RANGES_SHOWN).filter(|&more| more > 0) {
                let _ = writeln!(text, "  and {more} more");
            }
            text
        }
        Verdict::Incomplete { why, present_bytes, expected_bytes } => {
            let mut text = format!("INCOMPLETE: {why}; {}", size(*present_bytes, Units::Full));
            if expected_bytes > present_bytes {
                let _ = write!(text, " of at least {}", size(*expected_bytes, Units::Full));
            }
            text + "\n"
        }
        Verdict::Unverifiable { bytes } => format!(
            "not of memfetch, or of 2002, so it has no digest to compare with; {}, as it promises\n",
            size(*bytes, Units::Full)
        ),
    }
}

fn place(range: &Alteration) -> String {
    let what = match range.part {
        Part::Written => "is not what was written",
        Part::Unwritten => "was never written, and is not zero",
        Part::Trailer => "is the trailer, and not what was written",
        Part::Behind => "stands behind the end",
        Part::Index => "is not what was written",
    };
    let file = range.of.as_deref().unwrap_or("the file");
    let mut text = format!("bytes {:#x}..{:#x} of {file}: {what}", range.file.offset, range.file.end());
    let memory: Vec<_> = range.memory.iter().take(3).map(ToString::to_string).collect();
    if !memory.is_empty() {
        let more = if range.memory.len() > memory.len() { ", ..." } else { "" };
        let _ = write!(text, "; memory {}{more}", memory.join(", "));
    }
    text
}
