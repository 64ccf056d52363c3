//! `memfetch find`.

use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;

use memfetch::query::atlas::Atlas;
use memfetch::query::find::Search;

use super::rules;
use crate::coverage;
use crate::ending::Ending;
use crate::failure::Failure;
use crate::findings::{self, Findings};
use crate::plan::{Find, Report};
use crate::report::report;
use crate::source::{self, Source};
use crate::summary;

/// Searches, and tells of each hit as it is found.
pub fn run(plan: &Find) -> Result<Ending, Failure> {
    let source = source::open(&plan.source)?.with_time_limit(plan.time_limit);
    if let Some(files) = &plan.rules {
        return rules::run(plan, files, &source);
    }
    let memory = source.memory();
    let patterns = plan.patterns(memory.platform())?;
    let mut search = Search::new(patterns).selection(plan.selection.clone()).touch(plan.touch);
    search = search.around(findings::around(plan.report));
    if let Some(threads) = plan.threads {
        search = search.threads(threads);
    }
    let survey = search.survey(memory)?;
    let atlas = Atlas::of_regions(memory, plan.touch, survey.map().clone());
    let out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let mut findings = Findings::new(plan, *memory.platform(), atlas, out);
    let mut failure = None;
    let swept = search.run(memory, survey, |sighting| match findings.tell(&sighting) {
        Ok(()) if plan.max_count.is_some_and(|most| findings.found() >= most) => ControlFlow::Break(()),
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failure = Some(error);
            ControlFlow::Break(())
        }
    });
    let found = findings.found() > 0;
    let enough = plan.max_count.is_some_and(|most| findings.found() >= most);
    let complete = swept.result.is_ok() && !enough && source.shortfall().is_none();
    match failure.map_or(Ok(()), Err).and_then(|()| findings.finish(&swept.coverage, complete)) {
        // Whoever has read enough still learns how it ended.
        Err(failure) if failure.is_broken_pipe() => {}
        told => told?,
    }
    let mut ending = match (found, swept.coverage.gaps.is_empty()) {
        (true, _) => Ending::Done,
        (false, true) => Ending::Different,
        (false, false) => Ending::Gaps,
    };
    if !matches!(plan.report, Report::Nothing | Report::Json) {
        let mut text = coverage::paragraph(&swept.coverage);
        if enough {
            text.push_str("  Note: it stopped at the last of them, and the rest was not searched\n");
        }
        let _ = io::stderr().write_all(text.as_bytes());
    }
    if tell_shortfall(plan, &source) && !found {
        ending = Ending::Gaps;
    }
    // With -q, and where enough was found, nothing that comes later matters.
    match swept.result {
        Err(error) if !(found && plan.report == Report::Nothing) => {
            Ok(ending.max(report(&Failure::from(error))))
        }
        _ => Ok(ending),
    }
}

/// Says that an image lacks something, and returns whether it does.
pub fn tell_shortfall(plan: &Find, source: &Source) -> bool {
    let shortfall = source.shortfall();
    if let Some(why) = shortfall.as_ref().filter(|_| plan.report != Report::Nothing) {
        let text = summary::incomplete(&plan.source, why, "what was lost is not searched");
        let _ = writeln!(io::stderr(), "{text}");
    }
    shortfall.is_some()
}
