//! The regions of a core that has no map of its own: what its segments and notes let one tell.

use super::header::Header;
use super::notes::Notes;
use super::segment::{Segment, in_order};
use super::status;
use crate::address::{Address, Span};
use crate::region::{Backing, Device, FileBacking, Permissions, Region, RegionMap};

// Keys of the auxiliary vector, include/uapi/linux/auxvec.h.
const AT_ENTRY: u64 = 9;
const AT_RANDOM: u64 = 25;
const AT_EXECFN: u64 = 31;
const AT_SYSINFO_EHDR: u64 = 33;

/// Where x86-64 keeps `[vsyscall]`, in every process.
const VSYSCALL: u64 = 0xffff_ffff_ff60_0000;
/// How far behind the program's last page the kernel may put the heap (`arch_randomize_brk`).
const HEAP_REACH: u64 = 1 << 30;

/// The regions of segments in order.
///
/// A mapping that was cut into several segments is one region again: of a file where NT_FILE says so, and of
/// anonymous memory where `split` says that the writer cuts (the kernel and gdb write one segment for each
/// mapping). Whether a mapping is shared is not known, and `[heap]` is a guess by where the kernel puts it.
pub(in crate::image) fn regions(
    segments: &[Segment],
    notes: &Notes,
    header: &Header,
    split: bool,
) -> RegionMap {
    let mut regions: Vec<Region> = Vec::with_capacity(segments.len());
    let mut last_file = None;
    for segment in segments {
        let file = notes.file_at(segment.span.start());
        let index = file.map(|(index, _)| index);
        if let Some(last) = regions.last_mut()
            && last.span.end() == segment.span.start()
            && last.permissions == segment.permissions
            && last_file == index
            && (split || index.is_some())
            && let Some(joined) = Span::new(last.span.start(), segment.span.end())
        {
            last.span = joined;
            continue;
        }
        let backing = match file {
            None => Backing::Anonymous { label: None },
            Some((_, file)) => {
                let into = segment.span.start().offset_from(file.span.start()).unwrap_or(0);
                let offset = file.offset.saturating_add(into);
                Backing::File(FileBacking::named(&file.name, offset, Device::default(), 0))
            }
        };
        last_file = index;
        regions.push(Region { span: segment.span, permissions: segment.permissions, backing });
    }
    name_known(&mut regions, notes, header);
    RegionMap::new(regions)
}

/// The segments in order, and besides them, as not saved and with no permission known, what only NT_FILE knows to
/// be mapped: gdb writes no segment for what it leaves out.
pub(in crate::image) fn with_unsaved_files(segments: Vec<Segment>, notes: &Notes) -> Vec<Segment> {
    let mut unsaved = Vec::new();
    let mut end = Address::ZERO;
    let mut add = |span: Span| {
        if !span.is_empty() {
            unsaved.push(Segment { span, offset: 0, saved: 0, permissions: Permissions::default() });
        }
    };
    for file in &notes.files {
        // Mappings of nonsense may lie over one another; every address is looked at once.
        let mut rest = file.span.split_at(end).1;
        let first = segments.partition_point(|segment| segment.span.end() <= rest.start());
        for segment in
            segments.iter().skip(first).take_while(|segment| segment.span.start() < file.span.end())
        {
            let (before, behind) = rest.split_at(segment.span.start());
            add(before);
            rest = behind.split_at(segment.span.end()).1;
        }
        add(rest);
        end = end.max(file.span.end());
    }
    let mut all = segments;
    all.extend(unsaved);
    in_order(all)
}

/// Names what the kernel made, as `/proc/PID/maps` would.
fn name_known(regions: &mut [Region], notes: &Notes, header: &Header) {
    if let Some(vdso) = notes.auxiliary(AT_SYSINFO_EHDR) {
        name_at(regions, vdso, || Backing::Kernel("vdso".into()));
        name_vvar(regions, vdso);
    }
    if header.encoding.is_64() && header.machine == 62 {
        name_at(regions, VSYSCALL, || Backing::Kernel("vsyscall".into()));
    }
    if let Some(heap) = heap(regions, notes) {
        name_at(regions, heap.get(), || Backing::Heap);
    }
    // What exec puts at the top of the first stack tells better than a stack pointer, which may be on
    // another.
    let leader =
        notes.threads.iter().find(|thread| notes.process.as_ref().is_some_and(|p| p.pid == thread.tid));
    let stack = [AT_EXECFN, AT_RANDOM]
        .into_iter()
        .find_map(|key| notes.auxiliary(key).filter(|&at| at != 0))
        .or_else(|| status::stack_pointer(leader.or(notes.threads.first())?, header));
    if let Some(stack) = stack {
        name_at(regions, stack, || Backing::Stack);
    }
}

/// Names what adjoins the vdso from below: `[vvar]`, and from Linux 6.13 on `[vvar_vclock]` between the two.
fn name_vvar(regions: &mut [Region], vdso: u64) {
    let index = regions.partition_point(|region| region.span.end() <= Address::new(vdso));
    let Some((vdso, below)) = regions.get_mut(..=index).and_then(<[Region]>::split_last_mut) else { return };
    let mut end = vdso.span.start();
    let read_only = Permissions { read: true, ..Permissions::default() };
    let is_vvar = |region: &&mut Region| {
        let adjoins = region.span.end() == std::mem::replace(&mut end, region.span.start());
        adjoins && region.permissions == read_only && region.backing == Backing::Anonymous { label: None }
    };
    let names = ["vvar_vclock", "vvar"];
    let mut found: Vec<_> = below.iter_mut().rev().take_while(is_vvar).take(names.len()).collect();
    let skipped = names.len().saturating_sub(found.len());
    for (region, name) in found.iter_mut().zip(names.iter().skip(skipped)) {
        region.backing = Backing::Kernel(name.into());
    }
}

/// Names the region that holds `at`, if it is anonymous.
fn name_at(regions: &mut [Region], at: u64, name: impl FnOnce() -> Backing) {
    let at = Address::new(at);
    let index = regions.partition_point(|region| region.span.end() <= at);
    if let Some(region) = regions.get_mut(index).filter(|region| region.span.contains(at))
        && matches!(region.backing, Backing::Anonymous { .. })
    {
        region.backing = name();
    }
}

/// Where the heap is: the first writable anonymous region behind the program, but for its bss, which adjoins
/// it.
fn heap(regions: &[Region], notes: &Notes) -> Option<Address> {
    let (index, program) = notes.file_at(Address::new(notes.auxiliary(AT_ENTRY)?))?;
    let program_end = notes
        .files
        .iter()
        .skip(index)
        .take_while(|file| file.name == program.name)
        .map(|file| file.span.end())
        .last()?;
    let behind = regions.iter().skip_while(|region| region.span.start() < program_end);
    behind
        .take_while(|region| matches!(region.backing, Backing::Anonymous { .. }))
        .take_while(|region| region.span.start() <= program_end.saturating_add(HEAP_REACH))
        .find(|region| {
            region.permissions.write && !region.permissions.execute && region.span.start() != program_end
        })
        .map(|region| region.span.start())
}
