//! Making an image whole whose memory lies in its file already, for the most part: [`to_file`].
//!
//! What was copied at first is where it belongs. What was copied again lies in memory, and the headers are known only now:
//! the blocks that these are in are read back, put together, digested and written. What the process has given back since
//! becomes a hole.

use std::sync::Arc;

use super::super::arrangement::{Arrangement, Pins};
use super::super::blocks::{Block, Blocks, Part, Source};
use super::super::copy::extents;
use super::super::crew::{Totals, at_path};
use super::super::gather::{Gathered, Spooled};
use super::super::prepare::{Form, Placing, Prepared, prepare};
use super::super::write::{self, copier, copy, end, finish, into_place, rules};
use super::super::{Snapshot, Written};
use super::backing::{Backing, ImageRoom};
use super::spans::{inside, outside};
use crate::address::{Address, Span};
use crate::error::Error;
use crate::memory::PageState;
use crate::sink::OutputFile;

/// Makes the image whole and gives it its name; `None` where what came since has no room in it, and nothing is lost.
pub(in crate::capture) fn to_file(
    gathered: &mut Gathered,
    form: Form,
    snapshot: &mut Snapshot<'_>,
    index: &mut Option<OutputFile>,
) -> Option<Result<Written, Error>> {
    let (backing, image) = gathered.spooled.as_ref().and_then(|spooled| {
        let backing = spooled.backing.as_ref()?;
        Some((backing, backing.image?))
    })?;
    let prepared = lay_out(gathered, backing, image, form, snapshot)?;
    let output = Arc::clone(&backing.output);
    let filled = fill(gathered, form, prepared, snapshot);
    // The output is nobody else's from here on.
    if let Some(mut backing) = gathered.spooled.as_mut().and_then(|spooled| spooled.backing.take()) {
        backing.is_abandoned = false;
    }
    Some(finish(gathered, output, filled, index.take()))
}

fn lay_out(
    gathered: &Gathered,
    backing: &Backing,
    image: ImageRoom,
    form: Form,
    snapshot: &Snapshot<'_>,
) -> Option<Prepared> {
    let pins = Pins::of(&backing.arrangement);
    prepare(gathered, snapshot, form, image.split_zeros, Placing::Pinned(&pins, image.headers))
}

fn fill(
    gathered: &Gathered,
    form: Form,
    mut prepared: Prepared,
    snapshot: &mut Snapshot<'_>,
) -> Result<Written, Error> {
    let Some(Spooled { spool, backing: Some(backing), .. }) = &gathered.spooled else {
        return Err(write::too_wide());
    };
    let output = &backing.output;
    let copier = copier(gathered, snapshot, std::mem::take(&mut prepared.headers));
    let again = spool.in_memory();
    let rules = rules(gathered, snapshot.time_limit, write::WORKERS);
    // What is not read again was read, too.
    let mut good = Totals::default();
    let mut first = Blocks::new(&backing.arrangement, &backing.written).peekable();
    let stale = Blocks::new(&prepared.arrangement, &gathered.pages).filter(|block| {
        while first.next_if(|first| first.index < block.index).is_some() {}
        let is_same = first.peek().is_some_and(|first| is_same_extent(first, block))
            && !block.parts.iter().any(|part| is_again(part, &again));
        match backing.digests.get(&block.index).filter(|_| is_same) {
            Some(digest) => {
                good.digests.push((block.index, *digest));
                for part in &block.parts {
                    match part.from {
                        Source::Memory { state: PageState::FileClean | PageState::Backed, .. } => {
                            good.file_bytes += part.len;
                        }
                        _ => good.read_bytes += part.len,
                    }
                }
                false
            }
            None => true,
        }
    });
    let path = output.path().to_owned();
    let mut totals: Totals =
        copy(gathered, stale, &copier, rules, (&path, into_place(output)), |_, _, _| Ok(()))?;
    totals.digests.append(&mut good.digests);
    totals.read_bytes += good.read_bytes;
    totals.file_bytes += good.file_bytes;
    clear_what_has_gone(backing, &prepared.arrangement, gathered, output)?;
    end(gathered, form, output, prepared, totals)
}

/// Whether two blocks cover the same parts of the output.
fn is_same_extent(one: &Block, other: &Block) -> bool {
    one.index == other.index && extents(&one.parts) == extents(&other.parts)
}

/// Whether some of a part lies in memory, newer than in the file.
fn is_again(part: &Part, again: &[Span]) -> bool {
    match part.from {
        Source::Headers => true,
        Source::Memory { at, .. } => {
            Span::from_len(at, part.len).is_none_or(|span| inside(span, again).next().is_some())
        }
    }
}

/// What was written and is no part of the image becomes a hole: readers take what is not in it for zeros.
fn clear_what_has_gone(
    backing: &Backing,
    arrangement: &Arrangement,
    gathered: &Gathered,
    output: &OutputFile,
) -> Result<(), Error> {
    // Offsets are as good as addresses here.
    let ranges = |blocks: Blocks<'_>| {
        let ranges = blocks.flat_map(|block| extents(&block.parts));
        Span::union(ranges.filter_map(|(offset, len)| Span::from_len(Address::new(offset), len)))
    };
    let kept = ranges(Blocks::new(arrangement, &gathered.pages));
    for written in ranges(Blocks::new(&backing.arrangement, &backing.written)) {
        for gone in outside(written, &kept) {
            output.clear(gone.start().get(), gone.len()).map_err(at_path(output.path()))?;
        }
    }
    Ok(())
}
