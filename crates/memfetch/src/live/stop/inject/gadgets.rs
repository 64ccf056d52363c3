//! [`Gadgets`]: instructions of the target's own code that a system call goes through.
//!
//! They are looked for in the vdso and in private executable mappings of files, as the target has them in memory (a
//! breakpoint may have been written there). Pages that it has not touched are looked at only where the others do not
//! suffice: reading them would enter them into its page table.

use std::fs::File;
use std::os::unix::fs::FileExt;

use memchr::memmem;

use super::super::tasks::Task;
use crate::address::Span;
use crate::region::{Backing, Region, RegionMap};

/// `syscall; ret`.
const CALL: &[u8] = &[0x0f, 0x05, 0xc3];
/// `mov $15, %rax; syscall` and `mov $15, %eax; syscall`: what C libraries give the kernel to return from handlers.
const RESTORERS: [&[u8]; 2] =
    [&[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05], &[0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05]];
/// How much is read at once.
const PIECE: u64 = 256 << 10;
/// The longest of the above, less a byte: what may reach into the next piece.
const OVERLAP: usize = 8;
const PAGE: u64 = 4096;

/// Addresses of instructions in the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gadgets {
    /// `syscall; ret`.
    pub call: u64,
    /// Calls rt_sigreturn(2).
    pub restorer: u64,
}

impl Gadgets {
    /// All addresses that a thread which goes through them may be at.
    pub fn addresses(self) -> impl Iterator<Item = u64> {
        let span = |start: u64, len: usize| (0..=len as u64).map(move |offset| start.wrapping_add(offset));
        span(self.call, CALL.len()).chain(span(self.restorer, OVERLAP + 1))
    }
}

/// Finds both; none where one of them is not there.
pub fn find(task: Task, map: &RegionMap, memory: &File) -> Option<Gadgets> {
    let pagemap = File::open(format!("/proc/{}/task/{}/pagemap", task.process, task.tid)).ok();
    let mut regions: Vec<&Region> = map.iter().filter(|region| is_code(region)).collect();
    // Where they are on every system that has them at all.
    regions.sort_by_key(|region| !is_likely(region));
    let mut search = Search::default();
    for untouched in [false, true] {
        for region in &regions {
            let mut pieces: Vec<Span> = region.span.pieces(PIECE).collect();
            if !untouched {
                let Some(pagemap) = &pagemap else { continue };
                pieces = pieces.into_iter().flat_map(|piece| present(pagemap, piece)).collect();
            }
            if let Some(gadgets) = search.through(memory, &pieces) {
                return Some(gadgets);
            }
        }
    }
    None
}

fn is_code(region: &Region) -> bool {
    region.permissions.execute
        && region.permissions.read
        && !region.permissions.shared
        && match &region.backing {
            Backing::File(_) => true,
            Backing::Kernel(name) => name == "vdso",
            Backing::Anonymous { .. } | Backing::Heap | Backing::Stack => false,
        }
}

fn is_likely(region: &Region) -> bool {
    let name = region.name();
    let name = name.as_encoded_bytes();
    let file = name.rsplit(|&byte| byte == b'/').next().unwrap_or(name);
    matches!(region.backing, Backing::Kernel(_)) || file.starts_with(b"libc.") || file.starts_with(b"ld-musl")
}

/// The parts of a piece that the target's page table has.
fn present(pagemap: &File, piece: Span) -> Vec<Span> {
    const PRESENT: u64 = 1 << 63;
    let pages = usize::try_from(piece.len() / PAGE).unwrap_or(0);
    let mut words = vec![0_u8; pages * 8];
    if pagemap.read_exact_at(&mut words, piece.start().get() / PAGE * 8).is_err() {
        return Vec::new();
    }
    let is_present = words
        .chunks_exact(8)
        .map(|word| word.try_into().is_ok_and(|word| u64::from_ne_bytes(word) & PRESENT != 0));
    let spans =
        piece.pieces(PAGE).zip(is_present).filter_map(|(page, is_present)| is_present.then_some(page));
    Span::union(spans)
}

#[derive(Debug, Default)]
struct Search {
    call: Option<u64>,
    restorer: Option<u64>,
}

impl Search {
    fn through(&mut self, memory: &File, pieces: &[Span]) -> Option<Gadgets> {
        let mut bytes = Vec::new();
        let mut end = None;
        for piece in pieces {
            // What the last piece ended with, if this one follows it.
            let kept = if end == Some(piece.start()) { bytes.len().min(OVERLAP) } else { 0 };
            bytes.drain(..bytes.len() - kept);
            bytes.resize(kept + usize::try_from(piece.len()).unwrap_or(0), 0);
            end = Some(piece.end());
            if memory.read_exact_at(bytes.get_mut(kept..)?, piece.start().get()).is_err() {
                end = None;
                bytes.clear();
                continue;
            }
            let start = piece.start().get() - kept as u64;
            let at = |found: usize| start + found as u64;
            self.call = self.call.or_else(|| memmem::find(&bytes, CALL).map(at));
            self.restorer = self
                .restorer
                .or_else(|| RESTORERS.iter().find_map(|restorer| memmem::find(&bytes, restorer)).map(at));
            if let Some(gadgets) = self.call.zip(self.restorer) {
                return Some(Gadgets { call: gadgets.0, restorer: gadgets.1 });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps;

    #[test]
    fn this_process_has_them() {
        let own = i32::try_from(std::process::id()).unwrap();
        let map = maps::parse(&std::fs::read("/proc/self/maps").unwrap()).unwrap();
        let memory = File::open("/proc/self/mem").unwrap();
        let gadgets = find(Task { process: own, tid: own }, &map, &memory).unwrap();
        let mut bytes = [0; 9];
        memory.read_exact_at(&mut bytes, gadgets.call).unwrap();
        assert!(bytes.starts_with(CALL));
        memory.read_exact_at(&mut bytes, gadgets.restorer).unwrap();
        assert!(RESTORERS.iter().any(|restorer| bytes.starts_with(restorer)));
    }

    #[test]
    fn one_that_lies_across_two_pieces_is_found() {
        use std::io::Write;
        let mut file = tempfile::tempfile().unwrap();
        let mut bytes = vec![0x90; 3 * 4096];
        bytes[4094..4097].copy_from_slice(CALL);
        bytes[8185..8194].copy_from_slice(RESTORERS[0]);
        file.write_all(&bytes).unwrap();
        let pieces: Vec<Span> = [0, 1, 2]
            .iter()
            .map(|page| Span::from_len(crate::address::Address::new(page * 4096), 4096).unwrap())
            .collect();
        let found = Search::default().through(&file, &pieces);
        assert_eq!(found, Some(Gadgets { call: 4094, restorer: 8185 }));
        assert_eq!(Search::default().through(&file, &[pieces[0], pieces[2]]), None);
    }
}
