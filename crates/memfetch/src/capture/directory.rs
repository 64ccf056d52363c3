//! Region directories: a file for each region of which something is saved, and an index.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use memfetch_sys::buffer::Buffer;
use memfetch_sys::signals::EndHeld;

use super::arrangement::Arrangement;
use super::blocks::Block;
use super::copy::extents;
use super::crew::at_path;
use super::gather::Gathered;
use super::known::Known;
use super::plan::DefaultRule;
use super::prepare::{Prepared, origin, plan};
use super::write::{Closed, Meter, WORKERS, close, copier, copy, last_holder, rules, too_wide};
use super::{Snapshot, Written};
use crate::address::Span;
use crate::error::{Error, OutputError};
use crate::image::directory::classic::{self, program_word};
use crate::image::directory::digest_of_blocks;
use crate::image::directory::index::{self, Ending, Entry, Index, RegionFile};
use crate::image::trailer::BLOCK;
use crate::memory::PageRuns;
use crate::sink::OutputDirectory;
use crate::sink::file::size_limit;

/// Whether a name is one that a region directory of either kind has: nothing else is ever replaced.
pub(super) fn is_ours(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name == index::NAME.as_bytes()
        || name == classic::NAME.as_bytes()
        || index::is_file_name(name)
        || classic::is_file_name(name)
}

/// A file of the directory to be.
struct Member {
    name: String,
    /// How long its region is.
    len: u64,
    /// Where in it the last byte stands that is written.
    least: u64,
}

/// Copies everything into a directory.
pub(super) fn to_directory(
    gathered: &Gathered,
    mut output: OutputDirectory,
    snapshot: &mut Snapshot<'_>,
) -> Result<Written, Error> {
    // From here on there is something that must be taken away, should this process be told to end.
    let ending = EndHeld::new();
    let (mut prepared, members) = prepare(gathered, snapshot)?;
    let path = output.path().to_owned();
    let failed = at_path(&path);
    let longest = members.iter().map(|member| member.least).max().unwrap_or(0);
    let index_bound = (1 << 16) + 300 * gathered.map.len() as u64 + 24 * gathered.pages.len() as u64;
    output.make(longest, prepared.plan.data_bytes + index_bound).map_err(&failed)?;
    let output = Arc::new(output);
    let filled = fill(gathered, &output, &mut prepared, &members, snapshot, &ending);
    // Let go whatever became of it, and before the disk is waited for.
    gathered.hold.let_go();
    let finished = filled.and_then(|mut closed| {
        let most = snapshot.max_apparent_size.min(size_limit().unwrap_or(u64::MAX));
        let apparent_bytes =
            set_lengths(&output, &members, most, &mut closed.outcome.remarks).map_err(&failed)?;
        let (name, text, shown) = index(gathered, &prepared, &members, &mut closed, snapshot.classic);
        output.write(name, &text).map_err(&failed)?;
        Ok(Written {
            outcome: closed.outcome,
            origin: prepared.origin,
            apparent_bytes: apparent_bytes + text.len() as u64,
            stored_bytes: 0,
            index: shown.unwrap_or(text),
        })
    });
    let mut written = match finished {
        Ok(written) => written,
        Err(error) => {
            // Workers may still share it, and one that is stuck does so to the end of this process.
            output.abandon();
            return Err(error);
        }
    };
    let output = last_holder(output).map_err(&failed)?;
    written.stored_bytes = output.commit().map_err(&failed)?;
    Ok(written)
}

/// Plans the files, which have no headers.
fn prepare(gathered: &Gathered, snapshot: &Snapshot<'_>) -> Result<(Prepared, Vec<Member>), Error> {
    let known = Known { gathered, touch: snapshot.touch };
    let mut plan = plan(gathered, &known, snapshot, DefaultRule::AllButReadOnlyFiles, None);
    let segments = std::mem::take(&mut plan.segments);
    let (arrangement, numbers) = Arrangement::by_region(&gathered.map, &segments).ok_or_else(too_wide)?;
    let member = |(count, number): (usize, &usize)| {
        let region = gathered.map.as_slice().get(*number)?;
        let name = if snapshot.classic {
            classic::file_name(count, region)
        } else {
            index::file_name(*number, region)
        };
        let least = written_in(&arrangement, &gathered.pages, region.span).last().map(|span| span.end());
        let least = least.and_then(|end| end.offset_from(region.span.start())).unwrap_or(0);
        Some(Member { name, len: region.span.len(), least })
    };
    let members = numbers.iter().enumerate().filter_map(member).collect();
    let origin = origin(gathered, snapshot);
    Ok((
        Prepared { plan, arrangement, origin, headers: Vec::new(), split_zeros: None, remark: None },
        members,
    ))
}

/// Puts the bytes into the files.
fn fill(
    gathered: &Gathered,
    output: &Arc<OutputDirectory>,
    prepared: &mut Prepared,
    members: &[Member],
    snapshot: &mut Snapshot<'_>,
    ending: &EndHeld,
) -> Result<Closed, Error> {
    let path = output.path().to_owned();
    let failed = at_path(&path);
    for extent in prepared.extents(gathered).iter().filter(|extent| extent.len >= BLOCK) {
        let (file, start) = prepared.arrangement.file_at(extent.offset);
        if let Some(member) = members.get(file) {
            output.allocate(&member.name, extent.offset - start, extent.len).map_err(&failed)?;
        }
    }
    let copier = copier(gathered, snapshot, Vec::new());
    let names: Vec<String> = members.iter().map(|member| member.name.clone()).collect();
    let finish = {
        let output = Arc::clone(output);
        let path = path.clone();
        move |block: &Block, buffer: &Buffer| {
            let Some(name) = names.get(block.file) else { return Ok(()) };
            let ranges = extents(&block.parts).into_iter().map(|(offset, len)| {
                (offset - block.file_start, (offset - block.start()) as usize, len as usize)
            });
            output.write_at(name, buffer, ranges).map_err(at_path(&path))
        }
    };
    let mut meter = Meter::new(&mut *snapshot.progress, &prepared.plan);
    let blocks = prepared.swapped_last(gathered);
    let rules = rules(gathered, snapshot.time_limit, WORKERS);
    let totals = copy(gathered, blocks, &copier, rules, (&path, Arc::new(finish)), |_, _, copied| {
        meter.add(copied);
        if ending.is_due() { Err(failed(OutputError::Interrupted)) } else { Ok(()) }
    })?;
    Ok(close(gathered, prepared, totals))
}

/// Gives every file the length of its region, or, where that is too long for the file system or for what was asked for,
/// that of what was written; returns the sum.
fn set_lengths(
    output: &OutputDirectory,
    members: &[Member],
    most: u64,
    remarks: &mut Vec<String>,
) -> Result<u64, OutputError> {
    let (mut sum, mut cut) = (0_u64, 0_u64);
    for Member { name, len, least } in members {
        let is_whole = *len <= most && output.set_len(name, *len)?;
        if !is_whole {
            output.set_len(name, *least)?;
            cut += 1;
        }
        sum = sum.saturating_add(if is_whole { *len } else { *least });
    }
    match cut {
        0 => {}
        1 => {
            remarks.push("1 file ends behind its last byte, its region being too long for a file".to_owned())
        }
        _ => remarks.push(format!(
            "{cut} files end behind their last bytes, their regions being too long for a file"
        )),
    }
    Ok(sum)
}

/// The name of the index, its text, and what is shown of it where that is not all.
fn index(
    gathered: &Gathered,
    prepared: &Prepared,
    members: &[Member],
    closed: &mut Closed,
    is_classic: bool,
) -> (&'static str, Vec<u8>, Option<Vec<u8>>) {
    let regions = gathered.map.iter().filter(|region| {
        let at =
            prepared.arrangement.saved.partition_point(|stretch| stretch.span.end() <= region.span.start());
        prepared.arrangement.saved.get(at).is_some_and(|stretch| region.span.covers(stretch.span))
    });
    if is_classic {
        let blocks = classic::encode_blocks(regions);
        let program = program_word(gathered.facts.exe.as_deref());
        let text = classic::encode(&prepared.origin, &program, &blocks, &closed.outcome);
        return (classic::NAME, text, Some(blocks));
    }
    let mut digests = closed.digests.iter().peekable();
    let mut files = members.iter().enumerate().peekable();
    let mut has_file = regions.peekable();
    let mut entries = Vec::with_capacity(gathered.map.len());
    for region in &*gathered.map {
        let file = has_file.next_if(|next| next.span == region.span).and_then(|_| files.next());
        let file = file.map(|(number, member)| {
            let own = std::iter::from_fn(|| {
                digests.next_if(|(block, _)| prepared.arrangement.file_at(block * BLOCK).0 == number)
            });
            RegionFile { name: member.name.clone(), digest: digest_of_blocks(own.map(|(_, digest)| digest)) }
        });
        let mut pages = PageRuns::new();
        pages.extend(closed.pages.within(region.span));
        let written = written_in(&prepared.arrangement, &gathered.pages, region.span);
        entries.push(Entry { region: region.clone(), file, pages, written });
    }
    let index = Index {
        name: gathered.facts.comm.clone(),
        origin: prepared.origin.clone(),
        platform: gathered.platform,
        outcome: Some(std::mem::take(&mut closed.outcome)),
        entries,
        ending: Ending::Whole,
    };
    let text = index.encode();
    closed.outcome = index.outcome.unwrap_or_default();
    (index::NAME, text, None)
}

/// What of a region is written: ascending, neighbours joined.
fn written_in(arrangement: &Arrangement, pages: &PageRuns, region: Span) -> Vec<Span> {
    let first = arrangement.saved.partition_point(|stretch| stretch.span.end() <= region.start());
    let stretches = arrangement.saved.iter().skip(first);
    let inside = stretches.map_while(|stretch| stretch.span.intersection(region));
    Span::union(
        inside
            .flat_map(|span| pages.within(span))
            .filter(|run| !run.state.is_known_zero())
            .map(|run| run.span),
    )
}
