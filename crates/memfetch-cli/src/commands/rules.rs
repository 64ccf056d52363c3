//! `memfetch find --rules`.

use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;

use memfetch::query::atlas::Atlas;
use memfetch::query::rules::RuleOptions;
use memfetch::query::sweep::{Scope, Survey};

use super::find::tell_shortfall;
use crate::coverage::{self, Object};
use crate::ending::Ending;
use crate::failure::Failure;
use crate::json;
use crate::places::Places;
use crate::plan::{Find, Report, RuleFiles};
use crate::report::report;
use crate::rule_files;
use crate::rule_report::{self, RuleLook};
use crate::source::Source;
use crate::text::printable;

/// Evaluates rules, and tells which are true.
pub fn run(plan: &Find, files: &RuleFiles, source: &Source) -> Result<Ending, Failure> {
    let rules = rule_files::compile(&files.files, &files.definitions)?;
    if plan.report != Report::Nothing {
        for warning in rules.warnings() {
            let _ = writeln!(io::stderr(), "{}", printable(warning.to_string().as_ref()));
        }
    }
    let memory = source.memory();
    let scope = Scope { selection: plan.selection.clone(), touch: plan.touch, ..Scope::default() };
    let survey = Survey::of(memory, &scope)?;
    let options = RuleOptions { threads: plan.threads, tags: files.tags.clone(), ..RuleOptions::default() };
    let namespaces = files.files.iter().any(|file| file.contains(':'));
    let look = RuleLook {
        json: plan.report == Report::Json,
        strings: plan.report != Report::Mappings,
        tags: true,
        metadata: false,
        namespace: namespaces,
    };
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let mut found = 0;
    let mut written = Ok(());
    let mut places = Places::new(Atlas::of_regions(memory, plan.touch, survey.map().clone()));
    let told = rules.run(memory, &survey, &options, |rule| {
        found += 1;
        if !matches!(plan.report, Report::Nothing | Report::Count) {
            written = rule_report::print(&mut out, &rule, &mut places, look);
        }
        let enough = plan.max_count.is_some_and(|most| found >= most);
        if enough || written.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let written = written.and_then(|()| {
        match plan.report {
            Report::Count => writeln!(out, "{found}")?,
            Report::Json => {
                let complete = told.is_whole() && source.shortfall().is_none();
                json::write_line(&mut out, &Object { complete, coverage: &told.coverage })?;
            }
            _ => {}
        }
        out.flush()
    });
    match written.map_err(Failure::from) {
        Err(failure) if failure.is_broken_pipe() => {}
        written => written?,
    }
    let doubts = rule_report::doubts(&told);
    if plan.report != Report::Nothing {
        let mut text = if look.json { String::new() } else { coverage::paragraph(&told.coverage) };
        for doubt in &doubts {
            text.push_str(&format!("  Note: {}\n", printable(doubt.as_ref())));
        }
        let _ = io::stderr().write_all(text.as_bytes());
    }
    let lacks = tell_shortfall(plan, source) || !told.coverage.gaps.is_empty();
    // With doubts also a rule that is true may be wrong.
    let ending = if !doubts.is_empty() || (found == 0 && lacks) {
        Ending::Gaps
    } else if found == 0 {
        Ending::Different
    } else {
        Ending::Done
    };
    match told.result {
        Err(error) => Ok(ending.max(report(&Failure::from(error)))),
        Ok(()) => Ok(ending),
    }
}
