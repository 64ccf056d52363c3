//! Where everything in a core lies: ELF header, program headers, notes, then the memory of the segments.
//!
//! Program headers ascend by address, as the ELF specification wants. The *bytes* of the segments stand in the
//! order of their [`Group`], and by address within it: what a debugger needs first stands first, so that a file that
//! was cut short still gives threads, registers and backtraces.
//!
//! elfutils reads on into the next program header unless that one's offset lies *above* the end of the last
//! (`do_more` in libdwfl/core-file.c), and loses modules where it lies below. So a header of type `PT_NULL`, which
//! all readers ignore (elf(5)), stands wherever offsets go back: with `p_filesz` below `p_memsz` it ends that search.
//!
//! A segment that is not saved has a program header with `p_filesz` 0 and the offset at which the bytes before it
//! end: readers take it as "not in the file", never as zeros. Source: elf(5), and for more than 65,534 program
//! headers `PN_XNUM` there.

use crate::address::Span;
use crate::memory::{ByteOrder, Platform, WordSize};
use crate::region::Permissions;

/// Which bytes stand ahead of which in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// The stacks of threads.
    Stack,
    /// The vdso, pages with ELF headers, small writable mappings: what unwinding and symbol lookup need.
    Small,
    /// All other memory.
    Bulk,
}

/// A range of memory that gets a program header of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it lies in memory, at page boundaries.
    pub span: Span,
    /// What the process may do with it.
    pub permissions: Permissions,
    /// Whether its bytes are in the file.
    pub saved: bool,
    /// Where in the file its bytes stand.
    pub group: Group,
}

/// A segment and the offset of its first byte in the file, or where that would stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The segment.
    pub segment: Segment,
    /// The offset of its bytes.
    pub offset: u64,
}

/// A laid out core.
#[derive(Clone, Debug)]
pub struct Layout {
    platform: Platform,
    /// By address; none where a `PT_NULL` stands.
    table: Vec<Option<Placed>>,
    /// The saved ones, by group and address, and so by offset.
    saved: Vec<Placed>,
    notes_offset: u64,
    notes_len: u64,
    data_start: u64,
    data_end: u64,
}

/// The most program headers that `e_phnum` can count; from there on `PN_XNUM` stands in it (elf(5)).
const PN_XNUM: u64 = 0xffff;

impl Layout {
    /// Lays out `segments` behind `notes_len` bytes of notes, or `None` where the offsets do not fit the word
    /// size.
    #[must_use]
    pub fn new(platform: Platform, mut segments: Vec<Segment>, notes_len: u64) -> Option<Self> {
        // Offsets from the first byte of memory, since that is only known when the headers are counted.
        segments.sort_by_key(|segment| (segment.group, segment.span));
        let mut saved = Vec::with_capacity(segments.len());
        let mut data_len = 0_u64;
        for &segment in segments.iter().filter(|segment| segment.saved) {
            saved.push(Placed { segment, offset: data_len });
            data_len = data_len.checked_add(segment.span.len())?;
        }
        let mut table = table(&saved, segments.iter().filter(|segment| !segment.saved));
        let notes_offset = notes_offset(platform, &table)?;
        let data_start = align_up(notes_offset.checked_add(notes_len)?, platform.page_size)?;
        let data_end = data_start.checked_add(data_len)?;
        for placed in table.iter_mut().flatten().chain(&mut saved) {
            placed.offset += data_start;
        }
        Self { platform, table, saved, notes_offset, notes_len, data_start, data_end }.checked()
    }

    /// Lays out saved segments that have their places already, all of them between `data_start` and `data_end`, and those
    /// that are not saved; or `None` where headers and notes have no room, or the offsets do not fit the word size.
    #[must_use]
    pub fn pinned(
        platform: Platform,
        mut saved: Vec<Placed>,
        others: &[Segment],
        notes_len: u64,
        (data_start, data_end): (u64, u64),
    ) -> Option<Self> {
        saved.sort_by_key(|placed| placed.offset);
        let table = table(&saved, others.iter());
        let notes_offset = notes_offset(platform, &table)?;
        if notes_offset.checked_add(notes_len)? > data_start {
            return None;
        }
        Self { platform, table, saved, notes_offset, notes_len, data_start, data_end }.checked()
    }

    fn checked(self) -> Option<Self> {
        let fits = self.platform.word == WordSize::Bits64 || u32::try_from(self.data_end).is_ok();
        fits.then_some(self)
    }

    /// The offset of the first byte of memory; headers and notes lie below.
    #[must_use]
    pub const fn data_start(&self) -> u64 {
        self.data_start
    }

    /// The offset behind the last byte of memory: where the trailer goes.
    #[must_use]
    pub const fn data_end(&self) -> u64 {
        self.data_end
    }

    /// How many program headers there are.
    #[must_use]
    pub fn headers_count(&self) -> u64 {
        self.table.len() as u64 + 1
    }

    /// The segments whose bytes are in the file, in the order of the file.
    #[must_use]
    pub fn saved(&self) -> &[Placed] {
        &self.saved
    }

    /// Everything ahead of the memory: `data_start` bytes. `notes` must be as long as was laid out.
    #[must_use]
    pub fn headers(&self, notes: &[u8]) -> Vec<u8> {
        debug_assert_eq!(notes.len() as u64, self.notes_len);
        let sizes = Sizes::of(self.platform.word);
        let mut out = Encoder::new(self.platform);
        out.out.reserve(self.data_start as usize);
        let count = self.table.len() as u64 + 1;
        let extended = count >= PN_XNUM;
        let section_headers = sizes.file_header + count * sizes.program_header;

        let class = match self.platform.word {
            WordSize::Bits32 => 1,
            WordSize::Bits64 => 2,
        };
        let order = match self.platform.byte_order {
            ByteOrder::Little => 1,
            ByteOrder::Big => 2,
        };
        out.bytes(&[0x7f, b'E', b'L', b'F', class, order, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        out.u16(4); // ET_CORE
        out.u16(self.platform.machine);
        out.u32(1); // EV_CURRENT
        out.word(0); // e_entry
        out.word(sizes.file_header); // e_phoff
        out.word(if extended { section_headers } else { 0 }); // e_shoff
        out.u32(0); // e_flags
        out.u16(sizes.file_header as u16);
        out.u16(sizes.program_header as u16);
        out.u16(count.min(PN_XNUM) as u16);
        out.u16(if extended { sizes.section_header as u16 } else { 0 });
        out.u16(u16::from(extended)); // e_shnum
        out.u16(0); // e_shstrndx

        out.program_header(&ProgramHeader {
            kind: 4, // PT_NOTE
            flags: 4,
            offset: self.notes_offset,
            address: 0,
            file_size: self.notes_len,
            memory_size: 0,
            align: 4,
        });
        for placed in &self.table {
            let Some(placed) = placed else {
                out.program_header(&ProgramHeader { memory_size: 1, ..ProgramHeader::default() });
                continue;
            };
            let segment = placed.segment;
            let permissions = segment.permissions;
            out.program_header(&ProgramHeader {
                kind: 1, // PT_LOAD
                flags: u32::from(permissions.execute)
                    | u32::from(permissions.write) << 1
                    | u32::from(permissions.read) << 2,
                offset: placed.offset,
                address: segment.span.start().get(),
                file_size: if segment.saved { segment.span.len() } else { 0 },
                memory_size: segment.span.len(),
                align: self.platform.page_size,
            });
        }
        if extended {
            // The first section header exists to hold the real count in sh_info.
            out.u32(0); // sh_name
            out.u32(0); // SHT_NULL
            out.word(0); // sh_flags
            out.word(0); // sh_addr
            out.word(0); // sh_offset
            out.word(1); // sh_size: the number of section headers
            out.u32(0); // sh_link
            out.u32(count as u32); // sh_info
            out.word(0); // sh_addralign
            out.word(0); // sh_entsize
        }
        out.bytes(notes);
        let mut bytes = out.finish();
        bytes.resize(self.data_start as usize, 0);
        bytes
    }
}

/// The program headers of memory, by address, with a `PT_NULL` wherever offsets go back.
fn table<'a>(saved: &[Placed], others: impl Iterator<Item = &'a Segment>) -> Vec<Option<Placed>> {
    let others = others.map(|&segment| Placed { segment, offset: 0 });
    let mut by_address: Vec<Placed> = saved.iter().copied().chain(others).collect();
    by_address.sort_by_key(|placed| placed.segment.span);
    let mut table: Vec<Option<Placed>> = Vec::with_capacity(by_address.len());
    let mut end = 0;
    for mut placed in by_address {
        if !placed.segment.saved {
            placed.offset = end;
        } else if placed.offset < end {
            table.push(None);
        }
        end = placed.offset + if placed.segment.saved { placed.segment.span.len() } else { 0 };
        table.push(Some(placed));
    }
    table
}

/// Where the notes begin: behind the program headers, and the section header where one is needed.
fn notes_offset(platform: Platform, table: &[Option<Placed>]) -> Option<u64> {
    let headers = (table.len() as u64).checked_add(1)?;
    let sizes = Sizes::of(platform.word);
    let sections = if headers >= PN_XNUM { sizes.section_header } else { 0 };
    Some(sizes.file_header + headers.checked_mul(sizes.program_header)? + sections)
}

/// The sizes of the structures of elf.h.
struct Sizes {
    file_header: u64,
    program_header: u64,
    section_header: u64,
}

impl Sizes {
    const fn of(word: WordSize) -> Self {
        match word {
            WordSize::Bits32 => Self { file_header: 52, program_header: 32, section_header: 40 },
            WordSize::Bits64 => Self { file_header: 64, program_header: 56, section_header: 64 },
        }
    }
}

#[derive(Default)]
struct ProgramHeader {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
    align: u64,
}

fn align_up(value: u64, align: u64) -> Option<u64> {
    Some(value.checked_add(align - 1)? & !(align - 1))
}

/// Puts numbers down in the byte order and word size of a platform.
pub(crate) struct Encoder {
    platform: Platform,
    out: Vec<u8>,
}

impl Encoder {
    pub(crate) const fn new(platform: Platform) -> Self {
        Self { platform, out: Vec::new() }
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.out
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// `text`, cut or padded with zeros to `len` bytes, the last of which is always zero.
    pub(crate) fn text(&mut self, text: &[u8], len: usize) {
        let end = self.out.len() + len;
        self.out.extend(text.iter().take(len.saturating_sub(1)));
        self.out.resize(end, 0);
    }

    pub(crate) fn pad_to(&mut self, len: usize) {
        self.out.resize(len, 0);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        match self.platform.byte_order {
            ByteOrder::Little => self.bytes(&value.to_le_bytes()),
            ByteOrder::Big => self.bytes(&value.to_be_bytes()),
        }
    }

    pub(crate) fn u32(&mut self, value: u32) {
        match self.platform.byte_order {
            ByteOrder::Little => self.bytes(&value.to_le_bytes()),
            ByteOrder::Big => self.bytes(&value.to_be_bytes()),
        }
    }

    /// A number of the platform's word size; what does not fit 32 bits is cut, as C does.
    pub(crate) fn word(&mut self, value: u64) {
        match (self.platform.word, self.platform.byte_order) {
            (WordSize::Bits32, _) => self.u32(value as u32),
            (WordSize::Bits64, ByteOrder::Little) => self.bytes(&value.to_le_bytes()),
            (WordSize::Bits64, ByteOrder::Big) => self.bytes(&value.to_be_bytes()),
        }
    }

    fn program_header(&mut self, header: &ProgramHeader) {
        self.u32(header.kind);
        if self.platform.word == WordSize::Bits64 {
            self.u32(header.flags);
        }
        self.word(header.offset);
        self.word(header.address);
        self.word(0); // p_paddr
        self.word(header.file_size);
        self.word(header.memory_size);
        if self.platform.word == WordSize::Bits32 {
            self.u32(header.flags);
        }
        self.word(header.align);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;

    fn segment(start: u64, len: u64, group: Group, saved: bool) -> Segment {
        Segment {
            span: Span::from_len(Address::new(start), len).unwrap(),
            permissions: Permissions::parse(b"rw-p").unwrap(),
            saved,
            group,
        }
    }

    #[test]
    fn what_debuggers_need_first_stands_first() {
        let layout = Layout::new(
            Platform::X86_64,
            vec![
                segment(0x9000, 0x1000, Group::Stack, true),
                segment(0x1000, 0x2000, Group::Bulk, true),
                segment(0x5000, 0x1000, Group::Bulk, false),
                segment(0x7000, 0x1000, Group::Small, true),
            ],
            10,
        )
        .unwrap();
        let start = layout.data_start();
        let saved: Vec<_> =
            layout.saved().iter().map(|placed| (placed.segment.span.start().get(), placed.offset)).collect();
        assert_eq!(saved, [(0x9000, start), (0x7000, start + 0x1000), (0x1000, start + 0x2000)]);
        assert_eq!(layout.data_end(), start + 0x4000);
        let headers = layout.headers(&[7; 10]);
        assert_eq!(headers.len() as u64, start);
        // A note, bulk, bulk not saved, small ahead of which offsets go back, stack ahead of which they do.
        assert_eq!(u16::from_le_bytes([headers[56], headers[57]]), 7);
        let field = |header: usize, at: usize| {
            u64::from_le_bytes(headers[64 + header * 56 + at..][..8].try_into().unwrap())
        };
        let kinds: Vec<_> = (0..7).map(|header| field(header, 0) & 0xffff_ffff).collect();
        assert_eq!(kinds, [4, 1, 1, 0, 1, 0, 1]);
        assert_eq!(&headers[64 + 7 * 56..][..10], [7; 10]);
        // What is not saved has p_filesz 0 and begins where the bytes before it end.
        assert_eq!((field(2, 32), field(2, 8)), (0, start + 0x4000));
        assert!(field(3, 32) < field(3, 40), "elfutils stops here");
    }

    #[test]
    fn more_segments_than_e_phnum_can_count() {
        let many = (0..70_000).map(|n| segment(0x1000 * (2 * n + 1), 0x1000, Group::Bulk, false)).collect();
        let layout = Layout::new(Platform::X86_64, many, 0).unwrap();
        let headers = layout.headers(&[]);
        assert_eq!(u16::from_le_bytes([headers[56], headers[57]]), 0xffff);
        let section = u64::from_le_bytes(headers[40..48].try_into().unwrap()) as usize;
        assert_eq!(section, 64 + 70_001 * 56);
        assert_eq!(u32::from_le_bytes(headers[section + 44..][..4].try_into().unwrap()), 70_001);
    }

    #[test]
    fn a_32_bit_core_ends_below_4_gib() {
        let big = segment(0x1000, 0xf000_0000, Group::Bulk, true);
        assert!(Layout::new(Platform::I386, vec![big], 0).is_some());
        let bigger = segment(0xf100_1000, 0x0f00_0000, Group::Bulk, true);
        assert!(Layout::new(Platform::I386, vec![big, bigger], 0x100_0000).is_none());
    }
}
