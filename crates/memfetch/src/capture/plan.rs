//! [`Plan`]: which pages of a process are saved, and why not the others.
//!
//! The rules are coredump_filter's (core(5)), with what is known page by page on top: private file pages that were
//! written are saved also where the mapping is read-only (RELRO), and memory that the kernel would leave out
//! (`PROT_NONE`, `MADV_DONTDUMP`) is saved where it holds data.

use crate::address::{Address, Span};
use crate::image::encode::{Group, Segment};
use crate::image::record::Contents;
use crate::memory::{Cause, Gaps, PageRuns, PageState, Touch};
use crate::region::{Backing, FileBacking, FileKind, Region, RegionMap};
use crate::selector::Selection;
use crate::source::{Reach, reach};

/// A private file mapping up to this size is saved whole once a page of it was written: its clean pages cost
/// little, and a reader without the file still sees all of `.data`. Of a larger one the written pages are saved.
const WHOLE_FILE_MAPPING: u64 = 16 << 20;
/// Writable memory up to this size goes ahead of the bulk: it is where the dynamic linker's lists are.
const SMALL: u64 = 1 << 20;
/// How much above a stack pointer stands at the front of the file, and is saved by [`Contents::Minimal`].
const STACK_WINDOW: u64 = 256 << 10;
/// What the ABI lets code use below the stack pointer (System V AMD64 ABI, 3.2.2).
const RED_ZONE: u64 = 128;

/// The bits of `/proc/PID/coredump_filter` (core(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter(pub u64);

impl Filter {
    /// What the kernel starts every process with.
    pub const DEFAULT: Self = Self(0x33);
    const ANONYMOUS_PRIVATE: u32 = 0;
    const ANONYMOUS_SHARED: u32 = 1;
    const FILE_PRIVATE: u32 = 2;
    const FILE_SHARED: u32 = 3;
    const ELF_HEADERS: u32 = 4;
    const HUGE_PRIVATE: u32 = 5;
    const HUGE_SHARED: u32 = 6;

    const fn has(self, bit: u32) -> bool {
        self.0 & (1 << bit) != 0
    }
}

/// What [`Contents::Default`] means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultRule {
    /// What coredump_filter asks for: in a core.
    CoredumpFilter,
    /// Everything but mappings of files that may not be written, and of these what was written all the same: where
    /// region by region is dumped, as memfetch 1.02 did.
    AllButReadOnlyFiles,
}

/// What a plan is made by.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// How much is saved.
    pub contents: Contents,
    /// Which pages may be read.
    pub touch: Touch,
    /// Which regions are wanted.
    pub selection: Selection,
    /// What default contents are.
    pub rule: DefaultRule,
    /// The target's own filter.
    pub filter: Filter,
    /// The stack pointers of its threads.
    pub stack_pointers: Vec<Address>,
    /// What [`Contents::Minimal`] keeps besides: ascending and disjoint, at page boundaries.
    pub needed: Vec<Span>,
    /// Known zeros of at least this length become segments that are not in the file; `None` makes them holes of
    /// the file.
    pub split_zeros: Option<u64>,
    /// The size of a page.
    pub page_size: u64,
}

/// What is saved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The program headers to be, ascending.
    pub segments: Vec<Segment>,
    /// What is wanted and cannot be had, as is known beforehand.
    pub gaps: Gaps,
    /// Bytes to read.
    pub data_bytes: u64,
    /// Bytes that are known to be zero.
    pub zero_bytes: u64,
    /// Bytes that are not wanted.
    pub unwanted_bytes: u64,
}

/// What becomes of a run of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Read and saved.
    Data,
    /// Known to be zero: saved without being read.
    Zero,
    /// Wanted, and known to be unreadable.
    Missing(Cause),
    /// Not wanted, or nothing that could be.
    Unwanted,
}

/// How much of a region is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    Whole,
    /// The pages that were written: those that are no longer the file's.
    Written,
    /// What lies in these spans.
    Windows(Vec<Span>),
    Nothing,
}

impl Plan {
    /// Decides for every page. `pages` holds the states of all regions; `is_elf` tells whether a region's first
    /// page is an ELF header, and is asked only where that matters.
    pub fn make(
        map: &RegionMap,
        pages: &PageRuns,
        wishes: &Wishes,
        mut is_elf: impl FnMut(&Region) -> bool,
    ) -> Self {
        let mut stack_pointers = wishes.stack_pointers.clone();
        stack_pointers.sort_unstable();
        let mut plan = Self::default();
        for region in map {
            let windows = stack_windows(region, &stack_pointers, wishes.page_size);
            let wanted = if wishes.selection.wants(region) {
                wanted(region, pages, wishes, &windows, &mut is_elf)
            } else {
                Wanted::Nothing
            };
            plan.add(region, pages, wishes, &wanted, &windows);
        }
        plan
    }

    /// How long the file is behind its headers.
    #[must_use]
    pub fn saved_bytes(&self) -> u64 {
        self.segments.iter().filter(|segment| segment.saved).map(|segment| segment.span.len()).sum()
    }

    fn add(&mut self, region: &Region, pages: &PageRuns, wishes: &Wishes, wanted: &Wanted, windows: &[Span]) {
        let group = group_of(region, windows);
        let mut at = region.span.start();
        let mut segments = Pieces { region, out: &mut self.segments };
        // Reservations that nothing was ever put into are left out of the file as the kernel leaves them out.
        let only_reserved = region.permissions.is_none()
            && pages.within(region.span).all(|run| run.state == PageState::Absent);
        for run in pages.within(region.span) {
            if let Some(unknown) = Span::new(at, run.span.start()).filter(|span| !span.is_empty()) {
                // Unmapped between the reading of the map and that of the page states.
                segments.push(unknown, false, group);
                if *wanted != Wanted::Nothing {
                    self.gaps.push(unknown, Cause::Vanished);
                }
            }
            at = run.span.end();
            for (span, inside) in cut(run.span, wanted) {
                let fate = if inside { fate_of(run.state, wishes.touch, wanted) } else { Fate::Unwanted };
                let saved = match fate {
                    Fate::Data => {
                        self.data_bytes += span.len();
                        true
                    }
                    Fate::Zero => {
                        self.zero_bytes += span.len();
                        !only_reserved && wishes.split_zeros.is_none_or(|least| span.len() < least)
                    }
                    Fate::Missing(cause) => {
                        self.gaps.push(span, cause);
                        false
                    }
                    Fate::Unwanted => {
                        self.unwanted_bytes += span.len();
                        false
                    }
                };
                segments.push_split(span, saved, group, windows);
            }
        }
        if let Some(rest) = Span::new(at, region.span.end()).filter(|span| !span.is_empty()) {
            segments.push(rest, false, group);
            if *wanted != Wanted::Nothing {
                self.gaps.push(rest, Cause::Vanished);
            }
        }
    }
}

/// Builds the segments of one region, joining neighbours that are alike.
struct Pieces<'a> {
    region: &'a Region,
    out: &'a mut Vec<Segment>,
}

impl Pieces<'_> {
    fn push(&mut self, span: Span, saved: bool, group: Group) {
        if let Some(last) = self.out.last_mut()
            && last.span.end() == span.start()
            && self.region.span.contains(last.span.start())
            && last.saved == saved
            && (last.group == group || !saved)
            && let Some(joined) = Span::new(last.span.start(), span.end())
        {
            last.span = joined;
            return;
        }
        self.out.push(Segment { span, permissions: self.region.permissions, saved, group });
    }

    /// As `push`, with the parts that lie in a stack window in their own group.
    fn push_split(&mut self, span: Span, saved: bool, group: Group, windows: &[Span]) {
        let mut rest = span;
        for window in windows {
            if let Some(inside) = rest.intersection(*window) {
                let (before, behind) = rest.split_at(inside.start());
                if !before.is_empty() {
                    self.push(before, saved, group);
                }
                self.push(inside, saved, Group::Stack);
                rest = behind.split_at(inside.end()).1;
            }
        }
        if !rest.is_empty() {
            self.push(rest, saved, group);
        }
    }
}

/// The parts of `span` that are inside and outside what is wanted, ascending.
fn cut(span: Span, wanted: &Wanted) -> Vec<(Span, bool)> {
    let windows = match wanted {
        Wanted::Whole | Wanted::Written => return vec![(span, true)],
        Wanted::Nothing => return vec![(span, false)],
        Wanted::Windows(windows) => windows,
    };
    let mut parts = Vec::new();
    let mut rest = span;
    for window in windows {
        if let Some(inside) = rest.intersection(*window) {
            let (before, behind) = rest.split_at(inside.start());
            if !before.is_empty() {
                parts.push((before, false));
            }
            parts.push((inside, true));
            rest = behind.split_at(inside.end()).1;
        }
    }
    if !rest.is_empty() {
        parts.push((rest, false));
    }
    parts
}

fn fate_of(state: PageState, touch: Touch, wanted: &Wanted) -> Fate {
    let is_written =
        !state.is_known_zero() && !matches!(state, PageState::FileResident | PageState::FileClean);
    if *wanted == Wanted::Written && !is_written {
        return Fate::Unwanted;
    }
    match reach(state, touch) {
        Reach::Zero => Fate::Zero,
        Reach::Read => Fate::Data,
        Reach::LeftAlone => Fate::Unwanted,
        // There are no bytes to be had, and none are missing.
        Reach::Refused(Cause::Guard | Cause::BeyondFile | Cause::NotMapped) => Fate::Unwanted,
        Reach::Refused(cause) => Fate::Missing(cause),
    }
}

fn wanted(
    region: &Region,
    pages: &PageRuns,
    wishes: &Wishes,
    windows: &[Span],
    is_elf: &mut impl FnMut(&Region) -> bool,
) -> Wanted {
    if let Backing::Kernel(name) = &region.backing {
        // vvar and its kin change under the reader, and vsyscall is the same everywhere: nobody saves them.
        return if name == "vdso" { Wanted::Whole } else { Wanted::Nothing };
    }
    match wishes.contents {
        Contents::Full => Wanted::Whole,
        Contents::Default => match wishes.rule {
            DefaultRule::CoredumpFilter => by_filter(region, pages, wishes, is_elf),
            DefaultRule::AllButReadOnlyFiles => but_read_only_files(region, pages),
        },
        Contents::Minimal => {
            with_needed(region, minimal(region, pages, wishes, windows, is_elf), &wishes.needed)
        }
    }
}

fn but_read_only_files(region: &Region, pages: &PageRuns) -> Wanted {
    match region.file() {
        // Devices and other objects of the kernel are no memory of the process.
        Some(file) if file.kind == FileKind::KernelObject => Wanted::Nothing,
        Some(file) if file.kind == FileKind::Regular && !region.permissions.write => {
            written_of(region, pages)
        }
        _ => Wanted::Whole,
    }
}

/// Of a private file mapping what was written, and with it all of a small one.
fn written_of(region: &Region, pages: &PageRuns) -> Wanted {
    if region.permissions.shared || !was_written(region, pages) {
        Wanted::Nothing
    } else if region.span.len() <= WHOLE_FILE_MAPPING {
        Wanted::Whole
    } else {
        Wanted::Written
    }
}

/// What `vma_dump_size` of fs/coredump.c decides, by page states in place of the kernel's own knowledge.
fn by_filter(
    region: &Region,
    pages: &PageRuns,
    wishes: &Wishes,
    is_elf: &mut impl FnMut(&Region) -> bool,
) -> Wanted {
    let filter = wishes.filter;
    let whole = |bit| if filter.has(bit) { Wanted::Whole } else { Wanted::Nothing };
    let Some(file) = region.file() else { return whole(Filter::ANONYMOUS_PRIVATE) };
    match file.kind {
        FileKind::HugePages if region.permissions.shared => return whole(Filter::HUGE_SHARED),
        FileKind::HugePages => return whole(Filter::HUGE_PRIVATE),
        // What the owner meant to hide, and devices: the first is a gap, the second no memory of the process.
        FileKind::Secret => return Wanted::Whole,
        FileKind::KernelObject => return Wanted::Nothing,
        _ => {}
    }
    if region.permissions.shared {
        let nameless = file.deleted || region.is_shared_memory();
        return whole(if nameless { Filter::ANONYMOUS_SHARED } else { Filter::FILE_SHARED });
    }
    if filter.has(Filter::FILE_PRIVATE) {
        return Wanted::Whole;
    }
    if filter.has(Filter::ANONYMOUS_PRIVATE) && was_written(region, pages) {
        if region.span.len() <= WHOLE_FILE_MAPPING || is_memory(file) {
            return Wanted::Whole;
        }
        return Wanted::Written;
    }
    if filter.has(Filter::ELF_HEADERS) {
        return elf_header(region, file, wishes.page_size, is_elf);
    }
    Wanted::Nothing
}

/// Stacks near the stack pointers, the vdso, ELF headers, and the small writable memory in which the dynamic linker
/// and the C library keep what debuggers look for.
fn minimal(
    region: &Region,
    pages: &PageRuns,
    wishes: &Wishes,
    windows: &[Span],
    is_elf: &mut impl FnMut(&Region) -> bool,
) -> Wanted {
    if !windows.is_empty() {
        return Wanted::Windows(windows.to_vec());
    }
    if region.permissions.shared {
        return Wanted::Nothing;
    }
    match region.file() {
        Some(file) if was_written(region, pages) => {
            if region.span.len() <= SMALL {
                Wanted::Whole
            } else {
                elf_header(region, file, wishes.page_size, is_elf)
            }
        }
        Some(file) => elf_header(region, file, wishes.page_size, is_elf),
        None if region.permissions.write && region.span.len() <= SMALL => Wanted::Whole,
        None => Wanted::Nothing,
    }
}

/// What is wanted, and what is needed besides.
fn with_needed(region: &Region, wanted: Wanted, needed: &[Span]) -> Wanted {
    let windows = match wanted {
        Wanted::Nothing => Vec::new(),
        Wanted::Windows(windows) => windows,
        Wanted::Whole | Wanted::Written => return wanted,
    };
    let inside = needed.iter().filter_map(|span| span.intersection(region.span));
    let windows = Span::union(windows.into_iter().chain(inside));
    if windows.is_empty() { Wanted::Nothing } else { Wanted::Windows(windows) }
}

fn elf_header(
    region: &Region,
    file: &FileBacking,
    page_size: u64,
    is_elf: &mut impl FnMut(&Region) -> bool,
) -> Wanted {
    if file.kind == FileKind::Regular && file.offset == 0 && region.permissions.read && is_elf(region) {
        let first = region.span.start().saturating_add(page_size);
        return Wanted::Windows(vec![region.span.split_at(first).0]);
    }
    Wanted::Nothing
}

/// A private mapping of a memory object: nobody can open the file later.
fn is_memory(file: &FileBacking) -> bool {
    matches!(file.kind, FileKind::Memfd | FileKind::SharedAnonymous | FileKind::SystemV)
}

fn was_written(region: &Region, pages: &PageRuns) -> bool {
    pages
        .within(region.span)
        .any(|run| matches!(run.state, PageState::Resident | PageState::Swapped | PageState::Zero))
}

fn group_of(region: &Region, windows: &[Span]) -> Group {
    let small = region.span.len() <= SMALL;
    match &region.backing {
        Backing::Stack if small => Group::Stack,
        _ if !windows.is_empty() && small => Group::Stack,
        Backing::Kernel(_) => Group::Small,
        Backing::File(_) if !region.permissions.shared && region.span.len() <= WHOLE_FILE_MAPPING => {
            Group::Small
        }
        _ if region.permissions.write && !region.permissions.shared && small => Group::Small,
        _ => Group::Bulk,
    }
}

/// What lies above the stack pointers in this region: disjoint, ascending, at page boundaries.
fn stack_windows(region: &Region, stack_pointers: &[Address], page_size: u64) -> Vec<Span> {
    let first = stack_pointers.partition_point(|&pointer| pointer < region.span.start());
    let inside = stack_pointers.iter().skip(first).take_while(|&&pointer| region.span.contains(pointer));
    Span::union(inside.filter_map(|pointer| {
        let start = Address::new(pointer.get().saturating_sub(RED_ZONE)).align_down(page_size);
        let end = pointer.saturating_add(STACK_WINDOW).align_up(page_size);
        Span::new(start, end)?.intersection(region.span)
    }))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
