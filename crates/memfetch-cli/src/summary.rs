//! What is told about a snapshot: a paragraph for a person, or an object for a program.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write;
use std::time::Duration;

use memfetch::image::Shortfall;
use memfetch::image::record::{Mode, Outcome};
use memfetch::{Cause, Gap, Gaps, Report, Touch};
use serde::Serialize;

use crate::quantity::{Units, count, duration, size};
use crate::text::printable;

/// How many spans of a cause are named.
const SPANS_SHOWN: usize = 3;

/// A snapshot that was taken.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Snapshot<'a> {
    /// The name of the process.
    #[serde(serialize_with = "lossy")]
    pub name: &'a OsStr,
    /// The peer that it was sent to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<&'a str>,
    /// What it came to.
    #[serde(flatten)]
    pub report: &'a Report,
}

fn lossy<S: serde::Serializer>(name: &OsStr, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&name.to_string_lossy())
}

impl Snapshot<'_> {
    /// The paragraph. Its lines end in newlines.
    #[must_use]
    pub fn paragraph(&self) -> String {
        let Outcome { pause_ns, stops, threads, partial_threads, rewound_calls, .. } = self.report.outcome;
        let mut text = match (&self.report.path, self.peer) {
            (Some(path), _) => format!(
                "{}: {} on disk, {} apparent.",
                printable(path.as_os_str()),
                size(self.report.stored_bytes, Units::Full),
                size(self.report.apparent_bytes, Units::Full)
            ),
            (None, Some(peer)) => format!(
                "{}: {} sent; the peer closed in good order.",
                printable(OsStr::new(peer)),
                size(self.report.apparent_bytes, Units::Full)
            ),
            (None, None) => format!("{} written.", size(self.report.apparent_bytes, Units::Full)),
        };
        let _ = write!(text, " Process {} ({}), ", self.report.origin.pid, printable(self.name));
        text.push_str(&match self.report.origin.mode {
            Mode::Live => "live: never stopped, pages may be of different instants".to_owned(),
            Mode::Freeze => format!(
                "frozen for {} ({})",
                duration(Duration::from_nanos(pause_ns)),
                count(stops.into(), "stop")
            ),
            Mode::Instant => {
                let tracked = self.report.outcome.tracked.clone().unwrap_or_default();
                format!(
                    "as it was at one instant, held for {} ({}, {} together)",
                    duration(Duration::from_nanos(pause_ns)),
                    count(stops.into(), "stop"),
                    duration(Duration::from_nanos(tracked.stopped_ns)),
                )
            }
        });
        let _ = write!(text, "; {} in all.\n  {}", duration(self.report.elapsed), count(threads, "thread"));
        if partial_threads > 0 {
            let _ = write!(text, " ({partial_threads} with part of their registers only)");
        }
        if rewound_calls > 0 {
            let _ = write!(text, " ({} put back)", count(rewound_calls, "interrupted system call"));
        }
        let _ = write!(text, "; {}", self.bytes());
        if let Some(tracked) = &self.report.outcome.tracked {
            let _ = write!(
                text,
                ", {} once more in {}, {} of it while it was held",
                size(tracked.again_bytes + tracked.stop_bytes, Units::Full),
                count(tracked.rounds.saturating_add(1).into(), "round"),
                size(tracked.stop_bytes, Units::Full),
            );
        }
        text.push('.');
        text.push('\n');
        text.push_str(&gaps(&self.report.outcome.gaps));
        for remark in &self.report.outcome.remarks {
            let _ = writeln!(text, "  Note: {}", printable(OsStr::new(remark)));
        }
        text
    }

    /// What became of the bytes.
    fn bytes(&self) -> String {
        let outcome = &self.report.outcome;
        // What is not in RAM was wanted, perhaps, and not to be touched.
        let unwanted = match self.report.origin.touch {
            Touch::Resident => "left alone (not wanted, or not in RAM)",
            Touch::Stored | Touch::All => "not wanted",
        };
        let parts = [
            (outcome.read_bytes, "read"),
            (outcome.file_bytes, "from the files and memory objects behind it"),
            (outcome.absent_bytes, "never touched and not read"),
            (outcome.unwanted_bytes, unwanted),
        ];
        let shown = parts.iter().enumerate().filter(|(index, (bytes, _))| *index == 0 || *bytes > 0);
        shown
            .map(|(_, (bytes, what))| format!("{} {what}", size(*bytes, Units::Full)))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// That an image lacks something, and what that means for what was done with it.
pub fn incomplete(name: &OsStr, why: &Shortfall, consequence: &str) -> String {
    format!("{}: INCOMPLETE: {why}; {consequence}", printable(name))
}

/// The gaps by their causes: how many, how much, and where the first are.
#[must_use]
pub fn gaps(gaps: &Gaps) -> String {
    let mut by_cause: BTreeMap<Cause, Vec<&Gap>> = BTreeMap::new();
    for gap in gaps.iter() {
        by_cause.entry(gap.cause).or_default().push(gap);
    }
    let mut text = String::new();
    for (cause, gaps) in by_cause {
        let bytes = gaps.iter().map(|gap| gap.span.len()).sum();
        let number = count(gaps.len() as u64, "gap");
        let mut spans: Vec<_> = gaps.iter().take(SPANS_SHOWN).map(|gap| gap.span.to_string()).collect();
        if gaps.len() > SPANS_SHOWN {
            spans.push("...".to_owned());
        }
        let _ = writeln!(text, "  {number}, {}: {cause} ({})", size(bytes, Units::Full), spans.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use memfetch::image::record::{Contents, Origin};
    use memfetch::{Address, Span};

    use super::*;

    fn origin(mode: Mode) -> Origin {
        Origin {
            version: "0".to_owned(),
            pid: 17,
            started_ns: 1,
            host: "box".to_owned(),
            kernel: "6".to_owned(),
            mode,
            contents: Contents::Default,
            touch: Touch::Stored,
            trailer_offset: 0,
        }
    }

    fn outcome() -> Outcome {
        let mut outcome = Outcome {
            pause_ns: 12_300_000,
            stops: 1,
            threads: 5,
            read_bytes: 3 << 30,
            absent_bytes: 64 << 30,
            remarks: vec!["not frozen: \x1b".to_owned()],
            ..Outcome::default()
        };
        for page in 0..5 {
            let at = Address::new(0x1000 + page * 0x2000);
            outcome.gaps.push(Span::from_len(at, 0x1000).unwrap(), Cause::Vanished);
        }
        outcome.gaps.push(Span::from_len(Address::new(0x20000), 0x1000).unwrap(), Cause::Secret);
        outcome
    }

    fn report(mode: Mode) -> Report {
        Report {
            origin: origin(mode),
            outcome: outcome(),
            path: Some("redis.17.core".into()),
            apparent_bytes: 67 << 30,
            stored_bytes: 3 << 30,
            elapsed: Duration::from_millis(2_200),
            index: Vec::new(),
        }
    }

    #[test]
    fn the_paragraph_tells_what_is_missing() {
        let told = Snapshot { name: OsStr::new("redis"), peer: None, report: &report(Mode::Freeze) };
        assert_eq!(
            told.paragraph(),
            "redis.17.core: 3 GiB on disk, 67 GiB apparent. Process 17 (redis), frozen for 12.3 ms (1 stop); \
             2.2 s in all.\n  5 threads; 3 GiB read, 64 GiB never touched and not read.\n  \
             5 gaps, 20 KiB: it was unmapped before it could be read \
             (0x1000..0x2000, 0x3000..0x4000, 0x5000..0x6000, ...)\n  \
             1 gap, 4 KiB: secret memory (memfd_secret): the kernel hands it to nobody else \
             (0x20000..0x21000)\n  Note: not frozen: \\x1b\n"
        );
    }

    #[test]
    fn what_is_not_in_ram_is_left_alone_rather_than_unwanted() {
        let mut report = report(Mode::Live);
        report.outcome = Outcome { file_bytes: 4096, unwanted_bytes: 8192, ..Outcome::default() };
        for (touch, words) in [
            (Touch::Resident, "8 KiB left alone (not wanted, or not in RAM)."),
            (Touch::Stored, "4 KiB from the files and memory objects behind it, 8 KiB not wanted."),
        ] {
            report.origin.touch = touch;
            let text = Snapshot { name: OsStr::new("redis"), peer: None, report: &report }.paragraph();
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn json_has_the_record_of_the_image() {
        let told = Snapshot { name: OsStr::new("redis"), peer: None, report: &report(Mode::Live) };
        let value = serde_json::to_value(told).unwrap();
        assert_eq!(value["path"], "redis.17.core");
        assert_eq!(value["elapsed_ns"], 2_200_000_000_u64);
        assert_eq!(value["origin"]["mode"], "live");
        assert_eq!(value["outcome"]["gaps"][5]["cause"], "secret");
    }
}
