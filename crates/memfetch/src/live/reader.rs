//! Reading bytes by the way that harms the target least.
//!
//! Two calls read another process' memory, and neither will do for all:
//!
//! - process_vm_readv(2) takes the mmap_lock once for many pages, but *pins* the pages, and the kernel un-shares
//!   an anonymous page before a pin: reading memory that forked processes share would double it, for good. It
//!   is for pages that are mapped once, and for pages of files and shared memory, which have nothing to un-share.
//! - `/proc/PID/mem` un-shares nothing and reads `PROT_NONE` pages too, but takes the mmap_lock for each page,
//!   which a target that maps and unmaps a lot feels. It is for the rest.
//!
//! Which pages are mapped once is bit 56 of their pagemap words; for huge pages the kernel tells it of the first
//! small page only, and a huge page whose other part a fork still shares would be split: so huge pages go by mem.
//! A fork in the moment between that look and the read un-shares at most one batch.
//!
//! A page with no page table entry is never read through the mapping: it is known to be zero, or it comes from
//! the object behind it.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use memfetch_sys::pagemap::{self, word};
use memfetch_sys::process;

use super::identity::libc_errno;
use super::scan::{self, LAST, PAGE};
use super::target::Target;
use super::vdso;
use crate::address::{Address, Span};
use crate::error::Error;
use crate::memory::{Cause, PageState, ReadError};
use crate::region::{Backing, Region, RegionMap};

/// Page states are looked at for so many bytes at once, on a grid of huge pages.
const BATCH: u64 = 2 << 20;

/// One call reads so much: less costs more calls, more falls out of the processor's cache.
const PIECE: usize = 256 << 10;

/// Up to this length one way is as good as the other for the target's locks, and mem takes fewer calls.
const SMALL: u64 = 4 * PAGE;

/// How a page is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    /// process_vm_readv, which goes by the number.
    Number,
    /// `/proc/PID/mem`.
    Descriptor,
    /// `/proc/PID/mem`, which brings the page into RAM; afterwards it is sent back to swap, so that the target's
    /// RSS never grows by more than a piece.
    Swapped,
    /// Not through the mapping: there is no page table entry.
    Vacant,
    /// Not at all.
    Guard,
}

impl Target {
    /// Reads bytes of a region whose state is known into a prefix of `buf`, on the calling thread.
    ///
    /// A page that was in the page table and no longer is, is read by what it is now; one that was known to be zero, or
    /// the file's, is taken as it was when its state was told.
    pub fn fetch(
        &self,
        region: &Region,
        state: PageState,
        at: Address,
        buf: &mut [u8],
    ) -> Result<usize, ReadError> {
        let Some(room) = region.span.end().offset_from(at).filter(|_| region.span.contains(at)) else {
            return Err(ReadError::fault(at, Cause::NotMapped));
        };
        let buf = prefix(buf, room);
        if buf.is_empty() {
            return Ok(0);
        }
        match state {
            PageState::Absent | PageState::Zero => {
                buf.fill(0);
                Ok(buf.len())
            }
            PageState::Guard | PageState::Unreadable(_) => {
                Err(ReadError::fault(at, state.refusal().unwrap_or(Cause::Guard)))
            }
            PageState::Backed | PageState::FileClean => self.behind_mapping(region, at, buf),
            PageState::Resident | PageState::FileResident | PageState::Swapped => {
                match self.mapped(Some(region), at, buf)? {
                    // Its page table entry has gone since. Only a map that is read *after* that was seen tells
                    // whether the page was given back, and is zero, or was unmapped, and is missing.
                    0 => match self.still(region, at)? {
                        Some(now) => self.vacant(&RegionMap::new(vec![now]), at, buf),
                        None => Err(ReadError::fault(at, Cause::Vanished)),
                    },
                    read => Ok(read),
                }
            }
        }
    }

    /// The region that holds `at` now, if it is still the one that was known by `region`.
    ///
    /// What a map once did not have any more is not looked for again: a large mapping that went would otherwise
    /// cost a reading of the map for each of its pages.
    fn still(&self, region: &Region, at: Address) -> Result<Option<Region>, ReadError> {
        let mut latest = self.latest_map.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |map: &RegionMap| map.at(at).filter(|now| is_same(now, region)).cloned();
        if latest.as_ref().is_some_and(|map| holds(map).is_none()) {
            return Ok(None);
        }
        let map = self.regions()?;
        let now = holds(&map);
        *latest = Some(map);
        Ok(now)
    }

    /// Forgets the map that [`Target::still`] keeps.
    pub fn forget_latest_map(&self) {
        *self.latest_map.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Reads bytes of a region through its mapping, whatever that takes: a page that is not in the page table is
    /// entered there, and a hole of a shared object is filled. Only for what was asked for in so many words, and
    /// can be had in no other way. On the calling thread.
    pub fn touch(&self, region: &Region, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        let Some(room) = region.span.end().offset_from(at).filter(|_| region.span.contains(at)) else {
            return Err(ReadError::fault(at, Cause::NotMapped));
        };
        let buf = prefix(buf, room);
        match self.mapped(Some(region), at, buf)? {
            // Pages that are there behind the first one are read by mem as well, which does them no harm; less at
            // once than that would be a look at the page table for each page that is not.
            0 if !buf.is_empty() => self.by_descriptor(Some(region), at, prefix(buf, PIECE as u64)),
            read => Ok(read),
        }
    }

    /// Reads pages of a process that is held, which were seen to be in its page table since: one call, and no look
    /// beforehand. `None` where that fails.
    pub fn read_held(&self, at: Address, buf: &mut [u8]) -> Option<usize> {
        rustix::io::pread(self.mem().ok()?, buf, at.get()).ok()
    }

    /// Reads whatever is asked for into a prefix of `buf`, on the calling thread.
    pub fn read(&self, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        let mut done = 0;
        let mut regions = None;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let here = at.saturating_add(done as u64);
            let read = match self.mapped(None, here, rest) {
                Ok(0) => self.map_once(&mut regions).and_then(|regions| self.vacant(regions, here, rest)),
                result => result,
            };
            match read {
                Ok(read) => done += read,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn map_once<'a>(&self, regions: &'a mut Option<RegionMap>) -> Result<&'a RegionMap, ReadError> {
        if regions.is_none() {
            *regions = Some(self.regions()?);
        }
        Ok(regions.get_or_insert_default())
    }

    /// Reads pages through the page table as far as they have entries there. `Ok(0)`: the first has none.
    fn mapped(&self, region: Option<&Region>, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let here = at.saturating_add(done as u64);
            let span = Span::from_len(here, rest.len() as u64).unwrap_or(Span::empty_at(here));
            let Some(batch) = span.pieces(BATCH).next().filter(|batch| batch.end() <= LAST) else {
                return or_prefix(done, self.fault(region, here, Cause::NotMapped));
            };
            let routes = match self.routes(batch) {
                Ok(routes) => routes,
                Err(error) => return or_prefix(done, error),
            };
            for (part, route) in routes {
                let Some(into) =
                    usize::try_from(part.len()).ok().and_then(|len| buf.get_mut(done..done + len))
                else {
                    return Ok(done);
                };
                match self.by_route(region, route, part.start(), into) {
                    Ok(read) if read as u64 == part.len() => done += read,
                    Ok(read) => return Ok(done + read),
                    Err(error) => return or_prefix(done, error),
                }
            }
        }
        Ok(done)
    }

    fn by_route(
        &self,
        region: Option<&Region>,
        route: Route,
        at: Address,
        buf: &mut [u8],
    ) -> Result<usize, ReadError> {
        let mut done = 0;
        while done < buf.len() {
            let here = at.saturating_add(done as u64);
            let end = buf.len().min(done + PIECE);
            let Some(piece) = buf.get_mut(done..end) else { break };
            let read = match route {
                Route::Vacant => return Ok(done),
                Route::Guard => Err(ReadError::fault(here, Cause::Guard)),
                Route::Number => match self.by_number(here, piece) {
                    Some(read) => read,
                    None => self.by_descriptor(region, here, piece),
                },
                Route::Descriptor => self.by_descriptor(region, here, piece),
                Route::Swapped => self.by_descriptor(region, here, piece).inspect(|&read| {
                    let start = here.align_down(PAGE);
                    let end = here.saturating_add(read as u64).align_up(PAGE);
                    self.put_back(Span::new(start, end).unwrap_or(Span::empty_at(start)));
                }),
            };
            match read {
                Ok(read) => done += read,
                Err(error) => return or_prefix(done, error),
            }
        }
        Ok(done)
    }

    /// Decides how each part of a batch is read.
    fn routes(&self, batch: Span) -> Result<Vec<(Span, Route)>, ReadError> {
        let whole = Span::new(batch.start().align_down(PAGE), batch.end().align_up(PAGE)).unwrap_or(batch);
        let pages = usize::try_from(whole.len() / PAGE).unwrap_or(0);
        let mut words = vec![0_u64; pages];
        let read = pagemap::read_words(self.pagemap(), whole.start().get() / PAGE, &mut words)
            .map_err(|error| self.error("read the map", error))?;
        if read == 0 {
            self.check()?;
        }
        let by_number = batch.len() > SMALL && !self.no_vm_readv.load(Ordering::Relaxed);
        let is_candidate =
            |bits: u64| by_number && bits & word::EXCLUSIVE != 0 && bits & (word::FILE | word::SWAPPED) == 0;
        let huge = if words.iter().any(|&bits| is_candidate(bits)) {
            // Where huge pages cannot be told, any may be one.
            scan::huge(self, whole).unwrap_or_else(|| vec![whole])
        } else {
            Vec::new()
        };
        let mut routes: Vec<(Span, Route)> = Vec::new();
        for (page, &bits) in whole.pieces(PAGE).zip(&words) {
            let Some(page) = page.intersection(batch) else { continue };
            let route = match scan::sort_word(bits) {
                None => Route::Vacant,
                Some(scan::Populated::Guard) => Route::Guard,
                Some(scan::Populated::Swapped) => Route::Swapped,
                Some(scan::Populated::File) if by_number => Route::Number,
                Some(_) if is_candidate(bits) && !huge.iter().any(|span| span.contains(page.start())) => {
                    Route::Number
                }
                Some(_) => Route::Descriptor,
            };
            match routes.last_mut() {
                Some((span, last)) if *last == route => {
                    *span = Span::new(span.start(), page.end()).unwrap_or(*span);
                }
                _ => routes.push((page, route)),
            }
        }
        Ok(routes)
    }

    /// Reads by process_vm_readv; `None` where the other way has to be tried.
    fn by_number(&self, at: Address, buf: &mut [u8]) -> Option<Result<usize, ReadError>> {
        match process::process_vm_readv(self.identity.pid(), buf, &[(at.get(), buf.len() as u64)]) {
            Ok(read) if read > 0 => {
                // The number means this process, with this address space, only if both still live now. (Another
                // thread that reads by the descriptor may hold the old address space up for that long after an
                // exec: then its own next read, or the next check, finds out.)
                Some(self.check().map(|()| read).map_err(ReadError::Source))
            }
            Ok(_) => None,
            Err(error) => {
                // Not this page's fault: missing, refused, or a first thread that has exited.
                if error.raw_os_error() != Some(libc_errno::EFAULT) {
                    self.no_vm_readv.store(true, Ordering::Relaxed);
                }
                None
            }
        }
    }

    /// Reads by `/proc/PID/mem`.
    fn by_descriptor(
        &self,
        region: Option<&Region>,
        at: Address,
        buf: &mut [u8],
    ) -> Result<usize, ReadError> {
        match rustix::io::pread(self.mem()?, &mut *buf, at.get()) {
            Ok(read) if read > 0 => Ok(read),
            // This is how it says that the address space is gone.
            Ok(_) => Err(ReadError::Source(self.lost())),
            Err(error) => {
                let cause = Cause::Os(error.raw_os_error());
                Err(self.fault(region, at, cause))
            }
        }
    }

    /// Reads where there is no page table entry: zeros that are known, or the object behind the mapping. One run
    /// of pages of one state.
    fn vacant(&self, regions: &RegionMap, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        let Some(region) = regions.at(at) else { return Err(ReadError::fault(at, Cause::NotMapped)) };
        let wanted = Span::from_len(at, buf.len() as u64).unwrap_or(Span::ALL).intersection(region.span);
        let Some(wanted) = wanted else { return Err(ReadError::fault(at, Cause::NotMapped)) };
        let run = self.page_states(regions, wanted)?.at(at);
        let Some(run) = run else { return Err(ReadError::fault(at, Cause::NotMapped)) };
        let buf = prefix(buf, run.span.end().offset_from(at).unwrap_or_default());
        match run.state {
            // It was entered into the page table just now.
            PageState::Resident | PageState::FileResident | PageState::Swapped => {
                self.by_descriptor(Some(region), at, prefix(buf, PIECE as u64))
            }
            PageState::FileClean => match self.behind_mapping(region, at, buf) {
                // A file that is deleted, say, and not to be had from here. The read was asked for in so many
                // words, and through the mapping it costs the target a clean page in RAM.
                Err(ReadError::Fault(fault)) if fault.cause == Cause::FileUnavailable => {
                    self.by_descriptor(Some(region), at, prefix(buf, PIECE as u64))
                }
                result => result,
            },
            state => self.fetch(region, state, at, buf),
        }
    }

    /// Reads from the object behind the mapping.
    fn behind_mapping(&self, region: &Region, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        let from_start = at.offset_from(region.span.start()).unwrap_or_default();
        if matches!(&region.backing, Backing::Kernel(name) if name == "vdso") {
            return match vdso::read(self.platform, region.span.len(), from_start, buf) {
                Some(read) => Ok(read),
                None => self.by_descriptor(Some(region), at, buf),
            };
        }
        let unavailable = ReadError::fault(at, Cause::FileUnavailable);
        let Some(mapped) = region.file() else { return Err(unavailable) };
        let Some(object) = self.files.of(&self.identity, region.span, mapped) else {
            return Err(unavailable);
        };
        let offset = mapped.offset.saturating_add(from_start);
        let size = object.size().unwrap_or_default();
        // Behind the end of the file the rest of its last page is zero (mmap(2)).
        let tail_end = size.next_multiple_of(PAGE);
        let buf = prefix(buf, tail_end.saturating_sub(offset));
        if buf.is_empty() {
            return Err(ReadError::fault(at, Cause::BeyondFile));
        }
        let stored = prefix(buf, size.saturating_sub(offset));
        let mut done = 0;
        while let Some(rest) = stored.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let piece = prefix(rest, PIECE as u64);
            match object.read_and_put_back(offset.saturating_add(done as u64), piece, &self.left_in_ram) {
                Ok(0) if done == 0 => return Err(ReadError::fault(at, Cause::BeyondFile)),
                Ok(0) => return Ok(done),
                Ok(read) => done += read,
                Err(_) if done > 0 => return Ok(done),
                Err(_) if !object.is_readable() => return Err(unavailable),
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(libc_errno::EIO);
                    return Err(ReadError::fault(at, Cause::Os(errno)));
                }
            }
        }
        if let Some(tail) = buf.get_mut(done..) {
            tail.fill(0);
        }
        Ok(buf.len())
    }

    /// Says why the byte at `at` cannot be read, by looking at the map again. `region` is where it was thought to
    /// lie.
    fn fault(&self, region: Option<&Region>, at: Address, found: Cause) -> ReadError {
        let regions = match self.regions() {
            Ok(regions) => regions,
            Err(error @ (Error::Ended { .. } | Error::Replaced { .. })) => return ReadError::Source(error),
            Err(_) => return ReadError::fault(at, found),
        };
        let gone = if region.is_some() { Cause::Vanished } else { Cause::NotMapped };
        let Some(now) = regions.at(at) else { return ReadError::fault(at, gone) };
        let page = Span::from_len(at.align_down(PAGE), 1).unwrap_or(Span::empty_at(at));
        let state = self.page_states(&regions, page).ok().and_then(|runs| runs.at(page.start()));
        let cause = match state.map(|run| run.state) {
            Some(PageState::Guard) => Cause::Guard,
            Some(PageState::Unreadable(cause)) => cause,
            // Kernels before 6.15 show guard pages as swapped ones, and nothing else in swap fails with EFAULT
            // or EIO but a broken disk. Others tell guard pages apart.
            Some(PageState::Swapped) if self.scan_method.load(Ordering::Relaxed) != scan::method::SCAN => {
                Cause::Guard
            }
            _ => match self.obstacle(now, at) {
                Some(cause) => cause,
                // proc_mem.force_override, Linux 6.12
                None if !now.permissions.read => Cause::NotPermitted,
                None => found,
            },
        };
        ReadError::fault(at, cause)
    }
}

/// Whether two regions are of one mapping: parts of it may have gone, and permissions may have changed.
fn is_same(now: &Region, before: &Region) -> bool {
    let place =
        |region: &Region| region.file().map(|file| file.offset.wrapping_sub(region.span.start().get()));
    let sort = |region: &Region| match &region.backing {
        Backing::File(file) => Some((file.device, file.inode, file.kind)),
        _ => None,
    };
    now.permissions.shared == before.permissions.shared
        && sort(now) == sort(before)
        && place(now) == place(before)
}

/// The first `len` bytes of `buf`, or all of it.
fn prefix(buf: &mut [u8], len: u64) -> &mut [u8] {
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(buf.len());
    buf.split_at_mut(len).0
}

/// What was read before an error, if anything was.
fn or_prefix(done: usize, error: ReadError) -> Result<usize, ReadError> {
    if done > 0 { Ok(done) } else { Err(error) }
}
