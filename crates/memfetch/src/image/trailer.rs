//! [`Trailer`]: the block that ends an image of ours, and by which it is known to be whole.
//!
//! It stands behind the data, at [`Origin::trailer_offset`](crate::image::record::Origin::trailer_offset),
//! under no program header, and the file ends with it.
//!
//! # Layout
//!
//! Numbers are little-endian whatever the machine that the image is of; nothing is aligned.
//!
//! | bytes | what |
//! |---|---|
//! | 16 | `MEMFETCH-TRAILER` |
//! | u32 | version, 1 |
//! | u64 | length of the whole trailer, from the first magic byte to the last |
//! | ... | sections: kind (u32), length (u64), so many bytes; any order, each of kinds 1 to 5 once, unknown kinds are skipped |
//! | 32 | root: BLAKE3 over all bytes of the trailer before it |
//! | 8 | `MF-WHOLE` |
//! | u64 | length of the whole trailer again, so that it is found from the end of the file |
//!
//! | kind | section |
//! |---|---|
//! | 1 | [`Outcome`] as JSON |
//! | 2 | the map, as the text of `/proc/PID/maps` |
//! | 3 | page runs |
//! | 4 | extents |
//! | 5 | digests, 32 bytes each |
//!
//! **Page runs** and **extents** begin with a byte `s`: all their distances and lengths are counted in units
//! of 2^`s` bytes. Then, for each, LEB128 numbers to the end of the section: the distance from the end of the
//! one before (from 0 for the first) and the length, which is not 0. A page run has its state behind that: 0
//! absent, 1 zero, 2 resident, 3 swapped, 4 backed, 5 file-resident, 6 file-clean, 7 guard, or 16 plus a
//! cause: 0 not mapped, 1 vanished, 2 guard, 3 beyond the file, 4 secret, 5 device, 6 not permitted, 7 shared
//! and unknown, 8 file unavailable, 9 not saved, 10 truncated, 11 timed out, 12 ended, 15 another error,
//! whose errno follows as one more number.
//!
//! **Digests**: the file is cut at multiples of [`BLOCK`]; each block that holds at least one byte of an
//! extent has one digest, in ascending order. It is BLAKE3 over, for each part of an extent in the block, the
//! part's offset in the file (u64), its length (u64), and its bytes. What lies in no extent and before the
//! trailer is zero, most of it as a hole.

use crate::address::{Address, Span};
use crate::error::FormatError;
use crate::image::leb128;
use crate::image::record::Outcome;
use crate::image::store::Store;
use crate::memory::{Cause, PageRuns, PageState};

/// The unit of the file that has a digest of its own, in bytes.
pub const BLOCK: u64 = 1 << 20;

const MAGIC: &[u8; 16] = b"MEMFETCH-TRAILER";
const END_MAGIC: &[u8; 8] = b"MF-WHOLE";
const VERSION: u32 = 1;
/// Magic, version, length.
const HEAD: usize = 28;
/// Root digest, end magic, length.
const TAIL: usize = 48;
/// The digests of 32 TiB; more is no trailer that was ever written.
const LONGEST: u64 = 1 << 30;

const OUTCOME: u32 = 1;
const MAPS: u32 = 2;
const PAGES: u32 = 3;
const EXTENTS: u32 = 4;
const DIGESTS: u32 = 5;

/// A range of the file that holds written bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Extent {
    /// Where it begins.
    pub offset: u64,
    /// How many bytes it has.
    pub len: u64,
}

impl Extent {
    /// The offset behind the last byte, saturating.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.offset.saturating_add(self.len)
    }
}

/// What an image of ours ends with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trailer {
    /// What is known only at the end.
    pub outcome: Outcome,
    /// The map, as the text of `/proc/PID/maps`.
    pub maps: Vec<u8>,
    /// The states of the pages when they were copied: what is [`PageState::Absent`] is zero though not in the
    /// file, and what is [`PageState::Unreadable`] is a gap though the file may have filler there.
    pub pages: PageRuns,
    /// What of the file was written, headers and notes included: ascending, none empty, none over another.
    pub extents: Vec<Extent>,
    /// One digest for each [`BLOCK`] that holds at least a byte of an extent.
    pub digests: Vec<[u8; 32]>,
}

impl Trailer {
    /// The bytes of the trailer.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        let length_at = out.len();
        out.extend_from_slice(&[0; 8]);
        let mut section = |kind: u32, bytes: &[u8]| {
            out.extend_from_slice(&kind.to_le_bytes());
            out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            out.extend_from_slice(bytes);
        };
        // Plain fields only: this cannot fail, and an empty section would be refused by `decode`.
        section(OUTCOME, &serde_json::to_vec(&self.outcome).unwrap_or_default());
        section(MAPS, &self.maps);
        section(PAGES, &encode_pages(&self.pages));
        section(EXTENTS, &encode_extents(&self.extents));
        section(DIGESTS, self.digests.as_flattened());
        let length = (out.len() as u64).saturating_add(TAIL as u64).to_le_bytes();
        if let Some(field) = out.get_mut(length_at..HEAD) {
            field.copy_from_slice(&length);
        }
        let root = blake3::hash(&out);
        out.extend_from_slice(root.as_bytes());
        out.extend_from_slice(END_MAGIC);
        out.extend_from_slice(&length);
        out
    }

    /// Reads a trailer, no more and no less.
    ///
    /// # Errors
    ///
    /// [`FormatError::Truncated`] where it is shorter than it says, [`FormatError::Nonsense`] where it is not
    /// one, is of another version, or its root digest is not right.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let promised = Self::length(bytes)?;
        if promised > bytes.len() as u64 {
            return Err(FormatError::Truncated("trailer"));
        }
        let wrong = |what: &str| FormatError::Nonsense(format!("its trailer {what}"));
        let body_end = bytes.len().checked_sub(TAIL).filter(|&end| end >= HEAD);
        let (body, tail) =
            body_end.and_then(|end| bytes.split_at_checked(end)).ok_or_else(|| wrong("is too short"))?;
        let (root, end) = tail.split_at_checked(32).ok_or_else(|| wrong("is too short"))?;
        if promised != bytes.len() as u64 || end != end_mark(promised) {
            return Err(wrong("does not end where it says"));
        }
        if blake3::hash(body) != *root {
            return Err(wrong("is not what was written: its digest differs"));
        }
        let mut rest = body.get(HEAD..).unwrap_or_default();
        let mut sections: [Option<&[u8]>; 6] = [None; 6];
        while !rest.is_empty() {
            let (kind, section) =
                take_section(&mut rest).ok_or_else(|| wrong("has a section that is cut off"))?;
            if let Some(place) = usize::try_from(kind).ok().and_then(|kind| sections.get_mut(kind)) {
                *place = Some(section);
            }
        }
        let section = |kind: u32| {
            let found = usize::try_from(kind).ok().and_then(|kind| sections.get(kind).copied().flatten());
            found.ok_or_else(|| FormatError::Nonsense(format!("its trailer has no section {kind}")))
        };
        let (digests, odd) = section(DIGESTS)?.as_chunks::<32>();
        if !odd.is_empty() {
            return Err(wrong("has part of a digest"));
        }
        Ok(Self {
            outcome: serde_json::from_slice(section(OUTCOME)?).map_err(|error| {
                FormatError::Nonsense(format!("the outcome in its trailer makes no sense: {error}"))
            })?,
            maps: section(MAPS)?.to_vec(),
            pages: decode_pages(section(PAGES)?).ok_or_else(|| wrong("has page runs that make no sense"))?,
            extents: decode_extents(section(EXTENTS)?)
                .ok_or_else(|| wrong("has extents that make no sense"))?,
            digests: digests.to_vec(),
        })
    }

    /// The length of the trailer that begins with these bytes, by its own word.
    ///
    /// # Errors
    ///
    /// As for [`Trailer::decode`], which see.
    pub fn length(head: &[u8]) -> Result<u64, FormatError> {
        let known = head.len().min(MAGIC.len());
        if head.get(..known) != MAGIC.get(..known) {
            return Err(FormatError::Nonsense("there is no trailer where its note says".to_owned()));
        }
        let (Some(version), Some(length)) =
            (array(head, 16).map(u32::from_le_bytes), array(head, 20).map(u64::from_le_bytes))
        else {
            return Err(FormatError::Truncated("trailer"));
        };
        if version != VERSION {
            return Err(FormatError::Nonsense(format!(
                "its trailer is of version {version}, which is not known here"
            )));
        }
        Ok(length)
    }

    /// Reads the trailer at `offset`; what may stand behind it is left alone.
    pub(super) fn read_at(store: &Store, offset: u64) -> Result<Self, FormatError> {
        let mut head = [0; HEAD];
        let read = store.read_at(offset, &mut head).map_err(FormatError::Io)?;
        if read == 0 {
            return Err(FormatError::Truncated("data"));
        }
        let length = Self::length(head.get(..read).unwrap_or_default())?;
        if offset.checked_add(length).is_none_or(|end| end > store.len()) {
            return Err(FormatError::Truncated("trailer"));
        }
        if length > LONGEST {
            return Err(FormatError::Nonsense(format!("its trailer claims {length} bytes")));
        }
        let length = usize::try_from(length).map_err(|_| FormatError::Truncated("trailer"))?;
        Self::decode(&store.exactly(offset, length)?.ok_or(FormatError::Truncated("trailer"))?)
    }

    /// Where the trailer begins that the end of the file tells of, if it does: right or not.
    pub(super) fn offset_by_end(store: &Store) -> Result<Option<u64>, FormatError> {
        let Some(end) = store.len().checked_sub(16) else { return Ok(None) };
        let tail = store.exactly(end, 16)?.unwrap_or_default();
        let length = array(&tail, 8).map(u64::from_le_bytes);
        Ok(length.filter(|_| tail.starts_with(END_MAGIC)).and_then(|length| store.len().checked_sub(length)))
    }
}

/// The digest of one block of the file, fed with the parts of extents in it, in ascending order.
///
/// Writer and verifier both use it: see the [module](self) for what it hashes.
#[derive(Clone, Debug, Default)]
pub struct BlockHasher(blake3::Hasher);

impl BlockHasher {
    /// No part yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one part of an extent, whole: what of the extent lies in the block.
    pub fn part(&mut self, offset: u64, bytes: &[u8]) {
        self.0.update(&offset.to_le_bytes());
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// The digest.
    #[must_use]
    pub fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

/// Extents cut at multiples of [`BLOCK`]: the parts that [`BlockHasher::part`] wants, in order. Parts of one
/// block follow one another.
pub fn parts(extents: &[Extent]) -> impl Iterator<Item = Extent> + '_ {
    extents.iter().flat_map(|extent| {
        let end = extent.end();
        let mut offset = extent.offset;
        std::iter::from_fn(move || {
            let cut = (offset / BLOCK).saturating_add(1).saturating_mul(BLOCK).min(end);
            let part = Extent { offset, len: cut.checked_sub(offset).filter(|&len| len > 0)? };
            offset = cut;
            Some(part)
        })
    })
}

fn end_mark(length: u64) -> [u8; 16] {
    let mut mark = [0; 16];
    let (magic, number) = mark.split_at_mut(8);
    magic.copy_from_slice(END_MAGIC);
    number.copy_from_slice(&length.to_le_bytes());
    mark
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn take_section<'a>(rest: &mut &'a [u8]) -> Option<(u32, &'a [u8])> {
    let kind = array(rest, 0).map(u32::from_le_bytes)?;
    let length = usize::try_from(array(rest, 4).map(u64::from_le_bytes)?).ok()?;
    let (section, behind) = rest.get(12..)?.split_at_checked(length)?;
    *rest = behind;
    Some((kind, section))
}

/// How often all of these numbers can be halved: the unit in which they are written.
fn common_shift(numbers: impl Iterator<Item = u64>) -> u32 {
    match numbers.fold(0, |all, number| all | number) {
        0 => 0,
        bits => bits.trailing_zeros(),
    }
}

fn encode_extents(extents: &[Extent]) -> Vec<u8> {
    let shift = common_shift(extents.iter().flat_map(|extent| [extent.offset, extent.len]));
    // At most 63, since some number is not zero.
    let mut out = vec![shift as u8];
    let mut end = 0;
    for extent in extents {
        leb128::put(&mut out, extent.offset.saturating_sub(end) >> shift);
        leb128::put(&mut out, extent.len >> shift);
        end = extent.end();
    }
    out
}

fn decode_extents(bytes: &[u8]) -> Option<Vec<Extent>> {
    let (shift, mut rest) = take_shift(bytes)?;
    let mut extents = Vec::new();
    let mut end = 0;
    while !rest.is_empty() {
        let (offset, len) = take_range(&mut rest, shift, end)?;
        extents.push(Extent { offset, len });
        end = offset.checked_add(len)?;
    }
    Some(extents)
}

fn encode_pages(pages: &PageRuns) -> Vec<u8> {
    let shift = common_shift(pages.iter().flat_map(|run| [run.span.start().get(), run.span.len()]));
    let mut out = vec![shift as u8];
    let mut end = Address::ZERO;
    for run in pages {
        leb128::put(&mut out, run.span.start().offset_from(end).unwrap_or(0) >> shift);
        leb128::put(&mut out, run.span.len() >> shift);
        put_state(&mut out, run.state);
        end = run.span.end();
    }
    out
}

fn decode_pages(bytes: &[u8]) -> Option<PageRuns> {
    let (shift, mut rest) = take_shift(bytes)?;
    let mut pages = PageRuns::new();
    let mut end = 0;
    while !rest.is_empty() {
        let (start, len) = take_range(&mut rest, shift, end)?;
        let span = Span::from_len(Address::new(start), len)?;
        pages.push(span, take_state(&mut rest)?);
        end = span.end().get();
    }
    Some(pages)
}

fn take_shift(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (&shift, rest) = bytes.split_first()?;
    (shift < 64).then_some((shift.into(), rest))
}

/// A distance from `end` and a length, as start and length in bytes.
fn take_range(rest: &mut &[u8], shift: u32, end: u64) -> Option<(u64, u64)> {
    let mut scaled = || {
        let value = leb128::take(rest)?;
        let bytes = value.checked_shl(shift)?;
        (bytes >> shift == value).then_some(bytes)
    };
    let start = end.checked_add(scaled()?)?;
    let len = scaled()?;
    (len > 0).then_some((start, len))
}

const STATE_CAUSE: u64 = 16;
const CAUSE_OS: u64 = 15;

fn put_state(out: &mut Vec<u8>, state: PageState) {
    let cause = match state {
        PageState::Absent => return leb128::put(out, 0),
        PageState::Zero => return leb128::put(out, 1),
        PageState::Resident => return leb128::put(out, 2),
        PageState::Swapped => return leb128::put(out, 3),
        PageState::Backed => return leb128::put(out, 4),
        PageState::FileResident => return leb128::put(out, 5),
        PageState::FileClean => return leb128::put(out, 6),
        PageState::Guard => return leb128::put(out, 7),
        PageState::Unreadable(cause) => cause,
    };
    let code = match cause {
        Cause::NotMapped => 0,
        Cause::Vanished => 1,
        Cause::Guard => 2,
        Cause::BeyondFile => 3,
        Cause::Secret => 4,
        Cause::Device => 5,
        Cause::NotPermitted => 6,
        Cause::SharedUnknown => 7,
        Cause::FileUnavailable => 8,
        Cause::NotSaved => 9,
        Cause::Truncated => 10,
        Cause::TimedOut => 11,
        Cause::Ended => 12,
        Cause::NotTouched => 13,
        Cause::Os(_) => CAUSE_OS,
    };
    leb128::put(out, STATE_CAUSE | code);
    if let Cause::Os(errno) = cause {
        leb128::put(out, u64::from(errno.cast_unsigned()));
    }
}

fn take_state(rest: &mut &[u8]) -> Option<PageState> {
    let code = leb128::take(rest)?;
    Some(match code {
        0 => PageState::Absent,
        1 => PageState::Zero,
        2 => PageState::Resident,
        3 => PageState::Swapped,
        4 => PageState::Backed,
        5 => PageState::FileResident,
        6 => PageState::FileClean,
        7 => PageState::Guard,
        _ => PageState::Unreadable(match code.checked_sub(STATE_CAUSE)? {
            0 => Cause::NotMapped,
            1 => Cause::Vanished,
            2 => Cause::Guard,
            3 => Cause::BeyondFile,
            4 => Cause::Secret,
            5 => Cause::Device,
            6 => Cause::NotPermitted,
            7 => Cause::SharedUnknown,
            8 => Cause::FileUnavailable,
            9 => Cause::NotSaved,
            10 => Cause::Truncated,
            11 => Cause::TimedOut,
            12 => Cause::Ended,
            13 => Cause::NotTouched,
            CAUSE_OS => Cause::Os(u32::try_from(leb128::take(rest)?).ok()?.cast_signed()),
            _ => return None,
        }),
    })
}
