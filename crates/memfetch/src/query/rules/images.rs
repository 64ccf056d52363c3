//! Executables in memory, for the modules that parse them: `elf`, `pe`, `dotnet`, `macho`, `dex`.
//!
//! Such a module wants each executable from its first byte to its last, and the strings must not be looked for there a
//! second time. So each is announced by an empty region at its address, and the module is handed what is there.

use std::collections::{BTreeMap, HashMap};

use boreal::compiler::CompilerBuilder;
use boreal::memory::Region as Bytes;
use boreal::module::{
    Dex, Dotnet, Elf, MachO, Module, ModuleData, ModuleDataMap, Pe, ScanContext, StaticValue, Type, Value,
};
use boreal::{Compiler, Scanner};

use super::view::Peek;
use crate::address::{Address, Span};
use crate::query::sweep::Survey;
use crate::region::Region;

/// The modules that parse executables.
pub(super) const MODULES: [&str; 5] = ["elf", "pe", "dotnet", "macho", "dex"];

/// The kinds of executables that modules know.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Elf,
    Pe,
    MachO,
    Dex,
}

/// So much of a mapping decides whether it is one.
const HEAD: usize = 4096;

/// So much of an executable is parsed.
const LONGEST: u64 = 64 << 20;

/// The bytes of executables, by their addresses.
pub(super) type Images = BTreeMap<u64, Vec<u8>>;

/// The first executable of each kind, by address: the modules take no second.
pub(super) fn images(peek: &Peek<'_>, survey: &Survey) -> Images {
    let mut images = Images::new();
    let mut seen = Vec::new();
    let regions = survey.map().as_slice();
    for (index, region) in regions.iter().enumerate() {
        let readable = survey.runs().at(region.span.start()).is_some_and(|run| !run.state.is_known_zero());
        if !readable {
            continue;
        }
        let mut head = [0; HEAD];
        let len = peek.prefix(region.span.start(), &mut head);
        let Some(kind) = kind(head.get(..len).unwrap_or_default()).filter(|kind| !seen.contains(kind)) else {
            continue;
        };
        seen.push(kind);
        let wanted = readable_prefix(survey, extent(region, regions.get(index + 1..).unwrap_or_default()));
        let mut bytes = vec![0; usize::try_from(wanted.len().min(LONGEST)).unwrap_or(0)];
        let len = peek.prefix(wanted.start(), &mut bytes);
        bytes.truncate(len);
        images.insert(region.span.start().get(), bytes);
    }
    images
}

/// What an executable that begins like this is; nothing for those that the modules pass over in a process: ELF files
/// that are not of the type `ET_EXEC`, and DLLs.
fn kind(head: &[u8]) -> Option<Kind> {
    let number = |at: usize, big: bool| {
        let bytes: [u8; 2] = head.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    };
    if head.starts_with(b"\x7fELF") {
        return (number(16, head.get(5) == Some(&2))? == 2).then_some(Kind::Elf);
    }
    if head.starts_with(b"MZ") {
        let header = usize::from(number(0x3c, false)?);
        let dll = number(header + 22, false)? & 0x2000 != 0;
        return (head.get(header..)?.starts_with(b"PE\0\0") && !dll).then_some(Kind::Pe);
    }
    const MACHO: [&[u8]; 5] = [
        b"\xfe\xed\xfa\xce",
        b"\xfe\xed\xfa\xcf",
        b"\xce\xfa\xed\xfe",
        b"\xcf\xfa\xed\xfe",
        b"\xca\xfe\xba\xbe",
    ];
    if MACHO.iter().any(|magic| head.starts_with(magic)) {
        return Some(Kind::MachO);
    }
    head.starts_with(b"dex\n").then_some(Kind::Dex)
}

/// From a region on, all that adjoins and is of the same file.
fn extent(first: &Region, behind: &[Region]) -> Span {
    let mut end = first.span.end();
    for region in behind {
        let same = match (first.file(), region.file()) {
            (Some(first), Some(other)) => first.path == other.path,
            _ => false,
        };
        if region.span.start() != end || !same {
            break;
        }
        end = region.span.end();
    }
    Span::new(first.span.start(), end).unwrap_or(first.span)
}

fn readable_prefix(survey: &Survey, span: Span) -> Span {
    let mut end = span.start();
    for run in survey.runs().within(span) {
        if run.span.start() != end {
            break;
        }
        end = run.span.end();
    }
    Span::new(span.start(), end).unwrap_or(Span::empty_at(Address::ZERO))
}

/// A compiler whose modules look at executables only where they are announced.
pub(super) fn compiler() -> Compiler {
    CompilerBuilder::new()
        .add_module(Announced(Elf))
        .add_module(Announced(Pe))
        .add_module(Announced(Dotnet))
        .add_module(Announced(MachO))
        .add_module(Announced(Dex))
        .build()
}

/// Hands the executables to the modules of a scanner.
pub(super) fn provide(scanner: &mut Scanner, images: &Images) {
    scanner.set_module_data::<Announced<Elf>>(images.clone());
    scanner.set_module_data::<Announced<Pe>>(images.clone());
    scanner.set_module_data::<Announced<Dotnet>>(images.clone());
    scanner.set_module_data::<Announced<MachO>>(images.clone());
    scanner.set_module_data::<Announced<Dex>>(images.clone());
}

struct Announced<M>(M);

impl<M: Module + 'static> ModuleData for Announced<M> {
    type PrivateData = ();
    type UserData = Images;
}

impl<M: Module + 'static> Module for Announced<M> {
    fn get_name(&self) -> &'static str {
        self.0.get_name()
    }

    fn get_static_values(&self) -> HashMap<&'static str, StaticValue> {
        self.0.get_static_values()
    }

    fn get_dynamic_types(&self) -> HashMap<&'static str, Type> {
        self.0.get_dynamic_types()
    }

    fn setup_new_scan(&self, data: &mut ModuleDataMap<'_>) {
        self.0.setup_new_scan(data);
    }

    fn get_dynamic_values(
        &self,
        context: &mut ScanContext<'_, '_, '_>,
        out: &mut HashMap<&'static str, Value>,
    ) {
        if !context.region.mem.is_empty() {
            return;
        }
        let image = context
            .module_data
            .get_user_data::<Self>()
            .and_then(|images| images.get(&(context.region.start as u64)).cloned());
        let Some(image) = image else { return };
        let region = Bytes { start: context.region.start, mem: &image };
        self.0.get_dynamic_values(
            &mut ScanContext {
                region: &region,
                module_data: &mut *context.module_data,
                process_memory: context.process_memory,
            },
            out,
        );
    }
}
