//! Whether a region directory is whole and unaltered.

use super::super::store::Store;
use super::super::trailer::{BlockHasher, Extent, parts};
use super::super::verify::{Alteration, Part, Verdict, check_zero, push};
use super::files::Member;
use super::index::{Ending, Entry};
use super::{Opened, Shortfall};
use crate::error::FormatError;
use crate::image::trailer::BLOCK;

/// The digest of a region's file, from those of its blocks.
#[must_use]
pub fn digest_of_blocks<'a>(digests: impl Iterator<Item = &'a [u8; 32]>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for digest in digests {
        hasher.update(digest);
    }
    *hasher.finalize().as_bytes()
}

impl Opened {
    /// Compares all files with what the index says. `progress` is told how many bytes are done, of how many.
    pub fn verdict(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Verdict, FormatError> {
        let members = || self.entries.iter().filter(|entry| entry.file.is_some()).zip(self.files.iter());
        let present_bytes =
            members().fold(self.index_bytes, |sum, (_, member)| sum.saturating_add(member.length));
        let short = members().fold(0_u64, |sum, (entry, member)| {
            sum.saturating_add(entry.least_bytes().saturating_sub(member.present))
        });
        match self.shortfall() {
            None => {}
            Some(Shortfall::IndexAltered) => {}
            Some(why) => {
                let expected_bytes = present_bytes.saturating_add(short);
                return Ok(Verdict::Incomplete { why, present_bytes, expected_bytes });
            }
        }
        if self.told.is_none() {
            return Ok(Verdict::Unverifiable { bytes: present_bytes });
        }
        let mut found = Vec::new();
        if self.ending == Ending::Altered {
            push(&mut found, 0, self.index_bytes, Part::Index);
            name(&mut found, 0, self.name);
        }
        let total = members().flat_map(|(entry, _)| &entry.written).map(|span| span.len()).sum();
        let mut done = 0_u64;
        let mut buffer = vec![0; BLOCK as usize];
        progress(0, total);
        for (entry, member) in members() {
            let before = found.len();
            let mut told = |bytes: u64| {
                done = done.saturating_add(bytes);
                progress(done.min(total), total);
            };
            let mut altered = Vec::new();
            self.compare(entry, member, &mut buffer, &mut altered, &mut told)?;
            found.append(&mut altered);
            name(&mut found, before, &member.name);
            for alteration in found.iter_mut().skip(before).filter(|it| it.part != Part::Behind) {
                alteration.memory = vec![entry.region.span];
            }
        }
        Ok(if found.is_empty() {
            Verdict::Whole { bytes: present_bytes }
        } else {
            Verdict::Altered { ranges: found }
        })
    }

    fn compare(
        &self,
        entry: &Entry,
        member: &Member,
        buffer: &mut [u8],
        found: &mut Vec<Alteration>,
        told: &mut dyn FnMut(u64),
    ) -> Result<(), FormatError> {
        let file = self.files.open(&member.name).map_err(FormatError::Io)?;
        let store = Store::of_length(file, member.length);
        let extents = extents(entry);
        let mut digests = Vec::new();
        let mut block = BlockHasher::new();
        let mut in_block = None;
        let mut zero_from = 0;
        for part in parts(&extents) {
            let index = part.offset / BLOCK;
            if in_block.is_some_and(|before| before != index) {
                digests.push(std::mem::take(&mut block).finish());
            }
            in_block = Some(index);
            check_zero(&store, zero_from, part.offset, buffer, found)?;
            zero_from = part.end();
            let wanted = usize::try_from(part.len).unwrap_or(usize::MAX);
            let bytes = buffer.get_mut(..wanted).unwrap_or_default();
            let read = store.read_at(part.offset, bytes).map_err(FormatError::Io)?;
            block.part(part.offset, bytes.get(..read).unwrap_or_default());
            told(part.len);
        }
        if in_block.is_some() {
            digests.push(block.finish());
        }
        check_zero(&store, zero_from, member.present, buffer, found)?;
        let expected = entry.file.as_ref().map(|file| file.digest);
        if expected != Some(digest_of_blocks(digests.iter())) {
            push(found, 0, entry.least_bytes(), Part::Written);
        }
        push_behind(found, member);
        Ok(())
    }
}

fn push_behind(found: &mut Vec<Alteration>, member: &Member) {
    if member.length > member.promised {
        push(found, member.promised, member.length, Part::Behind);
    }
}

/// What of a region's file was written, by the offsets in it.
fn extents(entry: &Entry) -> Vec<Extent> {
    let start = entry.region.span.start();
    let extent = |span: &crate::address::Span| {
        Some(Extent { offset: span.start().offset_from(start)?, len: span.len() })
    };
    entry.written.iter().filter_map(extent).collect()
}

/// Says in which file the alterations from an index on are.
fn name(found: &mut [Alteration], from: usize, name: &str) {
    for alteration in found.iter_mut().skip(from) {
        alteration.of = Some(name.to_owned());
    }
}
