//! Where everything in a core lies: ELF header, program headers, notes, then the memory of the segments.
//!
//! Program headers ascend by address, as the ELF specification wants. The *bytes* of the segments stand in the
//! order of their [`Group`]: what a debugger needs first stands first, so that a file that was cut short still
//! gives threads, registers and backtraces.
//!
//! A segment that is not saved has a program header with `p_filesz` 0: readers take it as "not in the file",
//! never as zeros. Source: elf(5), and for more than 65,534 program headers `PN_XNUM` there.

use crate::address::{Address, Span};
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

/// A segment and the offset of its first byte in the file (0 where it is not saved).
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
    /// Ascending by address.
    segments: Vec<Placed>,
    /// Indices of the saved segments, ascending by offset.
    in_file_order: Vec<u32>,
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
        segments.sort_by_key(|segment| segment.span);
        let headers = (segments.len() as u64).checked_add(1)?;
        let sizes = Sizes::of(platform.word);
        let sections = if headers >= PN_XNUM { sizes.section_header } else { 0 };
        let notes_offset = sizes.file_header + headers.checked_mul(sizes.program_header)? + sections;
        let data_start = align_up(notes_offset.checked_add(notes_len)?, platform.page_size)?;

        let mut in_file_order: Vec<u32> = (0..u32::try_from(segments.len()).ok()?)
            .filter(|&index| segments.get(index as usize).is_some_and(|segment| segment.saved))
            .collect();
        in_file_order.sort_by_key(|&index| {
            segments.get(index as usize).map(|segment| (segment.group, segment.span.start()))
        });
        let mut placed: Vec<Placed> =
            segments.into_iter().map(|segment| Placed { segment, offset: 0 }).collect();
        let mut end = data_start;
        for &index in &in_file_order {
            let placed = placed.get_mut(index as usize)?;
            placed.offset = end;
            end = end.checked_add(placed.segment.span.len())?;
        }
        if platform.word == WordSize::Bits32 && u32::try_from(end).is_err() {
            return None;
        }
        Some(Self {
            platform,
            segments: placed,
            in_file_order,
            notes_offset,
            notes_len,
            data_start,
            data_end: end,
        })
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

    /// The segments by address.
    #[must_use]
    pub fn segments(&self) -> &[Placed] {
        &self.segments
    }

    /// The saved segments in the order in which their bytes stand in the file. Nothing lies between them.
    pub fn in_file_order(&self) -> impl Iterator<Item = &Placed> {
        self.in_file_order.iter().filter_map(|&index| self.segments.get(index as usize))
    }

    /// The offset in the file of the byte at `at`, if it is saved.
    #[must_use]
    pub fn offset_of(&self, at: Address) -> Option<u64> {
        let index = self.segments.partition_point(|placed| placed.segment.span.end() <= at);
        let placed = self.segments.get(index).filter(|placed| placed.segment.saved)?;
        placed.offset.checked_add(at.offset_from(placed.segment.span.start())?)
    }

    /// Everything ahead of the memory: `data_start` bytes. `notes` must be as long as was laid out.
    #[must_use]
    pub fn headers(&self, notes: &[u8]) -> Vec<u8> {
        debug_assert_eq!(notes.len() as u64, self.notes_len);
        let sizes = Sizes::of(self.platform.word);
        let mut out = Encoder::new(self.platform);
        let count = self.segments.len() as u64 + 1;
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
        for placed in &self.segments {
            let segment = placed.segment;
            let permissions = segment.permissions;
            out.program_header(&ProgramHeader {
                kind: 1, // PT_LOAD
                flags: u32::from(permissions.execute)
                    | u32::from(permissions.write) << 1
                    | u32::from(permissions.read) << 2,
                offset: if segment.saved { placed.offset } else { self.data_start },
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

    fn segment(start: u64, len: u64, group: Group, saved: bool) -> Segment {
        Segment {
            span: Span::from_len(Address::new(start), len).unwrap(),
            permissions: Permissions::parse(b"rw-p").unwrap(),
            saved,
            group,
        }
    }

    #[test]
    fn headers_ascend_by_address_and_bytes_by_group() {
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
        assert_eq!(start, 4096);
        let offsets: Vec<_> = layout.segments().iter().map(|placed| placed.offset).collect();
        assert_eq!(offsets, [start + 0x2000, 0, start + 0x1000, start]);
        assert_eq!(layout.offset_of(Address::new(0x2fff)), Some(start + 0x3fff));
        assert_eq!(layout.offset_of(Address::new(0x5000)), None);
        assert_eq!(layout.data_end(), start + 0x4000);
        let headers = layout.headers(&[7; 10]);
        assert_eq!(headers.len() as u64, start);
        assert_eq!(&headers[64 + 5 * 56..][..10], [7; 10]);
        // p_filesz of the second PT_LOAD, which is not saved.
        assert_eq!(&headers[64 + 2 * 56 + 32..][..8], [0; 8]);
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
