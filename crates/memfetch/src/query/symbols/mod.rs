//! Symbols of a mapped ELF file: from the file, from the separate file with its symbols, or from memory itself.
//!
//! A table is kept as the bytes that it is made of, and looked at where that is needed: what a process maps may be
//! made to mislead, so sizes are bounded before anything is read, and a name or a number that makes no sense belongs
//! to no symbol.

mod elf;
mod table;

use std::fmt;

use crate::address::{Address, Span};
use crate::memory::Touch;
use crate::query::reader::Reader;
use crate::region::Region;
use crate::source::{ReadFile, Source};

use self::elf::Headers;
use self::table::Table;

/// What a symbol stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SymbolKind {
    /// A function, a variable, or what the table does not tell.
    Address,
    /// `STT_GNU_IFUNC`: the address is that of a function that chooses another one when the program starts.
    Indirect,
    /// `STT_TLS`: each thread has one of its own; the value is no address.
    ThreadLocal,
}

/// A symbol that is defined in a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Its name, as the table has it but for its version.
    pub name: String,
    /// The version that stands behind an `@`, if it has one.
    pub version: Option<String>,
    /// Where it lies; of a thread-local one this means nothing.
    pub address: Address,
    /// How many bytes it is long; 0 where the table does not tell.
    pub size: u64,
    /// What it stands for.
    pub kind: SymbolKind,
    /// Whether other modules see it, or only the file that defines it.
    is_global: bool,
    /// Whether a name without a version means this version.
    is_default: bool,
}

/// Why a module has no symbols.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSymbols {
    /// There is no ELF header.
    #[error("it is no ELF file")]
    NotElf,
    /// Every place where they could be was looked at.
    #[error("{}", join(.0))]
    Nowhere(Vec<String>),
}

fn join(causes: &[String]) -> String {
    causes.join("; ")
}

/// The symbols of one module, and where it lies.
#[derive(Debug)]
pub struct Symbols {
    /// What added to a value of the tables is an address.
    bias: u64,
    tables: Vec<Table>,
}

impl Symbols {
    /// Looks for the symbols of the module whose ELF header is mapped by `first`, the region of its lowest address.
    ///
    /// # Errors
    ///
    /// Why there are none.
    pub fn of(source: &dyn Source, touch: Touch, first: &Region) -> Result<Self, NoSymbols> {
        let memory = elf::Memory { reader: Reader::new(source, touch) };
        let base = first.span.start().get();
        let in_memory = Headers::read(&elf::Shifted { bytes: &memory, base }).ok();
        let mapped_at = first.file().map_or(0, |file| file.offset);
        let bias_of = |headers: &Headers| headers.bias(base, mapped_at);
        let build_id = in_memory.as_ref().and_then(|headers| {
            let at = bias_of(headers)?;
            headers.build_id_in_memory(&memory, at)
        });

        let mut causes = Vec::new();
        let mut tables = Vec::new();
        let mut headers = in_memory;
        if first.file().is_some() {
            match own_file(source, first, build_id.as_deref()) {
                Ok((file, of_file)) => {
                    let (found, missing) = elf::tables_of_file(&file, &of_file);
                    tables.extend(found);
                    causes.extend(missing.map(|why| format!("its file has no symbols: {why}")));
                    headers = headers.or(Some(of_file));
                }
                Err(NoSymbols::NotElf) if headers.is_none() => return Err(NoSymbols::NotElf),
                Err(why) => causes.push(why.to_string()),
            }
        }
        let headers = headers.ok_or_else(|| {
            if causes.is_empty() { NoSymbols::NotElf } else { NoSymbols::Nowhere(causes.clone()) }
        })?;
        let Some(bias) = bias_of(&headers) else { return Err(NoSymbols::NotElf) };
        if let Some(table) = build_id.as_deref().and_then(debug_file) {
            tables.extend(table);
        }
        if tables.is_empty() {
            match elf::table_in_memory(&memory, &headers, bias) {
                Ok(table) => tables.push(table),
                Err(why) => causes.push(format!("the dynamic symbols in memory: {why}")),
            }
        }
        if tables.is_empty() { Err(NoSymbols::Nowhere(causes)) } else { Ok(Self { bias, tables }) }
    }

    /// All symbols of this name, and of this version where one is given, that are as good; those of one address are one.
    ///
    /// A name without a version means the default one. What only its own file sees counts if nothing else has the
    /// name.
    #[must_use]
    pub fn named(&self, name: &str, version: Option<&str>) -> Vec<Symbol> {
        let mut found: Vec<Symbol> = Vec::new();
        for table in &self.tables {
            for symbol in table.named(name, version, self.bias) {
                if !found.iter().any(|known| known.address == symbol.address && known.kind == symbol.kind) {
                    found.push(symbol);
                }
            }
        }
        let best = found.iter().map(Symbol::rank).min();
        found.retain(|symbol| Some(symbol.rank()) == best);
        found
    }

    /// The symbol in which `at` lies, or the nearest one of unknown length below it, and how far into it that is.
    #[must_use]
    pub fn holding(&self, at: Address) -> Option<(Symbol, u64)> {
        let found = self.tables.iter().filter_map(|table| table.holding(at, self.bias));
        found.min_by_key(|(_, offset)| *offset)
    }

    /// About how much memory the tables take, in bytes.
    pub(super) fn weight(&self) -> usize {
        self.tables.iter().map(Table::weight).sum()
    }
}

/// The module's own file, if it is what was mapped.
fn own_file(
    source: &dyn Source,
    first: &Region,
    build_id: Option<&[u8]>,
) -> Result<(elf::File, Headers), NoSymbols> {
    let refused = |why: &str| Err(NoSymbols::Nowhere(vec![why.to_owned()]));
    let Some(behind) = source.file_behind(first) else {
        return refused("its file cannot be opened, or is no longer the one that was mapped");
    };
    let file = elf::File(behind.file);
    let headers = Headers::read(&file)?;
    let of_file = headers.build_id_in_file(&file);
    let is_same = match (build_id, &of_file) {
        (Some(mapped), Some(of_file)) => mapped == of_file.as_slice(),
        (Some(_), None) => false,
        (None, _) => behind.is_certain,
    };
    if is_same {
        Ok((file, headers))
    } else if build_id.is_some() {
        refused("the file of its name is another one: its build-id differs")
    } else {
        refused("the file of its name cannot be told to be the one that was mapped: no build-id is in memory")
    }
}

/// The table of the file with the symbols of the module with this build-id, where distributions put it.
fn debug_file(build_id: &[u8]) -> Option<Vec<Table>> {
    let (first, rest) = build_id.split_first().filter(|(_, rest)| !rest.is_empty())?;
    let hex = rest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let path = format!("/usr/lib/debug/.build-id/{first:02x}/{hex}.debug");
    let file = std::fs::File::open(path).ok().filter(|file| file.metadata().is_ok_and(|it| it.is_file()))?;
    let file = elf::File(std::sync::Arc::new(DebugFile(file)));
    let headers = Headers::read(&file).ok()?;
    let is_same = headers.build_id_in_file(&file).as_deref() == Some(build_id);
    is_same.then(|| elf::tables_of_file(&file, &headers).0)
}

struct DebugFile(std::fs::File);

impl ReadFile for DebugFile {
    fn size(&self) -> u64 {
        self.0.metadata().map_or(0, |metadata| metadata.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&self.0, buf, offset)
    }
}

/// Where a module lies: what its program headers load, from the lowest address to the highest.
///
/// Read from memory; of a module whose header is not there nothing is known but where its regions lie.
#[must_use]
pub fn extent(source: &dyn Source, touch: Touch, first: &Region) -> Option<Span> {
    let memory = elf::Memory { reader: Reader::new(source, touch) };
    let base = first.span.start().get();
    let headers = Headers::read(&elf::Shifted { bytes: &memory, base }).ok()?;
    headers.extent(headers.bias(base, first.file().map_or(0, |file| file.offset))?)
}

impl Symbol {
    /// The lower of several of one name is meant.
    pub(super) const fn rank(&self) -> (bool, bool) {
        (!self.is_default, !self.is_global)
    }
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match &self.version {
            Some(version) => write!(f, "@{version}"),
            None => Ok(()),
        }
    }
}
