//! [`Atlas`]: the names of an address space: regions, modules and symbols, from names to addresses and back.
//!
//! A *module* is a file that is mapped, as often as it is: its base is its lowest mapping, which for an ELF file is the
//! one of its first byte, since the loader maps a file in the order of its offsets. The vdso is a module too. Symbols
//! are read when they are first asked for.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use crate::address::{Address, Span};
use crate::error::Error;
use crate::memory::Touch;
use crate::query::symbols::{self, NoSymbols, Symbol, SymbolKind, Symbols};
use crate::region::{Backing, FileBacking, Permissions, Region, RegionMap};
use crate::source::Source;

/// So much memory may symbol tables take before those that were not needed last are let go.
const MOST_WEIGHT: usize = 256 << 20;

const AT_PHDR: u64 = 3;
const AT_ENTRY: u64 = 9;

/// The word for the module of the program itself.
pub const PROGRAM: &str = "main";

/// What has a name: the mappings of one file, or one mapping of another kind.
#[derive(Clone, Debug)]
pub struct Module {
    /// Its name as `/proc/PID/maps` has it.
    pub name: OsString,
    /// From its lowest mapping to its highest; something else may lie in between.
    pub span: Span,
    /// Its lowest mapping.
    first: Region,
}

impl Module {
    /// The part of its name behind the last slash.
    #[must_use]
    pub fn short_name(&self) -> &OsStr {
        let name = self.name.as_bytes();
        OsStr::from_bytes(name.rsplit(|&byte| byte == b'/').next().unwrap_or(name))
    }

    /// Whether it is code of a kind: a file, or the vdso.
    fn is_file(&self) -> bool {
        self.first.file().is_some() || self.name == "[vdso]"
    }
}

/// Why a name leads nowhere.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing has this name.
    #[error("no mapping is called `{0}`")]
    NoModule(String),
    /// The process has no such region.
    #[error("there is no {0}")]
    NoRegion(&'static str),
    /// Several have it.
    #[error("`{name}` may be {}", candidates.join(", or "))]
    Ambiguous {
        /// The name.
        name: String,
        /// What it may be, each in words that are not ambiguous.
        candidates: Vec<String>,
    },
    /// The module has no such symbol.
    #[error("`{symbol}` is no symbol of {module}")]
    NoSymbol {
        /// The symbol.
        symbol: String,
        /// The module; or in words how many were searched.
        module: String,
        /// What has symbols that could not be searched, and why.
        unsearched: Vec<(String, NoSymbols)>,
    },
    /// The module has no symbols that can be read.
    #[error("the symbols of {module} cannot be read")]
    NoSymbols {
        /// The module.
        module: String,
        /// Why.
        #[source]
        source: NoSymbols,
    },
    /// Each thread has its own.
    #[error("`{0}` is thread-local: each thread has one of its own, and the symbol has no address")]
    ThreadLocal(String),
    /// The symbol is a function that chooses another.
    #[error("`{name}` is an indirect function: which one it stands for is decided when the program starts")]
    Indirect {
        /// The symbol.
        name: String,
        /// Where the function lies that decides it.
        resolver: Address,
    },
    /// The source as a whole failed.
    #[error(transparent)]
    Source(#[from] Error),
}

/// What lies at an address, in words that lead back to it where that is possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Landmark {
    /// The name of the region; empty for plain anonymous memory.
    pub region: OsString,
    /// Where the region starts.
    pub region_start: Address,
    /// How far from there it is.
    pub region_offset: u64,
    /// The addresses around it that lie in the same region, and in the same module or in none.
    pub span: Span,
    /// What the process may do there.
    pub permissions: Permissions,
    /// The last part of the name of the module, and how far from its base it is.
    pub module: Option<(OsString, u64)>,
    /// The symbol, and how far from its start it is.
    pub symbol: Option<(Symbol, u64)>,
}

impl Landmark {
    /// The same for another address of its span; which symbol lies there is not known.
    pub fn move_to(&mut self, at: Address) {
        let region_offset = at.get().wrapping_sub(self.region_start.get());
        let further = region_offset.wrapping_sub(self.region_offset);
        if let Some((_, offset)) = &mut self.module {
            *offset = offset.wrapping_add(further);
        }
        self.region_offset = region_offset;
        self.symbol = None;
    }
}

impl fmt::Display for Landmark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let offset = |f: &mut fmt::Formatter<'_>, offset: u64| match offset {
            0 => Ok(()),
            _ => write!(f, "+{offset:#x}"),
        };
        match (&self.module, &self.symbol) {
            (Some((module, _)), Some((symbol, into))) => {
                write!(f, "{}!{symbol}", module.display())?;
                offset(f, *into)
            }
            (Some((module, into)), None) => {
                write!(f, "{}", module.display())?;
                offset(f, *into)
            }
            // It has no name but its address.
            (None, _) if self.region.is_empty() => {
                write!(f, "{:x}+{:#x}", self.region_start, self.region_offset)
            }
            (None, _) => {
                write!(f, "{}", self.region.display())?;
                offset(f, self.region_offset)
            }
        }
    }
}

/// The names of an address space, as they were when it was made.
pub struct Atlas<'a> {
    source: &'a dyn Source,
    touch: Touch,
    regions: Arc<RegionMap>,
    modules: Vec<Module>,
    /// The module of each region.
    owners: Vec<Option<usize>>,
    /// Files by the ends of their mappings, behind which their zeroed variables may lie.
    ends: HashMap<Address, usize>,
    /// What the program headers of a file load, once that was asked for.
    extents: RefCell<HashMap<usize, Option<Span>>>,
    symbols: HashMap<usize, Result<Arc<Symbols>, NoSymbols>>,
    weight: usize,
}

impl<'a> Atlas<'a> {
    /// The names of `source`. What is read for them is read as far as `touch` allows.
    ///
    /// # Errors
    ///
    /// As [`Memory::regions`](crate::Memory::regions).
    pub fn new(source: &'a dyn Source, touch: Touch) -> Result<Self, Error> {
        Ok(Self::of_regions(source, touch, Arc::new(source.regions()?)))
    }

    /// The same for regions of `source` that are known already.
    #[must_use]
    pub fn of_regions(source: &'a dyn Source, touch: Touch, regions: Arc<RegionMap>) -> Self {
        let (modules, owners) = modules(&regions);
        let files = modules.iter().enumerate().filter(|(_, module)| module.is_file());
        let ends = files.map(|(index, module)| (module.span.end(), index)).collect();
        let (extents, symbols) = (RefCell::default(), HashMap::new());
        Self { source, touch, regions, modules, owners, ends, extents, symbols, weight: 0 }
    }

    /// The regions.
    #[must_use]
    pub fn regions(&self) -> &RegionMap {
        &self.regions
    }

    /// The module that this name means: a whole name or its last part, or `main` for the program itself.
    ///
    /// # Errors
    ///
    /// [`NameError::NoModule`], [`NameError::Ambiguous`].
    pub fn module(&self, name: &str) -> Result<&Module, NameError> {
        let index = self.module_index(name)?;
        self.modules.get(index).ok_or_else(|| NameError::NoModule(name.to_owned()))
    }

    fn module_index(&self, name: &str) -> Result<usize, NameError> {
        let all = || self.modules.iter().enumerate();
        let mut found: Vec<usize> =
            all().filter(|(_, module)| module.name == name).map(|(index, _)| index).collect();
        if found.is_empty() && !name.contains('/') {
            found = all().filter(|(_, module)| module.short_name() == name).map(|(index, _)| index).collect();
        }
        if name == PROGRAM {
            let program = self.program()?;
            found.extend(program.filter(|index| !found.contains(index)));
        }
        match found.as_slice() {
            [] => Err(NameError::NoModule(name.to_owned())),
            [index] => Ok(*index),
            several => {
                let places = several.iter().filter_map(|&index| self.modules.get(index));
                let candidates = places.map(|it| format!("{} at {}", it.name.display(), it.span.start()));
                Err(NameError::Ambiguous { name: name.to_owned(), candidates: candidates.collect() })
            }
        }
    }

    /// The module of the program itself, as the auxiliary vector tells it.
    fn program(&self) -> Result<Option<usize>, Error> {
        let vector = self.source.auxiliary_vector()?;
        let entry =
            |wanted| vector.iter().find(|(key, _)| *key == wanted).map(|&(_, value)| Address::new(value));
        Ok(entry(AT_PHDR).or_else(|| entry(AT_ENTRY)).and_then(|at| self.module_at(at)))
    }

    fn module_at(&self, at: Address) -> Option<usize> {
        let regions = self.regions.as_slice();
        let index = regions.partition_point(|region| region.span.end() <= at);
        regions.get(index).filter(|region| region.span.contains(at))?;
        self.owners.get(index).copied().flatten()
    }

    /// The module that has its zeroed variables at the start of `region`, which is anonymous memory right behind its
    /// mappings, and where it ends.
    fn module_before(&self, region: &Region) -> Option<(usize, Address)> {
        if !matches!(region.backing, Backing::Anonymous { .. }) {
            return None;
        }
        let start = region.span.start();
        let index = *self.ends.get(&start)?;
        let first = &self.modules.get(index)?.first;
        // To ask once costs the target a reading of its map.
        let mut extents = self.extents.borrow_mut();
        let extent = extents.entry(index).or_insert_with(|| symbols::extent(self.source, self.touch, first));
        extent.filter(|extent| extent.contains(start)).map(|extent| (index, extent.end()))
    }

    /// The symbol of this name: in the module that is named, or in the only one that has it. The name may be followed by
    /// a version: `memcpy@GLIBC_2.14`, also with `@@`.
    ///
    /// # Errors
    ///
    /// [`NameError`], of each kind.
    pub fn symbol(&mut self, module: Option<&str>, symbol: &str) -> Result<Symbol, NameError> {
        let (name, version) = match symbol.split_once('@') {
            Some((name, version)) => (name, Some(version.strip_prefix('@').unwrap_or(version))),
            None => (symbol, None),
        };
        let indices = match module {
            Some(module) => vec![self.module_index(module)?],
            None => (0..self.modules.len())
                .filter(|&it| self.modules.get(it).is_some_and(Module::is_file))
                .collect(),
        };
        let mut found: Vec<(usize, Symbol)> = Vec::new();
        let mut unsearched = Vec::new();
        for &index in &indices {
            match self.symbols_of(index) {
                Ok(symbols) => found.extend(symbols.named(name, version).into_iter().map(|it| (index, it))),
                // A file that is no program has no symbols by rights.
                Err(NoSymbols::NotElf) if module.is_none() => {}
                Err(source) => unsearched.push((self.short_name(index), source)),
            }
        }
        // What only its own file sees counts if no module shows the name to others.
        let best = found.iter().map(|(_, symbol)| symbol.rank()).min();
        found.retain(|(_, symbol)| Some(symbol.rank()) == best);
        let whole = |index: usize| format!("{}!{symbol}", self.short_name(index));
        match found.as_slice() {
            [(_, symbol)] if symbol.kind == SymbolKind::ThreadLocal => {
                Err(NameError::ThreadLocal(symbol.to_string()))
            }
            [(_, symbol)] if symbol.kind == SymbolKind::Indirect => {
                Err(NameError::Indirect { name: symbol.to_string(), resolver: symbol.address })
            }
            [(_, symbol)] => Ok(symbol.clone()),
            [] => match (module, unsearched.pop()) {
                (Some(_), Some((module, source))) => Err(NameError::NoSymbols { module, source }),
                (module, last) => {
                    unsearched.extend(last);
                    let module = module.map_or_else(|| "any module".to_owned(), str::to_owned);
                    Err(NameError::NoSymbol { symbol: symbol.to_owned(), module, unsearched })
                }
            },
            several => {
                let candidates =
                    several.iter().map(|(index, it)| format!("{} at {}", whole(*index), it.address));
                Err(NameError::Ambiguous { name: symbol.to_owned(), candidates: candidates.collect() })
            }
        }
    }

    fn short_name(&self, index: usize) -> String {
        self.modules.get(index).map_or_else(String::new, |it| it.short_name().to_string_lossy().into_owned())
    }

    fn symbols_of(&mut self, index: usize) -> Result<Arc<Symbols>, NoSymbols> {
        if let Some(known) = self.symbols.get(&index) {
            return known.clone();
        }
        let module = self.modules.get(index).ok_or(NoSymbols::NotElf)?;
        let found = Symbols::of(self.source, self.touch, &module.first).map(Arc::new);
        self.weight += found.as_ref().map_or(0, |symbols| symbols.weight());
        if self.weight > MOST_WEIGHT {
            self.symbols.clear();
            self.weight = found.as_ref().map_or(0, |symbols| symbols.weight());
        }
        self.symbols.insert(index, found.clone());
        found
    }

    /// What lies at `at`, without its symbol, which takes longer to find; nothing where nothing is mapped.
    #[must_use]
    pub fn landmark(&self, at: Address) -> Option<Landmark> {
        self.landmark_in(at).map(|(landmark, _)| landmark)
    }

    /// What lies at `at`, with its symbol if it has one.
    pub fn landmark_with_symbol(&mut self, at: Address) -> Option<Landmark> {
        let (mut landmark, index) = self.landmark_in(at)?;
        if let Some(Ok(symbols)) = index.map(|index| self.symbols_of(index)) {
            landmark.symbol = symbols.holding(at);
        }
        Some(landmark)
    }

    fn landmark_in(&self, at: Address) -> Option<(Landmark, Option<usize>)> {
        let region = self.regions.at(at)?;
        let mut index = self.module_at(at);
        let mut span = region.span;
        if index.is_none()
            && let Some((before, end)) = self.module_before(region)
        {
            let (part, rest) = span.split_at(end);
            (index, span) = if at < end { (Some(before), part) } else { (None, rest) };
        }
        let index = index.filter(|&index| self.modules.get(index).is_some_and(Module::is_file));
        let module = index
            .and_then(|index| self.modules.get(index))
            .and_then(|module| Some((module.short_name().to_owned(), at.offset_from(module.span.start())?)));
        let landmark = Landmark {
            region: region.name(),
            region_start: region.span.start(),
            region_offset: at.offset_from(region.span.start()).unwrap_or_default(),
            span,
            permissions: region.permissions,
            module,
            symbol: None,
        };
        Some((landmark, index))
    }
}

/// The modules of a map, by their lowest addresses, and the module of each region.
fn modules(regions: &RegionMap) -> (Vec<Module>, Vec<Option<usize>>) {
    let mut modules: Vec<Module> = Vec::new();
    let mut owners = Vec::with_capacity(regions.len());
    // The latest module of each file.
    let mut latest: HashMap<OsString, usize> = HashMap::new();
    for region in regions {
        let name = region.name();
        if name.is_empty() {
            owners.push(None);
            continue;
        }
        let known = latest.get(&name).copied();
        if let Some(index) = known
            && let Some(module) = modules.get_mut(index).filter(|module| continues(module, region))
            && let Some(span) = Span::new(module.span.start(), region.span.end())
        {
            module.span = span;
            owners.push(Some(index));
            continue;
        }
        owners.push(Some(modules.len()));
        latest.insert(name.clone(), modules.len());
        modules.push(Module { name, span: region.span, first: region.clone() });
    }
    (modules, owners)
}

/// Whether a region is a further part of a module: of its file, and behind its beginning there. (Of a small program the
/// beginning is mapped twice, side by side, with different permissions.) Further mappings of what is no file, a heap
/// that mprotect(2) has split, belong together if nothing lies between them.
fn continues(module: &Module, region: &Region) -> bool {
    let adjoins = region.span.start() == module.span.end();
    let is_same = |one: &FileBacking, other: &FileBacking| {
        one.inode == other.inode && one.device == other.device && other.offset > one.offset
    };
    match (module.first.file(), region.file()) {
        (Some(one), Some(other)) => is_same(one, other) || adjoins,
        _ => adjoins,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps;

    fn names(text: &str) -> Vec<(String, u64, u64)> {
        let map = maps::parse(text.as_bytes()).unwrap();
        let shown = |it: &Module| {
            (it.short_name().to_string_lossy().into_owned(), it.span.start().get(), it.span.end().get())
        };
        modules(&map).0.iter().map(shown).collect()
    }

    #[test]
    fn a_module_is_all_mappings_of_a_file() {
        let text = "\
1000-2000 r--p 00000000 08:01 5 /bin/tiny
2000-3000 r-xp 00000000 08:01 5 /bin/tiny
3000-4000 rw-p 00000000 00:00 0
5000-6000 rw-p 00000000 00:00 0 [heap]
7000-8000 r--p 00000000 08:01 6 /lib/libc.so.6
8000-9000 r-xp 00001000 08:01 6 /lib/libc.so.6
a000-b000 rw-p 00003000 08:01 6 /lib/libc.so.6
c000-d000 r--p 00000000 08:01 6 /lib/libc.so.6
d000-e000 rw-s 00000000 00:01 7 /memfd:x (deleted)
f000-10000 rw-s 00000000 00:01 7 /memfd:x (deleted)
";
        let name = |name: &str, start, end| (name.to_owned(), start, end);
        assert_eq!(
            names(text),
            [
                name("tiny", 0x1000, 0x3000),
                name("[heap]", 0x5000, 0x6000),
                name("libc.so.6", 0x7000, 0xb000),
                name("libc.so.6", 0xc000, 0xd000),
                name("memfd:x (deleted)", 0xd000, 0xe000),
                name("memfd:x (deleted)", 0xf000, 0x10000),
            ]
        );
    }
}
