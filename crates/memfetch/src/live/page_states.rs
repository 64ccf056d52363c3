//! What reading each page would meet, told without touching one.

use std::io;
use std::sync::Arc;

use memfetch_sys::pagemap::PageRange;

use super::files::{BackingFile, ObjectKind};
use super::scan::{self, PAGE, Populated};
use super::target::Target;
use crate::address::{Address, Span};
use crate::error::Error;
use crate::memory::{Cause, PageRuns, PageState};
use crate::region::{Backing, FileBacking, FileKind, Region, RegionMap};

/// Small regions that lie near each other are asked about together: one call each would cost more than the walk.
const GROUP_EXTENT: u64 = 64 << 20;
const GROUP_REGIONS: usize = 1024;

/// What decides the meaning of a page table entry, or of its absence.
#[derive(Debug)]
enum Sort {
    /// Zero until it is touched.
    Anonymous,
    /// A file on a disk, or one that cannot be found from here.
    File { mapped: FileBacking, object: Option<Arc<BackingFile>> },
    /// Memory that other mappings, of this or another process, may have filled.
    Memory { mapped: FileBacking, object: Option<Arc<BackingFile>> },
    /// The vdso: the same bytes in all processes of one word size.
    Vdso,
    /// All of it alike.
    Unreadable(Cause),
}

impl Target {
    /// The page states of the parts of `regions` that lie in `span`.
    pub fn page_states(&self, regions: &RegionMap, span: Span) -> Result<PageRuns, Error> {
        self.page_states_by(regions, span, |span, found| {
            scan::populated(self, span, |span, kind| found.push((span, kind)))
        })
    }

    /// The page states of `regions`, of a process whose writes are tracked by userfaultfd, and of which pages it is certain that they were not written since they were protected: ascending.
    ///
    /// `known` are states that pages had when they were protected: of private anonymous memory that was neither written
    /// nor given back since, they are the states now, and nobody looks again.
    pub fn page_states_and_clean(
        &self,
        regions: &RegionMap,
        known: &PageRuns,
        held: bool,
    ) -> Result<(PageRuns, Vec<Span>), Error> {
        let mut clean: Vec<Span> = Vec::new();
        // Many pages may have been written one by one.
        let mut ranges = vec![PageRange::default(); 16 << 10];
        let states = self.page_states_by(regions, Span::ALL, |span, found| {
            let mut look = |span: Span, found: &mut Vec<(Span, Populated)>, clean: &mut Vec<Span>| {
                scan::populated_and_clean(self, span, held, &mut ranges, |span, kind, is_clean| {
                    found.push((span, kind));
                    if is_clean {
                        add(clean, span);
                    }
                })
            };
            let parts = self.unwritten(regions, span, known);
            let mut rest = span;
            for part in parts {
                let (before, from) = rest.split_at(part.span.start());
                look(before, found, &mut clean)?;
                found.push((part.span, part.state));
                add(&mut clean, part.span);
                rest = from.split_at(part.span.end()).1;
            }
            look(rest, found, &mut clean)
        })?;
        Ok((states, clean))
    }

    /// The larger parts of a span that are certain to be what they were.
    fn unwritten(&self, regions: &RegionMap, span: Span, known: &PageRuns) -> Vec<Unwritten> {
        /// Below this, to look closely at all of a span takes no longer, and at what lies between two of its parts.
        const LEAST: u64 = 2 << 20;
        const LEAST_BETWEEN: u64 = 128 << 10;
        let mut parts = Vec::new();
        let is_alike =
            regions.within(span).all(|region| region.is_zero_until_touched() && region.file().is_none());
        if span.len() < LEAST || !is_alike || known.within(span).next().is_none() {
            return parts;
        }
        let mut ranges = vec![PageRange::default(); 16 << 10];
        let Some(written) = scan::written_or_vacant(self, span, &mut ranges) else { return parts };
        let mut rest = span;
        let end = Span::empty_at(span.end());
        for gone in written.into_iter().chain(std::iter::once(end)) {
            let (same, from) = rest.split_at(gone.start());
            rest = from.split_at(gone.end()).1;
            if same.len() < LEAST_BETWEEN {
                continue;
            }
            parts.extend(known.within(same).filter_map(|run| {
                let state = match run.state {
                    PageState::Resident => Populated::Anonymous,
                    PageState::Swapped => Populated::Swapped,
                    _ => return None,
                };
                Some(Unwritten { span: run.span, state })
            }));
        }
        parts
    }

    fn page_states_by(
        &self,
        regions: &RegionMap,
        span: Span,
        mut look: impl FnMut(Span, &mut Vec<(Span, Populated)>) -> io::Result<()>,
    ) -> Result<PageRuns, Error> {
        let mut runs = PageRuns::new();
        let mut found: Vec<(Span, Populated)> = Vec::new();
        let mut rest: Vec<&Region> = regions.within(span).collect();
        rest.reverse();
        while let Some(first) = rest.pop() {
            let mut group = vec![first];
            while let Some(&next) = rest.last()
                && group.len() < GROUP_REGIONS
                && next
                    .span
                    .end()
                    .offset_from(first.span.start())
                    .is_some_and(|extent| extent <= GROUP_EXTENT)
            {
                group.push(next);
                rest.pop();
            }
            found.clear();
            let end = group.last().map_or(first.span.end(), |last| last.span.end());
            let Some(asked) = Span::new(first.span.start(), end).and_then(|all| all.intersection(span))
            else {
                continue;
            };
            // Whole pages are asked for; what sticks out is cut off below.
            let whole =
                Span::new(asked.start().align_down(PAGE), asked.end().align_up(PAGE)).unwrap_or(asked);
            look(whole, &mut found).map_err(|error| self.error("read the map", error))?;
            let mut entries = found.as_slice();
            for region in group {
                let Some(part) = region.span.intersection(span) else { continue };
                let behind = entries.partition_point(|(span, _)| span.end() <= part.start());
                entries = entries.get(behind..).unwrap_or_default();
                self.states_of(region, part, entries, &mut runs);
            }
        }
        // A scan of an address space that has gone finds nothing, and calls that success.
        self.check()?;
        Ok(runs)
    }

    fn states_of(&self, region: &Region, part: Span, entries: &[(Span, Populated)], runs: &mut PageRuns) {
        let sort = self.sort_of(region);
        if let Sort::Unreadable(cause) = sort {
            runs.push(part, PageState::Unreadable(cause));
            return;
        }
        let mut rest = part;
        for &(span, kind) in entries {
            let Some(span) = span.intersection(rest) else { break };
            let (missing, _) = rest.split_at(span.start());
            absent(region, &sort, missing, runs);
            runs.push(span, present(region, &sort, kind));
            rest = rest.split_at(span.end()).1;
        }
        absent(region, &sort, rest, runs);
    }

    fn sort_of(&self, region: &Region) -> Sort {
        let file = match &region.backing {
            Backing::Anonymous { .. } | Backing::Heap | Backing::Stack => return Sort::Anonymous,
            Backing::Kernel(name) if name == "vdso" => return Sort::Vdso,
            // Execute-only, and in no page table of a process: both ways to read it are turned away.
            Backing::Kernel(name) if name == "vsyscall" => return Sort::Unreadable(Cause::NotPermitted),
            Backing::Kernel(name) if name == "uprobes" => return Sort::Anonymous,
            // vvar and its kin are VM_PFNMAP.
            Backing::Kernel(_) => return Sort::Unreadable(Cause::Device),
            Backing::File(file) => file,
        };
        match file.kind {
            FileKind::Secret => return Sort::Unreadable(Cause::Secret),
            FileKind::KernelObject => return Sort::Unreadable(Cause::Device),
            FileKind::HugePages if !region.permissions.shared => return Sort::Anonymous,
            _ => {}
        }
        let object = self.files.of(&self.identity, region.span, file);
        let mapped = file.clone();
        match (object.as_deref().map(BackingFile::kind), file.kind) {
            (Some(ObjectKind::Device), _) => Sort::Unreadable(Cause::Device),
            (Some(ObjectKind::DevZero), _) if !region.permissions.shared => Sort::Anonymous,
            (Some(ObjectKind::Memory | ObjectKind::DevZero), _) => Sort::Memory { mapped, object },
            (Some(ObjectKind::Disk) | None, FileKind::Regular) => Sort::File { mapped, object },
            // By its name it is memory.
            _ => Sort::Memory { mapped, object },
        }
    }

    /// Why a byte of the region cannot be read, as far as its backing tells.
    pub fn obstacle(&self, region: &Region, at: Address) -> Option<Cause> {
        match self.sort_of(region) {
            Sort::Unreadable(cause) => Some(cause),
            Sort::File { mapped, object } | Sort::Memory { mapped, object } => {
                let size = object?.size()?;
                let offset =
                    mapped.offset.saturating_add(at.align_down(PAGE).offset_from(region.span.start())?);
                (offset >= size).then_some(Cause::BeyondFile)
            }
            _ => None,
        }
    }
}

/// Pages that are what they were.
struct Unwritten {
    span: Span,
    state: Populated,
}

/// Adds a span behind the others.
fn add(spans: &mut Vec<Span>, span: Span) {
    match spans.last_mut() {
        Some(last) if last.end() == span.start() => {
            *last = Span::new(last.start(), span.end()).unwrap_or(*last);
        }
        _ => spans.push(span),
    }
}

/// The state of a page with an entry in the page table.
fn present(region: &Region, sort: &Sort, kind: Populated) -> PageState {
    match kind {
        Populated::Zero => PageState::Zero,
        Populated::Swapped => PageState::Swapped,
        Populated::Guard => PageState::Guard,
        Populated::Anonymous => PageState::Resident,
        Populated::File => match sort {
            // Through a writable shared mapping the page may be newer than the file on the disk.
            Sort::File { .. } if region.permissions.shared && region.permissions.write => PageState::Resident,
            Sort::File { .. } => PageState::FileResident,
            _ => PageState::Resident,
        },
    }
}

/// The states of pages with no entry in the page table.
fn absent(region: &Region, sort: &Sort, span: Span, runs: &mut PageRuns) {
    if span.is_empty() {
        return;
    }
    match sort {
        Sort::Anonymous => runs.push(span, PageState::Absent),
        Sort::Vdso => runs.push(span, PageState::Backed),
        Sort::Unreadable(cause) => runs.push(span, PageState::Unreadable(*cause)),
        // A file that cannot be found, on no block device: it may be one of tmpfs, and all of it be here.
        Sort::File { mapped, object: None } if region.permissions.shared && mapped.device.major == 0 => {
            runs.push(span, PageState::Unreadable(Cause::SharedUnknown));
        }
        Sort::File { mapped, object } => {
            let size = object.as_deref().and_then(BackingFile::size);
            let (inside, beyond) = match size {
                Some(size) => span.split_at(address_of(region, mapped, size.next_multiple_of(PAGE))),
                None => (span, Span::empty_at(span.end())),
            };
            runs.push(inside, PageState::FileClean);
            runs.push(beyond, PageState::Unreadable(Cause::BeyondFile));
        }
        Sort::Memory { mapped, object } => {
            let unknown = PageState::Unreadable(Cause::SharedUnknown);
            let Some(object) = object.as_deref().filter(|object| object.is_readable()) else {
                runs.push(span, unknown);
                return;
            };
            let offset = |at: Address| {
                mapped.offset.saturating_add(at.offset_from(region.span.start()).unwrap_or_default())
            };
            let mut reached = span.start();
            let walk = object.extents(offset(span.start()), offset(span.end()), |start, end, is_data| {
                let start = address_of(region, mapped, start);
                let end = address_of(region, mapped, end);
                let state = if is_data { PageState::Backed } else { PageState::Absent };
                if let Some(part) = Span::new(start, end).and_then(|part| part.intersection(span)) {
                    runs.push(part, state);
                    reached = part.end();
                }
            });
            let rest = span.split_at(reached).1;
            runs.push(rest, if walk.is_ok() { PageState::Unreadable(Cause::BeyondFile) } else { unknown });
        }
    }
}

/// Where in the region this offset of its file lies: at its start or its end if it lies outside.
fn address_of(region: &Region, mapped: &FileBacking, offset: u64) -> Address {
    let from_start = offset.saturating_sub(mapped.offset);
    region.span.start().saturating_add(from_start).min(region.span.end())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use memfetch_testkit::Target as Program;

    use super::super::process::Process;
    use super::super::scan::method;
    use super::*;
    use crate::memory::PageRun;

    /// Pagemap words do not tell the shared page of zeros, and show guard pages as swapped before Linux 6.15.
    fn as_words_tell(runs: &PageRuns) -> PageRuns {
        let mut told = PageRuns::new();
        told.extend(runs.iter().map(|run| match run.state {
            PageState::Zero => PageRun { state: PageState::Resident, ..*run },
            _ => *run,
        }));
        told
    }

    #[test]
    fn scan_and_words_agree() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().to_str().unwrap();
        for (role, arguments) in [
            ("private", vec!["8"]),
            ("holes", vec![folder]),
            ("reserved", vec!["1"]),
            ("written-file", vec![folder]),
            ("many-mappings", vec!["3000"]),
            ("shared-untouched", vec!["64", "memfd"]),
        ] {
            let program = Program::spawn(role, &arguments);
            let process = Process::open(program.pid()).unwrap();
            let target = process.target();
            let regions = target.regions().unwrap();
            let states_by = |method| {
                target.scan_method.store(method, Ordering::Relaxed);
                target.page_states(&regions, Span::ALL).unwrap()
            };
            // It may still be on its way into the state that it is named for, such as its wait for orders.
            let (by_scan, without_guard, by_words) = (0..50)
                .find_map(|_| {
                    let by_scan = states_by(method::SCAN);
                    let others = (states_by(method::SCAN_WITHOUT_GUARD), states_by(method::WORDS));
                    (states_by(method::SCAN) == by_scan).then_some((by_scan, others.0, others.1))
                })
                .expect("the program comes to rest");
            let (scan, words) = (as_words_tell(&by_scan), by_words.as_slice());
            let differing = scan.iter().zip(words).find(|(scan, words)| scan != words);
            assert_eq!(differing, None, "{role}");
            assert_eq!(scan.len(), words.len(), "{role}");
            assert_eq!(without_guard.len(), by_scan.len(), "{role}");
            // Runs cover the regions, all of them and nothing else.
            let mapped: u64 = regions.iter().map(|region| region.span.len()).sum();
            assert_eq!(by_words.bytes_where(|_| true), mapped, "{role}");
        }
    }

    #[test]
    fn more_ranges_than_one_call_returns() {
        let program = Program::spawn("many-mappings", &["5000"]);
        let process = Process::open(program.pid()).unwrap();
        let start = Address::new(program.number("start"));
        let span = Span::from_len(start, 5000 * PAGE).unwrap();
        let mut found = Vec::new();
        scan::populated(process.target(), span, |span, _| found.push(span)).unwrap();
        assert_eq!(found.len(), 2500);
        assert!(found.is_sorted());
    }
}
