//! The ELF header and the program headers of a core.
//!
//! Source: elf(5). The layouts are given as offsets, since they differ between the two word sizes in order as
//! well as in width.

use super::encoding::Encoding;
use super::segment::Segment;
use crate::address::{Address, Span};
use crate::error::FormatError;
use crate::image::store::Store;
use crate::memory::{ByteOrder, WordSize};
use crate::region::Permissions;

/// `e_phnum` where the number does not fit into it: `sh_info` of the first section header has it.
const PN_XNUM: u16 = 0xffff;
/// A segment that is mapped.
const PT_LOAD: u32 = 1;
/// Notes.
const PT_NOTE: u32 = 4;
/// More program headers than any process has mappings (`vm.max_map_count` is 65,530 unless raised): a bound
/// on what a sparse file of nothing can make a reader do.
const MOST_HEADERS: u64 = 1 << 24;

/// What the ELF header says.
#[derive(Clone, Copy, Debug)]
pub(in crate::image) struct Header {
    pub(in crate::image) encoding: Encoding,
    pub(in crate::image) machine: u16,
    table: u64,
    entry_bytes: u64,
    entries: u64,
}

/// Notes of the core, as a range of the file.
#[derive(Clone, Copy, Debug)]
pub(in crate::image) struct NoteRange {
    pub(in crate::image) offset: u64,
    pub(in crate::image) len: u64,
    /// What names and descriptors are padded to.
    pub(in crate::image) align: u64,
}

/// What the program headers say.
#[derive(Debug, Default)]
pub(in crate::image) struct ProgramHeaders {
    /// The mapped segments, as they stand.
    pub(in crate::image) segments: Vec<Segment>,
    /// The notes.
    pub(in crate::image) notes: Vec<NoteRange>,
    /// The end of the last byte that a program header promises.
    pub(in crate::image) file_end: u64,
}

impl Header {
    /// Reads the ELF header, and the first section header where it is needed.
    pub(in crate::image) fn read(store: &Store) -> Result<Self, FormatError> {
        let mut bytes = [0; 64];
        let read = store.read_at(0, &mut bytes).map_err(FormatError::Io)?;
        let bytes = bytes.get(..read).unwrap_or_default();
        if !bytes.starts_with(b"\x7fELF") {
            return Err(FormatError::NotACore);
        }
        let cut = || FormatError::Truncated("ELF header");
        let nonsense = |what: &str, value: u8| FormatError::Nonsense(format!("its {what} is {value}"));
        let word = match bytes.get(4).ok_or_else(cut)? {
            1 => WordSize::Bits32,
            2 => WordSize::Bits64,
            &other => return Err(nonsense("ELF class", other)),
        };
        let order = match bytes.get(5).ok_or_else(cut)? {
            1 => ByteOrder::Little,
            2 => ByteOrder::Big,
            &other => return Err(nonsense("ELF byte order", other)),
        };
        let encoding = Encoding { word, order };
        match encoding.u16(bytes, 16).ok_or_else(cut)? {
            4 => {}
            1 => return Err(FormatError::OtherElf("object file")),
            2 => return Err(FormatError::OtherElf("program")),
            3 => return Err(FormatError::OtherElf("shared library or position-independent program")),
            _ => return Err(FormatError::OtherElf("file of another type")),
        }
        // ELF32 and ELF64 have the same fields in the same order, with addresses of a word each.
        let (table_at, sections_at, counts_at) = if encoding.is_64() { (32, 40, 54) } else { (28, 32, 42) };
        let table = encoding.word(bytes, table_at).ok_or_else(cut)?;
        let sections = encoding.word(bytes, sections_at).ok_or_else(cut)?;
        let entry_bytes = encoding.u16(bytes, counts_at).ok_or_else(cut)?;
        let count = encoding.u16(bytes, counts_at + 2).ok_or_else(cut)?;
        if usize::from(entry_bytes) < entry_size(encoding) {
            return Err(FormatError::Nonsense(format!("its program headers have {entry_bytes} bytes each")));
        }
        let mut header = Self {
            encoding,
            machine: encoding.u16(bytes, 18).ok_or_else(cut)?,
            table,
            entry_bytes: entry_bytes.into(),
            entries: count.into(),
        };
        if count == PN_XNUM {
            header.entries = match header.section_info(store, sections)? {
                Some(entries) => entries,
                None => header.entries_by_layout(store)?,
            };
        }
        Ok(header)
    }

    /// `sh_info` of section 0, or `None` where the file ends before it.
    fn section_info(&self, store: &Store, sections: u64) -> Result<Option<u64>, FormatError> {
        let (at, size) = if self.encoding.is_64() { (44, 64) } else { (28, 40) };
        if sections == 0 {
            return Ok(None);
        }
        let section = store.exactly(sections, size)?;
        Ok(section.and_then(|section| self.encoding.u32(&section, at)).map(u64::from))
    }

    /// How many program headers there are where the section header is cut off, as it is from a shortened core of
    /// the kernel or gdb (it stands last): what comes first in the file begins where the table ends, and that is
    /// the notes or the first mapping.
    fn entries_by_layout(&self, store: &Store) -> Result<u64, FormatError> {
        let cut = || FormatError::Truncated("section header, which counts its program headers");
        let mut begin = u64::MAX;
        for at in [self.table, self.table.saturating_add(self.entry_bytes)] {
            let entry = store.exactly(at, entry_size(self.encoding))?.ok_or_else(cut)?;
            match ProgramHeader::parse(&entry, self.encoding) {
                Some(entry) if matches!(entry.kind, PT_NOTE | PT_LOAD) => begin = begin.min(entry.offset),
                _ => return Err(cut()),
            }
        }
        begin.checked_sub(self.table).and_then(|bytes| bytes.checked_div(self.entry_bytes)).ok_or_else(cut)
    }

    /// Reads the program headers.
    pub(in crate::image) fn program_headers(&self, store: &Store) -> Result<ProgramHeaders, FormatError> {
        if self.entries == 0 {
            return Err(FormatError::Nonsense("it has no program headers".to_owned()));
        }
        if self.entries > MOST_HEADERS {
            return Err(FormatError::Nonsense(format!("it claims {} program headers", self.entries)));
        }
        // At most 2^24 entries of 2^16 bytes.
        let size = self.entries.saturating_mul(self.entry_bytes);
        if self.table.checked_add(size).is_none_or(|end| end > store.len()) {
            return Err(FormatError::Truncated("program headers"));
        }
        let mut found = ProgramHeaders { file_end: self.table.saturating_add(size), ..Default::default() };
        let per_chunk = (64_u64 << 10).checked_div(self.entry_bytes).unwrap_or(1).max(1);
        let mut done = 0;
        while done < self.entries {
            let count = per_chunk.min(self.entries - done);
            let at = self.table.saturating_add(done.saturating_mul(self.entry_bytes));
            let bytes = usize::try_from(count.saturating_mul(self.entry_bytes)).unwrap_or(usize::MAX);
            let chunk = store.exactly(at, bytes)?.ok_or(FormatError::Truncated("program headers"))?;
            for entry in chunk.chunks_exact(usize::try_from(self.entry_bytes).unwrap_or(usize::MAX)) {
                if let Some(entry) = ProgramHeader::parse(entry, self.encoding) {
                    found.add(&entry);
                }
            }
            done += count;
        }
        Ok(found)
    }
}

impl ProgramHeaders {
    fn add(&mut self, header: &ProgramHeader) {
        match header.kind {
            PT_LOAD if header.memory_bytes > 0 => {
                let start = Address::new(header.address);
                let end = start.saturating_add(header.memory_bytes);
                let Some(span) = Span::new(start, end).filter(|span| !span.is_empty()) else { return };
                self.segments.push(Segment {
                    span,
                    offset: header.offset,
                    saved: header.file_bytes.min(span.len()),
                    permissions: header.permissions(),
                });
            }
            PT_NOTE => self.notes.push(NoteRange {
                offset: header.offset,
                len: header.file_bytes,
                align: if header.align == 8 { 8 } else { 4 },
            }),
            _ => return,
        }
        if header.file_bytes > 0 {
            self.file_end = self.file_end.max(header.offset.saturating_add(header.file_bytes));
        }
    }
}

/// The bytes of a program header.
fn entry_size(encoding: Encoding) -> usize {
    if encoding.is_64() { 56 } else { 32 }
}

/// One program header.
struct ProgramHeader {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    file_bytes: u64,
    memory_bytes: u64,
    align: u64,
}

impl ProgramHeader {
    fn parse(bytes: &[u8], encoding: Encoding) -> Option<Self> {
        let word = |at| encoding.word(bytes, at);
        let kind = encoding.u32(bytes, 0)?;
        Some(if encoding.is_64() {
            Self {
                kind,
                flags: encoding.u32(bytes, 4)?,
                offset: word(8)?,
                address: word(16)?,
                file_bytes: word(32)?,
                memory_bytes: word(40)?,
                align: word(48)?,
            }
        } else {
            Self {
                kind,
                flags: encoding.u32(bytes, 24)?,
                offset: word(4)?,
                address: word(8)?,
                file_bytes: word(16)?,
                memory_bytes: word(20)?,
                align: word(28)?,
            }
        })
    }

    fn permissions(&self) -> Permissions {
        Permissions {
            read: self.flags & 4 != 0,
            write: self.flags & 2 != 0,
            execute: self.flags & 1 != 0,
            shared: false,
        }
    }
}
