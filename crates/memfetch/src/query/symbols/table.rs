//! [`Table`]: a symbol table, its names, and its versions.

use std::cell::OnceCell;

use object::Endianness;
use object::elf::{STB_LOCAL, STT_FILE, STT_GNU_IFUNC, STT_SECTION, STT_TLS, Sym32, Sym64, Verdaux, Verdef};
use object::pod::from_bytes;
use object::read::elf::Sym;

use super::elf::Shape;
use super::{Symbol, SymbolKind};
use crate::address::Address;

/// So many versions may a module define.
const MOST_VERSIONS: usize = 4096;
/// No name that is longer is a symbol's.
const LONGEST_NAME: usize = 1 << 16;
/// The bit of a version's number that keeps it from being the default one (`VERSYM_HIDDEN`).
const HIDDEN: u16 = 0x8000;

/// The parts of a symbol table as they stand in the file or in memory.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// `Elf32_Sym` or `Elf64_Sym`, one after the other.
    pub symbols: Vec<u8>,
    /// Their names.
    pub strings: Vec<u8>,
    /// For each the number of its version (`SHT_GNU_versym`), or nothing.
    pub versions: Vec<u8>,
    /// What the numbers stand for (`SHT_GNU_verdef`), or nothing.
    pub definitions: Vec<u8>,
}

/// A symbol table.
#[derive(Debug)]
pub(super) struct Table {
    shape: Shape,
    parts: Parts,
    /// Numbers of versions, and where their names are.
    names: Vec<(u16, u32)>,
    /// The numbers of the symbols that have an address, by their values.
    by_value: OnceCell<Vec<u32>>,
}

/// A symbol as the table has it.
struct Entry<'a> {
    index: usize,
    name: &'a [u8],
    value: u64,
    size: u64,
    kind: SymbolKind,
    is_global: bool,
}

impl Table {
    pub(super) fn new(shape: Shape, parts: Parts) -> Self {
        let names = version_names(&parts.definitions, shape.endian);
        Self { shape, parts, names, by_value: OnceCell::new() }
    }

    pub(super) fn weight(&self) -> usize {
        self.parts.symbols.len() * 2 + self.parts.strings.len() + self.parts.versions.len()
    }

    /// How many symbols there are, those that mean nothing here included.
    pub(super) fn len(&self) -> usize {
        self.parts.symbols.len() / self.shape.symbol_len()
    }

    fn entry(&self, index: usize) -> Option<Entry<'_>> {
        let bytes = self.parts.symbols.get(index.checked_mul(self.shape.symbol_len())?..)?;
        if self.shape.wide {
            self.read(index, from_bytes::<Sym64<Endianness>>(bytes).ok()?.0)
        } else {
            self.read(index, from_bytes::<Sym32<Endianness>>(bytes).ok()?.0)
        }
    }

    /// What is defined here, and has a place.
    fn read<S: Sym<Endian = Endianness>>(&self, index: usize, symbol: &S) -> Option<Entry<'_>> {
        let endian = self.shape.endian;
        let kind = match symbol.st_type() {
            STT_SECTION | STT_FILE => return None,
            STT_GNU_IFUNC => SymbolKind::Indirect,
            STT_TLS => SymbolKind::ThreadLocal,
            _ => SymbolKind::Address,
        };
        if symbol.is_undefined(endian) || symbol.is_absolute(endian) || symbol.is_common(endian) {
            return None;
        }
        let from = usize::try_from(symbol.st_name(endian)).ok()?;
        let rest = self.parts.strings.get(from..)?;
        let rest = rest.get(..LONGEST_NAME).unwrap_or(rest);
        let name = rest.get(..rest.iter().position(|&byte| byte == 0)?)?;
        if name.is_empty() {
            return None;
        }
        let (value, size) = (symbol.st_value(endian).into(), symbol.st_size(endian).into());
        Some(Entry { index, name, value, size, kind, is_global: symbol.st_bind() != STB_LOCAL })
    }

    /// The version of a symbol, and whether it is the default one: behind its name (`.symtab`), or by the list of
    /// versions (`.dynsym`).
    fn version<'a>(&'a self, entry: &Entry<'a>) -> (&'a [u8], Option<&'a [u8]>, bool) {
        if let Some(at) = entry.name.iter().position(|&byte| byte == b'@').filter(|&at| at > 0) {
            let (name, version) = entry.name.split_at(at);
            return match version.strip_prefix(b"@@") {
                Some(version) => (name, Some(version), true),
                None => (name, version.get(1..), false),
            };
        }
        let number = entry.index.checked_mul(2).and_then(|at| self.parts.versions.get(at..at + 2));
        let number = match (number, self.shape.endian) {
            (Some(&[low, high]), Endianness::Little) => u16::from_le_bytes([low, high]),
            (Some(&[high, low]), Endianness::Big) => u16::from_be_bytes([high, low]),
            _ => return (entry.name, None, true),
        };
        let named = self.names.iter().find(|(version, _)| *version == number & !HIDDEN);
        let version = named.and_then(|&(_, at)| {
            let rest = self.parts.strings.get(usize::try_from(at).ok()?..)?;
            rest.get(..rest.iter().position(|&byte| byte == 0)?)
        });
        (entry.name, version, number & HIDDEN == 0)
    }

    fn symbol(&self, entry: &Entry<'_>, bias: u64) -> Symbol {
        let (name, version, is_default) = self.version(entry);
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Symbol {
            name: text(name),
            version: version.map(text),
            address: Address::new(entry.value.wrapping_add(bias)),
            size: entry.size,
            kind: entry.kind,
            is_global: entry.is_global,
            is_default,
        }
    }

    /// All symbols of this name, and of this version where one is given.
    pub(super) fn named<'a>(
        &'a self,
        name: &'a str,
        version: Option<&'a str>,
        bias: u64,
    ) -> impl Iterator<Item = Symbol> + 'a {
        let begins = move |entry: &Entry<'_>| entry.name.starts_with(name.as_bytes());
        let entries = (0..self.len()).filter_map(|index| self.entry(index)).filter(begins);
        entries.map(move |entry| self.symbol(&entry, bias)).filter(move |symbol| {
            symbol.name == name && version.is_none_or(|version| symbol.version.as_deref() == Some(version))
        })
    }

    /// The symbol that `at` lies in, and how far.
    pub(super) fn holding(&self, at: Address, bias: u64) -> Option<(Symbol, u64)> {
        /// So many symbols of one place, or nested in one another, are looked at.
        const NEAR: usize = 64;
        let order = self.by_value.get_or_init(|| self.in_order());
        let value = at.get().wrapping_sub(bias);
        let value_of = |index: &u32| self.entry(*index as usize).map_or(0, |entry| entry.value);
        let behind = order.partition_point(|index| value_of(index) <= value);
        let below = order.get(..behind)?.iter().rev().take(NEAR);
        let mut near = below.filter_map(|&index| {
            let entry = self.entry(index as usize)?;
            let offset = value.checked_sub(entry.value)?;
            (offset < entry.size || offset == 0).then_some((entry, offset))
        });
        let (first, offset) = near.next()?;
        // Of several names of one place that which others see.
        let better = near.take_while(|(_, other)| *other == offset).find(|(other, _)| other.is_global);
        let entry = if first.is_global { first } else { better.map_or(first, |(entry, _)| entry) };
        Some((self.symbol(&entry, bias), offset))
    }

    fn in_order(&self) -> Vec<u32> {
        let has_address = |entry: &Entry<'_>| entry.kind != SymbolKind::ThreadLocal;
        let entries = (0..self.len()).filter_map(|index| self.entry(index)).filter(has_address);
        let mut order: Vec<(u64, u32)> =
            entries.filter_map(|entry| Some((entry.value, u32::try_from(entry.index).ok()?))).collect();
        order.sort_unstable();
        order.into_iter().map(|(_, index)| index).collect()
    }
}

/// The numbers of the versions that a module defines, and where their names are among its strings.
fn version_names(definitions: &[u8], endian: Endianness) -> Vec<(u16, u32)> {
    let mut names = Vec::new();
    let mut at = 0_usize;
    while names.len() < MOST_VERSIONS {
        let Some(Ok((definition, _))) = definitions.get(at..).map(from_bytes::<Verdef<Endianness>>) else {
            break;
        };
        let offset = |offset: u32| at.checked_add(usize::try_from(offset).ok()?);
        let name = offset(definition.vd_aux.get(endian))
            .and_then(|at| from_bytes::<Verdaux<Endianness>>(definitions.get(at..)?).ok());
        if let Some((name, _)) = name {
            names.push((definition.vd_ndx.get(endian).0, name.vda_name.get(endian)));
        }
        match (definition.vd_next.get(endian), offset(definition.vd_next.get(endian))) {
            (1.., Some(next)) => at = next,
            _ => break,
        }
    }
    names
}
