//! Writing what was gathered: plan, lay out, copy, let the process go, close with the trailer.

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use memfetch_sys::buffer::Buffer;

use super::blocks::{Block, Blocks};
use super::copy::{Copied, Copier, as_copied, extents};
use super::crew::{self, Rules, Step, Totals, at_path};
use super::gather::{Bytes, Gathered, nanoseconds, now_ns};
use super::guardian::Guardian;
use super::plan::Plan;
use super::prepare::{Form, Placing, Prepared, prepare};
use super::{Progress, Snapshot, Written, remarks};
use crate::error::{Error, OutputError};
use crate::image::record::Outcome;
use crate::image::trailer::{BLOCK, Trailer};
use crate::maps;
use crate::memory::PageRuns;
use crate::sink::file::{ALIGNMENT, size_limit};
use crate::sink::{OutputFile, OutputStream};
use crate::source::Source;
use crate::threads::Registers;

/// What an output without a name is called in errors.
const STREAM: &str = "standard output";
/// In a stream, and where a file would look too large, zeros from this length on are left out.
const LONG_ZEROS: u64 = 1 << 20;
/// How many blocks are read and written at once to a file: enough for several writes to be in flight.
pub(super) const WORKERS: usize = 4;
/// How many blocks' worth of bytes are in memory at once, at the most: a process with less in RAM is read whole before
/// the first byte is written, and held for no longer than that.
pub(super) const BUFFERS: usize = 32;
/// The same for a process with so many mappings that what describes them fills the memory.
const FEW_BUFFERS: usize = 8;

/// How many blocks' worth of bytes may be in memory at once.
fn buffers(gathered: &Gathered) -> usize {
    /// What describes a mapping, in all the places where that is kept.
    const DESCRIBED: u64 = 256;
    let described = gathered.map.len() as u64 * DESCRIBED / BLOCK;
    BUFFERS.saturating_sub(usize::try_from(described).unwrap_or(BUFFERS)).max(FEW_BUFFERS)
}

pub(super) fn copier(gathered: &Gathered, snapshot: &Snapshot<'_>, headers: Vec<u8>) -> Arc<Copier<Bytes>> {
    Arc::new(Copier {
        source: gathered.bytes(),
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
    form: Form,
    output: OutputFile,
    snapshot: &mut Snapshot<'_>,
    index: Option<OutputFile>,
) -> Result<Written, Error> {
    let output = Arc::new(output);
    let filled = fill(gathered, form, &output, snapshot);
    finish(gathered, output, filled, index)
}

/// Gives the file its name, if all is in it.
pub(super) fn finish(
    gathered: &Gathered,
    output: Arc<OutputFile>,
    filled: Result<Written, Error>,
    index: Option<OutputFile>,
) -> Result<Written, Error> {
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
    if let Some(index) = &index {
        put(index, &written.index)?;
    }
    written.stored_bytes = output.commit(written.apparent_bytes).map_err(at_path(&path))?;
    if let Some(index) = index {
        let path = index.path().to_owned();
        index.commit(written.index.len() as u64).map_err(at_path(&path))?;
    }
    Ok(written)
}

/// Puts bytes into a file that has none, and does not give it its name yet.
fn put(output: &OutputFile, bytes: &[u8]) -> Result<(), Error> {
    let len = bytes.len() as u64;
    let done =
        output.reserve(len.next_multiple_of(ALIGNMENT), len).and_then(|()| write_behind(output, bytes, 0));
    done.map_err(at_path(output.path()))
}

/// Writes a small file, and gives it its name.
pub(super) fn whole(output: OutputFile, bytes: &[u8]) -> Result<(), Error> {
    put(&output, bytes)?;
    let path = output.path().to_owned();
    output.commit(bytes.len() as u64).map(drop).map_err(at_path(&path))
}

/// Puts everything into the file, and does not give it its name yet.
fn fill(
    gathered: &Gathered,
    form: Form,
    output: &Arc<OutputFile>,
    snapshot: &mut Snapshot<'_>,
) -> Result<Written, Error> {
    let path = output.path().to_owned();
    let failed = at_path(&path);
    let mut prepared = reserve(gathered, form, output, snapshot, Placing::Anew)?;
    for extent in prepared.extents(gathered).iter().filter(|extent| extent.len >= BLOCK) {
        output.allocate(extent.offset, extent.len).map_err(&failed)?;
    }
    let copier = copier(gathered, snapshot, std::mem::take(&mut prepared.headers));
    let finish = into_place(output);
    let rules = rules(gathered, snapshot.time_limit, WORKERS);
    let mut meter = Meter::new(&mut *snapshot.progress, &prepared.plan);
    let blocks = prepared.swapped_last(gathered);
    let totals = copy(gathered, blocks, &copier, rules, (&path, finish), |_, _, copied| {
        meter.add(copied);
        Ok(())
    })?;

    end(gathered, form, output, prepared, totals)
}

/// Writes a block that was read to its place in the file.
pub(super) fn into_place(output: &Arc<OutputFile>) -> Arc<crew::Finish> {
    let (output, path) = (Arc::clone(output), output.path().to_owned());
    Arc::new(move |block: &Block, buffer: &Buffer| {
        for (offset, len) in extents(&block.parts) {
            let start = (offset - block.start()) as usize;
            if let Some(bytes) = buffer.get(start..start + len as usize) {
                output.write_at(bytes, offset).map_err(at_path(&path))?;
            }
        }
        Ok(())
    })
}

/// Writes what stands behind the data.
pub(super) fn end(
    gathered: &Gathered,
    form: Form,
    output: &OutputFile,
    prepared: Prepared,
    totals: Totals,
) -> Result<Written, Error> {
    let failed = at_path(output.path());
    let mut closed = close(gathered, &prepared, totals);
    let tail = closed.tail(form, gathered, &prepared);
    let apparent_bytes = prepared.arrangement.end + tail.len() as u64;
    // Gaps may have made the tail longer than was reserved, and to pass the limit would be a signal that kills.
    if let Some(limit) = size_limit().filter(|limit| apparent_bytes.next_multiple_of(ALIGNMENT) > *limit) {
        return Err(failed(OutputError::SizeLimit { needed: apparent_bytes, limit }));
    }
    write_behind(output, &tail, prepared.arrangement.end).map_err(&failed)?;
    Ok(prepared.written(form, gathered, closed.outcome, apparent_bytes, 0))
}

/// Lays the image out so that it fits where it goes, and makes room for it.
pub(super) fn reserve(
    gathered: &Gathered,
    form: Form,
    output: &OutputFile,
    snapshot: &Snapshot<'_>,
    placing: Placing<'_>,
) -> Result<Prepared, Error> {
    let failed = at_path(output.path());
    let most = snapshot.max_apparent_size.min(size_limit().unwrap_or(u64::MAX));
    let make_room = |prepared: &Prepared| {
        let trailer = prepared.trailer_bound(form, gathered);
        let stored = prepared.arrangement.headers + prepared.plan.data_bytes + trailer;
        output.reserve(prepared.arrangement.end + trailer, stored)
    };
    if let Some(prepared) = prepare(gathered, snapshot, form, None, placing)
        && prepared.arrangement.end.saturating_add(prepared.trailer_bound(form, gathered)) <= most
    {
        match make_room(&prepared) {
            // EFBIG: longer than the file system's longest file.
            Err(OutputError::Io { source, .. }) if source.kind() == ErrorKind::FileTooLarge => {}
            Err(OutputError::SizeLimit { .. }) => {}
            result => return result.map(|()| prepared).map_err(failed),
        }
    }
    let mut prepared = prepare(gathered, snapshot, form, Some(LONG_ZEROS), placing).ok_or_else(too_wide)?;
    make_room(&prepared).map_err(failed)?;
    let (length, most) = (prepared.arrangement.end, snapshot.max_apparent_size);
    prepared.remark = (length > most).then(|| {
        format!(
            "the file looks longer than {most} bytes: without long never-touched stretches it is {length}"
        )
    });
    Ok(prepared)
}

pub(super) fn too_wide() -> Error {
    let source = std::io::Error::other("the offsets do not fit the word size of the process");
    Error::Os { action: "lay out the image".into(), source }
}

pub(super) fn rules(gathered: &Gathered, time_limit: Option<Duration>, workers: usize) -> Rules {
    let held = gathered.hold.is_held();
    Rules { workers, buffers: buffers(gathered), time_limit, held }
}

pub(super) fn last_holder<T>(mut output: Arc<T>) -> Result<T, OutputError> {
    for _ in 0..10_000 {
        match Arc::try_unwrap(output) {
            Ok(output) => return Ok(output),
            Err(shared) => output = shared,
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    let source = std::io::Error::other("a writer did not end");
    Err(OutputError::Io { action: "closing the file", source })
}

pub(super) fn write_behind(output: &OutputFile, bytes: &[u8], offset: u64) -> Result<(), OutputError> {
    let mut buffer = Buffer::new(BLOCK as usize)
        .map_err(|source| OutputError::Io { action: "allocating a buffer", source })?;
    let mut at = offset;
    for piece in bytes.chunks(BLOCK as usize) {
        let aligned = (piece.len() as u64).next_multiple_of(ALIGNMENT) as usize;
        if let Some(place) = buffer.get_mut(..piece.len()) {
            place.copy_from_slice(piece);
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
    form: Form,
    writer: &mut dyn Write,
    snapshot: &mut Snapshot<'_>,
) -> Result<Written, Error> {
    let mut prepared =
        prepare(gathered, snapshot, form, Some(LONG_ZEROS), Placing::Anew).ok_or_else(too_wide)?;
    let copier = copier(gathered, snapshot, std::mem::take(&mut prepared.headers));
    let mut stream = OutputStream::new(writer);
    let guardian = Guardian::watch(&gathered.hold, stream.watch(), snapshot.time_limit)?;
    // One worker, so that blocks come in order; more buffers let it read on while the first is sent.
    let rules = rules(gathered, snapshot.time_limit, 1);
    let finish = Arc::new(|_: &Block, _: &Buffer| Ok(()));
    let mut meter = Meter::new(&mut *snapshot.progress, &prepared.plan);
    let blocks = Blocks::new(&prepared.arrangement, &gathered.pages);
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
    let mut closed = close(gathered, &prepared, totals);
    let tail = closed.tail(form, gathered, &prepared);
    stream.zeros_to(prepared.arrangement.end).map_err(at_path(nameless))?;
    stream.write(&tail).map_err(at_path(nameless))?;
    stream.flush().map_err(at_path(nameless))?;
    let bytes = stream.position();
    Ok(prepared.written(form, gathered, closed.outcome, bytes, bytes))
}

/// Copies all blocks, lets the process go when its memory has been read, and tells how far it is.
pub(super) fn copy(
    gathered: &Gathered,
    blocks: impl Iterator<Item = Block>,
    copier: &Arc<Copier<Bytes>>,
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
    let totals = result.map_err(|failure| failure.into_error(gathered.facts.pid, path))?;
    if gathered.spooled.is_some() {
        // What becomes of the process does not matter any more.
        return Ok(totals);
    }
    // A read by the number of the process might have met another program, if it called exec meanwhile.
    match gathered.process.check() {
        Err(error @ Error::Replaced { .. }) => Err(error),
        _ => Ok(totals),
    }
}

/// Tells the caller how far it is.
pub(super) struct Meter<'a, 'p> {
    progress: &'a mut (dyn FnMut(Progress) + 'p),
    now: Progress,
}

impl<'a, 'p> Meter<'a, 'p> {
    pub fn new(progress: &'a mut (dyn FnMut(Progress) + 'p), plan: &Plan) -> Self {
        Self { progress, now: Progress { done_bytes: 0, total_bytes: plan.data_bytes } }
    }

    pub fn add(&mut self, copied: &Copied) {
        self.now.done_bytes += copied.read_bytes + copied.file_bytes + copied.gaps.bytes();
        (self.progress)(self.now);
    }
}

/// What a capture came to.
pub(super) struct Closed {
    pub outcome: Outcome,
    /// The states of the pages as they were copied.
    pub pages: PageRuns,
    /// The digests of the blocks, by their numbers.
    pub digests: Vec<(u64, [u8; 32])>,
}

impl Closed {
    /// What follows the data.
    fn tail(&mut self, form: Form, gathered: &Gathered, prepared: &Prepared) -> Vec<u8> {
        match form {
            Form::Raw => Vec::new(),
            Form::Core => {
                let trailer = Trailer {
                    outcome: std::mem::take(&mut self.outcome),
                    maps: maps::print(&gathered.map),
                    pages: std::mem::take(&mut self.pages),
                    extents: prepared.extents(gathered),
                    digests: self.digests.iter().map(|(_, digest)| *digest).collect(),
                };
                let bytes = trailer.encode();
                self.outcome = trailer.outcome;
                bytes
            }
        }
    }
}

/// Sums up a capture.
pub(super) fn close(gathered: &Gathered, prepared: &Prepared, mut totals: Totals) -> Closed {
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
    let mut stopped = Duration::ZERO;
    if let Some(stop) = gathered.hold.report() {
        stopped = stop.pause;
        outcome.pause_ns = nanoseconds(stop.pause);
        outcome.stops = 1;
        outcome.rewound_calls = stop.rewound as u64;
        outcome.remarks.extend(remarks::of_stop(&stop));
    }
    if let Some(spooled) = &gathered.spooled {
        let course = &spooled.course;
        for stop in &course.stops {
            outcome.pause_ns = outcome.pause_ns.max(nanoseconds(stop.pause));
            outcome.stops += 1;
        }
        outcome.tracked = Some(course.tracked(stopped));
        // What is so of one stop is mostly so of the other.
        let said = course.remarks().into_iter().filter(|remark| !outcome.remarks.contains(remark));
        let said: Vec<String> = said.collect();
        outcome.remarks.extend(said);
    }
    totals.digests.sort_unstable_by_key(|(index, _)| *index);
    Closed { outcome, pages, digests: totals.digests }
}
