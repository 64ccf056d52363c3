//! [`Rules`]: YARA rules over the memory of a source.
//!
//! # What a rule sees
//!
//! Memory without a gap of any kind is one piece, across mappings and page states: a string matches in it wherever it
//! lies, once, at its address. `#a`, `@a[i]`, `!a[i]`, `$a at`, `$a in (..)` are about all matches in all memory that
//! was looked at, ascending; offsets are addresses. `^` and `$` are the ends of such a piece. `uint32(ADDRESS)` and its
//! kin, `hash.*(ADDRESS, LENGTH)` and `math.*(ADDRESS, LENGTH)` read the memory of the source, and are undefined
//! where it was not looked at or changed under the read. `filesize` and `entrypoint` are undefined. The modules `elf`,
//! `pe`, `dotnet`, `macho` and `dex` see the first executable of their kind, by address, with all mappings of its file
//! that adjoin it; as in yara, a position-independent ELF file and a DLL are none in a process.
//!
//! # How
//!
//! A [`Sweep`] looks for all strings of all rules on several threads, and cuts out the bytes that match with as many
//! around them as decide about it. Over these cuttings, and the source for conditions that ask for more, the engine
//! (boreal) evaluates the rules once. So memory is read once, what no string matches is forgotten at once, and the
//! memory taken grows with the matches only, up to a limit.
//!
//! # Limits
//!
//! - The engine matches up to 4096 bytes to either side of the bytes by which it finds a string, which is yara's limit
//!   too, and knows one match of a string for each address. A regular expression without any fixed text is tried at
//!   every byte, and matched up to 8192 bytes at least; what goes on to the end of what was shown is counted in
//!   [`RuleReport::cut_short`], and where such matches follow each other for more than 24 KiB, the place where they are
//!   parted in [`RuleReport::doubtful`].
//! - Of a run of known zeros longer than 64 KiB only both ends are searched.
//! - A string that matches more often than [`RuleOptions::max_matches`] is named in [`RuleReport::capped`]: conditions
//!   that ask how often, or where, may then be wrong.

mod images;
mod seeker;
mod text;
mod view;

use std::collections::BTreeSet;
use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use boreal::scanner::{EvaluatedRule, ScanParams};
use boreal::{MetadataValue as EngineValue, Scanner};
use serde::Serialize;

use self::images::Images;
use self::seeker::{Cutting, Found, Seeker};
use self::text::Loaded;
pub use self::text::{External, ReadInclude, Remark, RuleText, RulesError};
use self::view::{Peek, Seen, View};
use super::sweep::{Coverage, Survey, Sweep};
use crate::address::Address;
use crate::error::Error;
use crate::source::Source;

/// So much is in one chunk of the sweep: more than what it shows of its neighbours.
const CORE: u64 = 512 << 10;
/// The same, where a string is tried at every byte: the time that takes grows with the square of what it can match.
const SMALL_CORE: u64 = 16 << 10;
/// In that case cuttings are not joined to more than this.
const MAX_JOINED: u64 = 24 << 10;
/// So many bytes are cut out at most.
const MAX_CUT_BYTES: u64 = 256 << 20;
/// So many matches are kept at most, of all strings together.
const MAX_MATCHES: u64 = 4_000_000;

/// Rules, compiled.
#[derive(Debug)]
pub struct Rules {
    scanner: Scanner,
    /// Nothing, where no rule has a string.
    seeker: Option<Arc<Seeker>>,
    /// The strings' rules and names, by the seeker's numbers.
    names: Vec<String>,
    warnings: Vec<Remark>,
    /// Whether a module asks for executables.
    wants_images: bool,
}

/// How rules are run.
#[derive(Clone, Debug)]
pub struct RuleOptions {
    /// How many threads look for strings; `None` for as many as a [`Sweep`] takes.
    pub threads: Option<usize>,
    /// In chunks of how many bytes, a power of two; `None` for what is best.
    pub core: Option<u64>,
    /// Only rules with one of these tags are told of; nothing means all.
    pub tags: Vec<String>,
    /// Only rules of these names are told of; nothing means all.
    pub names: Vec<String>,
    /// So often each string may match: yara's own limit unless told otherwise.
    pub max_matches: u32,
    /// So many bytes of each match are kept.
    pub prefix: usize,
    /// After so long no further chunk is looked at, and no further condition evaluated.
    pub time_limit: Option<Duration>,
}

impl Default for RuleOptions {
    fn default() -> Self {
        Self {
            threads: None,
            core: None,
            tags: Vec::new(),
            names: Vec::new(),
            max_matches: 1_000_000,
            prefix: 512,
            time_limit: None,
        }
    }
}

/// A rule whose condition is true.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RuleMatch {
    /// Its name.
    pub rule: String,
    /// The namespace of its file.
    pub namespace: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its metadata, in order.
    pub metadata: Vec<(String, MetadataValue)>,
    /// What its strings match, by string in the order of declaration, then by address.
    pub strings: Vec<StringMatch>,
}

/// A value in a rule's `meta`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum MetadataValue {
    /// `true` or `false`.
    Boolean(bool),
    /// A number.
    Integer(i64),
    /// Text; bytes that are no UTF-8 are replaced.
    Text(String),
}

/// Where a string of a rule matches.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StringMatch {
    /// The string's name, with its `$`.
    pub identifier: String,
    /// The address of the first byte.
    #[serde(rename = "address")]
    pub at: Address,
    /// How many bytes match.
    pub length: u64,
    /// The first of them, at most [`RuleOptions::prefix`].
    #[serde(skip)]
    pub bytes: Vec<u8>,
    /// The key, where the string is declared `xor`.
    pub xor_key: Option<u8>,
}

/// What became of a run.
#[derive(Debug)]
pub struct RuleReport {
    /// What was looked at, and what was not: a rule may be false, or with a `not` in it true, for what was not.
    pub coverage: Coverage,
    /// What ended it before its time; rules were evaluated all the same, over what had been found.
    pub result: Result<(), Error>,
    /// Strings of which not all matches were kept, as `RULE:$NAME`.
    pub capped: Vec<String>,
    /// Matches that may be longer than they are said to be.
    pub cut_short: u64,
    /// Places where a string may match, or not, for the bytes around it that the engine was not shown.
    pub doubtful: u64,
    /// Whether the time limit was reached.
    pub timed_out: bool,
}

impl RuleReport {
    /// Whether all rules are told of as they would be with no limits at all.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.result.is_ok()
            && self.capped.is_empty()
            && self.cut_short == 0
            && self.doubtful == 0
            && !self.timed_out
    }
}

impl Rules {
    /// Compiles rules.
    ///
    /// # Errors
    ///
    /// [`RulesError`], which says where.
    pub fn compile(
        files: &[RuleText],
        externals: &[(String, External)],
        include: &mut ReadInclude<'_>,
    ) -> Result<Self, RulesError> {
        let mut loaded = Loaded::default();
        let mut tops = Vec::new();
        for file in files {
            tops.push((loaded.load(&file.name, &file.text, include)?, &file.namespace));
        }
        let mut compiler = images::compiler();
        for (name, value) in externals {
            if !compiler.define_symbol(name, value.value()) {
                return Err(RulesError::DefinedTwice(name.clone()));
            }
        }
        let texts = loaded.numbered();
        compiler.set_include_callback(move |number, _, _| {
            texts.get(number).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
        });
        let mut warnings = Vec::new();
        for (top, namespace) in tops {
            let text = loaded.files.get(top).map_or("", |file| &file.text);
            let status = compiler
                .add_rules_str_in_namespace(text, namespace)
                .map_err(|error| RulesError::Rule(loaded.remark(&error, top)))?;
            warnings.extend(status.warnings().map(|warning| loaded.remark(warning, top)));
        }
        let seeker = Seeker::new(&loaded).map_err(|message| {
            let file = files.first().map(|file| file.name.clone()).unwrap_or_default();
            RulesError::Rule(Remark { file, line: 0, column: 0, message })
        })?;
        let wants_images = loaded
            .files
            .iter()
            .flat_map(|file| &file.imports)
            .any(|import| images::MODULES.contains(&import.as_str()));
        let names = loaded.names();
        Ok(Self { scanner: compiler.finalize(), seeker: seeker.map(Arc::new), names, warnings, wants_images })
    }

    /// What the compiler had to say of rules that are no error: slow ones, for example.
    #[must_use]
    pub fn warnings(&self) -> &[Remark] {
        &self.warnings
    }

    /// How many rules there are, private ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.scanner.rules().count()
    }

    /// Whether there is no rule at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Evaluates the rules over what `survey` says of `source`. `each` gets those that are true, in the order in which
    /// they stand in their files, global ones first, and can end it.
    pub fn run(
        &self,
        source: &dyn Source,
        survey: &Survey,
        options: &RuleOptions,
        mut each: impl FnMut(RuleMatch) -> ControlFlow<()>,
    ) -> RuleReport {
        let begun = Instant::now();
        let before = source.left_in_ram();
        let mut report = RuleReport {
            coverage: survey.coverage().clone(),
            result: Ok(()),
            capped: Vec::new(),
            cut_short: 0,
            doubtful: 0,
            timed_out: false,
        };
        let cuttings = match &self.seeker {
            Some(seeker) => self.seek(seeker, source, survey, options, begun, &mut report),
            None => Vec::new(),
        };
        let seen = Arc::new(Mutex::new(Seen::default()));
        let peek = Peek { source, touch: survey.touch(), seen: Arc::clone(&seen) };
        let images = if self.wants_images { images::images(&peek, survey) } else { Images::new() };
        let mut scanner = self.scanner.clone();
        let left = options.time_limit.map(|limit| limit.saturating_sub(begun.elapsed()));
        scanner.set_scan_params(
            ScanParams::default()
                .process_memory(true)
                .compute_full_matches(true)
                .match_max_length(options.prefix)
                .string_max_nb_matches(options.max_matches)
                .timeout_duration(left),
        );
        images::provide(&mut scanner, &images);
        let evaluated = match scanner.scan_fragmented(View::new(peek, survey, &images, &cuttings)) {
            Ok(evaluated) => evaluated,
            // There is no other error here: nothing is opened, and no callback can end it.
            Err((_, partial)) => {
                report.timed_out = true;
                partial
            }
        };
        // What a condition could not read is undefined to it, and a rule may be false for that.
        let seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
        report.coverage.gaps.extend(seen.gaps.iter().copied());
        report.coverage.gaps.sort();
        if self.seeker.is_none() {
            report.coverage.read_bytes += seen.read_bytes;
        }
        if report.result.is_ok() {
            report.result = source.check();
        }
        for rule in evaluated.rules {
            let rule = told(&scanner, rule);
            let wanted = |wanted: &[String], has: &dyn Fn(&String) -> bool| {
                wanted.is_empty() || wanted.iter().any(has)
            };
            if wanted(&options.tags, &|tag| rule.tags.contains(tag))
                && wanted(&options.names, &|name| rule.rule == *name)
                && each(rule).is_break()
            {
                break;
            }
        }
        report.coverage.left_in_ram_bytes = source.left_in_ram().saturating_sub(before);
        report
    }

    /// Cuts out all that the strings match.
    fn seek(
        &self,
        seeker: &Arc<Seeker>,
        source: &dyn Source,
        survey: &Survey,
        options: &RuleOptions,
        begun: Instant,
        report: &mut RuleReport,
    ) -> Vec<Cutting> {
        let core = options.core.unwrap_or(if seeker.tries_all { SMALL_CORE } else { CORE });
        let mut sweep = Sweep::new().core(core).behind(Seeker::behind()).ahead(seeker.reach);
        if let Some(threads) = options.threads {
            sweep = sweep.threads(threads);
        }
        let looker = Arc::clone(seeker);
        let mut kept = Kept::new(seeker, options.max_matches);
        let swept = sweep.run(
            source,
            survey.clone(),
            move |chunk| looker.look(chunk),
            |_, found: Found| {
                report.cut_short += found.cut_short;
                report.doubtful += found.doubtful;
                for cutting in found.cuttings {
                    kept.add(cutting);
                }
                if options.time_limit.is_some_and(|limit| begun.elapsed() >= limit) {
                    report.timed_out = true;
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            },
        );
        report.doubtful += kept.torn;
        report.coverage = swept.coverage;
        report.result = swept.result;
        report.capped =
            kept.capped.iter().filter_map(|&string| self.names.get(string as usize).cloned()).collect();
        kept.cuttings
    }
}

/// What was cut out until now, ascending.
struct Kept {
    cuttings: Vec<Cutting>,
    bytes: u64,
    matches: u64,
    counts: Vec<u64>,
    max_matches: u64,
    max_joined: u64,
    capped: BTreeSet<u32>,
    /// Cuttings that overlap, and were not joined.
    torn: u64,
}

impl Kept {
    fn new(seeker: &Seeker, max_matches: u32) -> Self {
        Self {
            cuttings: Vec::new(),
            bytes: 0,
            matches: 0,
            counts: vec![0; seeker.strings],
            max_matches: max_matches.into(),
            max_joined: if seeker.tries_all { MAX_JOINED } else { u64::MAX },
            capped: BTreeSet::new(),
            torn: 0,
        }
    }

    fn add(&mut self, mut cutting: Cutting) {
        let full = self.bytes + cutting.bytes.len() as u64 > MAX_CUT_BYTES || self.matches >= MAX_MATCHES;
        let mut wanted = false;
        for &(string, count) in &cutting.counts {
            let Some(known) = self.counts.get_mut(string as usize) else { continue };
            wanted |= *known < self.max_matches;
            *known += u64::from(count);
            if full || *known > self.max_matches {
                self.capped.insert(string);
            }
            self.matches += u64::from(count);
        }
        if full || !wanted {
            return;
        }
        self.bytes += cutting.bytes.len() as u64;
        while let Some(last) = self.cuttings.pop_if(|last| last.end() > cutting.at) {
            let joined = last.end().max(cutting.end()) - last.at.min(cutting.at);
            if joined > self.max_joined && last.at < cutting.at {
                self.torn += 1;
                cutting.trim(last.end());
                self.cuttings.push(last);
                break;
            }
            cutting = last.join(cutting);
        }
        if !cutting.bytes.is_empty() {
            self.cuttings.push(cutting);
        }
    }
}

fn told(scanner: &Scanner, rule: EvaluatedRule<'_>) -> RuleMatch {
    let metadata = |value| match value {
        EngineValue::Bytes(symbol) => {
            MetadataValue::Text(String::from_utf8_lossy(scanner.get_bytes_symbol(symbol)).into_owned())
        }
        EngineValue::Integer(value) => MetadataValue::Integer(value),
        EngineValue::Boolean(value) => MetadataValue::Boolean(value),
    };
    RuleMatch {
        rule: rule.name.to_owned(),
        namespace: rule.namespace.to_owned(),
        tags: rule.tags.iter().map(|&tag| scanner.get_string_symbol(tag).to_owned()).collect(),
        metadata: rule
            .metadatas
            .iter()
            .map(|entry| (scanner.get_string_symbol(entry.name).to_owned(), metadata(entry.value)))
            .collect(),
        strings: rule
            .matches
            .into_iter()
            .flat_map(|string| {
                let identifier = format!("${}", string.name);
                let xor = string.has_xor_modifier;
                string.matches.into_iter().map(move |one| StringMatch {
                    identifier: identifier.clone(),
                    at: Address::new((one.base as u64).saturating_add(one.offset as u64)),
                    length: one.length as u64,
                    bytes: one.data.into_vec(),
                    xor_key: xor.then_some(one.xor_key),
                })
            })
            .collect(),
    }
}
