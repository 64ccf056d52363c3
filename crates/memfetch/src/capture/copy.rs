//! Copying one block: read its parts, note what could not be read, digest what goes into the file.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use memfetch_sys::buffer::Buffer;

use super::blocks::{Block, Part, Source};
use crate::error::Error;
use crate::image::trailer::BlockHasher;
use crate::memory::{Gaps, PageRuns, PageState, Touch};
use crate::region::RegionMap;
use crate::source::{Heartbeat, PageSource, RunReader, is_touched};

/// What copying a block came to.
#[derive(Debug, Default)]
pub(crate) struct Copied {
    /// The number of the block.
    pub index: u64,
    /// What the file's block of that number is digested to.
    pub digest: [u8; 32],
    /// Bytes read from the process.
    pub read_bytes: u64,
    /// Bytes read from files behind it.
    pub file_bytes: u64,
    /// What could not be read.
    pub gaps: Gaps,
}

/// Everything that the workers of one capture share.
pub(crate) struct Copier<S> {
    pub source: S,
    pub map: Arc<RegionMap>,
    pub headers: Vec<u8>,
    pub touch: Touch,
    pub page_size: u64,
    /// Set when the capture is given up: workers stop at the next page.
    pub cancelled: AtomicBool,
}

impl<S: PageSource> Copier<S> {
    /// Reads a block into `buffer`, which stands for the block as a whole: byte `n` is the file's byte
    /// `block.start() + n`. What lies between the parts is left as it is.
    pub(crate) fn read(&self, block: &Block, buffer: &mut Buffer, beat: &Heartbeat) -> Result<Copied, Error> {
        let mut copied = Copied { index: block.index, ..Copied::default() };
        for part in &block.parts {
            let start = (part.offset - block.start()) as usize;
            let Some(bytes) = buffer.get_mut(start..start + part.len as usize) else { continue };
            match part.from {
                Source::Headers => {
                    let start = part.offset as usize;
                    if let Some(headers) = self.headers.get(start..start + bytes.len()) {
                        bytes.copy_from_slice(headers);
                    }
                }
                Source::Memory { at, state } => {
                    let reader = RunReader {
                        source: &self.source,
                        map: &self.map,
                        touch: self.touch,
                        page_size: self.page_size,
                        cancelled: &self.cancelled,
                        beat,
                    };
                    let read =
                        reader.read(at, state, bytes, &mut |span, cause| copied.gaps.push(span, cause))?;
                    copied.read_bytes += read.mapped_bytes;
                    copied.file_bytes += read.behind_bytes;
                }
            }
        }
        beat.rest();
        Ok(copied)
    }

    /// The digest of a block that was read, by the offsets in its own file.
    pub(crate) fn digest(block: &Block, buffer: &Buffer) -> [u8; 32] {
        let mut hasher = BlockHasher::new();
        for (offset, len) in extents(&block.parts) {
            let start = (offset - block.start()) as usize;
            if let Some(bytes) = buffer.get(start..start + len as usize) {
                hasher.part(offset - block.file_start, bytes);
            }
        }
        hasher.finish()
    }
}

/// The page states that an image tells: what was touched has become resident, and what could not be read is a gap.
/// `gaps` are in order.
pub(crate) fn as_copied(pages: &PageRuns, gaps: &Gaps, touch: Touch) -> PageRuns {
    let mut told = PageRuns::new();
    let mut gaps = gaps.iter().peekable();
    for run in pages {
        let state = if is_touched(run.state, touch) { PageState::Resident } else { run.state };
        let mut rest = run.span;
        while let Some(gap) = gaps.peek() {
            if let Some(missing) = gap.span.intersection(rest) {
                let (before, from) = rest.split_at(missing.start());
                told.push(before, state);
                told.push(missing, PageState::Unreadable(gap.cause));
                rest = from.split_at(missing.end()).1;
            }
            if gap.span.end() > run.span.end() {
                break;
            }
            gaps.next();
        }
        told.push(rest, state);
    }
    told
}

/// The ranges of the file that the parts of a block cover, neighbours joined.
pub(crate) fn extents(parts: &[Part]) -> Vec<(u64, u64)> {
    let mut extents: Vec<(u64, u64)> = Vec::new();
    for part in parts {
        match extents.last_mut() {
            Some((offset, len)) if *offset + *len == part.offset => *len += part.len,
            _ => extents.push((part.offset, part.len)),
        }
    }
    extents
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{Address, Span};
    use crate::memory::Cause;

    fn span(start: u64, end: u64) -> Span {
        Span::new(Address::new(start), Address::new(end)).unwrap()
    }

    #[test]
    fn what_could_not_be_read_is_told_as_such_and_what_was_touched_too() {
        let unknown = PageState::Unreadable(Cause::SharedUnknown);
        let mut pages = PageRuns::new();
        pages.push(span(10, 20), PageState::Resident);
        pages.push(span(20, 30), unknown);
        pages.push(span(40, 50), PageState::Absent);
        let mut gaps = Gaps::new();
        for (start, end) in [(5, 12), (18, 22), (23, 24), (28, 42)] {
            gaps.push(span(start, end), Cause::Vanished);
        }
        let gap = PageState::Unreadable(Cause::Vanished);
        let told = |touch| {
            let told = as_copied(&pages, &gaps, touch);
            told.iter()
                .map(|run| (run.span.start().get(), run.span.end().get(), run.state))
                .collect::<Vec<_>>()
        };
        let expected = |shared| {
            vec![
                (10, 12, gap),
                (12, 18, PageState::Resident),
                (18, 22, gap),
                (22, 23, shared),
                (23, 24, gap),
                (24, 28, shared),
                (28, 30, gap),
                (40, 42, gap),
                (42, 50, PageState::Absent),
            ]
        };
        assert_eq!(told(Touch::All), expected(PageState::Resident));
        assert_eq!(told(Touch::Stored), expected(unknown));
        assert_eq!(as_copied(&pages, &Gaps::new(), Touch::Stored), pages);
    }
}
