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

/// Calls `each` for the populated pages of `span`, ascending and without overlap, in runs of one sort.
pub fn populated(target: &Target, span: Span, mut each: impl FnMut(Span, Populated)) -> io::Result<()> {
    let span = span.split_at(LAST).0;
    for piece in span.pieces(PIECE) {
        match target.scan_method.load(Ordering::Relaxed) {
            method::WORDS => by_words(target, piece, &mut each)?,
            _ => by_scan(target, piece, &mut each)?,
        }
    }
    Ok(())
}

fn by_scan(target: &Target, piece: Span, each: &mut impl FnMut(Span, Populated)) -> io::Result<()> {
    let mut found = [PageRange::default(); 1024];
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
            report: category::PRESENT | category::SWAPPED | category::FILE | category::PFNZERO | guard,
            max_pages: MAX_PAGES,
            ..Scan::default()
        };
        let count = match pagemap::scan(target.pagemap(), &what, &mut found) {
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
                return by_words(target, rest, each);
            }
            Err(error) => return Err(error),
        };
        let filled = found.get(..count).unwrap_or_default();
        for range in filled {
            let range_span = Span::new(Address::new(range.start), Address::new(range.end));
            // Ranges that the kernel reports twice are cut to what lies ahead.
            let Some(span) = range_span.and_then(|span| span.intersection(rest)) else { continue };
            rest = rest.split_at(span.end()).1;
            each(span, sort(range.categories));
        }
        // Going by the end of the walk instead would report ranges twice: it is stale after 512 of them.
        let pages: u64 = filled.iter().map(|range| range.end.saturating_sub(range.start) / PAGE).sum();
        if count == 0 || count < found.len() && pages < MAX_PAGES {
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
