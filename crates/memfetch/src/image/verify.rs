//! [`verify()`]: whether an image is whole and unaltered.
//!
//! An image of ours has digests over all that was written, and what was not written must be zero; so a change
//! of any byte is found, and told by its place in the file and in memory. A core of anyone else has no
//! digest, and all that can be told is whether its file is as long as its headers promise.

use std::fs::File;
use std::path::Path;

use serde::Serialize;

use super::store::Store;
use super::trailer::{BLOCK, BlockHasher, Extent, Trailer, parts};
use super::{Completeness, Image, Shortfall, directory};
use crate::address::Span;
use crate::error::{Error, FormatError};

/// What [`verify()`] found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub enum Verdict {
    /// Of ours, complete, and every byte is what was written.
    Whole {
        /// The length of the file.
        bytes: u64,
    },
    /// Of ours, and not what was written.
    Altered {
        /// What differs, ascending, to the grain of a digest.
        ranges: Vec<Alteration>,
    },
    /// Cut short.
    Incomplete {
        /// What is missing.
        why: Shortfall,
        /// The length of the file.
        present_bytes: u64,
        /// The length that it should have, or the least that it should have where the rest is not known.
        expected_bytes: u64,
    },
    /// Not of ours: no digest, so nothing to compare with. The file is as long as its headers promise.
    Unverifiable {
        /// The length of the file.
        bytes: u64,
    },
}

/// A range of an image that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Alteration {
    /// Which file of a region directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// Where in the file.
    pub file: Extent,
    /// What lies there.
    pub part: Part,
    /// The memory that lies there.
    pub memory: Vec<Span>,
}

/// A part of an image's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Headers, notes and saved memory: the digest differs.
    Written,
    /// What was never written, and is not zero.
    Unwritten,
    /// The trailer.
    Trailer,
    /// Bytes behind the trailer, or behind the end of a region.
    Behind,
    /// The index of a region directory.
    Index,
}

/// Checks a file, in bounded memory. `progress` is told how many bytes are done, of how many.
///
/// # Errors
///
/// [`Error::Os`] where the file cannot be opened, [`Error::Format`] where it cannot be read, or is no ELF
/// core and has no trailer either.
pub fn verify(path: impl AsRef<Path>, progress: &mut dyn FnMut(u64, u64)) -> Result<Verdict, Error> {
    let path = path.as_ref();
    if let Some(index) = directory::index_of(path) {
        let opened = directory::Opened::open(&index)?;
        return opened.verdict(progress).map_err(|source| Error::Format { path: path.to_owned(), source });
    }
    if path.is_dir() {
        return Err(Error::Format { path: path.to_owned(), source: FormatError::NoIndex });
    }
    let store = Store::open(path)?;
    verdict(store, progress).map_err(|source| Error::Format { path: path.to_owned(), source })
}

/// As [`verify()`], for a regular file that is open, and may have no name yet.
///
/// # Errors
///
/// As for the contents of a file.
pub fn verify_file(file: File, progress: &mut dyn FnMut(u64, u64)) -> Result<Verdict, FormatError> {
    verdict(Store::of_file(file)?, progress)
}

/// As [`verify()`], for bytes that are in memory.
///
/// # Errors
///
/// As for the contents of a file.
pub fn verify_bytes(bytes: Vec<u8>, progress: &mut dyn FnMut(u64, u64)) -> Result<Verdict, FormatError> {
    verdict(Store::Memory(bytes), progress)
}

fn verdict(store: Store, progress: &mut dyn FnMut(u64, u64)) -> Result<Verdict, FormatError> {
    // The end of the file first: where a header is altered, only the digests can say so.
    if let Some(offset) = Trailer::offset_by_end(&store)?
        && let Ok(trailer) = Trailer::read_at(&store, offset)
    {
        let mut found = compare(&store, &trailer, offset, progress)?;
        let bytes = store.len();
        let image = Image::from_store(store);
        return Ok(match image {
            Ok(image) if found.is_empty() && *image.completeness() == Completeness::Complete => {
                Verdict::Whole { bytes }
            }
            Ok(image) if found.is_empty() => {
                let why = match image.completeness() {
                    Completeness::Incomplete(why) => why.clone(),
                    _ => Shortfall::NoteDamaged("it has a trailer, and no note that tells of it".to_owned()),
                };
                Verdict::Incomplete { why, present_bytes: bytes, expected_bytes: bytes }
            }
            Err(error) if found.is_empty() => return Err(error),
            image => {
                locate(&mut found, image.as_ref().map_or(&[], |image| image.parts.segments.as_slice()));
                Verdict::Altered { ranges: found }
            }
        });
    }
    let image = Image::from_store(store)?;
    let present_bytes = image.parts.store.len();
    let Some(offset) = image.origin().map(|origin| origin.trailer_offset) else {
        return Ok(match image.completeness() {
            Completeness::Incomplete(why) => Verdict::Incomplete {
                why: why.clone(),
                present_bytes,
                expected_bytes: image.parts.file_end.max(present_bytes),
            },
            _ if image.parts.file_end > present_bytes => Verdict::Incomplete {
                why: Shortfall::Data,
                present_bytes,
                expected_bytes: image.parts.file_end,
            },
            _ => Verdict::Unverifiable { bytes: present_bytes },
        });
    };
    match Trailer::read_at(&image.parts.store, offset) {
        // Whole, and something stands behind it.
        Ok(trailer) => {
            let mut found = compare(&image.parts.store, &trailer, offset, progress)?;
            locate(&mut found, &image.parts.segments);
            let end = promised_end(&image.parts.store, offset).unwrap_or(present_bytes);
            push(&mut found, end, present_bytes, Part::Behind);
            Ok(Verdict::Altered { ranges: found })
        }
        Err(FormatError::Io(error)) => Err(FormatError::Io(error)),
        Err(error) => Ok(without_trailer(&image, offset, error)),
    }
}

/// What to say where the note is right and the trailer is not.
fn without_trailer(image: &Image, offset: u64, error: FormatError) -> Verdict {
    let present_bytes = image.parts.store.len();
    let promised_end = promised_end(&image.parts.store, offset);
    let all_there = promised_end == Some(present_bytes)
        || matches!(Trailer::offset_by_end(&image.parts.store), Ok(Some(found)) if found == offset);
    if all_there {
        let mut ranges = Vec::new();
        push(&mut ranges, offset, present_bytes, Part::Trailer);
        return Verdict::Altered { ranges };
    }
    let why = match error {
        FormatError::Truncated("data") => Shortfall::Data,
        FormatError::Truncated(_) => Shortfall::Trailer,
        other => Shortfall::TrailerDamaged(other.to_string()),
    };
    let expected_bytes = promised_end.unwrap_or(offset).max(present_bytes.min(offset));
    Verdict::Incomplete { why, present_bytes, expected_bytes }
}

/// Where the trailer at `offset` ends, by its own word.
fn promised_end(store: &Store, offset: u64) -> Option<u64> {
    let mut head = [0; 28];
    let read = store.read_at(offset, &mut head).ok()?;
    offset.checked_add(Trailer::length(head.get(..read)?).ok()?)
}

/// Compares everything before the trailer with what the trailer says.
fn compare(
    store: &Store,
    trailer: &Trailer,
    trailer_offset: u64,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Alteration>, FormatError> {
    if trailer.extents.last().is_some_and(|last| last.end() > trailer_offset) {
        return Err(FormatError::Nonsense("its trailer tells of data behind its data".to_owned()));
    }
    let total = trailer.extents.iter().fold(0, |sum: u64, extent| sum.saturating_add(extent.len));
    let mut found = Vec::new();
    let mut done = 0_u64;
    let mut unwritten_from = 0;
    let mut buffer = vec![0; 1 << 20];
    let mut digests = trailer.digests.iter();
    let mut parts = parts(&trailer.extents).peekable();
    progress(0, total);
    while let Some(&first) = parts.peek() {
        let block = first.offset / BLOCK;
        let mut hasher = BlockHasher::new();
        let mut last = first;
        while let Some(part) = parts.next_if(|part| part.offset / BLOCK == block) {
            check_zero(store, unwritten_from, part.offset, &mut buffer, &mut found)?;
            unwritten_from = part.end();
            let wanted = usize::try_from(part.len).unwrap_or(usize::MAX);
            let bytes = buffer.get_mut(..wanted).unwrap_or_default();
            let read = store.read_at(part.offset, bytes).map_err(FormatError::Io)?;
            hasher.part(part.offset, bytes.get(..read).unwrap_or_default());
            done = done.saturating_add(part.len);
            last = part;
        }
        if digests.next() != Some(&hasher.finish()) {
            push(&mut found, first.offset, last.end(), Part::Written);
        }
        progress(done, total);
    }
    if digests.next().is_some() {
        return Err(FormatError::Nonsense("its trailer has more digests than data".to_owned()));
    }
    check_zero(store, unwritten_from, trailer_offset, &mut buffer, &mut found)?;
    found.sort_by_key(|alteration| alteration.file);
    Ok(found)
}

/// Checks that nothing but zeros lies in `start..end`; holes are not read.
pub(super) fn check_zero(
    store: &Store,
    start: u64,
    end: u64,
    buffer: &mut [u8],
    found: &mut Vec<Alteration>,
) -> Result<(), FormatError> {
    let mut at = start;
    while let Some(mut data) = store.next_data(at..end) {
        at = data.end;
        while !data.is_empty() {
            let wanted =
                usize::try_from(data.end.saturating_sub(data.start)).unwrap_or(usize::MAX).min(buffer.len());
            let bytes = buffer.get_mut(..wanted).unwrap_or_default();
            let read = store.read_at(data.start, bytes).map_err(FormatError::Io)?;
            let bytes = bytes.get(..read).unwrap_or_default();
            let set = |byte: &u8| *byte != 0;
            if let (Some(first), Some(last)) = (bytes.iter().position(set), bytes.iter().rposition(set)) {
                let last = (last as u64).saturating_add(1);
                push(
                    found,
                    data.start.saturating_add(first as u64),
                    data.start.saturating_add(last),
                    Part::Unwritten,
                );
            }
            if read == 0 {
                break;
            }
            data.start = data.start.saturating_add(read as u64);
        }
    }
    Ok(())
}

/// Adds an altered range, joined to the last one where it goes on.
pub(super) fn push(found: &mut Vec<Alteration>, start: u64, end: u64, part: Part) {
    if let Some(last) = found.last_mut()
        && last.part == part
        && last.file.end() == start
    {
        last.file.len = end.saturating_sub(last.file.offset);
        return;
    }
    let file = Extent { offset: start, len: end.saturating_sub(start) };
    found.push(Alteration { of: None, file, part, memory: Vec::new() });
}

/// Says which memory lies at the altered ranges.
fn locate(found: &mut [Alteration], segments: &[super::Segment]) {
    let mut by_offset: Vec<_> = segments.iter().filter(|segment| segment.saved > 0).collect();
    by_offset.sort_by_key(|segment| segment.offset);
    for alteration in found {
        let file = alteration.file;
        // A core's segments do not share bytes of the file; one of nonsense is told in part.
        let first =
            by_offset.partition_point(|segment| segment.offset.saturating_add(segment.saved) <= file.offset);
        let here = by_offset.iter().skip(first).take_while(|segment| segment.offset < file.end());
        alteration.memory = here
            .filter_map(|segment| {
                let from = file.offset.saturating_sub(segment.offset);
                let to = file.end().saturating_sub(segment.offset).min(segment.saved);
                let start = segment.span.start();
                Span::new(start.checked_add(from)?, start.checked_add(to)?)
            })
            .collect();
    }
}
