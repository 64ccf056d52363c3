//! YARA rules over a live process: it is left as it was, and may end under them.

use std::ops::ControlFlow;

use memfetch::query::rules::{RuleOptions, RuleText, Rules};
use memfetch::query::sweep::{Scope, Survey};
use memfetch_testkit::Footprint;
use memfetch_testkit::footprint::settle;

use super::*;

/// Strings that are everywhere, and conditions that read.
const RULES: &str = r#"
import "elf"
import "hash"
rule strings { strings: $a = "memfetch" $b = { 7f 45 4c 46 } $c = /GLIBC_[0-9.]+/ condition: any of them }
rule reads { strings: $b = { 7f 45 4c 46 } condition: for any i in (1..#b): (uint32be(@b[i]) == 0x7f454c46) }
rule machine { condition: elf.machine == elf.EM_X86_64 or hash.md5(0x10000, 4096) == "" }
"#;

fn rules() -> Rules {
    let text = RuleText { name: "live.yar".into(), namespace: "default".into(), text: RULES.into() };
    Rules::compile(&[text], &[], &mut |_, _| Err(std::io::ErrorKind::NotFound.into())).unwrap()
}

fn unharmed(role: &str, arguments: &[&str]) {
    let mut target = Target::spawn(role, arguments);
    settle(&mut target);
    let before = Footprint::of(target.pid());
    let process = Process::open(target.pid()).unwrap();
    let survey = Survey::of(&process, &Scope::default()).unwrap();
    let mut found = Vec::new();
    let report = rules().run(&process, &survey, &RuleOptions::default(), |rule| {
        found.push(rule.rule);
        ControlFlow::Continue(())
    });
    report.result.unwrap();
    assert!(found.contains(&"strings".to_owned()) && found.contains(&"reads".to_owned()), "{found:?}");
    assert_eq!(Footprint::of(target.pid()), before, "{role} {arguments:?}");
}

#[test]
fn a_process_is_left_as_it_was() {
    unharmed("reserved", &["64"]);
    unharmed("shared-untouched", &["1024", "memfd"]);
}

#[test]
fn a_process_that_ends_costs_what_was_not_read() {
    let mut target = Target::spawn("reserved", &["1"]);
    settle(&mut target);
    let process = Process::open(target.pid()).unwrap();
    let survey = Survey::of(&process, &Scope::default()).unwrap();
    drop(target);
    let report = rules().run(&process, &survey, &RuleOptions::default(), |_| ControlFlow::Continue(()));
    assert!(report.result.is_err() || report.coverage.gaps.bytes() > 0, "{report:?}");
}
