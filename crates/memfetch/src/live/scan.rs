//! Which pages are in the page table, and of what sort: by `PAGEMAP_SCAN`, or by pagemap words where that is
//! missing.

use std::io;
use std::sync::atomic::Ordering;

use memfetch_sys::pagemap::{self, PageRange, Scan, category, word};

use super::identity::libc_errno;
use super::target::Target;
use crate::address::{Address, Span};

pub const PAGE: u64 = 4096;

/// Above this there is no address that a page table of a process holds (57-bit addresses, the upper half is the
/// kernel's).
pub const LAST: Address = Address::new(1 << 56);

/// What the page table says of a page that is not absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Populated {
    /// The shared page of zeros. Pagemap words do not tell: they call it `Anonymous`.
    Zero,
    /// Present, and no file's.
    Anonymous,
    /// Present, and a page of a file or of a shared memory object.
    File,
    /// In swap.
    Swapped,
    /// A guard page. Kernels before 6.15 do not tell: they call it swapped.
    Guard,
}

/// How a target's page states are asked for: the value of [`Target::scan_method`].
pub mod method {
    /// `PAGEMAP_SCAN` with all categories.
    pub const SCAN: u8 = 0;
    /// `PAGEMAP_SCAN` of a kernel that does not know guard pages.
    pub const SCAN_WITHOUT_GUARD: u8 = 1;
    /// Pagemap words.
    pub const WORDS: u8 = 2;
}

/// One scan holds the target's mmap_lock for as long as it takes: so many pages at once (a millisecond or two), or
/// so much of an empty space.
const MAX_PAGES: u64 = 16 << 10;
const PIECE: u64 = 64 << 30;
/// The same where pages are not looked at, which takes a tenth of the time.
const QUICK_PIECE: u64 = 1 << 30;

/// Calls `each` for the populated pages of `span`, ascending and without overlap, in runs of one sort.
pub fn populated(target: &Target, span: Span, mut each: impl FnMut(Span, Populated)) -> io::Result<()> {
    let mut found = [PageRange::default(); 1024];
    walk(target, span, Look { writes: false, max_pages: MAX_PAGES }, &mut found, |span, sort, _| {
        each(span, sort);
    })
}

/// As [`populated`], of a process whose writes are tracked by userfaultfd: tells also of which pages it is certain that
/// they were not written since they were protected. Without `PAGEMAP_SCAN` it is of none.
pub fn populated_and_clean(
    target: &Target,
    span: Span,
    held: bool,
    found: &mut [PageRange],
    each: impl FnMut(Span, Populated, bool),
) -> io::Result<()> {
    // Nobody waits for the lock of a process that is held.
    let max_pages = if held { 0 } else { MAX_PAGES };
    walk(target, span, Look { writes: true, max_pages }, found, each)
}

/// The parts of `span` in which pages were written since they were protected, or are not there: all pages of the rest are,
/// as they were. `None` where that cannot be told, because something in it is not tracked.
///
/// Asked for nothing of the pages themselves the kernel goes by the page table alone, at a fraction of the time.
pub fn written_or_vacant(target: &Target, span: Span, found: &mut [PageRange]) -> Option<Vec<Span>> {
    // Mappings that are tracked are passed over as a whole.
    let untracked = Scan {
        start: span.start().get(),
        end: span.end().get(),
        max_pages: 1,
        inverted: category::WPALLOWED,
        all_of: category::WPALLOWED,
        report: category::WPALLOWED,
        ..Scan::default()
    };
    // A kernel that cannot tell has no such tracking.
    if pagemap::scan(target.pagemap(), &untracked, found).map_or(1, |(count, _)| count) > 0 {
        return None;
    }
    let written = Scan { all_of: category::WRITTEN, report: category::WRITTEN, ..Scan::default() };
    // Where there is no page table at all, nothing counts as written.
    let entries = category::PRESENT | category::SWAPPED;
    let vacant = Scan { inverted: entries, all_of: entries, report: entries, ..Scan::default() };
    let mut spans = Vec::new();
    for piece in span.pieces(QUICK_PIECE) {
        for what in [written, vacant] {
            let mut rest = piece;
            while !rest.is_empty() {
                let what = Scan { start: rest.start().get(), end: rest.end().get(), ..what };
                let (count, _) = pagemap::scan(target.pagemap(), &what, found).ok()?;
                for range in found.iter().take(count) {
                    let range = Span::new(Address::new(range.start), Address::new(range.end));
                    if let Some(range) = range.and_then(|range| range.intersection(rest)) {
                        spans.push(range);
                        rest = rest.split_at(range.end()).1;
                    }
                }
                if count < found.len() {
                    break;
                }
            }
        }
    }
    Some(Span::union(spans))
}

/// How pages are looked at.
#[derive(Clone, Copy)]
struct Look {
    /// Whether to ask which were written.
    writes: bool,
    /// As many at once; 0 for no limit.
    max_pages: u64,
}

fn walk(
    target: &Target,
    span: Span,
    look: Look,
    found: &mut [PageRange],
    mut each: impl FnMut(Span, Populated, bool),
) -> io::Result<()> {
    let span = span.split_at(LAST).0;
    for piece in span.pieces(PIECE) {
        match target.scan_method.load(Ordering::Relaxed) {
            method::WORDS => by_words(target, piece, &mut |span, sort| each(span, sort, false))?,
            _ => by_scan(target, piece, look, found, &mut each)?,
        }
    }
    Ok(())
}

fn by_scan(
    target: &Target,
    piece: Span,
    look: Look,
    found: &mut [PageRange],
    each: &mut impl FnMut(Span, Populated, bool),
) -> io::Result<()> {
    let writes = if look.writes { category::WPALLOWED | category::WRITTEN } else { 0 };
    let mut rest = piece;
    while !rest.is_empty() {
        let guard = match target.scan_method.load(Ordering::Relaxed) {
            method::SCAN => category::GUARD,
            _ => 0,
        };
        let what = Scan {
            start: rest.start().get(),
            end: rest.end().get(),
            any_of: category::PRESENT | category::SWAPPED,
            report: category::PRESENT
                | category::SWAPPED
                | category::FILE
                | category::PFNZERO
                | guard
                | writes,
            max_pages: look.max_pages,
            ..Scan::default()
        };
        let count = match pagemap::scan(target.pagemap(), &what, found) {
            Ok((count, _)) => count,
            Err(error) if error.raw_os_error() == Some(libc_errno::EINVAL) && guard != 0 => {
                target.scan_method.store(method::SCAN_WITHOUT_GUARD, Ordering::Relaxed);
                continue;
            }
            // A kernel before 6.7, or a filter that knows no such call.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc_errno::ENOTTY | libc_errno::EINVAL | libc_errno::ENOSYS | libc_errno::EPERM)
                ) =>
            {
                target.scan_method.store(method::WORDS, Ordering::Relaxed);
                return by_words(target, rest, &mut |span, sort| each(span, sort, false));
            }
            Err(error) => return Err(error),
        };
        let filled = found.get(..count).unwrap_or_default();
        for range in filled {
            let range_span = Span::new(Address::new(range.start), Address::new(range.end));
            // Ranges that the kernel reports twice are cut to what lies ahead.
            let Some(span) = range_span.and_then(|span| span.intersection(rest)) else { continue };
            rest = rest.split_at(span.end()).1;
            let is_clean = range.categories & writes == category::WPALLOWED;
            each(span, sort(range.categories), is_clean);
        }
        // Going by the end of the walk instead would report ranges twice: it is stale after 512 of them.
        let pages: u64 = filled.iter().map(|range| range.end.saturating_sub(range.start) / PAGE).sum();
        if count == 0 || count < found.len() && (look.max_pages == 0 || pages < look.max_pages) {
            break;
        }
    }
    Ok(())
}

fn sort(categories: u64) -> Populated {
    let has = |bit: u64| categories & bit != 0;
    if has(category::GUARD) {
        Populated::Guard
    } else if has(category::SWAPPED) {
        Populated::Swapped
    } else if has(category::PFNZERO) {
        Populated::Zero
    } else if has(category::FILE) {
        Populated::File
    } else {
        Populated::Anonymous
    }
}

/// What one pagemap word says, or nothing for an absent page.
pub const fn sort_word(bits: u64) -> Option<Populated> {
    if bits & word::GUARD != 0 {
        Some(Populated::Guard)
    } else if bits & word::SWAPPED != 0 {
        Some(Populated::Swapped)
    } else if bits & word::PRESENT == 0 {
        None
    } else if bits & word::FILE != 0 {
        Some(Populated::File)
    } else {
        Some(Populated::Anonymous)
    }
}

fn by_words(target: &Target, piece: Span, each: &mut impl FnMut(Span, Populated)) -> io::Result<()> {
    let mut words = vec![0_u64; 8192];
    let mut run: Option<(Span, Populated)> = None;
    for part in piece.pieces(words.len() as u64 * PAGE) {
        let pages = usize::try_from(part.len().div_ceil(PAGE)).unwrap_or(0).min(words.len());
        let Some(wanted) = words.get_mut(..pages) else { continue };
        let read = pagemap::read_words(target.pagemap(), part.start().get() / PAGE, wanted)?;
        let mut at = part.start().align_down(PAGE);
        for &bits in wanted.iter().take(read) {
            let page = Span::from_len(at, PAGE).and_then(|page| page.intersection(part));
            at = at.saturating_add(PAGE);
            let (Some(page), Some(kind)) = (page, sort_word(bits)) else { continue };
            match &mut run {
                Some((span, of)) if span.end() == page.start() && *of == kind => {
                    *span = Span::new(span.start(), page.end()).unwrap_or(*span);
                }
                _ => {
                    if let Some((span, of)) = run.replace((page, kind)) {
                        each(span, of);
                    }
                }
            }
        }
    }
    if let Some((span, of)) = run {
        each(span, of);
    }
    Ok(())
}

/// The parts of `span` that huge pages are mapped to as such, or `None` where that cannot be told.
pub fn huge(target: &Target, span: Span) -> Option<Vec<Span>> {
    if target.scan_method.load(Ordering::Relaxed) == method::WORDS {
        return None;
    }
    let what = Scan {
        start: span.start().get(),
        end: span.end().get(),
        all_of: category::HUGE,
        report: category::HUGE,
        ..Scan::default()
    };
    // More ranges than pages there cannot be, and callers ask for 2 MiB at most.
    let mut found = [PageRange::default(); 513];
    let (count, _) = pagemap::scan(target.pagemap(), &what, &mut found).ok()?;
    let spans = found.iter().take(count);
    Some(spans.filter_map(|range| Span::new(Address::new(range.start), Address::new(range.end))).collect())
}
