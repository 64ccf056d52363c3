//! [`pages_of`]: the memory in which a debugger finds the list of shared libraries.
//!
//! The auxiliary vector points at the program headers, these at the dynamic section, this at `r_debug`, and that at a
//! chain of `struct link_map` (link.h, ld.so's rtld-debugger interface). Most of it lies in memory that any snapshot
//! has; the links for libraries that were opened later lie on the heap, which a minimal one leaves out.

use crate::address::{Address, Span};
use crate::memory::{ByteOrder, Memory};

const AT_PHDR: u64 = 3;
const AT_PHNUM: u64 = 5;
const PT_DYNAMIC: u64 = 2;
const PT_PHDR: u64 = 6;
const DT_NULL: u64 = 0;
const DT_DEBUG: u64 = 21;
/// A chain that is longer has been overwritten, or goes in a circle.
const MOST_LIBRARIES: usize = 10_000;
/// `PATH_MAX` (limits.h): no name is longer.
const LONGEST_NAME: u64 = 4096;

/// The pages that hold the chain and its names, ascending and disjoint; as many as could be followed.
#[must_use]
pub fn pages_of(memory: &dyn Memory, auxv: &[u8]) -> Vec<Span> {
    let mut walk = Walk { memory, spans: Vec::new() };
    // A chain that breaks off is kept as far as it goes.
    let _ = walk.follow(auxv);
    walk.pages()
}

struct Walk<'a> {
    memory: &'a dyn Memory,
    spans: Vec<Span>,
}

impl Walk<'_> {
    fn follow(&mut self, auxv: &[u8]) -> Option<()> {
        let word = usize::from(self.memory.platform().word.bytes());
        let order = self.memory.platform().byte_order;
        let number = |bytes: &[u8]| number(order, bytes);
        // Entries of two words: those of the auxiliary vector, and of the dynamic section.
        let pairs = |bytes: &[u8]| -> Vec<(u64, u64)> {
            let split = |pair: &[u8]| (number(pair.split_at(word).0), number(pair.split_at(word).1));
            bytes.chunks_exact(2 * word).map(split).collect()
        };
        let vector = pairs(auxv);
        let entry = |kind| vector.iter().find(|(found, _)| *found == kind).map(|&(_, value)| value);
        let (headers, count) = (entry(AT_PHDR)?, entry(AT_PHNUM)?);
        // Where p_vaddr and p_memsz stand (elf(5)).
        let (header_len, address_at, size_at) = if word == 8 { (56, 16, 40) } else { (32, 8, 20) };
        let bytes = self.read(headers, count.min(64) * header_len)?;
        let header = |kind: u64| {
            let of_kind = |header: &&[u8]| header.get(..4).map(number) == Some(kind);
            let found = bytes.chunks_exact(header_len as usize).find(of_kind)?;
            let field = |at: usize| found.get(at..at + word).map(number);
            Some((field(address_at)?, field(size_at)?))
        };
        let dynamic = header(PT_DYNAMIC)?;
        // How far the program lies from where it was linked to.
        let bias = header(PT_PHDR).map_or(0, |(linked, _)| headers.wrapping_sub(linked));
        let section = self.read(bias.wrapping_add(dynamic.0), dynamic.1.min(1 << 16))?;
        let tags = pairs(&section);
        let tags = tags.iter().take_while(|(tag, _)| *tag != DT_NULL);
        let debug = tags.filter(|(tag, _)| *tag == DT_DEBUG).map(|&(_, value)| value).next()?;

        // r_version is an int, and r_map is aligned behind it.
        let debug = self.read(debug, 2 * word as u64)?;
        let mut link = number(debug.get(word..)?);
        for _ in 0..MOST_LIBRARIES {
            if link == 0 {
                break;
            }
            // l_addr, l_name, l_ld, l_next, l_prev
            let fields = self.read(link, 5 * word as u64)?;
            let field = |at: usize| fields.get(at * word..(at + 1) * word).map(number);
            let (name, next) = (field(1)?, field(3)?);
            self.read_text(name);
            link = next;
        }
        Some(())
    }

    /// Reads all of it, and notes that it is needed.
    fn read(&mut self, at: u64, len: u64) -> Option<Vec<u8>> {
        let span = Span::from_len(Address::new(at), len)?;
        let mut bytes = vec![0; usize::try_from(len).ok()?];
        let mut done = 0;
        while done < bytes.len() {
            let at = span.start().checked_add(done as u64)?;
            done += self.memory.read_at(at, bytes.get_mut(done..)?).ok().filter(|&n| n > 0)?;
        }
        self.spans.push(span);
        Some(bytes)
    }

    fn read_text(&mut self, at: u64) {
        let mut bytes = [0; 256];
        let mut end = at;
        while end.wrapping_sub(at) < LONGEST_NAME {
            let Ok(n) = self.memory.read_at(Address::new(end), &mut bytes) else { break };
            let used = bytes.iter().take(n).position(|&byte| byte == 0).map_or(n, |zero| zero + 1);
            end = end.saturating_add(used as u64);
            if n == 0 || used < n || bytes.get(used - 1) == Some(&0) {
                break;
            }
        }
        self.spans.extend(Span::new(Address::new(at), Address::new(end)));
    }

    fn pages(self) -> Vec<Span> {
        let page = self.memory.platform().page_size;
        let whole = |span: Span| Span::new(span.start().align_down(page), span.end().align_up(page));
        Span::union(self.spans.into_iter().filter_map(whole))
    }
}

fn number(order: ByteOrder, bytes: &[u8]) -> u64 {
    let add = |number: u64, &byte: &u8| number << 8 | u64::from(byte);
    match order {
        ByteOrder::Little => bytes.iter().rev().fold(0, add),
        ByteOrder::Big => bytes.iter().fold(0, add),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::Process;

    #[test]
    fn the_list_of_this_process_is_found() {
        let process = Process::current().unwrap();
        let auxv = std::fs::read("/proc/self/auxv").unwrap();
        let pages = pages_of(&process, &auxv);
        // At the least r_debug and the links of ld.so lie in other mappings than the program's own dynamic section.
        assert!(pages.len() >= 2, "{pages:?}");
        assert!(pages.windows(2).all(|pair| pair[0].end() < pair[1].start()));
        let map = process.regions().unwrap();
        assert!(pages.iter().all(|page| map.at(page.start()).is_some()));
    }

    #[test]
    fn nonsense_finds_nothing() {
        let process = Process::current().unwrap();
        assert!(pages_of(&process, &[]).is_empty());
        assert!(pages_of(&process, &[0xff; 333]).is_empty());
        let mut auxv = Vec::new();
        for (kind, value) in [(AT_PHDR, 0x10_u64), (AT_PHNUM, u64::MAX)] {
            auxv.extend(kind.to_le_bytes());
            auxv.extend(value.to_le_bytes());
        }
        assert!(pages_of(&process, &auxv).is_empty());
    }
}
