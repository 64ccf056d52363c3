//! [`Blocks`]: the bytes of an output, cut into blocks, in the order of the output.
//!
//! A block is what one worker reads, digests and writes in one go. Blocks are cut by *output* offset, so that the
//! same blocks are digested whatever order they were written in. Known zeros are in no block: nothing is read and
//! nothing is written for them.

use super::arrangement::Arrangement;
use crate::address::{Address, Span};
use crate::image::trailer::BLOCK;
use crate::memory::{PageRun, PageRuns, PageState};

/// A piece of a block that lies together in the output and in memory, of one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its offset in the output.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
    /// What it holds.
    pub from: Source,
}

/// Where a part's bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The headers and notes, which are in memory already, at the same offset.
    Headers,
    /// The memory of the process.
    Memory {
        /// The address of the first byte.
        at: Address,
        /// What the pages are.
        state: PageState,
    },
}

/// One block of the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its number: it begins at `index * BLOCK` of the output.
    pub index: u64,
    /// Which file of the output it is in.
    pub file: usize,
    /// Where in the output that file begins.
    pub file_start: u64,
    /// Its pieces, ascending.
    pub parts: Vec<Part>,
}

impl Block {
    /// The offset of its first byte in the output.
    #[must_use]
    pub const fn start(&self) -> u64 {
        self.index * BLOCK
    }

    /// Whether a page of it is in swap.
    #[must_use]
    pub fn is_swapped(&self) -> bool {
        self.parts.iter().any(|part| matches!(part.from, Source::Memory { state: PageState::Swapped, .. }))
    }
}

/// The blocks of an output, made one after the other.
pub struct Blocks<'a> {
    arrangement: &'a Arrangement,
    parts: Box<dyn Iterator<Item = Part> + Send + 'a>,
    /// The part that belongs to the next block.
    next: Option<Part>,
}

impl<'a> Blocks<'a> {
    /// The blocks of an arrangement over memory whose pages are in these states.
    #[must_use]
    pub fn new(arrangement: &'a Arrangement, pages: &'a PageRuns) -> Self {
        let headers = Part { offset: 0, len: arrangement.headers, from: Source::Headers };
        let headers = Some(headers).filter(|part| part.len > 0);
        let memory = arrangement.saved.iter().flat_map(move |stretch| {
            let (span, offset) = (stretch.span, stretch.offset);
            pages.within(span).filter_map(move |run| part_of(run, span, offset))
        });
        let mut parts: Box<dyn Iterator<Item = Part> + Send> =
            Box::new(headers.into_iter().chain(memory).flat_map(cut));
        let next = parts.next();
        Self { arrangement, parts, next }
    }
}

fn part_of(run: PageRun, segment: Span, offset: u64) -> Option<Part> {
    if run.state.is_known_zero() {
        return None;
    }
    let offset = offset.checked_add(run.span.start().offset_from(segment.start())?)?;
    Some(Part {
        offset,
        len: run.span.len(),
        from: Source::Memory { at: run.span.start(), state: run.state },
    })
}

/// Cuts a part where a block ends.
fn cut(part: Part) -> impl Iterator<Item = Part> {
    let mut rest = Some(part);
    std::iter::from_fn(move || {
        let part = rest.take()?;
        let room = BLOCK - part.offset % BLOCK;
        if part.len <= room {
            return Some(part);
        }
        let from = match part.from {
            Source::Headers => Source::Headers,
            Source::Memory { at, state } => Source::Memory { at: at.saturating_add(room), state },
        };
        rest = Some(Part { offset: part.offset + room, len: part.len - room, from });
        Some(Part { len: room, ..part })
    })
}

impl Iterator for Blocks<'_> {
    type Item = Block;

    fn next(&mut self) -> Option<Block> {
        let first = self.next.take()?;
        let index = first.offset / BLOCK;
        let mut parts = vec![first];
        for part in self.parts.by_ref() {
            if part.offset / BLOCK != index {
                self.next = Some(part);
                break;
            }
            parts.push(part);
        }
        let (file, file_start) = self.arrangement.file_at(index * BLOCK);
        Some(Block { index, file, file_start, parts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::encode::{Group, Layout, Segment};
    use crate::memory::Platform;
    use crate::region::Permissions;

    fn span(start: u64, len: u64) -> Span {
        Span::from_len(Address::new(start), len).unwrap()
    }

    #[test]
    fn blocks_are_cut_by_the_file_and_leave_zeros_out() {
        let segment = |start, len| Segment {
            span: span(start, len),
            permissions: Permissions::default(),
            saved: true,
            group: Group::Bulk,
        };
        let layout =
            Layout::new(Platform::X86_64, vec![segment(0x10_0000, 3 << 20), segment(0x90_0000, 0x1000)], 100)
                .unwrap();
        let mut pages = PageRuns::new();
        pages.push(span(0x10_0000, 1 << 20), PageState::Resident);
        pages.push(span(0x20_0000, 1 << 20), PageState::Absent);
        pages.push(span(0x30_0000, 1 << 20), PageState::Swapped);
        pages.push(span(0x90_0000, 0x1000), PageState::Resident);
        let arrangement = Arrangement::of_core(&layout);
        let blocks: Vec<_> = Blocks::new(&arrangement, &pages).collect();
        assert_eq!(blocks.iter().map(|block| block.index).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(blocks.iter().map(Block::is_swapped).collect::<Vec<_>>(), [false, false, true, true]);
        let read: u64 = blocks.iter().flat_map(|block| &block.parts).map(|part| part.len).sum();
        assert_eq!(read, layout.data_start() + (2 << 20) + 0x1000);
        for block in &blocks {
            let mut end = block.start();
            for part in &block.parts {
                assert!(part.offset >= end && part.offset + part.len <= block.start() + BLOCK);
                end = part.offset + part.len;
                if let Source::Memory { at, .. } = part.from {
                    let holder =
                        layout.saved().iter().find(|placed| placed.segment.span.contains(at)).unwrap();
                    let into = at.offset_from(holder.segment.span.start()).unwrap();
                    assert_eq!(holder.offset + into, part.offset);
                }
            }
        }
    }
}
