//! `memfetch strings`.

use std::ffi::OsStr;
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;

use memfetch::Address;
use memfetch::query::atlas::Atlas;
use memfetch::query::strings::{self, Encoding, Text};
use memfetch::query::sweep::{Survey, Sweep, Swept};
use serde::Serialize;

use crate::args::RadixWord;
use crate::ending::Ending;
use crate::failure::Failure;
use crate::json;
use crate::places::{Place, Places};
use crate::plan::{StringLayout, Strings};
use crate::text::printable;
use crate::{coverage, source, summary};

/// So much is written at once.
const BUFFER: usize = 256 << 10;

/// Tells the strings of a source in the order of their addresses, and then what was looked at.
pub fn run(plan: &Strings) -> Result<Ending, Failure> {
    let source = source::open(&plan.source)?.with_time_limit(plan.time_limit);
    let memory = source.memory();
    let survey = Survey::of(memory, &plan.scope)?;
    let atlas = Atlas::of_regions(memory, plan.scope.touch, survey.map().clone());
    let mut sweep = Sweep::new();
    if let Some(threads) = plan.threads {
        sweep = sweep.threads(threads);
    }
    let search = strings::Strings::new()
        .encodings(plan.encodings.iter().copied())
        .min_length(plan.min_length)
        .all_scripts(plan.all_scripts)
        .sweep(sweep);
    let mut lines = Lines {
        plan,
        places: Places::new(atlas),
        out: BufWriter::with_capacity(BUFFER, io::stdout().lock()),
        line: Vec::new(),
        found: 0,
        has_enough: false,
    };
    let mut failed = None;
    let swept = search.run(memory, survey, |text| match lines.take(text) {
        Ok(flow) => flow,
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    });
    if let Some(error) = failed {
        // What is in the buffer has nowhere to go.
        let _ = lines.out.into_parts();
        return Err(error.into());
    }
    let found = lines.found;
    let has_enough = lines.has_enough;
    let shortfall = source.shortfall();
    lines.end(&swept, shortfall.is_none())?;
    if let Some(why) = &shortfall {
        let text = summary::incomplete(&plan.source, why, "what was lost was not looked at");
        let _ = writeln!(io::stderr(), "{text}");
    }
    if !plan.quiet && !plan.json {
        let early = if has_enough {
            "Stopped with enough strings; what lies behind was not looked at.\n"
        } else {
            ""
        };
        let _ = write!(io::stderr(), "{early}{}", coverage::paragraph(&swept.coverage));
    }
    swept.result?;
    Ok(if !swept.coverage.gaps.is_empty() || shortfall.is_some() {
        Ending::Gaps
    } else if found == 0 {
        Ending::Different
    } else {
        Ending::Done
    })
}

/// A string in JSON.
#[derive(Debug, Serialize)]
struct Entry<'a> {
    address: Address,
    encoding: Encoding,
    text: &'a str,
    #[serde(flatten)]
    place: Place,
    /// It is a piece of a long string, the first part of which is in the object before.
    #[serde(skip_serializing_if = "is_false")]
    continued: bool,
    /// Its next part is in the next object of this encoding.
    #[serde(skip_serializing_if = "is_false")]
    continues: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference to the field")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// Writes strings.
struct Lines<'a, W: Write> {
    plan: &'a Strings,
    places: Places<'a>,
    out: BufWriter<W>,
    line: Vec<u8>,
    found: u64,
    /// Whether that is as many as are wanted.
    has_enough: bool,
}

impl<W: Write> Lines<'_, W> {
    fn take(&mut self, text: &Text<'_>) -> io::Result<ControlFlow<()>> {
        if !text.continued {
            if self.plan.most.is_some_and(|most| self.found >= most) {
                self.has_enough = true;
                return Ok(ControlFlow::Break(()));
            }
            self.found += 1;
        }
        self.line.clear();
        match self.plan.layout {
            StringLayout::Count => {}
            StringLayout::Json => self.json(text)?,
            StringLayout::Line { radix, encoding, region } => self.line(text, radix, encoding, region),
        }
        self.out.write_all(&self.line)?;
        // The last one that is wanted, and nothing of it is to come.
        self.has_enough = self.plan.most == Some(self.found) && !text.continues;
        Ok(if self.has_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    fn json(&mut self, text: &Text<'_>) -> io::Result<()> {
        let entry = Entry {
            address: text.at,
            encoding: if text.is_ascii() { Encoding::Ascii } else { text.encoding },
            text: &text.text(),
            place: self.places.json(text.at),
            continued: text.continued,
            continues: text.continues,
        };
        json::write_line(&mut self.line, &entry)
    }

    fn line(&mut self, text: &Text<'_>, radix: Option<RadixWord>, encoding: bool, region: bool) {
        if let Some(radix) = radix {
            push_address(&mut self.line, text.at, radix);
            self.line.extend_from_slice(b"  ");
        }
        if encoding {
            self.line.push(letter(text));
            self.line.extend_from_slice(b"  ");
        }
        if region {
            if let Some(place) = self.places.words(text.at) {
                self.line.extend_from_slice(place.as_bytes());
            }
            self.line.extend_from_slice(b"  ");
        }
        push_text(&mut self.line, text);
        self.line.push(b'\n');
    }

    /// Writes what stands at the end.
    fn end(mut self, swept: &Swept, whole: bool) -> Result<(), Failure> {
        if self.plan.layout == StringLayout::Count {
            if self.plan.json {
                writeln!(self.out, "{{\"count\":{}}}", self.found)?;
            } else {
                writeln!(self.out, "{}", self.found)?;
            }
        }
        if self.plan.json && !self.plan.quiet {
            let complete = whole && !self.has_enough && swept.result.is_ok();
            let object = coverage::Object { complete, coverage: &swept.coverage };
            json::write_line(&mut self.out, &object)?;
        }
        Ok(self.out.flush()?)
    }
}

/// The letter of an encoding, which for ASCII is none: what is not ASCII strikes the eye.
fn letter(text: &Text<'_>) -> u8 {
    match text.encoding {
        _ if text.is_ascii() => b' ',
        Encoding::Ascii => b' ',
        Encoding::Utf8 => b'u',
        Encoding::Latin1 => b'S',
        Encoding::Utf16Le => b'l',
        Encoding::Utf16Be => b'b',
    }
}

/// Digits of an address, as many as the highest of a process has.
fn push_address(line: &mut Vec<u8>, at: Address, radix: RadixWord) {
    let (base, width) = match radix {
        RadixWord::X => (16, 12),
        RadixWord::D => (10, 15),
        RadixWord::O => (8, 16),
    };
    let mut digits = [b'0'; 22];
    let mut rest = at.get();
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        if rest == 0 {
            break;
        }
        *digit = *b"0123456789abcdef".get((rest % base) as usize).unwrap_or(&b'?');
        rest /= base;
        used += 1;
    }
    let from = digits.len() - used.max(width);
    line.extend_from_slice(digits.get(from..).unwrap_or_default());
}

/// The text on one line, with nothing in it that moves the cursor.
fn push_text(line: &mut Vec<u8>, text: &Text<'_>) {
    if text.is_ascii() {
        // Of the controls only the tab is text.
        let mut parts = text.bytes.split(|&byte| byte == b'\t');
        line.extend_from_slice(parts.next().unwrap_or_default());
        for part in parts {
            line.extend_from_slice(b"\\t");
            line.extend_from_slice(part);
        }
    } else {
        line.extend_from_slice(printable(OsStr::new(&*text.text())).as_bytes());
    }
}
