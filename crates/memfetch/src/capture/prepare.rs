//! [`prepare`]: what is saved, and where it goes, before a byte of it is written.

use std::sync::PoisonError;

use super::Snapshot;
use super::arrangement::{Arrangement, Pins, Stretch};
use super::blocks::{Block, Blocks};
use super::copy::extents;
use super::gather::Gathered;
use super::known::Known;
use super::plan::{DefaultRule, Filter, Plan, Wishes};
use super::{Written, link_map, raw};
use crate::image::encode::{Layout, Placed, Segment, notes};
use crate::image::note;
use crate::image::record::{Contents, Origin, Outcome};
use crate::image::trailer::{BLOCK, Extent};
use crate::memory::Memory;
use crate::region::Region;

/// What one file or stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// An ELF core.
    Core,
    /// The regions, one after the other.
    Raw,
}

impl Form {
    /// What default contents are in it.
    pub(crate) const fn rule(self) -> DefaultRule {
        match self {
            Self::Core => DefaultRule::CoredumpFilter,
            Self::Raw => DefaultRule::AllButReadOnlyFiles,
        }
    }
}

/// A planned output: nothing of it is written.
pub(super) struct Prepared {
    pub plan: Plan,
    pub arrangement: Arrangement,
    pub origin: Origin,
    pub headers: Vec<u8>,
    /// Known zeros from this length on are not in it.
    pub split_zeros: Option<u64>,
    /// What the report should say of it.
    pub remark: Option<String>,
}

/// Where the saved memory goes.
#[derive(Clone, Copy)]
pub(super) enum Placing<'p> {
    /// One stretch behind the other.
    Anew,
    /// The same, with room in the headers for what may come until they are written.
    Roomy,
    /// Where it is already; the headers have so much room.
    Pinned(&'p Pins, u64),
}

/// Plans and lays out one file or stream; `None` where its offsets do not fit the word size of the process, or its
/// headers have no room.
pub(super) fn prepare(
    gathered: &Gathered,
    snapshot: &Snapshot<'_>,
    form: Form,
    split_zeros: Option<u64>,
    placing: Placing<'_>,
) -> Option<Prepared> {
    let known = Known { gathered, touch: snapshot.touch };
    let mut plan = plan(gathered, &known, snapshot, form.rule(), split_zeros);
    let mut origin = origin(gathered, snapshot);
    let segments = std::mem::take(&mut plan.segments);
    if form == Form::Raw {
        let arrangement = match placing {
            Placing::Anew | Placing::Roomy => Arrangement::in_one_line(&gathered.map, &segments)?,
            Placing::Pinned(pins, _) => Arrangement::pinned(&segments, &mut pins.clone())?,
        };
        return Some(Prepared { plan, arrangement, origin, headers: Vec::new(), split_zeros, remark: None });
    }
    // The longest number, so that the note's length does not change when the real one is known.
    origin.trailer_offset = u64::MAX;
    let mut description = note::encode(&origin);
    description.resize(description.len().next_multiple_of(4), b' ');
    let mut notes = notes::encode(
        gathered.platform,
        &gathered.record,
        &gathered.threads,
        &gathered.map,
        (note::OWNER, note::TYPE_ORIGIN, &description),
    );
    let layout = match placing {
        Placing::Anew => Layout::new(gathered.platform, segments, notes.len() as u64)?,
        Placing::Roomy => {
            let room = room_for_more(notes.len() as u64, segments.len() as u64);
            let layout = Layout::new(gathered.platform, segments, room)?;
            let arrangement = Arrangement::of_core(&layout);
            return Some(Prepared {
                plan,
                arrangement,
                origin,
                headers: Vec::new(),
                split_zeros,
                remark: None,
            });
        }
        Placing::Pinned(pins, data_start) => {
            pinned(gathered, &segments, notes.len() as u64, pins, data_start)?
        }
    };
    origin.trailer_offset = layout.data_end();
    let told = note::encode(&origin);
    // It is the last note, and ends with it: with thousands of threads the others take megabytes.
    if let Some(place) = notes.len().checked_sub(description.len()).and_then(|at| notes.get_mut(at..)) {
        place.fill(b' ');
        if let Some(place) = place.get_mut(..told.len()) {
            place.copy_from_slice(&told);
        }
    }
    let headers = layout.headers(&notes);
    Some(Prepared {
        plan,
        arrangement: Arrangement::of_core(&layout),
        origin,
        headers,
        split_zeros,
        remark: None,
    })
}

/// How long the notes of a process may become while it is copied, with the program headers of what it maps anew.
fn room_for_more(notes: u64, segments: u64) -> u64 {
    /// A program header, a `PT_NULL` ahead of it, and its line in NT_FILE.
    const EACH: u64 = 2 * 56 + 100;
    notes + notes / 4 + (256 << 10) + (segments / 4 + 256) * EACH
}

fn pinned(
    gathered: &Gathered,
    segments: &[Segment],
    notes: u64,
    pins: &Pins,
    data_start: u64,
) -> Option<Layout> {
    let mut pins = pins.clone();
    let mut saved = Vec::with_capacity(segments.len());
    for segment in segments.iter().filter(|segment| segment.saved) {
        let pieces = pins.place(segment.span)?.into_iter();
        saved.extend(
            pieces.map(|Stretch { span, offset }| Placed { segment: Segment { span, ..*segment }, offset }),
        );
    }
    let others: Vec<Segment> = segments.iter().filter(|segment| !segment.saved).copied().collect();
    Layout::pinned(gathered.platform, saved, &others, notes, (data_start, pins.end))
}

/// Which pages are saved.
pub(super) fn plan(
    gathered: &Gathered,
    known: &Known<'_>,
    snapshot: &Snapshot<'_>,
    rule: DefaultRule,
    split_zeros: Option<u64>,
) -> Plan {
    let wishes = Wishes {
        contents: snapshot.contents,
        touch: snapshot.touch,
        selection: snapshot.selection.clone(),
        rule,
        filter: gathered.facts.coredump_filter.map_or(Filter::DEFAULT, Filter),
        stack_pointers: gathered.stack_pointers(),
        needed: match snapshot.contents {
            Contents::Minimal => link_map::pages_of(known, &gathered.record.auxv),
            _ => Vec::new(),
        },
        split_zeros,
        page_size: gathered.platform.page_size,
    };
    Plan::make(&gathered.map, &gathered.pages, &wishes, |region| is_elf(known, region))
}

/// Where an output comes from; it has no trailer yet.
pub(super) fn origin(gathered: &Gathered, snapshot: &Snapshot<'_>) -> Origin {
    let uname = rustix::system::uname();
    Origin {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: gathered.facts.pid,
        started_ns: gathered.started_ns,
        host: uname.nodename().to_string_lossy().into_owned(),
        kernel: uname.release().to_string_lossy().into_owned(),
        mode: gathered.mode,
        contents: snapshot.contents,
        touch: snapshot.touch,
        trailer_offset: 0,
    }
}

fn is_elf(known: &Known<'_>, region: &Region) -> bool {
    let mut found = known.gathered.elf_headers.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((of, is_elf)) = found.get(&region.span.start())
        && of == region
    {
        return *is_elf;
    }
    let is_elf = begins_with_elf_header(known, region);
    found.insert(region.span.start(), (region.clone(), is_elf));
    is_elf
}

fn begins_with_elf_header(known: &Known<'_>, region: &Region) -> bool {
    let mut magic = [0; 4];
    // A page that cannot be read is no header worth keeping; were it wanted, its region would be.
    matches!(known.read_at(region.span.start(), &mut magic), Ok(4)) && magic == *b"\x7fELF"
}

impl Prepared {
    /// The blocks to copy, those with swapped pages last: reading them costs the target most.
    pub fn swapped_last<'a>(&'a self, gathered: &'a Gathered) -> impl Iterator<Item = Block> + 'a {
        let all = || Blocks::new(&self.arrangement, &gathered.pages);
        all().filter(|block| !block.is_swapped()).chain(all().filter(Block::is_swapped))
    }

    /// What of the output is written, neighbours joined.
    pub fn extents(&self, gathered: &Gathered) -> Vec<Extent> {
        let mut merged: Vec<Extent> = Vec::new();
        let blocks = Blocks::new(&self.arrangement, &gathered.pages);
        for (offset, len) in blocks.flat_map(|block| extents(&block.parts)) {
            match merged.last_mut() {
                Some(last) if last.end() == offset => last.len += len,
                _ => merged.push(Extent { offset, len }),
            }
        }
        merged
    }

    /// An upper bound for the length of what stands behind the data, good enough to check limits by.
    pub fn trailer_bound(&self, form: Form, gathered: &Gathered) -> u64 {
        if form == Form::Raw {
            return 0;
        }
        let blocks = self.plan.data_bytes / BLOCK + self.arrangement.saved.len() as u64 + 2;
        (1 << 16) + 200 * gathered.map.len() as u64 + 24 * gathered.pages.len() as u64 + 64 * blocks
    }

    /// What the writing came to.
    pub fn written(
        self,
        form: Form,
        gathered: &Gathered,
        mut outcome: Outcome,
        apparent_bytes: u64,
        stored_bytes: u64,
    ) -> Written {
        let index = match form {
            Form::Core => Vec::new(),
            Form::Raw => {
                outcome.remarks.extend(raw::remark(&self.arrangement, &self.plan, &gathered.pages));
                raw::index(gathered, &self, &outcome)
            }
        };
        Written { outcome, origin: self.origin, apparent_bytes, stored_bytes, index }
    }
}
