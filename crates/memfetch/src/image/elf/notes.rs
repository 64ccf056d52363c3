//! [`Notes`]: what a core says beside its memory.
//!
//! A note is three 32-bit numbers (the lengths of name and descriptor, and a type), the name with its NUL,
//! and the descriptor, both padded. The kernel writes them as in `fill_note_info` (fs/binfmt_elf.c).

use std::io::{BufReader, Read};

use super::encoding::Encoding;
use super::header::{Header, NoteRange};
use super::status::{self, ProcessFacts};
use crate::address::{Address, Span};
use crate::error::FormatError;
use crate::image::encode::notes::{NT_AUXV, NT_FILE, NT_PRFPREG, NT_PRPSINFO, NT_PRSTATUS, NT_SIGINFO};
use crate::image::note;
use crate::image::record::Origin;
use crate::image::store::{Store, Window};
use crate::threads::{RegisterSet, Registers, SignalInfo, Thread};

/// The layout of NT_X86_XSTATE (Linux 6.12): about the machine, not about a thread.
const NT_X86_XSAVE_LAYOUT: u32 = 0x205;

/// More bytes of notes than any process has: a bound on the memory that a sparse file of nothing can cost.
const MOST_BYTES: u64 = 1 << 30;

/// Owners have names of a few letters.
const LONGEST_NAME: u32 = 4096;

/// The last entry of the auxiliary vector.
const AT_NULL: u64 = 0;

/// What the notes of a core say.
#[derive(Debug, Default)]
pub(in crate::image) struct Notes {
    pub(in crate::image) threads: Vec<Thread>,
    pub(in crate::image) process: Option<ProcessFacts>,
    pub(in crate::image) auxv: Vec<(u64, u64)>,
    /// In the order of their addresses.
    pub(in crate::image) files: Vec<MappedFile>,
    /// What NT_FILE counts offsets in, where that may be the page size.
    pub(in crate::image) file_unit: Option<u64>,
    /// Our own note, or what is wrong with it.
    pub(in crate::image) origin: Option<Result<Origin, FormatError>>,
}

/// A mapping of a file, by NT_FILE.
#[derive(Debug)]
pub(in crate::image) struct MappedFile {
    pub(in crate::image) span: Span,
    /// The offset in the file in bytes.
    pub(in crate::image) offset: u64,
    /// The name as the kernel prints it.
    pub(in crate::image) name: Vec<u8>,
}

impl Notes {
    /// Reads the notes at these ranges; what is cut off or makes no sense is left out.
    pub(in crate::image) fn read(
        store: &Store,
        header: &Header,
        ranges: &[NoteRange],
    ) -> Result<Self, FormatError> {
        let mut notes = Self::default();
        // Ranges that lie over one another could make a small file cost any time.
        let mut budget = store.len().min(MOST_BYTES);
        for range in ranges.iter().filter(|range| range.len > 0) {
            let end = range.offset.saturating_add(range.len).min(store.len());
            let len = end.saturating_sub(range.offset);
            budget = budget
                .checked_sub(len)
                .ok_or_else(|| FormatError::Nonsense("its notes take more room than it has".to_owned()))?;
            let reader = BufReader::with_capacity(64 << 10, Window::new(store, range.offset..end));
            notes.read_range(reader, len, header, range.align)?;
        }
        notes.files.sort_by_key(|file| file.span);
        Ok(notes)
    }

    fn read_range(
        &mut self,
        mut reader: impl Read,
        len: u64,
        header: &Header,
        align: u64,
    ) -> Result<(), FormatError> {
        let mut left = len;
        let mut bytes = Vec::new();
        // Reads so many bytes, or says that they are not all there.
        let mut take = |wanted: u64, bytes: &mut Vec<u8>| {
            bytes.clear();
            let here = wanted.min(left);
            left = left.saturating_sub(here);
            let read = reader.by_ref().take(here).read_to_end(bytes).map_err(FormatError::Io)?;
            Ok::<bool, FormatError>(read as u64 == wanted)
        };
        while take(12, &mut bytes)? {
            let number = |at| header.encoding.u32(&bytes, at).unwrap_or_default();
            let (name_bytes, descriptor_bytes, kind) = (number(0), number(4), number(8));
            if name_bytes > LONGEST_NAME {
                break;
            }
            // The descriptor begins at a multiple of the alignment, counted from the header.
            let name_end = u64::from(name_bytes).saturating_add(12).next_multiple_of(align);
            if !take(name_end.saturating_sub(12), &mut bytes)? {
                break;
            }
            let owner = bytes.split(|&byte| byte == 0).next().unwrap_or_default().to_vec();
            if !take(descriptor_bytes.into(), &mut bytes)? {
                break;
            }
            self.add(&owner, kind, &bytes, header);
            // Behind the last descriptor the padding may be missing.
            let padding =
                u64::from(descriptor_bytes).next_multiple_of(align).saturating_sub(descriptor_bytes.into());
            take(padding, &mut bytes)?;
        }
        Ok(())
    }

    fn add(&mut self, owner: &[u8], kind: u32, descriptor: &[u8], header: &Header) {
        match (owner, kind) {
            (b"CORE", NT_PRSTATUS) => self.threads.extend(status::thread(descriptor, header)),
            (b"CORE", NT_PRPSINFO) => {
                self.process = self.process.take().or_else(|| status::process(descriptor, header.encoding));
            }
            (b"CORE", NT_SIGINFO) => self.add_signal(descriptor, header.encoding),
            (b"CORE", NT_AUXV) if self.auxv.is_empty() => self.auxv = auxv(descriptor, header.encoding),
            (b"CORE", NT_FILE) if self.files.is_empty() => self.add_files(descriptor, header.encoding),
            (b"CORE", NT_PRFPREG) => self.add_registers(kind, descriptor),
            (b"LINUX", NT_X86_XSAVE_LAYOUT) => {}
            (b"LINUX", _) => self.add_registers(kind, descriptor),
            (note::OWNER, note::TYPE_ORIGIN) if self.origin.is_none() => {
                self.origin = Some(note::decode(descriptor));
            }
            _ => {}
        }
    }

    /// A register set belongs to the thread whose NT_PRSTATUS came last.
    fn add_registers(&mut self, note_type: u32, bytes: &[u8]) {
        if let Some(Registers::Complete(sets)) = self.threads.last_mut().map(|thread| &mut thread.registers) {
            sets.push(RegisterSet { note_type, bytes: bytes.to_vec() });
        }
    }

    fn add_signal(&mut self, bytes: &[u8], encoding: Encoding) {
        if let (Some(thread), Some(number)) = (self.threads.last_mut(), encoding.i32(bytes, 0))
            && number > 0
        {
            thread.signal = Some(SignalInfo { number, bytes: bytes.to_vec() });
        }
    }

    /// NT_FILE: a count, the unit of the offsets, then start, end and offset of each mapping, then their
    /// names, each with a NUL. The kernel counts offsets in pages, gdb in bytes.
    fn add_files(&mut self, descriptor: &[u8], encoding: Encoding) {
        let word = encoding.word_bytes();
        let (Some(count), Some(unit)) = (encoding.word(descriptor, 0), encoding.word(descriptor, word))
        else {
            return;
        };
        self.file_unit = Some(unit);
        let table = descriptor.get(2 * word..).unwrap_or_default();
        let Some(table_bytes) = usize::try_from(count)
            .ok()
            .and_then(|count| count.checked_mul(3 * word))
            .filter(|&n| n <= table.len())
        else {
            return;
        };
        let (table, names) = table.split_at(table_bytes);
        let mut names = names.split(|&byte| byte == 0);
        for entry in table.chunks_exact(3 * word) {
            let number = |index: usize| encoding.word(entry, index.saturating_mul(word));
            let (Some(start), Some(end), Some(offset)) = (number(0), number(1), number(2)) else { return };
            let Some(name) = names.next() else { return };
            let span = Span::new(Address::new(start), Address::new(end));
            if let Some(span) = span.filter(|span| !span.is_empty()) {
                self.files.push(MappedFile {
                    span,
                    offset: offset.saturating_mul(unit),
                    name: name.to_vec(),
                });
            }
        }
    }

    /// The value of an entry of the auxiliary vector.
    pub(in crate::image) fn auxiliary(&self, key: u64) -> Option<u64> {
        self.auxv.iter().find(|(found, _)| *found == key).map(|(_, value)| *value)
    }

    /// The mapping of a file that holds `at`, with its index.
    pub(in crate::image) fn file_at(&self, at: Address) -> Option<(usize, &MappedFile)> {
        let index = self.files.partition_point(|file| file.span.start() <= at).checked_sub(1)?;
        self.files.get(index).filter(|file| file.span.contains(at)).map(|file| (index, file))
    }
}

fn auxv(descriptor: &[u8], encoding: Encoding) -> Vec<(u64, u64)> {
    let word = encoding.word_bytes();
    descriptor
        .chunks_exact(2 * word)
        .map_while(|pair| Some((encoding.word(pair, 0)?, encoding.word(pair, word)?)))
        .take_while(|(key, _)| *key != AT_NULL)
        .collect()
}
