//! Rules that are true, as lines such as yara prints, or as JSON.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, Write};

use memfetch::query::rules::{MetadataValue, RuleMatch, RuleReport, StringMatch};
use serde::Serialize;

use crate::json;
use crate::places::{Place, Places};
use crate::text::{hex, printable};

/// What is printed of a rule that is true.
#[derive(Clone, Copy, Debug, Default)]
pub struct RuleLook {
    /// One JSON object a line instead of text.
    pub json: bool,
    /// Where the strings match.
    pub strings: bool,
    /// The tags, `[a,b]`.
    pub tags: bool,
    /// The metadata, `[key=value]`.
    pub metadata: bool,
    /// The namespace, `namespace:RULE`.
    pub namespace: bool,
}

/// Prints one rule.
pub fn print(
    out: &mut impl Write,
    rule: &RuleMatch,
    places: &mut Places<'_>,
    look: RuleLook,
) -> io::Result<()> {
    if look.json {
        return json::write_line(out, &object(rule, places));
    }
    if look.namespace {
        write!(out, "{}:", shown(&rule.namespace))?;
    }
    write!(out, "{}", rule.rule)?;
    if look.tags {
        write!(out, " [{}]", rule.tags.join(","))?;
    }
    if look.metadata {
        let all: Vec<String> = rule.metadata.iter().map(|(name, value)| metadatum(name, value)).collect();
        write!(out, " [{}]", all.join(","))?;
    }
    writeln!(out)?;
    if look.strings {
        for string in &rule.strings {
            let place = places.words(string.at).map(|place| format!("  {place}")).unwrap_or_default();
            writeln!(out, "{}:{}: {}{place}", string.at, string.identifier, content(string))?;
        }
    }
    Ok(())
}

/// What is to be said of a run besides its coverage: a line for each way in which rules may be wrong.
#[must_use]
pub fn doubts(report: &RuleReport) -> Vec<String> {
    let mut lines = Vec::new();
    for string in &report.capped {
        lines.push(format!(
            "{string} matches too often: not all matches were kept, and its rule may be wrong"
        ));
    }
    if report.timed_out {
        lines.push("the time limit was reached: rules are missing, or wrong".to_owned());
    }
    if report.cut_short > 0 {
        lines.push(format!("{} matches may be longer than they are said to be", report.cut_short));
    }
    if report.doubtful > 0 {
        lines.push(format!(
            "in {} places a string may match more or less often than counted",
            report.doubtful
        ));
    }
    lines
}

fn shown(text: &str) -> String {
    printable(OsStr::new(text))
}

fn metadatum(name: &str, value: &MetadataValue) -> String {
    match value {
        MetadataValue::Boolean(value) => format!("{name}={value}"),
        MetadataValue::Integer(value) => format!("{name}={value}"),
        MetadataValue::Text(value) => format!("{name}=\"{}\"", shown(value)),
    }
}

/// The bytes as yara shows them: what is no printable ASCII as `\xNN`.
fn content(string: &StringMatch) -> String {
    let mut text = String::with_capacity(string.bytes.len());
    for &byte in &string.bytes {
        match byte {
            b' '..=b'~' => text.push(byte.into()),
            _ => {
                let _ = write!(text, "\\x{byte:02X}");
            }
        }
    }
    match string.length.saturating_sub(string.bytes.len() as u64) {
        0 => text,
        more => format!("{text}... ({more} more)"),
    }
}

#[derive(Serialize)]
struct JsonRule<'a> {
    rule: &'a str,
    namespace: &'a str,
    tags: &'a [String],
    metadata: Vec<JsonMetadatum<'a>>,
    strings: Vec<JsonString<'a>>,
}

#[derive(Serialize)]
struct JsonMetadatum<'a> {
    name: &'a str,
    value: &'a MetadataValue,
}

#[derive(Serialize)]
struct JsonString<'a> {
    #[serde(flatten)]
    string: &'a StringMatch,
    /// In hexadecimal digits: memory is no text.
    bytes: String,
    #[serde(flatten)]
    place: Place,
}

fn object<'a>(rule: &'a RuleMatch, places: &mut Places<'_>) -> JsonRule<'a> {
    let strings = rule.strings.iter().map(|string| JsonString {
        string,
        bytes: hex(&string.bytes),
        place: places.json(string.at),
    });
    JsonRule {
        rule: &rule.rule,
        namespace: &rule.namespace,
        tags: &rule.tags,
        metadata: rule.metadata.iter().map(|(name, value)| JsonMetadatum { name, value }).collect(),
        strings: strings.collect(),
    }
}

#[cfg(test)]
mod tests {
    use memfetch::query::atlas::Atlas;
    use memfetch::query::sweep::Coverage;
    use memfetch::{Address, Backing, Touch};
    use memfetch_testkit::Space;

    use super::*;

    fn rule() -> RuleMatch {
        RuleMatch {
            rule: "found".into(),
            namespace: "default".into(),
            tags: vec!["a".into(), "b".into()],
            metadata: vec![
                ("by".into(), MetadataValue::Text("me\x1b".into())),
                ("level".into(), MetadataValue::Integer(-3)),
            ],
            strings: vec![StringMatch {
                identifier: "$a".into(),
                at: Address::new(0x1010),
                length: 6,
                bytes: b"k\x00\x1by".to_vec(),
                xor_key: None,
            }],
        }
    }

    fn printed(look: RuleLook) -> String {
        let mut out = Vec::new();
        let space = Space::new().region(0x1000, 0x1000, "rw-p", Backing::Heap);
        let mut places = Places::new(Atlas::new(&space, Touch::Stored).unwrap());
        print(&mut out, &rule(), &mut places, look).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_rule_looks_as_yara_prints_it() {
        assert_eq!(printed(RuleLook::default()), "found\n");
        let all = RuleLook { strings: true, tags: true, metadata: true, namespace: true, json: false };
        assert_eq!(
            printed(all),
            "default:found [a,b] [by=\"me\\x1b\",level=-3]\n0x1010:$a: k\\x00\\x1By... (2 more)  [heap]+0x10\n"
        );
    }

    #[test]
    fn each_way_to_be_wrong_is_said() {
        let mut report = RuleReport {
            coverage: Coverage::default(),
            result: Ok(()),
            capped: Vec::new(),
            cut_short: 0,
            doubtful: 0,
            timed_out: false,
        };
        assert!(report.is_whole() && doubts(&report).is_empty());
        report.capped.push("rule:$a".into());
        report.timed_out = true;
        report.cut_short = 2;
        report.doubtful = 3;
        assert_eq!(doubts(&report).len(), 4);
        assert!(doubts(&report)[0].starts_with("rule:$a matches too often"));
    }

    #[test]
    fn json_is_one_line() {
        let line = printed(RuleLook { json: true, ..RuleLook::default() });
        assert_eq!(line.lines().count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["strings"][0]["address"], "0x1010");
        assert_eq!(value["strings"][0]["bytes"], "6b001b79");
        assert_eq!(value["strings"][0]["region"]["offset"], 0x10);
        assert_eq!(value["metadata"][1]["value"], -3);
    }
}
