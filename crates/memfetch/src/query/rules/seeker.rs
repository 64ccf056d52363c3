//! [`Seeker`]: all strings of all rules, looked for in one chunk, and cut out with what decides about them.

use std::ops::Range;

use boreal::compiler::CompilerParams;
use boreal::scanner::ScanParams;
use boreal::{Compiler, Scanner};
use boreal_parser::file::YaraFileComponent;

use super::text::{Declaration, Loaded};
use crate::query::sweep::{Chunk, Segment};

/// How far the engine looks to either side of the bytes by which it finds a string (its `MAX_SPLIT_MATCH_LENGTH`).
const HALF_MATCH: u64 = 4096;
/// How many bytes around a match are cut out with it, from the first that will do.
const AROUND: [usize; 5] = [16, 61, 300, 1500, 4000];
/// Matches so near to each other are cut out together.
const NEAR: usize = 64;

/// Finds what the strings of all rules match, whatever the rules make of it.
#[derive(Debug)]
pub(super) struct Seeker {
    scanner: Scanner,
    /// How many strings there are.
    pub strings: usize,
    /// The longest match that is found whole, in bytes.
    pub reach: u64,
    /// Whether the engine tries some string at every byte, each time to the end of the match.
    pub tries_all: bool,
}

/// What was found in one chunk.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub cuttings: Vec<Cutting>,
    /// Matches that went on to the end of what was shown, and may go on behind it.
    pub cut_short: u64,
    /// Cuttings in which a string may match where it does not in memory, or the other way round.
    pub doubtful: u64,
}

/// Bytes that adjoin in memory, with all that matches in them.
#[derive(Debug)]
pub(super) struct Cutting {
    pub at: u64,
    pub bytes: Vec<u8>,
    /// How often each string matches in it; only what begins in the core of the chunk is counted.
    pub counts: Vec<(u32, u32)>,
}

impl Cutting {
    pub fn end(&self) -> u64 {
        self.at + self.bytes.len() as u64
    }

    /// Takes off what lies before `at`; all that matches in it is counted all the same.
    pub fn trim(&mut self, at: u64) {
        let known =
            usize::try_from(at.saturating_sub(self.at)).map_or(self.bytes.len(), |n| n.min(self.bytes.len()));
        self.bytes.drain(..known);
        self.at += known as u64;
    }

    /// Puts two cuttings that overlap or adjoin into one.
    pub fn join(self, other: Self) -> Self {
        let (mut first, second) = if self.at <= other.at { (self, other) } else { (other, self) };
        let known = first.end().saturating_sub(second.at);
        let more =
            usize::try_from(known).ok().and_then(|known| second.bytes.get(known..)).unwrap_or_default();
        first.bytes.extend_from_slice(more);
        first.counts.extend(second.counts);
        first
    }
}

/// Where one string matches in some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Match {
    start: usize,
    len: usize,
    string: u32,
}

impl Match {
    const fn end(&self) -> usize {
        self.start + self.len
    }
}

impl Seeker {
    /// The strings of all rules, in the order in which they are declared; `None` where there are none.
    pub fn new(loaded: &Loaded) -> Result<Option<Self>, String> {
        let mut compiler = Compiler::new();
        compiler.set_params(CompilerParams::default().compute_statistics(true));
        let mut strings = 0;
        let mut tries_all = false;
        let mut longest = 0;
        let all = loaded.files.iter().flat_map(|file| &file.strings).filter(|declared| !declared.is_empty());
        for (index, declared) in all.enumerate() {
            let mut rule = format!("rule r{index} {{ strings:\n");
            for declaration in declared {
                longest = longest.max(declaration.text.len() as u64);
                rule.push_str(&renamed(declaration, strings).ok_or("a string is declared in no known way")?);
                rule.push('\n');
                strings += 1;
            }
            rule.push_str("condition: any of them }");
            let status = compiler.add_rules_str(&rule).map_err(|error| error.to_string())?;
            tries_all |=
                status.statistics().flat_map(|rule| &rule.strings).any(|string| string.literals.is_empty());
        }
        if strings == 0 {
            return Ok(None);
        }
        let mut scanner = compiler.finalize();
        scanner.set_scan_params(
            ScanParams::default()
                .compute_full_matches(true)
                .match_max_length(0)
                .string_max_nb_matches(u32::MAX),
        );
        // A declaration is longer than its value; wide doubles it, and base64 makes four bytes of three.
        Ok(Some(Self { scanner, strings, reach: 2 * HALF_MATCH + longest.saturating_mul(3), tries_all }))
    }

    /// How much of what lies before a chunk decides about what begins in it.
    pub const fn behind() -> u64 {
        HALF_MATCH
    }

    /// Looks at a chunk.
    pub fn look(&self, chunk: &Chunk) -> Found {
        let mut found = Found::default();
        for segment in chunk.segments().filter(|segment| !segment.core().is_empty()) {
            self.look_at(&segment, &mut found);
        }
        found
    }

    fn look_at(&self, segment: &Segment<'_>, found: &mut Found) {
        let (bytes, core) = (segment.bytes(), segment.core());
        let all = self.seek(bytes);
        let first = all.partition_point(|one| one.start < core.start);
        let last = all.partition_point(|one| one.start < core.end);
        let Some(here) = all.get(first..last).filter(|here| !here.is_empty()) else { return };
        // Where all that was asked for is shown, memory goes on.
        if (bytes.len() - core.end) as u64 >= self.reach {
            found.cut_short += here.iter().filter(|one| one.end() >= bytes.len()).count() as u64;
        }
        let mut rest = here;
        while let Some(next) = rest.first() {
            let mut end = next.end();
            let mut count = 1;
            while let Some(one) = rest.get(count).filter(|one| one.start <= end.saturating_add(NEAR)) {
                end = end.max(one.end());
                count += 1;
            }
            let (near, others) = rest.split_at(count);
            rest = others;
            let (range, sure) = self.range_around(bytes, &all, next.start..end);
            found.doubtful += u64::from(!sure);
            found.cuttings.push(Cutting {
                at: segment.address_of(range.start).get(),
                bytes: bytes.get(range).unwrap_or_default().to_vec(),
                counts: counted(near),
            });
        }
    }

    /// The bytes around `range` in which, when nothing else is known, the same matches as in all bytes.
    fn range_around(&self, bytes: &[u8], all: &[Match], range: Range<usize>) -> (Range<usize>, bool) {
        let mut cut = range.clone();
        for around in AROUND {
            let start = range.start.saturating_sub(around);
            let mut end = range.end.saturating_add(around).min(bytes.len());
            let from = all.partition_point(|one| one.start < start);
            let mut to = from;
            while let Some(one) = all.get(to).filter(|one| one.start < end) {
                end = end.max(one.end());
                to += 1;
            }
            cut = start..end;
            let part = bytes.get(cut.clone()).unwrap_or_default();
            let expected = all.get(from..to).unwrap_or_default();
            let seen = self.seek(part);
            let same = seen.len() == expected.len()
                && seen
                    .iter()
                    .zip(expected)
                    .all(|(seen, expected)| Match { start: seen.start + start, ..*seen } == *expected);
            if same {
                return (cut, true);
            }
        }
        (cut, false)
    }

    /// All that matches in some bytes, ascending.
    fn seek(&self, bytes: &[u8]) -> Vec<Match> {
        // Without a time limit nothing can end it early.
        let result = self.scanner.scan_mem(bytes).unwrap_or_else(|(_, partial)| partial);
        let mut all: Vec<Match> = Vec::new();
        for string in result.rules.iter().flat_map(|rule| &rule.matches) {
            let Some(number) = string.name.strip_prefix('s').and_then(|number| number.parse().ok()) else {
                continue;
            };
            all.extend(string.matches.iter().map(|one| Match {
                start: one.base + one.offset,
                len: one.length,
                string: number,
            }));
        }
        all.sort_unstable();
        all
    }
}

fn counted(matches: &[Match]) -> Vec<(u32, u32)> {
    let mut strings: Vec<u32> = matches.iter().map(|one| one.string).collect();
    strings.sort_unstable();
    strings.chunk_by(|a, b| a == b).filter_map(|same| Some((*same.first()?, same.len() as u32))).collect()
}

/// A declaration under another name, and without the modifier that keeps it out of what is told.
fn renamed(declaration: &Declaration, number: usize) -> Option<String> {
    let nameless = declaration.text.strip_prefix('$')?;
    let value = nameless.trim_start_matches(|c: char| c == '_' || c.is_ascii_alphanumeric());
    if !declaration.private {
        return Some(format!("$s{number} {value}"));
    }
    // The word may stand in the value and in comments too.
    value.match_indices("private").find_map(|(at, word)| {
        let (before, behind) = (value.get(..at)?, value.get(at + word.len()..)?);
        let open = format!("$s{number} {before}{behind}");
        is_open(&open).then_some(open)
    })
}

/// Whether this declares one string that is not private.
fn is_open(declaration: &str) -> bool {
    let rule = format!("rule r {{ strings: {declaration}\ncondition: any of them }}");
    let Ok(file) = boreal_parser::parse(&rule) else { return false };
    let [YaraFileComponent::Rule(rule)] = file.components.as_slice() else { return false };
    matches!(rule.variables.as_slice(), [string] if !string.modifiers.private)
}
