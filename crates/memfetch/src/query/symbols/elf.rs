//! The parts of an ELF file that lead to its symbols (elf(5)), read piece by piece from the file or from memory.

use std::ops::ControlFlow;
use std::sync::Arc;

use object::Endianness;
use object::elf::{
    DT_GNU_HASH, DT_HASH, DT_NULL, DT_STRSZ, DT_STRTAB, DT_SYMTAB, DT_VERDEF, DT_VERSYM, ELFCLASS32,
    ELFCLASS64, ELFDATA2LSB, ELFDATA2MSB, FileHeader32, FileHeader64, GnuHashHeader, HashHeader,
    NT_GNU_BUILD_ID, PT_DYNAMIC, PT_LOAD, PT_NOTE, SHT_DYNSYM, SHT_GNU_VERDEF, SHT_GNU_VERSYM, SHT_SYMTAB,
};
use object::pod::{Pod, from_bytes, slice_from_all_bytes};
use object::read::elf::{Dyn, FileHeader, ProgramHeader, SectionHeader};

use super::NoSymbols;
use super::table::{Parts, Table};
use crate::address::{Address, Span};
use crate::error::Error;
use crate::query::reader::{Chunk, Reader};
use crate::source::ReadFile;

/// No table of symbols, and none of names, is taken that is larger: what claims to be is nonsense or hostile.
const LARGEST_TABLE: u64 = 128 << 20;
/// The same for lists of headers, notes and versions.
const LARGEST_LIST: u64 = 4 << 20;

/// Anything that an ELF file lies in.
pub(super) trait Bytes {
    /// The bytes from `at` on: `most`, or less where there are not so many.
    fn prefix(&self, at: u64, most: u64) -> Vec<u8>;

    /// All of these bytes; nothing where they are not all there, or more than `limit`.
    fn all(&self, at: u64, len: u64, limit: u64) -> Option<Vec<u8>> {
        (len <= limit).then(|| self.prefix(at, len)).filter(|bytes| bytes.len() as u64 == len)
    }
}

/// The memory of a process: `at` is an address.
pub(super) struct Memory<'a> {
    pub reader: Reader<'a>,
}

impl Bytes for Memory<'_> {
    fn prefix(&self, at: u64, most: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let Some(span) = Span::from_len(Address::new(at), most) else { return bytes };
        // What breaks off is as long as it is.
        let _ = self.reader.read(span, &mut |chunk| -> Result<_, Error> {
            match chunk {
                Chunk::Bytes(_, more) => bytes.extend_from_slice(more),
                Chunk::Zeros(zeros) => {
                    let more = usize::try_from(zeros.len()).unwrap_or_default();
                    bytes.resize(bytes.len().saturating_add(more), 0);
                }
                Chunk::Missing(..) => return Ok(ControlFlow::Break(())),
            }
            Ok(ControlFlow::Continue(()))
        });
        bytes
    }
}

/// A file: `at` is an offset.
pub(super) struct File(pub Arc<dyn ReadFile>);

impl Bytes for File {
    fn prefix(&self, at: u64, most: u64) -> Vec<u8> {
        let there = self.0.size().saturating_sub(at).min(most);
        let mut bytes = vec![0; usize::try_from(there).unwrap_or_default()];
        let mut done = 0;
        while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(at.saturating_add(done as u64), rest) {
                Ok(read) if read > 0 => done = done.saturating_add(read),
                _ => break,
            }
        }
        bytes.truncate(done);
        bytes
    }
}

/// What begins at another place.
pub(super) struct Shifted<'a> {
    pub bytes: &'a dyn Bytes,
    pub base: u64,
}

impl Bytes for Shifted<'_> {
    fn prefix(&self, at: u64, most: u64) -> Vec<u8> {
        self.base.checked_add(at).map(|at| self.bytes.prefix(at, most)).unwrap_or_default()
    }
}

/// How a file writes its numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub wide: bool,
    pub endian: Endianness,
}

impl Shape {
    /// The length of a symbol.
    pub const fn symbol_len(self) -> usize {
        if self.wide { 24 } else { 16 }
    }
}

/// A program header.
#[derive(Clone, Copy, Debug)]
struct Part {
    offset: u64,
    address: u64,
    stored: u64,
    len: u64,
}

/// A section header that matters here.
#[derive(Clone, Copy, Debug)]
struct Section {
    kind: u32,
    offset: u64,
    len: u64,
    link: usize,
}

/// The headers of an ELF file.
#[derive(Clone, Debug)]
pub(super) struct Headers {
    shape: Shape,
    loads: Vec<Part>,
    notes: Vec<Part>,
    dynamic: Option<Part>,
    /// Where the section headers are, and how many.
    sections: (u64, u64),
}

impl Headers {
    /// Reads the header and the program headers, which any mapped file has at its start.
    pub(super) fn read(bytes: &dyn Bytes) -> Result<Self, NoSymbols> {
        let start = bytes.prefix(0, 64);
        let magic = start.get(..6).filter(|start| start.starts_with(b"\x7fELF")).ok_or(NoSymbols::NotElf)?;
        let endian = match magic.get(5).copied() {
            Some(byte) if byte == ELFDATA2LSB.0 => Endianness::Little,
            Some(byte) if byte == ELFDATA2MSB.0 => Endianness::Big,
            _ => return Err(NoSymbols::NotElf),
        };
        match magic.get(4).copied() {
            Some(byte) if byte == ELFCLASS64.0 => {
                Self::of::<FileHeader64<Endianness>>(bytes, &start, Shape { wide: true, endian })
            }
            Some(byte) if byte == ELFCLASS32.0 => {
                Self::of::<FileHeader32<Endianness>>(bytes, &start, Shape { wide: false, endian })
            }
            _ => None,
        }
        .ok_or(NoSymbols::NotElf)
    }

    fn of<E: FileHeader<Endian = Endianness>>(bytes: &dyn Bytes, start: &[u8], shape: Shape) -> Option<Self> {
        let endian = shape.endian;
        let header = from_bytes::<E>(start).ok()?.0;
        let count = u64::from(header.e_phnum(endian));
        let len = count.checked_mul(size_of::<E::ProgramHeader>() as u64)?;
        let list = bytes.all(header.e_phoff(endian).into(), len, LARGEST_LIST)?;
        let mut headers = Self {
            shape,
            loads: Vec::new(),
            notes: Vec::new(),
            dynamic: None,
            sections: (header.e_shoff(endian).into(), header.e_shnum(endian).into()),
        };
        for entry in slice_from_all_bytes::<E::ProgramHeader>(&list).ok()? {
            let part = Part {
                offset: entry.p_offset(endian).into(),
                address: entry.p_vaddr(endian).into(),
                stored: entry.p_filesz(endian).into(),
                len: entry.p_memsz(endian).into(),
            };
            match entry.p_type(endian) {
                PT_LOAD => headers.loads.push(part),
                PT_NOTE => headers.notes.push(part),
                PT_DYNAMIC => headers.dynamic = Some(part),
                _ => {}
            }
        }
        Some(headers)
    }

    /// How far the module lies from where it was linked to, if its byte `offset` lies at `base`.
    pub(super) fn bias(&self, base: u64, offset: u64) -> Option<u64> {
        // Segments are mapped in whole pages, and the first one may begin behind the header.
        const PAGE: u64 = 4096;
        let holds = |part: &&Part| {
            let start = part.offset & !(PAGE - 1);
            (start..part.offset.saturating_add(part.stored.max(1))).contains(&offset)
        };
        let part = self.loads.iter().find(holds)?;
        Some(base.wrapping_sub(part.address.wrapping_sub(part.offset).wrapping_add(offset)))
    }

    /// What is loaded, from the lowest address to the highest.
    pub(super) fn extent(&self, bias: u64) -> Option<Span> {
        let span = |part: &Part| Span::from_len(Address::new(part.address.wrapping_add(bias)), part.len);
        let spans: Vec<_> = self.loads.iter().filter_map(span).collect();
        let start = spans.iter().map(|span| span.start()).min()?;
        Span::new(start, spans.iter().map(|span| span.end()).max()?)
    }

    pub(super) fn build_id_in_memory(&self, memory: &dyn Bytes, bias: u64) -> Option<Vec<u8>> {
        self.build_id(memory, |note| note.address.wrapping_add(bias))
    }

    pub(super) fn build_id_in_file(&self, file: &dyn Bytes) -> Option<Vec<u8>> {
        self.build_id(file, |note| note.offset)
    }

    fn build_id(&self, bytes: &dyn Bytes, place: impl Fn(&Part) -> u64) -> Option<Vec<u8>> {
        const SHORT: u64 = 64 << 10;
        self.notes.iter().find_map(|note| {
            let list = bytes.all(place(note), note.stored, SHORT)?;
            find_build_id(&list, self.shape.endian)
        })
    }

    fn section_list<E: FileHeader<Endian = Endianness>>(&self, file: &dyn Bytes) -> Option<Vec<Section>> {
        let endian = self.shape.endian;
        let (at, count) = self.sections;
        let len = count.checked_mul(size_of::<E::SectionHeader>() as u64)?;
        let list = file.all(at, len, LARGEST_LIST)?;
        let list = slice_from_all_bytes::<E::SectionHeader>(&list).ok()?;
        let section = |entry: &E::SectionHeader| Section {
            kind: entry.sh_type(endian).0,
            offset: entry.sh_offset(endian).into(),
            len: entry.sh_size(endian).into(),
            link: entry.sh_link(endian) as usize,
        };
        Some(list.iter().map(section).collect())
    }
}

/// The build-id among notes: their name is `GNU`, and each part ends at a multiple of 4.
fn find_build_id(notes: &[u8], endian: Endianness) -> Option<Vec<u8>> {
    let number = |at: usize| -> Option<usize> {
        let bytes: [u8; 4] = notes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        let number = match endian {
            Endianness::Little => u32::from_le_bytes(bytes),
            Endianness::Big => u32::from_be_bytes(bytes),
        };
        usize::try_from(number).ok()
    };
    let mut at = 0_usize;
    loop {
        let (name_len, id_len) = (number(at)?, number(at.checked_add(4)?)?);
        let kind = number(at.checked_add(8)?)?;
        let name_at = at.checked_add(12)?;
        let id_at = name_at.checked_add(name_len.checked_next_multiple_of(4)?)?;
        let id_end = id_at.checked_add(id_len)?;
        if kind == NT_GNU_BUILD_ID.0 as usize
            && notes.get(name_at..name_at.checked_add(name_len)?) == Some(b"GNU\0")
        {
            return notes.get(id_at..id_end).filter(|id| !id.is_empty()).map(<[u8]>::to_vec);
        }
        at = id_at.checked_add(id_len.checked_next_multiple_of(4)?)?;
    }
}

/// The symbol tables of a file: that of all symbols, and that of those that other modules see. Where there is none,
/// why.
pub(super) fn tables_of_file(file: &dyn Bytes, headers: &Headers) -> (Vec<Table>, Option<&'static str>) {
    let sections = if headers.shape.wide {
        headers.section_list::<FileHeader64<Endianness>>(file)
    } else {
        headers.section_list::<FileHeader32<Endianness>>(file)
    };
    let Some(sections) = sections else { return (Vec::new(), Some("it has no readable list of sections")) };
    let read = |section: &Section, limit| file.all(section.offset, section.len, limit);
    let of_kind = |kind: u32| sections.iter().find(move |section| section.kind == kind);
    let mut tables = Vec::new();
    let mut why = "it was stripped of them";
    for kind in [SHT_SYMTAB, SHT_DYNSYM] {
        let Some(section) = of_kind(kind.0) else { continue };
        let names = sections.get(section.link);
        let (Some(symbols), Some(strings)) =
            (read(section, LARGEST_TABLE), names.and_then(|names| read(names, LARGEST_TABLE)))
        else {
            why = "its symbol table reaches past its end, or is larger than 128 MiB";
            continue;
        };
        let mut parts = Parts { symbols, strings, ..Parts::default() };
        if kind == SHT_DYNSYM {
            let list = |kind: u32| of_kind(kind).and_then(|section| read(section, LARGEST_LIST));
            parts.versions = list(SHT_GNU_VERSYM.0).unwrap_or_default();
            parts.definitions = list(SHT_GNU_VERDEF.0).unwrap_or_default();
        }
        tables.push(Table::new(headers.shape, parts));
    }
    let missing = tables.is_empty().then_some(why);
    (tables, missing)
}

/// The table of dynamic symbols, as the dynamic linker finds it: by the addresses in the dynamic section.
pub(super) fn table_in_memory(
    memory: &dyn Bytes,
    headers: &Headers,
    bias: u64,
) -> Result<Table, &'static str> {
    let dynamic = headers.dynamic.ok_or("it has no dynamic section")?;
    let list = memory
        .all(dynamic.address.wrapping_add(bias), dynamic.len, LARGEST_LIST)
        .ok_or("the dynamic section cannot be read")?;
    let entries = if headers.shape.wide {
        entries::<FileHeader64<Endianness>>(&list, headers.shape)
    } else {
        entries::<FileHeader32<Endianness>>(&list, headers.shape)
    };
    let entry = |wanted: i64| entries.iter().find(|(tag, _)| *tag == wanted).map(|&(_, value)| value);
    // glibc adds the bias where it can write to the section, and other dynamic linkers never do.
    let extent = headers.extent(bias);
    let place = |value: u64| {
        let is_address = extent.is_some_and(|extent| extent.contains(Address::new(value)));
        if is_address { value } else { value.wrapping_add(bias) }
    };
    let symbols_at = entry(DT_SYMTAB.0).map(place).ok_or("it has no dynamic symbols")?;
    let strings_at = entry(DT_STRTAB.0).map(place).ok_or("it has no dynamic symbols")?;
    let count = match (entry(DT_GNU_HASH.0), entry(DT_HASH.0)) {
        (Some(at), _) => count_by_gnu_hash(memory, place(at), headers.shape),
        (None, Some(at)) => count_by_hash(memory, place(at), headers.shape.endian),
        (None, None) => return Err("nothing tells how many there are"),
    };
    let count = count.ok_or("the table that tells how many there are cannot be read")?;
    let len = u64::from(count) * headers.shape.symbol_len() as u64;
    let symbols = memory.all(symbols_at, len, LARGEST_TABLE).ok_or("they cannot be read")?;
    let strings = memory
        .all(strings_at, entry(DT_STRSZ.0).unwrap_or_default(), LARGEST_TABLE)
        .ok_or("their names cannot be read")?;
    const SHORT: u64 = 64 << 10;
    let versions =
        entry(DT_VERSYM.0).and_then(|at| memory.all(place(at), u64::from(count) * 2, LARGEST_LIST));
    let definitions = entry(DT_VERDEF.0).map(|at| memory.prefix(place(at), SHORT));
    let parts = Parts {
        symbols,
        strings,
        versions: versions.unwrap_or_default(),
        definitions: definitions.unwrap_or_default(),
    };
    Ok(Table::new(headers.shape, parts))
}

/// The tags and values of a dynamic section, up to its end.
fn entries<E: FileHeader<Endian = Endianness>>(list: &[u8], shape: Shape) -> Vec<(i64, u64)> {
    let whole = list.len() - list.len() % size_of::<E::Dyn>();
    let list = list.get(..whole).unwrap_or_default();
    let list = slice_from_all_bytes::<E::Dyn>(list).unwrap_or_default();
    let entries = list.iter().map(|entry| (entry.d_tag(shape.endian).0, entry.d_val(shape.endian).into()));
    entries.take_while(|(tag, _)| *tag != DT_NULL.0).collect()
}

fn count_by_hash(memory: &dyn Bytes, at: u64, endian: Endianness) -> Option<u32> {
    Some(read_one::<HashHeader<Endianness>>(memory, at)?.chain_count.get(endian))
}

/// The table has no count: the last symbol is the end of the last chain.
///
/// Source: <https://flapenguin.me/elf-dt-gnu-hash>, and `do_lookup_x` of glibc's elf/dl-lookup.c.
fn count_by_gnu_hash(memory: &dyn Bytes, at: u64, shape: Shape) -> Option<u32> {
    let number = |bytes: &[u8]| -> Option<u32> {
        let bytes: [u8; 4] = bytes.try_into().ok()?;
        Some(match shape.endian {
            Endianness::Little => u32::from_le_bytes(bytes),
            Endianness::Big => u32::from_be_bytes(bytes),
        })
    };
    let header = read_one::<GnuHashHeader<Endianness>>(memory, at)?;
    let word = if shape.wide { 8 } else { 4 };
    let bloom = u64::from(header.bloom_count.get(shape.endian)) * word;
    let buckets_at = at.checked_add(16)?.checked_add(bloom)?;
    let buckets_len = u64::from(header.bucket_count.get(shape.endian)) * 4;
    let buckets = memory.all(buckets_at, buckets_len, LARGEST_TABLE / 4)?;
    let first = header.symbol_base.get(shape.endian);
    let last = buckets.chunks_exact(4).filter_map(number).max().unwrap_or_default();
    if last < first {
        return Some(first);
    }
    const STEP: u64 = 4096;
    let mut index = last;
    loop {
        let values_at = buckets_at.checked_add(buckets_len)?.checked_add(u64::from(index - first) * 4)?;
        let values = memory.prefix(values_at, STEP);
        let values = values.chunks_exact(4);
        if values.len() == 0 {
            return None;
        }
        for value in values {
            index = index.checked_add(1)?;
            if number(value)? & 1 != 0 {
                return Some(index);
            }
        }
        if u64::from(index) * shape.symbol_len() as u64 > LARGEST_TABLE {
            return None;
        }
    }
}

fn read_one<T: Pod>(bytes: &dyn Bytes, at: u64) -> Option<T> {
    let bytes = bytes.all(at, size_of::<T>() as u64, LARGEST_LIST)?;
    from_bytes::<T>(&bytes).ok().map(|(value, _)| *value)
}
