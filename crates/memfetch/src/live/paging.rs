//! Sending back to swap what a read brought into RAM.
//!
//! That is allowed with CAP_SYS_NICE only (process_madvise(2)); who lacks it has read the pages all the same, and the bytes
//! that stay in RAM are counted.
//!
//! A page that another processor has just brought in is on none of the kernel's lists yet, or is held by the read of
//! another thread, and cannot be sent back at that moment. It is tried again with the next ones, and once more when
//! somebody asks what was left.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use memfetch_sys::pagemap::{self, word};
use memfetch_sys::process::{self, MAX_RANGES};

use super::files::has_swap;
use super::scan::PAGE;
use super::target::Target;
use crate::address::Span;

impl Target {
    /// Sends whole pages that a read brought in back to swap, and those that stayed before.
    pub fn put_back(&self, span: Span) {
        // Without swap it was a page that the kernel was moving from one place in RAM to another.
        if has_swap() {
            self.page_out(Some(span));
        }
    }

    /// How many bytes reads brought in from swap and could not send back, after one more try.
    pub fn page_out_and_count(&self) -> u64 {
        // After exec the same addresses are of another program.
        if self.check().is_ok() {
            self.page_out(None);
        }
        self.brought_in()
    }

    /// The same without a further try, which may have to wait for the target's locks.
    pub fn brought_in(&self) -> u64 {
        let staying = self.staying.lock().unwrap_or_else(PoisonError::into_inner);
        self.left_in_ram.load(Ordering::Relaxed) + staying.iter().map(|span| span.len()).sum::<u64>()
    }

    fn page_out(&self, span: Option<Span>) {
        let staying = || self.staying.lock().unwrap_or_else(PoisonError::into_inner);
        let mut spans = std::mem::take(&mut *staying());
        spans.extend(span);
        if spans.is_empty() {
            return;
        }
        let mut still = Vec::new();
        for spans in spans.chunks(MAX_RANGES) {
            let ranges: Vec<_> = spans.iter().map(|span| (span.start().get(), span.len())).collect();
            let done = process::page_out(self.identity.pidfd(), &ranges);
            // The kernel counts what it looked at, be it that it left a page where it was.
            let left = spans.iter().flat_map(|span| self.in_ram(*span));
            if done.is_ok() {
                still.extend(left);
            } else {
                // Another time it is not allowed either.
                self.left_in_ram.fetch_add(left.map(Span::len).sum(), Ordering::Relaxed);
            }
        }
        // So many ranges are given in one call: what is more has to stay.
        let mut staying = staying();
        staying.append(&mut still);
        let kept = staying.len().min(MAX_RANGES);
        let more: u64 = staying.drain(kept..).map(Span::len).sum();
        self.left_in_ram.fetch_add(more, Ordering::Relaxed);
    }

    /// The parts of a span of whole pages that are in RAM.
    fn in_ram(&self, span: Span) -> Vec<Span> {
        let pages = usize::try_from(span.len() / PAGE).unwrap_or_default();
        let mut words = vec![0_u64; pages];
        let read = pagemap::read_words(self.pagemap(), span.start().get() / PAGE, &mut words).unwrap_or(0);
        let present = span.pieces(PAGE).zip(words.iter().take(read));
        Span::union(present.filter(|(_, bits)| **bits & word::PRESENT != 0).map(|(page, _)| page))
    }
}
