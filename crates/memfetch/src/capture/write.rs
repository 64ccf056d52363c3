//! Writing what was gathered: plan, lay out, copy, let the process go, close with the trailer.

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use memfetch_sys::buffer::Buffer;

use super::blocks::{Block, Blocks};
use super::copy::{Copied, Copier, as_copied, extents};
use super::crew::{self, Failure, Rules, Step, Totals, at_path};
use super::gather::{Gathered, nanoseconds, now_ns};
use super::guardian::Guardian;
use super::known::Known;
use super::plan::{Filter, Plan, Wishes};
use super::{Progress, Snapshot, Written, link_map, remarks};
use crate::error::{Error, OutputError};
use crate::image::encode::{Layout, notes};
use crate::image::note;
use crate::image::record::{Contents, Origin, Outcome};
use crate::image::trailer::{BLOCK, Extent, Trailer};
use crate::live::Process;
use crate::maps;
use crate::memory::Memory;
use crate::region::Region;
use crate::sink::file::{ALIGNMENT, size_limit};
use crate::sink::{OutputFile, OutputStream};
use crate::source::Source;
use crate::threads::Registers;

/// What an output without a name is called in errors.
const STREAM: &str = "standard output";
/// In a stream, and where a file would look too large, zeros from this length on are left out.
const LONG_ZEROS: u64 = 1 << 20;
/// How many blocks are read and written at once to a file: enough for several writes to be in flight.
const WORKERS: usize = 4;
/// How many blocks' worth of bytes are in memory at once, at the most: a process with less in RAM is read whole before
/// the first byte is written, and held for no longer than that.
const BUFFERS: usize = 32;
/// The same for a process with so many mappings that what describes them fills the memory.
const FEW_BUFFERS: usize = 8;

/// A planned image: nothing of it is written.
struct Prepared {
    plan: Plan,
    layout: Layout,
    origin: Origin,
    headers: Vec<u8>,
    /// What the report should say of it.
    remark: Option<String>,
}

/// Plans and lays out an image; `None` where its offsets do not fit the word size of the process.
fn prepare(gathered: &Gathered, snapshot: &Snapshot<'_>, split_zeros: Option<u64>) -> Option<Prepared> {
    let known = Known { gathered, touch: snapshot.touch };
    let wishes = Wishes {
        contents: snapshot.contents,
        touch: snapshot.touch,
        selection: snapshot.selection.clone(),
        filter: gathered.facts.coredump_filter.map_or(Filter::DEFAULT, Filter),
        stack_pointers: gathered.stack_pointers(),
        needed: match snapshot.contents {
            Contents::Minimal => link_map::pages_of(&known, &gathered.record.auxv),
            _ => Vec::new(),
        },
        split_zeros,
        page_size: gathered.platform.page_size,
    };
    let mut plan = Plan::make(&gathered.map, &gathered.pages, &wishes, |region| is_elf(&known, region));
    let uname = rustix::system::uname();
    let mut origin = Origin {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: gathered.facts.pid,
        started_ns: gathered.started_ns,
        host: uname.nodename().to_string_lossy().into_owned(),
        kernel: uname.release().to_string_lossy().into_owned(),
        mode: gathered.mode,
        contents: snapshot.contents,
        touch: snapshot.touch,
        // The longest number, so that the note's length does not change when the real one is known.
        trailer_offset: u64::MAX,
    };
    let mut description = note::encode(&origin);
    description.resize(description.len().next_multiple_of(4), b' ');
    let mut notes = notes::encode(
        gathered.platform,
        &gathered.record,
        &gathered.threads,
        &gathered.map,
        (note::OWNER, note::TYPE_ORIGIN, &description),
    );
    let notes_len = notes.len() as u64;
    let segments = std::mem::take(&mut plan.segments);
    let layout = Layout::new(gathered.platform, segments, notes_len)?;
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
    Some(Prepared { plan, layout, origin, headers, remark: None })
}

fn is_elf(known: &Known<'_>, region: &Region) -> bool {
    let mut magic = [0; 4];
    // A page that cannot be read is no header worth keeping; were it wanted, its region would be.
    matches!(known.read_at(region.span.start(), &mut magic), Ok(4)) && magic == *b"\x7fELF"
}

impl Prepared {
    /// The blocks to copy, those with swapped pages last: reading them costs the target most.
    fn swapped_last<'a>(&'a self, gathered: &'a Gathered) -> impl Iterator<Item = Block> + 'a {
        let all = || Blocks::new(&self.layout, &gathered.pages);
        all().filter(|block| !block.is_swapped()).chain(all().filter(Block::is_swapped))
    }

    /// What of the file is written, neighbours joined.
    fn extents(&self, gathered: &Gathered) -> Vec<Extent> {
        let mut merged: Vec<Extent> = Vec::new();
        for (offset, len) in
            Blocks::new(&self.layout, &gathered.pages).flat_map(|block| extents(&block.parts))
        {
            match merged.last_mut() {
                Some(last) if last.end() == offset => last.len += len,
                _ => merged.push(Extent { offset, len }),
            }
        }
        merged
    }

    /// An upper bound for the length of the trailer, good enough to check limits by.
    fn trailer_bound(&self, gathered: &Gathered) -> u64 {
        let blocks = self.plan.data_bytes / BLOCK + self.layout.headers_count() + 2;
        (1 << 16) + 200 * gathered.map.len() as u64 + 24 * gathered.pages.len() as u64 + 64 * blocks
    }
}

/// How many blocks' worth of bytes may be in memory at once.
fn buffers(gathered: &Gathered) -> usize {
    /// What describes a mapping, in all the places where that is kept.
    const DESCRIBED: u64 = 256;
    let described = gathered.map.len() as u64 * DESCRIBED / BLOCK;
    BUFFERS.saturating_sub(usize::try_from(described).unwrap_or(BUFFERS)).max(FEW_BUFFERS)
}

fn copier(gathered: &Gathered, snapshot: &Snapshot<'_>, headers: Vec<u8>) -> Arc<Copier<Process>> {
    Arc::new(Copier {
        source: gathered.process.clone(),
        map: Arc::clone(&gathered.map),
        headers,
        touch: snapshot.touch,
        page_size: gathered.platform.page_size,
        cancelled: AtomicBool::new(false),
    })
}

/// Copies everything to a file.
pub(super) fn to_file(
    gathered: &Gathered,
    output: OutputFile,
    snapshot: &mut Snapshot<'_>,
) -> Result<Written, Error> {
    let output = Arc::new(output);
    let filled = fill(gathered, &output, snapshot);
    // Let go whatever became of it, and before the disk is waited for.
    gathered.hold.let_go();
    let mut written = match filled {
        Ok(written) => written,
        Err(error) => {
            // Workers may still share the file, and one that is stuck does so to the end of this process.
            output.abandon();
            return Err(error);
        }
    };
    let path = output.path().to_owned();
    // The workers end once their queue is closed; until the last one has, it shares the file.
    let output = last_holder(output).map_err(at_path(&path))?;
    written.stored_bytes = output.commit(written.apparent_bytes).map_err(at_path(&path))?;
    Ok(written)
}

/// Puts everything into the file, and does not give it its name yet.
fn fill(
    gathered: &Gathered,
    output: &Arc<OutputFile>,
    snapshot: &mut Snapshot<'_>,
) -> Result<Written, Error> {
    let path = output.path().to_owned();
    let failed = at_path(&path);
    let mut prepared = reserve(gathered, output, snapshot)?;
    for extent in prepared.extents(gathered).iter().filter(|extent| extent.len >= BLOCK) {
        output.allocate(extent.offset, extent.len).map_err(&failed)?;
    }
    let copier = copier(gathered, snapshot, std::mem::take(&mut prepared.headers));
    let finish = {
        let output = Arc::clone(output);
        let path = path.clone();
        move |block: &Block, buffer: &Buffer| {
            for (offset, len) in extents(&block.parts) {
                let start = (offset - block.start()) as usize;
                if let Some(bytes) = buffer.get(start..start + len as usize) {
                    output.write_at(bytes, offset).map_err(at_path(&path))?;
                }
            }
            Ok(())
        }
    };
    let rules = rules(gathered, snapshot, WORKERS);
    let mut meter = Meter::new(&mut *snapshot.progress, &prepared.plan);
    let blocks = prepared.swapped_last(gathered);
    let totals = copy(gathered, blocks, &copier, rules, (&path, Arc::new(finish)), |_, _, copied| {
        meter.add(copied);
        Ok(())
    })?;

    let (outcome, trailer) = close(gathered, &prepared, totals);
    let apparent_bytes = prepared.layout.data_end() + trailer.len() as u64;
    // Gaps may have made the trailer longer than was reserved, and to pass the limit would be a signal that kills.
    if let Some(limit) = size_limit().filter(|limit| apparent_bytes.next_multiple_of(ALIGNMENT) > *limit) {
        return Err(failed(OutputError::SizeLimit { needed: apparent_bytes, limit }));
    }
    write_trailer(output, &trailer, prepared.layout.data_end()).map_err(&failed)?;
    Ok(Written { outcome, origin: prepared.origin, apparent_bytes, stored_bytes: 0 })
}

/// Lays the image out so that it fits where it goes, and makes room for it.
fn reserve(gathered: &Gathered, output: &OutputFile, snapshot: &Snapshot<'_>) -> Result<Prepared, Error> {
    let failed = at_path(output.path());
    let most = snapshot.max_apparent_size.min(size_limit().unwrap_or(u64::MAX));
    let make_room = |prepared: &Prepared| {
        let trailer = prepared.trailer_bound(gathered);
        let stored = prepared.layout.data_start() + prepared.plan.data_bytes + trailer;
        output.reserve(prepared.layout.data_end() + trailer, stored)
    };
    if let Some(prepared) = prepare(gathered, snapshot, None)
        && prepared.layout.data_end().saturating_add(prepared.trailer_bound(gathered)) <= most
    {
        match make_room(&prepared) {
            // EFBIG: longer than the file system's longest file.
            Err(OutputError::Io { source, .. }) if source.kind() == ErrorKind::FileTooLarge => {}
            Err(OutputError::SizeLimit { .. }) => {}
            result => return result.map(|()| prepared).map_err(failed),
        }
    }
    let mut prepared = prepare(gathered, snapshot, Some(LONG_ZEROS)).ok_or_else(too_wide)?;
    make_room(&prepared).map_err(failed)?;
    let (length, most) = (prepared.layout.data_end(), snapshot.max_apparent_size);
    prepared.remark = (length > most).then(|| {
        format!(
            "the file looks longer than {most} bytes: without long never-touched stretches it is {length}"
        )
    });
    Ok(prepared)
}

fn too_wide() -> Error {
    let source = std::io::Error::other("the offsets do not fit the word size of the process");
    Error::Os { action: "lay out the image".into(), source }
}

fn rules(gathered: &Gathered, snapshot: &Snapshot<'_>, workers: usize) -> Rules {
    let held = gathered.hold.is_held();
    Rules { workers, buffers: buffers(gathered), time_limit: snapshot.time_limit, held }
}

fn last_holder(mut output: Arc<OutputFile>) -> Result<OutputFile, OutputError> {
    for _ in 0..10_000 {
        match Arc::try_unwrap(output) {
            Ok(output) => return Ok(output),
            Err(shared) => output = shared,
        }
        std::thread::sleep(std::time::Duration::from_micros(100));
    }
    let source = std::io::Error::other("a writer did not end");
    Err(OutputError::Io { action: "closing the file", source })
}

fn write_trailer(output: &OutputFile, trailer: &[u8], offset: u64) -> Result<(), OutputError> {
    let mut buffer = Buffer::new(BLOCK as usize)
        .map_err(|source| OutputError::Io { action: "allocating a buffer", source })?;
    let mut at = offset;
    for piece in trailer.chunks(BLOCK as usize) {
        let aligned = (piece.len() as u64).next_multiple_of(ALIGNMENT) as usize;
        if let Some(bytes) = buffer.get_mut(..piece.len()) {
            bytes.copy_from_slice(piece);
        }
        if let Some(padding) = buffer.get_mut(piece.len()..aligned) {
            padding.fill(0);
        }
        output.write_at(buffer.get(..aligned).unwrap_or(&buffer), at)?;
        at += piece.len() as u64;
    }
    Ok(())
}

/// Copies everything to a pipe or socket.
pub(super) fn to_stream(
    gathered: &Gathered,
    writer: &mut dyn Write,
    snapshot: &mut Snapshot<'_>,
) -> Result<Written, Error> {
    let mut prepared = prepare(gathered, snapshot, Some(LONG_ZEROS)).ok_or_else(too_wide)?;
    let copier = copier(gathered, snapshot, std::mem::take(&mut prepared.headers));
    let mut stream = OutputStream::new(writer);
    let guardian = Guardian::watch(&gathered.hold, stream.watch(), snapshot.time_limit)?;
    // One worker, so that blocks come in order; more buffers let it read on while the first is sent.
    let rules = rules(gathered, snapshot, 1);
    let finish = Arc::new(|_: &Block, _: &Buffer| Ok(()));
    let mut meter = Meter::new(&mut *snapshot.progress, &prepared.plan);
    let blocks = Blocks::new(&prepared.layout, &gathered.pages);
    let nameless = Path::new(STREAM);
    let totals = copy(gathered, blocks, &copier, rules, (nameless, finish), |block, buffer, copied| {
        meter.add(copied);
        for (offset, len) in extents(&block.parts) {
            let start = (offset - block.start()) as usize;
            stream.zeros_to(offset).map_err(at_path(nameless))?;
            stream
                .write(buffer.get(start..start + len as usize).unwrap_or(&[]))
                .map_err(at_path(nameless))?;
            guardian.check().map_err(at_path(nameless))?;
        }
        Ok(())
    })?;
    let (outcome, trailer) = close(gathered, &prepared, totals);
    stream.zeros_to(prepared.layout.data_end()).map_err(at_path(nameless))?;
    stream.write(&trailer).map_err(at_path(nameless))?;
    stream.flush().map_err(at_path(nameless))?;
    let bytes = stream.position();
    Ok(Written { outcome, origin: prepared.origin, apparent_bytes: bytes, stored_bytes: bytes })
}

/// Copies all blocks, lets the process go when its memory has been read, and tells how far it is.
fn copy(
    gathered: &Gathered,
    blocks: impl Iterator<Item = Block>,
    copier: &Arc<Copier<Process>>,
    rules: Rules,
    output: (&Path, Arc<crew::Finish>),
    mut each: impl FnMut(&Block, &Buffer, &Copied) -> Result<(), Error>,
) -> Result<Totals, Error> {
    let (path, finish) = output;
    let result = crew::run(copier, blocks, rules, finish, |step| match step {
        Step::Block { block, bytes, copied } => each(block, bytes, copied),
        Step::AllRead => {
            gathered.hold.let_go();
            Ok(())
        }
    });
    gathered.hold.let_go();
    let totals = result.map_err(|failure| match failure {
        Failure::Error(error) => error,
        Failure::Stuck(limit) => {
            Error::TimedOut { pid: gathered.facts.pid, action: "read its memory", limit }
        }
        Failure::Blocked(limit) => at_path(path)(OutputError::Blocked { limit }),
    })?;
    // A read by the number of the process might have met another program, if it called exec meanwhile.
    match gathered.process.check() {
        Err(error @ Error::Replaced { .. }) => Err(error),
        _ => Ok(totals),
    }
}

/// Tells the caller how far it is.
struct Meter<'a, 'p> {
    progress: &'a mut (dyn FnMut(Progress) + 'p),
    now: Progress,
}

impl<'a, 'p> Meter<'a, 'p> {
    fn new(progress: &'a mut (dyn FnMut(Progress) + 'p), plan: &Plan) -> Self {
        Self { progress, now: Progress { done_bytes: 0, total_bytes: plan.data_bytes } }
    }

    fn add(&mut self, copied: &Copied) {
        self.now.done_bytes += copied.read_bytes + copied.file_bytes + copied.gaps.bytes();
        (self.progress)(self.now);
    }
}

/// What the capture came to, and the trailer that says so in the image.
fn close(gathered: &Gathered, prepared: &Prepared, mut totals: Totals) -> (Outcome, Vec<u8>) {
    let mut gaps = prepared.plan.gaps.clone();
    gaps.extend(totals.gaps.iter().copied());
    gaps.sort();
    let pages = as_copied(&gathered.pages, &gaps, prepared.origin.touch);
    let mut sentences = gathered.remarks.clone();
    sentences.extend(prepared.remark.clone());
    let left_in_ram = gathered.process.left_in_ram();
    if left_in_ram > 0 {
        sentences.push(format!(
            "{left_in_ram} bytes that were in swap stay in RAM: to send them back takes CAP_SYS_NICE, and room in swap"
        ));
    }
    let mut outcome = Outcome {
        finished_ns: now_ns(),
        threads: gathered.threads.len() as u64,
        partial_threads: gathered
            .threads
            .iter()
            .filter(|thread| !matches!(thread.registers, Registers::Complete(_)))
            .count() as u64,
        read_bytes: totals.read_bytes,
        file_bytes: totals.file_bytes,
        absent_bytes: prepared.plan.zero_bytes,
        unwanted_bytes: prepared.plan.unwanted_bytes,
        gaps,
        remarks: sentences,
        ..Outcome::default()
    };
    if let Some(stop) = gathered.hold.report() {
        outcome.pause_ns = nanoseconds(stop.pause);
        outcome.stops = 1;
        outcome.rewound_calls = stop.rewound as u64;
        outcome.remarks.extend(remarks::of_stop(&stop));
    }
    totals.digests.sort_unstable_by_key(|(index, _)| *index);
    let trailer = Trailer {
        outcome,
        maps: maps::print(&gathered.map),
        pages,
        extents: prepared.extents(gathered),
        digests: totals.digests.into_iter().map(|(_, digest)| digest).collect(),
    };
    let bytes = trailer.encode();
    (trailer.outcome, bytes)
}
