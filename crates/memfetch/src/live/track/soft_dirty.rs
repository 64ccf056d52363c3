//! [`SoftDirty`]: which pages were written, by the kernel's soft-dirty bits.
//!
//! Nothing is done inside the target, and nothing has to be undone: the bits of all pages are cleared by a write to
//! `/proc/PID/clear_refs`, a page that is written afterwards gets its bit back, and `pagemap` shows it. The bit is
//! one for the machine: who else clears it (CRIU, a garbage collector, another memfetch) makes writes of before
//! unseen, and cannot be noticed. It is a way for kernels that have no better one.
//!
//! Told as written, beside what was:
//! - all pages of a mapping that is new, moved or has grown since, also those that were never touched
//!   (`VM_SOFTDIRTY`), and before [`SoftDirty::arm`] those of every mapping;
//! - the whole of a huge page of which a byte was written.
//!
//! Not told, so that page states must be compared as well:
//! - pages that went without a store: MADV_DONTNEED, a hole punched into the file, or unmapped, mapped anew, and
//!   merged with a neighbour by mprotect (mm/vma.c takes either mapping's flag before Linux 6.19);
//! - what is written to the object behind a shared mapping other than through this mapping: write(2), another
//!   process, another mapping; device memory;
//! - **all of hugetlbfs**, which the clearing passes over: see [`SoftDirty::tracks`].
//!
//! Source: Documentation/admin-guide/mm/soft-dirty.rst, `clear_refs_write` in fs/proc/task_mmu.c. The clearing walks
//! the whole address space under `mmap_lock` taken for writing, and each page costs a fault at its next write.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use memfetch_sys::pagemap::{self, PageRange, Scan, category, word};
use rustix::fs::{Mode, OFlags};

use super::super::identity::libc_errno;
use super::super::process::Process;
use super::super::scan::{LAST, PAGE};
use super::super::target::Target;
use super::{Cost, Kind, Tracker};
use crate::address::{Address, Span};
use crate::error::Error;
use crate::memory::PageRuns;
use crate::region::{Backing, FileKind, Region, RegionMap};
use crate::source::Source;

/// One call holds the target's mmap_lock for reading: so many pages at once, or so much of an empty space.
const MAX_PAGES: u64 = 16 << 10;
const PIECE: u64 = 64 << 30;

/// The writes to an address space, by soft-dirty bits.
#[derive(Debug)]
struct SoftDirty<'a> {
    target: &'a Target,
    /// The kernel has no `PAGEMAP_SCAN`, or one that does not know the bit.
    by_words: AtomicBool,
}

impl<'a> SoftDirty<'a> {
    /// A tracker of this address space; `None` where the kernel does not keep the bit.
    fn new(target: &'a Target) -> Option<Self> {
        is_kept().then(|| Self { target, by_words: AtomicBool::new(false) })
    }

    /// Whether writes to this region are seen at all; if not, all of it counts as written.
    fn tracks(&self, region: &Region) -> bool {
        match &region.backing {
            Backing::Kernel(_) => false,
            Backing::File(file) if file.kind == FileKind::HugePages => false,
            // A file of hugetlbfs looks like any other in the map, and one that cannot be looked at may be one.
            Backing::File(file) => self
                .target
                .files
                .of(&self.target.identity, region.span, file)
                .is_some_and(|object| !object.is_of_huge_pages()),
            _ => true,
        }
    }

    /// Forgets all writes so far, those of the whole process.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] where `clear_refs` may not be written, [`Error::Ended`] and [`Error::Replaced`] where the
    /// address space has gone.
    fn arm(&self) -> Result<(), Error> {
        let identity = &self.target.identity;
        let clear = |tid| clear_refs(identity.directory(), &format!("task/{tid}/clear_refs"));
        // Under the process' own name it does nothing once the first thread has exited.
        let done = identity.live_tid().and_then(clear);
        done.map_err(|error| self.target.error("clear the soft-dirty bits", error))?;
        // The file goes by the process: after exec it was another space that was cleared.
        self.target.check()
    }

    /// Adds the pages of `span` that were written since they were last armed, ascending and without overlap.
    ///
    /// # Errors
    ///
    /// Where the page table cannot be read; then any page may have been written.
    fn written(&self, span: Span, out: &mut Vec<Span>) -> Result<(), Error> {
        let span = span.split_at(LAST).0;
        let outer = Span::new(span.start().align_down(PAGE), span.end().align_up(PAGE));
        let mut add = |found: Span| match out.last_mut() {
            Some(last) if last.end() == found.start() => {
                *last = Span::new(last.start(), found.end()).unwrap_or(*last);
            }
            _ => out.push(found),
        };
        for piece in outer.unwrap_or(span).pieces(PIECE) {
            let done = self.written_in(piece, &mut add);
            done.map_err(|error| self.target.error("read the soft-dirty bits", error))?;
        }
        // An empty answer may be that of a space that has gone.
        self.target.check()
    }

    fn written_in(&self, piece: Span, add: &mut impl FnMut(Span)) -> io::Result<()> {
        let mut rest = piece;
        let mut found = [PageRange::default(); 512];
        while !rest.is_empty() && !self.by_words.load(Ordering::Relaxed) {
            let what = Scan {
                start: rest.start().get(),
                end: rest.end().get(),
                all_of: category::SOFT_DIRTY,
                report: category::SOFT_DIRTY,
                max_pages: MAX_PAGES,
                ..Scan::default()
            };
            let count = match pagemap::scan(self.target.pagemap(), &what, &mut found) {
                Ok((count, _)) => count,
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(
                            libc_errno::ENOTTY | libc_errno::EINVAL | libc_errno::ENOSYS | libc_errno::EPERM
                        )
                    ) =>
                {
                    self.by_words.store(true, Ordering::Relaxed);
                    break;
                }
                Err(error) => return Err(error),
            };
            let filled = found.get(..count).unwrap_or_default();
            let mut pages = 0;
            for range in filled {
                pages += range.end.saturating_sub(range.start) / PAGE;
                let span = Span::new(Address::new(range.start), Address::new(range.end));
                let Some(span) = span.and_then(|span| span.intersection(rest)) else { continue };
                rest = rest.split_at(span.end()).1;
                add(span);
            }
            if count < found.len() && pages < MAX_PAGES {
                return Ok(());
            }
        }
        self.written_by_words(rest, add)
    }

    fn written_by_words(&self, piece: Span, add: &mut impl FnMut(Span)) -> io::Result<()> {
        let mut words = vec![0_u64; 8192];
        for part in piece.pieces(words.len() as u64 * PAGE) {
            let pages = usize::try_from(part.len() / PAGE).unwrap_or(0).min(words.len());
            let Some(wanted) = words.get_mut(..pages) else { continue };
            let read = pagemap::read_words(self.target.pagemap(), part.start().get() / PAGE, wanted)?;
            for (page, bits) in part.pieces(PAGE).zip(wanted.iter().take(read)) {
                // The words do not tell the page of zeros from others, which a page given back and read again is. It is
                // never mapped once.
                let may_be_zero = bits & word::PRESENT != 0 && bits & (word::FILE | word::EXCLUSIVE) == 0;
                if bits & word::SOFT_DIRTY != 0 || may_be_zero {
                    add(page);
                }
            }
        }
        Ok(())
    }
}

/// A tracker by soft-dirty bits.
#[derive(Debug)]
pub(crate) struct BySoftDirty {
    process: Process,
}

impl BySoftDirty {
    /// Of this process; `None` where the kernel does not keep the bits.
    pub(crate) fn new(process: &Process) -> Option<Self> {
        is_kept().then(|| Self { process: process.clone() })
    }

    /// Runs a call on the bits, within the time limit.
    fn run<T: Send + 'static>(
        &self,
        action: &'static str,
        call: impl FnOnce(&SoftDirty<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.process.run(action, move |target| match SoftDirty::new(target) {
            Some(bits) => call(&bits),
            None => Err(target.error(action, io::ErrorKind::Unsupported.into())),
        })?
    }
}

/// What was written in all that is tracked, ascending, and all of the rest.
fn written_in(bits: &SoftDirty<'_>, map: &RegionMap) -> Result<Vec<Span>, Error> {
    let mut written = Vec::new();
    for region in map {
        if bits.tracks(region) {
            bits.written(region.span, &mut written)?;
        } else {
            written.push(region.span);
        }
    }
    Ok(Span::union(written))
}

impl Tracker for BySoftDirty {
    fn kind(&self) -> Kind {
        Kind::SoftDirty
    }

    fn watch(&self, _: &RegionMap) -> Vec<Span> {
        Vec::new()
    }

    fn begin(&self, _: &PageRuns) -> Result<(), Error> {
        self.run("clear the soft-dirty bits", |bits| bits.arm())
    }

    fn needs_stop(&self) -> bool {
        true
    }

    fn written_and_rearm(&self, map: &RegionMap, _: &PageRuns) -> Result<Vec<Span>, Error> {
        let map = map.clone();
        self.run("read the soft-dirty bits", move |bits| {
            let written = written_in(bits, &map)?;
            bits.arm()?;
            Ok(written)
        })
    }

    fn look(&self, _: PageRuns, _: bool) -> Result<(RegionMap, PageRuns, Vec<Span>), Error> {
        let (map, pages) = self.process.regions_and_pages()?;
        let of = map.clone();
        let written = self.run("read the soft-dirty bits", move |bits| written_in(bits, &of))?;
        let mut clean = Vec::new();
        for region in &map {
            let mut rest = region.span;
            let first = written.partition_point(|span| span.end() <= rest.start());
            for span in written.iter().skip(first).map_while(|span| span.intersection(region.span)) {
                let (before, behind) = rest.split_at(span.start());
                clean.extend((!before.is_empty()).then_some(before));
                rest = behind.split_at(span.end()).1;
            }
            clean.extend((!rest.is_empty()).then_some(rest));
        }
        Ok((map, pages, clean))
    }

    fn leave(&self) -> Cost {
        Cost::default()
    }
}

fn clear_refs(directory: impl std::os::fd::AsFd, name: &str) -> io::Result<()> {
    let file = rustix::fs::openat(directory, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, b"4")?;
    Ok(())
}

/// Whether this kernel keeps the bit (CONFIG_MEM_SOFT_DIRTY, and a processor that has room for it), as tried with a
/// page of this process.
#[must_use]
pub fn is_kept() -> bool {
    static KEPT: OnceLock<bool> = OnceLock::new();
    *KEPT.get_or_init(|| probe().unwrap_or(false))
}

fn probe() -> io::Result<bool> {
    // A page in the middle, that nothing else is in.
    let mut memory = vec![0_u8; 3 * 4096];
    let page = (memory.as_ptr() as u64).next_multiple_of(PAGE);
    let offset = usize::try_from(page - memory.as_ptr() as u64).unwrap_or(0);
    let pagemap = rustix::fs::open("/proc/self/pagemap", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let is_set = || {
        let mut bits = [0];
        let read = pagemap::read_words(std::os::fd::AsFd::as_fd(&pagemap), page / PAGE, &mut bits)?;
        io::Result::Ok(read == 1 && bits[0] & word::SOFT_DIRTY != 0)
    };
    let mut write = |value| {
        if let Some(byte) = memory.get_mut(offset) {
            *byte = value;
        }
        std::hint::black_box(&mut memory);
    };
    write(1);
    let after_write = is_set()?;
    clear_refs(rustix::fs::CWD, "/proc/self/clear_refs")?;
    let after_clear = is_set()?;
    write(2);
    Ok(after_write && !after_clear && is_set()?)
}

#[cfg(test)]
mod tests {
    use memfetch_testkit::Target as Program;
    use memfetch_testkit::peers::skipped;

    use super::*;

    const SORTS: [&str; 4] = ["private", "file", "shared-file", "memory"];

    /// Whether the kernel keeps the bit, which is said where it does not.
    fn can(what: &str) -> bool {
        if !is_kept() {
            skipped(what, "the kernel keeps no soft-dirty bits");
        }
        is_kept()
    }

    struct Scene {
        program: Program,
        process: Process,
        _folder: tempfile::TempDir,
    }

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let program = Program::spawn("tracked", &[folder.path().to_str().unwrap()]);
            let process = Process::open(program.pid()).unwrap();
            Self { program, process, _folder: folder }
        }

        fn span(&self, sort: &str) -> Span {
            Span::from_len(Address::new(self.program.number(sort)), 64 * PAGE).unwrap()
        }

        fn page(&self, sort: &str, number: u64) -> Span {
            Span::from_len(self.span(sort).start().saturating_add(number * PAGE), PAGE).unwrap()
        }

        fn order(&mut self, order: &str, page: Span) {
            // Somewhere in the page.
            let at = page.start().get() + if order == "write" { 1000 } else { 0 };
            assert_eq!(self.program.ask(&format!("{order} {at:#x}")), "done");
        }
    }

    /// What the words tell, and what a scan does, where there is one.
    fn by_both(tracker: &SoftDirty<'_>, span: Span) -> [Vec<Span>; 2] {
        [true, false].map(|words| {
            let mut out = Vec::new();
            let before = tracker.by_words.swap(words, Ordering::Relaxed);
            tracker.written(span, &mut out).unwrap();
            tracker.by_words.store(before, Ordering::Relaxed);
            out
        })
    }

    fn written(tracker: &SoftDirty<'_>, span: Span) -> Vec<Span> {
        let [words, scan] = by_both(tracker, span);
        assert_eq!(words, scan);
        scan
    }

    #[test]
    fn each_page_that_is_written_and_no_other() {
        if !can("writes by soft-dirty bits") {
            return;
        }
        let mut scene = Scene::new();
        let process = scene.process.clone();
        let tracker = SoftDirty::new(process.target()).unwrap();
        for sort in SORTS {
            // Mapped since the process began, and never armed.
            assert_eq!(written(&tracker, scene.span(sort)), [scene.span(sort)], "{sort}");
        }
        for round in 0..3 {
            tracker.arm().unwrap();
            for sort in SORTS {
                assert_eq!(written(&tracker, scene.span(sort)), [], "{sort}");
            }
            // Filled before, at the edges and beside each other; never touched before, the last one too.
            let numbers = [0, 7 + round, 8 + round, 40, 63];
            for sort in SORTS {
                for number in numbers {
                    scene.order("write", scene.page(sort, number));
                }
            }
            for sort in SORTS {
                let expected = Span::union(numbers.map(|number| scene.page(sort, number)));
                assert_eq!(written(&tracker, scene.span(sort)), expected, "{sort}");
                // A span of some bytes is that of their pages.
                let byte = Span::from_len(scene.page(sort, 40).start().saturating_add(9), 1).unwrap();
                assert_eq!(written(&tracker, byte), [scene.page(sort, 40)], "{sort}");
            }
        }
    }

    #[test]
    fn a_new_mapping_is_written_where_it_was_never_touched() {
        if !can("new mappings by soft-dirty bits") {
            return;
        }
        let mut scene = Scene::new();
        let process = scene.process.clone();
        let tracker = SoftDirty::new(process.target()).unwrap();
        tracker.arm().unwrap();
        let answer = scene.program.ask("map");
        let start = u64::from_str_radix(answer.trim_start_matches("0x"), 16).unwrap();
        let new = Span::from_len(Address::new(start), 64 * PAGE).unwrap();
        assert_eq!(written(&tracker, new), [new]);
        tracker.arm().unwrap();
        assert_eq!(written(&tracker, new), []);
    }

    #[test]
    fn what_is_given_back_is_not_told() {
        if !can("discarded pages by soft-dirty bits") {
            return;
        }
        let mut scene = Scene::new();
        let process = scene.process.clone();
        let tracker = SoftDirty::new(process.target()).unwrap();
        tracker.arm().unwrap();
        let page = scene.page("private", 3);
        scene.order("write", page);
        assert_eq!(written(&tracker, page), [page]);
        scene.order("discard", page);
        // Its zeros are news, and only the page states tell.
        assert_eq!(written(&tracker, page), []);
        scene.order("write", page);
        assert_eq!(written(&tracker, page), [page]);
    }

    #[test]
    fn huge_pages_of_hugetlbfs_are_not_tracked() {
        if !can("hugetlbfs by soft-dirty bits") {
            return;
        }
        let pool = "/proc/sys/vm/nr_hugepages";
        if std::env::var_os("MEMFETCH_OWN_MACHINE").is_some() && rustix::process::geteuid().is_root() {
            std::fs::write(pool, "4").unwrap();
        }
        let mut scene = Scene::new();
        let process = scene.process.clone();
        let tracker = SoftDirty::new(process.target()).unwrap();
        let regions = process.target().regions().unwrap();
        for sort in ["private", "file"] {
            let region = regions.at(scene.span(sort).start()).unwrap();
            assert!(tracker.tracks(region), "{sort}");
        }
        if scene.program.number("huge") == 0 {
            skipped("hugetlbfs by soft-dirty bits", "there are no huge pages (vm.nr_hugepages)");
            return;
        }
        let page = scene.page("huge", 0);
        assert!(!tracker.tracks(regions.at(page.start()).unwrap()));
        // The words call all of it clean, and a scan all of it written. Once the kernel learns to tell, this may go.
        tracker.arm().unwrap();
        let before = by_both(&tracker, page);
        scene.order("write", page);
        assert_eq!(by_both(&tracker, page), before);
    }

    #[test]
    fn a_first_thread_that_has_exited_and_a_process_that_has() {
        if !can("a first thread that has exited, by soft-dirty bits") {
            return;
        }
        let program = Program::spawn("leader-exits", &[]);
        let process = Process::open(program.pid()).unwrap();
        let tracker = SoftDirty::new(process.target()).unwrap();
        let page = Span::from_len(Address::new(program.number("start")), PAGE).unwrap();
        assert_eq!(written(&tracker, page), [page]);
        tracker.arm().unwrap();
        assert_eq!(written(&tracker, page), []);
        drop(program);
        assert!(matches!(tracker.arm(), Err(Error::Ended { .. })));
        assert!(matches!(tracker.written(page, &mut Vec::new()), Err(Error::Ended { .. })));
    }
}
